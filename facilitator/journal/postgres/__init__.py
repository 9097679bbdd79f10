"""PostgreSQL: many processes share one journal."""
