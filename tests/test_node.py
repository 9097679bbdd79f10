"""Laws of what is read from a node: what cannot be is no answer."""

from typing import Any

import pytest

from facilitator.node import ChainUnavailable, counter, parse_block, parse_receipt, quantity

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
