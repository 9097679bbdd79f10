"""How many settlements there are, in PostgreSQL, at a cost that does not grow with their number.

A trigger puts down each that is finished, or is so no more, as a row of its own: a counter that
all of them raised would have every replica wait for every other one. What the rows come to is
exact at any moment, and now and then they are folded into a few.
"""

from facilitator.domain.settlement import SettlementCounts
from facilitator.journal.postgres.pool import Connection
from facilitator.journal.queries import OPEN

# Above so many rows of a chain they are folded; and so many at a time.
TALLY_ROWS = 1_000
FOLD_LIMIT = 50_000

# In place of SQLite's triggers, which count in one row. The lock that CREATE TRIGGER takes keeps
# writers out until the step is committed, so that the first count misses none.
TALLY = """
    CREATE TABLE settlement_tally (
        chain_id BIGINT NOT NULL,
        state TEXT NOT NULL,
        number BIGINT NOT NULL
    );
    CREATE INDEX settlement_tally_chain ON settlement_tally (chain_id);
    CREATE FUNCTION settlement_tally() RETURNS trigger LANGUAGE plpgsql AS $tally$
    BEGIN
        IF TG_OP <> 'INSERT' AND OLD.state IN ('confirmed', 'failed', 'lost') THEN
            INSERT INTO settlement_tally VALUES (OLD.chain_id, OLD.state, -1);
        END IF;
        IF TG_OP <> 'DELETE' AND NEW.state IN ('confirmed', 'failed', 'lost') THEN
            INSERT INTO settlement_tally VALUES (NEW.chain_id, NEW.state, 1);
        END IF;
        RETURN NULL;
    END $tally$;
    CREATE TRIGGER tally_inserted AFTER INSERT ON settlement FOR EACH ROW
        WHEN (NEW.state IN ('confirmed', 'failed', 'lost')) EXECUTE FUNCTION settlement_tally();
    CREATE TRIGGER tally_updated AFTER UPDATE OF state ON settlement FOR EACH ROW
        WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION settlement_tally();
    CREATE TRIGGER tally_deleted AFTER DELETE ON settlement FOR EACH ROW
        EXECUTE FUNCTION settlement_tally();
    INSERT INTO settlement_tally SELECT chain_id, state, count(*) FROM settlement
        WHERE state IN ('confirmed', 'failed', 'lost') GROUP BY chain_id, state;
"""


async def counts(chain_id: int, db: Connection) -> tuple[SettlementCounts, int]:
    """The open ones are counted, of the finished ones the tally tells; and in how many rows."""
    rows = await db.fetch(
        f"""SELECT state, count(*) AS number, min(created_at) AS oldest, 0 AS tallied
            FROM settlement WHERE chain_id = $1 AND state IN {OPEN} GROUP BY state
            UNION ALL SELECT state, sum(number)::bigint, NULL, count(*) FROM settlement_tally
            WHERE chain_id = $1 GROUP BY state""",
        chain_id,
    )
    states = {row["state"]: row["number"] for row in rows if row["number"]}
    oldest = [row["oldest"] for row in rows if row["state"] == "pending"]
    told = SettlementCounts(states, oldest[0] if oldest else None)
    return told, sum(row["tallied"] for row in rows)


async def fold(chain_id: int, db: Connection) -> None:
    """Make few rows of many, beside others that do the same: each takes rows of its own."""
    await db.execute(
        """WITH taken AS (
               DELETE FROM settlement_tally WHERE ctid = ANY (ARRAY(
                   SELECT ctid FROM settlement_tally WHERE chain_id = $1 LIMIT $2
                   FOR UPDATE SKIP LOCKED))
               RETURNING state, number
           ) INSERT INTO settlement_tally
             SELECT $1::bigint, state, sum(number) FROM taken GROUP BY state""",
        chain_id,
        FOLD_LIMIT,
    )
