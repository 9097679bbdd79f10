"""What can be asked of a contract or an address: calls, and reads of code."""

from msgspec import Struct


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
