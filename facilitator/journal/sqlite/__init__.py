"""SQLite: one process a file, one writer thread."""
