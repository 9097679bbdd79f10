"""The tables, as numbered steps that only go forward.

A program accepts a schema that is one step newer than its own (a step first adds, and what it
replaces is removed a release later), so rolling back needs no step down. Amounts are decimal text:
uint256 fits no integer column. `gas_spent` sums what FINAL transactions have cost, by the UTC day
of their signing, so that a day's spending is the sum of a few rows. `settlement_tally` counts the
finished settlements by triggers, so that what a program of an earlier version writes counts too.

Nothing uses the columns `lease_holder`, `lease_until` and `fencing_token` of `signer`, nor, in
PostgreSQL, the index `settlement_listener`: a later release removes them.
"""

from facilitator.journal.engine import StoreError

# Marks the file as a journal (SQLite's application_id): "x402" in ASCII.
APPLICATION_ID = 0x78343032

# The version after the first step. No release has written the five before it.
FIRST_VERSION = 6

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE settlement (
        id TEXT NOT NULL PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        second_key TEXT UNIQUE,
        tenant TEXT NOT NULL,
        idempotency_key TEXT,
        body_digest BLOB,
        request_digest BLOB NOT NULL,
        dialect TEXT NOT NULL,
        chain_id INTEGER NOT NULL,
        asset BLOB NOT NULL,
        payer BLOB NOT NULL,
        amount TEXT NOT NULL,
        payment TEXT NOT NULL,
        state TEXT NOT NULL,
        version INTEGER NOT NULL,
        refusal TEXT,
        reply BLOB,
        listener TEXT,
        listener_until INTEGER NOT NULL,
        replied_success_at INTEGER,
        proof_transaction BLOB,
        proof_log_index INTEGER,
        proof_block_number INTEGER,
        proof_reference BLOB,
        proof_fee TEXT,
        traceparent TEXT,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX settlement_idempotency_key ON settlement (tenant, idempotency_key)
        WHERE idempotency_key IS NOT NULL;
    CREATE UNIQUE INDEX settlement_proof
        ON settlement (chain_id, proof_transaction, proof_log_index)
        WHERE proof_transaction IS NOT NULL;
    CREATE INDEX settlement_proof_transaction ON settlement (proof_transaction)
        WHERE proof_transaction IS NOT NULL;
    CREATE INDEX settlement_proof_block ON settlement (chain_id, proof_block_number)
        WHERE proof_block_number IS NOT NULL;
    CREATE INDEX settlement_state ON settlement (chain_id, state);
    CREATE INDEX settlement_open ON settlement (chain_id, asset, payer)
        WHERE state IN ('pending', 'reorged');
    CREATE INDEX settlement_finished ON settlement (chain_id, updated_at)
        WHERE state IN ('confirmed', 'failed', 'lost');
    CREATE INDEX settlement_listener ON settlement (listener)
        WHERE listener IS NOT NULL AND replied_success_at IS NULL;

    CREATE TABLE "transaction" (
        id INTEGER NOT NULL PRIMARY KEY,
        chain_id INTEGER NOT NULL,
        signer BLOB NOT NULL,
        account_nonce INTEGER NOT NULL,
        kind TEXT NOT NULL,
        target BLOB NOT NULL,
        calldata BLOB NOT NULL,
        gas_limit INTEGER NOT NULL,
        state TEXT NOT NULL,
        block_number INTEGER,
        gas_cost TEXT,
        l1_fee TEXT NOT NULL DEFAULT '0',
        created_at INTEGER NOT NULL,
        UNIQUE (chain_id, signer, account_nonce)
    ) STRICT;
    CREATE INDEX transaction_pending ON "transaction" (chain_id, signer)
        WHERE state = 'pending';
    CREATE INDEX transaction_mined ON "transaction" (chain_id, block_number)
        WHERE state = 'mined';
    CREATE INDEX transaction_filler ON "transaction" (chain_id, created_at)
        WHERE kind = 'fill';

    CREATE TABLE attempt (
        hash BLOB NOT NULL PRIMARY KEY,
        transaction_id INTEGER NOT NULL REFERENCES "transaction" (id),
        raw BLOB NOT NULL,
        max_fee_per_gas INTEGER NOT NULL,
        max_priority_fee_per_gas INTEGER NOT NULL,
        signed_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX attempt_transaction ON attempt (transaction_id);

    CREATE TABLE settlement_transaction (
        settlement_id TEXT NOT NULL REFERENCES settlement (id),
        transaction_id INTEGER NOT NULL REFERENCES "transaction" (id),
        position INTEGER NOT NULL,
        PRIMARY KEY (settlement_id, transaction_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX settlement_transaction_carried ON settlement_transaction (transaction_id);

    CREATE TABLE signer (
        chain_id INTEGER NOT NULL,
        address BLOB NOT NULL,
        next_nonce INTEGER NOT NULL,
        lease_holder TEXT,
        lease_until INTEGER,
        fencing_token INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (chain_id, address)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE gas_spent (
        chain_id INTEGER NOT NULL,
        signer BLOB NOT NULL,
        day INTEGER NOT NULL,
        wei TEXT NOT NULL,
        PRIMARY KEY (chain_id, signer, day)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE chain_loop (
        chain_id INTEGER NOT NULL,
        holder TEXT NOT NULL,
        held_until INTEGER NOT NULL,
        fencing_token INTEGER NOT NULL,
        PRIMARY KEY (chain_id)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE used_key (
        key TEXT NOT NULL PRIMARY KEY,
        chain_id INTEGER NOT NULL,
        transaction_hash BLOB NOT NULL,
        needed_until INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX used_key_needed ON used_key (chain_id, needed_until);
    """,
)

KNOWN_VERSION = FIRST_VERSION + len(MIGRATIONS) - 1


def next_step(version: int) -> int | None:
    """Return which step, as an index of MIGRATIONS, comes next for a schema of that version (0:
    there is none yet); None where all are made. StoreError for a schema more than one step newer
    than this program, and for a version that no release has written.
    """
    if version > KNOWN_VERSION + 1:
        raise StoreError(
            f"schema version {version} is too new for this program (it knows {KNOWN_VERSION})"
        )
    if 0 < version < FIRST_VERSION:
        raise StoreError(f"schema version {version} is of no release of this program")
    step = 0 if version == 0 else version - FIRST_VERSION + 1
    return step if step < len(MIGRATIONS) else None
