"""Amounts are told in the token's own unit where it has one, and no token can spoil a reply."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from facilitator.chain.client import Chain
from facilitator.chain.rpc import RPC
from facilitator.chain.tokens import KNOWN_LIMIT, READ_TIMEOUT, Tokens, read_decimals, read_symbol
from facilitator.commands.devnet import Devnet
from facilitator.config.networks import Unit
from facilitator.ethereum.addresses import ZERO_ADDRESS
from tests.support.chain import approve, devnet_payment, load_artifact, settled_logs
from tests.support.encoding import calldata
from tests.support.faultproxy import Answer, Call, Forward, fault_proxy
from tests.support.rpcserver import always, reply_json, rpc_server
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio

EURC = encode(["string"], ["EURC"])
TWO = encode(["uint256"], [2])
UNKNOWN = ("TOKEN", 18)
SYMBOL, DECIMALS = "0x95d89b41", "0x313ce567"  # selectors


async def odd_token(
    devnet: Devnet, symbol: bytes = EURC, decimals: bytes = TWO, excess: int = 0
) -> bytes:
    """A token that the contract takes and the payer has, and that answers with these bytes."""
    token = await devnet.deploy(load_artifact("OddToken"))
    describe = calldata("describe(bytes,bytes,uint256)", symbol, decimals, excess)
    mint = calldata("mint(address,uint256)", devnet.payer.address, 10**12)
    support = calldata("setTokenSupported(address,bool)", token, True)
    for to, call in ((token, describe), (token, mint), (devnet.contract, support)):
        await devnet.transact(devnet.deployer, to, call)
    await approve(devnet, token=token)
    return token


def unit_of(reply: dict[str, Any]) -> tuple[str, int]:
    return reply["amount"]["symbol"], reply["amount"]["decimals"]


# The replies


async def test_a_settlement_is_told_in_the_tokens_own_unit(devnet: Devnet, tmp_path: Path) -> None:
    token = await odd_token(devnet)
    async with serve(devnet, tmp_path) as service:
        reply = await service.settle(devnet_payment(devnet, asset=token, amount=12_345))
    assert reply["success"] is True
    assert reply["amount"] == {
        "human": "123.45",
        "base": "12345",
        "symbol": "EURC",
        "decimals": 2,
    }
    assert (reply["fee"]["human"], reply["net"]["human"]) == ("0.61", "122.84")


async def test_a_refusal_is_told_in_it_too_once_the_token_is_known_to_be_taken(
    devnet: Devnet, tmp_path: Path
) -> None:
    token = await odd_token(devnet)
    async with serve(devnet, tmp_path) as service:
        poor = await service.settle(devnet_payment(devnet, asset=token, amount=10**13))
        assert poor["error"].startswith("Insufficient balance")
        assert unit_of(poor) == ("EURC", 2)
        header = devnet_payment(devnet, asset=token)
        assert unit_of(await service.settle(header)) == ("EURC", 2)
        again = await service.settle(header)
        assert (again["error"], unit_of(again)) == ("Nonce has already been used", ("EURC", 2))


async def test_after_a_restart_the_unit_is_asked_again(devnet: Devnet, tmp_path: Path) -> None:
    """The very first reply of the next life has it, though nothing is read of the payment."""
    token = await odd_token(devnet)
    header = devnet_payment(devnet, asset=token)
    async with serve(devnet, tmp_path) as first:
        assert (await first.settle(header))["success"]
    async with serve(devnet, tmp_path) as second:
        again = await second.settle(header)
    assert (again["error"], unit_of(again)) == ("Nonce has already been used", ("EURC", 2))


async def test_a_token_that_the_contract_does_not_take_is_not_asked(
    devnet: Devnet, tmp_path: Path
) -> None:
    """It could be anybody's."""
    token = await odd_token(devnet)
    refuse = calldata("setTokenSupported(address,bool)", token, False)
    await devnet.transact(devnet.deployer, devnet.contract, refuse)
    asked: list[str] = []

    async def listen(call: Call, forward: Forward) -> Answer:
        asked.append(call["params"][0]["data"][:10])
        return await forward(call)

    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_call"] = listen
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            reply = await service.settle(devnet_payment(devnet, asset=token))
    assert reply["error"].startswith("Token not supported")
    assert unit_of(reply) == UNKNOWN
    assert asked
    assert not {SYMBOL, DECIMALS} & set(asked)


async def test_a_token_is_asked_once(devnet: Devnet, tmp_path: Path) -> None:
    token = await odd_token(devnet)
    asked: list[str] = []

    async def listen(call: Call, forward: Forward) -> Answer:
        asked.append(call["params"][0]["data"][:10])
        return await forward(call)

    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_call"] = listen
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            headers = [devnet_payment(devnet, asset=token) for _ in range(8)]
            replies = await asyncio.gather(*(service.settle(header) for header in headers))
            replies.append(await service.settle(devnet_payment(devnet, asset=token)))
            assert (await service.settle(devnet_payment(devnet, asset=token)))["success"]
    assert {unit_of(reply) for reply in replies} == {("EURC", 2)}
    assert (asked.count(SYMBOL), asked.count(DECIMALS)) == (1, 1)


GARBAGE: dict[str, dict[str, Any]] = {
    "a symbol that reverts": {"symbol": b""},
    "decimals that revert": {"decimals": b""},
    "a symbol of 1 MB": {"excess": 1_000_000},
    "a symbol of 300 kB": {"excess": 300_000},
    "a long symbol": {"symbol": encode(["string"], ["x" * 33])},
    "an empty symbol": {"symbol": encode(["string"], [""])},
    "a symbol with a line break": {"symbol": encode(["string"], ["US\nDC"])},
    "a symbol with an override": {"symbol": encode(["string"], ["US\u202eDC"])},
    "a symbol that is not UTF-8": {"symbol": encode(["bytes"], [b"\xff\xfe"])},
    "a symbol of an absurd length": {"symbol": encode(["uint256"] * 2, [32, 2**255])},
    "300 decimals": {"decimals": encode(["uint256"], [300])},
    "2^256-1 decimals": {"decimals": b"\xff" * 32},
    "decimals of one byte": {"decimals": b"\x06"},
}


async def test_garbage_is_a_token_of_18_decimals_and_the_payment_settles(
    devnet: Devnet, tmp_path: Path
) -> None:
    tokens = [await odd_token(devnet, **garbage) for garbage in GARBAGE.values()]
    async with serve(devnet, tmp_path) as service:
        for what, token in zip(GARBAGE, tokens, strict=True):
            reply = await service.settle(devnet_payment(devnet, asset=token))
            assert reply["success"] is True, what
            assert unit_of(reply) == UNKNOWN, what
            assert reply["amount"]["human"] == "0.000000000001", what
        assert not service.logged("unhandled_error")
    assert len(await settled_logs(devnet)) == len(GARBAGE)


async def test_an_address_without_code_is_a_token_of_18_decimals(
    devnet: Devnet, tmp_path: Path
) -> None:
    nowhere = bytes.fromhex("12" * 20)
    support = calldata("setTokenSupported(address,bool)", nowhere, True)
    await devnet.transact(devnet.deployer, devnet.contract, support)
    async with serve(devnet, tmp_path) as service:
        reply = await service.settle(devnet_payment(devnet, asset=nowhere))
    assert reply["error"] == "Insufficient balance: 0 < 1000000"
    assert unit_of(reply) == UNKNOWN


async def test_a_node_that_does_not_tell_costs_the_reply_a_quarter_of_a_second(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Once: the next replies do not wait again."""
    token = await odd_token(devnet)

    async def dumb(call: Call, forward: Forward) -> Answer | None:
        if call["params"][0]["data"] in (SYMBOL, DECIMALS):
            await asyncio.sleep(3)
        return await forward(call)

    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_call"] = dumb
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            poor = devnet_payment(devnet, asset=token, amount=10**13)
            first = await _timed(service, poor)
            assert READ_TIMEOUT <= first < READ_TIMEOUT + 1
            assert await _timed(service, poor) < READ_TIMEOUT
            assert (await service.settle(devnet_payment(devnet, asset=token)))["success"]


async def _timed(service: Service, header: dict[str, Any]) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    _, reply = await service.post("/settle", request(header))
    assert unit_of(reply) == UNKNOWN
    return loop.time() - started


# What is remembered


async def test_the_number_of_remembered_tokens_is_bounded() -> None:
    """Who is used stays; what is known from the start is never forgotten, nor asked."""
    usdc = bytes(19) + b"\x01"
    known = {ZERO_ADDRESS: Unit("ETH", 18), usdc: Unit("USDC", 6)}
    async with (
        rpc_server(always(reply_json([]))) as node,
        aiohttp.ClientSession() as session,
    ):
        node.script = _every_token_is_eurc
        tokens = Tokens(Chain(RPC([node.url], name="jeju", session=session)), known)
        assets = [bytes([1]) + number.to_bytes(19) for number in range(KNOWN_LIMIT + 50)]
        for asset in assets:
            assert await tokens.unit(asset) == Unit("EURC", 2)
            assert tokens.recall(assets[0]) == Unit("EURC", 2)
        assert tokens.recall(assets[1]) is None
        assert tokens.recall(assets[-1]) == Unit("EURC", 2)
        assert sum(tokens.recall(asset) is not None for asset in assets) == KNOWN_LIMIT
        posts = len(node.posts)
        assert [await tokens.unit(asset) for asset in known] == list(known.values())
        assert len(node.posts) == posts == len(assets)


def _every_token_is_eurc(body: Any) -> Any:
    answers = {SYMBOL: "0x" + EURC.hex(), DECIMALS: "0x" + TWO.hex()}
    return reply_json(
        [
            {"jsonrpc": "2.0", "id": call["id"], "result": answers[call["params"][0]["data"]]}
            for call in body
        ]
    )


# What is read


@given(st.text(min_size=1, max_size=32).filter(str.isprintable))
def test_a_printable_symbol_of_32_characters_is_read(symbol: str) -> None:
    assert read_symbol(encode(["string"], [symbol])) == symbol


@given(st.text("abcXYZ019.$-", min_size=1, max_size=32))
def test_a_symbol_in_32_bytes_is_read(symbol: str) -> None:
    assert read_symbol(symbol.encode().ljust(32, b"\0")) == symbol


@given(st.binary(max_size=300))
def test_no_answer_breaks_the_reading(answer: bytes) -> None:
    symbol, decimals = read_symbol(answer), read_decimals(answer)
    assert symbol is None or (1 <= len(symbol) <= 32 and symbol.isprintable())
    assert decimals is None or 0 <= decimals <= 255


@pytest.mark.parametrize("decimals", [0, 6, 18, 255])
def test_decimals_are_a_uint8(decimals: int) -> None:
    assert read_decimals(encode(["uint8"], [decimals])) == decimals
    assert read_decimals(encode(["uint256"], [decimals + 256])) is None
