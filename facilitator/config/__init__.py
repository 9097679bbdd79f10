"""The configuration, from environment and file. The only room that interprets either."""
