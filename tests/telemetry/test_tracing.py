"""Laws of traces, as a real OTLP/HTTP endpoint receives them from the real service."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment
from tests.support.collector import Collector, collector, tree
from tests.support.faultproxy import fault_proxy, lose_request
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
PROTOBUF = "google/_upb"  # its machine code, which comes with OpenTelemetry's exporter
SERVER = 2  # opentelemetry.proto: SPAN_KIND_SERVER


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def settle(service: Service, header: dict[str, object]) -> dict[str, object]:
    """Settle in the caller's trace."""
    async with service.session.post(
        f"{service.url}/settle", json=request(header), headers=TRACEPARENT
    ) as response:
        reply: dict[str, object] = await response.json()
        return reply


def mapped_files(service: Service) -> str:
    """Among others the machine code that it has loaded."""
    return Path(f"/proc/{service.process.pid}/maps").read_text("utf-8")


async def test_a_settlement_is_one_trace_from_request_to_outcome(
    devnet: Devnet, tmp_path: Path
) -> None:
    """In the caller's trace; every part lies inside its parent, in time as well."""
    await approve(devnet)
    async with collector() as receiving:
        async with serve(devnet, tmp_path, **receiving.environment()) as service:
            reply = await settle(service, devnet_payment(devnet))
            assert reply["success"] is True
            await receiving.wait(lambda: bool(receiving.named("outcome")))
            [confirmed] = service.logged("settlement_confirmed")
            await receiving.wait(lambda: bool(receiving.named("POST /settle")))
            await service.wait_for("request")
            [line] = service.logged("request")
            assert PROTOBUF in mapped_files(service)
        spans = [span for span in receiving.spans if span.trace_id == TRACE]
    logging.getLogger(__name__).info("one settlement:\n%s", tree(spans))
    by_id = {span.span_id: span for span in spans}
    [root] = receiving.named("POST /settle")
    assert (root.parent_id, root.kind, root.service) == (CALLER, SERVER, "facilitator")
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["outcome"] == "settled"
    for name, parent in {
        "verify": "POST /settle",
        "claim": "POST /settle",
        "sign": "claim",
        "send": "claim",
        "wait": "POST /settle",
        "outcome": "POST /settle",
        "eth_sendRawTransaction": "send",
    }.items():
        [span] = [each for each in spans if each.name == name]
        assert by_id[span.parent_id].name == parent, name
    reads = [span for span in spans if span.name == "eth_call"]
    assert reads
    assert {span.attributes["endpoint"] for span in reads} == {"jeju#0"}
    for span in spans:
        assert span.end >= span.start
        assert not span.failed
        if span.name != "outcome" and span.parent_id in by_id:
            assert by_id[span.parent_id].start <= span.start
    [outcome] = receiving.named("outcome")
    assert outcome.attributes["state"] == "confirmed"
    assert outcome.attributes["transaction"] == reply["txHash"]
    assert {line["trace_id"], confirmed["trace_id"]} == {TRACE}


async def test_the_trace_goes_on_after_a_kill_9(devnet: Devnet, tmp_path: Path) -> None:
    """What the next life sends and finds belongs to the request of the first, by its trace id."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with collector() as receiving, fault_proxy(devnet.url) as proxy:
        told = receiving.environment(JEJU_RPC_URL=proxy.url)
        proxy.faults["eth_sendRawTransaction"] = lose_request
        async with serve(devnet, tmp_path, **told) as first:
            posting = asyncio.create_task(settle(first, header))
            await first.wait_for("settlement_submitted")
            await first.stop(signal.SIGKILL)
            await asyncio.wait([posting])
            assert posting.exception() is not None
        before = len(receiving.spans)
        assert not receiving.named("outcome")
        proxy.faults.clear()
        async with serve(devnet, tmp_path, **told) as second:
            await second.wait_for("settlement_confirmed")
            [confirmed] = second.logged("settlement_confirmed")
            await receiving.wait(lambda: bool(receiving.named("outcome")))
        after = [span for span in receiving.spans[before:] if span.trace_id == TRACE]
    assert {"send", "eth_sendRawTransaction", "outcome"} <= {span.name for span in after}
    assert confirmed["trace_id"] == TRACE


async def test_without_a_collector_a_trace_is_named_in_the_log_all_the_same(
    devnet: Devnet, tmp_path: Path
) -> None:
    """And OpenTelemetry is not even imported."""
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        assert (await settle(service, devnet_payment(devnet)))["success"] is True
        await service.wait_for("request")
        [confirmed] = service.logged("settlement_confirmed")
        [line] = service.logged("request")
        maps = mapped_files(service)
    assert {line["trace_id"], confirmed["trace_id"]} == {TRACE}
    assert PROTOBUF not in maps


@pytest.fixture(scope="module")
async def tracing_service(
    chain: Devnet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Service, Collector]]:
    async with (
        collector() as receiving,
        serve(chain, tmp_path_factory.mktemp("journal"), **receiving.environment()) as service,
    ):
        yield service, receiving


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{CALLER}",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{CALLER}-01-x",
        "\xe9",
    ],
)
async def test_a_traceparent_that_is_none_begins_a_trace_of_ours(
    tracing_service: tuple[Service, Collector], header: str
) -> None:
    service, receiving = tracing_service
    before = len(receiving.named("GET /supported"))
    headers = {"traceparent": header}
    async with service.session.get(f"{service.url}/supported", headers=headers) as response:
        assert response.status == 200
    await receiving.wait(lambda: len(receiving.named("GET /supported")) > before)
    span = receiving.named("GET /supported")[-1]
    assert (span.parent_id, span.trace_id == TRACE) == ("", False)


@pytest.mark.parametrize("listed", [True, False])
async def test_only_a_listed_host_is_told_the_trace(
    devnet: Devnet, tmp_path: Path, listed: bool
) -> None:
    """As the parent of what it does: the span of the call that it is asked."""
    await approve(devnet)
    async with collector() as receiving, fault_proxy(devnet.url) as proxy:
        hosts = "127.0.0.1, rpc.example" if listed else "rpc.example"
        told = receiving.environment(JEJU_RPC_URL=proxy.url, TRACE_PROPAGATE_HOSTS=hosts)
        async with serve(devnet, tmp_path, **told) as service:
            assert (await settle(service, devnet_payment(devnet)))["success"] is True
            await receiving.wait(lambda: bool(receiving.named("POST /settle")))
        spans = {span.span_id: span for span in receiving.spans}
    given = [each for each in proxy.traceparents if each is not None]
    assert bool(given) is listed
    for traceparent in given:
        version, trace_id, parent_id, flags = traceparent.split("-")
        assert (version, trace_id, int(flags, 16) & 1) == ("00", TRACE, 1)
        assert spans[parent_id].name.startswith("eth_")


async def test_a_post_with_calls_of_two_traces_names_neither(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Calls of many requests leave as one, and its header has room for one trace."""
    async with collector() as receiving, fault_proxy(devnet.url) as proxy:
        told = receiving.environment(JEJU_RPC_URL=proxy.url, TRACE_PROPAGATE_HOSTS="127.0.0.1")
        async with serve(devnet, tmp_path, **told) as service:
            headers = [devnet_payment(devnet) for _ in range(16)]
            await asyncio.gather(*(service.verify(header) for header in headers))
            await receiving.wait(lambda: len(receiving.named("POST /verify")) == len(headers))
        traces = {span.trace_id for span in receiving.named("POST /verify")}
    given = {each.split("-")[1] for each in proxy.traceparents if each is not None}
    assert len(traces) == len(headers)
    assert given <= traces
    assert proxy.posts < proxy.calls["eth_call"]


async def test_a_fault_shows_its_kind_and_nothing_of_what_it_says(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with collector() as receiving, fault_proxy(devnet.url) as proxy:
        async with serve(
            devnet, tmp_path, JEJU_RPC_URL=proxy.url, **receiving.environment()
        ) as service:
            proxy.raw = b"<html>no-such-luck</html>"
            status, _ = await service.post("/verify", request(devnet_payment(devnet)))
            assert status == 503
            await receiving.wait(lambda: bool(receiving.named("POST /verify")))
        failed = [span for span in receiving.spans if span.failed]
    kinds = {(span.name, span.attributes["error.type"]) for span in failed}
    assert ("eth_call", "TransportError") in kinds
    assert ("POST /verify", "503") in kinds
    assert not any(b"no-such-luck" in body or b"127.0.0.1" in body for body in receiving.bodies)
