"""Liveness is about this process, readiness about what it is told to need; neither is about nodes,
unless somebody says so.
"""

import asyncio
import errno
import socket
import time
from pathlib import Path

import pytest
from starlette.requests import Request

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.config.settings import load_config
from facilitator.domain.strict_json import decode
from facilitator.engine.counters import STUCK_AFTER, Tally
from facilitator.telemetry.metrics import Metrics
from facilitator.web.routes.about import health
from facilitator.web.service import run_service
from tests.support.chain import approve, devnet_payment
from tests.support.faultproxy import delay, fault_proxy
from tests.support.scraping import scrape
from tests.support.service import environment, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


def test_a_loop_that_rests_is_not_stuck_and_one_that_hangs_is() -> None:
    tally = Tally()
    assert (tally.silence(), tally.is_stuck) == (0, False)
    tally.step()
    assert 0 <= tally.silence() < 10
    assert not tally.is_stuck
    hung = Tally()
    hung.stepped_at = time.monotonic() - STUCK_AFTER - 1
    assert hung.is_stuck
    hung.rest()
    assert (hung.silence(), hung.is_stuck) == (0, False)


async def test_a_loop_that_hangs_is_what_health_fails_for(devnet: Devnet, tmp_path: Path) -> None:
    config = load_config(environment(devnet, tmp_path))
    async with run_service(config, Metrics(config)) as service:
        request = Request({"type": "http", "method": "GET", "state": {"service": service}})
        assert (await health(request)).status_code == 200
        watcher = service.networks["jeju"].loop
        assert watcher is not None
        watcher.tally.stepped_at = time.monotonic() - STUCK_AFTER - 1
        reply = await health(request)
        told = decode(bytes(reply.body))
    assert reply.status_code == 503
    assert isinstance(told, dict)
    assert (told["status"], told["networks"]) == ("stuck", ["jeju"])
    assert list(told) == ["status", "networks", "timestamp"]


async def test_nodes_that_hang_stop_no_loop(devnet: Devnet, tmp_path: Path) -> None:
    """With a payment open and every node silent, the loop goes on taking steps, and /health says
    so; it settles the payment once they answer.
    """
    await approve(devnet)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted")
        proxy.faults["*"] = delay(60)
        silences = []
        for _ in range(25):
            await asyncio.sleep(1)
            assert (await service.get("/health"))[0] == 200
            seen = await scrape(service)
            silences.append(seen.value("facilitator_loop_beat_age_seconds", network="jeju"))
        assert 1 < max(silences) < 25
        assert silences != sorted(silences)  # it began anew in between
        proxy.heal()
        await devnet.rpc("evm_setIntervalMining", 1)
        assert (await waiting)["success"]


@pytest.mark.parametrize(("required", "status"), [("false", 200), ("true", 503)])
async def test_nodes_are_needed_for_readiness_where_somebody_says_so(
    devnet: Devnet, tmp_path: Path, required: str, status: int
) -> None:
    async with fault_proxy(devnet.url) as proxy:
        settings = {"JEJU_RPC_URL": proxy.url, "READY_REQUIRES_RPC": required}
        async with serve(devnet, tmp_path, **settings) as service:
            assert (await service.get("/ready"))[0] == 200
            proxy.raw = b"<html>Bad gateway</html>"
            await asyncio.sleep(2.1)
            code, reply = await service.get("/ready")
            assert code == status
            if code == 503:
                assert (reply["status"], reply["rpc"], reply["journal"]) == (
                    "not_ready",
                    False,
                    True,
                )


async def test_a_service_that_stops_answers_no_probe(devnet: Devnet, tmp_path: Path) -> None:
    """A request in flight keeps the process until it is answered; nothing new is let in, and an
    idle connection is closed.
    """
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        host, port = service.url.removeprefix("http://").split(":")
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await reader.readuntil(b"}")
        service.process.terminate()
        assert await asyncio.wait_for(reader.read(), 30) == b""
        with socket.socket() as late:
            assert late.connect_ex((host, int(port))) == errno.ECONNREFUSED
        await devnet.rpc("evm_setIntervalMining", 1)
        assert (await waiting)["success"]
        assert await service.ended() == 0
        writer.close()
