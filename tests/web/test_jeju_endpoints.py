"""What the endpoints beside /verify and /settle tell, and when they are well."""

from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.ethereum.addresses import checksum
from tests.support.chain import approve, devnet_payment
from tests.support.encoding import calldata
from tests.support.jeju import UNREADABLE, now
from tests.support.service import Service, environment, launch, serve
from tests.support.signing import encode_header

pytestmark = pytest.mark.anyio

NONE = "0x" + "0" * 40  # how the dialect spells that there is no contract, token or recipient


async def test_the_get_endpoints(chain: Devnet, service: Service) -> None:
    status, root = await service.get("/")
    assert status == 200
    assert root == {
        "service": "Jeju x402 Facilitator",
        "version": root["version"],
        "status": "healthy",
        "mode": "development",
        "chainId": 420691,
        "network": "jeju",
        "facilitatorAddress": service.logged("started")[0]["contract"],
        "endpoints": {
            "verify": "POST /verify",
            "settle": "POST /settle",
            "supported": "GET /supported",
            "stats": "GET /stats",
        },
        "timestamp": root["timestamp"],
    }
    assert (await service.get("/health"))[1]["status"] == "ok"
    status, ready = await service.get("/ready")
    assert (status, ready["status"]) == (200, "ready")
    supported = (await service.get("/supported"))[1]
    assert {"x402Version": 1, "scheme": "exact", "network": "jeju"} in supported["kinds"]
    assert len(supported["kinds"]) == 13
    assert supported["facilitator"] == {
        "name": "Jeju x402 Facilitator",
        "version": root["version"],
        "url": f"http://localhost:{service.url.rpartition(':')[2]}",
    }


async def test_production_serves_only_what_can_settle(chain: Devnet, tmp_path: Path) -> None:
    """Without a contract, / is unhealthy."""
    async with serve(chain, tmp_path, FACILITATOR_ENV="production") as service:
        assert (await service.get("/"))[1]["mode"] == "production"
        kinds = (await service.get("/supported"))[1]["kinds"]
        assert {kind["network"] for kind in kinds} == {"jeju", "eip155:420691"}
    bare = environment(chain, tmp_path, FACILITATOR_ENV="production")
    del bare["X402_FACILITATOR_ADDRESS"]
    async with launch(bare) as launched:
        service = await launched.started()
        status, root = await service.get("/")
        assert (status, root["status"], root["facilitatorAddress"]) == (503, "unhealthy", NONE)


async def test_a_signature_alone_can_be_checked(chain: Devnet, service: Service) -> None:
    """Neither time nor terms nor chain: only who signed, on the chain of the body's network."""
    header = devnet_payment(chain, timestamp=now() - 9999)
    text = encode_header(header)
    status, reply = await service.post("/verify/signature", {"paymentHeader": text})
    assert (status, reply) == (
        200,
        {
            "valid": True,
            "signer": header["payer"],
            "payment": {
                "amount": "1000000",
                "recipient": header["payTo"],
                "token": header["asset"],
                "resource": header["resource"],
                "network": "jeju",
            },
        },
    )
    body = {"paymentHeader": text, "network": "base"}
    status, reply = await service.post("/verify/signature", body)
    assert (status, reply["valid"]) == (200, False)
    assert reply["error"].startswith("Invalid signature: signed by ")
    body = {"paymentHeader": text, "network": "solana"}
    status, reply = await service.post("/verify/signature", body)
    assert (status, reply) == (200, {"valid": False, "error": "Unsupported network: solana"})
    for wrong, words in (
        ({}, "Missing paymentHeader"),
        ({"paymentHeader": "x"}, UNREADABLE),
        ([], "Invalid JSON request body"),
    ):
        status, reply = await service.post("/verify/signature", wrong)
        assert (status, reply) == (400, {"valid": False, "error": words})


async def test_stats_are_the_contracts(chain: Devnet, tmp_path: Path) -> None:
    async with serve(chain, tmp_path) as service:
        before = (await service.get("/stats"))[1]
        assert (await service.settle(devnet_payment(chain)))["success"]
        after = (await service.get("/stats"))[1]
    assert int(after["totalSettlements"]) == int(before["totalSettlements"]) + 1
    assert int(after["totalVolumeUSD"]) == int(before["totalVolumeUSD"]) + 10**18
    assert after["protocolFeeBps"] == 50
    assert after["feeRecipient"] == "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720"
    assert after["supportedTokens"] == ["0x0165878A594ca255338adfa4d48449f69242Eb8F"]
    assert after["uptime"] >= 0


async def test_stats_of_an_address_without_the_contract_are_an_error(
    chain: Devnet, tmp_path: Path
) -> None:
    """No code there, or a token's: nothing at all is not what the contract has settled."""
    for address in ("0x" + "77" * 20, checksum(chain.usdc)):
        async with serve(chain, tmp_path, X402_FACILITATOR_ADDRESS=address) as service:
            status, reply = await service.get("/stats")
        words = f"Failed to fetch stats: no X402Facilitator at {address}"
        assert (status, reply) == (500, {"error": words})


async def test_without_contract_token_and_recipient_the_zero_address_is_told(
    chain: Devnet, tmp_path: Path
) -> None:
    """Never null: clients compare with it, and some have it parsed as an address."""
    bare = environment(chain, tmp_path, X402_PRIMARY_NETWORK="jeju-testnet")
    bare["JEJU_TESTNET_RPC_URL"] = bare.pop("JEJU_RPC_URL")
    del bare["X402_FACILITATOR_ADDRESS"], bare["FEE_RECIPIENT_ADDRESS"]
    async with launch(bare) as launched:
        service = await launched.started()
        assert (await service.get("/"))[1]["facilitatorAddress"] == NONE
        stats = (await service.get("/stats"))[1]
    assert (stats["feeRecipient"], stats["supportedTokens"]) == (NONE, [NONE])


async def test_the_fee_is_told_in_the_basis_points_of_the_contract(tmp_path: Path) -> None:
    """Of the smallest payments too, whose fee rounds down to what many shares would give, and
    whatever is configured; a change is told of with the next payment that shows it.
    """
    async with Devnet.start(DevnetOptions(port=0, block_time=None, fee_bps=100)) as devnet:
        await approve(devnet)
        async with serve(devnet, tmp_path, PROTOCOL_FEE_BPS="50") as service:
            for amount in (1, 99, 199, 333, 1_000_000):
                fee = (await service.settle(devnet_payment(devnet, amount=amount)))["fee"]
                assert (fee["base"], fee["bps"]) == (str(amount // 100), 100)
            call = calldata("setProtocolFee(uint256)", 250)
            await devnet.transact(devnet.deployer, devnet.contract, call)
            for amount in (1_000_000, 1):
                fee = (await service.settle(devnet_payment(devnet, amount=amount)))["fee"]
                assert (fee["base"], fee["bps"]) == (str(amount // 40), 250)


async def test_networks_and_tokens_are_told(service: Service) -> None:
    networks = (await service.get("/supported/networks"))[1]["networks"]
    jeju = {network["network"]: network for network in networks}["jeju"]
    assert jeju == {
        "network": "jeju",
        "chainId": 420691,
        "name": "Jeju",
        "usdc": "0x0165878A594ca255338adfa4d48449f69242Eb8F",
        "facilitator": service.logged("started")[0]["contract"],
        "blockExplorer": None,
    }
    testnet = {network["network"]: network for network in networks}["jeju-testnet"]
    assert (testnet["usdc"], testnet["facilitator"]) == (NONE, NONE)
    ether = {"address": NONE, "symbol": "ETH", "decimals": 18, "name": "Ether"}
    tokens = (await service.get("/supported/tokens/jeju"))[1]
    assert [token["symbol"] for token in tokens["tokens"]] == ["USDC", "ETH"]
    assert tokens["tokens"][1] == ether
    assert (await service.get("/supported/tokens/jeju-testnet"))[1]["tokens"] == [ether]
    status, reply = await service.get("/supported/tokens/Jeju")
    assert (status, reply) == (400, {"error": "Unsupported network: Jeju"})


async def test_metrics_keep_the_names_of_existing_dashboards(service: Service) -> None:
    async with service.session.get(service.url + "/metrics") as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    for name in (
        *("uptime_seconds", "nonce_cache_total", "nonce_cache_pending", "nonce_cache_used"),
        *("chain_id", "protocol_fee_bps"),
    ):
        assert f'facilitator_{name}{{network="jeju"}} ' in text
    assert 'facilitator_chain_id{network="jeju"} 420691.0' in text
    assert 'facilitator_environment{env="development",network="jeju"} 1.0' in text
    assert 'http_requests_total{method="GET",route="/health",status="200"}' in text
