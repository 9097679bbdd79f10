"""`facilitator recover --restored` on PostgreSQL marks nothing while a replica uses the journal."""

import asyncio
import re
import signal
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.commands.recover import SHOWS_ITSELF
from facilitator.engine.leader import LEASE_MS
from facilitator.journal.postgres.leases import COMES_BACK_MS
from facilitator.journal.postgres.pool import BEGIN_WRITE, Pool
from facilitator.journal.store import SharedStore, StoreLocked
from tests.support.chain import approve, devnet_payment
from tests.support.commands import begun, ended, facilitator
from tests.support.engines import DATABASE, Engine, empty, engine_of
from tests.support.journal import CHAIN_ID, NOW, OTHER_CHAIN_ID, claimed
from tests.support.postgres import PASSWORD, Server, settings
from tests.support.replicated import variables
from tests.support.service import launch

pytestmark = pytest.mark.anyio

MARKED = "SELECT count(*) FROM settlement WHERE replied_success_at IS NOT NULL"


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture(params=("postgres", "pgbouncer"))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Straight, and by way of PgBouncer, where no process has a connection to itself."""
    return engine_of(request.param, request, tmp_path)


@pytest.fixture
def told(devnet: Devnet, postgres: Server, pgbouncer: Server, tmp_path: Path) -> dict[str, str]:
    """What replicas and the command are told; the journal is empty."""
    empty(postgres)
    return {
        **variables(devnet, pgbouncer.url(DATABASE), tmp_path),
        "DATABASE_STATEMENT_CACHE": "0",
        "SETTLE_TIMEOUT_SECONDS": "1",
    }


async def test_nothing_is_marked_while_any_chain_has_a_watcher(engine: Engine) -> None:
    restored, replica = await engine(), await engine()
    assert isinstance(restored, SharedStore)
    assert isinstance(replica, SharedStore)
    await claimed(replica)
    await restored.refuse_shared()
    for held_ms in (60_000, 1):  # held, and then ended without a word
        await replica.lead(OTHER_CHAIN_ID, "replica", held_ms)
        await asyncio.sleep(0.01)
        for refused in (restored.refuse_shared(), restored.mark_all_replied(NOW)):
            with pytest.raises(StoreLocked, match=f"it watches chain {OTHER_CHAIN_ID}.: stop all"):
                await refused
    await replica.step_down(OTHER_CHAIN_ID, "replica")
    assert await restored.mark_all_replied(NOW) == 1
    assert await restored.mark_all_replied(NOW) == 0
    await restored.close()
    await replica.close()


async def test_a_replica_that_starts_meanwhile_waits_until_all_is_marked(
    engine: Engine, postgres: Server
) -> None:
    """Somebody's transaction on the row holds up the marking, and so the replica's first lease."""
    restored, replica = await engine(), await engine()
    assert isinstance(replica, SharedStore)
    await claimed(restored)
    somebody = await Pool.open(settings(postgres.url(DATABASE)))
    async with somebody._connection() as connection:
        await connection.execute(BEGIN_WRITE)
        await connection.execute("SELECT FROM settlement FOR UPDATE")
        marking = asyncio.create_task(restored.mark_all_replied(NOW))
        await asyncio.sleep(0.5)
        leading = asyncio.create_task(replica.lead(CHAIN_ID, "replica", 60_000))
        assert not (await asyncio.wait({leading, marking}, timeout=1))[0]
        await connection.execute("ROLLBACK")
    assert (await marking, await leading) == (1, 1)
    for pool in (somebody, restored, replica):
        await pool.close()


async def test_it_is_refused_until_the_replica_has_stopped(
    devnet: Devnet, told: dict[str, str], postgres: Server
) -> None:
    """By SIGTERM: the next try does it. A payment in flight is not told of by the next start."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with launch(told) as starting:
        replica = await starting.started()
        await devnet.rpc("evm_setIntervalMining", 0)
        assert (await replica.settle(header))["error"] == "Settlement pending"
        for _ in range(2):
            refused = await facilitator("recover", told, "--restored")
            assert refused.code == 1
            assert "a replica uses this journal" in refused.error
            assert "stop all replicas first" in refused.error
            assert PASSWORD not in refused.errors
        assert postgres.execute(DATABASE, MARKED) == "0"
        assert await replica.stop() == 0
    done = await facilitator("recover", told, "--restored")
    assert (done.code, done.output.endswith(": 1 settlements marked as told\n")) == (0, True)
    await devnet.rpc("evm_setIntervalMining", 1)
    async with launch(told) as starting:
        replica = await starting.started()
        await replica.wait_for("settlement_confirmed")
        assert (await replica.settle(header))["error"] == "Nonce has already been used"


async def test_after_a_kill_it_says_how_long_to_wait(
    told: dict[str, str],
) -> None:
    async with launch(told) as starting:
        replica = await starting.started()
        await replica.wait_for("watching")
        await replica.stop(signal.SIGKILL)
    refused = await facilitator("recover", told, "--restored")
    assert refused.code == 1
    seconds = re.search(r"one was killed: try again in (\d+) s", refused.error)
    assert seconds
    assert 0 < int(seconds[1]) <= (LEASE_MS + COMES_BACK_MS) / 1000
    await asyncio.sleep(int(seconds[1]))
    done = await facilitator("recover", told, "--restored")
    assert (done.code, done.output.endswith(": 0 settlements marked as told\n")) == (0, True)


async def test_a_replica_that_comes_back_while_it_watches_is_noticed(
    told: dict[str, str],
) -> None:
    """As one does that found no database while that was being restored."""
    assert (await facilitator("migrate", told)).code == 0
    recovering = await begun("recover", told, "--restored")
    assert recovering.stderr is not None
    said = await recovering.stderr.readline()
    assert said.startswith(f"watching for {SHOWS_ITSELF:.0f} s".encode())
    async with launch(told) as starting:
        replica = await starting.started()
        await replica.wait_for("watching")
        refused = await ended(recovering)
    assert (refused.code, "a replica uses this journal" in refused.error) == (1, True)
