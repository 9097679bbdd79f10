"""The service with two endpoints of one chain, each behind a proxy that can lie on its own."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from facilitator.devnet import Devnet
from tests.chain import devnet_payment, settled_logs
from tests.faultproxy import Fault, FaultProxy, fault_proxy
from tests.service import Service, serve

API_KEY = "4f9c1d7e8a2b4c6d"
# What decisions are made of. Account nonces, receipts and blocks are asked of a second one too.
READS = ("eth_call", "eth_estimateGas")


@asynccontextmanager
async def behind_two(
    devnet: Devnet,
    folder: Path,
    *,
    second_faults: Mapping[str, Fault] | None = None,
    **changes: str,
) -> AsyncIterator[tuple[Service, FaultProxy, FaultProxy]]:
    """The service with two endpoints; whatever a test does, their URLs are in no log."""
    async with fault_proxy(devnet.url) as first, fault_proxy(devnet.url) as second:
        second.faults = {**(second_faults or {})}
        urls = f"{first.url}?key={API_KEY},{second.url}?key={API_KEY}"
        async with serve(
            devnet, folder, JEJU_RPC_URL=urls, LOG_LEVEL="DEBUG", **changes
        ) as service:
            yield service, first, second
        output = service.output.decode()
        for secret in (API_KEY, first.url.rstrip("/"), second.url.rstrip("/")):
            assert secret not in output
        assert not service.logged("unhandled_error")
        assert not service.logged("turn_broken")


def reads_of(proxy: FaultProxy) -> int:
    return sum(proxy.calls.get(method, 0) for method in READS)


def changes_of(service: Service, event: str) -> list[tuple[str, str | None]]:
    return [(line["endpoint"], line.get("fault")) for line in service.logged(event)]


async def settled(service: Service, devnet: Devnet, count: int) -> None:
    """`count` payments at once succeed, and the chain shows them."""
    before = {log.transaction_hash for log in await settled_logs(devnet)}
    headers = [devnet_payment(devnet) for _ in range(count)]
    replies = await asyncio.gather(*(service.settle(header) for header in headers))
    assert [reply["success"] for reply in replies] == [True] * count
    shown = {log.transaction_hash for log in await settled_logs(devnet)} - before
    assert {reply["txHash"] for reply in replies} == shown
