"""What the bytes of a transaction cost at least, asked of a real chain."""

from contextlib import suppress

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address

from facilitator.chain.rpc import RPCError
from facilitator.commands.devnet import Devnet
from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import GWEI
from facilitator.ethereum.gas import intrinsic_gas

pytestmark = pytest.mark.anyio

SOMEBODY = b"\xb0" * 20


@pytest.mark.parametrize(
    "calldata",
    [b"", b"\1" * 100, bytes(100), b"\1\0" * 50, b"\xff" * 3_000],
    ids=["none", "ones", "zeros", "both", "long"],
)
@pytest.mark.parametrize("creates", [False, True], ids=["call", "creation"])
async def test_a_chain_mines_the_least_gas_and_not_one_gas_less(
    devnet: Devnet, calldata: bytes, creates: bool
) -> None:
    """The oracle is a real node, given bytes that eth-account signs; what becomes of the execution
    does not matter.
    """
    call = Call(b"" if creates else SOMEBODY, calldata)
    least = intrinsic_gas(call)
    assert await receipt_of(devnet, call, least - 1, GWEI) is None
    assert await receipt_of(devnet, call, least, 2 * GWEI) is not None


async def receipt_of(devnet: Devnet, call: Call, gas: int, tip: int) -> object:
    """What a block makes of the payer's first transaction with this call."""
    fields = {
        **{"type": 2, "chainId": devnet.chain_id, "nonce": 0, "value": 0, "gas": gas},
        **{"maxFeePerGas": 10 * tip, "maxPriorityFeePerGas": tip, "data": call.calldata},
        **({"to": to_checksum_address(call.target)} if call.target else {}),
    }
    signed = Account.sign_transaction(fields, devnet.payer.key)
    with suppress(RPCError):  # as most nodes do, while some take it and never mine it
        await devnet.rpc("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex())
    await devnet.rpc("anvil_mine", "0x1")
    return await devnet.rpc("eth_getTransactionReceipt", "0x" + signed.hash.hex())
