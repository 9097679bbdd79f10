"""Every link and path in the documents leads somewhere, and every document can be found."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import ROOT

DOCUMENTS: Final = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(
        part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts
    )
)
_FENCE: Final = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\(([^()\s]+)\)")
_PATH: Final = re.compile(r"`((?:facilitator|tests|docs|k8s|examples)/[\w./-]+)`")


def prose(document: Path) -> str:
    """Return the text without its code blocks."""
    return _FENCE.sub("", document.read_text("utf-8"))


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them: `## Who hears?` is who-hears.

    A heading that stands twice gets -1, -2 and so on.
    """
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?) *$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {
        slug if n == 0 else f"{slug}-{n}" for slug, count in found.items() for n in range(count + 1)
    }


def links(document: Path) -> list[tuple[Path, str]]:
    """Return where the relative links of a document lead: file or folder, and anchor or ''."""
    targets = []
    for link in _LINK.findall(prose(document)):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            targets.append(((document.parent / path).resolve() if path else document, anchor))
    return targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    broken = [
        f"{path.name}#{anchor}"
        for path, anchor in links(document)
        if not path.exists() or (anchor and anchor not in anchors(path))
    ]
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_is_named_exists(document: Path) -> None:
    named = _PATH.findall(prose(document))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        document = ahead.pop()
        if document not in reached:
            reached.add(document)
            ahead += [path for path, _ in links(document) if path.suffix == ".md"]
    assert [str(path.relative_to(ROOT)) for path in DOCUMENTS if path not in reached] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 250
