"""A node that says too little of what a call takes delays payments, and costs none of them."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.batching import GROUP_GAS_CAP
from facilitator.domain.schemes.jeju import GAS_CAP
from facilitator.domain.settlement import TransactionKind
from facilitator.engine.pending import most_gas
from facilitator.ethereum.fees import GWEI
from tests.support.chain import approve, balance, devnet_authorization, devnet_payment, settled_logs
from tests.support.endpoints import behind
from tests.support.faultproxy import (
    Answer,
    Call,
    Fault,
    FaultProxy,
    Forward,
    answer_with,
    lose_request,
    refuse_with,
)
from tests.support.journal import payment
from tests.support.service import Service, request
from tests.support.x402 import v2_body
from tests.support.x402_service import nonce_of

pytestmark = pytest.mark.anyio

AMOUNT = 1_000_000  # atomic units, of every payment
# Wei: less than GAS_CAP may cost at the devnet's fees, and more than what is needed.
COST_BELOW_CAP = GAS_CAP * GWEI
ESTIMATE, SEND = "eth_estimateGas", "eth_sendRawTransaction"
LIE_SECONDS = 4.0
SETTLED_WITHIN = 60.0  # seconds after the lie has ended


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


def lying_until_mined(devnet: Devnet, result: object) -> Fault:
    """A node that answers this until a transaction of ours is mined, however often it is asked."""
    lie = answer_with(result)

    async def fault(call: Call, forward: Forward) -> Answer | None:
        return await (forward(call) if await nonce_of(devnet) else lie(call, forward))

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
        proxy.faults[ESTIMATE] = lying_until_mined(devnet, hex(60_000))
        await until_paid(service, "/settle", request(devnet_payment(devnet)))
        [line] = service.logged("settled_again")
        sent: Any = await devnet.rpc("eth_getTransactionByHash", line["transaction"])
        assert 100_000 < int(sent["gas"], 16) < 200_000
        assert not service.logged("signer_out_of_gas_money")
        assert not service.logged("signer_budget_spent")
    assert len(await settled_logs(devnet)) == 1


@pytest.mark.parametrize("endpoints", [1, 2])
async def test_what_no_node_takes_for_want_of_gas_is_replaced_with_all_that_it_may_use(
    devnet: Devnet, tmp_path: Path, endpoints: int
) -> None:
    """Some chains count more than a transaction's bytes. Those behind it follow."""
    async with behind(devnet, tmp_path, endpoints) as (service, proxies):
        for proxy in proxies:
            proxy.faults[SEND] = taking_no_less_than(300_000)
        bodies = two_of_each(devnet)
        await asyncio.gather(*(until_paid(service, *each) for each in bodies))
        faults = {line["fault"] for line in service.logged("broadcast_refused")}
        assert faults == {"gas_too_low"}
        assert not service.logged("settled_again")
    assert await nonce_of(devnet) == 6


async def test_what_an_older_release_signed_with_too_little_gas_is_replaced(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Though a node took it, which never mines it; the payments behind it are made as well."""
    bodies = [request(devnet_payment(devnet)) for _ in range(2)]
    async with behind(devnet, tmp_path, 1, SETTLE_TIMEOUT_SECONDS="1") as (service, [proxy]):
        proxy.faults[SEND] = lose_request
        _, reply = await service.post("/settle", bodies[0])
        assert "pending" in str(reply)
    starve(devnet, tmp_path)
    async with behind(devnet, tmp_path, 1) as (service, _):
        await asyncio.gather(*(until_paid(service, "/settle", body) for body in bodies))
        assert not service.logged("broadcast_refused")
    assert await nonce_of(devnet) == len(await settled_logs(devnet)) == 2


def starve(devnet: Devnet, folder: Path) -> None:
    """Sign the one transaction of the journal anew, with less gas than its bytes cost."""
    with closing(sqlite3.connect(folder / "facilitator.db")) as journal, journal:
        query = """SELECT account_nonce, target, calldata, max_fee_per_gas,
                          max_priority_fee_per_gas
                   FROM "transaction" JOIN attempt ON transaction_id = id"""
        [(nonce, target, calldata, fee, tip)] = journal.execute(query)
        fields = {
            **{"type": 2, "chainId": devnet.chain_id, "nonce": nonce, "value": 0, "gas": 21_000},
            **{"maxFeePerGas": fee, "maxPriorityFeePerGas": tip},
            **{"to": to_checksum_address(target), "data": calldata},
        }
        signed = Account.sign_transaction(fields, devnet.signer.key)
        values = (bytes(signed.raw_transaction), bytes(signed.hash))
        journal.execute("UPDATE attempt SET raw = ?, hash = ?", values)
        journal.execute('UPDATE "transaction" SET gas_limit = 21000')


async def test_one_node_alone_that_refuses_for_want_of_gas_changes_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with behind(devnet, tmp_path, 2) as (service, proxies):
        proxies[0].faults[SEND] = taking_no_less_than(2**63)
        await asyncio.gather(*(until_paid(service, *each) for each in two_of_each(devnet)))
        assert not service.logged("broadcast_refused")
    assert await nonce_of(devnet) == 6


def taking_no_less_than(gas: int) -> Fault:
    """For eth_sendRawTransaction: a node that counts more than the bytes of a transaction."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        sent = TypedTransaction.from_bytes(HexBytes(call["params"][0])).as_dict()
        if sent["gas"] < gas:
            refuse = refuse_with(-32000, f"intrinsic gas too low: gas {sent['gas']}, minimum {gas}")
            return await refuse(call, forward)
        return await forward(call)

    return fault


def test_a_transaction_may_use_what_all_that_it_carries_may() -> None:
    """Within what any one transaction may."""
    one = payment()
    assert most_gas(TransactionKind.FILL, []) == 500_000
    assert most_gas(TransactionKind.SETTLE, [one]) == GAS_CAP
    assert most_gas(TransactionKind.GROUP, [one] * 2) > 2 * GAS_CAP
    assert most_gas(TransactionKind.GROUP, [one] * 32) == GROUP_GAS_CAP
