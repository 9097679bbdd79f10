"""A node that says too little of what a call takes delays payments, and costs none of them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facilitator.devnet import Devnet, DevnetOptions
from facilitator.ethereum.fees import GWEI
from facilitator.schemes.jeju import GAS_CAP
from tests.chain import approve, balance, devnet_authorization, devnet_payment, settled_logs
from tests.endpoints import behind
from tests.faultproxy import Answer, Call, Fault, FaultProxy, Forward, answer_with
from tests.service import Service, request
from tests.x402 import v2_body
from tests.x402_service import nonce_of

pytestmark = pytest.mark.anyio

AMOUNT = 1_000_000  # atomic units, of every payment
# Wei: less than GAS_CAP may cost at the devnet's fees, and more than what is needed.
COST_BELOW_CAP = GAS_CAP * GWEI
ESTIMATE = "eth_estimateGas"
LIE_SECONDS = 4.0
SETTLED_WITHIN = 30.0  # seconds after the lie has ended


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture
async def devnet(devnet: Devnet) -> Devnet:
    await approve(devnet)
    return devnet


def two_of_each(devnet: Devnet) -> Iterator[tuple[str, dict[str, Any]]]:
    """Payments of each kind: with an allowance, gasless, and of the standard dialect."""
    for _ in range(2):
        yield "/settle", request(devnet_payment(devnet))
        gasless = request(devnet_payment(devnet))
        yield "/settle/gasless", {**gasless, "authParams": devnet_authorization(devnet)}
        yield "/settle", v2_body(devnet, requirements={"amount": str(AMOUNT)})


def lying_once(result: object) -> Fault:
    """A node that answers this the first time."""
    lie, told = answer_with(result), False

    async def fault(call: Call, forward: Forward) -> Answer | None:
        nonlocal told
        honest, told = told, True
        return await (forward(call) if honest else lie(call, forward))

    return fault


async def until_paid(service: Service, path: str, body: object) -> float:
    """Ask until it is paid; when that was, on the event loop's clock."""
    while True:
        _, reply = await service.post(path, body)
        if reply["success"]:
            return asyncio.get_running_loop().time()
        assert "pending" in str(reply) or "unavailable" in str(reply), reply
        await asyncio.sleep(0.5)


async def all_paid(service: Service, devnet: Devnet, liar: FaultProxy, lie: str) -> None:
    """Two payments of each kind while an endpoint lies, and two afterwards."""
    before, clock = await balance(devnet, devnet.payer.address), asyncio.get_running_loop().time
    liar.faults[ESTIMATE] = answer_with(lie)
    paying = [asyncio.create_task(until_paid(service, *each)) for each in two_of_each(devnet)]
    await asyncio.sleep(LIE_SECONDS)
    liar.heal()
    healed = clock()
    paying += [asyncio.create_task(until_paid(service, *each)) for each in two_of_each(devnet)]
    async with asyncio.timeout(90):
        took = max(await asyncio.gather(*paying)) - healed
    assert took < SETTLED_WITHIN
    assert len(await settled_logs(devnet)) == 8
    assert before - await balance(devnet, devnet.payer.address) == len(paying) * AMOUNT
    assert await nonce_of(devnet) == await nonce_of(devnet, block="pending")


@pytest.mark.parametrize("lie", ["0x0", "0x5208"])
@pytest.mark.parametrize(("endpoints", "liar"), [(1, 0), (2, 0), (2, 1)])
async def test_an_estimate_below_what_the_bytes_cost_leaves_nothing_pending(
    devnet: Devnet, tmp_path: Path, endpoints: int, liar: int, lie: str
) -> None:
    """Nor is gas burnt for it: each call gets all that it may use, and nothing reverts."""
    async with behind(devnet, tmp_path, endpoints) as (service, proxies):
        await all_paid(service, devnet, proxies[liar], lie)
        assert not service.logged("settled_again")


@pytest.mark.parametrize("batch_max", ["1", "32"])
@pytest.mark.parametrize("endpoints", [1, 2])
async def test_an_estimate_that_is_too_low_costs_a_revert_and_no_payment(
    devnet: Devnet, tmp_path: Path, endpoints: int, batch_max: str
) -> None:
    """Though it is told for as long as that lasts: the second transaction does not believe it."""
    async with behind(devnet, tmp_path, endpoints, SETTLE_BATCH_MAX=batch_max) as (
        service,
        proxies,
    ):
        await all_paid(service, devnet, proxies[0], hex(60_000))
        again = service.logged("settled_again")
        assert again
        assert len({line["settlement"] for line in again}) == len(again)
        for line in again:
            sent: Any = await devnet.rpc("eth_getTransactionByHash", line["transaction"])
            assert int(sent["gas"], 16) == GAS_CAP


@pytest.mark.parametrize("limit", ["money", "budget"])
async def test_who_cannot_pay_for_the_most_settles_again_with_what_is_estimated(
    devnet: Devnet, tmp_path: Path, limit: str
) -> None:
    """That may do: here the estimate is true by then."""
    budget = str(COST_BELOW_CAP if limit == "budget" else 10**18)
    async with behind(devnet, tmp_path, 1, MAX_GAS_SPEND_PER_DAY=budget) as (service, [proxy]):
        if limit == "money":
            signer = "0x" + devnet.signer.address.hex()
            await devnet.rpc("anvil_setBalance", signer, hex(COST_BELOW_CAP))
        proxy.faults[ESTIMATE] = lying_once(hex(60_000))
        await until_paid(service, "/settle", request(devnet_payment(devnet)))
        [line] = service.logged("settled_again")
        sent: Any = await devnet.rpc("eth_getTransactionByHash", line["transaction"])
        assert 100_000 < int(sent["gas"], 16) < 200_000
        assert not service.logged("signer_out_of_gas_money")
        assert not service.logged("signer_budget_spent")
    assert len(await settled_logs(devnet)) == 1
