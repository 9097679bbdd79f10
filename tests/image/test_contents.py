"""What is in the image, and what is not."""

from pathlib import Path
from typing import Any

import pytest

SECRET_WORDS = ("KEY", "SECRET", "TOKEN", "PASSWORD", "RPC_URL")


def test_the_user_is_a_number_and_not_root(config: dict[str, Any]) -> None:
    user, group = config["User"].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_process_1_is_the_service_itself(config: dict[str, Any]) -> None:
    """Exec form: no shell in between that would keep SIGTERM to itself."""
    assert config["Entrypoint"][0].endswith("/python")
    assert config["Cmd"] == ["serve"]
    assert config.get("StopSignal") == "SIGTERM"


def test_it_is_production_with_its_journal_on_a_volume(config: dict[str, Any]) -> None:
    assert "FACILITATOR_ENV=production" in config["Env"]
    assert "DATABASE_URL=sqlite:////data/facilitator.db" in config["Env"]
    assert list(config["Volumes"]) == ["/data"]
    assert list(config["ExposedPorts"]) == ["3402/tcp"]


def test_no_secret_is_baked_in(config: dict[str, Any]) -> None:
    names = [each.partition("=")[0] for each in config["Env"]]
    assert not [name for name in names if any(word in name for word in SECRET_WORDS)]


def test_labels_say_what_it_was_built_from(config: dict[str, Any]) -> None:
    labels = config["Labels"]
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.version"] == "9.9.9"
    assert labels[f"{prefix}.revision"] == "0123abc"
    assert labels[f"{prefix}.licenses"] == "MIT"


def test_it_tells_its_health_without_a_shell(config: dict[str, Any]) -> None:
    kind, *command = config["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert command[0].endswith("/python")


@pytest.mark.parametrize("tool", ["cc", "gcc", "ld", "make", "pip", "pip3", "git", "npm", "curl"])
def test_it_has_nothing_to_build_or_fetch_with(files: Path, tool: str) -> None:
    places = ("opt/packages/bin", "usr/local/bin", "usr/bin", "bin")
    assert not [place for place in places if (files / place / tool).exists()]


def test_nothing_of_the_build_stays(files: Path) -> None:
    """Neither caches nor wheels, nor what lay about beside the sources."""
    for place in ("build", "wheels", "root/.cache"):
        assert not (files / place).exists()
    program = files / "opt/facilitator"
    assert sorted(each.name for each in program.iterdir()) == ["LICENSE", "facilitator"]
    assert not [*program.rglob(".env"), *program.rglob("*.db"), *(files / "opt").rglob("*.whl")]


def test_the_user_owns_its_journals_folder_and_nothing_else(
    files: Path, config: dict[str, Any]
) -> None:
    user = int(config["User"].split(":")[0])
    assert [each for each in files.rglob("*") if each.lstat().st_uid == user] == [files / "data"]
    program = (files / "opt").rglob("*")
    loose = [each for each in program if each.lstat().st_mode & 0o022 and not each.is_symlink()]
    assert loose == []


def test_bytecode_is_there_since_it_cannot_be_written_later(files: Path) -> None:
    modules = list((files / "opt/facilitator/facilitator").rglob("*.py"))
    compiled = [each for each in modules if list(each.parent.glob(f"__pycache__/{each.stem}.*"))]
    assert modules == compiled != []


def test_it_has_the_packages_of_the_lock_and_no_tool(files: Path) -> None:
    folders = (files / "opt/packages/lib").glob("python3.*/site-packages/*.dist-info")
    names = {each.name.split("-")[0].lower() for each in folders}
    assert {"aiohttp", "coincurve", "hypercorn", "safe_pysha3", "starlette", "uvloop"} <= names
    assert not {"pytest", "mypy", "ruff", "pip", "setuptools"} & names
