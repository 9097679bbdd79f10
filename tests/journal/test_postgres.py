"""What is PostgreSQL's own: many processes on one journal, connections that break, migrations."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from facilitator.domain.payment import Proof
from facilitator.domain.settlement import Attempt, SettlementState, TransactionState
from facilitator.journal.postgres.pool import BEGIN_WRITE, IDLE_TIMEOUT_MS, Pool
from facilitator.journal.postgres.store import PostgresStore
from facilitator.journal.schema import KNOWN_VERSION
from facilitator.journal.store import (
    Claimed,
    Fence,
    Overcommitted,
    SharedStore,
    Store,
    StoreError,
    Taken,
    TransactionChange,
)
from facilitator.telemetry.redaction import redact
from tests.support.engines import DATABASE, Engine, engine_of
from tests.support.journal import (
    ALICE,
    CHAIN_ID,
    NOW,
    OTHER_CHAIN_ID,
    change,
    claimed,
    everything,
    filler,
    moved,
    payment,
    proof,
    settlement_of,
    transaction_of,
)
from tests.support.postgres import PASSWORD, Server, running_server, settings
from tests.support.tcpproxy import TCPProxy, tcp_proxy

pytestmark = pytest.mark.anyio


@pytest.fixture(params=("postgres", "pgbouncer"))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """On a server only, straight and by way of PgBouncer."""
    return engine_of(request.param, request, tmp_path)


@pytest.fixture
async def replicas(engine: Engine) -> AsyncIterator[list[Store]]:
    """Three, as three processes would have them: each with connections of its own."""
    opened = [await engine() for _ in range(3)]
    yield opened
    for store in opened:
        await store.close()


@pytest.fixture
async def proxy(postgres: Server, engine: Engine) -> AsyncIterator[TCPProxy]:
    await (await engine()).close()  # which empties it
    async with tcp_proxy(postgres.port) as running:
        yield running


@pytest.fixture
async def far(proxy: TCPProxy, postgres: Server) -> AsyncIterator[Store]:
    """A journal behind the proxy."""
    store = await PostgresStore.open(settings(proxy.url(postgres.url(DATABASE)), pool_size=4))
    yield store
    await store.close()


# Several replicas


async def test_of_200_racers_on_three_replicas_one_claims_the_payment(
    replicas: list[Store],
) -> None:
    paid = payment()
    results = await asyncio.gather(
        *(replicas[n % 3].claim(settlement_of(paid), transaction_of(paid), NOW) for n in range(200))
    )
    [winner] = [result for result in results if isinstance(result, Claimed)]
    losers = [result for result in results if isinstance(result, Taken)]
    assert len(losers) == 199
    assert {loser.settlement.id for loser in losers} == {winner.settlement.id}


async def test_account_nonces_of_three_replicas_are_distinct_and_dense(
    replicas: list[Store],
) -> None:
    results = await asyncio.gather(*(claimed(replicas[n % 3]) for n in range(120)))
    nonces = sorted(result.transaction.account_nonce for result in results)
    assert nonces == list(range(120))


async def test_no_two_replicas_promise_the_same_money(replicas: list[Store]) -> None:
    """64 payments against a balance for one, on three replicas at once."""
    racers = [payment(amount=1_000) for _ in range(64)]
    results = await asyncio.gather(
        *(
            replicas[n % 3].claim(settlement_of(paid, available=1_000), transaction_of(paid), NOW)
            for n, paid in enumerate(racers)
        )
    )
    assert sum(isinstance(result, Claimed) for result in results) == 1
    assert sum(result == Overcommitted(0) for result in results) == 63


async def test_no_two_replicas_spend_the_same_gas_budget(replicas: list[Store]) -> None:
    """A budget for ten transactions, on three replicas at once."""
    racers = [payment(payer=n.to_bytes(20)) for n in range(1, 31)]
    cost = 200_000 * 2 * 10**9  # what `transaction_of` may cost
    results = await asyncio.gather(
        *(
            replicas[n % 3].claim(
                settlement_of(paid),
                replace(transaction_of(paid), gas_budget=10 * cost, most_cost=cost),
                NOW,
            )
            for n, paid in enumerate(racers)
        )
    )
    nonces = sorted(r.transaction.account_nonce for r in results if isinstance(r, Claimed))
    assert nonces == list(range(10))


async def test_a_nonce_that_is_used_up_by_two_keys_is_used_up_once(replicas: list[Store]) -> None:
    """The first key of one payment is the second key of the other, at the same time."""
    for n in range(20):
        one, two = payment(nonce=f"one {n}"), payment(nonce=f"two {n}")
        results = await asyncio.gather(
            replicas[0].claim(settlement_of(one, key=f"k{n}"), transaction_of(one), NOW),
            replicas[1].claim(settlement_of(two, second_key=f"k{n}"), transaction_of(two), NOW),
        )
        assert sum(isinstance(result, Claimed) for result in results) == 1


async def test_replicas_that_record_the_same_proof_confirm_one(replicas: list[Store]) -> None:
    for n in range(10):
        all_of_them = [(await claimed(store)).settlement for store in replicas]
        seen: Proof = proof(n)
        recorded = await asyncio.gather(
            *(
                store.record([], [change(each, SettlementState.CONFIRMED, seen=seen)], NOW)
                for store, each in zip(replicas, all_of_them, strict=True)
            )
        )
        assert sum(len(changed) for changed in recorded) == 1


async def test_one_replica_tells_success(replicas: list[Store]) -> None:
    settlement = (await claimed(replicas[0])).settlement
    await moved(replicas[1], settlement, SettlementState.CONFIRMED)
    told = await asyncio.gather(
        *(replicas[n % 3].mark_success_replied(settlement.id, "waiter", NOW + n) for n in range(30))
    )
    assert sum(told) == 1


async def test_a_frozen_replica_holds_up_the_others_for_seconds_only(
    engine: Engine, replicas: list[Store], postgres: Server
) -> None:
    """It holds the row of a signer, and says nothing more."""
    await claimed(replicas[0])
    frozen = await Pool.open(settings(postgres.url(DATABASE)))
    async with frozen._connection() as connection:
        await connection.execute(BEGIN_WRITE)
        await connection.execute("UPDATE signer SET next_nonce = next_nonce + 1")
        result = await asyncio.wait_for(claimed(replicas[1]), 2 * IDLE_TIMEOUT_MS / 1_000)
    assert result.transaction.account_nonce == 1
    await frozen.close()


# Who watches a chain


@pytest.fixture
def leaders(replicas: list[Store]) -> list[SharedStore]:
    return [store for store in replicas if isinstance(store, SharedStore)]


async def test_one_replica_at_a_time_leads_a_chain(leaders: list[SharedStore]) -> None:
    one, two, three = leaders
    assert await one.lead(CHAIN_ID, "one", 60_000) == 1
    assert await two.lead(CHAIN_ID, "two", 60_000) is None
    assert await one.lead(CHAIN_ID, "one", 60_000) == 1
    assert await two.lead(OTHER_CHAIN_ID, "two", 60_000) == 1
    await two.step_down(CHAIN_ID, "two")  # it has nothing to give
    assert await three.lead(CHAIN_ID, "three", 60_000) is None
    await one.step_down(CHAIN_ID, "one")
    racers = await asyncio.gather(
        *(store.lead(CHAIN_ID, f"racer {n}", 60_000) for n, store in enumerate([two, three] * 5))
    )
    assert sorted(token for token in racers if token is not None) == [2]


async def test_a_lease_that_is_not_prolonged_goes_to_another(leaders: list[SharedStore]) -> None:
    assert await leaders[0].lead(CHAIN_ID, "one", 200) == 1
    assert await leaders[1].lead(CHAIN_ID, "two", 60_000) is None
    await asyncio.sleep(0.3)
    assert await leaders[1].lead(CHAIN_ID, "two", 60_000) == 2
    assert await leaders[0].lead(CHAIN_ID, "one", 200) is None


async def test_who_has_lost_the_lease_writes_nothing(leaders: list[SharedStore]) -> None:
    """As a replica does that was frozen while another one took over."""
    fence = Fence(CHAIN_ID)
    loop = leaders[0].fenced(fence)
    result = await claimed(leaders[0])
    mined = TransactionChange(
        id=result.transaction.id, state=TransactionState.MINED, block_number=17
    )
    fence.token = await leaders[0].lead(CHAIN_ID, "one", 1)
    await asyncio.sleep(0.01)
    await loop.record([mined], [], NOW)  # nobody has taken it yet
    assert await leaders[1].lead(CHAIN_ID, "two", 60_000) == 2
    before = await everything(leaders[0])
    confirm = change(result.settlement, SettlementState.CONFIRMED)
    version = result.settlement.version
    attempt = result.transaction.attempts[0]

    def filler_attempt(_: Attempt) -> Attempt:
        raise AssertionError("nothing is signed without the lease")

    for writing in (
        loop.record([mined], [confirm], NOW),
        loop.finalize(CHAIN_ID, 17),
        loop.fill(filler(), 5, NOW),
        loop.replace_with_filler(filler(), 0, filler_attempt, NOW),
        loop.add_attempt(result.transaction.id, attempt, None, NOW),
        loop.settle_again(
            result.settlement.id, version, transaction_of(result.settlement.payment), NOW
        ),
    ):
        with pytest.raises(StoreError, match="another replica watches"):
            await writing
    assert await everything(leaders[0]) == before
    fence.token = 2
    assert len(await loop.record([], [confirm], NOW)) == 1


async def test_what_has_ended_is_told_of_those_asked_for(leaders: list[SharedStore]) -> None:
    ended, going_on = await claimed(leaders[0]), await claimed(leaders[1])
    await moved(leaders[2], ended.settlement, SettlementState.FAILED)
    asked = [ended.settlement.id, going_on.settlement.id, "unknown"]
    assert await leaders[0].ended(asked) == {ended.settlement.id}


# Connections that break


async def test_a_claim_whose_commit_was_answered_into_the_void_is_found(
    far: Store, proxy: TCPProxy
) -> None:
    proxy.lose_next = "reply"
    result = await claimed(far)
    assert proxy.lost == 1
    assert result.transaction.account_nonce == 0
    record = await far.get(result.settlement.id)
    assert record is not None
    assert (record.settlement, record.transactions) == (result.settlement, (result.transaction,))


async def test_a_claim_whose_commit_never_arrived_leaves_no_trace(
    far: Store, proxy: TCPProxy
) -> None:
    paid = payment()
    proxy.lose_next = "request"
    with pytest.raises(StoreError, match="nothing was written"):
        await far.claim(settlement_of(paid), transaction_of(paid), NOW)
    assert proxy.lost == 1
    assert await far.find(settlement_of(paid).key) is None
    assert (await claimed(far, paid)).transaction.account_nonce == 0


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_the_right_to_say_success_is_had_once_whatever_is_lost(
    far: Store, proxy: TCPProxy, lost: str
) -> None:
    settlement = (await claimed(far)).settlement
    await moved(far, settlement, SettlementState.CONFIRMED)
    proxy.lose_next = lost
    assert await far.mark_success_replied(settlement.id, "waiter", NOW)
    assert proxy.lost == 1
    assert not await far.mark_success_replied(settlement.id, "waiter", NOW)


async def test_a_database_out_of_reach_is_an_error_within_seconds_and_then_forgotten(
    far: Store, proxy: TCPProxy
) -> None:
    await far.ping()
    upstream, proxy.upstream = proxy.upstream, 1
    proxy.cut()
    with pytest.raises(StoreError):
        await asyncio.wait_for(far.ping(), 30)
    proxy.upstream = upstream
    await far.ping()


async def test_no_error_holds_a_password_or_a_row(postgres: Server, far: Store) -> None:
    wrong = replace(settings(postgres.url(DATABASE)), password="hunter2")
    with pytest.raises(StoreError) as caught:
        await PostgresStore.open(wrong)
    assert "hunter2" not in str(caught.value)
    assert "password authentication failed" in str(caught.value)
    attempt = (await claimed(far)).transaction.attempts[0]
    second = (await claimed(far)).transaction
    with pytest.raises(StoreError) as caught:
        await far.add_attempt(second.id, attempt, None, NOW)
    assert attempt.hash.hex() not in str(caught.value)
    assert PASSWORD not in str(caught.value)


async def test_a_password_that_is_rotated_is_a_secret_of_the_log(
    postgres: Server, tmp_path: Path
) -> None:
    """From the first connection on that was made with it."""
    file = tmp_path / "password"
    file.write_text("the-first-password\n")
    postgres.execute(DATABASE, "CREATE ROLE rotating LOGIN PASSWORD 'the-first-password'")
    url = f"postgresql://rotating@127.0.0.1:{postgres.port}/{DATABASE}?sslmode=disable"
    pool = await Pool.open(settings(url, password_file=file))
    assert redact("the-first-password and the-second-password") == (
        "[redacted] and the-second-password"
    )
    postgres.execute(DATABASE, "ALTER ROLE rotating PASSWORD 'the-second-password'")
    file.write_text("the-second-password\n")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'"
    postgres.execute(DATABASE, end)
    for _ in range(2):  # the first finds that its connection has ended
        with suppress(StoreError):
            assert await pool.read(lambda db: db.fetchval("SELECT current_user")) == "rotating"
    assert redact("the-first-password and the-second-password") == "[redacted] and [redacted]"
    await pool.close()
    postgres.execute(DATABASE, "DROP ROLE rotating")


async def test_a_crash_of_the_server_loses_no_acknowledged_claim() -> None:
    """Killed under load, three times; what is acknowledged is there, and nonces are dense."""
    with running_server(durable=True) as server:
        server.create(DATABASE)
        store = await PostgresStore.open(settings(server.url(DATABASE)))
        acknowledged: set[str] = set()

        async def claim_on(stop: asyncio.Event) -> None:
            while not stop.is_set():
                try:
                    acknowledged.add((await claimed(store)).settlement.id)
                except StoreError:
                    await asyncio.sleep(0.05)

        for _ in range(3):
            stop, before = asyncio.Event(), len(acknowledged)
            lanes = [asyncio.ensure_future(claim_on(stop)) for _ in range(8)]
            while len(acknowledged) < before + 40:  # noqa: ASYNC110 - the lanes count
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.stop, signal.SIGQUIT)
            await asyncio.to_thread(server.start, durable=True)
            stop.set()
            await asyncio.gather(*lanes)
        records = (await store.open_work(CHAIN_ID)).records
        assert acknowledged <= {record.settlement.id for record in records}
        nonces = sorted(record.transactions[0].account_nonce for record in records)
        assert nonces == list(range(len(records)))
        assert await store.raise_nonce_floor(CHAIN_ID, ALICE, 0) == len(records)
        await store.close()


# The server


async def test_replicas_that_start_together_migrate_once(postgres: Server) -> None:
    postgres.create("fresh")
    stores = await asyncio.gather(
        *(PostgresStore.open(settings(postgres.url("fresh"), pool_size=2)) for _ in range(8))
    )
    version = postgres.execute("fresh", "SELECT version FROM facilitator_schema")
    assert version == str(KNOWN_VERSION)
    await claimed(stores[0])
    for store in stores:
        await store.close()
    postgres.drop("fresh")


async def test_a_newer_schema_by_one_is_accepted_and_by_two_is_not(postgres: Server) -> None:
    postgres.create("newer")
    url = postgres.url("newer")
    await (await PostgresStore.open(settings(url))).close()
    for accepted in (True, False):
        postgres.execute("newer", "UPDATE facilitator_schema SET version = version + 1")
        if accepted:
            store = await PostgresStore.open(settings(url))
            await claimed(store)
            await store.close()
        else:
            with pytest.raises(StoreError, match="too new"):
                await PostgresStore.open(settings(url))
    postgres.drop("newer")


async def test_a_server_that_acknowledges_too_early_is_refused(postgres: Server) -> None:
    postgres.create("early")
    postgres.execute("early", "ALTER DATABASE early SET synchronous_commit = off")
    with pytest.raises(StoreError, match="synchronous_commit is off"):
        await PostgresStore.open(settings(postgres.url("early")))
    postgres.drop("early")


async def test_tls_is_what_the_url_says(tmp_path: Path) -> None:
    """A server without it, and a certificate that is not the one to trust, are refused."""
    with running_server() as server:
        own, stranger = certificate(tmp_path / "own"), certificate(tmp_path / "stranger")
        plain = server.url(DATABASE)
        verified = plain.replace("=disable", f"=verify-full&sslrootcert={own}")
        with pytest.raises(StoreError, match="cannot open the journal"):
            await PostgresStore.open(settings(verified))
        server.stop()
        server.encrypt(own, own.with_suffix(".key"))
        server.start()
        server.create(DATABASE)
        await (await PostgresStore.open(settings(verified))).close()
        for url in (plain, verified.replace(str(own), str(stranger))):
            with pytest.raises(StoreError, match="cannot open the journal"):
                await PostgresStore.open(settings(url))


def certificate(path: Path) -> Path:
    """One for this machine's address, with its key beside it."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(path.with_suffix(".key")), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    return path


async def test_no_hot_statement_looks_through_what_is_finished(postgres: Server) -> None:
    """With the finished rows in the thousands, each question is answered by an index."""
    postgres.create("plans")
    store = await PostgresStore.open(settings(postgres.url("plans")))
    result = await claimed(store)
    await moved(store, result.settlement, SettlementState.FAILED)
    postgres.execute("plans", FINISHED)
    assert (await store.settlement_counts(CHAIN_ID)).total == 5001
    await store.close()
    store = await PostgresStore.open(settings(postgres.url("plans")))
    await asyncio.sleep(1.2)  # statistics are a second late
    reads = "SELECT sum(seq_tup_read) FROM pg_stat_user_tables"
    before = int(postgres.execute("plans", f"SELECT pg_stat_reset(); {reads}").split()[-1])
    for _ in range(3):
        fresh = await claimed(store)
        await store.find(settlement_of(payment()).key)
        await store.open_work(CHAIN_ID)
        await store.watched(CHAIN_ID, 10**9)
        await store.in_flight(CHAIN_ID)
        assert (await store.settlement_counts(CHAIN_ID)).pending == 1
        assert await store.forget(CHAIN_ID, horizon=1, before=1, now=NOW, limit=9) == 0
        await moved(store, fresh.settlement, SettlementState.FAILED)
        await store.finalize(CHAIN_ID, 1)
    await store.close()
    await asyncio.sleep(1.2)  # statistics are a second late
    # The one row that says which tables there are is read from the table itself.
    assert int(postgres.execute("plans", reads)) - before < 100
    postgres.drop("plans")


async def test_a_tally_of_many_rows_is_folded_into_few_and_stays_what_it_was(
    postgres: Server,
) -> None:
    """By replicas that count at once, while settlements come and go."""
    postgres.create("tally")
    stores = [await PostgresStore.open(settings(postgres.url("tally"))) for _ in range(3)]
    result = await claimed(stores[0])
    await moved(stores[0], result.settlement, SettlementState.FAILED)
    postgres.execute("tally", FINISHED)
    for _ in range(5):
        counting = asyncio.gather(*(store.settlement_counts(CHAIN_ID) for store in stores))
        one = await claimed(stores[0])
        await counting
        await moved(stores[1], one.settlement, SettlementState.CONFIRMED)
    states = {"confirmed": 5, "failed": 5001}
    assert [(await store.settlement_counts(CHAIN_ID)).states for store in stores] == [states] * 3
    assert int(postgres.execute("tally", "SELECT count(*) FROM settlement_tally")) < 50
    for store in stores:
        await store.close()
    postgres.drop("tally")


FINISHED = """
INSERT INTO settlement SELECT (jsonb_populate_record(settlement, jsonb_build_object(
    'id', md5(number::text), 'key', number::text, 'second_key', NULL))).*
    FROM settlement, generate_series(1, 5000) AS number;
INSERT INTO "transaction" (chain_id, signer, account_nonce, kind, target, calldata, gas_limit,
    state, block_number, created_at)
    SELECT 420691, '\\x01', number, 'settle', '', '', 1, 'final', 1, 1
    FROM generate_series(1, 5000) AS number;
INSERT INTO attempt (hash, transaction_id, raw, max_fee_per_gas, max_priority_fee_per_gas,
    signed_at) SELECT decode(md5(id::text), 'hex'), id, '', 1, 1, 1 FROM "transaction"
    WHERE state = 'final';
INSERT INTO settlement_transaction
    SELECT md5(account_nonce::text), id, 0 FROM "transaction" WHERE state = 'final';
ANALYZE;
"""
