"""What CONTRIBUTING.md promises of `make test-fast`: nothing that it runs starts a process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# The word is put together, so that no look at the source finds out what it does.
HIDDEN = """
import importlib

def test_that_looks_fast():
    importlib.import_module("sub" + "process").run(["true"], check=True)
"""
OPEN = """
import subprocess

def test_that_starts_a_process():
    subprocess.run(["true"], check=True)
"""


@pytest.mark.parametrize(
    ("source", "options", "code", "told"),
    [
        pytest.param(HIDDEN, ["--fast"], 1, "counts as fast, and starts true", id="guarded"),
        pytest.param(HIDDEN, [], 1, "counts as fast, and starts true", id="guarded in every run"),
        pytest.param(OPEN, ["--fast"], 5, "no tests ran", id="left out"),
        pytest.param(OPEN, [], 0, "1 passed", id="free where all tests run"),
    ],
)
def test_a_test_that_starts_a_process_is_left_out_or_fails(
    tmp_path: Path, source: str, options: list[str], code: int, told: str
) -> None:
    (tmp_path / "test_it.py").write_text(source)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("--rootdir", str(tmp_path), *options, str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, told in ended.stdout) == (code, True), ended.stdout + ended.stderr
