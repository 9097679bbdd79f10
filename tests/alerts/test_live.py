"""From the service to whoever is on call: nothing in between is made up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet
from tests.alerts.monitoring import monitoring
from tests.support.chain import approve, devnet_payment
from tests.support.faultproxy import Answer, Call, Cut, Forward, fault_proxy
from tests.support.ports import reserved_port
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio

QUIET = 6.0  # seconds, longer than any alert waits here


@asynccontextmanager
async def sellers(service: Service, body: object) -> AsyncIterator[list[int]]:
    """Somebody asks ten times a second, all the while; the statuses so far."""
    statuses: list[int] = []

    async def ask() -> None:
        while True:
            statuses.append((await service.post("/verify", body))[0])
            await asyncio.sleep(0.1)

    asking = asyncio.create_task(ask())
    try:
        yield statuses
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking


async def cut(call: Call, forward: Forward) -> Answer | None:
    """The node is gone: connections end without an answer."""
    raise Cut


async def test_when_the_node_is_gone_somebody_hears_of_it(devnet: Devnet, tmp_path: Path) -> None:
    """The RPC is cut; the service lives on and refuses; the alert reaches a webhook."""
    await approve(devnet)
    body = request(devnet_payment(devnet))
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
        monitoring(tmp_path, service.url.removeprefix("http://")) as webhook,
        sellers(service, body) as statuses,
    ):
        await asyncio.sleep(QUIET)
        assert set(statuses) == {200}
        assert webhook.alerts == []
        proxy.faults["*"] = cut
        alert = await webhook.received("FacilitatorHighErrorRate")
        await webhook.received("FacilitatorAllRpcDown")
        assert statuses[-1] == 503
        assert "FacilitatorDown" not in webhook.names()
        assert (await service.get("/health"))[0] == 200
    assert alert["labels"]["severity"] == "warning"
    assert alert["annotations"]["runbook"] == "docs/operations.md#facilitatorhigherrorrate"


async def test_when_the_service_is_gone_somebody_hears_of_it_and_of_its_return(
    devnet: Devnet, tmp_path: Path
) -> None:
    port = str(reserved_port())
    async with (
        serve(devnet, tmp_path, FACILITATOR_PORT=port) as first,
        monitoring(tmp_path, f"127.0.0.1:{port}") as webhook,
    ):
        await asyncio.sleep(QUIET)
        assert webhook.alerts == []
        assert await first.stop() == 0
        down = await webhook.received("FacilitatorDown")
        async with serve(devnet, tmp_path, FACILITATOR_PORT=port):
            await webhook.received("FacilitatorDown", status="resolved")
    assert down["labels"]["severity"] == "critical"
