"""The command `check`, as a real process: each of its lines fails where it should."""

from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.chain import deploy_legacy
from tests.support.commands import check, failing
from tests.support.encoding import calldata
from tests.support.engines import DATABASE, empty
from tests.support.faultproxy import answer_with, fault_proxy
from tests.support.postgres import URL_PASSWORD, Server
from tests.support.service import environment, serve

pytestmark = pytest.mark.anyio


async def test_everything_in_place_exits_0(devnet: Devnet, tmp_path: Path) -> None:
    """Also while the service runs on the same journal."""
    variables = environment(devnet, tmp_path)
    code, output, errors = await check(variables)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert len(lines) == 14
    assert all(line.startswith("ok   ") for line in lines)
    async with serve(devnet, tmp_path):
        assert await failing(variables) == []


async def test_each_line_fails_where_it_should(devnet: Devnet, tmp_path: Path) -> None:
    good = environment(devnet, tmp_path)
    nobody = "0x" + "12" * 20
    poor = "0x" + "77" * 32
    code, output, _ = await check({**good, "X402_FACILITATOR_ADDRESS": nobody})
    assert (code, output.count("FAIL jeju contract")) == (1, 1)
    assert await failing({**good, "X402_FACILITATOR_ADDRESS": nobody}) == ["jeju contract"]
    assert await failing({**good, "PROTOCOL_FEE_BPS": "60"}) == ["jeju fee"]
    assert await failing({**good, "FEE_RECIPIENT_ADDRESS": nobody}) == ["jeju fee recipient"]
    usdc = ["jeju token", "jeju USDC code"]
    assert await failing({**good, "JEJU_USDC_ADDRESS": nobody}) == usdc
    assert await failing({**good, "FACILITATOR_PRIVATE_KEY": poor}) == ["jeju signer"]
    assert await failing({**good, "JEJU_RPC_URL": "http://127.0.0.1:1"}) == ["jeju node"]
    assert await failing({**good, "DATABASE_URL": "sqlite:////no/such/folder.db"}) == ["journal"]
    bare = {name: value for name, value in good.items() if not name.startswith("FACILITATOR_P")}
    bare.pop("X402_FACILITATOR_ADDRESS")
    assert await failing(bare) == ["jeju signer", "jeju contract"]
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_chainId"] = answer_with("0x1")
        assert await failing({**good, "JEJU_RPC_URL": proxy.url}) == ["jeju chain id"]


async def test_a_contract_of_another_network_name_is_found_out(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The existing contract knows the name "jeju" only: under another name nothing would settle."""
    legacy = await deploy_legacy(devnet)
    variables = environment(devnet, tmp_path, X402_FACILITATOR_ADDRESS="0x" + legacy.hex())
    assert await failing(variables) == []
    renamed = {
        **variables,
        "X402_PRIMARY_NETWORK": "base-sepolia",
        "BASE_SEPOLIA_RPC_URL": devnet.url,
    }
    assert await failing(renamed) == ["base-sepolia chain id"]


async def test_an_address_to_listen_at_is_tried(
    devnet: Devnet, postgres: Server, pgbouncer: Server, tmp_path: Path
) -> None:
    """It leads to the server itself, or the line says why not, without its password."""
    empty(postgres)
    pooled = {"DATABASE_URL": pgbouncer.url(DATABASE), "DATABASE_STATEMENT_CACHE": "0"}
    good = environment(devnet, tmp_path, **pooled, DATABASE_LISTEN_URL=postgres.url(DATABASE))
    code, output, _ = await check(good)
    assert (code, output.count("ok   journal notices: postgresql://")) == (0, 1)
    closed = f"postgresql://pay:hunter2hunter2@127.0.0.1:1/{DATABASE}"
    refused = postgres.url(DATABASE).replace(URL_PASSWORD, "hunter2hunter2")
    for wrong in (closed, refused, pgbouncer.url(DATABASE)):
        code, output, errors = await check({**good, "DATABASE_LISTEN_URL": wrong})
        assert (code, output.count("FAIL journal notices")) == (1, 1)
        assert "ok   journal: postgresql://" in output
        assert "hunter2" not in output + errors
    del good["DATABASE_LISTEN_URL"]
    assert "journal notices" not in (await check(good))[1]


async def test_decimals_that_differ_are_found_out(devnet: Devnet, tmp_path: Path) -> None:
    call = calldata("setTokenDecimals(address,uint8)", devnet.usdc, 8)
    await devnet.transact(devnet.deployer, devnet.contract, call)
    assert await failing(environment(devnet, tmp_path)) == ["jeju token decimals"]


async def test_wrong_settings_and_usage_exit_2(devnet: Devnet, tmp_path: Path) -> None:
    variables = environment(devnet, tmp_path)
    assert (await check({**variables, "FACILITATOR_PORT": "x"}))[0] == 2
    assert (await check(variables, "--network", "nope"))[0] == 2
