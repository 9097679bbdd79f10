"""Two chains of different networks, and one service on both."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from facilitator.commands.contracts import load
from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.ethereum.addresses import checksum
from tests.support.chain import approve
from tests.support.service import Service, environment, launch

JEJU, OTHER = "jeju", "base-sepolia"
OTHER_RPC = "BASE_SEPOLIA_RPC_URL"
OTHER_CONTRACT = "X402_FACILITATOR_ADDRESS_BASE_SEPOLIA"
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


async def refusals(service: Service, header: dict[str, Any], **changes: Any) -> set[str]:
    """The words of /verify and of /settle."""
    verified = await service.verify(header, **changes)
    settled = await service.settle(header, **changes)
    assert (verified["isValid"], settled["success"]) == (False, False)
    return {verified["invalidReason"], settled["error"]}
