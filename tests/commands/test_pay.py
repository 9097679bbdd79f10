"""The command `pay`, as a real process against the real service and a real chain."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.ethereum.addresses import checksum
from tests.support.chain import approve, balance, read, settled_logs
from tests.support.commands import Ended, called, facilitator
from tests.support.service import Service, environment, launch, serve
from tests.support.x402_chain import deploy_token

pytestmark = pytest.mark.anyio

AMOUNT = 1_000_000  # atomic units


def settings(devnet: Devnet, folder: Path, **changes: str) -> dict[str, str]:
    """The payer's environment: the devnet's, with the payer's key instead of the service's."""
    variables = environment(devnet, folder)
    variables.pop("FACILITATOR_PRIVATE_KEY")
    return {**variables, "PAYER_PRIVATE_KEY": spelt(devnet.payer.key), **changes}


def spelt(content: bytes) -> str:
    return "0x" + content.hex()


async def pay(
    devnet: Devnet, folder: Path, service: Service, *options: str, unset: str = "", **changes: str
) -> tuple[Ended, dict[str, Any]]:
    """Pay the devnet's seller 1 USDC, unless the options say otherwise; the reply printed. The
    variable `unset` is not there.
    """
    base = ("--url", service.url, "--to", spelt(devnet.seller.address), "--amount", str(AMOUNT))
    variables = settings(devnet, folder, **changes)
    variables.pop(unset, None)
    ended = await facilitator("pay", variables, *base, *options)
    assert ended.output, ended.errors
    reply: dict[str, Any] = json.loads(ended.output)
    key = devnet.payer.key.hex()
    assert key not in (ended.output + ended.errors).lower()
    return ended, reply


async def allowance(devnet: Devnet) -> int:
    amount: int = await read(
        devnet,
        devnet.usdc,
        "allowance(address,address)",
        devnet.payer.address,
        devnet.contract,
    )
    return amount


async def test_it_approves_verifies_and_settles(devnet: Devnet, tmp_path: Path) -> None:
    """The money moves once, and exactly what was approved is used up."""
    before = await balance(devnet, devnet.payer.address)
    async with serve(devnet, tmp_path) as service:
        ended, reply = await pay(devnet, tmp_path, service)
        assert (ended.code, reply["isValid"]) == (1, False)
        assert reply["invalidReason"] == f"Insufficient allowance: 0 < {AMOUNT}"
        assert await settled_logs(devnet) == []

        ended, reply = await pay(devnet, tmp_path, service, "--approve", "--resource", "/api/x")
        assert (ended.code, reply["success"]) == (0, True)
    [log] = await settled_logs(devnet)
    assert (log.transaction_hash, log.resource) == (reply["txHash"], "/api/x")
    assert (log.payer, log.recipient) == (devnet.payer.address, devnet.seller.address)
    assert await balance(devnet, devnet.payer.address) == before - AMOUNT
    assert await allowance(devnet) == 0
    # the steps are told beside the result
    assert "POST /verify -> 200" in ended.errors
    assert "POST /settle -> 200" in ended.errors


async def test_verify_only_leaves_no_trace(devnet: Devnet, tmp_path: Path) -> None:
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        ended, reply = await pay(devnet, tmp_path, service, "--verify-only")
    assert (ended.code, reply["isValid"], reply["amount"]) == (0, True, str(AMOUNT))
    assert "/settle" not in ended.errors
    assert await settled_logs(devnet) == []


async def test_gasless_needs_neither_allowance_nor_ether(devnet: Devnet, tmp_path: Path) -> None:
    await devnet.rpc("anvil_setBalance", spelt(devnet.payer.address), "0x0")
    async with serve(devnet, tmp_path) as service:
        ended, reply = await pay(devnet, tmp_path, service, "--gasless", "--verify-only")
        assert (ended.code, reply["isValid"]) == (0, True)
        ended, reply = await pay(devnet, tmp_path, service, "--gasless")
    assert (ended.code, reply["success"]) == (0, True)
    assert await allowance(devnet) == 0
    [log] = await settled_logs(devnet)
    assert (log.transaction_hash, log.amount) == (reply["txHash"], AMOUNT)


async def test_gasless_signs_for_the_domain_that_the_network_s_token_has(tmp_path: Path) -> None:
    """base-sepolia's USDC is called "USDC" there, and "USD Coin" on jeju."""
    options = DevnetOptions(port=0, block_time=None, chain_id=84532, network_name="base-sepolia")
    async with Devnet.start(options) as devnet, serve(devnet, tmp_path) as service:
        ended, reply = await pay(devnet, tmp_path, service, "--gasless")
        assert (ended.code, reply["success"]) == (0, True)
        [log] = await settled_logs(devnet)
        assert log.transaction_hash == reply["txHash"]


async def test_upto_pays_less_than_the_seller_would_take(devnet: Devnet, tmp_path: Path) -> None:
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        ended, reply = await pay(
            devnet, tmp_path, service, *("--upto", "--max", str(10 * AMOUNT), "--amount", "7")
        )
        assert (ended.code, reply["success"], reply["amount"]["base"]) == (0, True, "7")
        ended, reply = await pay(devnet, tmp_path, service, "--upto", "--max", "6", "--amount", "7")
        assert (ended.code, reply["isValid"]) == (1, False)
        assert reply["invalidReason"] == "Upto scheme: amount 7 exceeds max 6"
    assert [log.amount for log in await settled_logs(devnet)] == [7]


@pytest.mark.parametrize(("version", "network"), [("1", "jeju"), ("2", "eip155:420691")])
async def test_the_standard_dialect_needs_no_contract_no_allowance_and_no_ether(
    devnet: Devnet, tmp_path: Path, version: str, network: str
) -> None:
    """The seller gets all of it, in one transfer of the token."""
    await devnet.rpc("anvil_setBalance", spelt(devnet.payer.address), "0x0")
    payer, seller = devnet.payer.address, devnet.seller.address
    before = await balance(devnet, payer), await balance(devnet, seller)
    contract = "X402_FACILITATOR_ADDRESS"
    variables = {n: v for n, v in environment(devnet, tmp_path).items() if n != contract}
    async with launch(variables) as service:
        await service.started()
        option = ("--x402-version", version, "--resource", "https://api.example/report")
        ended, reply = await pay(
            devnet, tmp_path, service, *option, "--verify-only", unset=contract
        )
        assert (ended.code, reply) == (0, {"isValid": True, "payer": checksum(payer)})
        assert (await balance(devnet, payer), await balance(devnet, seller)) == before
        ended, reply = await pay(devnet, tmp_path, service, *option, unset=contract)
    assert (ended.code, reply["success"], reply["network"]) == (0, True, network)
    paid = (before[0] - AMOUNT, before[1] + AMOUNT)
    assert (await balance(devnet, payer), await balance(devnet, seller)) == paid
    mined: Any = await devnet.rpc("eth_getTransactionReceipt", reply["transaction"])
    assert (mined["status"], mined["to"]) == ("0x1", spelt(devnet.usdc))
    assert "POST /settle -> 200\n" in ended.errors


@pytest.mark.parametrize("version", ["1", "2"])
async def test_the_standard_dialect_pays_in_tokens_that_both_sides_have_configured(
    devnet: Devnet, tmp_path: Path, version: str
) -> None:
    """Under the token's own EIP-712 domain. What only the payer has configured is refused, and
    moves nothing.
    """
    token = await deploy_token(devnet, name="Test Euro", version="7", decimals=2)
    held = await balance(devnet, devnet.payer.address, token.address)
    tokens = {"JEJU_TOKENS": f"{spelt(token.address)}|EURT|2|{token.name}|{token.version}"}
    option = ("--x402-version", version, "--asset", spelt(token.address), "--amount", "7")
    async with serve(devnet, tmp_path) as service:
        ended, reply = await pay(devnet, tmp_path, service, *option, **tokens)
        assert (ended.code, reply["invalidReason"]) == (1, "unsupported_asset")
        assert "POST /verify -> 200, 'unsupported_asset'\n" in ended.errors
    assert await balance(devnet, devnet.payer.address, token.address) == held
    async with serve(devnet, tmp_path, **tokens) as service:
        ended, reply = await pay(devnet, tmp_path, service, *option, **tokens)
        assert (ended.code, reply["success"]) == (0, True)
    assert await balance(devnet, devnet.payer.address, token.address) == held - 7
    assert await balance(devnet, devnet.seller.address, token.address) == 7


async def test_the_key_may_come_from_a_file(devnet: Devnet, tmp_path: Path) -> None:
    """Which then counts, whatever the variable holds."""
    payer = devnet.accounts[4]
    await approve(devnet, payer)
    key_file = tmp_path / "key"
    key_file.write_text(f"# the second payer\n{payer.key.hex()}\n")
    async with serve(devnet, tmp_path) as service:
        ended, reply = await pay(devnet, tmp_path, service, "--key-file", str(key_file))
    assert (ended.code, reply["success"]) == (0, True)
    [log] = await settled_logs(devnet)
    assert log.payer == payer.address
    assert payer.key.hex() not in ended.output + ended.errors


async def test_options_choose_contract_and_token(devnet: Devnet, tmp_path: Path) -> None:
    """What the service does not settle, it refuses in its own words."""
    other = "0x" + "12" * 20
    async with serve(devnet, tmp_path) as service:
        _, reply = await pay(devnet, tmp_path, service, "--contract", other)
        assert reply["invalidReason"].startswith("Invalid signature: ")
        ended, reply = await pay(devnet, tmp_path, service, "--asset", other)
        assert reply["invalidReason"] == f"Token not supported: {other}"
        assert ended.code == 1


async def test_what_fails_on_the_way_is_one_line_and_exit_1(devnet: Devnet, tmp_path: Path) -> None:
    async def refused(*options: str, **changes: str) -> str:
        base = ("--to", spelt(devnet.seller.address), "--amount", "1", "--timeout", "1")
        ended = await called("pay", settings(devnet, tmp_path, **changes), *base, *options)
        assert (ended.code, ended.output) == (1, "")
        assert devnet.payer.key.hex() not in ended.errors
        return ended.error

    nowhere = "http://127.0.0.1:1"
    variables, to = settings(devnet, tmp_path), spelt(devnet.seller.address)
    ended = await facilitator("pay", variables, "--url", nowhere, "--to", to, "--amount", "1")
    assert (ended.code, ended.output) == (1, "")
    assert ended.error == f"error: {nowhere} cannot be reached"
    assert await refused("--url", nowhere) == ended.error
    # without --url it is the configured port
    assert nowhere in await refused(FACILITATOR_PORT="1")
    # the chain answers, and is no facilitator
    assert "is not" in await refused("--url", devnet.url)
    broke = {"PAYER_PRIVATE_KEY": "0x" + "77" * 32}
    assert "has 0 ETH on jeju" in await refused("--url", nowhere, "--approve", **broke)
    foreign = {"X402_PRIMARY_NETWORK": "base", "BASE_RPC_URL": devnet.url}
    assert "is on chain id 420691, expected 8453" in await refused(
        "--url", nowhere, "--approve", **foreign
    )
    await devnet.rpc("evm_setAutomine", False)
    assert "not mined within 1 s: 0x" in await refused("--url", nowhere, "--approve")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "the reply is not JSON"),
        (b'["yes"]', "the reply is not an object"),
        (b'{"isValid": "true"}', ""),
        (b'{"isValid": 1, "invalidReason": "\\u001b[2J"}', ""),
    ],
)
async def test_only_a_plain_true_is_a_yes(
    devnet: Devnet, tmp_path: Path, body: bytes, words: str
) -> None:
    """And nothing that a stranger answers reaches the terminal as more than text."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_post("/verify", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    try:
        ended = await facilitator(
            "pay",
            settings(devnet, tmp_path),
            *("--url", f"http://{host}:{port}", "--to", spelt(devnet.seller.address)),
            *("--amount", "1"),
        )
    finally:
        await runner.cleanup()
    assert ended.code == 1
    assert words in ended.errors
    assert "\x1b" not in ended.output + ended.errors


async def test_a_wrong_setting_is_one_line_and_exit_2(devnet: Devnet, tmp_path: Path) -> None:
    good = settings(devnet, tmp_path)
    base = ("--url", "http://127.0.0.1:1", "--to", spelt(devnet.seller.address), "--amount", "1")

    async def refused(variables: dict[str, str], *options: str) -> str:
        ended = await called("pay", variables, *options)
        assert (ended.code, ended.output) == (2, "")
        assert devnet.payer.key.hex() not in ended.errors
        return ended.error

    keyless = {name: value for name, value in good.items() if name != "PAYER_PRIVATE_KEY"}
    ended = await facilitator("pay", keyless, *base)
    assert (ended.code, ended.output) == (2, "")
    assert ended.error == await refused(keyless, *base)
    assert "no key to pay with in PAYER_PRIVATE_KEY" in await refused(keyless, *base)
    bad = {**good, "PAYER_PRIVATE_KEY": spelt(devnet.payer.key)[:-2] + "zz"}
    assert "PAYER_PRIVATE_KEY must hold" in await refused(bad, *base)
    missing = str(tmp_path / "missing")
    assert "--key-file: the file cannot be read" in await refused(
        good, *base, "--key-file", missing
    )
    two = tmp_path / "two"
    two.write_text("11" * 32 + "\n" + "22" * 32 + "\n")
    assert "several keys" in await refused(good, *base, "--key-file", str(two))
    # a key in the place of the file's name
    assert "cannot be read" in await refused(good, *base, "--key", spelt(devnet.payer.key))
    bare = {name: value for name, value in good.items() if name != "X402_FACILITATOR_ADDRESS"}
    assert "--contract" in await refused(bare, *base)
    assert "--asset" in await refused(
        good, *base, "--network", "jeju-testnet", "--contract", spelt(devnet.contract)
    )
    other = "0x" + "12" * 20
    for option in (("--gasless",), ("--x402-version", "1"), ("--x402-version", "2")):
        error = await refused(good, *base, *option, "--asset", other)
        assert "--asset is no token that is configured on jeju" in error
    for option in (("--gasless",), ("--upto",), ("--approve",), ("--contract", other)):
        error = await refused(good, *base, "--x402-version", "2", *option)
        assert "--x402-version pays the seller directly" in error
    assert "expected a whole number from 1 to 2" in await refused(
        good, *base, "--x402-version", spelt(devnet.payer.key)
    )
    assert "--max is for --upto" in await refused(good, *base, "--max", "2")
    assert "give --url" in await refused(good, *base[2:])
    assert "--amount" in await refused(good, *base[:4])
    assert "argument --to: must be an address" in await refused(
        good, "--to", spelt(devnet.payer.key), "--amount", "1"
    )
