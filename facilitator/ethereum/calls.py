"""What a contract is asked to do, or an address for."""

from msgspec import Struct


class Call(Struct, frozen=True):
    """A contract call: 20-byte target and calldata. With an empty target it creates a contract, and
    the calldata is creation code followed by the constructor's arguments.
    """

    target: bytes
    calldata: bytes

    @property
    def selector(self) -> bytes:
        """The four bytes that name the function."""
        return self.calldata[:4]


class CodeOf(Struct, frozen=True):
    """The question for the code at an address, where a `Call` would ask a contract."""

    address: bytes


Read = Call | CodeOf
