"""Taking payments on and changing what is known of them, in PostgreSQL.

Functions of a connection, inside a transaction that writes. Locks in the order of
`postgres_signed`; before all of them, a claim takes advisory ones for what it is about.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

from facilitator.domain.payment import Proof
from facilitator.domain.settlement import Settlement, SettlementState, Transaction
from facilitator.journal.postgres.notify import notify
from facilitator.journal.postgres.pool import Connection, Undo
from facilitator.journal.postgres.queries import find_transaction, get, get_record
from facilitator.journal.postgres.signed import sign
from facilitator.journal.queries import OPEN
from facilitator.journal.rows import (
    SETTLEMENT,
    payment_text,
    proof_columns,
    read_settlement,
    refusal_text,
)
from facilitator.journal.store import (
    BudgetSpent,
    Claimed,
    IdempotencyKeyTaken,
    NewSettlement,
    NewTransaction,
    Overcommitted,
    SettlementChange,
    StoreError,
    Taken,
    TransactionChange,
)

ClaimedOrNot = Claimed | Taken | IdempotencyKeyTaken | Overcommitted


async def claim_group(
    group: Sequence[NewSettlement],
    transaction: Callable[[tuple[int, ...]], NewTransaction],
    now: int,
    db: Connection,
) -> tuple[ClaimedOrNot, ...] | BudgetSpent:
    """Under the locks that `locks_of` names."""
    told = [await _take_on(new, now, db) for new in group]
    taken_on = {n: each for n, each in enumerate(told) if isinstance(each, Settlement)}
    if not taken_on:
        raise Undo(tuple(told))
    carried = [settlement.id for settlement in taken_on.values()]
    signed = await sign(transaction(tuple(taken_on)), now, db, carried)
    return tuple(Claimed(each, signed) if isinstance(each, Settlement) else each for each in told)


async def group_claimed(
    group: Sequence[NewSettlement], signed_hash: bytes, db: Connection
) -> tuple[ClaimedOrNot, ...] | None:
    """What `claim_group` has answered, if these are the bytes that it had signed."""
    found = await find_transaction(signed_hash, db)
    if found is None:
        return None
    answers: list[ClaimedOrNot] = []
    for new in group:
        settlement, other = await _look(new, db)
        riding = None if settlement is None else await get_record(settlement.id, db)
        carriers = () if riding is None else riding.transactions
        ours = [each for each in carriers if each.attempts[0].hash == signed_hash]
        if settlement is not None and ours:
            answers.append(Claimed(settlement, ours[0]))
        elif settlement is not None and (other is None or not new.reopens(settlement)):
            answers.append(Taken(settlement))
        elif other is not None:
            answers.append(IdempotencyKeyTaken(other))
        else:
            answers.append(Overcommitted(new.available - await _committed(new, db)))
    return tuple(answers)


async def _take_on(
    new: NewSettlement, now: int, db: Connection
) -> Settlement | Taken | IdempotencyKeyTaken | Overcommitted:
    found, other = await _look(new, db)
    if found is not None and not new.reopens(found):
        return Taken(found)
    if other is not None:
        return IdempotencyKeyTaken(other)
    left = new.available - await _committed(new, db)
    if left < new.payment.amount:
        return Overcommitted(left)
    if found is None:
        return await _insert(new, now, db)
    return await _reopen(found, new, now, db)


def locks_of(group: Iterable[NewSettlement]) -> list[int]:
    """The advisory locks of a claim: nobody else claims with these keys, idempotency keys included,
    nor for the same payer and asset, whose pending payments are counted. Advisory, since rows that
    are not there yet cannot be locked; two names that fall on one number only wait for each other.
    """
    about: set[str] = set()
    for new in group:
        payment = new.payment
        about.add(f"payer {payment.chain_id} {payment.asset.hex()} {payment.payer.hex()}")
        about.update(f"key {key}" for key in (new.key, new.second_key) if key is not None)
        if new.idempotency_key is not None:
            about.add(f"idempotency {new.tenant} {new.idempotency_key}")
    digests = (blake2b(name.encode(), digest_size=8).digest() for name in about)
    return sorted({int.from_bytes(digest, signed=True) for digest in digests})


async def _look(new: NewSettlement, db: Connection) -> tuple[Settlement | None, Settlement | None]:
    """The settlement that has one of the keys, and another one that has the idempotency key."""
    rows = await db.fetch(
        f"""SELECT 1 AS place, {SETTLEMENT} FROM settlement WHERE key = $1
           UNION ALL SELECT 2, {SETTLEMENT} FROM settlement WHERE second_key = $1
           UNION ALL SELECT 3, {SETTLEMENT} FROM settlement WHERE key = $2
           UNION ALL SELECT 4, {SETTLEMENT} FROM settlement WHERE second_key = $2
           UNION ALL SELECT 5, {SETTLEMENT} FROM settlement
               WHERE tenant = $3 AND idempotency_key = $4
           ORDER BY place""",
        new.key,
        new.second_key,
        new.tenant,
        new.idempotency_key,
    )
    found = next((row for row in rows if row["place"] < 5), None)
    other = next((row for row in rows if row["place"] == 5), None)
    if found is not None and other is not None and found["id"] == other["id"]:
        other = None
    return (
        None if found is None else read_settlement(found),
        None if other is None else read_settlement(other),
    )


async def _committed(new: NewSettlement, db: Connection) -> int:
    """What other payments of the same payer and asset will still take from `available`."""
    payment = new.payment
    rows = await db.fetch(
        f"""SELECT id, amount FROM settlement
            WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND state IN {OPEN}""",
        payment.chain_id,
        payment.asset,
        payment.payer,
    )
    pending = {row["id"]: int(row["amount"]) for row in rows}
    total = sum(new.outstanding.get(number, amount) for number, amount in pending.items())
    for settlement_id, amount in new.outstanding.items():
        # One that was confirmed since the chain was asked has taken its money all the same.
        if amount and settlement_id not in pending:
            settlement = await get(db, settlement_id)
            total += amount if settlement.state is SettlementState.CONFIRMED else 0
    return total


async def _insert(
    new: NewSettlement, now: int, db: Connection
) -> Settlement | Taken | IdempotencyKeyTaken:
    """The unique keys have the last word, whatever was looked up before."""
    payment = new.payment
    row = await db.fetchrow(
        f"""INSERT INTO settlement (id, key, second_key, tenant, idempotency_key, body_digest,
               request_digest, dialect, chain_id, asset, payer, amount, payment, state, version,
               listener, listener_until, traceparent, created_at, updated_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'pending', 1, $14, $15,
               $16, $17, $17)
           ON CONFLICT DO NOTHING RETURNING {SETTLEMENT}""",
        uuid.uuid4().hex,
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
    )
    if row is not None:
        return read_settlement(row)
    found, other = await _look(new, db)
    if found is not None:
        return Taken(found)
    assert other is not None, "a conflict is with one of the keys"
    return IdempotencyKeyTaken(other)


async def _reopen(
    found: Settlement, new: NewSettlement, now: int, db: Connection
) -> Settlement | Taken:
    # The signature may be spelt anew, and is what the next transaction carries; the failure that
    # was told is none any more. A key that came before goes on meaning this payment, unless there
    # is another one.
    row = await db.fetchrow(
        f"""UPDATE settlement SET state = 'pending', version = version + 1, refusal = NULL,
               reply = NULL, payment = $1, listener = $2, listener_until = $3, traceparent = $4,
               updated_at = $5, idempotency_key = coalesce($8, idempotency_key),
               body_digest = CASE WHEN $8 IS NULL THEN body_digest ELSE $9 END
           WHERE id = $6 AND version = $7 RETURNING {SETTLEMENT}""",
        payment_text(new.payment),
        new.waiter,
        new.waiter_until,
        new.traceparent,
        now,
        found.id,
        found.version,
        new.idempotency_key,
        new.body_digest,
    )
    if row is not None:
        return read_settlement(row)
    try:
        return Taken(await get(db, found.id))
    except LookupError:
        raise StoreError("a settlement has just left the journal: ask again") from None


async def settle_again(
    settlement_id: str, version: int, transaction: NewTransaction, now: int, db: Connection
) -> Transaction | BudgetSpent | None:
    changed = await db.fetchval(
        f"""UPDATE settlement SET version = version + 1, updated_at = $1
            WHERE id = $2 AND version = $3 AND state IN {OPEN} RETURNING true""",
        now,
        settlement_id,
        version,
    )
    if changed is None:
        return None
    return await sign(transaction, now, db, [settlement_id])


async def record(
    ended: Sequence[TransactionChange],
    settlements: Sequence[SettlementChange],
    now: int,
    db: Connection,
) -> tuple[Settlement, ...]:
    """UniqueViolationError where somebody else records the same proof at the same time."""
    for each in sorted(ended, key=lambda each: each.id):
        await db.execute(
            """UPDATE "transaction" SET state = $1, block_number = $2, gas_cost = $3
               WHERE id = $4""",
            each.state,
            each.block_number,
            None if each.gas_cost is None else str(each.gas_cost),
            each.id,
        )
    # Then in the order in which they are given: of two that have one proof, the first has it.
    await db.fetch(
        "SELECT FROM settlement WHERE id = ANY($1) ORDER BY id FOR UPDATE",
        [change.id for change in settlements],
    )
    changed = []
    for change in settlements:
        if await _is_taken(change.proof, change.id, db):
            continue
        row = await db.fetchrow(
            f"""UPDATE settlement SET state = $1, version = version + 1, refusal = $2,
                   proof_transaction = $3, proof_log_index = $4, proof_block_number = $5,
                   proof_reference = $6, proof_fee = $7, updated_at = $8
               WHERE id = $9 AND version = $10 RETURNING {SETTLEMENT}""",
            change.state,
            refusal_text(change.refusal),
            *proof_columns(change.proof),
            now,
            change.id,
            change.version,
        )
        if row is not None:
            changed.append(read_settlement(row))
    await notify([settlement.id for settlement in changed], db)
    return tuple(changed)


async def _is_taken(proof: Proof | None, settlement_id: str, db: Connection) -> bool:
    """Whether the log proves another settlement already."""
    if proof is None:
        return False
    taken = await db.fetchval(
        """SELECT true FROM settlement AS other JOIN settlement AS own USING (chain_id)
           WHERE own.id = $1 AND other.id <> $1
               AND other.proof_transaction = $2 AND other.proof_log_index = $3""",
        settlement_id,
        proof.transaction_hash,
        proof.log_index,
    )
    return taken is not None
