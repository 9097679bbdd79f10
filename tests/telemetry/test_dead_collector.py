"""A collector that is not there, hangs or refuses costs a request nothing, and fills no log."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet
from facilitator.telemetry.otlp import DRAIN_SECONDS
from tests.support.collector import Collector, collector
from tests.support.service import Service, environment, launch, serve

pytestmark = pytest.mark.anyio

REQUESTS = 3_000
AT_ONCE = 16
SLOWEST = 8.0  # seconds: who waits for an export that hangs waits for ten
# Fewer than the requests, so that the queue is full.
QUEUE = {"OTEL_BSP_MAX_QUEUE_SIZE": "256", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "128"}
# A port of the discard service, on which nothing listens here.
NOWHERE = "http://127.0.0.1:9"


async def ask(service: Service) -> list[float]:
    """The seconds until each of REQUESTS replies."""
    took: list[float] = []

    async def drive() -> None:
        while len(took) < REQUESTS:
            started = time.perf_counter()
            status, _ = await service.get("/supported")
            took.append(time.perf_counter() - started)
            assert status == 200

    await asyncio.gather(*(drive() for _ in range(AT_ONCE)))
    return took


async def stopped_within(service: Service, seconds: float) -> None:
    started = time.monotonic()
    assert await service.stop() == 0
    assert time.monotonic() - started < seconds


def prepare(receiving: Collector, how: str) -> str:
    """Where spans are sent to."""
    if how == "hangs":
        receiving.gate.clear()
    elif how == "refuses":
        receiving.status = 503
    return NOWHERE if how == "is not there" else receiving.url


@pytest.mark.parametrize("how", ["is not there", "hangs", "refuses"])
async def test_a_dead_collector_costs_nothing(chain: Devnet, tmp_path: Path, how: str) -> None:
    async with collector() as receiving:
        told = receiving.environment(OTEL_EXPORTER_OTLP_ENDPOINT=prepare(receiving, how), **QUEUE)
        async with serve(chain, tmp_path, **told) as service:
            took = await ask(service)
            assert max(took) < SLOWEST
            # The exporter's thread is asleep, or waits for its socket.
            assert len(service.logged("traces_not_exported")) <= 1
            strange = {line["logger"] for line in service.lines} - {
                *("facilitator.web.app", "facilitator.http", "facilitator.telemetry.otlp"),
                "hypercorn.error",
            }
            assert strange == set()
            await stopped_within(service, DRAIN_SECONDS + 3)
            assert receiving.spans == []


async def test_the_end_waits_for_what_is_still_to_be_sent(chain: Devnet, tmp_path: Path) -> None:
    async with collector() as receiving:
        told = receiving.environment(OTEL_BSP_SCHEDULE_DELAY="600000")
        async with serve(chain, tmp_path, **told) as service:
            await service.get("/supported")
            assert receiving.spans == []
            await stopped_within(service, DRAIN_SECONDS)
            assert [span.name for span in receiving.spans] == ["GET /supported"]


async def test_a_sampler_that_takes_nothing_sends_nothing(chain: Devnet, tmp_path: Path) -> None:
    """And lets the trace be known all the same, for the log."""
    async with collector() as receiving:
        told = receiving.environment(OTEL_TRACES_SAMPLER="always_off")
        async with serve(chain, tmp_path, **told) as service:
            await service.get("/supported")
            await service.wait_for("request")
            [line] = service.logged("request")
            assert len(line["trace_id"]) == 32
            await stopped_within(service, DRAIN_SECONDS)
            assert receiving.bodies == []


async def test_without_the_extra_it_serves_and_says_so(chain: Devnet, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"  # as where it is not installed
        "from facilitator.commands.main import main; sys.exit(main(['serve']))"
    )
    told = {**environment(chain, tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE}
    async with launch(told, *(sys.executable, "-c", code)) as service:
        await service.started()
        assert (await service.get("/supported"))[0] == 200
        [line] = service.logged("traces_off")
        assert line["level"] == "warning"
