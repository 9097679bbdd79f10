"""Replicas on PostgreSQL tell each other of outcomes, and look for them where that fails."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from statistics import median

import pytest
from msgspec.structs import replace

from facilitator.commands.devnet import Devnet
from facilitator.config.database import PostgreSQL
from facilitator.domain.settlement import SettlementState
from facilitator.engine.leader import FOLLOW_EVERY, LOOK_ANYWAY_EVERY
from facilitator.journal.postgres.notify import HEARD_WITHIN, IDS_A_NOTICE, SPEAK_EVERY
from facilitator.journal.postgres.store import PostgresStore
from tests.support.chain import approve, devnet_payment
from tests.support.engines import DATABASE, empty
from tests.support.journal import (
    NOW,
    change,
    claimed,
    moved,
    payment,
    settlement_of,
    transaction_of,
)
from tests.support.postgres import PASSWORD, URL_PASSWORD, Server, settings
from tests.support.replicated import variables
from tests.support.scraping import scrape, scrape_until
from tests.support.service import Service, launch
from tests.support.tcpproxy import tcp_proxy

pytestmark = pytest.mark.anyio

PAYMENTS, APART = 20, 0.5  # seconds


@pytest.fixture
def direct(postgres: Server) -> PostgreSQL:
    """An empty journal, by way of nothing else."""
    empty(postgres)
    return settings(postgres.url(DATABASE))


@asynccontextmanager
async def listening(database: PostgreSQL) -> AsyncIterator[tuple[PostgresStore, list[str]]]:
    """A replica's journal, and what it is told of."""
    store = await PostgresStore.open(database)
    told: list[str] = []
    store.notices.subscribe(told.append)
    running = asyncio.ensure_future(store.notices.run())
    try:
        yield store, told
    finally:
        running.cancel()
        await store.close()


async def until(happened: Callable[[], bool], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not happened():  # noqa: ASYNC110 - nobody else waits for it
            await asyncio.sleep(0.01)


# What is told


async def test_what_one_replica_records_is_told_to_all_and_nothing_else_is(
    direct: PostgreSQL,
) -> None:
    """No claim is: a commit that tells of something waits for all others that do."""
    async with listening(direct) as (first, told), listening(direct) as (second, told_too):
        await until(lambda: first.notices.arrive and second.notices.arrive)
        _, ended = await claimed(first), await claimed(first)
        await moved(first, ended.settlement, SettlementState.FAILED)
        await until(lambda: bool(told and told_too))
        assert told == told_too == [ended.settlement.id]
        journal = await second.get(ended.settlement.id)
        assert journal is not None
        assert journal.settlement.state is SettlementState.FAILED


async def test_more_than_one_notice_holds_is_told_in_several(direct: PostgreSQL) -> None:
    async with listening(direct) as (store, told):
        await until(lambda: store.notices.arrive)
        group = [settlement_of(payment()) for _ in range(2 * IDS_A_NOTICE + 1)]
        new = transaction_of(group[0].payment)
        claims = await store.claim_group(group, lambda _: new, NOW)
        assert isinstance(claims, tuple)
        taken_on = [each.settlement for each in claims if hasattr(each, "settlement")]
        changes = [change(each, SettlementState.CONFIRMED) for each in taken_on]
        assert len(await store.record([], changes, NOW)) == len(group)
        await until(lambda: len(told) >= len(group))
        assert sorted(told) == sorted(each.id for each in taken_on)


# Where notices do not arrive


async def test_a_connection_that_ends_is_made_again(postgres: Server, direct: PostgreSQL) -> None:
    async with tcp_proxy(postgres.port) as proxy:
        far = replace(direct, direct=settings(proxy.url(postgres.url(DATABASE))))
        async with listening(far) as (store, told):
            await until(lambda: store.notices.arrive)
            proxy.cut()
            await until(lambda: not store.notices.arrive, within=1)
            await until(lambda: store.notices.arrive)
            settlement = (await claimed(store)).settlement
            await moved(store, settlement, SettlementState.CONFIRMED)
            await until(lambda: settlement.id in told, within=1)


async def test_a_connection_that_is_dead_without_a_word_is_noticed(
    postgres: Server, direct: PostgreSQL
) -> None:
    async with tcp_proxy(postgres.port) as proxy:
        far = replace(direct, direct=settings(proxy.url(postgres.url(DATABASE))))
        async with listening(far) as (store, _):
            await until(lambda: store.notices.arrive)
            proxy.freeze()
            await until(lambda: not store.notices.arrive, SPEAK_EVERY + HEARD_WITHIN + 2)
            proxy.thaw()
            await until(lambda: store.notices.arrive, 15)


async def test_behind_pgbouncer_nobody_listens_but_by_another_way(
    pgbouncer: Server, direct: PostgreSQL
) -> None:
    pooled = settings(pgbouncer.url(DATABASE), statement_cache=0)
    async with listening(pooled) as (store, _):
        await asyncio.wait_for(store.notices.run(), 1)
        assert not store.notices.arrive
    async with listening(replace(pooled, direct=direct)) as (store, told):
        await until(lambda: store.notices.arrive)
        settlement = (await claimed(store)).settlement
        await moved(store, settlement, SettlementState.CONFIRMED)
        await until(lambda: settlement.id in told, within=1)


async def test_a_pooler_where_none_should_be_is_not_counted_on(
    pgbouncer: Server, direct: PostgreSQL
) -> None:
    """There LISTEN succeeds, for a session that is another client's in the next moment."""
    pooled = settings(pgbouncer.url(DATABASE), statement_cache=0)
    async with listening(replace(direct, direct=pooled)) as (store, _):
        await asyncio.sleep(HEARD_WITHIN + 2)
        assert not store.notices.arrive
        await moved(store, (await claimed(store)).settlement, SettlementState.CONFIRMED)


# Services


@asynccontextmanager
async def two(told: dict[str, str], **follower: str) -> AsyncIterator[tuple[Service, Service]]:
    """Two replicas: who watches the chain, and who does not."""
    async with AsyncExitStack() as stack:
        first = await (await stack.enter_async_context(launch(told))).started()
        await first.wait_for("watching")
        yield first, await (await stack.enter_async_context(launch({**told, **follower}))).started()


async def lateness(devnet: Devnet, watcher: Service, follower: Service) -> list[float]:
    """Seconds from the commit of an outcome in one replica to the other one's reply, of so many
    payments asked for one after the other.
    """
    replied: dict[str, float] = {}

    async def pay() -> None:
        reply = await follower.settle(devnet_payment(devnet))
        assert reply["success"], reply
        replied[reply["txHash"]] = time.time()

    async with asyncio.TaskGroup() as paying:
        for _ in range(PAYMENTS):
            paying.create_task(pay())
            await asyncio.sleep(APART)
    await watcher.wait_for("settlement_confirmed", PAYMENTS)
    recorded = {
        line["transaction"]: datetime.fromisoformat(line["time"]).timestamp()
        for line in watcher.logged("settlement_confirmed")
    }
    assert not follower.logged("watching")
    return sorted(replied[transaction] - recorded[transaction] for transaction in replied)


async def test_a_reply_leaves_at_once_whichever_replica_has_seen_the_receipt(
    devnet: Devnet, postgres: Server, direct: PostgreSQL, tmp_path: Path
) -> None:
    """Looking alone would take half of `LOOK_ANYWAY_EVERY` in the mean."""
    await approve(devnet)
    async with two(variables(devnet, postgres.url(DATABASE), tmp_path)) as (watcher, follower):
        await follower.wait_for("notices_arrive")
        late = await lateness(devnet, watcher, follower)
        assert (await scrape(follower)).values("facilitator_notices_up") == [1]
    print(f"with LISTEN: p50 {median(late) * 1000:.0f} ms, at most {late[-1] * 1000:.0f} ms")
    assert median(late) < LOOK_ANYWAY_EVERY / 10


async def test_replicas_behind_pgbouncer_look_for_outcomes(
    devnet: Devnet, direct: PostgreSQL, pgbouncer: Server, tmp_path: Path
) -> None:
    await approve(devnet)
    told = variables(devnet, pgbouncer.url(DATABASE), tmp_path)
    async with two({**told, "DATABASE_STATEMENT_CACHE": "0"}) as (watcher, follower):
        late = await lateness(devnet, watcher, follower)
        assert (await scrape(follower)).values("facilitator_notices_up") == [0]
        assert not follower.logged("notices_arrive") + follower.logged("notices_lost")
    print(f"without: p50 {median(late) * 1000:.0f} ms, at most {late[-1] * 1000:.0f} ms")
    assert median(late) < 2 * FOLLOW_EVERY


async def test_without_the_listening_connection_replies_come_all_the_same(
    devnet: Devnet, postgres: Server, direct: PostgreSQL, tmp_path: Path
) -> None:
    """It is lost, outcomes are looked for, it comes back by itself; neither is kept secret, unlike
    the password.
    """
    await approve(devnet)
    url = postgres.url(DATABASE)
    async with tcp_proxy(postgres.port) as proxy:
        told = variables(devnet, url, tmp_path)
        async with two(told, DATABASE_LISTEN_URL=proxy.url(url)) as (_, follower):
            await follower.wait_for("notices_arrive")
            upstream, proxy.upstream = proxy.upstream, 1
            proxy.cut()
            await follower.wait_for("notices_lost")
            for _ in range(3):
                assert (await follower.settle(devnet_payment(devnet)))["success"]
            assert (await scrape(follower)).values("facilitator_notices_up") == [0]
            proxy.upstream = upstream
            await follower.wait_for("notices_arrive", 2)
            await scrape_until(follower, lambda seen: bool(seen.value("facilitator_notices_up")))
            assert (await follower.settle(devnet_payment(devnet)))["success"]
        assert PASSWORD not in follower.output.decode()


async def test_a_wrong_address_to_listen_at_is_told_without_its_password_whoever_quotes_it(
    devnet: Devnet, postgres: Server, direct: PostgreSQL, tmp_path: Path
) -> None:
    await approve(devnet)
    url = postgres.url(DATABASE)
    wrong = url.replace(URL_PASSWORD, "hunter2hunter2")
    told = {**variables(devnet, url, tmp_path), "DATABASE_LISTEN_URL": wrong}
    async with launch(told, sys.executable, "-m", "tests.support.leaky") as service:
        await (await service.started()).wait_for("notices_lost")
        assert (await service.settle(devnet_payment(devnet)))["success"]
        quoting = f"{service.url}/leak/traceback"
        async with service.session.post(quoting, data="hunter2hunter2") as response:
            assert response.status == 200
    assert "password authentication failed" in service.logged("notices_lost")[0]["why"]
    assert "hunter2" not in service.output.decode()
