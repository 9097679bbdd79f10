"""What must be in no file of the repository: paths of somebody's machine, and the hosts of package
registries, which a mirror replaces.
"""

import re
import subprocess
from typing import Final

import pytest

from tests.support.paths import ROOT

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
