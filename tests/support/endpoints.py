"""The service with several endpoints of one chain, each behind a proxy that can lie on its own."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from facilitator.commands.devnet import Devnet
from tests.support.chain import devnet_payment, settled_logs
from tests.support.faultproxy import Fault, FaultProxy, fault_proxy
from tests.support.service import Service, serve

API_KEY = "4f9c1d7e8a2b4c6d"
# What decisions are made of. Account nonces, receipts and blocks are asked of a second one too.
READS = ("eth_call", "eth_estimateGas")


@asynccontextmanager
async def behind(
    devnet: Devnet,
    folder: Path,
    count: int,
    faults: Mapping[int, Mapping[str, Fault]] | None = None,
    **changes: str,
) -> AsyncIterator[tuple[Service, list[FaultProxy]]]:
    """The service with so many endpoints, some of which have `faults` from the start; whatever a
    test does, their URLs are in no log.
    """
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(fault_proxy(devnet.url)) for _ in range(count)]
        for place, own in (faults or {}).items():
            proxies[place].faults = {**own}
        urls = ",".join(f"{proxy.url}?key={API_KEY}" for proxy in proxies)
        async with serve(
            devnet, folder, JEJU_RPC_URL=urls, LOG_LEVEL="DEBUG", **changes
        ) as service:
            yield service, proxies
        output = service.output.decode()
        for secret in (API_KEY, *(proxy.url.rstrip("/") for proxy in proxies)):
            assert secret not in output
        assert not service.logged("unhandled_error")
        assert not service.logged("turn_broken")


@asynccontextmanager
async def behind_two(
    devnet: Devnet,
    folder: Path,
    *,
    second_faults: Mapping[str, Fault] | None = None,
    **changes: str,
) -> AsyncIterator[tuple[Service, FaultProxy, FaultProxy]]:
    """`behind` two, the second of which may have faults from the start."""
    async with behind(devnet, folder, 2, {1: second_faults or {}}, **changes) as (
        service,
        (first, second),
    ):
        yield service, first, second


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
