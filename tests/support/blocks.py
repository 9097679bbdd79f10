"""Blocks of a devnet that mines by the second: made at once, held back, looked at."""

from typing import Any

from facilitator.commands.devnet import Devnet
from tests.support.encoding import calldata

DEEP = 12  # of a failure that is told


TALL = {"maxPriorityFeePerGas": hex(100 * 10**9), "maxFeePerGas": hex(400 * 10**9)}


async def mine(devnet: Devnet, blocks: int = 1) -> None:
    await devnet.rpc("anvil_mine", hex(blocks))


async def stop_mining(devnet: Devnet) -> None:
    await devnet.rpc("evm_setIntervalMining", 0)


async def foreign_transfer(devnet: Devnet) -> None:
    """Another program uses the signer's key."""
    transfer = {"from": "0x" + devnet.signer.address.hex(), "to": "0x" + "11" * 20}
    await devnet.rpc("eth_sendTransaction", {**transfer, **TALL, "gas": hex(21_000)})


async def nonce_of_signer(devnet: Devnet) -> int:
    address = "0x" + devnet.signer.address.hex()
    return int(str(await devnet.rpc("eth_getTransactionCount", address, "latest")), 16)


async def block_of(devnet: Devnet, tag: str = "latest") -> dict[str, Any]:
    block: Any = await devnet.rpc("eth_getBlockByNumber", tag, False)
    return dict(block)


async def height_of(devnet: Devnet) -> int:
    return int((await block_of(devnet))["number"], 16)


async def revoke(devnet: Devnet) -> None:
    """Wanted by the next block before anything else."""
    spend_nothing = calldata("approve(address,uint256)", devnet.contract, 0)
    call = {"to": "0x" + devnet.usdc.hex(), "data": "0x" + spend_nothing.hex()}
    sender = {"from": "0x" + devnet.payer.address.hex(), "gas": hex(100_000), **TALL}
    await devnet.rpc("eth_sendTransaction", {**sender, **call})
