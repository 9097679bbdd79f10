"""Payments, settlements and their rules. Pure: no await, clock, I/O or log."""
