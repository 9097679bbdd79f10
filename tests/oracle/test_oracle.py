"""The facilitator of the official Python SDK as an oracle: more than a thousand payments, good and
broken, are given to it and to our /verify, and every difference is one that is meant. The figures
are printed: run this file alone to see them.
"""

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.config.networks import NETWORKS
from facilitator.ethereum.addresses import checksum
from tests.oracle.cases import cases
from tests.oracle.differences import DIFFERENCES, UNREADABLE, Difference
from tests.oracle.market import open_market
from tests.oracle.reference import RAISED, Reference, Verdict
from tests.support.service import Service, serve
from tests.support.x402_chain import deploy_factory

pytestmark = pytest.mark.anyio

NETWORK = NETWORKS["base-sepolia"]  # version 1 knows no jeju


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(
        port=0, block_time=None, network_name=NETWORK.name, chain_id=NETWORK.chain_id
    )


async def ours(service: Service, body: Any) -> Verdict:
    """What the service says. Whatever it is asked, its answer has the dialect's shape."""
    status, reply = await service.post("/verify", body)
    assert isinstance(reply["isValid"], bool)
    assert "payer" in reply  # some clients refuse a reply without it
    assert status == 200 or (status == 400 and not reply["isValid"]), (status, reply)
    reason = "" if reply["isValid"] else reply["invalidReason"]
    # what is missing and what is of another kind are one difference, whatever each is called
    return Verdict(reply["isValid"], UNREADABLE if reason == "missing_parameters" else reason)


def agree(theirs: Verdict, our: Verdict) -> bool:
    """The same verdict, for the same reason where both give one."""
    return theirs.is_valid == our.is_valid and theirs.reason in (our.reason, RAISED)


def meant(name: str, theirs: Verdict, our: Verdict) -> Difference | None:
    """The entry of the table that this difference is."""
    for difference in DIFFERENCES:
        if (
            re.fullmatch(difference.cases, name[3:])
            and str(theirs) in difference.theirs
            and str(our) == difference.ours
        ):
            return difference
    return None


async def test_the_reference_facilitator_agrees_or_the_difference_is_meant(
    devnet: Devnet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each payment gets the verdict of the reference, for the same reason, or the two that the
    table of differences says; and each difference is found as often as the table says.
    """
    listed, unlisted = await deploy_factory(devnet), await deploy_factory(devnet)
    market = await open_market(devnet, listed, unlisted)
    # from here on blocks keep time: what has begun by our clock has begun on the chain
    await devnet.rpc("evm_setIntervalMining", 1)
    factories = [checksum(listed)]
    reference = Reference(devnet.url, devnet.signer.key, NETWORK.caip2, factories)
    outcomes: Counter[str] = Counter()
    unmeant: list[str] = []
    found: Counter[Difference] = Counter()
    async with serve(devnet, tmp_path, EIP6492_ALLOWED_FACTORIES=factories[0]) as service:
        for name, make in cases(market):
            body = make()
            theirs, our = await asyncio.gather(
                asyncio.to_thread(reference.verify, body), ours(service, body)
            )
            outcomes["payloads"] += 1
            outcomes["valid to both"] += theirs.is_valid and our.is_valid
            outcomes["equal verdicts"] += theirs.is_valid == our.is_valid
            if agree(theirs, our):
                outcomes["equal reasons, or no reason there"] += 1
            elif difference := meant(name, theirs, our):
                found[difference] += 1
            else:
                unmeant.append(f"{name}: {theirs} there, {our} here")
    with capsys.disabled():
        print(f"\n{dict(outcomes)}")
        for difference in DIFFERENCES:
            print(f"{found[difference]:5} {difference.why}")
    assert unmeant == []
    assert {difference.why: found[difference] for difference in DIFFERENCES} == {
        difference.why: difference.count for difference in DIFFERENCES
    }
    assert outcomes["payloads"] >= 1000
