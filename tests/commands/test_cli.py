"""The command line's own promises."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["coincurve", "sha3"])
def test_a_start_without_a_native_package_is_refused_in_one_line(package: str) -> None:
    """Its pure Python stand-in would be many times slower: better no service than that one."""
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from facilitator.commands.main import main; sys.exit(main(['serve']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert line.startswith(f"error: {package} is not installed")


def test_whoever_reads_no_further_causes_no_traceback(tmp_path: Path) -> None:
    """As `head` does."""
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-m", "facilitator", "migrate"],
        env={"DATABASE_URL": f"sqlite:///{tmp_path}/new.db"},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (1, "")


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_journal_in_postgresql_without_its_package_is_refused_in_one_line(command: str) -> None:
    script = (
        "import sys; sys.modules['asyncpg'] = None\n"
        f"from facilitator.commands.main import main; sys.exit(main([{command!r}]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/d", "FACILITATOR_PORT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert "asyncpg is not installed" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("command", "code"), [("serve", 0), ("devnet", 0), ("check", None)])
def test_a_signal_while_the_program_loads_ends_it(
    command: str, code: int | None, number: int
) -> None:
    """What runs until it is told to end exits 0, without a word; a check that did not check must
    not look passed.
    """
    script = f"""
import os, sys
class Signaller:
    def find_spec(self, name, *_):
        if name == "facilitator.web.service":
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Signaller())
from facilitator.commands.main import main
sys.exit(main([{command!r}]))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30
    )
    if code is None:
        assert run.returncode != 0
    else:
        assert (run.returncode, run.stdout, run.stderr) == (code, "", "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "devnet"),
        (["serve", "--help"], 0, "environment"),
        (["devnet", "--help"], 0, "--block-time"),
        (["check", "--help"], 0, "--json"),
        (["deploy", "--help"], 0, "--fee-recipient"),
        (["pay", "--help"], 0, "--verify-only"),
        (["recover", "--help"], 0, "--restored"),
        (["--version"], 0, "facilitator "),
        ([], 2, "COMMAND"),
        (["fly"], 2, "invalid choice"),
        (["pay"], 2, "required: --to, --amount"),
        (["deploy", "--network", "nope"], 2, "invalid choice"),
    ],
)
def test_help_and_bad_usage(arguments: list[str], code: int, words: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "facilitator", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == code
    assert words in run.stdout + run.stderr
