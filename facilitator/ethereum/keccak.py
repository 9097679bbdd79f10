"""Keccak-256, the hash of Ethereum (not NIST's SHA3-256: the padding differs)."""

import os

# eth-account and eth-abi pick their own keccak through eth-hash, which defaults to a backend that
# is five times slower than the one imported below.
os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")

from sha3 import keccak_256


def keccak256(data: bytes) -> bytes:
    """The 32-byte Keccak-256 digest of `data`."""
    digest: bytes = keccak_256(data).digest()
    return digest
