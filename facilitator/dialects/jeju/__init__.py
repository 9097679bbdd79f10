"""The Jeju dialect: its requests and its replies."""
