"""With the node or the journal down the standard dialect says so, and nothing else."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.faultproxy import FaultProxy, answer_with, fault_proxy, lose_request, refuse_with
from tests.support.service import Service, environment, launch, serve
from tests.support.x402 import high_s, v1_body, v2_body
from tests.support.x402_chain import deploy_wallet, transfers
from tests.support.x402_service import (
    EXPIRED,
    SIGNATURE,
    assert_settle_shape,
    nonce_in,
    nonce_of,
    post,
    settle,
    verify,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def unavailable(service: Service, body: object) -> None:
    """Both endpoints: 503 with Retry-After, in the shape of a reply, and no verdict."""
    for path in ("/verify", "/settle"):
        got = await post(service, path, body)
        reply = got.members
        assert got.status == 503, reply
        assert int(got.headers["Retry-After"]) >= 1
        assert reply["payer"] != ""
        if path == "/settle":
            assert_settle_shape(reply)
            assert (reply["success"], reply["transaction"]) == (False, "")
            assert reply["errorReason"] == "unexpected_settle_error"
        else:
            assert (reply["isValid"], reply["invalidReason"]) == (False, "unexpected_verify_error")


async def unknown(service: Service, devnet: Devnet, body: dict[str, Any]) -> None:
    """The journal has never heard of this payment."""
    query = f"network=jeju&asset=0x{devnet.usdc.hex()}&payer=0x{devnet.payer.address.hex()}"
    path = f"/settlements?{query}&nonce=0x{nonce_in(body).hex()}"
    assert (await service.get(path))[0] == 404


def cut(proxy: FaultProxy) -> None:
    proxy.faults["*"] = lose_request


def garble(proxy: FaultProxy) -> None:
    proxy.raw = b"<html>502 Bad Gateway</html>"


def truncate(proxy: FaultProxy) -> None:
    proxy.raw = b'{"jsonrpc":"2.0","id":1,"res'


def limit(proxy: FaultProxy) -> None:
    proxy.faults["*"] = refuse_with(-32005, "rate limit exceeded")


def lag(proxy: FaultProxy) -> None:
    proxy.faults["*"] = refuse_with(-32000, "header not found")


def null(proxy: FaultProxy) -> None:
    proxy.faults["*"] = answer_with(None)


def number(proxy: FaultProxy) -> None:
    proxy.faults["*"] = answer_with(1)


def no_code(proxy: FaultProxy) -> None:
    """A wallet without its code would be asked for the signature of a key."""
    proxy.faults["eth_getCode"] = refuse_with(-32000, "missing trie node")


@pytest.mark.parametrize("fault", [cut, garble, truncate, limit, lag, null, number, no_code])
async def test_with_the_node_down_nothing_is_said_of_a_payment(
    devnet: Devnet, tmp_path: Path, fault: Any
) -> None:
    """Neither valid nor a bad signature, whoever signed; the journal is as it was."""
    owner, first = devnet.accounts[4], await nonce_of(devnet)
    wallet = await deploy_wallet(devnet, owner)
    true, forged = v2_body(devnet), v2_body(devnet, signature=high_s)
    bodies = [true, v1_body(devnet), forged, v2_body(devnet, payer=owner, owner=wallet)]
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        fault(proxy)
        for body in bodies:
            await unavailable(service, body)
        # what needs no chain is answered without one
        late = v2_body(devnet, authorization={"validBefore": "1"})
        assert (await verify(service, late))["invalidReason"] == EXPIRED
        assert (await settle(service, late))["errorReason"] == EXPIRED
        await unknown(service, devnet, true)
        assert service.logged("settlement_submitted") == []
        proxy.faults.clear()
        proxy.raw = None
        async with asyncio.timeout(90):  # an endpoint that failed often is left alone for a second
            while (await post(service, "/verify", forged)).status == 503:  # noqa: ASYNC110 - a poll
                await asyncio.sleep(0.2)
        assert (await verify(service, forged))["invalidReason"] == SIGNATURE
        replies = [await settle(service, body) for body in (true, bodies[1], bodies[3])]
    assert [reply.get("errorReason") for reply in replies] == [None] * 3
    assert len(await transfers(devnet)) == 3
    assert await nonce_of(devnet) == first + 3


async def test_with_the_journal_down_nothing_is_claimed(devnet: Devnet, tmp_path: Path) -> None:
    """Its tables are gone under the running service; once they are back, the payment settles."""
    body = v2_body(devnet)

    def rename(table: str, name: str) -> None:
        with sqlite3.connect(tmp_path / "facilitator.db") as journal:
            journal.execute("PRAGMA legacy_alter_table = ON")
            journal.execute(f"ALTER TABLE {table} RENAME TO {name}")
        journal.close()

    async with serve(devnet, tmp_path) as service:
        rename("settlement", "elsewhere")
        await unavailable(service, body)
        got = await post(service, "/settle", body, "order-1")
        assert (got.status, got.members["errorReason"]) == (503, "unexpected_settle_error")
        assert (await service.get("/settlements/" + "0" * 32))[0] == 503
        assert (await service.get("/settlements/0x" + "0" * 64))[0] == 503
        assert service.logged("settlement_submitted") == []
        rename("elsewhere", "settlement")
        assert (await settle(service, body))["success"] is True
    assert len(await transfers(devnet)) == 1


async def test_without_a_key_it_verifies_and_does_not_settle(
    devnet: Devnet, tmp_path: Path
) -> None:
    body = v2_body(devnet)
    variables = environment(devnet, tmp_path)
    del variables["FACILITATOR_PRIVATE_KEY"]
    async with launch(variables) as starting:
        service = await starting.started()
        assert (await verify(service, body))["isValid"] is True
        reply = await settle(service, body, status=503)
        assert (reply["errorReason"], reply["transaction"]) == ("unexpected_settle_error", "")
        kinds = (await service.get("/supported"))[1]
        assert kinds["signers"] == {"eip155:*": []}


@pytest.mark.parametrize(
    ("member", "words"),
    [("fees", "Network fees above the configured maximum"), ("gas", "out of gas money")],
)
async def test_what_passes_is_a_503_and_claims_nothing(
    devnet: Devnet, tmp_path: Path, member: str, words: str
) -> None:
    body = v2_body(devnet)
    async with serve(devnet, tmp_path, MAX_FEE_PER_GAS_GWEI="5") as service:
        signer = "0x" + devnet.signer.address.hex()
        if member == "fees":
            await devnet.rpc("anvil_setNextBlockBaseFeePerGas", hex(10**11))
            await devnet.rpc("anvil_mine", "0x1")
        else:
            await devnet.rpc("anvil_setBalance", signer, "0x1")
        got = await post(service, "/settle", body)
        assert (got.status, got.members["errorReason"]) == (503, "unexpected_settle_error")
        assert words in got.members["errorMessage"]
        assert "Retry-After" in got.headers
        await unknown(service, devnet, body)
    assert await transfers(devnet) == []
