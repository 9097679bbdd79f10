"""What is logged whenever a settlement changes: one line in the log, one span in its trace.

The line belongs to the trace of the request that had the payment taken on, whichever process writes
it. It holds ids, addresses, amounts and hashes, which the chain shows to everybody, and nothing
that was signed.
"""

import logging

from facilitator.chain.answers import to_hex
from facilitator.domain.schemes import scheme_of
from facilitator.domain.settlement import Settlement, SettlementState
from facilitator.ethereum.addresses import checksum
from facilitator.journal.store import Claimed
from facilitator.telemetry.logs import event
from facilitator.telemetry.tracing import inside, record

_log = logging.getLogger(__name__)
_ALARMING = frozenset({SettlementState.REORGED, SettlementState.LOST})

Fields = dict[str, str | int]


def settlement_submitted(network: str, claimed: Claimed) -> None:
    """Log that a payment was claimed and its transaction signed."""
    transaction = claimed.transaction
    with inside(claimed.settlement.traceparent):
        event(
            _log,
            logging.INFO,
            "settlement_submitted",
            exc_info=None,
            **_described(network, claimed.settlement),
            transaction=transaction.attempts[-1].hash,
            kind=transaction.kind,
            signer=checksum(transaction.signer),
            account_nonce=transaction.account_nonce,
        )


def settlement_changed(network: str, settlement: Settlement) -> None:
    """Log that a settlement has another state now."""
    fields = {**_described(network, settlement), **_result(settlement)}
    with inside(settlement.traceparent):
        level = logging.CRITICAL if settlement.state in _ALARMING else logging.INFO
        name = f"settlement_{settlement.state}"
        event(_log, level, name, exc_info=None, **fields)
    # Since the payment was taken on, by the same clock.
    record("outcome", settlement.traceparent, settlement.created_at, **fields)


def paid_after_failure(network: str, settlement: Settlement) -> None:
    """Log that a payment which was reported as failed is CONFIRMED: a transaction that was signed
    before was mined after all.
    """
    fields = {**_described(network, settlement), **_result(settlement)}
    with inside(settlement.traceparent):
        event(_log, logging.CRITICAL, "paid_after_failure", exc_info=None, **fields)


def settled_again(network: str, settlement: Settlement, transaction_hash: bytes) -> None:
    """Log that a settlement has a further transaction."""
    fields = _described(network, settlement)
    fields["transaction"] = to_hex(transaction_hash)
    event(_log, logging.WARNING, "settled_again", exc_info=None, **fields)


def _described(network: str, settlement: Settlement) -> Fields:
    """Return the fields that every log line about a settlement has."""
    payment = settlement.payment
    return {
        "network": network,
        "settlement": settlement.id,
        "state": settlement.state,
        "dialect": settlement.dialect,
        "scheme": scheme_of(payment).name(payment),
        "payer": checksum(payment.payer),
        "pay_to": checksum(payment.pay_to),
        "asset": checksum(payment.asset),
        "amount": str(payment.amount),
    }


def _result(settlement: Settlement) -> Fields:
    fields: Fields = {"took_ms": settlement.updated_at - settlement.created_at}
    if settlement.proof is not None:
        fields["transaction"] = to_hex(settlement.proof.transaction_hash)
        fields["block_number"] = settlement.proof.block_number
    if settlement.refusal is not None:
        fields["reason"] = str(settlement.refusal.reason)
    return fields
