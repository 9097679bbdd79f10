"""Calls of contracts, and their ABI words, packed by hand where a request waits for them.

eth-abi encodes and decodes the same (and is the oracle of the tests); packing the eight arguments
of `settle` here costs a twentieth of it. Static arguments are 32-byte words; a `Dynamic` is
`bytes` or `string`.
"""

from dataclasses import dataclass

from msgspec import Struct

from facilitator.ethereum.keccak import keccak256

WORD = 32
MAX_UINT256 = 2**256 - 1


def selector(signature: str) -> bytes:
    """Return the first 4 bytes of keccak256 of a signature, as `transfer(address,uint256)`."""
    return keccak256(signature.encode())[:4]


def topic(signature: str) -> bytes:
    """Return the 32-byte first topic of an event, as `Transfer(address,address,uint256)`."""
    return keccak256(signature.encode())


def uint_word(value: int) -> bytes:
    """Return a uint256 as a word. Raises OverflowError outside 0..2^256-1."""
    return value.to_bytes(WORD)


def address_word(address: bytes) -> bytes:
    """Return a 20-byte address as a word."""
    return bytes(12) + address


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The content of one `bytes` or `string` argument."""

    content: bytes


def encode_arguments(*arguments: bytes | Dynamic) -> bytes:
    """Encode a function's arguments in order: words as they are, a Dynamic by offset and tail."""
    heads: list[bytes] = []
    tails: list[bytes] = []
    offset = WORD * len(arguments)
    for argument in arguments:
        if isinstance(argument, Dynamic):
            content = argument.content
            tail = uint_word(len(content)) + content + bytes(-len(content) % WORD)
            heads.append(uint_word(offset))
            tails.append(tail)
            offset += len(tail)
        else:
            heads.append(argument)
    return b"".join(heads) + b"".join(tails)


class Call(Struct, frozen=True):
    """A contract call: 20-byte target and calldata. With an empty target it creates a contract, and
    the calldata is creation code followed by the constructor's arguments.
    """

    target: bytes
    calldata: bytes

    @property
    def selector(self) -> bytes:
        """Return the four bytes that name the function."""
        return self.calldata[:4]


class CodeOf(Struct, frozen=True):
    """A read of the code at an address (eth_getCode), where a `Call` reads by eth_call."""

    address: bytes


Read = Call | CodeOf
