"""Several replicas as real processes, on one PostgreSQL, with the same signing keys."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.engines import DATABASE, empty
from tests.support.postgres import Server
from tests.support.replicated import all_settle_once, variables
from tests.support.service import Service, launch, request

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture
async def replicas(
    devnet: Devnet, postgres: Server, tmp_path: Path
) -> AsyncIterator[list[Service]]:
    """Three, started at once."""
    empty(postgres)
    await approve(devnet)
    told = variables(devnet, postgres.url(DATABASE), tmp_path)
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(launch(told)) for _ in range(3)]
        yield list(await asyncio.gather(*(replica.started() for replica in started)))


async def watching(replicas: list[Service]) -> Service:
    """The replica that watches the chain."""
    async with asyncio.timeout(60):
        while True:
            for replica in replicas:
                if replica.logged("watching"):
                    return replica
            await asyncio.sleep(0.02)


async def test_one_replica_watches_and_all_answer(devnet: Devnet, replicas: list[Service]) -> None:
    """Whoever is asked, and whoever sees the receipt."""
    replies = await asyncio.gather(
        *(replicas[n % 3].settle(devnet_payment(devnet)) for n in range(12))
    )
    assert [reply["error"] for reply in replies] == [None] * 12
    assert sum(len(replica.logged("watching")) for replica in replicas) == 1
    assert len({log.payment_id for log in await settled_logs(devnet)}) == 12


async def test_the_same_payment_at_all_replicas_at_once_is_success_once(
    devnet: Devnet, replicas: list[Service]
) -> None:
    header = devnet_payment(devnet)
    replies = await asyncio.gather(*(replicas[n % 3].settle(header) for n in range(60)))
    assert sum(reply["success"] for reply in replies) == 1
    words = {reply["error"] for reply in replies if not reply["success"]}
    assert words <= {"Nonce is being processed", "Nonce has already been used"}
    assert len(await settled_logs(devnet)) == 1


async def test_a_dead_watcher_is_replaced_within_seconds(
    devnet: Devnet, replicas: list[Service]
) -> None:
    first = await watching(replicas)
    others = [replica for replica in replicas if replica is not first]
    await others[0].settle(devnet_payment(devnet))
    await first.stop(signal.SIGKILL)
    died = time.monotonic()
    reply = await others[1].settle(devnet_payment(devnet))
    assert reply["success"], reply
    taken_over = time.monotonic() - died
    assert taken_over < 12
    assert await watching(others) in others
    print(f"settled {taken_over:.1f} s after the watcher died")


async def test_a_watcher_that_stops_leaves_at_once(devnet: Devnet, replicas: list[Service]) -> None:
    first = await watching(replicas)
    others = [replica for replica in replicas if replica is not first]
    assert await first.stop() == 0
    stopped = time.monotonic()
    await watching(others)
    assert time.monotonic() - stopped < 3


async def answered(replica: Service, header: dict[str, Any]) -> dict[str, Any]:
    """The reply, asked for again where the database was too busy for one."""
    while True:
        status, reply = await replica.post("/settle", request(header))
        if status == 200 or reply["error"] != "Settlement journal unavailable":
            return reply
        await asyncio.sleep(1)


async def test_a_replica_that_follows_counts_what_is_in_flight_and_no_more(
    devnet: Devnet, replicas: list[Service]
) -> None:
    """What it has claimed itself is counted until it is mined: a signer has places for 64, and all
    of these take one each.
    """
    first = await watching(replicas)
    follower = next(replica for replica in replicas if replica is not first)
    for _ in range(3):
        headers = [devnet_payment(devnet) for _ in range(60)]
        replies = await asyncio.gather(*(answered(follower, header) for header in headers))
        assert [reply["error"] for reply in replies] == [None] * 60
    assert len(await settled_logs(devnet)) == 180


async def test_every_payment_is_settled_once_whatever_falls_over(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The same as `make test-replicas` does with ten times as many."""
    await all_settle_once(devnet, tmp_path, distinct=60, identical=20, outage=6)
