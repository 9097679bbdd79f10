"""Several replicas as real processes, on one PostgreSQL, with the same signing keys."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
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


async def watching(replicas: list[Service]) -> Service:
    """The replica that watches the chain."""
    async with asyncio.timeout(20):
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
        replies = await asyncio.gather(*(follower.settle(header) for header in headers))
        assert [reply["error"] for reply in replies] == [None] * 60
    assert len(await settled_logs(devnet)) == 180


class Seller:
    """Asks for one payment until it knows how it ended, at one replica after the other."""

    def __init__(self, replicas: list[Service], header: dict[str, Any], first: int) -> None:
        self.replicas = replicas
        self.body = request(header)
        self.next = first
        self.successes = 0
        self.lost = 0  # requests whose connection broke: what the reply said is not known
        self.last: object = None
        self.statuses: set[int] = set()

    async def sell(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            replica = self.replicas[self.next % len(self.replicas)]
            self.next += 1
            try:
                status, reply = await replica.post("/settle", self.body)
            except (aiohttp.ClientError, OSError):
                self.lost += 1
                await asyncio.sleep(0.2)
                continue
            self.statuses.add(status)
            self.last = reply
            self.successes += reply["success"]
            if reply["success"] or reply["error"] == "Nonce has already been used":
                return
            await asyncio.sleep(0.3)


DISTINCT, IDENTICAL = 600, 200


async def test_every_payment_is_settled_once_whatever_falls_over(
    devnet: Devnet, tmp_path: Path
) -> None:
    """600 payments and 200 times the same one, on three replicas with two signers; one replica is
    killed, the database crashes and comes back, another replica is frozen for 10 s.
    """
    await approve(devnet)
    with running_server() as server:
        server.create(DATABASE)
        told = variables(devnet, server.url(DATABASE), tmp_path)
        async with AsyncExitStack() as stack:
            started = [await stack.enter_async_context(launch(told)) for _ in range(3)]
            replicas = list(await asyncio.gather(*(each.started() for each in started)))
            same = devnet_payment(devnet)
            sellers = [Seller(replicas, devnet_payment(devnet), n) for n in range(DISTINCT)]
            twins = [Seller(replicas, same, n) for n in range(IDENTICAL)]
            selling = [asyncio.ensure_future(each.sell()) for each in (*sellers, *twins)]
            await asyncio.sleep(2)
            await replicas[0].stop(signal.SIGKILL)
            await asyncio.sleep(1)
            settled = len(await settled_logs(devnet))
            assert 0 < settled < DISTINCT  # in the middle of it
            await asyncio.to_thread(server.stop, signal.SIGQUIT)
            await asyncio.to_thread(server.start)
            await asyncio.sleep(1)
            assert len(await settled_logs(devnet)) < DISTINCT
            replicas[1].process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(10)
            replicas[1].process.send_signal(signal.SIGCONT)
            await asyncio.gather(*selling)
            for seller in sellers:
                # Where the connection broke, the one success may have been said into the void.
                assert seller.successes == 1 or (seller.lost and not seller.successes), seller.last
            heard = sum(seller.successes for seller in twins)
            assert heard == 1 or (heard == 0 and any(seller.lost for seller in twins))
            assert set().union(*(each.statuses for each in (*sellers, *twins))) <= {200, 503}
            print(f"{sum(each.successes for each in sellers)} of {DISTINCT} heard of success")
        logs = await settled_logs(devnet)
        assert len(logs) == len({log.payment_id for log in logs}) == DISTINCT + 1
        states = server.execute(DATABASE, "SELECT state, count(*) FROM settlement GROUP BY 1")
        assert states == f"confirmed|{DISTINCT + 1}"
        dense = """SELECT bool_and(least = 0 AND most + 1 = number) FROM (
            SELECT min(account_nonce) AS least, max(account_nonce) AS most, count(*) AS number
            FROM "transaction" GROUP BY signer) AS signers"""
        assert server.execute(DATABASE, dense) == "t"
