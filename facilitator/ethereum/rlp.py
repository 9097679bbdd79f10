"""Recursive length prefix encoding (Ethereum yellow paper, appendix B): what transactions need."""


def encode_bytes(content: bytes) -> bytes:
    """Encode one string of bytes."""
    if len(content) == 1 and content[0] < 0x80:
        return content
    return _prefix(0x80, len(content)) + content


def encode_int(value: int) -> bytes:
    """Encode a non-negative integer, as its shortest big-endian bytes (zero: the empty string)."""
    return encode_bytes(value.to_bytes((value.bit_length() + 7) // 8))


def encode_list(*encoded: bytes) -> bytes:
    """Encode a list of items that are encoded already."""
    payload = b"".join(encoded)
    return _prefix(0xC0, len(payload)) + payload


def _prefix(base: int, length: int) -> bytes:
    if length < 56:
        return bytes((base + length,))
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((base + 55 + len(size),)) + size
