"""Blocks, receipts and logs as the chain shows them, in bytes and integers."""

from msgspec import Struct


class Block(Struct, frozen=True):
    """A block's header, as far as it matters here; `timestamp` in unix seconds."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int


class Log(Struct, frozen=True):
    """One event; `index` is its position in the block, unique there."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    index: int
    transaction_hash: bytes
    block_number: int
    block_hash: bytes


class LogFilter(Struct, frozen=True):
    """Which events of a contract are meant; a topic that is None matches any."""

    address: bytes
    topics: tuple[bytes | None, ...]


class Receipt(Struct, frozen=True):
    """A mined transaction. `succeeded` says that it did not revert, not that it paid anybody.

    `gas_cost` is what the sender paid for it in wei, an OP-stack chain's L1 data fee included.
    """

    transaction_hash: bytes
    block_number: int
    block_hash: bytes
    succeeded: bool
    logs: tuple[Log, ...]
    gas_used: int
    gas_cost: int
