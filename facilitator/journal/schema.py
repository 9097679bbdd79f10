"""The tables, as numbered steps that only go forward.

A binary takes a schema that is one step newer than its own (steps first add, and take away a
release later), so rolling back needs no way down. Amounts are decimal text: uint256 fits no
integer column. `gas_spent` sums what FINAL transactions have cost, by the UTC day of their signing,
so that a day's spending is told from a few rows. `settlement_tally` is how many settlements are
finished, kept by triggers: what a program of an earlier version writes is counted as well.

Nothing uses the columns `lease_holder`, `lease_until` and `fencing_token` of `signer`, nor, in
PostgreSQL, the index `settlement_listener`: a later release takes them away.
"""

from facilitator.journal.store import StoreError

# Marks the file as a journal (SQLite's application_id): "x402" in ASCII.
APPLICATION_ID = 0x78343032

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE settlement (
        id TEXT NOT NULL PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        second_key TEXT UNIQUE,
        tenant TEXT NOT NULL,
        idempotency_key TEXT,
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
    CREATE INDEX settlement_state ON settlement (chain_id, state);
    CREATE INDEX settlement_open ON settlement (chain_id, asset, payer)
        WHERE state IN ('pending', 'reorged');
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
        created_at INTEGER NOT NULL,
        UNIQUE (chain_id, signer, account_nonce)
    ) STRICT;
    CREATE INDEX transaction_pending ON "transaction" (chain_id, signer)
        WHERE state = 'pending';
    CREATE INDEX transaction_mined ON "transaction" (chain_id, block_number)
        WHERE state = 'mined';

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
    """,
    """
    ALTER TABLE settlement ADD COLUMN body_digest BLOB;
    ALTER TABLE settlement ADD COLUMN reply BLOB;
    CREATE INDEX settlement_proof_transaction ON settlement (proof_transaction)
        WHERE proof_transaction IS NOT NULL;
    """,
    """
    ALTER TABLE "transaction" ADD COLUMN gas_cost TEXT;
    ALTER TABLE "transaction" ADD COLUMN l1_fee TEXT NOT NULL DEFAULT '0';
    CREATE INDEX settlement_proof_block ON settlement (chain_id, proof_block_number)
        WHERE proof_block_number IS NOT NULL;
    CREATE TABLE gas_spent (
        chain_id INTEGER NOT NULL,
        signer BLOB NOT NULL,
        day INTEGER NOT NULL,
        wei TEXT NOT NULL,
        PRIMARY KEY (chain_id, signer, day)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE chain_loop (
        chain_id INTEGER NOT NULL,
        holder TEXT NOT NULL,
        held_until INTEGER NOT NULL,
        fencing_token INTEGER NOT NULL,
        PRIMARY KEY (chain_id)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE INDEX settlement_finished ON settlement (chain_id, updated_at)
        WHERE state IN ('confirmed', 'failed', 'lost');
    CREATE INDEX transaction_filler ON "transaction" (chain_id, created_at)
        WHERE kind = 'fill';
    CREATE TABLE used_key (
        key TEXT NOT NULL PRIMARY KEY,
        chain_id INTEGER NOT NULL,
        transaction_hash BLOB NOT NULL,
        needed_until INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX used_key_needed ON used_key (chain_id, needed_until);
    """,
    """
    CREATE TABLE settlement_tally (
        chain_id INTEGER NOT NULL,
        state TEXT NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (chain_id, state)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER tally_inserted AFTER INSERT ON settlement
        WHEN NEW.state IN ('confirmed', 'failed', 'lost')
    BEGIN
        INSERT INTO settlement_tally VALUES (NEW.chain_id, NEW.state, 1)
            ON CONFLICT DO UPDATE SET number = number + 1;
    END;
    CREATE TRIGGER tally_finished AFTER UPDATE OF state ON settlement
        WHEN NEW.state <> OLD.state AND NEW.state IN ('confirmed', 'failed', 'lost')
    BEGIN
        INSERT INTO settlement_tally VALUES (NEW.chain_id, NEW.state, 1)
            ON CONFLICT DO UPDATE SET number = number + 1;
    END;
    CREATE TRIGGER tally_opened AFTER UPDATE OF state ON settlement
        WHEN NEW.state <> OLD.state AND OLD.state IN ('confirmed', 'failed', 'lost')
    BEGIN
        UPDATE settlement_tally SET number = number - 1
            WHERE chain_id = OLD.chain_id AND state = OLD.state;
    END;
    CREATE TRIGGER tally_deleted AFTER DELETE ON settlement
        WHEN OLD.state IN ('confirmed', 'failed', 'lost')
    BEGIN
        UPDATE settlement_tally SET number = number - 1
            WHERE chain_id = OLD.chain_id AND state = OLD.state;
    END;
    INSERT INTO settlement_tally SELECT chain_id, state, count(*) FROM settlement
        WHERE state IN ('confirmed', 'failed', 'lost') GROUP BY chain_id, state;
    """,
)


def refuse_newer(version: int) -> None:
    """StoreError for a schema that this program does not understand: one step ahead it does."""
    known = len(MIGRATIONS)
    if version > known + 1:
        raise StoreError(f"schema version {version} is too new for this program (it knows {known})")
