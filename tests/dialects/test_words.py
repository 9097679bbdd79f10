"""WORDS.md is the list of every word and status with its test; here is why it cannot rot."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from facilitator.dialects.jeju.encode import _WORDS
from facilitator.dialects.x402.encode import _CODES, OUTAGES
from facilitator.domain.payment import Reason
from tests.support.paths import ROOT

TESTS = ROOT / "tests"
PACKAGE = TESTS.parent / "facilitator"
LIST = (TESTS / "WORDS.md").read_text("utf-8")
ROWS = [line.strip("|").split("|") for line in LIST.splitlines() if line.startswith("| ")]
NAMED = [row[2].strip() for row in ROWS if row[2].strip() != "test"]
# Where the service's words stand. A word starts like a sentence; a description ends like one.
SOURCES = (
    *sorted((PACKAGE / "dialects" / "jeju").glob("*.py")),
    *sorted((PACKAGE / "web" / "routes").glob("*.py")),
    *sorted((PACKAGE / "web").glob("*.py")),
)
WORDS = re.compile(r"[A-Z][a-z]+ [\w<]")


def listed(text: str) -> set[str]:
    """The words in the first column, what a reply fills in left out."""
    return {
        re.sub("<[^<> ]+>", "<>", word)
        for row in (line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
        for word in re.findall("`([^`]+)`", row)
    }


def words(source: str) -> Iterator[str]:
    """Every string of the source that reads like a word of ours, in the list's spelling."""
    tree = ast.parse(source)
    parts = {part for node in ast.walk(tree) for part in _parts(node)}
    for node in ast.walk(tree):
        if node in parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = re.sub(r"\{[^{}]+\}", "<>", node.value)
        elif isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "<>" for part in node.values
            )
        else:
            continue
        if WORDS.match(text) and (not text.endswith(".") or "<>" in text):
            yield text


def _parts(node: ast.AST) -> list[ast.expr]:
    """Docstrings, and the pieces of f-strings, which are no words by themselves."""
    if isinstance(node, ast.JoinedStr):
        return node.values
    return [node.value] if isinstance(node, ast.Expr) else []


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


@pytest.mark.parametrize("name", sorted(set(NAMED)))
def test_every_test_that_the_list_names_exists(name: str) -> None:
    file, _, test = name.partition("::")
    assert test.startswith("test_")
    assert test in functions_of(TESTS / file)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_word_of_the_service_is_in_the_list(path: Path) -> None:
    missing = set(words(path.read_text("utf-8"))) - listed(LIST)
    assert missing == set()


def test_every_reason_has_its_words_and_they_are_in_the_list() -> None:
    assert set(_WORDS) | set(_CODES) | OUTAGES == set(Reason)
    spelt = {re.sub(r"\{[^{}]+\}", "<>", text) for text in _WORDS.values()}
    assert spelt <= listed(LIST)
    assert len(spelt) == len(_WORDS), "two reasons share their words"


def test_every_row_is_whole() -> None:
    assert all(len(row) == 3 and row[1].strip() for row in ROWS)
    assert len(NAMED) > 80


def test_a_word_is_found_wherever_it_stands() -> None:
    source = '"""Not this one."""\nA = "Payment lost"\nf(f"Payment {x} gone", b="Said so {here}")\n'
    assert set(words(source)) == {"Payment lost", "Payment <> gone", "Said so <>"}
    assert listed("| `Payment <x> gone`, `b` | |\n") == {"Payment <> gone", "b"}
