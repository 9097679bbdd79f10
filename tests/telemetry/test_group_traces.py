"""Payments that share a transaction are told apart in the log and in traces."""

from collections import Counter
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.bursts import OPTIONS, approve_all, post_all, replies_of, x402_posts
from tests.support.collector import collector
from tests.support.service import serve

pytestmark = pytest.mark.anyio

BURST = 120  # more than a signer has places


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return OPTIONS


async def test_payments_that_share_a_transaction_share_no_trace_and_no_request(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Each line about one, and each span of its checks, is of the request that asked for it."""
    await approve_all(devnet)
    async with collector() as receiving:
        told = receiving.environment(SETTLE_TIMEOUT_SECONDS="90")
        async with serve(devnet, tmp_path, **told) as service:
            replies = await replies_of(await post_all(service, x402_posts(devnet, BURST)))
            assert all(reply["success"] for reply in replies)
            await service.wait_for("request", BURST)
            await service.wait_for("settlement_confirmed", BURST)
            await receiving.wait(lambda: len(receiving.named("POST /settle")) == BURST)
        submitted = service.logged("settlement_submitted")
        lines = {line["settlement"]: line for line in service.logged("request")}
        assert max(Counter(line["transaction"] for line in submitted).values()) > 1
        for line in [*submitted, *service.logged("settlement_confirmed")]:
            assert line["trace_id"] == lines[line["settlement"]]["trace_id"]
        for line in submitted:
            assert line["request_id"] == lines[line["settlement"]]["request_id"]
        # Each had its call simulated, as a part of its own claim.
        claims = {span.span_id: span.trace_id for span in receiving.named("claim")}
        simulated = [
            span for span in receiving.named("eth_estimateGas") if span.parent_id in claims
        ]
        assert {span.trace_id for span in simulated} == set(claims.values())
        assert all(claims[span.parent_id] == span.trace_id for span in simulated)
