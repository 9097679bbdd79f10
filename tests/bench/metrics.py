"""What measuring costs a request: `python -m tests.bench.metrics`.

The service as it is by default and without each part take turns at the same two loads, a valid
payment and one that is refused before any node is asked. What counts is the difference of
neighbouring turns: the machine's speed drifts more than that.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.ethereum.abi import MAX_UINT256
from tests.bench.bodies import OTHER_RESOURCE, Expected, payments
from tests.bench.load import run_load
from tests.bench.processes import Server, serve
from tests.bench.report import Spread
from tests.support.chain import approve
from tests.support.service import environment

CONNECTIONS = 16
WARM_UP = 64  # requests
PREPARED_PER_SECOND = 4_000
WITHOUT: dict[str, dict[str, str]] = {"metrics": {"METRICS": "off"}}

Costs = dict[str, list[float]]  # microseconds of CPU time a request, of each round


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.metrics", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender (9)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one turn (1)")
    options = parser.parse_args()
    if min(options.rounds, options.seconds) <= 0:
        parser.error("rounds and seconds are above 0")
    loads = asyncio.run(measure(options.rounds, options.seconds))
    for line in table(loads):
        print(line)
    return 0


async def measure(rounds: int, seconds: float) -> dict[str, Costs]:
    """The costs of each load, by contender: "" is the service as it is by default."""
    costs: dict[str, Costs] = {"valid": {}, "refused": {}}
    async with Devnet.start(DevnetOptions(port=0)) as devnet, AsyncExitStack() as stack:
        await approve(devnet, devnet.payer, MAX_UINT256)
        servers = {"": await stack.enter_async_context(_service(devnet, {}))}
        for part, settings in WITHOUT.items():
            servers[part] = await stack.enter_async_context(_service(devnet, settings))
        expected, count = Expected(devnet), WARM_UP + int(seconds * PREPARED_PER_SECOND)
        for number in range(rounds):
            loads = (
                ("valid", payments(devnet, count), expected.valid),
                ("refused", payments(devnet, count, asked=OTHER_RESOURCE), expected.mismatch),
            )
            for name, bodies, check in loads:
                # who begins changes, or whoever follows would always meet the same conditions
                turns = list(servers.items())[:: 1 if number % 2 else -1]
                for part, server in turns:
                    load = await run_load(
                        *(server, "/verify", bodies, check),
                        connections=CONNECTIONS,
                        warm_up=WARM_UP,
                        seconds=seconds,
                    )
                    costs[name].setdefault(part, []).append(load.cpu_us)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return costs


def table(loads: Mapping[str, Costs]) -> list[str]:
    """Markdown: medians, and the range of the rounds."""
    lines = [
        "| without | load of /verify | by default, µs CPU | without, µs CPU | costs, µs CPU |",
        "|---|---|--:|--:|--:|",
    ]
    for part in WITHOUT:
        for name, costs in loads.items():
            differences = [a - b for a, b in zip(costs[""], costs[part], strict=True)]
            figures = [Spread.of(each).show() for each in (costs[""], costs[part], differences)]
            lines.append(f"| {part} | {name} | {' | '.join(figures)} |")
    return lines


@asynccontextmanager
async def _service(devnet: Devnet, settings: Mapping[str, str]) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variables = environment(devnet, folder, **settings)
        log = folder / "log"
        async with serve("facilitator", "serve", environment=variables, log=log) as server:
            yield server


if __name__ == "__main__":
    sys.exit(main())
