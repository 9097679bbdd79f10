"""An x402 payment facilitator.

It stands between a seller's API and a chain and answers two questions over HTTP: would this signed
payment settle (`/verify`), and has it settled (`/settle`). Run it with `python -m facilitator`.
"""

__version__ = "0.1.0"
