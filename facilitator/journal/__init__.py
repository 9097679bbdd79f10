"""The journal: what was claimed, signed, sent and replied. The only room with SQL."""
