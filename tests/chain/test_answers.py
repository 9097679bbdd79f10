"""A call that a contract does not survive is refused by the chain: it is no outage of the node.

Who owns the contract picks the way in which it stops, a payer's smart wallet for one. Were any of
them called an outage, its owner could have the service report one.
"""

import pytest

from facilitator.chain.answers import NodeFault, classify
from facilitator.chain.rpc import RPCError
from facilitator.commands.devnet import Devnet

pytestmark = pytest.mark.anyio

PLACE = "0x" + "99" * 20
HALTS = {
    "reverts": "60006000fd",
    "runs into the invalid opcode": "fe",
    "runs into an opcode that is none": "0c",
    "jumps to nowhere": "600056",
    "takes from an empty stack": "50",
    "fills the stack": "5b6001600056",
    "runs for ever": "5b600056",
    "wants more memory than its gas buys": "600163ffffffff52",
    "wants memory past all numbers": "60017f" + "ff" * 32 + "52",
    "reads what no call returned": "6020600060003e",
}
# What geth (and erigon), reth, nethermind and besu say of the same.
WORDS = [
    "execution reverted",
    "out of gas",
    "gas uint64 overflow",
    "invalid opcode: INVALID",
    "invalid jump destination",
    "stack underflow (0 <=> 1)",
    "stack limit reached 1024 (1023)",
    "return data out of bounds",
    "write protection",
    "max call depth exceeded",
    "EVM error: OpcodeNotFound",
    "out of gas: gas required exceeds allowance: 50000000",
    "VM execution error.",
    "Execution reverted",
    "Invalid opcode: 0xfe",
]


@pytest.mark.parametrize("code", HALTS.values(), ids=HALTS)
async def test_a_contract_that_stops_refuses(code: str, devnet: Devnet) -> None:
    await devnet.rpc("anvil_setCode", PLACE, "0x" + code)
    with pytest.raises(RPCError) as stopped:
        await devnet.rpc("eth_call", {"to": PLACE, "gas": hex(500_000)}, "latest")
    assert classify(stopped.value) is NodeFault.REVERTED


@pytest.mark.parametrize("words", WORDS)
def test_a_stop_is_one_in_the_words_of_every_node(words: str) -> None:
    assert classify(RPCError(-32000, words)) is NodeFault.REVERTED
