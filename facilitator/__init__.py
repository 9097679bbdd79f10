"""An x402 payment facilitator.

It stands between a seller's API and a chain and answers two questions over HTTP: would this signed
payment settle (`/verify`), and has it settled (`/settle`). Run it with `python -m facilitator`.
"""

import os

# eth-account and eth-abi choose their keccak through eth-hash when they are first imported. Its
# default is five times slower than safe-pysha3, which `ethereum.keccak` uses.
os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")

__version__ = "0.1.0"
