"""The lease of a chain's loop: held through turns that take longer than it lasts, lost for good
where another replica has it, and asked for without holding up who has it.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.engine.leader import LEASE_MS
from facilitator.journal.postgres import leases
from facilitator.journal.postgres.connection import PostgresConnection
from facilitator.journal.postgres.pool import BEGIN_WRITE, Pool
from facilitator.journal.postgres.store import PostgresStore
from facilitator.journal.store import Fence, LostLease
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.engines import DATABASE, empty
from tests.support.faultproxy import FaultProxy, delay, fault_proxy
from tests.support.journal import CHAIN_ID, NOW
from tests.support.postgres import Server, running_server, settings
from tests.support.replicated import variables
from tests.support.service import Service, launch, request

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture
async def journal(postgres: Server) -> AsyncIterator[PostgresStore]:
    empty(postgres)
    store = await PostgresStore.open(settings(postgres.url(DATABASE)))
    yield store
    await store.close()


@pytest.fixture
async def proxy(devnet: Devnet) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(devnet.url) as running:
        yield running


@pytest.fixture
async def replicas(
    devnet: Devnet, proxy: FaultProxy, postgres: Server, tmp_path: Path
) -> AsyncIterator[list[Service]]:
    """Three, by way of the proxy; the first is the one that watches the chain."""
    empty(postgres)
    await approve(devnet)
    told = variables(devnet, postgres.url(DATABASE), tmp_path)
    told = {name: proxy.url if value == devnet.url else value for name, value in told.items()}
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(launch(told)) for _ in range(3)]
        running = await asyncio.gather(*(replica.started() for replica in started))
        await until(lambda: any(replica.logged("watching") for replica in running), 30)
        yield sorted(running, key=lambda replica: not replica.logged("watching"))


async def until(holds: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - other processes make it so
            await asyncio.sleep(0.05)


def token(server: Server) -> int:
    return int(server.execute(DATABASE, "SELECT max(fencing_token) FROM chain_loop"))


async def store_errors(replica: Service) -> list[str]:
    """What the replica tells Prometheus that its journal could not do."""
    async with replica.session.get(f"{replica.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    told = [line for line in lines if line.startswith("facilitator_store_errors_total{")]
    return [line for line in told if not line.endswith(" 0.0")]


async def test_who_asks_in_vain_for_a_lease_holds_up_nothing_that_is_written_by_it(
    journal: PostgresStore, postgres: Server
) -> None:
    """Not even where it is frozen while it asks, before its transaction has ended."""
    fence = Fence(CHAIN_ID)
    fence.token = await journal.lead(CHAIN_ID, "leader", 60_000)
    follower = await Pool.open(settings(postgres.url(DATABASE)))
    async with follower._connection() as connection:
        await connection.execute(BEGIN_WRITE)
        assert (
            await leases.lead(PostgresConnection(connection), CHAIN_ID, "follower", LEASE_MS)
            is None
        )
        async with asyncio.timeout(1):
            await journal.fenced(fence).record([], [], NOW)
            assert await journal.lead(CHAIN_ID, "leader", 60_000) == fence.token
        await connection.execute("ROLLBACK")
    await follower.close()


async def test_what_was_asked_under_a_lost_lease_is_not_written_by_the_next_one(
    journal: PostgresStore,
) -> None:
    """It waits for a connection, while its process loses the lease and gets another one."""
    fence = Fence(CHAIN_ID)
    loop = journal.fenced(fence)
    fence.token = await journal.lead(CHAIN_ID, "one", 1)
    await asyncio.sleep(0.01)
    assert await journal.lead(CHAIN_ID, "two", 1) == 2
    await asyncio.sleep(0.01)
    assert await journal.lead(CHAIN_ID, "one", 60_000) == 3
    late = asyncio.create_task(loop.finalize(CHAIN_ID, 17))
    await asyncio.sleep(0)  # it is asked for, and nothing has come of it yet
    fence.token = 3
    with pytest.raises(LostLease):
        await late
    assert await loop.finalize(CHAIN_ID, 17) == 0


async def test_turns_that_take_longer_than_the_lease_keep_it(
    devnet: Devnet, proxy: FaultProxy, postgres: Server, replicas: list[Service]
) -> None:
    """Nodes that take 1.3 s for every answer: outcomes are recorded, and nobody else takes over."""
    before = token(postgres)
    proxy.faults["*"] = delay(1.3)
    headers = [devnet_payment(devnet) for _ in range(2)]
    await asyncio.gather(*(replicas[1].post("/settle", request(each)) for each in headers))
    confirmed = "SELECT count(*) FROM settlement WHERE state = 'confirmed'"
    await until(lambda: postgres.execute(DATABASE, confirmed) == "2", 60)
    assert token(postgres) == before
    assert not any(replica.logged("lease_lost") for replica in replicas)
    assert len(await settled_logs(devnet)) == 2


async def test_a_turn_ends_where_its_lease_is_lost_and_no_journal_is_blamed(
    devnet: Devnet, proxy: FaultProxy, postgres: Server, replicas: list[Service]
) -> None:
    """The replica that watches is frozen in the middle of a turn, and wakes after another one has
    taken over: it follows from then on, and the payment is settled once.
    """
    leader, *others = replicas
    before = token(postgres)
    proxy.faults["*"] = delay(1.5)
    asked = asyncio.create_task(others[0].post("/settle", request(devnet_payment(devnet))))
    claimed = """SELECT count(*) FROM "transaction" """
    await until(lambda: postgres.execute(DATABASE, claimed) == "1", 30)
    await asyncio.sleep(1)  # the leader looks every half second, and then asks for the head
    leader.process.send_signal(signal.SIGSTOP)
    await until(lambda: token(postgres) == before + 1, 30)
    proxy.heal()
    leader.process.send_signal(signal.SIGCONT)
    await leader.wait_for("lease_lost")
    status, reply = await asked
    assert (status, reply["success"]) == (200, True)
    assert token(postgres) == before + 1
    assert [await store_errors(replica) for replica in replicas] == [[], [], []]
    assert len(await settled_logs(devnet)) == 1


async def test_a_killed_watcher_is_replaced_while_much_was_settled_and_nodes_take_their_time(
    devnet: Devnet, proxy: FaultProxy, postgres: Server, replicas: list[Service]
) -> None:
    """40 payments of which a reorg is watched for, and 100 ms for every answer."""
    leader, *others = replicas
    before = token(postgres)
    headers = [devnet_payment(devnet) for _ in range(40)]
    replies = await asyncio.gather(*(others[0].settle(header) for header in headers))
    assert all(reply["success"] for reply in replies)
    proxy.faults["*"] = delay(0.1)
    await leader.stop(signal.SIGKILL)
    died = time.monotonic()
    reply = await others[0].settle(devnet_payment(devnet))
    settled = time.monotonic() - died
    assert reply["success"], reply
    assert settled < 15
    assert token(postgres) == before + 1
    print(f"settled {settled:.1f} s after the watcher died")


async def test_after_an_outage_of_the_database_somebody_watches_within_seconds(
    devnet: Devnet, tmp_path: Path
) -> None:
    """It lasts so long that a wait which doubles every time would be 8 s, and who had the lease
    dies in it.
    """
    with running_server() as server:
        server.create(DATABASE)
        told = variables(devnet, server.url(DATABASE), tmp_path)
        async with AsyncExitStack() as stack:
            started = [await stack.enter_async_context(launch(told)) for _ in range(2)]
            running = await asyncio.gather(*(replica.started() for replica in started))
            await until(lambda: any(replica.logged("watching") for replica in running), 30)
            other, leader = sorted(running, key=lambda one: len(one.logged("watching")))
            await asyncio.to_thread(server.stop, signal.SIGQUIT)
            await asyncio.sleep(9)
            await leader.stop(signal.SIGKILL)
            await asyncio.to_thread(server.start)
            await until(lambda: bool(other.logged("watching")), 5)
