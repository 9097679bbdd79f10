"""The committed artifacts are what the sources compile to, so what runs is what was read."""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.paths import ROOT

OURS = ROOT / "facilitator" / "commands" / "contracts"
TESTS = ROOT / "tests" / "contracts"
SMALL = "FalseReturningToken"
TIMEOUT = 300.0  # seconds; compiling takes ten


def build(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", OURS / "build.mjs", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def some(folder: Path) -> Path:
    """A copy of the smallest contract and its artifact, to be changed."""
    folder.mkdir(exist_ok=True)
    shutil.copy(TESTS / f"{SMALL}.sol", folder)
    shutil.copy(TESTS / "artifacts" / f"{SMALL}.json", folder)
    return folder


def test_the_artifacts_agree_with_their_sources() -> None:
    """Both folders' at once: compiling is what takes the time."""

    def check(sources: Path, out: Path) -> subprocess.CompletedProcess[str]:
        return build("--check", "--sources", sources, "--out", out)

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(check, (OURS, TESTS), (OURS, TESTS / "artifacts")))
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 2


def test_a_changed_source_is_named_with_what_differs(tmp_path: Path) -> None:
    folder = some(tmp_path)
    source = folder / f"{SMALL}.sol"
    source.write_text(source.read_text().replace("return false;", "return true;"))
    result = build("--check", "--sources", folder)
    assert result.returncode == 1
    assert f"{SMALL}.json: differs in sourceHashes, bytecode, deployedBytecode" in result.stderr


def test_a_patched_artifact_is_noticed(tmp_path: Path) -> None:
    """Code that no source explains must not get onto a chain."""
    folder = some(tmp_path)
    artifact = folder / f"{SMALL}.json"
    content = json.loads(artifact.read_text())
    content["deployedBytecode"] = content["deployedBytecode"][:-2] + "00"
    artifact.write_text(json.dumps(content, indent=2) + "\n")
    result = build("--check", "--sources", folder)
    assert result.returncode == 1
    assert f"{SMALL}.json: differs in deployedBytecode" in result.stderr


def test_missing_and_orphaned_artifacts_are_noticed(tmp_path: Path) -> None:
    folder = some(tmp_path)
    (folder / f"{SMALL}.json").rename(folder / "Gone.json")
    result = build("--check", "--sources", folder)
    assert result.returncode == 1
    assert "Gone.json: no source" in result.stderr
    assert f"{SMALL}.json: differs in the artifact is missing" in result.stderr


def test_a_warning_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "Careless.sol").write_text(
        "// SPDX-License-Identifier: MIT\npragma solidity ^0.8.26;\n"
        "contract Careless { function f() external pure { uint256 unused; } }\n"
    )
    result = build("--sources", tmp_path)
    assert result.returncode == 1
    assert "Warning" in result.stderr
    assert not (tmp_path / "Careless.json").exists()


def test_a_build_gives_the_same_bytes_wherever_it_runs(tmp_path: Path) -> None:
    folder = some(tmp_path / "elsewhere")
    artifact = folder / f"{SMALL}.json"
    artifact.unlink()
    assert build("--sources", folder).returncode == 0
    assert artifact.read_bytes() == (TESTS / "artifacts" / f"{SMALL}.json").read_bytes()


@pytest.mark.parametrize("path", sorted(OURS.glob("*.json")), ids=lambda path: path.name)
def test_no_file_names_a_registry_or_a_place_on_a_machine(path: Path) -> None:
    text = path.read_text()
    assert '"resolved"' not in text
    assert str(ROOT) not in text
    assert "registry." not in text
