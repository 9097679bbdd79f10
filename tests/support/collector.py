"""A real OTLP/HTTP endpoint that reads what it is sent, as OpenTelemetry's own messages."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

RECEIVED_WITHIN = 60.0  # seconds


class Received(Struct, frozen=True, kw_only=True):
    """A span as it came; times in nanoseconds. `service` is its resource's service.name."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start: int
    end: int
    failed: bool
    attributes: dict[str, str | int]

    @property
    def ms(self) -> float:
        return (self.end - self.start) / 1e6


class Collector:
    """`spans` in the order of arrival; `bodies` and `headers` as they were posted. It answers with
    `status`, once `gate` is open.
    """

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(dict(request.headers))
        await self.gate.wait()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.bodies.append(body)
        if self.status == 200:
            self.spans.extend(_read(body))
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
            status=self.status,
        )

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Until it holds of what has come."""
        async with asyncio.timeout(RECEIVED_WITHIN):
            while not condition():  # noqa: ASYNC110 - another process sends it
                await asyncio.sleep(0.05)

    def environment(self, **changes: str) -> dict[str, str]:
        """What a service is told that sends its spans here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            **changes,
        }


def _read(body: bytes) -> list[Received]:
    message = ExportTraceServiceRequest()
    message.ParseFromString(body)
    found = []
    for group in message.resource_spans:
        resource = {each.key: each.value.string_value for each in group.resource.attributes}
        for scope in group.scope_spans:
            found += [
                Received(
                    service=resource["service.name"],
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=span.kind,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    failed=span.status.code == 2,
                    attributes={
                        each.key: each.value.string_value or each.value.int_value
                        for each in span.attributes
                    },
                )
                for span in scope.spans
            ]
    return found


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """One on a free port of loopback."""
    receiving = Collector()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", receiving.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiving.url = f"http://{host}:{port}"
    try:
        yield receiving
    finally:
        await runner.cleanup()


def tree(spans: list[Received]) -> str:
    """The spans of one trace, each under its parent, with its milliseconds."""
    known = {span.span_id for span in spans}

    def lines(parent: str | None, depth: int) -> list[str]:
        inside = [
            span
            for span in sorted(spans, key=lambda each: each.start)
            if (span.parent_id if span.parent_id in known else None) == parent
        ]
        found = []
        for span in inside:
            found.append(f"{'  ' * depth}{span.name}  {span.ms:.1f} ms")
            found += lines(span.span_id, depth + 1)
        return found

    return "\n".join(lines(None, 0))
