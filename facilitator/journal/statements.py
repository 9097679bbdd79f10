"""What the journal's operations are in SQL: functions of a connection, inside a transaction.

Text that is pasted into a statement is a constant of this module; every value is bound.
"""

import sqlite3
import uuid
from collections.abc import Callable, Sequence

from facilitator.domain.settlement import (
    Settlement,
    SettlementState,
    Transaction,
)
from facilitator.journal.queries import OPEN, find, get
from facilitator.journal.rows import (
    payment_text,
    proof_columns,
    read_settlement,
    refusal_text,
)
from facilitator.journal.signed import over_budget, sign
from facilitator.journal.store import (
    BudgetSpent,
    Claimed,
    IdempotencyKeyTaken,
    NewSettlement,
    NewTransaction,
    Overcommitted,
    SettlementChange,
    Taken,
    TransactionChange,
)

ClaimedOrNot = Claimed | Taken | IdempotencyKeyTaken | Overcommitted


def claim_group(
    group: Sequence[NewSettlement],
    transaction: Callable[[tuple[int, ...]], NewTransaction],
    now: int,
    db: sqlite3.Connection,
) -> tuple[ClaimedOrNot, ...] | BudgetSpent:
    db.execute("SAVEPOINT members")
    told = [_take_on(new, now, db) for new in group]
    claimed = tuple(n for n, each in enumerate(told) if isinstance(each, Settlement))
    new_transaction = transaction(claimed) if claimed else None
    spent = None if new_transaction is None else over_budget(new_transaction, now, db)
    if spent is not None:
        db.execute("ROLLBACK TO members")
    db.execute("RELEASE members")
    if spent is not None:
        return spent
    signed = None if new_transaction is None else sign(new_transaction, now, db)
    answers: list[ClaimedOrNot] = []
    for number, each in enumerate(told):
        if isinstance(each, Settlement):
            assert signed is not None
            _join(each.id, signed, claimed.index(number), db)
            answers.append(Claimed(each, signed))
        else:
            answers.append(each)
    return tuple(answers)


def _take_on(
    new: NewSettlement, now: int, db: sqlite3.Connection
) -> Settlement | Taken | IdempotencyKeyTaken | Overcommitted:
    keys = tuple(key for key in (new.key, new.second_key) if key is not None)
    found = find(keys, db)
    if found is not None and not new.reopens(found):
        return Taken(found)
    if new.idempotency_key is not None:
        row = db.execute(
            "SELECT * FROM settlement WHERE tenant = ? AND idempotency_key = ?",
            (new.tenant, new.idempotency_key),
        ).fetchone()
        if row is not None and (found is None or row["id"] != found.id):
            return IdempotencyKeyTaken(read_settlement(row))
    left = new.available - _committed(new, db)
    if left < new.payment.amount:
        return Overcommitted(left)
    return _insert(new, now, db) if found is None else _reopen(found, new, now, db)


def _committed(new: NewSettlement, db: sqlite3.Connection) -> int:
    """What other payments of the same payer and asset will still take from `available`."""
    payment = new.payment
    total, seen = 0, set()
    for settlement_id, amount in db.execute(
        f"""SELECT id, amount FROM settlement
            WHERE chain_id = ? AND asset = ? AND payer = ? AND state IN {OPEN}""",
        (payment.chain_id, payment.asset, payment.payer),
    ):
        seen.add(settlement_id)
        total += new.outstanding.get(settlement_id, int(amount))
    for settlement_id, amount in new.outstanding.items():
        # One that was confirmed since the chain was asked has taken its money all the same.
        if amount and settlement_id not in seen:
            settlement = get(db, settlement_id)
            total += amount if settlement.state is SettlementState.CONFIRMED else 0
    return total


def _insert(new: NewSettlement, now: int, db: sqlite3.Connection) -> Settlement:
    payment = new.payment
    settlement = Settlement(
        id=uuid.uuid4().hex,
        key=new.key,
        idempotency_key=new.idempotency_key,
        request_digest=new.request_digest,
        dialect=new.dialect,
        payment=payment,
        state=SettlementState.PENDING,
        version=1,
        waiter=new.waiter,
        waiter_until=new.waiter_until,
        replied_success_at=None,
        proof=None,
        refusal=None,
        created_at=now,
        updated_at=now,
        traceparent=new.traceparent,
    )
    db.execute(
        """INSERT INTO settlement (id, key, second_key, tenant, idempotency_key, body_digest,
               request_digest, dialect, chain_id, asset, payer, amount, payment, state, version,
               listener, listener_until, traceparent, created_at, updated_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', 1, ?, ?, ?, ?, ?)""",
        (
            settlement.id,
            new.key,
            new.second_key,
            new.tenant,
            new.idempotency_key,
            new.body_digest,
            new.request_digest,
            new.dialect,
            payment.chain_id,
            payment.asset,
            payment.payer,
            str(payment.amount),
            payment_text(payment),
            new.waiter,
            new.waiter_until,
            new.traceparent,
            now,
            now,
        ),
    )
    return settlement


def _reopen(found: Settlement, new: NewSettlement, now: int, db: sqlite3.Connection) -> Settlement:
    # The signature may be spelt anew, and is what the next transaction carries; the failure that
    # was told is none any more. A key that came before goes on meaning this payment, unless there
    # is another one.
    db.execute(
        """UPDATE settlement SET state = 'pending', version = version + 1, refusal = NULL,
               reply = NULL, idempotency_key = coalesce(:key, idempotency_key),
               body_digest = CASE WHEN :key IS NULL THEN body_digest ELSE :body END,
               payment = :payment, listener = :listener, listener_until = :until,
               traceparent = :trace, updated_at = :now
           WHERE id = :id""",
        {
            "key": new.idempotency_key,
            "body": new.body_digest,
            "payment": payment_text(new.payment),
            "listener": new.waiter,
            "until": new.waiter_until,
            "trace": new.traceparent,
            "now": now,
            "id": found.id,
        },
    )
    return get(db, found.id)


def let_go(settlement_id: str, listener: str, db: sqlite3.Connection) -> None:
    db.execute(
        "UPDATE settlement SET listener = NULL WHERE id = ? AND listener = ?",
        (settlement_id, listener),
    )


def mark_all_replied(now: int, db: sqlite3.Connection) -> int:
    return db.execute(
        """UPDATE settlement SET replied_success_at = ?
           WHERE replied_success_at IS NULL AND state NOT IN ('failed', 'lost')""",
        (now,),
    ).rowcount


def keep_reply(settlement_id: str, reply: bytes, db: sqlite3.Connection) -> None:
    db.execute(
        "UPDATE settlement SET reply = ? WHERE id = ? AND state IN ('failed', 'lost')",
        (reply, settlement_id),
    )


def settle_again(
    settlement_id: str,
    version: int,
    transaction: NewTransaction,
    now: int,
    db: sqlite3.Connection,
) -> Transaction | BudgetSpent | None:
    spent = over_budget(transaction, now, db)
    if spent is not None:
        return spent
    changed = db.execute(
        f"""UPDATE settlement SET version = version + 1, updated_at = ?
            WHERE id = ? AND version = ? AND state IN {OPEN}""",
        (now, settlement_id, version),
    ).rowcount
    if not changed:
        return None
    signed = sign(transaction, now, db)
    _join(settlement_id, signed, 0, db)
    return signed


def _join(
    settlement_id: str, transaction: Transaction, position: int, db: sqlite3.Connection
) -> None:
    db.execute(
        """INSERT INTO settlement_transaction (settlement_id, transaction_id, position)
           VALUES (?, ?, ?)""",
        (settlement_id, transaction.id, position),
    )


def record(
    ended: Sequence[TransactionChange],
    settlements: Sequence[SettlementChange],
    now: int,
    db: sqlite3.Connection,
) -> tuple[Settlement, ...]:
    for each in ended:
        db.execute(
            """UPDATE "transaction" SET state = ?, block_number = ?, gas_cost = ? WHERE id = ?""",
            (
                each.state,
                each.block_number,
                None if each.gas_cost is None else str(each.gas_cost),
                each.id,
            ),
        )
    changed = []
    for change in settlements:
        # OR IGNORE leaves out a proof that is another settlement's already.
        done = db.execute(
            """UPDATE OR IGNORE settlement SET state = ?, version = version + 1, refusal = ?,
                   proof_transaction = ?, proof_log_index = ?, proof_block_number = ?,
                   proof_reference = ?, proof_fee = ?, updated_at = ?
               WHERE id = ? AND version = ?""",
            (
                change.state,
                refusal_text(change.refusal),
                *proof_columns(change.proof),
                now,
                change.id,
                change.version,
            ),
        ).rowcount
        if done:
            changed.append(get(db, change.id))
    return tuple(changed)
