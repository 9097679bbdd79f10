"""/metrics tells what happened: each documented name, with the right value, in bounded labels."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from facilitator import __version__
from facilitator.chain.rpc import FaultKind
from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.payment import Reason
from facilitator.engine.metrics import ASK_EVERY
from facilitator.journal.measured import LABELS
from facilitator.journal.store import Store
from facilitator.web.routes import ROUTES
from tests.support.chain import approve, devnet_authorization, devnet_payment
from tests.support.faultproxy import delay, fault_proxy
from tests.support.paths import ROOT
from tests.support.scraping import Scrape, scrape, scrape_until
from tests.support.service import Service, request, serve
from tests.support.x402 import v2_body

pytestmark = pytest.mark.anyio

DOCUMENT = ROOT / "docs" / "metrics.md"
GWEI = 10**9
JEJU = {"network": "jeju"}
OTHER = "other"


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """By name: the type and the labels."""
    rows = re.findall(
        r"^\| `(\w+)` \| (counter|gauge|histogram) \|(.*?)\| .+ \|$", DOCUMENT.read_text(), re.M
    )
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def told(seen: Scrape) -> dict[str, tuple[str, frozenset[str]]]:
    """The same of a scrape; a sample's own `le` is none of the metric's labels."""
    found = {}
    for family in seen.families.values():
        if family.samples:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = (family.type, frozenset(labels))
    return found


async def pay_thrice(devnet: Devnet, service: Service) -> list[str]:
    """Jeju's dialect twice, once gasless, and the standard one; the transactions."""
    paid = [(await service.settle(devnet_payment(devnet)))["txHash"]]
    body = {**request(devnet_payment(devnet)), "authParams": devnet_authorization(devnet)}
    paid.append((await service.post("/settle/gasless", body))[1]["txHash"])
    paid.append((await service.post("/settle", v2_body(devnet)))[1]["transaction"])
    return paid


async def gas_of(devnet: Devnet, hashes: list[str]) -> int:
    """Wei that these transactions have cost, as the chain says."""
    receipts: list[Any] = [await devnet.rpc("eth_getTransactionReceipt", each) for each in hashes]
    return sum(int(each["gasUsed"], 16) * int(each["effectiveGasPrice"], 16) for each in receipts)


async def test_three_payments_are_counted_by_what_they_were(devnet: Devnet, tmp_path: Path) -> None:
    """And every name of the table is there, with its type and labels, and no other."""
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        valid = await service.verify(devnet_payment(devnet))
        assert valid["isValid"]
        assert not (await service.verify(devnet_payment(devnet), resource="/other"))["isValid"]
        assert (await service.post("/verify", {"x402Version": 1}))[0] == 400
        assert (await service.post("/verify", v2_body(devnet)))[1]["isValid"]
        hashes = await pay_thrice(devnet, service)
        assert not (await service.settle(devnet_payment(devnet, payer=devnet.accounts[4])))[
            "success"
        ]
        assert (await service.post("/settle", []))[0] == 400
        seen = await scrape_until(
            service, lambda each: each.value("facilitator_nonce_cache_used", **JEJU) == 3
        )
        seen = await scrape_until(
            service, lambda each: bool(each.values("facilitator_settlement_cost_wei"))
        )
    assert told(seen) == documented()
    settled = "facilitator_settlements_total"
    won = {**JEJU, "scheme": "exact", "outcome": "success", "reason": ""}
    assert seen.value(settled, dialect="jeju", **won) == 2
    assert seen.value(settled, dialect="x402", **won) == 1
    assert seen.value(settled, outcome="refused", reason="insufficient_allowance", **JEJU) == 1
    assert seen.value(settled, outcome="refused", reason="malformed", network=OTHER) == 1
    assert seen.value(settled) == 5
    verified = "facilitator_verifications_total"
    assert seen.value(verified, dialect="jeju", outcome="valid", reason="", **JEJU) == 1
    assert seen.value(verified, dialect="x402", outcome="valid", reason="", **JEJU) == 1
    assert seen.value(verified, outcome="refused", reason="resource_mismatch", **JEJU) == 1
    assert seen.value(verified, outcome="refused", reason="malformed", scheme=OTHER) == 1
    assert seen.value(verified) == 4
    assert seen.value("facilitator_settlement_seconds_count", outcome="success", **JEJU) == 3
    took = seen.value("facilitator_settlement_seconds_sum", outcome="success", **JEJU)
    assert 0 < took < 30
    assert seen.value("facilitator_settlement_changes_total", state="confirmed", **JEJU) == 3
    assert seen.value("facilitator_journal_settlements", state="confirmed", **JEJU) == 3
    assert seen.value("facilitator_attempts_total", **JEJU) == 3
    assert seen.value("facilitator_replacements_total", **JEJU) == 0
    assert seen.value("facilitator_reorgs_total", **JEJU) == 0
    spent = await gas_of(devnet, hashes)
    assert spent > 0
    assert seen.value("facilitator_gas_spent_wei_total", **JEJU) == pytest.approx(spent, rel=1e-12)
    for name in ("queue_depth", "settlements_in_flight", "oldest_pending_seconds"):
        assert seen.values(f"facilitator_{name}", **JEJU) == [0]
    assert seen.values("facilitator_signer_in_flight", **JEJU) == [0]
    assert seen.values("facilitator_signer_nonce_gap", **JEJU) == [0]
    for name in ("signer_paused", "stuck_at_fee_cap", "superseded_total"):
        assert seen.values(f"facilitator_{name}", **JEJU) == [0]
    assert seen.values("facilitator_queue_limit", **JEJU) == [1024]
    assert seen.value("facilitator_build_info", version=__version__) == 1
    assert seen.value("http_requests_total", method="POST", route="/settle", status="200") == 3
    assert seen.value("http_requests_total", route="/settle/gasless", status="200") == 1
    assert seen.value("http_requests_total", route="/settle", status="400") == 1
    assert seen.value("http_request_duration_seconds_count", route="/settle") == 4
    assert seen.value("facilitator_store_seconds_count", operation="claim") == 3
    assert seen.value("facilitator_rpc_calls_total", endpoint="jeju#0") > 20
    assert seen.value("facilitator_rpc_seconds_count", endpoint="jeju#0") > 5
    assert devnet.signer.key.hex() not in seen.text


async def test_gas_money_is_what_the_chain_says(devnet: Devnet, tmp_path: Path) -> None:
    """Seen by looking now and then: also where nobody pays."""
    async with serve(devnet, tmp_path) as service:
        seen = await scrape_until(
            service, lambda each: bool(each.values("facilitator_signer_balance_wei"))
        )
        balance: Any = await devnet.rpc(
            "eth_getBalance", "0x" + devnet.signer.address.hex(), "latest"
        )
        assert seen.values("facilitator_signer_balance_wei", **JEJU) == [
            pytest.approx(int(balance, 16))
        ]
        cost = seen.value("facilitator_settlement_cost_wei", **JEJU)
        assert 175_000 * GWEI // 1000 < cost < 10**18
        assert seen.values("facilitator_rpc_endpoint_up", endpoint="jeju#0") == [1]
        assert seen.values("facilitator_rpc_head_lag_blocks", endpoint="jeju#0") == [0]
        assert seen.value("facilitator_head_age_seconds", **JEJU) < 20


async def test_a_payment_that_waits_is_seen_and_so_is_its_replacement(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The chain stands, then asks for more: one settlement, two attempts, one replacement."""
    await approve(devnet)
    async with serve(devnet, tmp_path, MAX_FEE_PER_GAS_GWEI="200") as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(devnet_payment(devnet)))
        seen = await scrape_until(
            service, lambda each: each.value("facilitator_oldest_pending_seconds", **JEJU) > 1
        )
        assert seen.values("facilitator_settlements_in_flight", **JEJU) == [1]
        assert seen.values("facilitator_signer_in_flight", **JEJU) == [1]
        assert seen.values("facilitator_nonce_cache_pending", **JEJU) == [1]
        await devnet.rpc("anvil_setNextBlockBaseFeePerGas", hex(20 * GWEI))
        await devnet.rpc("evm_setIntervalMining", 1)
        assert (await waiting)["success"]
        seen = await scrape_until(
            service, lambda each: each.value("facilitator_settlements_in_flight", **JEJU) == 0
        )
    assert seen.values("facilitator_oldest_pending_seconds", **JEJU) == [0]
    assert seen.values("facilitator_replacements_total", **JEJU) == [1]
    assert seen.values("facilitator_attempts_total", **JEJU) == [2]


async def test_a_reorg_of_a_settled_payment_is_counted(devnet: Devnet, tmp_path: Path) -> None:
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(5))  # the approval stays
    async with serve(devnet, tmp_path) as service:
        assert (await service.settle(devnet_payment(devnet)))["success"]
        await asyncio.sleep(1.2)
        await devnet.rpc("anvil_reorg", 4, [])
        await service.wait_for("settlement_confirmed", 2)
        seen = await scrape(service)
    assert seen.values("facilitator_reorgs_total", **JEJU) == [1]
    assert seen.values("facilitator_settlement_changes_total", state="confirmed", **JEJU) == [2]
    assert seen.value("facilitator_settlements_total", outcome="success", **JEJU) == 1


async def test_faults_are_counted_by_endpoint_and_kind(devnet: Devnet, tmp_path: Path) -> None:
    """The first of two endpoints answers with a web page: it is down, the other one is not, and it
    is up again once it answers. Its URL, which has a key in it, is told nowhere.
    """
    key = "c0ffee5ec2e7c0ffee5ec2e7"
    async with fault_proxy(devnet.url) as first, fault_proxy(devnet.url) as second:
        urls = f"{first.url.rstrip('/')}/?apikey={key},{second.url}"
        async with serve(devnet, tmp_path, JEJU_RPC_URL=urls) as service:
            first.raw = b"<html>Bad gateway</html>"
            await service.verify(devnet_payment(devnet))
            seen = await scrape(service)
            errors = "facilitator_rpc_errors_total"
            assert seen.value(errors, endpoint="jeju#0", kind="garbage", **JEJU) >= 1
            assert seen.value(errors, endpoint="jeju#0") == seen.value(errors, **JEJU)
            assert seen.values("facilitator_rpc_endpoint_up", endpoint="jeju#0") == [0]
            assert seen.values("facilitator_rpc_endpoint_up", endpoint="jeju#1") == [1]
            assert key not in seen.text
            first.heal()
            await scrape_until(
                service,
                lambda each: each.value("facilitator_rpc_endpoint_up", endpoint="jeju#0") == 1,
            )


async def test_a_scrape_asks_nobody(devnet: Devnet, tmp_path: Path) -> None:
    """With nodes that hang it answers all the same, and a hundred scrapes ask as little as none:
    what is looked at meanwhile is what would be looked at anyway.
    """
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        await scrape_until(
            service, lambda each: bool(each.values("facilitator_signer_balance_wei"))
        )
        proxy.faults["*"] = delay(60)
        before = await scrape(service)
        async with asyncio.timeout(90):
            for _ in range(100):
                async with service.session.get(service.url + "/metrics") as reply:
                    assert reply.status == 200
            after = await scrape(service)
    for name in ("facilitator_rpc_seconds_count", "facilitator_store_seconds_count"):
        assert after.value(name) - before.value(name) < 20


async def test_what_clients_write_is_in_no_label(devnet: Devnet, tmp_path: Path) -> None:
    """Paths, methods, networks, schemes and bodies of all kinds leave only words of closed sets."""
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as service:
        for number in range(20):
            for path in (f"/x{number}", f"/settlements/{number}", f"/supported/tokens/n{number}"):
                await service.get(path)
            odd = {"network": f"net{number}", "scheme": f"scheme{number}", "asset": f"0x{number}"}
            for name, value in odd.items():
                for path in ("/verify", "/settle"):
                    await service.post(path, request(header, **{name: value}))
                    await service.post(path, request({**header, name: value}))
            body = v2_body(devnet, requirements={"network": f"eip155:{number}"})
            await service.post("/verify", body)
            await service.post("/settle", body)
            await service.session.request(f"BREW{number}", service.url + "/verify")
        seen = await scrape(service)
    networks = {"jeju", "jeju-testnet", "base-sepolia", "base", "sepolia", "ethereum"}
    assert seen.label_values("route") <= {route.path for route in ROUTES} | {OTHER}
    assert seen.label_values("method") == {"GET", "POST", OTHER}
    assert seen.label_values("network") == networks | {OTHER}
    assert seen.label_values("endpoint") == {f"{network}#0" for network in networks}
    assert seen.label_values("scheme") == {"exact", OTHER}
    assert seen.label_values("dialect") == {"jeju", "x402"}
    assert seen.label_values("reason") <= {*Reason, "", "malformed"}
    assert seen.label_values("kind") == set(FaultKind)
    assert seen.label_values("operation") <= {LABELS.get(name, name) for name in dir(Store)}
    assert seen.label_values("outcome") == {"valid", "success", "refused"}
    assert seen.value("http_requests_total", route=OTHER, status="404") == 20
    assert seen.value("http_requests_total", route="/settlements/{id}") == 20
    assert seen.value("http_requests_total", method=OTHER) == 20


async def test_a_repeated_reply_and_an_outage_are_outcomes_of_their_own(
    devnet: Devnet, tmp_path: Path
) -> None:
    await approve(devnet)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        body, key = request(devnet_payment(devnet)), {"Idempotency-Key": "one"}
        for _ in range(2):
            async with service.session.post(
                service.url + "/settle", json=body, headers=key
            ) as reply:
                assert reply.status == 200
        proxy.raw = b"<html>Bad gateway</html>"
        assert (await service.post("/settle", request(devnet_payment(devnet))))[0] == 503
        assert (await service.post("/verify", request(devnet_payment(devnet))))[0] == 503
        seen = await scrape(service)
    for outcome in ("success", "replayed"):
        assert seen.value("facilitator_settlements_total", outcome=outcome) == 1
    failed = {"outcome": "failed", "reason": "chain_unavailable", **JEJU}
    assert seen.value("facilitator_settlements_total", **failed) == 1
    assert seen.value("facilitator_verifications_total", **failed) == 1


async def test_metrics_may_have_a_listener_of_their_own(devnet: Devnet, tmp_path: Path) -> None:
    """Each of the two listeners answers what is its, and says of the rest that it is not there;
    whatever host a request names.
    """
    async with serve(devnet, tmp_path, METRICS_PORT="0") as service:
        [started] = service.logged("started")
        port = started["metrics_port"]
        own = f"http://127.0.0.1:{port}"
        assert (await service.get("/metrics"))[0] == 404
        seen = await scrape(service, own)
        assert seen.value("http_requests_total", route="/metrics", status="404") == 1
        for path in ("/", "/health", "/supported", "/settle"):
            async with service.session.get(own + path) as reply:
                assert (reply.status, (await reply.json())["error"]) == (404, "Not found")
        named = {"Host": f"127.0.0.1:{port}"}
        async with service.session.get(service.url + "/metrics", headers=named) as reply:
            assert reply.status == 404
        assert await service.stop() == 0


async def test_what_is_off_is_not_there(devnet: Devnet, tmp_path: Path) -> None:
    """No metrics, no look at the chain that nobody asked for, and payments all the same."""
    await approve(devnet)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, METRICS="off", JEJU_RPC_URL=proxy.url) as service,
    ):
        await asyncio.sleep(1)
        posts = proxy.posts  # of the loop's first turn
        await asyncio.sleep(ASK_EVERY + 1)
        assert proxy.posts == posts
        status, reply = await service.get("/metrics")
        assert (status, reply["error"], reply["path"]) == (404, "Not found", "/metrics")
        assert (await service.settle(devnet_payment(devnet)))["success"]
