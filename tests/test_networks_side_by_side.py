"""One process, two chains: each settles by itself, and no payment passes from one to the other."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator.contracts import load
from facilitator.devnet import Devnet, DevnetOptions
from facilitator.ethereum.addresses import checksum
from tests.chain import (
    approve,
    devnet_authorization,
    devnet_payment,
    is_nonce_used,
    settled_logs,
)
from tests.faultproxy import fault_proxy, lose_request
from tests.service import Service, environment, launch, request

pytestmark = pytest.mark.anyio

JEJU, OTHER = "jeju", "base-sepolia"
OTHER_RPC = "BASE_SEPOLIA_RPC_URL"
OTHER_CONTRACT = "X402_FACILITATOR_ADDRESS_BASE_SEPOLIA"
EACH = 16


JEJU_OPTIONS = DevnetOptions(port=0, block_time=None)
OTHER_OPTIONS = DevnetOptions(port=0, block_time=None, chain_id=84532, network_name=OTHER)


@asynccontextmanager
async def two_chains(
    *, block_time: int | None = None, twins: bool = False
) -> AsyncIterator[tuple[Devnet, Devnet]]:
    """jeju and base-sepolia, the payer's approval on both. Unless they are twins, the second one's
    token and contract have other addresses than the first one's.
    """
    async with Devnet.start(JEJU_OPTIONS) as jeju, Devnet.start(OTHER_OPTIONS) as other:
        if not twins:
            await move(other)
            assert {jeju.usdc, jeju.contract}.isdisjoint({other.usdc, other.contract})
        for chain in (jeju, other):
            await approve(chain)
            if block_time is not None:
                await chain.rpc("evm_setIntervalMining", block_time)
        yield jeju, other


async def move(chain: Devnet) -> None:
    """Deploy token and contract once more: a later account nonce gives other addresses."""
    owner = chain.deployer.address
    chain.usdc = await chain.deploy(load("TestUSDC"), owner, chain.usdc_domain_name)
    chain.contract = await chain.deploy(
        load("X402Facilitator"),
        *(owner, chain.fee_recipient.address, [chain.usdc], chain.network_name),
    )
    await chain.mint(chain.payer.address, 10**12)


def both(jeju: Devnet, other: Devnet, folder: Path, **changes: str) -> dict[str, str]:
    """The environment of a service on both chains, jeju the primary one."""
    return {
        **environment(jeju, folder),
        OTHER_RPC: other.url,
        "BASE_SEPOLIA_USDC_ADDRESS": checksum(other.usdc),
        OTHER_CONTRACT: checksum(other.contract),
        **changes,
    }


@asynccontextmanager
async def serving(variables: dict[str, str]) -> AsyncIterator[Service]:
    async with launch(variables) as service:
        yield await service.started()


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


async def refusals(service: Service, header: dict[str, Any], **changes: Any) -> set[str]:
    """The words of /verify and of /settle."""
    verified = await service.verify(header, **changes)
    settled = await service.settle(header, **changes)
    assert (verified["isValid"], settled["success"]) == (False, False)
    return {verified["invalidReason"], settled["error"]}


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
        # The network that is asked for decides which chain and contract the signature is for.
        [words] = await refusals(service, header, network=name)
        assert words.startswith("Invalid signature: signed by 0x")
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


async def test_a_header_that_names_another_network_than_is_asked_for_is_a_mismatch(
    chains: tuple[Devnet, Devnet], service: Service
) -> None:
    """Signed for the chain that is asked for, but with the other one's name in it."""
    for asked, named in (chains, chains[::-1]):
        header = devnet_payment(asked, network=named.network_name)
        [words] = await refusals(service, header, network=asked.network_name)
        assert words == f"Network mismatch: {named.network_name} !== {asked.network_name}"


async def test_a_token_of_the_other_chain_is_not_supported(
    chains: tuple[Devnet, Devnet], service: Service
) -> None:
    for home, away in (chains, chains[::-1]):
        header = devnet_payment(home, asset=away.usdc)
        assert await refusals(service, header) == {f"Token not supported: {checksum(away.usdc)}"}


async def test_no_network_means_the_primary_one_and_never_the_payments_own(
    chains: tuple[Devnet, Devnet], service: Service
) -> None:
    jeju, other = chains
    for path, fields in (("/verify", "invalidReason"), ("/settle", "error")):
        for chain in chains:
            for unnamed in ("absent", None, ""):
                body = request(devnet_payment(chain), network=unnamed)
                if unnamed == "absent":
                    del body["paymentRequirements"]["network"]
                _, reply = await service.post(path, body)
                if chain is jeju:
                    assert reply[fields] is None
                else:
                    assert reply[fields].startswith("Invalid signature")
                if path == "/settle":
                    assert reply["networkId"] == JEJU
    assert (await service.get("/"))[1]["network"] == JEJU
    signed = {"paymentHeader": request(devnet_payment(other))["paymentHeader"], "network": OTHER}
    assert (await service.post("/verify/signature", signed))[1]["valid"] is True
    del signed["network"]
    reply = (await service.post("/verify/signature", signed))[1]
    assert (reply["valid"], reply["error"][:17]) == (False, "Invalid signature")


async def test_the_other_network_can_be_the_primary_one(
    chains: tuple[Devnet, Devnet], tmp_path: Path
) -> None:
    jeju, other = chains
    swapped = {
        **both(jeju, other, tmp_path, X402_PRIMARY_NETWORK=OTHER),
        "X402_FACILITATOR_ADDRESS_JEJU": checksum(jeju.contract),
        "X402_FACILITATOR_ADDRESS": checksum(other.contract),
    }
    async with serving(swapped) as service:
        index = (await service.get("/"))[1]
        assert (index["network"], index["chainId"]) == (OTHER, 84532)
        assert index["facilitatorAddress"] == checksum(other.contract)
        body = request(devnet_payment(other), network=None)
        reply = (await service.post("/settle", body))[1]
        assert (reply["success"], reply["networkId"]) == (True, OTHER)
        reply = await service.settle(devnet_payment(jeju))
        assert (reply["success"], reply["networkId"]) == (True, JEJU)
        not_json = (await service.post("/settle", []))[1]
        assert (not_json["error"], not_json["networkId"]) == ("Invalid JSON request body", OTHER)


async def test_metrics_tell_both_networks_apart(
    chains: tuple[Devnet, Devnet], tmp_path: Path
) -> None:
    jeju, other = chains
    async with serving(both(jeju, other, tmp_path)) as service:
        for chain in (jeju, other, other):
            assert (await service.settle(devnet_payment(chain)))["success"]
        values = await metric_values(service)
    assert values["facilitator_chain_id", JEJU] == 420691
    assert values["facilitator_chain_id", OTHER] == 84532
    for network, settlements in ((JEJU, 1), (OTHER, 2)):
        assert values["facilitator_nonce_cache_total", network] == settlements
        assert values["facilitator_nonce_cache_used", network] == settlements
        assert values["facilitator_nonce_cache_pending", network] == 0
        assert values["facilitator_protocol_fee_bps", network] == 50
        assert values["facilitator_environment", network] == 0
        assert ("facilitator_uptime_seconds", network) in values


async def metric_values(service: Service) -> dict[tuple[str, str], float]:
    """The samples that carry a network, by name and network."""
    async with service.session.get(service.url + "/metrics") as response:
        text = await response.text()
    samples = re.findall(r'^(\w+)\{network="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    return {(name, network): float(value) for name, network, value in samples}


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
    """The next life ends what is open on both chains, each payment with its first transaction."""
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
        logs = [log for chain in chains for log in await settled_logs(chain)]
        assert [reply["success"] for reply in replies] == [True] * len(headers)
        assert {reply["txHash"] for reply in replies} == sent
        assert sorted(log.transaction_hash for log in logs) == sorted(sent)
        for chain, header in headers:
            assert await is_nonce_used(chain, header)


# What production asks of a network


async def test_production_serves_only_networks_with_an_endpoint_of_their_own(
    chains: tuple[Devnet, Devnet], tmp_path: Path
) -> None:
    """It says at start which it does not serve, and why; requests hear that it is not supported."""
    jeju, other = chains
    variables = both(jeju, other, tmp_path, FACILITATOR_ENV="production")
    del variables[OTHER_RPC]
    header = devnet_payment(other)
    async with serving(variables) as service:
        [started] = service.logged("started")
        assert (started["networks"], started["settling"]) == ([JEJU], [JEJU])
        assert started["unserved"][OTHER] == f"{OTHER_RPC} is not set"
        assert len(started["unserved"]) == 5
        assert await refusals(service, header) == {f"Unsupported network: {OTHER}"}
        status, reply = await service.get(f"/supported/tokens/{OTHER}")
        assert (status, reply["error"]) == (400, f"Unsupported network: {OTHER}")
        listed = (await service.get("/supported/networks"))[1]["networks"]
        assert [entry["network"] for entry in listed] == [JEJU]
        assert (await service.settle(devnet_payment(jeju)))["success"] is True


async def test_supported_lists_what_can_settle_in_production_and_all_in_development(
    chains: tuple[Devnet, Devnet], tmp_path: Path
) -> None:
    """An endpoint alone settles nothing: it takes a contract on that network, and a key."""
    base_url = chains[0].url
    for mode, expected in (
        ("production", [JEJU, OTHER]),
        ("development", [JEJU, "jeju-testnet", OTHER, "base", "sepolia", "ethereum"]),
    ):
        variables = both(*chains, tmp_path, FACILITATOR_ENV=mode, BASE_RPC_URL=base_url)
        async with serving(variables) as service:
            kinds = (await service.get("/supported"))[1]["kinds"]
        assert [(kind["network"], kind["scheme"]) for kind in kinds] == [
            (network, scheme) for network in expected for scheme in ("exact", "upto")
        ]


async def test_production_verifies_nothing_on_a_network_without_a_contract(
    chains: tuple[Devnet, Devnet], tmp_path: Path
) -> None:
    jeju, other = chains
    variables = both(jeju, other, tmp_path, FACILITATOR_ENV="production")
    del variables[OTHER_CONTRACT]
    async with serving(variables) as service:
        assert await refusals(service, devnet_payment(other)) == {
            "Facilitator contract not deployed - verification unavailable"
        }
        assert (await service.get("/"))[1]["status"] == "healthy"
        assert (await service.settle(devnet_payment(jeju)))["success"] is True
