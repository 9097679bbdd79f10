"""What is signed, as the journal keeps it in PostgreSQL: account nonces, attempts, gas.

Functions of a connection, inside a transaction that writes. Locks are taken in one order, so that
none waits for another in a circle: transactions, settlements, then signers, each by ascending id.
"""

from collections.abc import Callable, Sequence

from facilitator.domain import budget
from facilitator.domain.settlement import Attempt, Transaction, TransactionState
from facilitator.journal.postgres.pool import Connection, Undo
from facilitator.journal.postgres.queries import transactions
from facilitator.journal.rows import Row
from facilitator.journal.signed import GIVEN_UP, more_committed, replaced_with_filler
from facilitator.journal.store import BudgetSpent, NewTransaction

_NAMED = """SELECT id, chain_id, signer, state, created_at, gas_cost FROM "transaction"
            WHERE chain_id = $1 AND signer = $2 AND account_nonce = $3"""


async def fill(
    new: NewTransaction, account_nonce: int, now: int, db: Connection
) -> Transaction | None:
    # The signer's row first: whoever else hands out nonces waits, so the look at them holds.
    await raise_nonce_floor(new.chain_id, new.signer, account_nonce + 1, db)
    taken = await db.fetchval(
        """SELECT true FROM "transaction"
           WHERE chain_id = $1 AND signer = $2 AND account_nonce = $3""",
        new.chain_id,
        new.signer,
        account_nonce,
    )
    if taken:
        raise Undo(None)
    # Without a look at the budget: all that were signed after the gap wait for it. It counts.
    return await _sign_at(account_nonce, new, now, db)


async def revive(chain_id: int, signer: bytes, account_nonce: int, db: Connection) -> bool:
    ended = await db.fetchrow(
        f"""{_NAMED} AND state IN ('superseded', 'final') AND NOT {GIVEN_UP} FOR UPDATE""",
        chain_id,
        signer,
        account_nonce,
    )
    if ended is None:
        return False
    await _set_pending(ended, db)
    return True


async def replace_with_filler(
    new: NewTransaction,
    account_nonce: int,
    outbid: Callable[[Attempt], Attempt],
    now: int,
    db: Connection,
) -> Transaction | None:
    row = await db.fetchrow(
        f"{_NAMED} AND state <> 'mined' AND {GIVEN_UP} FOR UPDATE",
        new.chain_id,
        new.signer,
        account_nonce,
    )
    if row is None:
        return None
    old = (await transactions(db, "SELECT $1::bigint", row["id"]))[row["id"]]
    # Without a look at the budget, as above.
    attempt = outbid(old.attempts[-1])
    await _set_pending(row, db)
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
    await _insert_attempt(old.id, attempt, db)
    return replaced_with_filler(old, new, attempt)


async def _set_pending(ended: Row, db: Connection) -> None:
    await db.execute(
        """UPDATE "transaction" SET state = 'pending', block_number = NULL, gas_cost = NULL
           WHERE id = $1""",
        ended["id"],
    )
    if ended["state"] == "final":
        # Its gas was not spent after all, and counts again with what it may cost.
        key = ended["chain_id"], ended["signer"], budget.day_of(ended["created_at"])
        await _add_to_spent(key, -int(ended["gas_cost"] or 0), db)


async def sign(
    new: NewTransaction, now: int, db: Connection, carried: Sequence[str]
) -> Transaction:
    """Hand out the next account nonce, have the call signed with it, and keep the bytes, and which
    settlements it carries, in their order.

    Undo(BudgetSpent) where the signer's budget does not allow for it.
    """
    next_nonce = await db.fetchval(
        """INSERT INTO signer (chain_id, address, next_nonce) VALUES ($1, $2, $3::bigint + 1)
           ON CONFLICT (chain_id, address)
               DO UPDATE SET next_nonce = greatest(signer.next_nonce + 1, excluded.next_nonce)
           RETURNING next_nonce""",
        new.chain_id,
        new.signer,
        new.nonce_floor,
    )
    # Under the lock of the signer's row, which no two replicas hold at once.
    if new.gas_budget is not None:
        spent = await gas_spent(new.chain_id, new.signer, now, db)
        if not budget.allows(new.gas_budget, spent, new.most_cost):
            raise Undo(BudgetSpent(spent))
    return await _sign_at(next_nonce - 1, new, now, db, carried)


async def _sign_at(
    nonce: int, new: NewTransaction, now: int, db: Connection, carried: Sequence[str] = ()
) -> Transaction:
    attempt = new.sign(nonce)
    # One round trip, since the signer's row is locked: the transaction, its bytes, what it carries.
    transaction_id = await db.fetchval(
        """WITH made AS (
               INSERT INTO "transaction" (chain_id, signer, account_nonce, kind, target, calldata,
                   gas_limit, l1_fee, state, created_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9) RETURNING id
           ), bytes AS (
               INSERT INTO attempt (hash, transaction_id, raw, max_fee_per_gas,
                   max_priority_fee_per_gas, signed_at)
               SELECT $10, id, $11, $12::bigint, $13::bigint, $14::bigint FROM made
           ), carried AS (
               INSERT INTO settlement_transaction (settlement_id, transaction_id, position)
               SELECT settlement_id, id, place - 1 FROM made,
                   unnest($15::text[]) WITH ORDINALITY AS listed (settlement_id, place)
           ) SELECT id FROM made""",
        new.chain_id,
        new.signer,
        nonce,
        new.kind,
        new.call.target,
        new.call.calldata,
        new.gas_limit,
        str(new.l1_fee),
        now,
        attempt.hash,
        attempt.raw,
        attempt.fees.max_fee_per_gas,
        attempt.fees.max_priority_fee_per_gas,
        attempt.signed_at,
        list(carried),
    )
    return Transaction(
        id=transaction_id,
        chain_id=new.chain_id,
        signer=new.signer,
        account_nonce=nonce,
        kind=new.kind,
        call=new.call,
        gas_limit=new.gas_limit,
        state=TransactionState.PENDING,
        block_number=None,
        attempts=(attempt,),
        l1_fee=new.l1_fee,
    )


async def raise_nonce_floor(chain_id: int, signer: bytes, floor: int, db: Connection) -> int:
    """As the protocol says; the signer's row is locked afterwards."""
    return int(
        await db.fetchval(
            """INSERT INTO signer (chain_id, address, next_nonce) VALUES ($1, $2, $3)
               ON CONFLICT (chain_id, address)
                   DO UPDATE SET next_nonce = greatest(signer.next_nonce, excluded.next_nonce)
               RETURNING next_nonce""",
            chain_id,
            signer,
            floor,
        )
    )


async def add_attempt(
    transaction_id: int,
    attempt: Attempt,
    gas_budget: int | None,
    now: int,
    gas_limit: int | None,
    db: Connection,
) -> bool:
    # Locked, so that nobody records its end in between.
    locked = """SELECT id FROM "transaction" WHERE id = $1 AND state = 'pending' FOR UPDATE"""
    if await db.fetchval(locked, transaction_id) is None:
        return False
    if gas_budget is not None:
        found = await transactions(db, "SELECT $1::bigint", transaction_id)
        transaction = found[transaction_id]
        await raise_nonce_floor(transaction.chain_id, transaction.signer, 0, db)
        spent = await gas_spent(transaction.chain_id, transaction.signer, now, db)
        more = more_committed(transaction, attempt, gas_limit)
        if not budget.allows(gas_budget, spent, more):
            return False
    if gas_limit is not None:
        await db.execute(
            'UPDATE "transaction" SET gas_limit = $2 WHERE id = $1', transaction_id, gas_limit
        )
    await _insert_attempt(transaction_id, attempt, db)
    return True


async def _insert_attempt(transaction_id: int, attempt: Attempt, db: Connection) -> None:
    await db.execute(
        """INSERT INTO attempt (hash, transaction_id, raw, max_fee_per_gas,
               max_priority_fee_per_gas, signed_at)
           VALUES ($1, $2, $3, $4, $5, $6)""",
        attempt.hash,
        transaction_id,
        attempt.raw,
        attempt.fees.max_fee_per_gas,
        attempt.fees.max_priority_fee_per_gas,
        attempt.signed_at,
    )


async def gas_spent(chain_id: int, signer: bytes, now: int, db: Connection) -> int:
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


async def finalize(chain_id: int, block_number: int, db: Connection) -> int:
    # In the order of their ids, as `record` takes them.
    buried = await db.fetch(
        """UPDATE "transaction" SET state = 'final' WHERE id IN (
               SELECT id FROM "transaction"
               WHERE chain_id = $1 AND state = 'mined' AND block_number <= $2
               ORDER BY id FOR UPDATE)
           RETURNING signer, created_at, gas_cost""",
        chain_id,
        block_number,
    )
    spent: dict[tuple[int, bytes, int], int] = {}
    for row in buried:
        key = chain_id, row["signer"], budget.day_of(row["created_at"])
        spent[key] = spent.get(key, 0) + int(row["gas_cost"] or 0)
    for key, wei in sorted(spent.items()):
        await _add_to_spent(key, wei, db)
    return len(buried)


async def _add_to_spent(key: tuple[int, bytes, int], wei: int, db: Connection) -> None:
    """To what the FINAL transactions of a chain, a signer and a day have cost."""
    await db.execute(
        """INSERT INTO gas_spent (chain_id, signer, day, wei) VALUES ($1, $2, $3, $4)
           ON CONFLICT (chain_id, signer, day) DO UPDATE
               SET wei = (gas_spent.wei::numeric + excluded.wei::numeric)::text""",
        *key,
        str(wei),
    )
