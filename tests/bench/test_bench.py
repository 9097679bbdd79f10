"""The benchmark runs, and its figures are possible ones."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from tests.bench.bodies import Expected, payments
from tests.bench.load import run_load
from tests.bench.processes import BenchFailed, serve
from tests.bench.report import Report, Settlement, Spread, Verification, markdown
from tests.bench.telemetry import contenders
from tests.support.service import environment

pytestmark = pytest.mark.anyio

TIMEOUT = 400  # seconds; each takes some ten of them
SPREADS = {"verify_cpu_us", "echo_cpu_us", "ratio", "refused_cpu_us", "verify_per_second"}


def positive(values: dict[str, Any]) -> bool:
    return all(value > 0 for value in values.values())


async def test_the_benchmark_measures_everything_it_tells() -> None:
    """Every row is there, a check costs more than an echo, and the settlements are the chain's."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench", "--quick", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, progress = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert process.returncode == 0, progress.decode()
    assert progress.decode().count("round 1 of 1") == 3

    report = json.loads(output)
    assert [row["connections"] for row in report["verification"]] == [1, 16, 64]
    for row in report["verification"]:
        for name in SPREADS:
            assert positive(row[name]), name
            assert row[name]["least"] <= row[name]["median"] <= row[name]["most"]
        assert row["ratio"]["median"] > 1
        assert row["rpc_calls"] >= 1, "a payment is read about"
        assert 0 < row["rpc_posts"] < 1.1, "and its reads leave as one, the loop's few aside"
    settlement = report["settlement"]
    assert positive(settlement)
    assert (settlement["settlements"], settlement["in_flight"]) == (64, 64)
    assert settlement["p50_seconds"] <= settlement["p99_seconds"]


async def test_what_telemetry_costs_is_measured_of_every_kind() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.telemetry", "--rounds", "1", "--seconds", "0.1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, progress = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert process.returncode == 0, progress.decode()
    _, _, *rows = output.decode().splitlines()
    assert [row.split("|")[1].strip() for row in rows] == [*contenders("")]


async def test_the_benchmark_of_groups_tells_what_the_chain_shows() -> None:
    """Without groups a transaction a payment, with them fewer and less gas; and in a group only
    what fails fails.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.groups", "--payments", "72"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, progress = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert process.returncode == 0, progress.decode()
    bursts, groups = ([*map(cells, table.splitlines()[2:])] for table in told(output))
    for single, batched in (bursts[:2], bursts[2:]):
        assert single[:4] == [batched[0], "1", "72", "72"]
        assert batched[1:3] == ["32", "72"]
        assert int(batched[3]) < 72
        assert gas(batched) < gas(single)
    assert [each[:4] for each in groups] == [
        ["Jeju", "32", "31", "1"],
        ["standard", "32", "31", "1"],
    ]


def told(output: bytes) -> list[str]:
    return output.decode().strip().split("\n\n")


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def gas(row: list[str]) -> int:
    return int(row[5].replace(",", ""))


@pytest.mark.parametrize(
    "options", [("tests.bench", "--rounds", "0"), ("tests.bench.groups", "--payments", "0")]
)
async def test_bad_options_are_a_usage_error(options: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *options), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"above 0" in said


@pytest.mark.parametrize(
    ("path", "check"),
    [
        pytest.param("/verify", "valid", id="other words"),
        pytest.param("/settle", "echo", id="another status"),
    ],
)
async def test_a_reply_that_is_wrong_fails_the_run(
    devnet: Devnet, tmp_path: Path, path: str, check: str
) -> None:
    """The bare application stands in for a service that answers wrongly."""
    variables = environment(devnet, tmp_path)
    log = tmp_path / "log"
    async with serve("tests.bench.echo", "100", environment=variables, log=log) as server:
        bodies = payments(devnet, 8)
        right = await run_load(server, "/verify", bodies, Expected(devnet).echo, connections=2)
        assert right.requests == 8
        assert right.cpu_ns > 0
        with pytest.raises(BenchFailed):
            await run_load(server, path, bodies, getattr(Expected(devnet), check), connections=2)


def test_the_tables_are_markdown_with_a_row_for_every_figure() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    rows = [
        Verification(
            connections=connections,
            verify_cpu_us=spread,
            echo_cpu_us=spread,
            ratio=spread,
            refused_cpu_us=spread,
            verify_per_second=Spread.of([1234.5]),
            rpc_posts=0.5,
            rpc_calls=5,
        )
        for connections in (1, 16)
    ]
    settlement = Settlement(
        in_flight=64,
        settlements=512,
        per_second=50.25,
        p50_seconds=1.0,
        p99_seconds=2.0,
        cpu_ms=3.0,
        rpc_posts=0.25,
        rpc_calls=13,
    )
    first, second = markdown(Report(rows, settlement)).split("\n\n")
    for table, expected in ((first, 2 + len(rows)), (second, 2 + 1)):
        lines = table.splitlines()
        assert len(lines) == expected
        assert len({line.count("|") for line in lines}) == 1
    assert "| 16 | 2 (1-3) | 2 (1-3) | 2.00 (1.00-3.00) |" in first
    assert "| 1,234 (1,234-1,234) | 0.50 / 5.0 |" in first
    assert second.endswith("| 512 | 64 | 50.2 | 1.00 | 2.00 | 3.00 | 0.25 / 13.0 |")
