"""GET /settlements, and the Idempotency-Key of POST /settle."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.dialects.jeju.encode import _WORDS
from facilitator.domain.payment import Reason
from tests.support.chain import approve, devnet_payment
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture
async def service(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Service]:
    async with serve(devnet, tmp_path) as running:
        yield running


async def settle(service: Service, body: object, key: str) -> tuple[int, bytes, str | None]:
    headers = {"Idempotency-Key": key}
    async with service.session.post(service.url + "/settle", json=body, headers=headers) as reply:
        return reply.status, await reply.read(), reply.headers.get("Idempotent-Replayed")


async def test_a_settlement_that_is_not_known_is_404(service: Service) -> None:
    for name in ("0" * 32, "0x" + "0" * 64, "what"):
        assert await service.get(f"/settlements/{name}") == (404, {"error": "No such settlement"})


async def test_an_idempotency_key_belongs_to_one_body(devnet: Devnet, service: Service) -> None:
    await approve(devnet)
    body = request(devnet_payment(devnet))
    first = await settle(service, body, "order-1")
    assert first[0] == 200
    assert b'"success":true' in first[1]
    assert first[2] is None
    assert await settle(service, body, "order-1") == (200, first[1], "true")
    status, reply, replayed = await settle(service, request(devnet_payment(devnet)), "order-1")
    assert (status, replayed) == (409, None)
    assert b"Idempotency-Key was used with another body" in reply


async def test_an_idempotency_key_is_visible_ascii(devnet: Devnet, service: Service) -> None:
    for key in ("two words", "k" * 256):
        status, reply, _ = await settle(service, request(devnet_payment(devnet)), key)
        assert status == 400
        assert b"Invalid Idempotency-Key" in reply


def test_a_word_for_every_end() -> None:
    assert _WORDS[Reason.TRANSFER_MISSING] == "Transaction moved no money"
