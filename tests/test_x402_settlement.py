"""Settling in the standard dialect: once, whoever asks how often."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from facilitator.devnet import Devnet, DevnetOptions
from tests.chain import balance
from tests.service import Service, serve
from tests.x402 import AMOUNT, v1_body, v2_body

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture
async def service(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Service]:
    async with serve(devnet, tmp_path) as running:
        yield running


@pytest.mark.parametrize("make", [v1_body, v2_body])
async def test_a_payment_is_valid_and_settles(make: Any, devnet: Devnet, service: Service) -> None:
    body = make(devnet)
    before = await balance(devnet, devnet.seller.address)
    print(await service.post("/verify", body))
    status, reply = await service.post("/settle", body)
    print(reply)
    assert (status, reply["success"]) == (200, True)
    assert await balance(devnet, devnet.seller.address) == before + AMOUNT
    print(await service.post("/settle", body))
    print(await service.post("/verify", body))
    print(await service.get("/settlements/" + reply["extra"]["settlementId"]))
    print((await service.get("/settlements/" + reply["transaction"]))[0])
    print((await service.get("/supported"))[1]["kinds"][:4])


async def test_two_hundred(devnet: Devnet, service: Service) -> None:
    body = v2_body(devnet)
    replies = await asyncio.gather(*(service.post("/settle", body) for _ in range(200)))
    said = [reply for _, reply in replies if reply["success"]]
    assert len(said) == 1
    others = {reply["errorReason"] for _, reply in replies if not reply["success"]}
    assert others <= {"duplicate_settlement", "invalid_exact_evm_nonce_already_used"}
