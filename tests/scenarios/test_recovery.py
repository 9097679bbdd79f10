"""A journal that is lost or comes from a backup deceives nobody, and a stop loses nothing."""

import asyncio
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.commands import called, facilitator
from tests.support.faultproxy import Answer, Call, Forward, fault_proxy
from tests.support.scraping import scrape
from tests.support.service import Service, environment, request, serve
from tests.support.x402 import v2_body

pytestmark = pytest.mark.anyio

IN_FLIGHT = 64


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def stop_mining(devnet: Devnet) -> None:
    await devnet.rpc("evm_setIntervalMining", 0)


async def resume_mining(devnet: Devnet) -> None:
    await devnet.rpc("evm_setIntervalMining", 1)


def copy_journal(source: Path, target: Path) -> None:
    """As a backup tool does, beside the running service."""
    with sqlite3.connect(source) as old, sqlite3.connect(target) as new:
        old.backup(new)
    old.close()
    new.close()


def restore(backup: Path, journal: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".lock"):
        Path(f"{journal}{suffix}").unlink(missing_ok=True)
    backup.rename(journal)


async def test_a_lost_journal_still_names_the_transaction_that_paid(
    devnet: Devnet, tmp_path: Path
) -> None:
    """In both dialects: already used, with its hash; asked a hundred times, searched for once."""
    await approve(devnet)
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    header = devnet_payment(devnet)
    jeju, exact = request(header), v2_body(devnet)
    async with serve(devnet, tmp_path / "old") as first:
        _, paid = await first.post("/settle", jeju)
        _, paid_exact = await first.post("/settle", exact)
        assert paid["success"]
        assert paid_exact["success"]
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path / "new", JEJU_RPC_URL=proxy.url) as second,
    ):
        status, reply = await second.post("/settle", jeju)
        assert (status, reply["success"], reply["txHash"]) == (200, False, paid["txHash"])
        assert reply["error"] == "Nonce has already been used"
        status, reply = await second.post("/settle", exact)
        assert (status, reply["success"]) == (200, False)
        assert reply["transaction"] == paid_exact["transaction"]
        assert reply["errorReason"] == "invalid_exact_evm_nonce_already_used"
        replies = await asyncio.gather(*(second.post("/settle", jeju) for _ in range(100)))
        assert {reply["txHash"] for _, reply in replies} == {paid["txHash"]}
        assert proxy.calls["eth_getLogs"] == 2
        # Another payment under the same nonce was not paid: it hears of no transaction.
        other = devnet_payment(devnet, amount=1, nonce=header["nonce"])
        assert (await second.settle(other))["txHash"] is None
        assert not second.logged("settlement_submitted")
    assert len(await settled_logs(devnet)) == 1


async def test_what_a_backup_holds_is_never_told_of_as_success_again(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Pending in the backup, told since: after `recover --restored` it is already used, with its
    hash; so is what the backup never knew of; and new payments settle.
    """
    await approve(devnet)
    journal, backup = tmp_path / "facilitator.db", tmp_path / "backup.db"
    held, later = devnet_payment(devnet), devnet_payment(devnet)
    async with serve(devnet, tmp_path) as first:
        await stop_mining(devnet)
        posting = asyncio.create_task(first.settle(held))
        await first.wait_for("settlement_submitted")
        copy_journal(journal, backup)
        await resume_mining(devnet)
        paid = await posting
        assert paid["success"]
        paid_later = await first.settle(later)
        refused = await facilitator("recover", environment(devnet, tmp_path), "--restored")
        assert refused.code == 1
        assert "another process uses the journal" in refused.error
    restore(backup, journal)
    done = await facilitator("recover", environment(devnet, tmp_path), "--restored")
    assert (done.code, done.output) == (0, f"{journal}: 1 settlements marked as told\n")
    async with serve(devnet, tmp_path) as second:
        await second.wait_for("settlement_confirmed")
        for header, told in ((held, paid), (later, paid_later)):
            reply = await second.settle(header)
            assert (reply["success"], reply["error"], reply["txHash"]) == (
                False,
                "Nonce has already been used",
                told["txHash"],
            )
        assert (await second.settle(devnet_payment(devnet)))["success"]
    assert len(await settled_logs(devnet)) == 3


async def test_recover_says_what_stands_in_its_way(devnet: Devnet, tmp_path: Path) -> None:
    variables = environment(devnet, tmp_path)
    nothing = await facilitator("recover", variables, "--restored")
    assert (nothing.code, nothing.error.startswith("error: there is no journal")) == (1, True)
    assert not (tmp_path / "facilitator.db").exists()
    assert (await called("recover", variables)).code == 2
    wrong = await called("recover", {**variables, "CONFIRMATIONS": "x"}, "--restored")
    assert (wrong.code, wrong.error.startswith("error: CONFIRMATIONS must be")) == (2, True)
    (tmp_path / "facilitator.db").write_bytes(b"no database" * 100)
    broken = await called("recover", variables, "--restored")
    assert (broken.code, broken.error.startswith("error: cannot read the journal")) == (1, True)


async def test_a_pool_that_holds_more_than_a_pool_can_pauses_the_signer(
    devnet: Devnet, tmp_path: Path
) -> None:
    """A node that lies about the account's pending transactions: nothing is signed, alarm; once it
    tells the truth the same payment settles.
    """
    await approve(devnet)
    header = devnet_payment(devnet)

    async def exaggerate(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        if call["params"][1] == "pending":
            answer["result"] = hex(int(answer["result"], 16) + 1_000)
        return answer

    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_getTransactionCount"] = exaggerate
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            for _ in range(2):
                status, reply = await service.post("/settle", request(header))
                assert (status, reply["error"]) == (503, "Chain unavailable")
            [alert] = service.logged("signer_paused")
            assert alert["level"] == "critical"
            assert (await scrape(service)).values("facilitator_signer_paused") == [1]
            proxy.faults.clear()
            await asyncio.sleep(2.1)
            assert (await service.settle(header))["success"]
            assert (await scrape(service)).values("facilitator_signer_paused") == [0]
    assert len(await settled_logs(devnet)) == 1


async def post_all(devnet: Devnet, service: Service) -> list[asyncio.Task[dict[str, Any]]]:
    """Payments that are all sent, none of them mined."""
    await stop_mining(devnet)
    headers = [devnet_payment(devnet) for _ in range(IN_FLIGHT)]
    posting = [asyncio.create_task(service.settle(header)) for header in headers]
    await service.wait_for("settlement_submitted", IN_FLIGHT)
    return posting


async def test_sigterm_under_64_settlements_answers_them_all_and_exits_0(
    devnet: Devnet, tmp_path: Path
) -> None:
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        posting = await post_all(devnet, service)
        stopping = asyncio.create_task(service.stop())
        await asyncio.sleep(0.3)
        with pytest.raises(aiohttp.ClientError):  # new ones are not taken
            await service.settle(devnet_payment(devnet))
        await resume_mining(devnet)
        assert await stopping == 0
        replies = await asyncio.gather(*posting)
    assert [reply["error"] for reply in replies] == [None] * IN_FLIGHT
    assert len(await settled_logs(devnet)) == IN_FLIGHT


async def test_what_a_stop_could_not_answer_is_found_by_the_next_start(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Nothing is mined inside the grace: each is told `Settlement pending`, exit 0; the next life
    confirms them all.
    """
    await approve(devnet)
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="3") as first:
        posting = await post_all(devnet, first)
        assert await first.stop() == 0
        replies = await asyncio.gather(*posting)
    assert {reply["error"] for reply in replies} == {"Settlement pending"}
    await resume_mining(devnet)
    async with serve(devnet, tmp_path) as second:
        await second.wait_for("settlement_confirmed", IN_FLIGHT)
    hashes = {log.transaction_hash for log in await settled_logs(devnet)}
    assert hashes == {reply["txHash"] for reply in replies}


async def test_a_second_signal_ends_it_at_once_and_loses_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    await approve(devnet)
    async with serve(devnet, tmp_path) as first:
        posting = await post_all(devnet, first)
        first.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert first.process.returncode is None
        started = time.monotonic()
        assert await first.stop() == -signal.SIGTERM
        assert time.monotonic() - started < 15  # settlements are waited for more than twice as long
        await asyncio.gather(*posting, return_exceptions=True)
    await resume_mining(devnet)
    async with serve(devnet, tmp_path) as second:
        await second.wait_for("settlement_confirmed", IN_FLIGHT)
    assert len(await settled_logs(devnet)) == IN_FLIGHT
