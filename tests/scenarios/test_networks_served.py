"""Which of several networks are served, which one is meant, and what is told of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet
from facilitator.ethereum.addresses import checksum
from tests.support.chain import devnet_payment
from tests.support.scraping import scrape_until
from tests.support.service import Service, request
from tests.support.two_chains import (
    JEJU,
    OTHER,
    OTHER_CONTRACT,
    OTHER_RPC,
    both,
    refusals,
    serving,
    two_chains,
)

pytestmark = pytest.mark.anyio

CACHE = "facilitator_nonce_cache"


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
                    assert reply[fields] == f"Network mismatch: {OTHER} !== {JEJU}"
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
        seen = await scrape_until(service, lambda each: each.value(f"{CACHE}_used") == 3)
        values = {
            (sample.name, sample.labels["network"]): sample.value
            for sample in seen.samples
            if [*sample.labels] == ["network"]
        }
    assert values["facilitator_chain_id", JEJU] == 420691
    assert values["facilitator_chain_id", OTHER] == 84532
    for network, settlements in ((JEJU, 1), (OTHER, 2)):
        assert values[f"{CACHE}_total", network] == settlements
        assert values[f"{CACHE}_used", network] == settlements
        assert values[f"{CACHE}_pending", network] == 0
        assert values["facilitator_protocol_fee_bps", network] == 50
        assert seen.value("facilitator_environment", network=network, env="development") == 1
        assert ("facilitator_uptime_seconds", network) in values


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
        jeju = [kind for kind in kinds if kind["x402Version"] == 1]
        jeju = [kind for kind in jeju if kind["network"] in expected]
        assert [(kind["network"], kind["scheme"]) for kind in jeju] == [
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
