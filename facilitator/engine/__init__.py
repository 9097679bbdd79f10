"""Verifying, settling, and the loop that takes every settlement to its end."""
