"""The shape of the package: ten rooms, what each may import, and which of them are pure. Also the
shape of the tests: what they share is in helpers, and who needs no process is fast.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.fast import reason_to_be_slow

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "facilitator"

# The rooms, and which others each of them may import. The order is that of the map: no arrow up.
ROOMS: Final = {
    "ethereum": "",
    "config": "ethereum",
    "domain": "ethereum config",
    "telemetry": "ethereum config domain",
    "dialects": "ethereum config domain",
    "chain": "ethereum config domain telemetry",
    "journal": "ethereum config domain telemetry",
    "engine": "ethereum config domain telemetry chain journal",
    "web": "ethereum config domain telemetry dialects chain journal engine",
    "commands": "ethereum config domain telemetry dialects chain journal engine web",
}
# Pure rooms get time, policy and randomness as arguments, and return instead of logging.
PURE: Final = ("ethereum", "domain", "dialects")
IMPURE_MODULES: Final = {
    *("time", "datetime", "calendar", "zoneinfo", "sched"),
    *("os", "sys", "io", "pathlib", "shutil", "tempfile", "subprocess", "platform"),
    *("logging", "warnings", "random", "secrets", "uuid"),
    *("asyncio", "anyio", "threading", "multiprocessing", "concurrent", "socket", "ssl"),
    *("urllib", "http", "uvloop"),
}
IMPURE_CALLS: Final = {"open", "print", "input", "exec", "eval", "__import__"}
# What no room but domain and dialects may tell payments apart by: their scheme answers.
PAYMENT_CLASSES: Final = frozenset({"Eip3009Payment", "JejuPayment"})
# What stands for an outside thing is imported behind one door only.
DOORS: Final = {
    **dict.fromkeys(("sqlite3", "asyncpg"), ("journal",)),
    **dict.fromkeys(("starlette", "hypercorn"), ("web",)),
    "aiohttp": ("chain", "web", "commands"),
    "argparse": ("commands",),
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def modules(*rooms: str) -> list[Path]:
    """The source files of the named rooms, or of all."""
    found = sorted(path for path in PACKAGE.glob("*/**/*.py") if "node_modules" not in path.parts)
    return [path for path in found if not rooms or room_of(path) in rooms]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that `source` imports, at any depth of it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports from `facilitator` in full"
            assert node.module is not None
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def unlawful_imports(room: str, source: str) -> list[str]:
    """What a source file of `room` imports against the law."""
    allowed = {room, *ROOMS[room].split(), "__version__"}
    found = []
    for line, name in imported(source):
        package, _, rest = name.partition(".")
        if package == "facilitator" and rest.partition(".")[0] not in allowed:
            found.append(f"line {line}: {room} imports {name}")
        if room not in DOORS.get(package, (room,)):
            found.append(f"line {line}: {room} imports {name}, which is behind another door")
    return found


def impurities(source: str) -> list[str]:
    """What a pure module must not contain: waiting, clocks, environment, files, logs, chance."""
    found = [
        f"line {line}: import of {name}"
        for line, name in imported(source)
        if any(name == impure or name.startswith(f"{impure}.") for impure in IMPURE_MODULES)
    ]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Await() | ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith():
                found.append(f"line {node.lineno}: async")
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                found.append(f"line {node.lineno}: call of {name}")
            case ast.Global():
                found.append(f"line {node.lineno}: global state")
    return found


def test_the_package_holds_the_rooms_and_nothing_else() -> None:
    held = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert held == {*ROOMS, "__init__.py", "__main__.py", "py.typed"}
    names = {name for _, name in imported((PACKAGE / "__init__.py").read_text("utf-8"))}
    assert names == {"os"}


def test_no_room_may_import_one_below_it() -> None:
    above: set[str] = set()
    for room, allowed in ROOMS.items():
        assert set(allowed.split()) <= above
        above.add(room)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_room_imports_what_its_law_allows(path: Path) -> None:
    assert unlawful_imports(room_of(path), path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", modules(*PURE), ids=name_of)
def test_a_pure_room_is_pure(path: Path) -> None:
    assert impurities(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("domain", "import facilitator.chain.rpc"),
        ("domain", "from facilitator import chain"),
        ("domain", "from facilitator.telemetry.logs import event"),
        ("dialects", "from facilitator.engine.requests import SettleReply"),
        ("chain", "from facilitator.dialects.jeju import decode"),
        ("chain", "from facilitator.journal.store import Store"),
        ("config", "def f():\n    from facilitator.domain.payment import Payment"),
        ("engine", "if TYPE_CHECKING:\n    from facilitator.web.app import create_app"),
        ("commands", "from facilitator.nowhere import something"),
        ("commands", "import facilitator"),
        ("engine", "import sqlite3"),
        ("engine", "from aiohttp import ClientSession"),
        ("web", "import asyncpg.exceptions"),
        ("commands", "from starlette.requests import Request"),
    ],
)
def test_an_unlawful_import_is_found_wherever_it_hides(room: str, source: str) -> None:
    assert len(unlawful_imports(room, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "from datetime import datetime as instant",
        "def f():\n    import os.path",
        "import logging as words",
        "async def f() -> None: ...",
        "open('x')",
        "print('x')",
        "def f():\n    global calls",
    ],
)
def test_an_impurity_is_found_wherever_it_hides(source: str) -> None:
    assert impurities(source)
    assert impurities("from facilitator.ethereum.abi import uint_word\nx = abs(-1)") == []


def asks_for_a_payment_class(source: str) -> list[str]:
    """Where a source file tells payments apart by their class, instead of asking their scheme."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, kind]):
                asked = set(re.findall(r"\w+", ast.unparse(kind)))
            case ast.MatchClass(cls=ast.Name(id=name)):
                asked = {name}
            case _:
                continue
        found += [f"line {node.lineno}: {name}" for name in sorted(asked & PAYMENT_CLASSES)]
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_a_scheme_knows_which_payment_it_handles(path: Path) -> None:
    """The rest asks the table of schemes, so that another scheme is another file."""
    if "domain/schemes/" not in name_of(path) and room_of(path) != "dialects":
        assert asks_for_a_payment_class(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(payment, JejuPayment)",
        "isinstance(payment, Refusal | eip3009.Eip3009Payment)",
        "match payment:\n    case Eip3009Payment():\n        pass",
    ],
)
def test_a_question_for_a_payment_class_is_found(source: str) -> None:
    assert len(asks_for_a_payment_class(source)) == 1


TESTS: Final = sorted((ROOT / "tests").glob("**/test_*.py"))
# Folders of tests that no single room is the subject of.
SUITES: Final = {
    *("alerts", "bench", "chaos", "demo", "documents", "image", "k8s", "oracle", "replicas"),
    *("scenarios", "supply"),
}


def test_no_test_file_imports_another() -> None:
    """What two of them need is a helper, in tests/support or beside them."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in TESTS}
    for path in TESTS:
        named = {name for _, name in imported(path.read_text("utf-8"))}
        assert not {name for name in named if {name, name.rpartition(".")[0]} & files}, path


def test_every_test_file_is_in_the_folder_of_a_room_or_of_a_suite() -> None:
    assert {path.parent for path in TESTS} == {ROOT / "tests"} | {
        ROOT / "tests" / name for name in {*ROOMS, *SUITES}
    }
    assert [path.name for path in TESTS if path.parent.name == "tests"] == [Path(__file__).name]


def test_no_helper_makes_the_tests_of_a_pure_room_slow() -> None:
    """A file that asks a real chain starts it itself; all others load nothing that could."""
    for path in TESTS:
        if path.parent.name in PURE and (reason := reason_to_be_slow(path)):
            assert reason.startswith(name_of(path)), f"{name_of(path)}: {reason}"
