"""The programs in the README are those that the tests run, and its request is one that is sent."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from facilitator.commands.devnet.command import _as_json
from tests.support.marketplace import SCRIPTS
from tests.support.paths import ROOT
from tests.support.x402 import v2_body

pytestmark = pytest.mark.anyio

README = (ROOT / "README.md").read_text("utf-8")
LANGUAGES = {".mjs": "js", ".py": "python"}


@pytest.mark.parametrize(
    "name", ["server_v2.mjs", "server_fastapi.py", "server_plain.py", "client_v2.mjs"]
)
def test_a_program_of_the_readme_is_the_file_that_the_tests_run(name: str) -> None:
    script = SCRIPTS / name
    assert f"```{LANGUAGES[script.suffix]}\n{script.read_text('utf-8')}```\n" in README


async def test_the_request_of_the_readme_has_the_members_of_one(devnet: Devnet) -> None:
    [request] = (
        found
        for text in re.findall(r"```json\n(.*?)```", README, re.DOTALL)
        if "paymentPayload" in (found := json.loads(text))
    )
    assert members(request) == members(v2_body(devnet))


async def test_the_line_that_sets_the_payers_key_sets_it(devnet: Devnet, tmp_path: Path) -> None:
    """Run by a shell, with what `facilitator devnet --json` prints in the file that it names."""
    [line] = re.findall(r"^export PAYER_PRIVATE_KEY=\$\(.*\)$", README, re.MULTILINE)
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
