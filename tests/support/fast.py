"""Which test files are fast: those that need no chain, service or database server.

No list says so. A file is slow when it, or a helper that it imports, can start a process: by the
module `subprocess`, by asyncio's way to it, or as a devnet; or when it asks for a fixture of
tests/conftest.py that does. `guard` holds the other half: a test of a fast file that starts a
process fails.
"""

import ast
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent.parent
FOLLOWED: Final = ("tests", "examples")
STARTS: Final = ("subprocess", "asyncio.subprocess", "facilitator.commands.devnet")
CALLS: Final = ("create_subprocess_exec", "create_subprocess_shell", "fork", "posix_spawn")
EVENTS: Final = ("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn")


def is_fast(path: Path) -> bool:
    """Whether no test of this file can start a process; nothing is imported to find out."""
    return reason_to_be_slow(path) is None


@functools.cache
def reason_to_be_slow(path: Path) -> str | None:
    """Which file names what that starts a process; None for a fast file."""
    seen: set[Path] = set()
    # A suite's own conftest.py serves every file beside it.
    own = path.parent / "conftest.py"
    ahead = [path, *([own] if own.is_file() and own != ROOT / "tests" / "conftest.py" else [])]
    while ahead:
        file = ahead.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in _names(_tree(file)):
            if any(name == start or name.startswith(f"{start}.") for start in STARTS + CALLS):
                return f"{os.path.relpath(file, ROOT)} uses {name}"
            if name.partition(".")[0] in FOLLOWED:
                ahead.extend(_files(name))
    asked = _fixtures_asked(_tree(path)) & _shared_fixtures()
    return f"{os.path.relpath(path, ROOT)} asks for {min(asked)}" if asked else None


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _files(name: str) -> Iterator[Path]:
    """The source of a module, or of the package that it is."""
    place = ROOT.joinpath(*name.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            yield file


def _names(tree: ast.AST) -> Iterator[str]:
    """What is imported when the code runs, with its module before it, and which calls are named."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Attribute(attr=name) if name in CALLS:
                yield name
        yield from _names(node)


def _functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def _is_fixture(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("fixture" in ast.dump(decorator) for decorator in function.decorator_list)


def _fixtures_asked(tree: ast.Module) -> set[str]:
    """The arguments of the file's tests and fixtures, but for fixtures of its own."""
    functions = _functions(tree)
    asked = {
        argument.arg
        for function in functions
        if function.name.startswith("test") or _is_fixture(function)
        for argument in function.args.args
        if argument.arg not in _given(function)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="usefixtures"), args=names):
                asked |= {str(name.value) for name in names if isinstance(name, ast.Constant)}
    return asked - {function.name for function in functions if _is_fixture(function)}


def _given(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """The arguments that its decorators fill: `parametrize` and hypothesis' `given`."""
    for decorator in function.decorator_list:
        for node in ast.walk(decorator):
            match node:
                case ast.keyword(arg=str(name)):
                    yield name
                case ast.Constant(value=str(names)):
                    yield from (name.strip() for name in names.split(","))


@functools.cache
def _shared_fixtures() -> frozenset[str]:
    """The fixtures of tests/conftest.py that stand for something that runs."""
    functions = _functions(_tree(ROOT / "tests" / "conftest.py"))
    fixtures = {function.name for function in functions if _is_fixture(function)}
    return frozenset(fixtures - {"anyio_backend", "devnet_options"})


class Guard:
    """While `test` names one, no process may be started."""

    test: str | None = None

    def __init__(self) -> None:
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.test is not None and event in EVENTS:
            raise AssertionError(f"{self.test} counts as fast, and starts {arguments[0]}")
