"""Three replicas on one PostgreSQL, sellers that ask them for payments, and what falls over in the
middle of it. The chain's logs and the journal's rows are the judges.
"""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from facilitator.commands.devnet import Devnet
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.engines import DATABASE
from tests.support.postgres import Server, running_server
from tests.support.service import Service, environment, launch, request
from tests.support.tcpproxy import TCPProxy, tcp_proxy

PATIENCE = 400.0  # seconds that a seller goes on asking


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

    async def _ask(self, replica: Service) -> tuple[int, dict[str, Any]]:
        async with replica.session.post(f"{replica.url}/settle", json=self.body) as response:
            assert response.status != 503 or "Retry-After" in response.headers
            return response.status, await response.json()

    async def sell(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            replica = self.replicas[self.next % len(self.replicas)]
            self.next += 1
            try:
                status, reply = await self._ask(replica)
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


async def all_settle_once(
    devnet: Devnet, folder: Path, *, distinct: int, identical: int, outage: float
) -> None:
    """So many payments and so many times the same one, with two signers. One replica is killed,
    the database crashes and comes back, then one replica is cut off from it and another one is
    frozen, for `outage` seconds each.
    """
    await approve(devnet)
    with running_server() as server:
        server.create(DATABASE)
        async with tcp_proxy(server.port) as way, AsyncExitStack() as stack:
            direct = server.url(DATABASE)
            started = [
                await stack.enter_async_context(launch(variables(devnet, url, folder)))
                for url in (direct, way.url(direct), direct)
            ]
            replicas = list(await asyncio.gather(*(each.started() for each in started)))
            same = devnet_payment(devnet)
            sellers = [Seller(replicas, devnet_payment(devnet), n) for n in range(distinct)]
            twins = [Seller(replicas, same, n) for n in range(identical)]
            selling = [asyncio.ensure_future(each.sell()) for each in (*sellers, *twins)]
            await _fall_over(replicas, server, way, outage)
            await asyncio.gather(*selling)
        _heard_once(sellers, twins)
        logs = await settled_logs(devnet)
        assert len(logs) == len({log.payment_id for log in logs}) == distinct + 1
        states = server.execute(DATABASE, "SELECT state, count(*) FROM settlement GROUP BY 1")
        assert states == f"confirmed|{distinct + 1}"
        dense = """SELECT bool_and(least = 0 AND most + 1 = number) FROM (
            SELECT min(account_nonce) AS least, max(account_nonce) AS most, count(*) AS number
            FROM "transaction" GROUP BY signer) AS signers"""
        assert server.execute(DATABASE, dense) == "t"


async def _fall_over(replicas: list[Service], server: Server, way: TCPProxy, outage: float) -> None:
    await asyncio.sleep(2)
    await replicas[0].stop(signal.SIGKILL)
    await asyncio.sleep(1)
    await asyncio.to_thread(server.stop, signal.SIGQUIT)
    await asyncio.to_thread(server.start)
    await asyncio.sleep(1)
    way.freeze()
    await asyncio.sleep(outage)
    way.thaw()
    replicas[2].process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(outage)
    replicas[2].process.send_signal(signal.SIGCONT)


def _heard_once(sellers: list[Seller], twins: list[Seller]) -> None:
    """Where a connection broke, the one success may have been said into the void."""
    for seller in sellers:
        assert seller.successes == 1 or (seller.lost and not seller.successes), seller.last
    heard = sum(seller.successes for seller in twins)
    assert heard == 1 or (heard == 0 and any(seller.lost for seller in twins))
    assert set().union(*(each.statuses for each in (*sellers, *twins))) <= {200, 503}
    print(f"{sum(each.successes for each in sellers)} of {len(sellers)} heard of success")
