"""Parsers of JSON values that all dialects share; each returns None for anything else."""

import re

from facilitator.domain.strict_json import JSON
from facilitator.ethereum.abi import MAX_UINT256
from facilitator.ethereum.addresses import parse_address

_DECIMAL = re.compile(r"\A(0|[1-9][0-9]{0,77})\Z")
_ADDRESS = re.compile(r"\A0[xX][0-9a-fA-F]{40}\Z")
_HEX = re.compile(r"\A0x(?:[0-9a-fA-F]{2})*\Z")


def uint256(value: JSON) -> int | None:
    """Parse a decimal string below 2^256, without sign, spaces or leading zeros."""
    if not isinstance(value, str) or not _DECIMAL.match(value):
        return None
    number = int(value)
    return number if number <= MAX_UINT256 else None


def address(value: JSON) -> bytes | None:
    """Return the 20 bytes of an address; mixed case must be its checksum (EIP-55)."""
    try:
        return parse_address(value) if isinstance(value, str) else None
    except ValueError:
        return None


def address_in_any_case(value: JSON) -> bytes | None:
    """Return the 20 bytes of an address in any case. Use it for an address that is only compared
    with the signed one: there a wrong checksum does no harm.
    """
    if not isinstance(value, str) or not _ADDRESS.match(value):
        return None
    return bytes.fromhex(value[2:])


def hex_bytes(value: JSON, length: int | None = None) -> bytes | None:
    """Return the bytes of 0x hex, exactly `length` of them where that is given."""
    if not isinstance(value, str) or not _HEX.match(value):
        return None
    found = bytes.fromhex(value[2:])
    return found if length is None or len(found) == length else None
