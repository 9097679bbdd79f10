"""Laws of what is read from a node: what cannot be is no answer."""

from typing import Any

import pytest

from facilitator.chain.answers import (
    ChainUnavailable,
    NodeFault,
    classify,
    counter,
    parse_block,
    parse_receipt,
    quantity,
)
from facilitator.chain.rpc import RPCError

HASH = "0x" + "11" * 32
BLOCK: dict[str, Any] = {"number": "0x1", "hash": HASH, "parentHash": HASH, "timestamp": "0x2"}
LOG: dict[str, Any] = {
    "address": "0x" + "22" * 20,
    "topics": [HASH],
    "data": "0x",
    "logIndex": "0x0",
    "transactionHash": HASH,
    "blockNumber": "0x1",
    "blockHash": HASH,
}
RECEIPT: dict[str, Any] = {
    "transactionHash": HASH,
    "blockNumber": "0x1",
    "blockHash": HASH,
    "status": "0x1",
    "logs": [LOG],
    "gasUsed": "0x5208",
    "effectiveGasPrice": "0x1",
}
TOO_MANY = [hex(2**63), hex(2**64), hex(2**256 - 1)]


def test_amounts_have_256_bits_and_counters_63() -> None:
    """An account nonce, a block number or a log index goes into the journal, a balance does not."""
    assert quantity(hex(2**256 - 1)) == 2**256 - 1
    assert counter(hex(2**63 - 1)) == 2**63 - 1
    for value in TOO_MANY:
        with pytest.raises(ChainUnavailable, match="malformed answer"):
            counter(value)


@pytest.mark.parametrize("value", TOO_MANY)
@pytest.mark.parametrize("member", ["number", "timestamp"])
def test_no_block_has_a_number_that_nothing_counts_up_to(member: str, value: str) -> None:
    assert parse_block(BLOCK).number == 1
    with pytest.raises(ChainUnavailable):
        parse_block({**BLOCK, member: value})


@pytest.mark.parametrize("value", TOO_MANY)
def test_no_receipt_and_no_log_has_one_either(value: str) -> None:
    assert parse_receipt(RECEIPT).logs[0].index == 0
    changes: list[dict[str, Any]] = [
        {"blockNumber": value},
        {"logs": [{**LOG, "blockNumber": value}]},
        {"logs": [{**LOG, "logIndex": value}]},
    ]
    for changed in changes:
        with pytest.raises(ChainUnavailable):
            parse_receipt({**RECEIPT, **changed})


@pytest.mark.parametrize(
    "message",
    [
        "execution reverted",
        "execution reverted: rate limit exceeded, capacity, already known, nonce too low",
        "Execution reverted: insufficient funds for gas",
        "VM execution error: reverted 0x08c379a0",
        "VM Exception while processing transaction: revert too many requests",
        "reverted with custom error",
        "EVM error OutOfGas",
        "EVM error MemoryOOG",
        "EVM error InvalidFEOpcode",
        "EVM error OpcodeNotFound",
        "EVM error InvalidJump",
        "EVM error StackUnderflow",
        "EVM error OutOfOffset",
        "out of gas: gas required exceeds allowance: 1000000",
        "invalid opcode: INVALID",
        "stack limit reached 1024 (1023)",
        "return data out of bounds",
        "write protection",
    ],
)
def test_what_a_contract_does_is_no_fault_of_its_node(message: str) -> None:
    """Nor do the contract's own words make it one."""
    assert classify(RPCError(-32000, message)) is NodeFault.REVERTED


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("already known", NodeFault.ALREADY_KNOWN),
        ("nonce too low: next nonce 8, tx nonce 7", NodeFault.NONCE_TOO_LOW),
        ("replacement transaction underpriced", NodeFault.UNDERPRICED),
        ("insufficient funds for gas * price + value", NodeFault.INSUFFICIENT_FUNDS),
        ("intrinsic gas too low: gas 21000, minimum needed 25000", NodeFault.GAS_TOO_LOW),
        ("insufficient gas for floor data gas cost: gas 21000, ...", NodeFault.GAS_TOO_LOW),
        ("Intrinsic gas exceeds gas limit", NodeFault.GAS_TOO_LOW),
        ("call gas cost (25000) exceeds the gas limit (21000)", NodeFault.GAS_TOO_LOW),
        ("gas floor (25000) exceeds the gas limit (21000)", NodeFault.GAS_TOO_LOW),
        ("gas limit is too low", NodeFault.GAS_TOO_LOW),
        ("daily request rate limit reached", NodeFault.RATE_LIMITED),
        ("EVM error: database error: connection reset", NodeFault.UNKNOWN),
        ("header not found", NodeFault.UNAVAILABLE),
        ("request timed out", NodeFault.UNAVAILABLE),
        ("internal error", NodeFault.UNKNOWN),
    ],
)
def test_what_a_node_cannot_do_is_no_verdict(message: str, fault: NodeFault) -> None:
    assert classify(RPCError(-32000, message)) is fault
