"""One process, two chains: each settles by itself, and no payment passes from one to the other."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator.commands.devnet import Devnet
from facilitator.ethereum.addresses import checksum
from tests.support.chain import (
    devnet_authorization,
    devnet_payment,
    is_nonce_used,
    settled_logs,
)
from tests.support.faultproxy import fault_proxy, lose_request
from tests.support.service import Service, request
from tests.support.two_chains import (
    JEJU,
    OTHER,
    OTHER_RPC,
    both,
    refusals,
    serving,
    two_chains,
)

pytestmark = pytest.mark.anyio

EACH = 16


@pytest.fixture(scope="module")
async def chains() -> AsyncIterator[tuple[Devnet, Devnet]]:
    """Two chains for the tests that leave them as they were but for some settlements."""
    async with two_chains() as pair:
        yield pair


@pytest.fixture(scope="module")
async def service(
    chains: tuple[Devnet, Devnet], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    async with serving(both(*chains, tmp_path_factory.mktemp("journal"))) as running:
        yield running


async def test_both_settle_at_once(tmp_path: Path) -> None:
    """With and without allowance; each reply names its network and a log of that chain."""
    async with two_chains(block_time=1) as chains:
        async with serving(both(*chains, tmp_path)) as service:
            [started] = service.logged("started")
            assert started["settling"] == [JEJU, OTHER]
            replies = await asyncio.gather(
                *(
                    _pay(service, chain, gasless=bool(n % 2))
                    for n in range(EACH)
                    for chain in chains
                )
            )
        assert all(reply["success"] for reply in replies), replies
        for chain in chains:
            logs = {
                ("0x" + log.payment_id.hex(), log.transaction_hash)
                for log in await settled_logs(chain)
            }
            told = {
                (reply["settlementId"], reply["txHash"])
                for reply in replies
                if reply["networkId"] == chain.network_name
            }
            assert len(logs) == EACH
            assert told == logs


async def _pay(service: Service, chain: Devnet, *, gasless: bool) -> dict[str, Any]:
    body = request(devnet_payment(chain))
    if gasless:
        body["authParams"] = devnet_authorization(chain)
    status, reply = await service.post("/settle/gasless" if gasless else "/settle", body)
    assert status == 200
    return reply


async def test_a_payment_for_one_is_refused_on_the_other(
    chains: tuple[Devnet, Devnet], service: Service
) -> None:
    """Whichever side claims which network, nothing moves, and the payment is still good at home."""
    for home, away in (chains, chains[::-1]):
        header = devnet_payment(home)
        name = away.network_name
        before = [len(await settled_logs(chain)) for chain in chains]
        # The network that it names decides which chain and contract its signature is for.
        [words] = await refusals(service, header, network=name)
        assert words == f"Network mismatch: {home.network_name} !== {name}"
        relabelled = {**header, "network": name}
        for network in (name, home.network_name):
            [words] = await refusals(service, relabelled, network=network)
            assert words.startswith("Invalid signature: signed by 0x")
        anonymous = {**relabelled, "payer": None}
        for path in ("/verify", "/settle"):
            _, reply = await service.post(path, request(anonymous))
            assert reply.get("isValid", reply.get("success")) is False
        assert [len(await settled_logs(chain)) for chain in chains] == before
        assert (await service.verify(header))["isValid"] is True


async def test_the_chain_id_alone_tells_twins_apart(tmp_path: Path) -> None:
    """One deployer and one order of deployments give one address on every chain: payer, contract
    and token are then the same, and a payment is still for one chain only.
    """
    async with two_chains(twins=True) as chains:
        jeju, other = chains
        assert (jeju.usdc, jeju.contract) == (other.usdc, other.contract)
        async with serving(both(jeju, other, tmp_path)) as service:
            for home, away in (chains, chains[::-1]):
                header = devnet_payment(home)
                copied = {**header, "network": away.network_name}
                for forged in (copied, {**copied, "payer": None}):
                    reply = await service.settle(forged)
                    assert reply["success"] is False
                    assert reply["error"].startswith(("Invalid signature", "Insufficient"))
                assert await settled_logs(away) == []
            replies = [await service.settle(devnet_payment(chain, nonce="n")) for chain in chains]
        assert [reply["success"] for reply in replies] == [True, True]


async def test_a_header_that_names_another_network_than_it_is_signed_for_is_forged(
    chains: tuple[Devnet, Devnet], service: Service
) -> None:
    """Even where it is signed for the chain that is asked for."""
    for asked, named in (chains, chains[::-1]):
        header = devnet_payment(asked, network=named.network_name)
        [words] = await refusals(service, header, network=asked.network_name)
        assert words.startswith("Invalid signature: signed by 0x")


async def test_a_token_of_the_other_chain_is_not_supported(
    chains: tuple[Devnet, Devnet], service: Service
) -> None:
    for home, away in (chains, chains[::-1]):
        header = devnet_payment(home, asset=away.usdc)
        assert await refusals(service, header) == {f"Token not supported: {checksum(away.usdc)}"}


@pytest.mark.parametrize("dead", [OTHER, JEJU])
async def test_one_dead_chain_leaves_the_other_alone(dead: str, tmp_path: Path) -> None:
    """The dead one answers 503, and pays once it is back. `/` and /ready tell the primary one's
    state, and an outage of the node never takes the service out of rotation.
    """
    async with (
        two_chains(block_time=1) as chains,
        fault_proxy(chains[0].url) as jeju_proxy,
        fault_proxy(chains[1].url) as other_proxy,
    ):
        proxies = {JEJU: jeju_proxy, OTHER: other_proxy}
        by_name = {chain.network_name: chain for chain in chains}
        alive = by_name[OTHER if dead == JEJU else JEJU]
        urls = {"JEJU_RPC_URL": jeju_proxy.url, OTHER_RPC: other_proxy.url}
        async with serving({**both(*chains, tmp_path), **urls}) as service:
            held = devnet_payment(by_name[dead])
            proxies[dead].faults["*"] = lose_request
            for path, member in (("/verify", "invalidReason"), ("/settle", "error")):
                status, reply = await service.post(path, request(held))
                assert (status, reply[member]) == (503, "Chain unavailable")
            replies = await asyncio.gather(
                *(service.settle(devnet_payment(alive)) for _ in range(EACH))
            )
            assert [reply["success"] for reply in replies] == [True] * EACH
            index = (await service.get("/"))[1]
            assert index["status"] == ("degraded" if dead == JEJU else "healthy")
            status, ready = await service.get("/ready")
            assert (status, ready["rpc"]) == (200, dead != JEJU)
            assert (await service.get("/health"))[0] == 200
            proxies[dead].faults.clear()
            await asyncio.sleep(5.1)  # the endpoint's penalty
            assert (await service.settle(held))["success"] is True
        assert len(await settled_logs(alive)) == EACH
        assert len(await settled_logs(by_name[dead])) == 1


async def test_kill_9_with_payments_pending_on_both_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    """The next life ends what is open on both chains, each payment at its first account nonce."""
    async with two_chains(block_time=1) as chains:
        headers = [(chain, devnet_payment(chain)) for chain in chains for _ in range(3)]
        variables = both(*chains, tmp_path)
        async with serving(variables) as first:
            for chain in chains:
                await chain.rpc("evm_setIntervalMining", 0)
            posting = [
                asyncio.create_task(first.post("/settle", request(header))) for _, header in headers
            ]
            await first.wait_for("settlement_submitted", len(headers))
            await first.stop(signal.SIGKILL)
            died = await asyncio.gather(*posting, return_exceptions=True)
            assert all(isinstance(error, aiohttp.ClientError) for error in died)
            sent = {line["transaction"] for line in first.logged("settlement_submitted")}
        async with serving(variables) as second:
            for chain in chains:
                await chain.rpc("evm_setIntervalMining", 1)
            await second.wait_for("settlement_confirmed", len(headers))
            replies = [await second.settle(header) for _, header in headers]
        assert [reply["success"] for reply in replies] == [True] * len(headers)
        logs = [log for chain in chains for log in await settled_logs(chain)]
        # On a slow machine one is replaced meanwhile: other bytes, the same account nonce.
        assert second.logged("settlement_submitted") == []
        hashes = {reply["txHash"] for reply in replies}
        assert len(hashes) == len(sent) == len(headers)
        assert sorted(log.transaction_hash for log in logs) == sorted(hashes)
        for chain, header in headers:
            assert await is_nonce_used(chain, header)
