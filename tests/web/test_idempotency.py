"""The seller's Idempotency-Key in both dialects: it repeats what was said; nothing else does."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.chain import approve, devnet_authorization, devnet_payment
from tests.support.encoding import calldata
from tests.support.faultproxy import fault_proxy, lose_request
from tests.support.service import Service, request, serve
from tests.support.x402 import Token, v1_body, v2_body
from tests.support.x402_chain import Fault, deploy_token, transfers
from tests.support.x402_service import (
    MISMATCH,
    PENDING,
    TOO_MANY_BLOCKS,
    USED,
    Reply,
    nonce_of,
    post,
    resume_mining,
    settle,
    stop_mining,
    tokens_setting,
)

pytestmark = pytest.mark.anyio

REPLAYED = "Idempotent-Replayed"


@pytest.fixture
async def service(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Service]:
    await approve(devnet)
    async with serve(devnet, tmp_path) as running:
        yield running


def jeju_body(devnet: Devnet) -> dict[str, Any]:
    return request(devnet_payment(devnet))


def gasless_body(devnet: Devnet) -> dict[str, Any]:
    return {**jeju_body(devnet), "authParams": devnet_authorization(devnet)}


DIALECTS = pytest.mark.parametrize(
    ("make", "path"),
    [
        (v1_body, "/settle"),
        (v2_body, "/settle"),
        (jeju_body, "/settle"),
        (gasless_body, "/settle/gasless"),
    ],
    ids=["v1", "v2", "jeju", "gasless"],
)


def assert_replayed(got: Reply, first: Reply) -> None:
    assert (got.status, got.body) == (first.status, first.body)
    assert got.headers[REPLAYED] == "true"
    assert REPLAYED not in first.headers


@DIALECTS
async def test_a_key_repeats_the_reply_byte_for_byte(
    make: Any, path: str, devnet: Devnet, service: Service, tmp_path: Path
) -> None:
    """After a restart as well. Without it, or under another one, nobody hears success again."""
    body, sent = make(devnet), await nonce_of(devnet)
    first = await post(service, path, body, "order-1")
    assert first.members["success"] is True
    for _ in range(2):
        assert_replayed(await post(service, path, body, "order-1"), first)
    for key in (None, "order-2", "Order-1"):
        other = await post(service, path, body, key)
        assert (other.status, other.members["success"]) == (200, False)
        assert REPLAYED not in other.headers
    await service.stop(signal.SIGKILL)
    async with serve(devnet, tmp_path) as second:
        assert_replayed(await post(second, path, body, "order-1"), first)
    assert await nonce_of(devnet) == sent + 1


@DIALECTS
async def test_a_key_belongs_to_one_body(
    make: Any, path: str, devnet: Devnet, service: Service
) -> None:
    """The same payment in other bytes is another body; so is the same body on another path."""
    body, sent = make(devnet), await nonce_of(devnet)
    first = await post(service, path, body, "order-1")
    assert first.members["success"] is True
    for other in (make(devnet), {**body, "more": 1}):
        got = await post(service, path, other, "order-1")
        assert (got.status, got.members["success"]) == (409, False)
        if make in (v1_body, v2_body):
            assert got.members["errorReason"] == "idempotency_conflict"
        else:
            assert got.members["error"] == "Idempotency-Key was used with another body"
    assert_replayed(await post(service, path, body, "order-1"), first)
    assert await nonce_of(devnet) == sent + 1


@DIALECTS
async def test_a_key_is_1_to_255_visible_ascii_characters(
    make: Any, path: str, devnet: Devnet, service: Service
) -> None:
    sent = await nonce_of(devnet)
    for key in ("", "two words", "k" * 256, "\u00fc", "a\tb"):
        got = await post(service, path, make(devnet), key)
        assert (got.status, got.members["success"]) == (400, False)
        if make in (v1_body, v2_body):
            assert got.members["errorReason"] == "invalid_idempotency_key"
        else:
            assert got.members["error"] == "Invalid Idempotency-Key"
    assert await nonce_of(devnet) == sent


async def test_two_keys_are_none(devnet: Devnet, service: Service) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    body = v2_body(devnet)
    async with service.session.post(service.url + "/settle", json=body, headers=headers) as got:
        assert (got.status, (await got.json())["errorReason"]) == (400, "invalid_idempotency_key")


async def test_any_key_within_the_limits_is_kept(devnet: Devnet, service: Service) -> None:
    for key in ("!", "~" * 255, "'; DROP TABLE settlement; --".replace(" ", "_")):
        body = v2_body(devnet)
        first = await post(service, "/settle", body, key)
        assert first.members["success"] is True
        assert_replayed(await post(service, "/settle", body, key), first)


@pytest.mark.parametrize("make", [v2_body, jeju_body])
async def test_pending_is_not_kept(make: Any, devnet: Devnet, tmp_path: Path) -> None:
    """Under its key the outcome is told, and from then on repeated."""
    await approve(devnet)
    body = make(devnet)
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="1") as service:
        await stop_mining(devnet)
        for _ in range(2):
            got = await post(service, "/settle", body, "order-1")
            words = got.members.get("error", got.members.get("errorReason"))
            assert words in (PENDING, "Settlement pending")
            assert REPLAYED not in got.headers
        await resume_mining(devnet)
        await service.wait_for("settlement_confirmed")
        first = await post(service, "/settle", body, "order-1")
        assert first.members["success"] is True
        assert_replayed(await post(service, "/settle", body, "order-1"), first)


@pytest.mark.parametrize("make", [v2_body, jeju_body])
async def test_what_was_not_taken_on_is_not_kept(make: Any, devnet: Devnet, tmp_path: Path) -> None:
    """An outage, or a refusal before anything was claimed: the key stays free for any body."""
    await approve(devnet)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        proxy.faults["*"] = lose_request
        assert (await post(service, "/settle", make(devnet), "order-1")).status == 503
        proxy.faults.clear()
        whole = calldata("transfer(address,uint256)", devnet.accounts[5].address, 10**12)
        await devnet.transact(devnet.payer, devnet.usdc, whole)
        poor = await post(service, "/settle", make(devnet), "order-1")
        while poor.status == 503:  # the node is left alone for a while after its faults
            await asyncio.sleep(0.5)
            poor = await post(service, "/settle", make(devnet), "order-1")
        assert (poor.status, poor.members["success"]) == (200, False)
        await devnet.mint(devnet.payer.address, 10**7)
        body = make(devnet)
        first = await post(service, "/settle", body, "order-1")
        assert first.members["success"] is True
        assert_replayed(await post(service, "/settle", body, "order-1"), first)


async def fail(devnet: Devnet, service: Service, body: object, key: str | None) -> Reply:
    """Settle a payment in a token that moves nothing, to its final failure."""
    waiting = asyncio.create_task(post(service, "/settle", body, key))
    await service.wait_for("settlement_submitted", len(service.logged("settlement_failed")) + 1)
    await asyncio.sleep(0.5)
    await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
    return await waiting


async def test_a_final_failure_is_repeated(devnet: Devnet, tmp_path: Path) -> None:
    """After a restart as well, and until the seller has the payment tried again."""
    token: Token = await deploy_token(devnet, "FaultyToken", Fault.SILENCE)
    body, tokens = v2_body(devnet, token=token), tokens_setting(token)
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens) as service:
        first = await fail(devnet, service, body, "order-1")
        assert first.members["errorReason"] == MISMATCH
        assert_replayed(await post(service, "/settle", body, "order-1"), first)
        assert len(service.logged("settlement_submitted")) == 1
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens) as service:
        assert_replayed(await post(service, "/settle", body, "order-1"), first)
        await stop_mining(devnet)
        anew = asyncio.create_task(post(service, "/settle", body))
        await service.wait_for("settlement_submitted")
        # the money may move by now
        again = await post(service, "/settle", body, "order-1")
        assert again.members["errorReason"] == "duplicate_settlement"
        await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
        await resume_mining(devnet)
        assert (await anew).members["errorReason"] == MISMATCH


async def test_another_try_is_repeated_under_its_own_key(devnet: Devnet, tmp_path: Path) -> None:
    """Which belongs to that payment: with another body it is a conflict."""
    token: Token = await deploy_token(devnet, "FaultyToken", Fault.SILENCE)
    body, tokens = v2_body(devnet, token=token), tokens_setting(token)
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens) as service:
        await fail(devnet, service, body, "order-1")
        again = await fail(devnet, service, body, "order-2")
        assert again.members["errorReason"] == MISMATCH
        assert_replayed(await post(service, "/settle", body, "order-2"), again)
        assert len(service.logged("settlement_submitted")) == 2
        other = await post(service, "/settle", v2_body(devnet), "order-2")
        assert other.status == 409


async def test_of_two_bodies_at_once_one_has_the_key(devnet: Devnet, service: Service) -> None:
    """64 payments race with one key: one is taken on, all others are conflicts."""
    bodies, sent = [v2_body(devnet) for _ in range(64)], await nonce_of(devnet)
    replies = await asyncio.gather(*(post(service, "/settle", each, "order-1") for each in bodies))
    assert sorted(reply.status for reply in replies) == [200] + [409] * 63
    assert sum(reply.members["success"] for reply in replies) == 1
    assert len(await transfers(devnet)) == 1
    assert await nonce_of(devnet) == sent + 1


async def test_the_same_body_at_once_under_one_key_succeeds_once_and_is_then_repeated(
    devnet: Devnet, service: Service
) -> None:
    body = v2_body(devnet)
    replies = await asyncio.gather(*(post(service, "/settle", body, "order-1") for _ in range(32)))
    said = [reply for reply in replies if reply.members["success"]]
    assert len([reply for reply in said if REPLAYED not in reply.headers]) == 1
    assert len({reply.body for reply in said}) == 1
    assert (await post(service, "/settle", body, "order-1")).body == said[0].body
    assert len(await transfers(devnet)) == 1


async def test_a_key_that_comes_with_the_second_request_repeats_nothing(
    devnet: Devnet, service: Service
) -> None:
    body = v2_body(devnet)
    assert (await settle(service, body))["success"] is True
    for _ in range(2):
        late = await post(service, "/settle", body, "order-1")
        assert (late.status, late.members["errorReason"]) == (200, USED)
        assert REPLAYED not in late.headers
    # it was not used for anything
    assert (await settle(service, v2_body(devnet), key="order-1"))["success"] is True


async def test_the_buyers_payment_identifier_repeats_nothing(
    devnet: Devnet, service: Service
) -> None:
    """The buyer chooses it, who could buy twice with one payment."""
    info = {"required": True, "id": "pay_" + "7" * 20}
    extensions = {"payment-identifier": {"info": info, "schema": {}}}
    body = v2_body(devnet, payment={"extensions": extensions})
    replies = [await settle(service, body) for _ in range(2)]
    assert [reply["success"] for reply in replies] == [True, False]
    assert replies[1]["errorReason"] == USED
    # nor does it make another payment a repetition of this one
    other = v2_body(devnet, payment={"extensions": extensions})
    assert (await settle(service, other))["success"] is True
    assert len(await transfers(devnet)) == 2
