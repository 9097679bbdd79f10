"""Measure on a chain of its own, and print the tables: `python -m tests.bench --help`."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from facilitator.commands.devnet import AnvilError, Devnet, DevnetOptions
from facilitator.ethereum.abi import MAX_UINT256
from tests.bench.bodies import Expected, payments
from tests.bench.counting import CountingProxy, counting_proxy
from tests.bench.load import Connection, run_load
from tests.bench.processes import BenchFailed, Server, serve
from tests.bench.report import (
    Counted,
    Report,
    as_json,
    markdown,
    settlement,
    verification,
)
from tests.bench.settlement import settle
from tests.bench.verification import CONNECTIONS, compare
from tests.support.chain import approve
from tests.support.service import environment

COUNTED = 512  # requests of each kind whose RPC calls are counted


def main() -> int:
    """The exit code: 0 when all was measured, 1 when a reply was not what it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one turn (1)")
    parser.add_argument("--settlements", type=int, default=512, help="payments to settle (512)")
    parser.add_argument("--quick", action="store_true", help="one short turn: does it work at all?")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    options = parser.parse_args()
    if min(options.rounds, options.seconds, options.settlements) <= 0:
        parser.error("rounds, seconds and settlements are above 0")
    if options.quick:
        options.rounds, options.seconds, options.settlements = 1, 0.2, 64
    try:
        report = asyncio.run(measure(options.rounds, options.seconds, options.settlements))
    except (BenchFailed, AnvilError) as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    print(as_json(report) if options.json else markdown(report))
    return 0


async def measure(rounds: int, seconds: float, settlements: int) -> Report:
    """Run everything. Raises BenchFailed, AnvilError."""
    async with Devnet.start(DevnetOptions(port=0)) as devnet:
        await approve(devnet, devnet.payer, MAX_UINT256)
        async with _service(devnet) as service:
            size = await _reply_size(devnet, service)
            async with _echo(devnet, size) as echo:
                turns = await compare(devnet, service, echo, rounds=rounds, seconds=seconds)
            say(f"settling {settlements} payments")
            settled = await settle(devnet, service, settlements)
        say("counting RPC requests")
        async with counting_proxy(devnet.url) as proxy, _service(devnet, proxy.url) as service:
            verified = [await _count_verify(devnet, proxy, service, each) for each in CONNECTIONS]
            settling = await _count_settle(devnet, proxy, service, min(settlements, COUNTED))
    rows = zip(CONNECTIONS, verified, strict=True)
    return Report(
        [verification(each, turns[each], counted) for each, counted in rows],
        settlement(settled, settling),
    )


async def _reply_size(devnet: Devnet, service: Server) -> int:
    """How long the reply to a valid payment is."""
    line = await Connection.open(service.port)
    (body,) = payments(devnet, 1)
    reply = await line.post("/verify", body)
    Expected(devnet).valid(body, reply)
    await line.close()
    return len(reply)


async def _count_verify(
    devnet: Devnet, proxy: CountingProxy, service: Server, connections: int
) -> Counted:
    posts, calls = proxy.posts, proxy.calls
    bodies = payments(devnet, COUNTED)
    check = Expected(devnet).valid
    await run_load(service, "/verify", bodies, check, connections=connections)
    return (proxy.posts - posts) / COUNTED, (proxy.calls - calls) / COUNTED


async def _count_settle(
    devnet: Devnet, proxy: CountingProxy, service: Server, count: int
) -> Counted:
    posts, calls = proxy.posts, proxy.calls
    await settle(devnet, service, count)
    return (proxy.posts - posts) / count, (proxy.calls - calls) / count


@asynccontextmanager
async def _service(devnet: Devnet, rpc_url: str | None = None) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variables = environment(devnet, folder)
        if rpc_url is not None:
            variables = {
                key: rpc_url if key.endswith("_RPC_URL") else value
                for key, value in variables.items()
            }
        async with serve(
            "facilitator", "serve", environment=variables, log=folder / "log"
        ) as server:
            yield server


@asynccontextmanager
async def _echo(devnet: Devnet, size: int) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variables = environment(devnet, folder)
        log = folder / "log"
        async with serve("tests.bench.echo", str(size), environment=variables, log=log) as server:
            yield server


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
