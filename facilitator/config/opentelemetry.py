"""OpenTelemetry's own variables: whether and how spans are recorded.

A wrong value stops the start like any other; OpenTelemetry itself would fall back to a default.
"""

import re
from urllib.parse import unquote

from msgspec import Struct

from facilitator.config.environment import Environment
from facilitator.config.parsers import ConfigError, parse_url

_SIGNALS = ("OTEL_EXPORTER_OTLP_TRACES", "OTEL_EXPORTER_OTLP")
_SAMPLERS = (
    *("always_on", "always_off", "traceidratio"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
)
_FRACTION = re.compile(r"\A(0|1|1\.0{1,18}|0?\.[0-9]{1,18})\Z")


class Tracing(Struct, frozen=True, kw_only=True):
    """How spans are recorded. `sampler` and `ratio` choose the traces. At most `queue_size` ended
    spans wait; they are sent in batches of `batch_size`, or after `delay_ms` milliseconds.
    `secrets` are the collector's URL and the values of the headers sent there: never in a repr.
    """

    sampler: str
    ratio: float  # of all traces; it touches no money
    queue_size: int
    batch_size: int
    delay_ms: int
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Tracing({self.sampler})"


def read_tracing(env: Environment) -> Tracing | None:
    """Return how spans are recorded; None where no collector is named, or OTEL_SDK_DISABLED or
    OTEL_TRACES_EXPORTER turns them off. Raises ConfigError.
    """
    urls = [_url(env, f"{signal}_ENDPOINT") for signal in _SIGNALS]
    headers = [env.text(f"{signal}_HEADERS")[1] for signal in _SIGNALS]
    for signal in _SIGNALS:
        env.choice(f"{signal}_PROTOCOL", default="http/protobuf", options=("http/protobuf",))
    ratio = env.text("OTEL_TRACES_SAMPLER_ARG")[1] or "1"
    if not _FRACTION.match(ratio):
        raise ConfigError("OTEL_TRACES_SAMPLER_ARG must be a plain decimal number from 0 to 1")
    queue_size = env.integer("OTEL_BSP_MAX_QUEUE_SIZE", default=2048, low=1, high=1_000_000)
    tracing = Tracing(
        sampler=env.choice(
            "OTEL_TRACES_SAMPLER", default="parentbased_always_on", options=_SAMPLERS
        ),
        ratio=float(ratio),
        queue_size=queue_size,
        # Fewer than OpenTelemetry's 512: they are encoded while requests wait for the interpreter.
        batch_size=env.integer(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            default=min(128, queue_size),
            low=1,
            high=queue_size,
        ),
        delay_ms=env.integer("OTEL_BSP_SCHEDULE_DELAY", default=5000, low=1, high=600_000),
        secrets=tuple(
            [url for url in urls if url]
            + [value for each in headers if each for value in _header_values(each)]
        ),
    )
    exporter = env.choice("OTEL_TRACES_EXPORTER", default="otlp", options=("otlp", "none"))
    disabled = env.choice(
        "OTEL_SDK_DISABLED", default="false", options=("true", "false", "TRUE", "FALSE")
    )
    if disabled.lower() == "true" or exporter == "none" or not any(urls):
        return None
    return tracing


def _url(env: Environment, name: str) -> str | None:
    value = env.text(name)[1]
    return None if value is None else parse_url(name, value)


def _header_values(headers: str) -> list[str]:
    """Return the values in `name=value,name=value`, as they are written and as they are sent."""
    written = [item.partition("=")[2].strip() for item in headers.split(",")]
    return [form for value in written if value for form in {value, unquote(value)}]
