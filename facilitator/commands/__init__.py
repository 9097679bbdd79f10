"""The command line: `facilitator` and its commands."""
