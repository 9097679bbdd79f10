"""What a crash, a hang-up or a slow chain leaves behind is taken up again, and paid once."""

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, deploy_legacy, devnet_payment, settled_logs
from tests.support.faultproxy import fault_proxy, lose_request
from tests.support.service import Service, environment, launch, request, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def stop_mining(devnet: Devnet) -> None:
    await devnet.rpc("evm_setIntervalMining", 0)


async def resume_mining(devnet: Devnet) -> None:
    await devnet.rpc("evm_setIntervalMining", 1)


async def post_and_die(service: Service, header: dict[str, object]) -> None:
    """Post a settlement and kill the service once it has signed and stored it."""
    posting = asyncio.create_task(service.post("/settle", request(header)))
    await service.wait_for("settlement_submitted")
    await service.stop(signal.SIGKILL)
    with pytest.raises(aiohttp.ClientError):
        await posting


async def test_kill_9_between_send_and_receipt_loses_and_doubles_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Restart, same request again: success with the hash of the first life, one transfer."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as first:
        await stop_mining(devnet)
        await post_and_die(first, header)
        [submitted] = first.logged("settlement_submitted")
    async with serve(devnet, tmp_path) as second:
        await resume_mining(devnet)
        reply = await second.settle(header)
        again = await second.settle(header)
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, submitted["transaction"])
    assert log.transaction_hash == submitted["transaction"]
    assert again["error"] == "Nonce has already been used"


async def test_kill_9_after_the_store_and_before_the_send_still_pays(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The stored bytes are broadcast by the next life, though nobody asks again."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = lose_request
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as first:
            await post_and_die(first, header)
            [submitted] = first.logged("settlement_submitted")
        assert await settled_logs(devnet) == []
        proxy.faults.clear()
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as second:
            await second.wait_for("settlement_confirmed")
            reply = await second.settle(header)
    [log] = await settled_logs(devnet)
    assert log.transaction_hash == submitted["transaction"]
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)


async def test_kill_9_after_the_receipt_and_before_the_reply_tells_the_next_who_asks(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The payment was made while nobody could be told; the next life tells it once."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path, CONFIRMATIONS="6") as first:
        posting = asyncio.create_task(first.post("/settle", request(header)))
        async with asyncio.timeout(60):
            while not await settled_logs(devnet):  # noqa: ASYNC110 - a chain has no event
                await asyncio.sleep(0.05)
        await first.stop(signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await posting
        assert not first.logged("settlement_confirmed")
    async with serve(devnet, tmp_path, CONFIRMATIONS="6") as second:
        reply = await second.settle(header)
        again = await second.settle(header)
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)
    assert (again["success"], again["error"]) == (False, "Nonce has already been used")


async def test_a_client_that_hangs_up_and_asks_again_hears_success(
    devnet: Devnet, tmp_path: Path
) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as service:
        await stop_mining(devnet)
        async with aiohttp.ClientSession() as impatient:
            posting = asyncio.create_task(
                impatient.post(service.url + "/settle", json=request(header))
            )
            await service.wait_for("settlement_submitted")
            posting.cancel()
        await asyncio.sleep(0.2)
        asking_again = asyncio.create_task(service.settle(header))
        await asyncio.sleep(0.2)
        await resume_mining(devnet)
        reply = await asking_again
        third = await service.settle(header)
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)
    assert (third["success"], third["error"]) == (False, "Nonce has already been used")


async def test_a_client_that_hangs_up_before_the_outcome_may_ask_after_it(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Nobody was told, so whoever asks next is."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as service:
        async with aiohttp.ClientSession() as impatient:
            posting = asyncio.create_task(
                impatient.post(service.url + "/settle", json=request(header))
            )
            await service.wait_for("settlement_submitted")
            posting.cancel()
        await service.wait_for("settlement_confirmed")
        reply = await service.settle(header)
    assert reply["success"] is True
    assert len(await settled_logs(devnet)) == 1


async def test_a_wait_that_runs_out_is_pending_and_the_retry_hears_the_outcome(
    devnet: Devnet, tmp_path: Path
) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="1") as service:
        await stop_mining(devnet)
        async with asyncio.timeout(20):
            pending = await service.settle(header)
        [submitted] = service.logged("settlement_submitted")
        assert (pending["success"], pending["error"]) == (False, "Settlement pending")
        assert pending["txHash"] == submitted["transaction"]
        assert pending["payer"] == header["payer"]
        await resume_mining(devnet)
        await service.wait_for("settlement_confirmed")
        reply = await service.settle(header)
        third = await service.settle(header)
        assert len(service.logged("settlement_submitted")) == 1
    assert (reply["success"], reply["txHash"]) == (True, pending["txHash"])
    assert third["error"] == "Nonce has already been used"
    assert len(await settled_logs(devnet)) == 1


async def test_sigterm_answers_what_is_in_flight_and_exits_0(
    devnet: Devnet, tmp_path: Path
) -> None:
    await approve(devnet)
    headers = [devnet_payment(devnet) for _ in range(8)]
    async with serve(devnet, tmp_path) as service:
        posting = [asyncio.create_task(service.settle(header)) for header in headers]
        await service.wait_for("settlement_submitted", 8)
        assert await service.stop() == 0
        replies = await asyncio.gather(*posting)
    assert [reply["success"] for reply in replies] == [True] * 8
    assert len(await settled_logs(devnet)) == 8


async def test_a_journal_has_one_process(devnet: Devnet, tmp_path: Path) -> None:
    """A second service on the same file does not start, and says what to do instead."""
    async with serve(devnet, tmp_path), launch(environment(devnet, tmp_path)) as second:
        assert await second.ended() == 1
        [refused] = second.logged("start_refused")
        assert "another process uses the journal" in refused["why"]
        assert "Traceback" not in second.output.decode()


async def test_a_key_with_pending_transactions_is_not_dropped(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Its transactions could be neither replaced nor taken up again."""
    await approve(devnet)
    async with serve(devnet, tmp_path) as first:
        await stop_mining(devnet)
        await post_and_die(first, devnet_payment(devnet))
    other = "0x" + devnet.accounts[4].key.hex()
    changed = environment(devnet, tmp_path, FACILITATOR_PRIVATE_KEY=other)
    async with launch(changed) as second:
        assert await second.ended() == 1
        [refused] = second.logged("start_refused")
        assert "has pending transactions on jeju" in refused["why"]


async def test_a_journal_that_cannot_be_opened_is_one_clear_line(
    devnet: Devnet, tmp_path: Path
) -> None:
    changed = environment(devnet, tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/no/such/folder.db")
    async with launch(changed) as service:
        assert await service.ended() == 1
        [refused] = service.logged("start_refused")
        assert refused["why"].startswith("cannot open the journal")


async def test_a_wrong_setting_is_one_clear_line_and_exit_code_2(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with launch(environment(devnet, tmp_path, PROTOCOL_FEE_BPS="1001")) as service:
        assert await service.ended() == 2
    [line] = service.output.decode().splitlines()
    assert line.startswith("error: PROTOCOL_FEE_BPS must be")


async def test_without_key_or_contract_it_runs_and_says_what_it_cannot_do(
    devnet: Devnet, tmp_path: Path
) -> None:
    bare = environment(devnet, tmp_path)
    for name in ("FACILITATOR_PRIVATE_KEY", "X402_FACILITATOR_ADDRESS"):
        del bare[name]
    header = devnet_payment(devnet, contract=bytes(20))
    async with launch(bare) as launched:
        service = await launched.started()
        [started] = service.logged("started")
        assert len(started["missing"]) == 2
        assert started["signers"] == []
        status, ready = await service.get("/ready")
        assert status == 503
        assert (ready["status"], ready["wallet"], ready["facilitator"]) == (
            "not_ready",
            False,
            False,
        )
        assert (await service.verify(header))["isValid"] is True
        status, reply = await service.post("/settle", request(header))
        assert (status, reply["error"]) == (503, "Settlement wallet not configured")


async def test_another_contract_in_the_settings_strands_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """What was signed for the one before is still sent; new payments go to the new one."""
    await approve(devnet)
    held = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as first:
        await stop_mining(devnet)
        await post_and_die(first, held)
    await resume_mining(devnet)
    legacy = await deploy_legacy(devnet)
    await approve(devnet, spender=legacy)
    async with serve(devnet, tmp_path, X402_FACILITATOR_ADDRESS="0x" + legacy.hex()) as second:
        await second.wait_for("settlement_confirmed")
        assert (await second.settle(devnet_payment(devnet, contract=legacy)))["success"]
        assert not second.logged("turn_broken")
    assert len(await settled_logs(devnet)) == 1


async def test_a_retiring_key_ends_its_work_and_takes_no_more(
    devnet: Devnet, tmp_path: Path
) -> None:
    """What it had signed is mined under the next start; new payments go to the other key."""
    await approve(devnet)
    held = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as first:
        await stop_mining(devnet)
        await post_and_die(first, held)
    keys = tmp_path / "keys"
    other = devnet.accounts[4]
    keys.write_text(f"{devnet.signer.key.hex()} retire\n{other.key.hex()}\n")
    changed = environment(devnet, tmp_path, FACILITATOR_PRIVATE_KEY_FILE=str(keys))
    del changed["FACILITATOR_PRIVATE_KEY"]
    async with launch(changed) as launched:
        second = await launched.started()
        await resume_mining(devnet)
        assert (await second.settle(held))["success"]
        for _ in range(3):
            assert (await second.settle(devnet_payment(devnet)))["success"]
        signers = {line["signer"] for line in second.logged("settlement_submitted")}
    assert {signer.lower() for signer in signers} == {"0x" + other.address.hex()}
    assert len(await settled_logs(devnet)) == 4
