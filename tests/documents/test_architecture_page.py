"""docs/architecture.md names every module in the section of its room, and no other."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import ROOT

PACKAGE: Final = ROOT / "facilitator"
PAGE: Final = (ROOT / "docs" / "architecture.md").read_text("utf-8")
ROOMS: Final = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def named(room: str) -> set[str]:
    """Return the files, and the folders with a slash at the end, in the table of a room."""
    [section] = re.findall(rf"^### {room}\n(.*?)^##", PAGE, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([\w/]+(?:\.py|/))`", section))


def is_named(module: Path, names: set[str]) -> bool:
    """Return whether a module is named, or the folder of the room that it is in."""
    return module.name in names or f"{module.parts[0]}/" in names


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_is_named_in_its_room(room: str) -> None:
    names = named(room)
    modules = [path.relative_to(PACKAGE / room) for path in (PACKAGE / room).rglob("*.py")]
    missing = [str(path) for path in modules if not is_named(path, names)]
    assert [path for path in missing if path != "__init__.py"] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_that_is_named_exists(room: str) -> None:
    folder = PACKAGE / room
    gone = [name for name in named(room) if not [*folder.rglob(name.rstrip("/"))]]
    assert gone == []
