"""HTTP at the running service: methods, paths, preflights, headers, slow bodies."""

import asyncio
import json
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.service import Service

pytestmark = pytest.mark.anyio

GETS = (
    *("/", "/health", "/ready", "/stats", "/metrics", "/verify", "/settle"),
    *("/supported", "/supported/networks", "/supported/tokens/jeju"),
)
POSTS = ("/verify", "/verify/signature", "/settle", "/settle/gasless")


@pytest.mark.parametrize("path", GETS)
async def test_head_works_wherever_get_does(service: Service, path: str) -> None:
    async with service.session.get(service.url + path) as got:
        assert got.status == 200
        assert len(await got.read()) > 0
    async with service.session.head(service.url + path) as head:
        assert head.status == 200
        assert await head.read() == b""
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
    async with service.session.head(service.url + "/nowhere") as head:
        assert head.status == 404


@pytest.mark.parametrize("path", ["/verify", "/settle"])
async def test_get_describes_what_to_post(service: Service, path: str) -> None:
    status, told = await service.get(path)
    assert (status, told["endpoint"], told["method"]) == (200, path, "POST")
    assert set(told["body"]) == {"paymentHeader", "paymentRequirements", "x402Version"}


async def test_any_other_method_and_any_other_path_is_the_same_404(service: Service) -> None:
    """A trailing slash and another case are other paths; the query is not told."""
    cases = [(method, path) for path in GETS for method in ("PUT", "PATCH", "DELETE")]
    cases += [("POST", path) for path in GETS if path not in POSTS]
    cases += [("GET", path) for path in POSTS if path not in GETS]
    cases += [("GET", path + "/") for path in GETS if path != "/"]
    cases += [("POST", path + "/") for path in POSTS]
    cases += [("GET", path) for path in ("/VERIFY", "/Health", "//", "/x", "/supported/tokens/")]
    for method, path in cases:
        url = service.url + path + "?key=value"
        async with service.session.request(method, url) as response:
            reply = await response.json()
            assert response.status == 404, (method, path)
            assert reply == {"error": "Not found", "path": path, "timestamp": reply["timestamp"]}


@pytest.mark.parametrize(
    ("raw", "decoded"),
    [
        (b"/no%20such", "/no such"),
        (b"/%C3%BC%F0%9F%98%80", "/ü😀"),
        (b"/%00%0a%22", '/\0\n"'),
        (b"/%ff%fe", "/\ufffd\ufffd"),
        (b"/a%2Fb", "/a/b"),
        (b"/%zz%", "/%zz%"),
        (b"/" + b"x" * 5000, "/" + "x" * 5000),
    ],
)
async def test_the_path_of_a_404_is_decoded(service: Service, raw: bytes, decoded: str) -> None:
    status, reply = await exchange(service, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % raw)
    assert status == 404
    assert reply["path"] == decoded


async def exchange(service: Service, sent: bytes) -> tuple[int, dict[str, Any]]:
    """What the service answers to these bytes."""
    reader, writer = await asyncio.open_connection(*service.url.removeprefix("http://").split(":"))
    try:
        writer.write(sent)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head.split()[1]), json.loads(await reader.readexactly(length))
    finally:
        writer.close()


@pytest.mark.parametrize("path", ["/", "/verify", "/settle/gasless", "/nowhere", "/supported/"])
async def test_a_preflight_is_answered_on_any_path(service: Service, path: str) -> None:
    async with service.session.options(service.url + path) as response:
        assert (response.status, await response.read()) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Access-Control-Allow-Methods"] == "GET,POST,OPTIONS"
        allowed = response.headers["Access-Control-Allow-Headers"].split(",")
        assert {"Content-Type", "X-Payment", "X-Payment-Proof", "Authorization"} <= set(allowed)


@pytest.mark.parametrize("path", [*GETS, "/nowhere"])
async def test_every_reply_may_be_read_from_anywhere_and_is_what_it_says(
    service: Service, path: str
) -> None:
    async with service.session.get(service.url + path) as response:
        headers = response.headers
    assert headers["Access-Control-Allow-Origin"] == "*"
    exposed = headers["Access-Control-Expose-Headers"].split(",")
    assert {"X-Payment-Requirement", "WWW-Authenticate"} <= set(exposed)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Strict-Transport-Security"].startswith("max-age=")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_a_body_that_takes_over_10_seconds_is_408_in_the_endpoints_own_shape(
    service: Service,
) -> None:
    async def slowly(path: str) -> tuple[int, dict[str, Any]]:
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{" % path.encode()
        return await exchange(service, head)

    verify, signature, settle, gasless = await asyncio.gather(*(slowly(path) for path in POSTS))
    words = "Request body took longer than 10 s"
    assert (verify[0], verify[1]["isValid"], verify[1]["invalidReason"]) == (408, False, words)
    assert signature == (408, {"valid": False, "error": words})
    for status, reply in (settle, gasless):
        assert (status, reply["success"], reply["error"]) == (408, False, words)
        assert reply["networkId"] == "jeju"


@pytest.mark.parametrize("network", ["JEJU", "jeju ", "solana", "%F0%9F%98%80", "x" * 5000, "%00"])
async def test_the_tokens_of_a_network_that_is_not_known_are_a_400(
    service: Service, network: str
) -> None:
    sent = (
        b"GET /supported/tokens/%s HTTP/1.1\r\nHost: x\r\n\r\n"
        % network.replace(" ", "%20").encode()
    )
    status, reply = await exchange(service, sent)
    named = {"%F0%9F%98%80": "😀", "%00": "\0"}.get(network, network)
    assert (status, reply) == (400, {"error": f"Unsupported network: {named}"})


async def test_all_networks_are_told_in_development(chain: Devnet, service: Service) -> None:
    networks = (await service.get("/supported/networks"))[1]["networks"]
    told = {each["network"]: (each["chainId"], each["blockExplorer"]) for each in networks}
    assert told == {
        "jeju": (420691, None),
        "jeju-testnet": (420690, None),
        "base-sepolia": (84532, "https://sepolia.basescan.org"),
        "base": (8453, "https://basescan.org"),
        "sepolia": (11155111, "https://sepolia.etherscan.io"),
        "ethereum": (1, "https://etherscan.io"),
    }
    kinds = (await service.get("/supported"))[1]["kinds"]
    jeju = {(kind["scheme"], kind["network"]) for kind in kinds if kind["x402Version"] == 1}
    assert jeju == {(scheme, network) for scheme in ("exact", "upto") for network in told}
    # Where the standard dialect settles nothing, its clients must not take an entry for theirs.
    standard = {kind["network"] for kind in kinds if kind["x402Version"] == 2}
    assert 0 < len(standard) < len(told)
    for kind in kinds:
        name = kind["network"]
        shared = name in standard or f"eip155:{told[name][0]}" in standard
        unmarked = kind["scheme"] == "exact" and shared
        assert kind.get("extra") == (None if unmarked else {"dialect": "jeju"})
