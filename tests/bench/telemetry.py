"""What the log and traces cost a valid POST /verify: `python -m tests.bench.telemetry`.

Services that differ in nothing else take turns, and each is compared with its neighbour of the same
round that says nothing. CPU time is the service's own, with the thread that sends the spans.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.ethereum.abi import MAX_UINT256
from tests.bench.bodies import Expected, payments
from tests.bench.load import Load, run_load
from tests.bench.processes import Server, serve
from tests.bench.report import Spread
from tests.bench.verification import PREPARED_PER_SECOND, WARM_UP
from tests.support.chain import approve
from tests.support.ports import reserved_port
from tests.support.service import environment

SILENT = {"LOG_LEVEL": "WARNING"}
# Nothing listens there.
DEAD = "http://127.0.0.1:9"
TENTH = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}


def contenders(collector: str) -> dict[str, dict[str, str]]:
    """What each is told; the first is what the others are compared with."""
    alive, dead = ({"OTEL_EXPORTER_OTLP_ENDPOINT": url} for url in (collector, DEAD))
    return {
        "neither log nor traces": SILENT,
        "log (JSON)": {},
        "log (text)": {"LOG_FORMAT": "text"},
        "traces of all": {**SILENT, **alive},
        "traces of a tenth": {**SILENT, **alive, **TENTH},
        "traces of all, the collector dead": {**SILENT, **dead},
        "log (JSON) and traces of all": alive,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.telemetry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    async with Devnet.start(DevnetOptions(port=0)) as devnet, AsyncExitStack() as stack:
        await approve(devnet, devnet.payer, MAX_UINT256)
        told = contenders(await stack.enter_async_context(_collector()))
        servers = {
            name: await stack.enter_async_context(_service(devnet, variables))
            for name, variables in told.items()
        }
        loads: dict[str, list[Load]] = {name: [] for name in told}
        for number in range(options.rounds):
            for name, server in servers.items():
                bodies = payments(devnet, WARM_UP + int(options.seconds * PREPARED_PER_SECOND))
                load = await run_load(
                    server,
                    "/verify",
                    bodies,
                    Expected(devnet).valid,
                    connections=options.connections,
                    warm_up=WARM_UP,
                    seconds=options.seconds,
                )
                loads[name].append(load)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print(_markdown(loads))


def _markdown(loads: Mapping[str, list[Load]]) -> str:
    silent = next(iter(loads.values()))
    lines = [
        "| | µs CPU a /verify | more than neither, µs | ratio | p50, ms | p99, ms |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, turns in loads.items():
        pairs = list(zip(turns, silent, strict=True))
        more = statistics.median([turn.cpu_us - other.cpu_us for turn, other in pairs])
        waits = sorted(wait for turn in turns for wait in turn.latencies)
        cells = (
            name,
            Spread.of([turn.cpu_us for turn in turns]).show(),
            f"{more:.0f}",
            Spread.of([turn.cpu_us / other.cpu_us for turn, other in pairs]).show(2),
            f"{statistics.median(waits) * 1000:.1f}",
            f"{waits[len(waits) * 99 // 100] * 1000:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@asynccontextmanager
async def _service(devnet: Devnet, variables: Mapping[str, str]) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), reserved_port()
        told = environment(devnet, folder, FACILITATOR_PORT=str(port), **variables)
        async with serve(
            *("facilitator", "serve"), environment=told, log=folder / "log", port=port
        ) as server:
            yield server


@asynccontextmanager
async def _collector() -> AsyncIterator[str]:
    """One that takes everything and looks at nothing: its URL."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
