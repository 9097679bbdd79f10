"""A later release of the program: a copy of this one with more steps in its schema."""

import shutil
from pathlib import Path

from tests.support.paths import ROOT

# What stands behind the last step.
_END = "\n)\n\nKNOWN_VERSION"


def later_release(folder: Path, *steps: str) -> Path:
    """A folder whose `facilitator` makes these steps after the ones of today."""
    shutil.copytree(
        ROOT / "facilitator", folder / "facilitator", ignore=shutil.ignore_patterns("__pycache__")
    )
    schema = folder / "facilitator" / "journal" / "schema.py"
    text = schema.read_text()
    assert text.count(_END) == 1
    added = "".join(f'\n    """{step}""",' for step in steps)
    schema.write_text(text.replace(_END, added + _END))
    return folder


def python_path(folder: Path) -> dict[str, str]:
    """The variables with which Python imports that one."""
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
