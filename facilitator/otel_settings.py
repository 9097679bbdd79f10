"""OpenTelemetry's own variables: whether spans are recorded, and that what is set makes sense.

Its SDK reads them all again by itself, and falls back to a default with a warning where one is
wrong; here a wrong one stops the start like any other.
"""

import re
from urllib.parse import unquote

from msgspec import Struct

from facilitator.environment import Environment
from facilitator.values import ConfigError, parse_url

_SIGNALS = ("OTEL_EXPORTER_OTLP_TRACES", "OTEL_EXPORTER_OTLP")
_SAMPLERS = (
    *("always_on", "always_off", "traceidratio"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
)
_FRACTION = re.compile(r"\A(0|1|1\.0{1,18}|0?\.[0-9]{1,18})\Z")


class Tracing(Struct, frozen=True):
    """Spans are recorded. `secrets` (the collector's URL, and the values of the headers that go
    there) never show in a repr.
    """

    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return "Tracing(<hidden>)"


def read_tracing(env: Environment) -> Tracing | None:
    """None where no collector is named, or OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER says no.

    Raises ConfigError.
    """
    urls = [_url(env, f"{signal}_ENDPOINT") for signal in _SIGNALS]
    headers = [env.text(f"{signal}_HEADERS")[1] for signal in _SIGNALS]
    for signal in _SIGNALS:
        env.choice(f"{signal}_PROTOCOL", default="http/protobuf", options=("http/protobuf",))
    sampler = env.choice("OTEL_TRACES_SAMPLER", default="parentbased_always_on", options=_SAMPLERS)
    argument = env.text("OTEL_TRACES_SAMPLER_ARG")[1]
    if sampler.endswith("traceidratio") and not _FRACTION.match(argument or "1"):
        raise ConfigError("OTEL_TRACES_SAMPLER_ARG must be a plain decimal number from 0 to 1")
    exporter = env.choice("OTEL_TRACES_EXPORTER", default="otlp", options=("otlp", "none"))
    disabled = env.choice(
        "OTEL_SDK_DISABLED", default="false", options=("true", "false", "TRUE", "FALSE")
    )
    if disabled.lower() == "true" or exporter == "none" or not any(urls):
        return None
    return Tracing(
        tuple(
            [url for url in urls if url]
            + [value for each in headers if each for value in _header_values(each)]
        )
    )


def _url(env: Environment, name: str) -> str | None:
    value = env.text(name)[1]
    return None if value is None else parse_url(name, value)


def _header_values(headers: str) -> list[str]:
    """Of `name=value,name=value`, as they are written and as they are sent."""
    written = [item.partition("=")[2].strip() for item in headers.split(",")]
    return [form for value in written if value for form in {value, unquote(value)}]
