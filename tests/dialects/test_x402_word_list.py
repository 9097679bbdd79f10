"""WORDS.md holds every code of the standard dialect; here is why it cannot rot."""

import re

from facilitator.dialects.x402.encode import _CODES, _MESSAGES, OUTAGES, code, message
from facilitator.domain.payment import Reason, Refusal
from tests.support.paths import ROOT

PACKAGE = ROOT / "facilitator"

SECTION = (
    (ROOT / "tests" / "WORDS.md")
    .read_text("utf-8")
    .split("## The standard dialect")[1]
    .split("\n## ")[0]
)
ROWS = [line.strip("|").split("|") for line in SECTION.splitlines() if line.startswith("| ")]
LISTED = {name for row in ROWS for name in re.findall("`([a-z0-9_]+)`", row[0])}
# What only the other dialect says.
JEJU_ALONE = {
    Reason.ASSET_MISMATCH,
    Reason.RESOURCE_MISMATCH,
    Reason.AMOUNT_ABOVE_MAXIMUM,
    Reason.AMOUNT_ZERO,
    Reason.AUTHORIZATION_USED_ELSEWHERE,
    Reason.UNSUPPORTED_ASSET,
    Reason.INSUFFICIENT_ALLOWANCE,
    Reason.CONTRACT_NOT_DEPLOYED,
    Reason.CONTRACT_NOT_CONFIGURED,
}


def spelt() -> set[str]:
    """Every string of the dialect's two files that reads like a code."""
    found: set[str] = set()
    for name in ("decode.py", "encode.py"):
        source = (PACKAGE / "dialects" / "x402" / name).read_text()
        found |= set(re.findall(r'"([a-z0-9]+(?:_[a-z0-9]+)+)"', source))
    return found


def test_every_code_is_in_the_list_and_the_list_has_no_other() -> None:
    assert spelt() == LISTED
    assert set(_CODES.values()) <= LISTED


def test_every_reason_of_the_dialect_has_a_code_and_a_message() -> None:
    assert set(_CODES) | OUTAGES | JEJU_ALONE == set(Reason)
    assert set(_MESSAGES) == set(_CODES) | OUTAGES
    for reason in _CODES:
        refusal = Refusal(reason, "{found}", "{wanted}")
        for version in (1, 2):
            for sent in (False, True):
                assert code(refusal, version, sent=sent) in LISTED
        assert message(refusal)


def test_two_reasons_share_a_code_only_where_they_mean_the_same() -> None:
    used = {Reason.AUTHORIZATION_USED, Reason.AUTHORIZATION_USED_ON_CHAIN}
    early = {Reason.IN_THE_FUTURE, Reason.BEFORE_NEXT_BLOCK}
    others = [name for reason, name in _CODES.items() if reason not in used | early]
    assert len(set(others)) == len(others)
    for alike in (used, early):
        assert len({_CODES[reason] for reason in alike}) == 1
