"""The figures, and the two ways to print them."""

import json
import math
import statistics
from collections.abc import Sequence

from msgspec import Struct, to_builtins

from tests.bench.load import Load
from tests.bench.settlement import IN_FLIGHT
from tests.bench.verification import Turn


class Spread(Struct, frozen=True):
    """Of the rounds: the median, the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def show(self, decimals: int = 0) -> str:
        """As 340 (331-352)."""
        median, least, most = (
            f"{value:,.{decimals}f}" for value in (self.median, self.least, self.most)
        )
        return f"{median} ({least}-{most})"


class Verification(Struct, frozen=True, kw_only=True):
    """/verify at one number of connections; CPU time in microseconds a request."""

    connections: int
    verify_cpu_us: Spread
    echo_cpu_us: Spread
    ratio: Spread  # of neighbouring turns
    refused_cpu_us: Spread
    verify_per_second: Spread
    rpc_posts: float  # a request
    rpc_calls: float


class Settlement(Struct, frozen=True, kw_only=True):
    """/settle with IN_FLIGHT payments in flight; times in seconds, CPU time in milliseconds."""

    in_flight: int
    settlements: int
    per_second: float
    p50_seconds: float
    p99_seconds: float
    cpu_ms: float
    rpc_posts: float
    rpc_calls: float


class Report(Struct, frozen=True):
    """Everything that was measured."""

    verification: list[Verification]
    settlement: Settlement


# POSTs and calls a request, as counted
Counted = tuple[float, float]


def verification(connections: int, turns: Sequence[Turn], counted: Counted) -> Verification:
    """The figures of all turns at one number of connections."""
    return Verification(
        connections=connections,
        verify_cpu_us=Spread.of([turn.verify.cpu_us for turn in turns]),
        echo_cpu_us=Spread.of([turn.echo.cpu_us for turn in turns]),
        ratio=Spread.of([turn.verify.cpu_us / turn.echo.cpu_us for turn in turns]),
        refused_cpu_us=Spread.of([turn.refused.cpu_us for turn in turns]),
        verify_per_second=Spread.of([turn.verify.per_second for turn in turns]),
        rpc_posts=counted[0],
        rpc_calls=counted[1],
    )


def settlement(load: Load, counted: Counted) -> Settlement:
    """The figures of one load of settlements."""
    latencies = sorted(load.latencies)
    return Settlement(
        in_flight=IN_FLIGHT,
        settlements=load.requests,
        per_second=load.per_second,
        p50_seconds=statistics.median(latencies),
        p99_seconds=latencies[math.ceil(len(latencies) * 0.99) - 1],
        cpu_ms=load.cpu_us / 1000,
        rpc_posts=counted[0],
        rpc_calls=counted[1],
    )


def markdown(report: Report) -> str:
    """Two tables."""
    lines = [
        "| connections | /verify, µs CPU | bare echo, µs CPU | ratio | refused without the chain,"
        " µs CPU | /verify a second | RPC requests / calls each |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report.verification:
        cells = (
            str(row.connections),
            row.verify_cpu_us.show(),
            row.echo_cpu_us.show(),
            row.ratio.show(2),
            row.refused_cpu_us.show(),
            row.verify_per_second.show(),
            f"{row.rpc_posts:.2f} / {row.rpc_calls:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    one = report.settlement
    lines += [
        "",
        "| settlements | in flight | a second | p50, s | p99, s | ms CPU each |"
        " RPC requests / calls each |",
        "|--:|--:|--:|--:|--:|--:|--:|",
        f"| {one.settlements} | {one.in_flight} | {one.per_second:.1f} | {one.p50_seconds:.2f} |"
        f" {one.p99_seconds:.2f} | {one.cpu_ms:.2f} |"
        f" {one.rpc_posts:.2f} / {one.rpc_calls:.1f} |",
    ]
    return "\n".join(lines)


def as_json(report: Report) -> str:
    """The same for machines."""
    return json.dumps(to_builtins(report), indent=2)
