"""The shape of the package: imports point upward in the map, and the core is pure.

Also what must be in no file: paths of somebody's machine, and the hosts of package registries,
which a mirror replaces.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "facilitator"

# A module may import what stands above it, never what stands below it.
MAP: Final = {
    "words": (
        *("ethereum", "networks", "values", "database", "environment", "config_file"),
        *("otel_settings", "config", "contracts"),
    ),
    "core": ("payments", "schemes", "verification", "settlement", "nonces", "budget", "groups"),
    "edge formats": ("strict_json", "dialects"),
    "adapters": (
        *("redaction", "tracing", "telemetry", "otlp"),
        *("rpc", "node", "witnesses", "chain", "tokens", "protocol_fee"),
        *("store", "changes", "metrics"),
    ),
    "settling": (
        *("together", "heads", "observation", "examination", "investigation", "judgement"),
        "listeners",
        *("verifier", "accounts", "waiting", "data_fees", "keys", "signers", "gaps", "reorgs"),
        *("resettlement", "leadership", "tally"),
        *("broadcast", "confirmation", "pending", "recording", "watcher", "retention"),
        *("history", "orders", "claiming", "submission", "settler"),
    ),
    "shell": (
        *("checks", "mounts"),
        *("middleware", "measured_store", "survey", "chain_metrics", "measurement", "recent"),
        *("served", "service", "routes", "app", "http1", "server"),
        *("agreement", "sending", "options", "check", "deploy", "migrate", "devnet"),
        "recover",
        *(
            "payer",
            "purchase",
            "pay",
            "official_client",
            "cast",
            "story",
            "demo",
            "cli",
            "__main__",
        ),
    ),
}
ORDER: Final = [name for group in MAP.values() for name in group]

# The core gets time, policy and randomness as arguments, and answers instead of logging.
IMPURE_MODULES: Final = {
    *("time", "datetime", "calendar", "zoneinfo", "sched"),
    *("os", "sys", "io", "pathlib", "shutil", "tempfile", "subprocess", "platform", "sqlite3"),
    *("logging", "warnings", "random", "secrets", "uuid"),
    *("asyncio", "anyio", "threading", "multiprocessing", "concurrent", "socket", "ssl"),
    *("aiohttp", "starlette", "hypercorn", "uvloop", "urllib", "http"),
    *("facilitator.config", "facilitator.config_file", "facilitator.environment"),
}
IMPURE_CALLS: Final = {"open", "print", "input", "exec", "eval", "__import__"}


def modules(*names: str) -> list[Path]:
    """The source files of the named top-level modules and packages, or of all of them."""
    found = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "node_modules")
    return [path for path in found if not names or top_level(path) in names]


def top_level(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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


def downward_imports(importer: str, source: str) -> list[str]:
    """What `source`, a part of the top-level module `importer`, imports from below it."""
    assert importer in ORDER, f"add {importer} to the map"
    found = []
    for line, name in imported(source):
        package, _, rest = name.partition(".")
        module = rest.partition(".")[0]
        # `from facilitator import __version__` asks for the package, which imports nothing
        if package != "facilitator" or module == "__version__":
            continue
        if module not in ORDER:
            found.append(f"line {line}: add {module or 'facilitator'} to the map")
        elif ORDER.index(module) > ORDER.index(importer):
            found.append(f"line {line}: {importer} imports {module}, which stands below it")
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


def test_every_module_stands_in_the_map() -> None:
    for path in modules():
        module = top_level(path)
        assert module == "__init__" or module in ORDER, f"add {module} to the map"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_only_upward(path: Path) -> None:
    source = path.read_text("utf-8")
    if top_level(path) == "__init__":
        assert not list(imported(source)), "the package itself imports nothing"
    else:
        assert downward_imports(top_level(path), source) == []


@pytest.mark.parametrize("path", modules(*MAP["core"]), ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    assert impurities(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("payments", "import facilitator.rpc"),
        ("payments", "from facilitator import rpc"),
        ("payments", "from facilitator.schemes.jeju import JejuPayment"),
        ("networks", "def f():\n    from facilitator.config import Config"),
        ("rpc", "if TYPE_CHECKING:\n    from facilitator.app import create_app"),
        ("cli", "from facilitator.nowhere import something"),
        ("cli", "import facilitator"),
    ],
)
def test_an_import_from_below_is_found_wherever_it_hides(importer: str, source: str) -> None:
    assert len(downward_imports(importer, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "from datetime import datetime as instant",
        "def f():\n    import os.path",
        "from facilitator.config import Config",
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


# Written so that this file does not match itself.
MACHINE_PATH: Final = re.compile(
    r"(?<![\w.~-])/(?:wor[k]|roo[t]|hom[e]/\w+|User[s]/\w+|opt/pyp[i])/|[A-Z]:\\User[s]"
)
REGISTRY_HOST: Final = re.compile(
    r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|yarnpkg\.com|deb\.debian\.org", re.IGNORECASE
)


def test_no_file_names_a_machine_or_a_package_registry() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert "pyproject.toml" in names
    found = []
    for name in names:
        content = (ROOT / name).read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
            for pattern in (MACHINE_PATH, REGISTRY_HOST):
                if match := pattern.search(line):
                    found.append(f"{name}:{number}: {match[0]}")
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "cd /" + "work/main",
        'path = "/' + 'root/.cache"',
        "/" + "home/alice/facilitator",
        "/" + "Users/alice/facilitator",
        "--index-url https://" + "pypi" + ".org/simple",
        '"resolved": "https://registry.' + "npmjs" + '.org/ws"',
    ],
)
def test_the_patterns_match_what_they_are_for(line: str) -> None:
    assert MACHINE_PATH.search(line) or REGISTRY_HOST.search(line)
    assert not MACHINE_PATH.search("https://pay.example/work/report and /var/lib/home/x")
