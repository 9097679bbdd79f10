"""The tables and requests of docs/api.md say what the service says."""

import json
import re
from typing import Any, Final

import pytest

from facilitator.commands.payer import standard_requirements
from facilitator.config.networks import NETWORKS, Token
from facilitator.dialects.detect import speaks_x402
from facilitator.dialects.jeju import encode as jeju_replies
from facilitator.dialects.x402 import encode as x402_replies
from tests.support.paths import ROOT

API: Final = (ROOT / "docs" / "api.md").read_text("utf-8")
# What belongs to no reason: requests that are not understood, outages, and words by version and by
# time of the same reason.
OTHER_CODES: Final = {
    *("invalid_json", "missing_parameters", "invalid_payload"),
    *("unexpected_verify_error", "unexpected_settle_error"),
    *("invalid_exact_evm_authorization_value", "invalid_exact_evm_transaction_failed"),
}


def first_cells(heading: str) -> list[str]:
    """Return the first column of the first table below a heading."""
    _, found, below = API.partition(f"\n{heading}\n")
    assert found, heading
    [table, *_] = re.findall(r"^\|.*(?:\n\|.*)*", below, re.MULTILINE)
    return [row.split("|")[1] for row in table.splitlines()[2:]]


def quoted(cells: list[str]) -> list[str]:
    return [word for cell in cells for word in re.findall("`([^`]+)`", cell)]


def test_every_code_of_the_standard_dialect_is_explained_once_and_no_other() -> None:
    listed = quoted(first_cells("### In the standard dialect"))
    assert len(listed) == len(set(listed))
    assert set(listed) == set(x402_replies._CODES.values()) | OTHER_CODES


def test_every_word_of_the_jeju_dialect_is_explained() -> None:
    listed = {
        re.sub("<[^<> ]+>", "<>", word) for word in quoted(first_cells("### In the Jeju dialect"))
    }
    told = {re.sub(r"\{[^{}]+\}", "<>", words) for words in jeju_replies._WORDS.values()}
    assert told - listed == set()


@pytest.mark.parametrize("version", [1, 2])
def test_the_requests_of_the_standard_dialect_are_whole(version: int) -> None:
    """Requirements as our own payer asks for them, which the official packages read."""
    blocks = re.findall(r"^```jsonc\n(\{\n.*?\n\})\n```$", API, re.MULTILINE | re.DOTALL)
    requests: list[dict[str, Any]] = [json.loads(re.sub(" // .*", "", block)) for block in blocks]
    [request] = [each for each in requests if each["x402Version"] == version]
    assert speaks_x402(request)
    asked = standard_requirements(
        version=version,
        network=NETWORKS["jeju" if version == 2 else "base-sepolia"],
        token=Token(bytes(20), "", 6, "", ""),
        pay_to=bytes(20),
        amount=1_000_000,
        resource="https://api.example/report",
        lifetime=300,
    )
    shown = request["paymentRequirements"]
    variable = {"asset": "", "payTo": "", "extra": ""}
    assert {**shown, **variable} == {**asked, **variable}
    assert request["paymentPayload"].get("accepted", shown) == shown
