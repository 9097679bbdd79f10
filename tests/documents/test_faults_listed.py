"""FAULTS.md names a test for each fault; here is why it cannot rot."""

import ast
from collections import Counter

import pytest

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (TESTS / "FAULTS.md").read_text("utf-8").splitlines()
    if line.startswith("| ")
]
[HEADING, *FAULTS] = ROWS


@pytest.mark.parametrize("name", sorted({row[-1] for row in FAULTS}))
def test_every_test_that_the_list_of_faults_names_exists(name: str) -> None:
    file, _, test = name.partition("::")
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    assert test.startswith("test_")
    assert test in {node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}


def test_every_row_of_the_list_of_faults_is_whole() -> None:
    """A fault, what happens and a test; a row without a fault is a further case of the one above.
    No test stands for two.
    """
    assert HEADING == ["fault", "what happens", "test"]
    assert all(len(row) == 3 and row[1] and row[2] for row in FAULTS)
    assert FAULTS[0][0]
    assert [name for name, times in Counter(row[2] for row in FAULTS).items() if times > 1] == []
    assert len(FAULTS) > 50
