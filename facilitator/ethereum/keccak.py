"""Keccak-256, the hash of Ethereum (not NIST's SHA3-256: the padding differs)."""

from sha3 import keccak_256


def keccak256(data: bytes) -> bytes:
    """Return the 32-byte Keccak-256 digest of `data`."""
    digest: bytes = keccak_256(data).digest()
    return digest
