"""Addresses as text: parsed once at the edge, printed with their checksum (EIP-55)."""

import re
from functools import lru_cache

from facilitator.ethereum.keccak import keccak256

ZERO_ADDRESS = bytes(20)
_ADDRESS = re.compile(r"\A0x[0-9a-fA-F]{40}\Z")


@lru_cache(maxsize=4096)
def checksum(address: bytes) -> str:
    """Return the EIP-55 spelling of a 20-byte address."""
    digits = address.hex()
    digest = keccak256(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(nibble, 16) >= 8 else digit
        for digit, nibble in zip(digits, digest, strict=False)
    )


@lru_cache(maxsize=4096)
def parse_address(text: str) -> bytes:
    """Return the 20 bytes of `text`.

    EIP-55: hex of one case carries no checksum and passes; mixed case must be the right checksum.
    Raises ValueError for anything else, the prefix "0X" included.
    """
    if not _ADDRESS.match(text):
        raise ValueError("not an address")
    digits = text[2:]
    address = bytes.fromhex(digits)
    if digits in (digits.lower(), digits.upper()) or text == checksum(address):
        return address
    raise ValueError("bad address checksum")
