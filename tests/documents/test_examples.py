"""The programs in the documents are those that the tests run, and its steps and requests work."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from facilitator.commands.devnet.command import _as_json
from tests.support.marketplace import Declined, buy
from tests.support.paths import ROOT
from tests.support.service import serve
from tests.support.x402 import v2_body

pytestmark = pytest.mark.anyio

README = (ROOT / "README.md").read_text("utf-8")
INTEGRATE = (ROOT / "docs" / "integrate.md").read_text("utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text("utf-8")
PROGRAMS = sorted((ROOT / "examples").glob("*.*"))
LANGUAGES = {".mjs": "js", ".py": "python"}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_program_of_the_documents_is_the_file_that_the_tests_run(program: Path) -> None:
    shown = f"```{LANGUAGES[program.suffix]}\n{program.read_text('utf-8')}```\n"
    assert shown in INTEGRATE
    assert (shown in README) == (program.name == "seller_fastapi.py")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
async def test_a_program_says_which_variables_are_empty(program: Path) -> None:
    with pytest.raises((Declined, AssertionError), match=r"set .*ASSET"):
        await buy(program.name, "http://127.0.0.1:1/", {"ASSET": ""})


async def test_the_steps_of_the_readme_work_in_new_terminals(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The seller's and the buyer's steps, word for word but for the ports, by shells that have
    nothing in their environment but PATH.
    """
    blocks = re.findall(r"^ +```sh\n(.*?)^ +```$", README, re.MULTILINE | re.DOTALL)
    sell, buying = (block.replace(".venv/bin/python", sys.executable) for block in blocks)
    async with serve(devnet, tmp_path) as service:
        assert "http://127.0.0.1:3402" in sell
        sell = sell.replace("http://127.0.0.1:3402", service.url)
        seller = await terminal(
            "export PORT=0\n" + sell.replace(sys.executable, f"exec {sys.executable} -u")
        )
        try:
            assert seller.stdout is not None
            while not (
                listening := re.search(
                    rb"http://127\.0\.0\.1:\d+", line := await seller.stdout.readline()
                )
            ):
                assert line, "the seller did not start"
            buyer = await terminal(buying.replace("http://127.0.0.1:4021", listening[0].decode()))
            output, _ = await buyer.communicate()
        finally:
            seller.kill()
            await seller.wait()
    bought = json.loads(output)
    assert (bought["status"], json.loads(bought["body"])) == (200, {"report": "sunny"})
    assert bought["receipt"]["transaction"].startswith("0x")


async def terminal(commands: str) -> asyncio.subprocess.Process:
    """Start a shell in the folder of the repository, with an environment of its own."""
    return await asyncio.create_subprocess_exec(
        *("bash", "-ec", commands),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_the_request_of_the_documents_has_the_members_of_one(devnet: Devnet) -> None:
    [request] = (
        found
        for text in re.findall(r"```json\n(.*?)```", INTEGRATE, re.DOTALL)
        if "paymentPayload" in (found := json.loads(text))
    )
    assert members(request) == members(v2_body(devnet))


async def test_the_line_that_sets_the_payers_key_sets_it(devnet: Devnet, tmp_path: Path) -> None:
    """Run by a shell, with what `facilitator devnet --json` prints in the file that it names."""
    [line] = re.findall(r"^export PAYER_PRIVATE_KEY=\$\(.*\)$", COMMANDS, re.MULTILINE)
    (tmp_path / "devnet.json").write_text(_as_json(devnet))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-ec", f'{line}\nprintf %s "$PAYER_PRIVATE_KEY"'),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await shell.communicate()
    payer = devnet.accounts[2]
    assert (payer.role, output.decode()) == ("payer", "0x" + payer.key.hex())


def members(value: object) -> Any:
    """The names of all members at every depth."""
    if isinstance(value, dict):
        return {name: members(member) for name, member in value.items()}
    return None
