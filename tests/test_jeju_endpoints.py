"""What the endpoints beside /verify and /settle tell, and when they are well."""

from pathlib import Path

import pytest

from facilitator.devnet import Devnet
from tests.chain import devnet_payment
from tests.jeju import UNREADABLE, now
from tests.service import Service, environment, launch, serve
from tests.signing import encode_header

pytestmark = pytest.mark.anyio


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
        "url": None,
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
        assert (status, root["status"], root["facilitatorAddress"]) == (503, "unhealthy", None)


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
    ether = {"address": "0x" + "0" * 40, "symbol": "ETH", "decimals": 18, "name": "Ether"}
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
        *("chain_id", "protocol_fee_bps", "environment"),
    ):
        assert f'facilitator_{name}{{network="jeju"}} ' in text
    assert 'facilitator_chain_id{network="jeju"} 420691.0' in text
    assert 'http_requests_total{method="GET",route="/health",status="200"}' in text
