"""The promises, each checked against what the chain shows and what the sellers heard."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from tests.chaos.evidence import Evidence
from tests.chaos.payments import (
    BROKEN,
    CUT,
    FINAL,
    REFUSED,
    SUCCESS,
    USED,
    Heard,
    Payment,
)

# What a client that hung up has asked for may be taken on a little later.
AFTERMATH = 10.0  # seconds
LAWS = (
    "double",
    "lost",
    "false success",
    "false failure",
    "second success",
    "changed replay",
    "swallowed success",
    "broken reply",
    "journal",
    "nonce gap",
    "balance",
    "service",
)


class Violation(Struct, frozen=True):
    """A law of `LAWS` that was broken, by which payment, and how."""

    law: str
    what: str
    payment: Payment | None = None


def judge(payments: Sequence[Payment], evidence: Evidence, *, exact: bool) -> Iterator[Violation]:
    """Every violation. `exact`: no block that was deep enough has left the chain, so the very
    transaction that a success named is there.
    """
    for payment in payments:
        moved = evidence.moved.get(payment.order.number, [])
        for law, what in _told(payment, moved, exact=exact):
            yield Violation(law, what, payment)
        for law, what in _kept(payment, moved, evidence):
            yield Violation(law, what, payment)
    yield from _accounts(evidence)
    amounts = {payment.order.number: payment.order for payment in payments}
    for payer, spent in evidence.spent.items():
        orders = [amounts[number] for number in evidence.moved if amounts[number].payer == payer]
        paid = sum(order.amount for order in orders)
        if paid != spent:
            yield Violation("balance", f"payer {payer} paid {paid} and is {spent} poorer")


def _told(payment: Payment, moved: list[str], *, exact: bool) -> Iterator[tuple[str, str]]:
    """What the sellers heard, against the chain."""
    successes = payment.told(SUCCESS)
    for heard in successes:
        if not moved:
            yield "false success", f"{heard.transaction} moved nothing"
        elif exact and heard.transaction not in moved:
            yield "false success", f"{heard.transaction} is not {moved}"
    for heard in payment.told(REFUSED):
        if moved and not _asked_after(payment, heard):
            yield "false failure", f"told {heard.words!r}, and {moved} moved the money"
    for heard in payment.told(USED):
        if not moved:
            yield "lost", f"told {heard.words!r}, and nothing moved"
    first = [heard for heard in successes if not heard.replayed]
    if len(first) > 1:
        yield "second success", f"{len(first)} replies that are no replay say success"
    for key in {heard.key for heard in successes if heard.key is not None}:
        if len({heard.body for heard in successes if heard.key == key}) > 1:
            yield "changed replay", f"{key} had different successes"
    if payment.told(USED) and not successes and not payment.told(CUT):
        yield "swallowed success", "already used, and nobody was told of success or hung up"
    for heard in payment.told(BROKEN):
        yield "broken reply", heard.words


def _asked_after(payment: Payment, failure: Heard) -> bool:
    return any(
        heard.ended + (AFTERMATH if heard.meaning == CUT else 0) > failure.ended
        for heard in payment.heard
        if heard is not failure
    )


def _kept(payment: Payment, moved: list[str], evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What the journal and the sellers know in the end, against the chain."""
    row = evidence.rows.get(payment.order.number)
    if len(moved) > 1:
        yield "double", f"moved by {moved}"
    if not payment.final:
        last = payment.heard[-1]
        yield "lost", f"asked again and again, still {last.meaning} {last.words!r}"
    answers = [heard for heard in payment.heard if heard.meaning in FINAL]
    if moved and answers and all(heard.meaning == REFUSED for heard in answers):
        yield "lost", "the money moved, and all that was told is that it did not"
    if row is None:
        if moved:
            yield "journal", f"{moved} is of no settlement"
        return
    if row.state in ("pending", "reorged"):
        yield "lost", f"its settlement stays {row.state}"
    elif (row.state == "confirmed") is not bool(moved):
        yield "journal", f"{row.state}, and the chain shows {moved}"
    if payment.order.forged:
        yield "journal", "a forged payment was taken on"
    signed = {name for _, _, hashes in row.transactions for name in hashes}
    if not set(moved) <= signed:
        yield "journal", f"{moved} is none of its attempts"


def _accounts(evidence: Evidence) -> Iterator[Violation]:
    """Account nonces are dense, and each one's end is known."""
    for signer, nonces in evidence.nonces.items():
        count = evidence.counts[signer]
        if sorted(nonces) != list(range(count)):
            missing = sorted(set(range(count)) ^ set(nonces))
            yield Violation("nonce gap", f"{count} mined of {signer}, not alike: {missing}")
        pending = [nonce for nonce, state in nonces.items() if state not in ("mined", "final")]
        if pending:
            yield Violation("nonce gap", f"neither mined nor final at {signer}: {pending}")


def story(violation: Violation, evidence: Evidence, started: float) -> str:
    """The payment's whole story, a line each."""
    lines = [f"{violation.law}: {violation.what}"]
    payment = violation.payment
    if payment is None:
        return lines[0]
    order = payment.order
    lines.append(
        f"  payment {order.number}: {order.kind}, payer {order.payer}, {order.amount} units, "
        f"good for {order.lifetime} s{', forged' if order.forged else ''}"
    )
    for heard in sorted(payment.heard, key=lambda heard: heard.begun):
        key = "" if heard.key is None else f" under {heard.key}"
        replayed = " (replayed)" if heard.replayed else ""
        lines.append(
            f"  {heard.begun - started:7.2f} asked{key}; {heard.ended - started:7.2f} "
            f"{heard.meaning}{replayed} {heard.words} {heard.transaction}"
        )
    row = evidence.rows.get(order.number)
    if row is None:
        lines.append("  not in the journal")
    else:
        told = "told" if row.told else "not told"
        lines.append(f"  settlement {row.id}: {row.state} {row.refusal or ''}, success {told}")
        for state, account_nonce, hashes in row.transactions:
            lines.append(f"  account nonce {account_nonce}: {state}, {', '.join(hashes)}")
    lines.append(f"  the chain shows it in {evidence.moved.get(order.number, [])}")
    return "\n".join(lines)
