"""Who is let in: what a payer can still spend, which signer takes it, and who waits how long."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.nonces import MAX_IN_FLIGHT
from facilitator.engine.queue import QUEUE_LIMIT
from tests.support.chain import approve, balance, devnet_payment, settled_logs
from tests.support.service import environment, launch, request, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def test_what_the_chain_shows_already_is_not_taken_from_the_payer_twice(
    devnet: Devnet, tmp_path: Path
) -> None:
    """With confirmations to come, a payment that is mined has left the balance; the rest of it is
    there to be spent.
    """
    await approve(devnet)
    whole = await balance(devnet, devnet.payer.address)
    most = whole * 3 // 5
    first, second = devnet_payment(devnet, amount=most), devnet_payment(devnet, amount=whole - most)
    async with serve(devnet, tmp_path, CONFIRMATIONS="4") as service:
        paying = asyncio.create_task(service.settle(first))
        async with asyncio.timeout(60):
            while not await settled_logs(devnet):  # noqa: ASYNC110 - a chain has no event
                await asyncio.sleep(0.05)
        assert not service.logged("settlement_confirmed")
        assert (await service.verify(second))["isValid"]
        reply = await service.settle(second)
        assert (reply["success"], reply["error"]) == (True, None)
        assert (await paying)["success"]
    assert len(await settled_logs(devnet)) == 2


async def test_an_allowance_for_one_payment_is_told_as_such(devnet: Devnet, tmp_path: Path) -> None:
    """The payer has money for both, and has approved one: what is short is named."""
    await approve(devnet, amount=1_000_000)
    headers = [devnet_payment(devnet) for _ in range(4)]
    async with serve(devnet, tmp_path) as service:
        replies = await asyncio.gather(*(service.settle(header) for header in headers))
    assert sum(reply["success"] for reply in replies) == 1
    errors = {reply["error"] for reply in replies if not reply["success"]}
    assert errors == {"Insufficient allowance: 0 < 1000000"}
    assert len(await settled_logs(devnet)) == 1


async def test_a_signer_without_gas_money_is_passed_over_and_told_once(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The other one pays; when both are broke it is a 503; money helps again by itself."""
    await approve(devnet)
    rich = devnet.accounts[6]
    keys = f"{devnet.signer.key.hex()},{rich.key.hex()}"
    broke, other = (f"0x{account.address.hex()}" for account in (devnet.signer, rich))
    await devnet.rpc("anvil_setBalance", broke, hex(1000))
    async with serve(devnet, tmp_path, FACILITATOR_PRIVATE_KEY=keys) as service:
        headers = [devnet_payment(devnet) for _ in range(8)]
        replies = await asyncio.gather(*(service.settle(header) for header in headers))
        assert [reply["error"] for reply in replies] == [None] * 8
        signers = {line["signer"].lower() for line in service.logged("settlement_submitted")}
        assert signers == {other}
        [alert] = service.logged("signer_out_of_gas_money")
        assert (alert["level"], alert["signer"].lower()) == ("critical", broke)
        await devnet.rpc("anvil_setBalance", other, hex(1000))
        status, reply = await service.post("/settle", request(devnet_payment(devnet)))
        assert (status, reply["error"]) == (503, "Settlement wallet is out of gas money")
        await devnet.rpc("anvil_setBalance", broke, hex(10**18))
        assert (await service.settle(devnet_payment(devnet)))["success"]
        assert service.logged("signer_out_of_gas_money_no_more")


async def test_work_is_spread_over_the_signers(devnet: Devnet, tmp_path: Path) -> None:
    """The least loaded signer takes the next payment."""
    await approve(devnet)
    accounts = (devnet.signer, devnet.accounts[6])
    keys = ",".join(account.key.hex() for account in accounts)
    async with serve(devnet, tmp_path, FACILITATOR_PRIVATE_KEY=keys) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        headers = [devnet_payment(devnet) for _ in range(40)]
        posting = [asyncio.create_task(service.settle(header)) for header in headers]
        await service.wait_for("settlement_submitted", 40)
        await devnet.rpc("evm_setIntervalMining", 1)
        replies = await asyncio.gather(*posting)
        signers = [line["signer"] for line in service.logged("settlement_submitted")]
    assert all(reply["success"] for reply in replies)
    assert sorted(map(signers.count, set(signers))) == [20, 20]


async def test_a_full_queue_is_a_503_and_claims_nothing(devnet: Devnet, tmp_path: Path) -> None:
    """As many as may be in flight, as many as may wait behind them, and one more."""
    await approve(devnet)
    async with serve(
        devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="120", SETTLE_BATCH_MAX="1"
    ) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        posting: list[asyncio.Task[tuple[int, dict[str, object]]]] = []
        headers = [
            devnet_payment(devnet, amount=1) for _ in range(MAX_IN_FLIGHT + QUEUE_LIMIT + 64)
        ]
        for header in headers:
            posting.append(asyncio.create_task(service.post("/settle", request(header))))
            await asyncio.sleep(0.005)
        try:
            done, _ = await asyncio.wait(posting, timeout=100, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result()[0] for task in done} == {503}
            # All places are taken once one of them was turned away.
            one_more = request(devnet_payment(devnet))
            async with service.session.post(service.url + "/settle", json=one_more) as response:
                status, reply = response.status, await response.json()
                assert int(response.headers["Retry-After"]) >= 1
            assert (status, reply["error"]) == (503, "Too many settlements in progress")
            assert reply["txHash"] is None
            assert len(service.logged("settlement_submitted")) == MAX_IN_FLIGHT
        finally:
            await service.stop(signal.SIGKILL)
            for task in posting:
                task.cancel()
            await asyncio.gather(*posting, return_exceptions=True)


async def test_what_expires_while_it_waits_for_a_signer_is_never_sent(
    devnet: Devnet, tmp_path: Path
) -> None:
    """It hears so when its time is up, not when a signer is free."""
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        headers = [devnet_payment(devnet, amount=1) for _ in range(MAX_IN_FLIGHT)]
        posting = [asyncio.create_task(service.settle(header)) for header in headers]
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT)
        started = int(time.time())
        ageing = devnet_payment(devnet, timestamp=started - 300 + 6 + 4)
        reply = await service.settle(ageing)
        assert reply["error"].startswith("Payment expired (")
        assert reply["txHash"] is None
        assert 3 <= time.time() - started <= 8
        too_old = devnet_payment(devnet, timestamp=int(time.time()) - 300 + 3)
        asked = time.monotonic()
        assert (await service.settle(too_old))["error"].startswith("Payment expired (")
        assert time.monotonic() - asked < 10  # or it waits as long as a settlement may
        assert len(service.logged("settlement_submitted")) == MAX_IN_FLIGHT
        await devnet.rpc("evm_setIntervalMining", 1)
        assert all(reply["success"] for reply in await asyncio.gather(*posting))
    assert len(await settled_logs(devnet)) == MAX_IN_FLIGHT


async def test_who_waits_long_stays_the_one_to_hear_of_success(
    devnet: Devnet, tmp_path: Path
) -> None:
    """A waiter's lease is short, and renewed for as long as it waits."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        await asyncio.sleep(17)
        assert (await service.settle(header))["error"] == "Nonce is being processed"
        await devnet.rpc("evm_setIntervalMining", 1)
        assert (await waiting)["success"]


async def test_when_every_key_retires_nothing_new_is_taken(devnet: Devnet, tmp_path: Path) -> None:
    await approve(devnet)
    keys = tmp_path / "keys"
    keys.write_text(f"{devnet.signer.key.hex()} retire\n")
    changed = environment(devnet, tmp_path, FACILITATOR_PRIVATE_KEY_FILE=str(keys))
    del changed["FACILITATOR_PRIVATE_KEY"]
    async with launch(changed) as launched:
        service = await launched.started()
        status, reply = await service.post("/settle", request(devnet_payment(devnet)))
    assert (status, reply["error"]) == (503, "Settlement wallet not configured")
    assert await settled_logs(devnet) == []
