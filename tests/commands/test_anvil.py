"""The embedded chain as a library: which anvil runs, what is on it, and that nothing stays."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from facilitator.commands.contracts import load
from facilitator.commands.devnet import AnvilError, Devnet, DevnetOptions, find_anvil
from facilitator.commands.devnet.chain import derive_accounts
from facilitator.config.networks import NETWORKS
from facilitator.ethereum.addresses import checksum
from tests.support.chain import MAX_UINT256, approve, balance, devnet_payment, read, settle_call
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio

AUTOMINE = DevnetOptions(port=0, block_time=None, tools=ROOT / ".tools")


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("words", ["anvil Version: 1.5.0", "anvil 1.10.2 (abc 2026)"])
def test_a_recent_anvil_on_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    anvil = program(tmp_path / "bin", "anvil", f"echo '{words}'")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert find_anvil(tmp_path / "tools") == anvil


@pytest.mark.parametrize(
    "script", ["echo 'anvil 0.2.0 (abc 2024)'", "echo 'anvil Version: 1.4.9'", "exit 3", "echo hi"]
)
def test_another_anvil_on_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    program(tmp_path / "bin", "anvil", script)
    installed = program(
        tmp_path / "tools/node_modules/@foundry-rs/anvil-here/bin", "anvil", "echo anvil 1.7.1"
    )
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert find_anvil(tmp_path / "tools") == installed


def test_without_anvil_and_npm_one_line_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnvilError, match=r"\Ano anvil 1\.5 .*remedy: install Node\.js.*\Z"):
        find_anvil(tmp_path / "tools")


def test_a_failing_npm_is_one_line_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "npm", "echo 'npm error code ENOTFOUND\nnpm error more' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(AnvilError, match=r"\Anpm ci in .* failed: npm error code ENOTFOUND\Z"):
        find_anvil(tmp_path / "tools")


def test_npm_installs_from_the_packages_own_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The npm here only puts a file where the real one does; `make setup` runs the real one."""
    place = "node_modules/@foundry-rs/anvil-here/bin"
    script = (
        '/usr/bin/test "$1" = ci && /usr/bin/test -f package.json -a -f package-lock.json && '
        f"/bin/mkdir -p {place} && echo '#!/bin/sh\necho anvil 1.7.1' > {place}/anvil && "
        f"/bin/chmod +x {place}/anvil"
    )
    program(tmp_path / "bin", "npm", script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_anvil(tmp_path / "tools") == tmp_path / "tools" / place / "anvil"
    for name in ("package.json", "package-lock.json"):
        shipped = ROOT / "facilitator" / "commands" / "contracts" / name
        assert (tmp_path / "tools" / name).read_bytes() == shipped.read_bytes()


async def test_what_is_not_anvil_is_one_line(tmp_path: Path) -> None:
    for anvil in (
        tmp_path / "nowhere",
        program(tmp_path, "broken", "echo 'Error: broken'; exit 1"),
    ):
        options = DevnetOptions(port=0, anvil=anvil)
        with pytest.raises(AnvilError, match=r"\Aanvil did not start[^\n]*\Z"):
            async with Devnet.start(options):
                raise AssertionError("it started")


async def test_usdc_is_where_network_jeju_has_it(devnet: Devnet) -> None:
    assert devnet.usdc == NETWORKS["jeju"].usdc
    assert checksum(devnet.usdc) == "0x0165878A594ca255338adfa4d48449f69242Eb8F"
    code = await devnet.rpc("eth_getCode", "0x" + devnet.multicall3.hex(), "latest")
    assert code == "0x" + load("Multicall3").deployed_bytecode.hex()


async def test_every_account_has_ether_and_a_million_dollars(devnet: Devnet) -> None:
    assert len(devnet.accounts) == 10
    for account in devnet.accounts:
        assert await balance(devnet, account.address) == 10**12
        wei = await devnet.rpc("eth_getBalance", "0x" + account.address.hex(), "latest")
        assert isinstance(wei, str)
        assert int(wei, 16) > 9_990 * 10**18


def test_no_repr_shows_a_key() -> None:
    for account in derive_accounts():
        assert account.key.hex() not in repr(account)
        assert repr(account.key) not in repr(account)
        assert checksum(account.address) in repr(account)


async def test_the_options_are_what_runs() -> None:
    options = DevnetOptions(
        port=0,
        block_time=None,
        chain_id=84532,
        network_name="base-sepolia",
        accounts=12,
        fee_bps=125,
        tools=ROOT / ".tools",
    )
    async with Devnet.start(options) as devnet:
        assert await devnet.rpc("eth_chainId") == hex(84532)
        assert len(devnet.accounts) == 12
        assert await balance(devnet, devnet.accounts[11].address) == 10**12
        assert await read(devnet, devnet.contract, "protocolFeeBps()") == 125
        assert devnet.environment()["BASE_SEPOLIA_RPC_URL"] == devnet.url
        assert devnet.environment()["X402_PRIMARY_NETWORK"] == "base-sepolia"
        await approve(devnet, amount=MAX_UINT256)
        call = settle_call(devnet_payment(devnet))  # signs for the network's name
        await devnet.transact(devnet.signer, devnet.contract, call)


async def test_interval_mining_makes_blocks_without_transactions() -> None:
    options = DevnetOptions(port=0, block_time=1, tools=ROOT / ".tools")
    async with Devnet.start(options) as devnet:
        first = await devnet.rpc("eth_blockNumber")
        async with asyncio.timeout(60):
            while await devnet.rpc("eth_blockNumber") == first:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_nothing_runs_after_the_context_even_when_it_is_cancelled() -> None:
    urls: list[str] = []

    async def hold() -> None:
        async with Devnet.start(AUTOMINE) as devnet:
            urls.append(devnet.url)
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    async with asyncio.timeout(60):
        while not urls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    port = int(urls[0].rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
