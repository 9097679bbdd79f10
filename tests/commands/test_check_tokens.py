"""The command `check` on tokens and factories: each line agrees with the contract, or fails."""

import re
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet
from facilitator.ethereum.addresses import checksum
from tests.support.chain import load_artifact
from tests.support.commands import check, failing
from tests.support.service import environment

pytestmark = pytest.mark.anyio

SEPARATOR, DOMAIN, NAMES, AUTHORIZATIONS, DECIMALS = (1 << bit for bit in range(5))
ALL = SEPARATOR | DOMAIN | NAMES | AUTHORIZATIONS | DECIMALS
NOWHERE = b"\x12" * 20


async def deploy(devnet: Devnet, tells: int, name: str = "Two Cents", version: str = "1") -> bytes:
    """A token of 2 decimals that tells of itself what `tells` lists."""
    return await devnet.deploy(load_artifact("DescribedToken"), name, version, 2, tells)


def entry(
    token: bytes,
    symbol: str = "CT",
    *,
    decimals: int = 2,
    name: str = "Two Cents",
    version: str = "1",
) -> str:
    return f"{checksum(token)}|{symbol}|{decimals}|{name}|{version}"


async def printed(variables: dict[str, str]) -> list[str]:
    """What `check` prints, addresses left out."""
    return re.sub(" 0x[0-9a-fA-F]{40}", "", (await check(variables))[1]).splitlines()


def about(lines: list[str], subject: str) -> list[str]:
    return [line for line in lines if line[5:].startswith(subject)]


async def test_a_token_that_is_as_configured_has_four_good_lines(
    devnet: Devnet, tmp_path: Path
) -> None:
    tokens = entry(await deploy(devnet, ALL))
    variables = environment(devnet, tmp_path, JEJU_TOKENS=tokens)
    assert await failing(variables) == []
    lines = await printed(variables)
    assert about(lines, "jeju CT") == [
        "ok   jeju CT code: has code",
        "ok   jeju CT decimals: 2",
        "ok   jeju CT domain: DOMAIN_SEPARATOR() agrees",
        "ok   jeju CT authorizations: EIP-3009",
    ]
    assert about(lines, "jeju USDC") == [
        "ok   jeju USDC code: has code",
        "ok   jeju USDC decimals: 6",
        "ok   jeju USDC domain: DOMAIN_SEPARATOR() agrees",
        "ok   jeju USDC authorizations: EIP-3009",
    ]


async def test_each_line_of_a_token_fails_where_it_should(devnet: Devnet, tmp_path: Path) -> None:
    tokens = [
        entry(NOWHERE, "NONE"),
        entry(devnet.payer.address, "EOA"),
        entry(await deploy(devnet, ALL), "SIX", decimals=6),
        entry(await deploy(devnet, ALL & ~DECIMALS), "SILENT"),
        entry(await deploy(devnet, ALL), "NAME", name="Two cents"),
        entry(await deploy(devnet, ALL), "VERSION", version="2"),
        entry(await deploy(devnet, ALL & ~AUTHORIZATIONS), "PLAIN"),
        entry(await deploy(devnet, ALL), "GOOD"),
        entry(await deploy(devnet, 0), "MUTE"),
    ]
    assert await failing(environment(devnet, tmp_path, JEJU_TOKENS=",".join(tokens))) == [
        "jeju NONE code",
        "jeju EOA code",
        "jeju SIX decimals",
        "jeju SILENT decimals",
        "jeju NAME domain",
        "jeju VERSION domain",
        "jeju PLAIN authorizations",
        "jeju MUTE decimals",
        "jeju MUTE domain",
        "jeju MUTE authorizations",
    ]


async def test_a_domain_is_compared_with_the_best_that_the_token_tells(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The line that fails quotes the token, on one line whatever its name is made of."""
    ways = {
        "A": (SEPARATOR | DOMAIN, "DOMAIN_SEPARATOR() agrees", "DOMAIN_SEPARATOR() differs; "),
        "B": (SEPARATOR | NAMES, "DOMAIN_SEPARATOR() agrees", "DOMAIN_SEPARATOR() differs; "),
        "C": (DOMAIN | NAMES, "eip712Domain() agrees", "eip712Domain() differs: "),
        "D": (NAMES, "name() and version() agree", "name() and version() differ: "),
    }
    tokens = []
    for symbol, (tells, _, _) in ways.items():
        odd = await deploy(devnet, tells, "Two\nCents" + "!" * 1000, "9")
        tokens += [entry(await deploy(devnet, tells), symbol), entry(odd, f"{symbol}-ODD")]
    lines = await printed(environment(devnet, tmp_path, JEJU_TOKENS=",".join(tokens)))
    for symbol, (_, agrees, differs) in ways.items():
        assert about(lines, f"jeju {symbol} domain") == [f"ok   jeju {symbol} domain: {agrees}"]
        [line] = about(lines, f"jeju {symbol}-ODD domain")
        assert line.startswith(f"FAIL jeju {symbol}-ODD domain: {differs}")
        assert "name 'Two\\nCents!" in line
        assert "version '9'" in line
        assert len(line) < 250


async def test_usdc_under_another_domain_name_is_found_out(devnet: Devnet, tmp_path: Path) -> None:
    file = tmp_path / "facilitator.toml"
    file.write_text('[networks.jeju]\nusdc_name = "Bridged USDC"\n')
    variables = environment(devnet, tmp_path, FACILITATOR_CONFIG=str(file))
    assert await failing(variables) == ["jeju USDC domain"]


async def test_a_factory_is_there_on_each_network_that_is_checked(
    devnet: Devnet, tmp_path: Path
) -> None:
    there, missing = checksum(devnet.multicall3), checksum(NOWHERE)
    variables = environment(devnet, tmp_path, EIP6492_ALLOWED_FACTORIES=there)
    assert await failing(variables) == []
    assert about(await printed(variables), "jeju factory") == ["ok   jeju factory: has code"]
    variables["EIP6492_ALLOWED_FACTORIES"] = f"{there},{missing}"
    assert await failing(variables) == ["jeju factory"]
    output = (await check(variables))[1]
    assert f"FAIL jeju factory {missing}: no code\n" in output


async def test_a_network_of_the_file_can_be_checked_by_its_name(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Without a name it is checked as soon as it has tokens beside USDC."""
    file = tmp_path / "facilitator.toml"
    file.write_text(f'[networks.mine]\nchain_id = 5\nrpc_urls = ["{devnet.url}"]\n')
    variables = environment(devnet, tmp_path, FACILITATOR_CONFIG=str(file))
    assert await failing(variables) == []
    code, output, _ = await check(variables, "--network", "mine")
    assert code == 1
    assert f"FAIL mine chain id: {devnet.chain_id}, expected 5\n" in output
    assert "jeju" not in output
    variables["MINE_TOKENS"] = entry(NOWHERE)
    assert await failing(variables) == ["mine chain id"]
