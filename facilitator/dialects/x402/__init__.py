"""The standard x402 dialect, versions 1 and 2: its requests and its replies."""
