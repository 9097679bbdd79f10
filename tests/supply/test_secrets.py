"""The secret scan knows what detect-secrets does not: 0x private keys."""

import secrets
from pathlib import Path

import pytest

from tests.supply.secrets import KNOWN, main, scan, unknown


@pytest.mark.parametrize("prefix", ["", "0x"])
@pytest.mark.parametrize(
    "line", ["KEY={}", "key: '{}'", '"{}",', "FACILITATOR_PRIVATE_KEY={},", "{}\n", "f({})"]
)
def test_a_private_key_is_found(line: str, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text(line.format(prefix + secrets.token_hex(32)))
    [(kind, _)] = scan(tmp_path, "--all-files")["file.txt"].values()
    assert kind == "Ethereum private key"


def test_the_scan_fails_and_repeats_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = secrets.token_hex(32)
    (tmp_path / "deploy.sh").write_text(f"#!/bin/sh\nexport X=0x{key}\n")
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "deploy.sh:2: Ethereum private key" in said
    assert key not in said


def test_other_kinds_are_found_as_well(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("-----BEGIN EC " + "PRIVATE KEY-----\n")
    (tmp_path / "b").write_text(f"AKIA{secrets.token_hex(8).upper()}\n")
    assert set(scan(tmp_path, "--all-files")) == {"a", "b"}


@pytest.mark.parametrize("text", ["ab" * 32, "00" * 31 + "01", "ab12" * 20, "a" * 63])
def test_what_is_nobodys_key_is_not_reported(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text(f"0x{text}\n")
    assert scan(tmp_path, "--all-files") == {}


def test_a_secret_is_known_in_its_file_only() -> None:
    found = {"a": {"digest": ("kind", 3)}}
    assert unknown(found, {"a": ["digest"]}) == []
    assert unknown(found, {"b": ["digest"]}) == ["a:3: kind"]


def test_no_file_of_this_project_holds_an_unknown_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert KNOWN.exists()
    assert main([]) == 0, capsys.readouterr().out
