"""No secret is ever shown: in what the process writes, in what it answers, in what it sends."""

import asyncio
import base64
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator.commands.devnet import Devnet
from facilitator.telemetry.redaction import REDACTED
from tests.support.chain import approve, devnet_payment
from tests.support.collector import collector
from tests.support.faultproxy import Answer, Call, FaultProxy, Forward, fault_proxy
from tests.support.leaky import WAYS
from tests.support.service import Service, environment, launch, request

pytestmark = pytest.mark.anyio

API_KEY = "9f8e7d6c5b4a39281706"
PASSWORD = "correct-horse-battery"
TOKEN = "sk-live-51HxqOnlyForSellers"
COLLECTOR_TOKEN = "hny-7Zq3Kp9mUvWx"
OTHER_HOST = "a1b2c3d4.rpc-provider.example"
LISTENING = re.compile(rb"listening\W+(127\.0\.0\.1:\d+)")
START_TIMEOUT = 60.0  # seconds
GETS = ("/", "/health", "/ready", "/stats", "/metrics", "/supported", "/supported/networks")


def url_of(proxy: FaultProxy) -> str:
    """The proxy's, as of a provider that takes its key in the path and asks for a password."""
    return (
        proxy.url.replace("http://", f"http://project:{PASSWORD}@").rstrip("/") + f"/v3/{API_KEY}"
    )


def secrets_of(devnet: Devnet, header: Mapping[str, Any]) -> dict[str, str]:
    """By what it is; in hex where it is bytes."""
    return {
        "private key": "0x" + devnet.signer.key.hex(),
        "API key": API_KEY,
        "password": PASSWORD,
        "Authorization": TOKEN,
        "collector's token": COLLECTOR_TOKEN,
        "provider's host": OTHER_HOST,
        "signature": str(header["signature"]),
    }


def spellings(secret: str) -> Iterator[bytes]:
    """What a search for it must not find, in lower case."""
    bare = secret.removeprefix("0x").lower()
    yield bare.encode()
    for text in (secret, secret.removeprefix("0x")):
        for shift in range(3):  # base64 depends on what stands before
            encoded = base64.b64encode(b" " * shift + text.encode())
            yield encoded[4:-4].lower()


async def listening(service: Service) -> None:
    """Wait until it does; where, it says in either format."""
    async with asyncio.timeout(START_TIMEOUT):
        while not (found := LISTENING.search(service.output)):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
        service.url = f"http://{found[1].decode()}"
        while True:  # it says so shortly before it takes connections
            with suppress(aiohttp.ClientConnectorError):
                await service.get("/health")
                return
            await asyncio.sleep(0.05)


class Shown:
    """Everything that came out of the service, by where."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}

    async def note(self, where: str, response: aiohttp.ClientResponse) -> None:
        with suppress(aiohttp.ClientPayloadError):  # one that is cut off
            head = repr(response.headers).encode()
            self.texts[where] = head + await response.read()

    def search(self, secrets: Mapping[str, str]) -> list[tuple[str, str]]:
        """(where, which secret) of all that is found."""
        return [
            (where, name)
            for where, text in self.texts.items()
            for name, secret in secrets.items()
            if any(spelling in text.lower() for spelling in spellings(secret))
        ]


async def echo_everything(call: Call, forward: Forward) -> Answer:
    """A node that repeats in its error what it was asked, and where."""
    words = (
        f"no method for {call['params']} at https://{OTHER_HOST}/v3/{API_KEY} (project:{PASSWORD})"
    )
    return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": -32000, "message": words}}


async def ask_for_all(
    service: Service, proxy: FaultProxy, header: dict[str, Any], shown: Shown
) -> None:
    """Every route, with a node that is well and one that tells everything."""
    told = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": "of-this-test"}
    body = request(header)
    for state in ("well", "telling"):
        proxy.faults = {"*": echo_everything} if state == "telling" else {}
        for path in GETS:
            async with service.session.get(service.url + path, headers=told) as response:
                await shown.note(f"GET {path}, {state}", response)
        for path in ("/verify", "/verify/signature", "/settle"):
            async with service.session.post(
                service.url + path, json=body, headers=told
            ) as response:
                await shown.note(f"POST {path}, {state}", response)
    proxy.heal()
    for way in [*WAYS, "half"]:
        async with service.session.post(
            f"{service.url}/leak/{way}?key={API_KEY}",
            json={**body, "signature": header["signature"]},
            headers=told,
        ) as response:
            await shown.note(f"leak {way}", response)


@pytest.mark.parametrize("format", ["json", "text"])
async def test_no_secret_is_shown_wherever_it_stands(
    devnet: Devnet, tmp_path: Path, format: str
) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    shown = Shown()
    async with collector() as receiving, fault_proxy(devnet.url) as proxy:
        variables = {
            **environment(devnet, tmp_path, LOG_FORMAT=format, LOG_LEVEL="DEBUG"),
            **receiving.environment(),
            "JEJU_RPC_URL": url_of(proxy),
            "BASE_RPC_URL": f"https://{OTHER_HOST}/{API_KEY}",
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-team={COLLECTOR_TOKEN},x-key=a%20{COLLECTOR_TOKEN}",
        }
        # Both of its outputs.
        command = ("sh", "-c", f"exec {sys.executable} -m tests.support.leaky 1>&2")
        async with launch(variables, *command) as service:
            await listening(service)
            await ask_for_all(service, proxy, header, shown)
            await service.stop(signal.SIGTERM)
            shown.texts["output"] = service.output
            shown.texts["spans"] = b"".join(receiving.bodies)
    assert shown.search(secrets_of(devnet, header)) == []
    # Everything was told all the same.
    output = service.output.decode()
    assert output.count(REDACTED) > 2 * len(WAYS)
    if format == "json":
        lines = [json.loads(line) for line in output.splitlines()]
        events = Counter(line["event"] for line in lines)
        assert {name for name in events if "never retrieved" in name}
        assert {name for name in events if name.startswith("Exception in callback")}
        assert events["unhandled_error"] == 1
        assert events["unloggable"] == 1
        assert events["uncaught"] == 3  # in a thread, in a finalizer, and at the end
        traced = [line for line in lines if "traceback" in line]
        assert len(traced) >= 8
        assert all(REDACTED in line["traceback"] for line in traced)
        named = [line for line in lines if line.get("request_id") == "of-this-test"]
        assert {"facilitator.http", "somebody.else", "py.warnings"} <= {
            line["logger"] for line in named
        }
