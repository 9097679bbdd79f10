"""docs/configuration.md lists every environment variable that the service reads, but for those of
OpenTelemetry, which docs/tracing.md lists.
"""

import ast
import re

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "configuration.md").read_text("utf-8")
LISTED = set(re.findall(r"`([A-Z<][A-Z0-9_<>]*)`", PAGE))
# A variable's name: capitals with an underscore; LOG_LEVEL's values and the like have none.
NAME = re.compile(r"[A-Z]+(_[A-Z0-9]+)+")
READERS = ("settings.py", "environment.py")


def variables(source: str) -> set[str]:
    """The names that stand in `source` as strings of their own; a network's name is `<NETWORK>`."""
    tree = ast.parse(source)
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    joined = [node for node in joined if isinstance(node.values[-1], ast.Constant)]
    parts = {part for node in joined for part in node.values}
    texts = ["".join(_text(part) for part in node.values) for node in joined]
    texts += [_text(node) for node in ast.walk(tree) if node not in parts]
    return {text.replace("NETWORK", "<NETWORK>") for text in texts if NAME.fullmatch(text)}


def _text(node: ast.AST) -> str:
    """A string constant's text; what an f-string fills in is a network's name."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "NETWORK" if isinstance(node, ast.FormattedValue) else ""


@pytest.mark.parametrize("file", READERS)
def test_every_variable_that_is_read_is_listed(file: str) -> None:
    read = variables((ROOT / "facilitator" / "config" / file).read_text("utf-8"))
    assert read - LISTED == set()


def test_a_variable_is_found_wherever_its_name_stands() -> None:
    source = 'env.integer("MADE_UP", low=1)\nenv.urls(f"{network.variable}_NODE_URL")\nx = "DEBUG"'
    assert variables(source) == {"MADE_UP", "<NETWORK>_NODE_URL"}
