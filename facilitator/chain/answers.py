"""JSON-RPC in words of ours: what reads ask, answers into bytes and integers, error texts into
kinds.

An answer that is not what its method gives counts as no answer, so garbage never makes anything
valid.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

from facilitator.chain.rpc import RPCError
from facilitator.domain.strict_json import JSON
from facilitator.ethereum.abi import Call, CodeOf, Read
from facilitator.ethereum.fees import FeeMarket, fee_market
from facilitator.ethereum.receipts import Block, Log, Receipt

_QUANTITY = re.compile(r"\A0x[0-9a-fA-F]{1,64}\Z")
_DATA = re.compile(r"\A0x(?:[0-9a-fA-F]{2})*\Z")
COUNTER_LIMIT = 2**63
# No read may use more: a payer's wallet or a token could otherwise burn a node's time in an endless
# loop. A wallet that checks a signature of another curve (passkeys) needs about 350 k.
READ_GAS = 1_000_000
S = TypeVar("S")
T = TypeVar("T")


class ChainUnavailable(Exception):
    """No node gave a usable answer; `retry_after` in seconds where one asked for a pause."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NodeFault(StrEnum):
    """The kinds of error that a node answers with."""

    ALREADY_KNOWN = "already_known"
    NONCE_TOO_LOW = "nonce_too_low"
    UNDERPRICED = "underpriced"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    GAS_TOO_LOW = "gas_too_low"
    REVERTED = "reverted"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


# geth, reth, erigon, nethermind, besu and anvil word the same thing differently. First match wins.
_FAULT_WORDS = (
    (
        NodeFault.ALREADY_KNOWN,
        ("already known", "already imported", "known transaction", "already_exists"),
    ),
    (NodeFault.NONCE_TOO_LOW, ("nonce too low", "nonce is too low", "oldnonce", "invalid nonce")),
    (
        NodeFault.UNDERPRICED,
        (
            "underpriced",
            "less than block base fee",
            "feetoolow",
            "fee too low",
            "max fee per gas less",
        ),
    ),
    (
        NodeFault.INSUFFICIENT_FUNDS,
        ("insufficient funds", "insufficient balance for", "upfront cost"),
    ),
    (
        NodeFault.GAS_TOO_LOW,  # to carry the transaction's own bytes
        (
            "intrinsic gas",
            "floor data gas",
            "gas floor",
            "call gas cost",
            "gas limit too low",
            "gas limit is too low",
        ),
    ),
    (NodeFault.RATE_LIMITED, ("rate limit", "too many requests", "limit exceeded", "capacity")),
    (
        NodeFault.REVERTED,
        (
            "revert",
            "out of gas",
            "outofgas",
            "oog",  # anvil and reth: MemoryOOG and others
            "insufficient gas",
            "gas required exceeds",
            "initcode",  # a question to a wallet that is longer than a creation may be
            "gas uint64 overflow",
            "opcode",
            "invalid operation",
            "invalid jump",
            "invalidjump",
            "bad jump",
            "stack underflow",
            "stackunderflow",
            "stack overflow",
            "stackoverflow",
            "stack limit",
            "data out of bounds",
            "outofoffset",
            "write protection",
            "max call depth",
            "vm execution error",  # nethermind
        ),
    ),
    (
        NodeFault.UNAVAILABLE,
        ("timeout", "timed out", "unavailable", "header not found", "missing trie node", "syncing"),
    ),
)
_REVERTED = re.compile(r"(vm )?execution (error: )?revert|(vm exception.*: )?revert")
_REVERTED_CODE = 3  # geth's code for a revert that carries data
_RATE_LIMIT_CODES = (-32005, 429)

# What these answer can be an error of the call itself; what any other method answers cannot.
_EXECUTING = ("eth_call", "eth_estimateGas")
_OF_THE_NODE = (NodeFault.RATE_LIMITED, NodeFault.UNAVAILABLE, NodeFault.UNKNOWN)

# A broadcast's faults, what was learned most first: a node that says why it will not take the bytes
# has looked at them, one that does not answer says nothing.
_TELLING = (
    *(NodeFault.NONCE_TOO_LOW, NodeFault.INSUFFICIENT_FUNDS, NodeFault.UNDERPRICED),
    *(
        NodeFault.GAS_TOO_LOW,
        NodeFault.REVERTED,
        NodeFault.UNKNOWN,
        NodeFault.RATE_LIMITED,
        NodeFault.UNAVAILABLE,
    ),
)


def classify(error: RPCError) -> NodeFault:
    """Return the kind of a node's error: the only function that reads its text."""
    if error.code == _REVERTED_CODE:
        return NodeFault.REVERTED
    if error.code in _RATE_LIMIT_CODES:
        return NodeFault.RATE_LIMITED
    message = error.message.lower()
    if _REVERTED.match(message):
        return NodeFault.REVERTED  # whatever the contract's own words are, which follow
    for fault, words in _FAULT_WORDS:
        if any(word in message for word in words):
            return fault
    return NodeFault.UNKNOWN


def send_fault(error: BaseException | None) -> NodeFault | None:
    """Return what one endpoint's answer to a broadcast means; None where it has the bytes now."""
    if error is None:
        return None
    fault = classify(error) if isinstance(error, RPCError) else NodeFault.UNAVAILABLE
    return None if fault is NodeFault.ALREADY_KNOWN else fault


def most_telling(faults: Sequence[NodeFault]) -> NodeFault:
    """Return the fault from which most is learned, of what several endpoints said of the same
    bytes.
    """
    return min(faults, key=_TELLING.index)


def may_differ_elsewhere(method: str, error: RPCError) -> bool:
    """Return whether another endpoint may answer a call that this one refused: not what the chain
    itself refuses to execute, nor what a node has against the bytes that it was sent.
    """
    fault = classify(error)
    if method == "eth_sendRawTransaction":
        return fault in (NodeFault.RATE_LIMITED, NodeFault.UNAVAILABLE)
    return method not in _EXECUTING or fault in _OF_THE_NODE


def revert_data(error: RPCError) -> bytes:
    """Return what a contract reverted with; empty where the node gave nothing that can be read."""
    text = error.data or ""
    return bytes.fromhex(text[2:]) if _DATA.match(text) else b""


def to_hex(data: bytes) -> str:
    """Return bytes as JSON-RPC writes them."""
    return "0x" + data.hex()


def quantity(value: JSON) -> int:
    """Return a number of at most 256 bits, from its 0x hex. This and every function below that
    reads an answer raises ChainUnavailable for what is none.
    """
    if not isinstance(value, str) or not _QUANTITY.match(value):
        raise ChainUnavailable("malformed answer: not a quantity")
    return int(value, 16)


def counter(value: JSON) -> int:
    """Return a number of blocks, transactions, logs or seconds, from its 0x hex: below 2^63, which
    no chain comes near, and which is what the journal's integers hold.
    """
    number = quantity(value)
    if number >= COUNTER_LIMIT:
        raise ChainUnavailable("malformed answer: a number that nothing counts up to")
    return number


def parse_data(value: JSON, length: int | None = None) -> bytes:
    """Return bytes from their 0x hex, exactly `length` of them where it is given."""
    if not isinstance(value, str) or not _DATA.match(value):
        raise ChainUnavailable("malformed answer: not hex data")
    data = bytes.fromhex(value[2:])
    if length is not None and len(data) != length:
        raise ChainUnavailable(f"malformed answer: not {length} bytes")
    return data


def items(value: JSON) -> list[JSON]:
    """Return a list's elements."""
    if not isinstance(value, list):
        raise ChainUnavailable("malformed answer: not a list")
    return value


def member(value: JSON, name: str) -> JSON:
    """Return one member of an object."""
    if not isinstance(value, dict) or name not in value:
        raise ChainUnavailable(f"malformed answer: no {name}")
    return value[name]


def parse_block(answer: JSON) -> Block:
    """Return a block's header, from eth_getBlockByNumber or eth_getBlockByHash."""
    return Block(
        number=counter(member(answer, "number")),
        hash=parse_data(member(answer, "hash"), 32),
        parent_hash=parse_data(member(answer, "parentHash"), 32),
        timestamp=counter(member(answer, "timestamp")),
    )


def parse_log(entry: JSON) -> Log:
    """Return a mined event, from a receipt or eth_getLogs."""
    return Log(
        address=parse_data(member(entry, "address"), 20),
        topics=tuple(parse_data(topic, 32) for topic in items(member(entry, "topics"))),
        data=parse_data(member(entry, "data")),
        index=counter(member(entry, "logIndex")),
        transaction_hash=parse_data(member(entry, "transactionHash"), 32),
        block_number=counter(member(entry, "blockNumber")),
        block_hash=parse_data(member(entry, "blockHash"), 32),
    )


def parse_market(answer: JSON) -> FeeMarket:
    """Return the fee market, from eth_feeHistory."""
    base_fees = items(member(answer, "baseFeePerGas"))
    rewards = answer.get("reward") if isinstance(answer, dict) else None
    if not base_fees:
        raise ChainUnavailable("eth_feeHistory: no base fee")
    return fee_market(
        [quantity(fee) for fee in base_fees],
        [[quantity(tip) for tip in items(row)] for row in items(rewards or [])],
    )


def parse_receipt(answer: JSON) -> Receipt:
    """Return a receipt, from eth_getTransactionReceipt."""
    gas_used = quantity(member(answer, "gasUsed"))
    # OP-stack chains charge for the bytes on L1 as well, beside gas.
    l1_fee = answer.get("l1Fee") if isinstance(answer, dict) else None
    price = quantity(member(answer, "effectiveGasPrice"))
    return Receipt(
        transaction_hash=parse_data(member(answer, "transactionHash"), 32),
        block_number=counter(member(answer, "blockNumber")),
        block_hash=parse_data(member(answer, "blockHash"), 32),
        succeeded=quantity(member(answer, "status")) == 1,
        logs=tuple(parse_log(entry) for entry in items(member(answer, "logs"))),
        gas_used=gas_used,
        gas_cost=gas_used * price + (0 if l1_fee is None else quantity(l1_fee)),
    )


def question(read: Read, tag: str) -> tuple[str, tuple[object, ...]]:
    """Return the method and parameters of a read as of a block's tag."""
    if isinstance(read, CodeOf):
        return "eth_getCode", (to_hex(read.address), tag)
    return "eth_call", (call_object(read, READ_GAS), tag)


def call_object(call: Call, gas: int, sender: bytes | None = None) -> dict[str, str]:
    """Return the call as eth_call and eth_estimateGas take it."""
    described = {"data": to_hex(call.calldata), "gas": hex(gas)}
    if call.target:  # none: the call creates a contract
        described["to"] = to_hex(call.target)
    if sender is not None:
        described["from"] = to_hex(sender)
    return described


async def ask_all(
    ask: Callable[[S], Awaitable[T]], subjects: Iterable[S], at_once: int | None = None
) -> list[T | ChainUnavailable]:
    """Return what `ask` returns for each subject, in their order, or the ChainUnavailable that it
    raised: one failure holds up no other. All are asked in the same turn of the event loop, so that
    their calls share a POST; or at most `at_once` at a time. Raises anything else that one of them
    raised, once all have ended.
    """
    asked = tuple(subjects)
    gate = asyncio.Semaphore(at_once or max(len(asked), 1))

    async def one(subject: S) -> T | ChainUnavailable:
        async with gate:
            try:
                return await ask(subject)
            except ChainUnavailable as fault:
                return fault

    answers = await asyncio.gather(*(one(each) for each in asked), return_exceptions=True)
    results: list[T | ChainUnavailable] = []
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ChainUnavailable):
            raise answer
        results.append(answer)
    return results
