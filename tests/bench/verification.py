"""The contenders of /verify take turns: what a valid payment costs, a bare echo of the same sizes,
and a payment that is refused without asking the chain.
"""

import sys
from typing import NamedTuple

from facilitator.commands.devnet import Devnet
from tests.bench.bodies import OTHER_RESOURCE, Expected, payments
from tests.bench.load import Load, run_load
from tests.bench.processes import Server

CONNECTIONS = (1, 16, 64)
# Payments signed ahead for a second; a round whose payments run out ends early.
PREPARED_PER_SECOND = 4_000
WARM_UP = 64  # requests, and at least one a connection


class Turn(NamedTuple):
    """One turn of each contender."""

    verify: Load
    echo: Load
    refused: Load


async def compare(
    devnet: Devnet, service: Server, echo: Server, *, rounds: int, seconds: float
) -> dict[int, list[Turn]]:
    """Turns by number of connections, `rounds` of each, every load `seconds` long."""
    turns: dict[int, list[Turn]] = {connections: [] for connections in CONNECTIONS}
    expected = Expected(devnet)
    for number in range(rounds):
        for connections in CONNECTIONS:
            count = WARM_UP + int(seconds * PREPARED_PER_SECOND)
            bodies = payments(devnet, count)
            others = payments(devnet, count, asked=OTHER_RESOURCE)
            loads = [
                await run_load(
                    server,
                    "/verify",
                    posted,
                    check,
                    connections=connections,
                    warm_up=WARM_UP,
                    seconds=seconds,
                )
                for server, posted, check in (
                    (service, bodies, expected.valid),
                    (echo, bodies, expected.echo),
                    (service, others, expected.mismatch),
                )
            ]
            turn = Turn(*loads)
            turns[connections].append(turn)
            print(
                f"round {number + 1} of {rounds}, {connections} connections: CPU a request"
                f" {turn.verify.cpu_us:.0f} us, echo {turn.echo.cpu_us:.0f} us,"
                f" refused {turn.refused.cpu_us:.0f} us",
                file=sys.stderr,
                flush=True,
            )
    return turns
