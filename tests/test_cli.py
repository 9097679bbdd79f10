"""The command line's own promises."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["coincurve", "sha3"])
def test_a_start_without_a_native_package_is_refused_in_one_line(package: str) -> None:
    """Its pure Python stand-in would be many times slower: better no service than that one."""
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from facilitator.cli import main; sys.exit(main(['serve']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert line.startswith(f"error: {package} is not installed")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "devnet"),
        (["serve", "--help"], 0, "environment"),
        (["devnet", "--help"], 0, "--block-time"),
        (["check", "--help"], 0, "--json"),
        (["deploy", "--help"], 0, "--fee-recipient"),
        (["pay", "--help"], 0, "--verify-only"),
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
