"""The planted Multicall3 answers as the canonical one does."""

from typing import Any

import pytest
from eth_abi.abi import decode, encode

from facilitator.chain.rpc import RPCError
from facilitator.commands.devnet import Devnet
from tests.support.chain import read, revert_data, simulate, unhex
from tests.support.encoding import calldata, error_selector

pytestmark = pytest.mark.anyio

CALL = "(address,bytes)[]"
CALL3 = "(address,bool,bytes)[]"
CALL3_VALUE = "(address,bool,uint256,bytes)[]"
RESULTS = "(bool,bytes)[]"


def selected(name: str, types: list[str], *arguments: object) -> bytes:
    return error_selector(f"{name}({','.join(types)})") + encode(types, arguments)


async def ask(devnet: Devnet, call: bytes, *returns: str) -> tuple[Any, ...]:
    answer = await simulate(devnet, devnet.signer, devnet.multicall3, call)
    return decode(returns, answer)


def calls(devnet: Devnet) -> list[tuple[bytes, bytes]]:
    """One that succeeds and one that reverts with InvalidAmount()."""
    good = calldata("balanceOf(address)", devnet.payer.address)
    bad = calldata(
        "settle(address,address,address,uint256,string,string,uint256,bytes)",
        *(devnet.payer.address, devnet.seller.address, devnet.usdc, 0, "", "", 0, b""),
    )
    return [(devnet.usdc, good), (devnet.contract, bad)]


def expected(devnet: Devnet) -> tuple[tuple[bool, bytes], ...]:
    return (True, (10**12).to_bytes(32)), (False, error_selector("InvalidAmount()"))


async def test_a_call_that_may_fail_does_not_take_the_others_along(devnet: Devnet) -> None:
    triples = [(target, True, call) for target, call in calls(devnet)]
    (results,) = await ask(devnet, selected("aggregate3", [CALL3], triples), RESULTS)
    assert results == expected(devnet)
    (results,) = await ask(
        devnet, selected("tryAggregate", ["bool", CALL], False, calls(devnet)), RESULTS
    )
    assert results == expected(devnet)


async def test_a_call_that_may_not_fail_undoes_everything(devnet: Devnet) -> None:
    triples = [(target, False, call) for target, call in calls(devnet)]
    quadruples = [(target, False, 0, call) for target, call in calls(devnet)]
    for call in (
        selected("aggregate", [CALL], calls(devnet)),
        selected("tryAggregate", ["bool", CALL], True, calls(devnet)),
        selected("tryBlockAndAggregate", ["bool", CALL], True, calls(devnet)),
        selected("blockAndAggregate", [CALL], calls(devnet)),
        selected("aggregate3", [CALL3], triples),
        selected("aggregate3Value", [CALL3_VALUE], quadruples),
    ):
        answer = await revert_data(devnet, devnet.signer, devnet.multicall3, call)
        assert answer[:4] == error_selector("Error(string)")
        assert decode(["string"], answer[4:]) == ("Multicall3: call failed",)


async def test_the_older_forms_say_in_which_block(devnet: Devnet) -> None:
    number = await read(devnet, devnet.multicall3, "getBlockNumber()")
    good = calls(devnet)[:1]
    result = (10**12).to_bytes(32)
    assert await ask(devnet, selected("aggregate", [CALL], good), "uint256", "bytes[]") == (
        number,
        (result,),
    )
    # the block that a call runs in has no hash yet
    for call in (
        selected("blockAndAggregate", [CALL], good),
        selected("tryBlockAndAggregate", ["bool", CALL], False, good),
    ):
        answer = await ask(devnet, call, "uint256", "bytes32", RESULTS)
        assert answer == (number, bytes(32), ((True, result),))


async def test_each_call_gets_its_own_value_and_together_all_of_it(devnet: Devnet) -> None:
    first, second = b"\x61" * 20, b"\x62" * 20
    payments = [(first, False, 3, b""), (second, True, 4, b"")]
    call = selected("aggregate3Value", [CALL3_VALUE], payments)
    await devnet.transact(devnet.payer, devnet.multicall3, call, value=7)
    for address, value in ((first, 3), (second, 4)):
        assert await read(devnet, devnet.multicall3, "getEthBalance(address)", address) == value
    # what is sent beyond it would stay behind for anybody to take
    with pytest.raises(RPCError, match="Multicall3: value mismatch"):
        await devnet.transact(devnet.payer, devnet.multicall3, call, value=8)


async def test_it_tells_about_the_block(devnet: Devnet) -> None:
    block: Any = await devnet.rpc("eth_getBlockByNumber", "latest", False)
    number = int(block["number"], 16)
    multicall3 = devnet.multicall3
    for function, member in (
        ("getBlockNumber()", "number"),
        ("getCurrentBlockTimestamp()", "timestamp"),
        ("getCurrentBlockGasLimit()", "gasLimit"),
        ("getCurrentBlockCoinbase()", "miner"),
        ("getBasefee()", "baseFeePerGas"),
    ):
        assert await read(devnet, multicall3, function) == int(block[member], 16), function
    assert await read(devnet, multicall3, "getChainId()") == devnet.chain_id
    parent = await read(devnet, multicall3, "getLastBlockHash()", returns="bytes32")
    assert parent == unhex(block["parentHash"])
    hashed = await read(devnet, multicall3, "getBlockHash(uint256)", number - 1, returns="bytes32")
    assert hashed == parent
    await read(devnet, multicall3, "getCurrentBlockDifficulty()")
