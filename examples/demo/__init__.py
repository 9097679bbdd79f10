"""What `make demo` shows: payments from start to end, on a chain of their own."""
