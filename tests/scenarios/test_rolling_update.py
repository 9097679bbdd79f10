"""Replicas that are replaced, one after the other, by a release with one more migration."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.journal.schema import KNOWN_VERSION
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.engines import DATABASE
from tests.support.postgres import Server
from tests.support.releases import later_release, python_path
from tests.support.replicated import Seller, variables
from tests.support.service import launch

pytestmark = pytest.mark.anyio

AT_ONCE = 50  # sellers that wait for an answer
STEP = """
    ALTER TABLE settlement ADD COLUMN note TEXT;
    CREATE INDEX settlement_note ON settlement (note);
    """


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def test_a_rolling_update_under_load_fails_no_request_and_loses_none(
    devnet: Devnet, postgres: Server, tmp_path: Path
) -> None:
    """Each replica gets no new requests, then SIGTERM; it answers what it has begun, and exits 0.
    The first new one migrates while the old ones go on.
    """
    server = postgres
    name = f"{DATABASE}_rolling"
    server.create(name)
    await approve(devnet)
    told = variables(devnet, server.url(name), tmp_path)
    async with AsyncExitStack() as stack:
        old = [await stack.enter_async_context(launch(told)) for _ in range(3)]
        serving = list(await asyncio.gather(*(each.started() for each in old)))
        sellers: list[Seller] = []
        selling: list[asyncio.Task[None]] = []
        updated = asyncio.Event()

        async def arrive() -> None:
            while not updated.is_set():
                sellers.append(Seller(serving, devnet_payment(devnet), len(sellers)))
                selling.append(asyncio.create_task(sellers[-1].sell()))
                # a slow machine gets no more at once than it can serve
                while sum(not each.done() for each in selling) > AT_ONCE:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                await asyncio.sleep(0.1)

        arriving = asyncio.create_task(arrive())
        await asyncio.sleep(1)
        release = {**told, **python_path(later_release(tmp_path / "release", STEP))}
        for leaving in old:
            new = await stack.enter_async_context(launch(release))
            await new.started()
            serving.remove(leaving)
            serving.append(new)
            await asyncio.sleep(0.2)
            assert await leaving.stop() == 0
        await asyncio.sleep(1)
        updated.set()
        await arriving
        await asyncio.gather(*selling)
    version = server.execute(name, "SELECT version FROM facilitator_schema")
    assert int(version) == KNOWN_VERSION + 1
    assert set().union(*(each.statuses for each in sellers)) <= {200, 503}
    assert [each.lost for each in sellers] == [0] * len(sellers)
    assert [each.successes for each in sellers] == [1] * len(sellers)
    assert len({log.payment_id for log in await settled_logs(devnet)}) == len(sellers)
    server.drop(name)
