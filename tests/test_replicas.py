"""Several replicas as real processes, on one PostgreSQL, with the same signing keys."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator.devnet import Devnet, DevnetOptions
from tests.chain import approve, devnet_payment, settled_logs
from tests.engines import DATABASE, empty
from tests.postgres import Server, running_server
from tests.service import Service, environment, launch, request

pytestmark = pytest.mark.anyio

PATIENCE = 120.0  # seconds that a seller goes on asking


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


def variables(devnet: Devnet, url: str, folder: Path) -> dict[str, str]:
    """What every replica is told."""
    keys = ",".join("0x" + account.key.hex() for account in (devnet.signer, devnet.accounts[6]))
    return environment(
        devnet,
        folder,
        DATABASE_URL=url,
        FACILITATOR_PRIVATE_KEY=keys,
        SETTLE_TIMEOUT_SECONDS="20",
    )


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


async def watching(replicas: list[Service], *, but: Service | None = None) -> Service:
    """The replica that watches the chain."""
    async with asyncio.timeout(20):
        while True:
            for replica in replicas:
                if replica is not but and replica.logged("watching"):
                    return replica
            await asyncio.sleep(0.02)


async def test_one_replica_watches_and_all_answer(
    devnet: Devnet, replicas: list[Service]
) -> None:
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


async def test_a_watcher_that_stops_leaves_at_once(
    devnet: Devnet, replicas: list[Service]
) -> None:
    first = await watching(replicas)
    others = [replica for replica in replicas if replica is not first]
    assert await first.stop() == 0
    stopped = time.monotonic()
    await watching(others)
    assert time.monotonic() - stopped < 3
