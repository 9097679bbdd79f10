"""The operations that write to the journal, each written once for every engine.

Functions of a connection, inside a transaction. Times are unix milliseconds. Locks are taken in one
order, so that none waits for another in a circle: transactions, settlements, then signers, each by
ascending id.
"""

import uuid
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from facilitator.domain import budget
from facilitator.domain.settlement import (
    Attempt,
    Settlement,
    SettlementChange,
    SettlementState,
    Transaction,
    TransactionChange,
    TransactionState,
)
from facilitator.journal.engine import Connection, Row, StoreError, Undo
from facilitator.journal.queries import OPEN, get_settlement, transactions
from facilitator.journal.records import (
    BudgetSpent,
    Claimed,
    ClaimedOrNot,
    IdempotencyKeyTaken,
    NewSettlement,
    NewTransaction,
    Overcommitted,
    Taken,
)
from facilitator.journal.rows import (
    SETTLEMENT,
    attempt_columns,
    payment_text,
    proof_columns,
    read_settlement,
    refusal_text,
)

# A transaction that must not be sent again: failure was the reply for a settlement that it carries,
# and that must stay true. A filler moves nothing, so it may be sent.
GIVEN_UP = """(kind <> 'fill' AND EXISTS (
    SELECT 1 FROM settlement_transaction JOIN settlement ON settlement.id = settlement_id
    WHERE transaction_id = "transaction".id AND settlement.state IN ('failed', 'lost')))"""

_OF_NONCE = """SELECT id, chain_id, signer, state, created_at, gas_cost FROM "transaction"
               WHERE chain_id = $1 AND signer = $2 AND account_nonce = $3"""


async def claim_group(
    db: Connection,
    group: Sequence[NewSettlement],
    transaction: Callable[[tuple[int, ...]], NewTransaction],
    now: int,
) -> tuple[ClaimedOrNot, ...] | BudgetSpent:
    """Claim payments that share one transaction, each as `Store.claim` does, and return an answer
    for each, in the order given. `transaction` gets the indexes of those that are claimed; it is
    called once, and not at all where none is claimed. With BudgetSpent nothing is written.
    """
    answers = [await _take_on(db, new, now) for new in group]
    taken_on = {n: each for n, each in enumerate(answers) if isinstance(each, Settlement)}
    if not taken_on:
        raise Undo(tuple(answers))
    carried = [settlement.id for settlement in taken_on.values()]
    signed = await _sign(db, transaction(tuple(taken_on)), now, carried)
    return tuple(
        Claimed(each, signed) if isinstance(each, Settlement) else each for each in answers
    )


async def _take_on(
    db: Connection, new: NewSettlement, now: int
) -> Settlement | Taken | IdempotencyKeyTaken | Overcommitted:
    found, other = await find_taken(db, new)
    if found is not None and not new.reopens(found):
        return Taken(found)
    if other is not None:
        return IdempotencyKeyTaken(other)
    left = new.available - await committed(db, new)
    if left < new.payment.amount:
        return Overcommitted(left)
    if found is None:
        return await _insert(db, new, now)
    return await _reopen(db, found, new, now)


async def find_taken(
    db: Connection, new: NewSettlement
) -> tuple[Settlement | None, Settlement | None]:
    """Return the settlement that has one of the payment's keys, and another settlement that has
    the idempotency key; None for each that there is not.
    """
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


async def committed(db: Connection, new: NewSettlement) -> int:
    """Return how much other payments of the same payer and asset will still take from `available`,
    in atomic units.
    """
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
        # One that was CONFIRMED after the balance was read has taken its money as well.
        if amount and settlement_id not in pending:
            settlement = await get_settlement(db, settlement_id)
            total += amount if settlement.state is SettlementState.CONFIRMED else 0
    return total


async def _insert(
    db: Connection, new: NewSettlement, now: int
) -> Settlement | Taken | IdempotencyKeyTaken:
    """Insert the settlement. The unique keys decide, whatever was looked up before."""
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
    inserted = await db.execute(
        """INSERT INTO settlement (id, key, second_key, tenant, idempotency_key, body_digest,
               request_digest, dialect, chain_id, asset, payer, amount, payment, state, version,
               listener, listener_until, traceparent, created_at, updated_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'pending', 1, $14, $15,
               $16, $17, $17)
           ON CONFLICT DO NOTHING""",
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
    )
    if inserted:
        return settlement
    found, other = await find_taken(db, new)
    if found is not None:
        return Taken(found)
    assert other is not None, "a conflict is with one of the keys"
    return IdempotencyKeyTaken(other)


async def _reopen(
    db: Connection, found: Settlement, new: NewSettlement, now: int
) -> Settlement | Taken:
    # The payment is stored anew, since its signature may be encoded differently this time and the
    # next transaction carries that; the kept reply of failure no longer holds. The old idempotency
    # key stays with this payment unless the request brings another one.
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
        return Taken(await get_settlement(db, found.id))
    except LookupError:
        raise StoreError("a settlement has just left the journal: ask again") from None


async def settle_again(
    db: Connection, settlement_id: str, version: int, transaction: NewTransaction, now: int
) -> Transaction | BudgetSpent | None:
    """Sign a further transaction for a settlement in PENDING or REORGED, whose version rises, and
    return it. None where its version is another by now.
    """
    changed = await db.execute(
        f"""UPDATE settlement SET version = version + 1, updated_at = $1
            WHERE id = $2 AND version = $3 AND state IN {OPEN}""",
        now,
        settlement_id,
        version,
    )
    return await _sign(db, transaction, now, [settlement_id]) if changed else None


async def fill(
    db: Connection, new: NewTransaction, account_nonce: int, now: int
) -> Transaction | None:
    """Sign a transaction that carries no settlement (kind FILL), at exactly this account nonce,
    which is not handed out again, and return it. None where the journal has a transaction of that
    nonce.
    """
    # Lock the signer's row first: nobody else hands out nonces until this transaction ends.
    await raise_nonce_floor(db, new.chain_id, new.signer, account_nonce + 1)
    if await db.fetchrow(_OF_NONCE, new.chain_id, new.signer, account_nonce) is not None:
        raise Undo(None)
    # Its cost counts, but the budget does not refuse it: all that were signed after it wait for it.
    return await _sign_at(db, account_nonce, new, now)


async def revive(db: Connection, chain_id: int, signer: bytes, account_nonce: int) -> bool:
    """Make a transaction that is SUPERSEDED or FINAL PENDING again, because its account nonce is
    the chain's next one; its recorded cost is taken back from the budget. Return False where there
    is none, or it must not be sent again (GIVEN_UP).
    """
    ended = await db.fetchrow(
        f"""{_OF_NONCE} AND state IN ('superseded', 'final') AND NOT {GIVEN_UP} FOR UPDATE""",
        chain_id,
        signer,
        account_nonce,
    )
    if ended is None:
        return False
    await _set_pending(db, ended)
    return True


async def replace_with_filler(
    db: Connection,
    new: NewTransaction,
    account_nonce: int,
    outbid: Callable[[Attempt], Attempt],
    now: int,
) -> Transaction | None:
    """Replace a transaction that must not be sent again (GIVEN_UP) by the filler `new`, because its
    account nonce is the chain's next one, and return it; None where there is none that is not
    MINED. The row stays the same, PENDING, with a further attempt, which `outbid` signs given the
    last one. Its recorded cost is taken back from the budget. Its settlements and earlier attempts
    stay in the journal, since one of those attempts may still be mined.
    """
    row = await db.fetchrow(
        f"{_OF_NONCE} AND state <> 'mined' AND {GIVEN_UP} FOR UPDATE",
        new.chain_id,
        new.signer,
        account_nonce,
    )
    if row is None:
        return None
    old = (await transactions(db, "id = $1", row["id"]))[row["id"]]
    # The budget does not refuse it, as in `fill`.
    attempt = outbid(old.attempts[-1])
    await _set_pending(db, row)
    await db.execute(
        """UPDATE "transaction" SET kind = $2, target = $3, calldata = $4, gas_limit = $5,
               l1_fee = $6, created_at = $7 WHERE id = $1""",
        old.id,
        new.kind,
        new.call.target,
        new.call.calldata,
        new.gas_limit,
        str(new.l1_fee),
        now,
    )
    await _insert_attempt(db, old.id, attempt)
    return replace(
        old,
        kind=new.kind,
        call=new.call,
        gas_limit=new.gas_limit,
        l1_fee=new.l1_fee,
        state=TransactionState.PENDING,
        block_number=None,
        gas_cost=None,
        attempts=(*old.attempts, attempt),
    )


async def _set_pending(db: Connection, ended: Row) -> None:
    await db.execute(
        """UPDATE "transaction" SET state = 'pending', block_number = NULL, gas_cost = NULL
           WHERE id = $1""",
        ended["id"],
    )
    if ended["state"] == "final":
        # Its gas was not spent after all; from now on the most that it may cost counts.
        day, cost = budget.day_of(ended["created_at"]), int(ended["gas_cost"] or 0)
        await db.add_to_spent(ended["chain_id"], ended["signer"], day, -cost)


async def _sign(
    db: Connection, new: NewTransaction, now: int, carried: Sequence[str]
) -> Transaction:
    """Hand out the next account nonce, sign the call with it, and store the attempt and the
    settlements that the transaction carries, in their order. Return the transaction.

    Raises Undo(BudgetSpent) where the signer's budget does not allow it.
    """
    next_nonce = await db.fetchval(
        """INSERT INTO signer (chain_id, address, next_nonce) VALUES ($1, $2, $3)
           ON CONFLICT (chain_id, address)
               DO UPDATE SET next_nonce = greatest(signer.next_nonce + 1, excluded.next_nonce)
           RETURNING next_nonce""",
        new.chain_id,
        new.signer,
        new.nonce_floor + 1,
    )
    # Under the lock of the signer's row, which no two replicas hold at once.
    if new.gas_budget is not None:
        spent = await _gas_spent(db, new.chain_id, new.signer, now)
        if not budget.allows(new.gas_budget, spent, new.most_cost):
            raise Undo(BudgetSpent(spent))
    return await _sign_at(db, next_nonce - 1, new, now, carried)


async def _sign_at(
    db: Connection,
    account_nonce: int,
    new: NewTransaction,
    now: int,
    carried: Sequence[str] = (),
) -> Transaction:
    attempt = new.sign(account_nonce)
    transaction_id = await db.insert_signed(new, account_nonce, attempt, carried, now)
    return Transaction(
        id=transaction_id,
        chain_id=new.chain_id,
        signer=new.signer,
        account_nonce=account_nonce,
        kind=new.kind,
        call=new.call,
        gas_limit=new.gas_limit,
        state=TransactionState.PENDING,
        block_number=None,
        attempts=(attempt,),
        l1_fee=new.l1_fee,
    )


async def raise_nonce_floor(db: Connection, chain_id: int, signer: bytes, floor: int) -> int:
    """Raise the next account nonce to `floor` where it is lower; return the next one."""
    next_nonce = await db.fetchval(
        """INSERT INTO signer (chain_id, address, next_nonce) VALUES ($1, $2, $3)
           ON CONFLICT (chain_id, address)
               DO UPDATE SET next_nonce = greatest(signer.next_nonce, excluded.next_nonce)
           RETURNING next_nonce""",
        chain_id,
        signer,
        floor,
    )
    return int(next_nonce)


async def add_attempt(
    db: Connection,
    transaction_id: int,
    attempt: Attempt,
    gas_budget: int | None,
    now: int,
    gas_limit: int | None = None,
) -> bool:
    """Append a replacement attempt. Return False where the transaction is not PENDING any more, or
    the signer's budget for the day does not allow it. `gas_limit` is the transaction's from now on,
    no lower than before (None: unchanged).
    """
    # Locked, so that no outcome is recorded meanwhile.
    pending = """SELECT id FROM "transaction" WHERE id = $1 AND state = 'pending' FOR UPDATE"""
    if await db.fetchval(pending, transaction_id) is None:
        return False
    if gas_budget is not None:
        transaction = (await transactions(db, "id = $1", transaction_id))[transaction_id]
        chain_id, signer = transaction.chain_id, transaction.signer
        await db.lock(
            "SELECT 1 FROM signer WHERE chain_id = $1 AND address = $2 FOR UPDATE", chain_id, signer
        )
        spent = await _gas_spent(db, chain_id, signer, now)
        if not budget.allows(gas_budget, spent, _more_committed(transaction, attempt, gas_limit)):
            return False
    if gas_limit is not None:
        await db.execute(
            'UPDATE "transaction" SET gas_limit = $2 WHERE id = $1', transaction_id, gas_limit
        )
    await _insert_attempt(db, transaction_id, attempt)
    return True


def _more_committed(transaction: Transaction, attempt: Attempt, gas_limit: int | None) -> int:
    """Return how many wei more a transaction may cost with a further attempt and gas limit."""
    replaced = replace(
        transaction,
        attempts=(*transaction.attempts, attempt),
        gas_limit=transaction.gas_limit if gas_limit is None else gas_limit,
    )
    return budget.committed(replaced) - budget.committed(transaction)


async def _insert_attempt(db: Connection, transaction_id: int, attempt: Attempt) -> None:
    await db.execute(
        """INSERT INTO attempt (transaction_id, hash, raw, max_fee_per_gas,
               max_priority_fee_per_gas, signed_at)
           VALUES ($1, $2, $3, $4, $5, $6)""",
        transaction_id,
        *attempt_columns(attempt),
    )


async def _gas_spent(db: Connection, chain_id: int, signer: bytes, now: int) -> int:
    """Return how much of its budget the signer has spent on the day of `now`, in wei."""
    day = budget.day_of(now)
    final = await db.fetchval(
        "SELECT wei FROM gas_spent WHERE chain_id = $1 AND signer = $2 AND day = $3",
        chain_id,
        signer,
        day,
    )
    mined = await db.fetch(
        """SELECT gas_cost, created_at FROM "transaction"
           WHERE chain_id = $1 AND signer = $2 AND state = 'mined' AND gas_cost IS NOT NULL""",
        chain_id,
        signer,
    )
    pending = await db.fetch(
        """SELECT gas_limit, max(max_fee_per_gas) AS fee, l1_fee FROM "transaction"
               JOIN attempt ON transaction_id = "transaction".id
           WHERE chain_id = $1 AND signer = $2 AND state = 'pending' GROUP BY "transaction".id""",
        chain_id,
        signer,
    )
    return budget.spent(
        int(final or 0),
        (int(row["gas_cost"]) for row in mined if budget.day_of(row["created_at"]) == day),
        (budget.most_cost(row["gas_limit"], row["fee"], int(row["l1_fee"])) for row in pending),
    )


async def record(
    db: Connection,
    transactions: Sequence[TransactionChange],
    settlements: Sequence[SettlementChange],
    now: int,
) -> tuple[Settlement, ...]:
    """Apply the changes and return the settlements that changed, as they are now. A change to an
    older version, or with a proof that another settlement has already, is left out.
    """
    for each in sorted(transactions, key=lambda each: each.id):
        await db.execute(
            """UPDATE "transaction" SET state = $1, block_number = $2, gas_cost = $3
               WHERE id = $4""",
            each.state,
            each.block_number,
            None if each.gas_cost is None else str(each.gas_cost),
            each.id,
        )
    # Updated in the order given: of two with the same proof, the first gets it.
    await db.lock(
        "SELECT 1 FROM settlement WHERE id = ANY($1) ORDER BY id FOR UPDATE",
        [change.id for change in settlements],
    )
    changed = []
    for change in settlements:
        row = await db.fetchrow(
            f"""UPDATE settlement SET state = $1, version = version + 1, refusal = $2,
                   proof_transaction = $3, proof_log_index = $4, proof_block_number = $5,
                   proof_reference = $6, proof_fee = $7, updated_at = $8
               WHERE id = $9 AND version = $10 AND NOT EXISTS (
                   SELECT 1 FROM settlement AS other
                   WHERE other.chain_id = settlement.chain_id AND other.id <> $9
                       AND other.proof_transaction = $3 AND other.proof_log_index = $4)
               RETURNING {SETTLEMENT}""",
            change.state,
            refusal_text(change.refusal),
            *proof_columns(change.proof),
            now,
            change.id,
            change.version,
        )
        if row is not None:
            changed.append(read_settlement(row))
    return tuple(changed)


async def finalize(db: Connection, chain_id: int, block_number: int) -> int:
    """Make MINED transactions at or below that block FINAL; return how many there were."""
    # Locked in the order of their ids, as in `record`.
    final = await db.fetch(
        """UPDATE "transaction" SET state = 'final' WHERE id IN (
               SELECT id FROM "transaction"
               WHERE chain_id = $1 AND state = 'mined' AND block_number <= $2
               ORDER BY id FOR UPDATE)
           RETURNING signer, created_at, gas_cost""",
        chain_id,
        block_number,
    )
    spent: dict[tuple[bytes, int], int] = {}
    for row in final:
        key = row["signer"], budget.day_of(row["created_at"])
        spent[key] = spent.get(key, 0) + int(row["gas_cost"] or 0)
    for (signer, day), wei in sorted(spent.items()):
        await db.add_to_spent(chain_id, signer, day, wei)
    return len(final)


async def become_waiter(
    db: Connection, settlement_id: str, waiter: str, until: int, now: int
) -> Settlement:
    """Become the settlement's waiter if success was not replied and there is no waiter, or its
    `waiter_until` is at or before `now`. Return the settlement as it then is: its `waiter` shows
    whether it worked. Raises LookupError for an unknown id.
    """
    await db.execute(
        """UPDATE settlement SET listener = $1, listener_until = $2
           WHERE id = $3 AND replied_success_at IS NULL
           AND (listener IS NULL OR listener_until <= $4)""",
        waiter,
        until,
        settlement_id,
        now,
    )
    return await get_settlement(db, settlement_id)


async def renew(db: Connection, settlement_id: str, waiter: str, until: int) -> bool:
    """Stay the settlement's waiter until `until`; return False if it no longer is the waiter."""
    renewed = await db.execute(
        "UPDATE settlement SET listener_until = $1 WHERE id = $2 AND listener = $3",
        until,
        settlement_id,
        waiter,
    )
    return renewed == 1


async def let_go(db: Connection, settlement_id: str, waiter: str) -> None:
    """Stop being the settlement's waiter, if it still is, without having replied."""
    await db.execute(
        "UPDATE settlement SET listener = NULL WHERE id = $1 AND listener = $2",
        settlement_id,
        waiter,
    )


async def mark_success_replied(
    db: Connection, settlement_id: str, waiter: str, now: int, reply: bytes | None = None
) -> bool:
    """Take the right to reply success, which exists once for each settlement. Return True only for
    its waiter, in state CONFIRMED, when `replied_success_at` was not set. `reply` is kept for
    repetitions under the settlement's idempotency key.
    """
    marked = await db.execute(
        """UPDATE settlement SET replied_success_at = $1, reply = $2
           WHERE id = $3 AND listener = $4 AND state = 'confirmed'
           AND replied_success_at IS NULL""",
        now,
        reply,
        settlement_id,
        waiter,
    )
    return marked == 1


async def mark_all_replied(db: Connection, now: int) -> int:
    """Mark every settlement that could still end in success as already replied; return how many
    there were. For a journal restored from a backup, which lacks the replies since. Raises
    StoreLocked where another process uses the journal, as `refuse_shared` does.
    """
    return await db.execute(
        """UPDATE settlement SET replied_success_at = $1
           WHERE replied_success_at IS NULL AND state NOT IN ('failed', 'lost')""",
        now,
    )


async def keep_reply(db: Connection, settlement_id: str, reply: bytes) -> None:
    """Keep a final reply of failure, for repetitions under the settlement's idempotency key."""
    await db.execute(
        "UPDATE settlement SET reply = $1 WHERE id = $2 AND state IN ('failed', 'lost')",
        reply,
        settlement_id,
    )
