"""What is signed, as the journal keeps it: account nonces, attempts, and what their gas comes to.

Functions of a connection, inside a transaction, as in `statements`.
"""

import sqlite3
from collections.abc import Callable

from msgspec.structs import replace

from facilitator.domain import budget
from facilitator.domain.settlement import Attempt, Transaction, TransactionState
from facilitator.journal.queries import transactions
from facilitator.journal.store import BudgetSpent, NewTransaction

# A transaction that must not be sent again, or a failure that was told could come out untrue. A
# filler moves nothing, whatever was signed for its account nonce before.
GIVEN_UP = """(kind <> 'fill' AND EXISTS (
    SELECT 1 FROM settlement_transaction JOIN settlement ON settlement.id = settlement_id
    WHERE transaction_id = "transaction".id AND settlement.state IN ('failed', 'lost')))"""


def fill(
    new: NewTransaction, account_nonce: int, now: int, db: sqlite3.Connection
) -> Transaction | None:
    taken = db.execute(
        """SELECT 1 FROM "transaction"
           WHERE chain_id = ? AND signer = ? AND account_nonce = ?""",
        (new.chain_id, new.signer, account_nonce),
    ).fetchone()
    if taken is not None:
        return None
    # Without a look at the budget: all that were signed after the gap wait for it. It counts.
    raise_nonce_floor(new.chain_id, new.signer, account_nonce + 1, db)
    return _sign_at(account_nonce, new, now, db)


def revive(chain_id: int, signer: bytes, account_nonce: int, db: sqlite3.Connection) -> bool:
    ended = db.execute(
        f"""SELECT * FROM "transaction"
            WHERE chain_id = ? AND signer = ? AND account_nonce = ?
                AND state IN ('superseded', 'final') AND NOT {GIVEN_UP}""",
        (chain_id, signer, account_nonce),
    ).fetchone()
    if ended is None:
        return False
    _set_pending(ended, db)
    return True


def replace_with_filler(
    new: NewTransaction,
    account_nonce: int,
    outbid: Callable[[Attempt], Attempt],
    now: int,
    db: sqlite3.Connection,
) -> Transaction | None:
    row = db.execute(
        f"""SELECT * FROM "transaction"
            WHERE chain_id = ? AND signer = ? AND account_nonce = ?
                AND state <> 'mined' AND {GIVEN_UP}""",
        (new.chain_id, new.signer, account_nonce),
    ).fetchone()
    if row is None:
        return None
    old = transactions(db, "SELECT ?", (row["id"],))[row["id"]]
    # Without a look at the budget, as above.
    attempt = outbid(old.attempts[-1])
    _set_pending(row, db)
    db.execute(
        """UPDATE "transaction" SET kind = ?, target = ?, calldata = ?, gas_limit = ?, l1_fee = ?,
               created_at = ? WHERE id = ?""",
        (
            new.kind,
            new.call.target,
            new.call.calldata,
            new.gas_limit,
            str(new.l1_fee),
            now,
            old.id,
        ),
    )
    _insert_attempt(old.id, attempt, db)
    return replaced_with_filler(old, new, attempt)


def replaced_with_filler(old: Transaction, new: NewTransaction, attempt: Attempt) -> Transaction:
    """What `old` is once `new` has taken its place."""
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


def _set_pending(ended: sqlite3.Row, db: sqlite3.Connection) -> None:
    db.execute(
        """UPDATE "transaction" SET state = 'pending', block_number = NULL, gas_cost = NULL
           WHERE id = ?""",
        (ended["id"],),
    )
    if ended["state"] == "final":
        # Its gas was not spent after all, and counts again with what it may cost.
        key = ended["chain_id"], ended["signer"], budget.day_of(ended["created_at"])
        _add_to_spent(key, -int(ended["gas_cost"] or 0), db)


def sign(new: NewTransaction, now: int, db: sqlite3.Connection) -> Transaction:
    """Hand out the next account nonce, have the call signed with it, and keep the bytes."""
    nonce = raise_nonce_floor(new.chain_id, new.signer, new.nonce_floor, db)
    db.execute(
        "UPDATE signer SET next_nonce = ? WHERE chain_id = ? AND address = ?",
        (nonce + 1, new.chain_id, new.signer),
    )
    return _sign_at(nonce, new, now, db)


def _sign_at(nonce: int, new: NewTransaction, now: int, db: sqlite3.Connection) -> Transaction:
    attempt = new.sign(nonce)
    columns = (new.chain_id, new.signer, nonce, new.kind, new.call.target, new.call.calldata)
    transaction_id = db.execute(
        """INSERT INTO "transaction" (chain_id, signer, account_nonce, kind, target, calldata,
               gas_limit, l1_fee, state, created_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)""",
        (*columns, new.gas_limit, str(new.l1_fee), now),
    ).lastrowid
    assert transaction_id is not None
    _insert_attempt(transaction_id, attempt, db)
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


def raise_nonce_floor(chain_id: int, signer: bytes, floor: int, db: sqlite3.Connection) -> int:
    (next_nonce,) = db.execute(
        """INSERT INTO signer (chain_id, address, next_nonce) VALUES (?, ?, ?)
           ON CONFLICT DO UPDATE SET next_nonce = max(next_nonce, excluded.next_nonce)
           RETURNING next_nonce""",
        (chain_id, signer, floor),
    ).fetchone()
    return int(next_nonce)


def add_attempt(
    transaction_id: int,
    attempt: Attempt,
    gas_budget: int | None,
    now: int,
    gas_limit: int | None,
    db: sqlite3.Connection,
) -> bool:
    transaction = transactions(db, "SELECT ?", (transaction_id,)).get(transaction_id)
    if transaction is None or transaction.state is not TransactionState.PENDING:
        return False
    if gas_budget is not None:
        spent = gas_spent(transaction.chain_id, transaction.signer, now, db)
        more = more_committed(transaction, attempt, gas_limit)
        if not budget.allows(gas_budget, spent, more):
            return False
    if gas_limit is not None:
        db.execute(
            'UPDATE "transaction" SET gas_limit = ? WHERE id = ?', (gas_limit, transaction_id)
        )
    _insert_attempt(transaction_id, attempt, db)
    return True


def more_committed(transaction: Transaction, attempt: Attempt, gas_limit: int | None) -> int:
    """How much more a transaction may cost with a further attempt, and maybe another gas limit."""
    replaced = replace(
        transaction,
        attempts=(*transaction.attempts, attempt),
        gas_limit=transaction.gas_limit if gas_limit is None else gas_limit,
    )
    return budget.committed(replaced) - budget.committed(transaction)


def _insert_attempt(transaction_id: int, attempt: Attempt, db: sqlite3.Connection) -> None:
    db.execute(
        """INSERT INTO attempt (hash, transaction_id, raw, max_fee_per_gas,
               max_priority_fee_per_gas, signed_at)
           VALUES (?, ?, ?, ?, ?, ?)""",
        (
            attempt.hash,
            transaction_id,
            attempt.raw,
            attempt.fees.max_fee_per_gas,
            attempt.fees.max_priority_fee_per_gas,
            attempt.signed_at,
        ),
    )


def over_budget(new: NewTransaction, now: int, db: sqlite3.Connection) -> BudgetSpent | None:
    if new.gas_budget is None:
        return None
    spent = gas_spent(new.chain_id, new.signer, now, db)
    return None if budget.allows(new.gas_budget, spent, new.most_cost) else BudgetSpent(spent)


def gas_spent(chain_id: int, signer: bytes, now: int, db: sqlite3.Connection) -> int:
    day = budget.day_of(now)
    row = db.execute(
        "SELECT wei FROM gas_spent WHERE chain_id = ? AND signer = ? AND day = ?",
        (chain_id, signer, day),
    ).fetchone()
    mined = db.execute(
        """SELECT gas_cost, created_at FROM "transaction"
           WHERE chain_id = ? AND signer = ? AND state = 'mined' AND gas_cost IS NOT NULL""",
        (chain_id, signer),
    ).fetchall()
    pending = db.execute(
        """SELECT gas_limit, max(max_fee_per_gas), l1_fee FROM "transaction"
               JOIN attempt ON transaction_id = "transaction".id
           WHERE chain_id = ? AND signer = ? AND state = 'pending' GROUP BY "transaction".id""",
        (chain_id, signer),
    )
    return budget.spent(
        0 if row is None else int(row["wei"]),
        (int(cost) for cost, created_at in mined if budget.day_of(created_at) == day),
        (budget.most_cost(limit, fee, int(l1_fee)) for limit, fee, l1_fee in pending),
    )


def finalize(chain_id: int, block_number: int, db: sqlite3.Connection) -> int:
    buried = db.execute(
        """UPDATE "transaction" SET state = 'final'
           WHERE chain_id = ? AND state = 'mined' AND block_number <= ?
           RETURNING signer, created_at, gas_cost""",
        (chain_id, block_number),
    ).fetchall()
    for signer, created_at, cost in buried:
        _add_to_spent((chain_id, signer, budget.day_of(created_at)), int(cost or 0), db)
    return len(buried)


def _add_to_spent(key: tuple[int, bytes, int], wei: int, db: sqlite3.Connection) -> None:
    """To what the FINAL transactions of a chain, a signer and a day have cost."""
    row = db.execute(
        "SELECT wei FROM gas_spent WHERE chain_id = ? AND signer = ? AND day = ?", key
    ).fetchone()
    total = wei + (0 if row is None else int(row["wei"]))
    db.execute(
        "INSERT OR REPLACE INTO gas_spent (chain_id, signer, day, wei) VALUES (?, ?, ?, ?)",
        (*key, str(total)),
    )
