"""docs/logs.md is what the log looks like: its events and its keys, in code and in real lines."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from facilitator.domain.settlement import SettlementState
from facilitator.engine.signers import UNFIT
from tests.support.chain import devnet_payment
from tests.support.paths import ROOT
from tests.support.service import Service, request
from tests.support.x402 import v2_body

pytestmark = pytest.mark.anyio

DOCS = (ROOT / "docs" / "logs.md").read_text("utf-8")
# Who says an event's name, and the position of the name among the arguments.
SPEAKERS = {"event": 2, "_event": 1, "_alert": 0, "makeRecord": 4}
# Names that are put together, by how the code writes them.
PUT_TOGETHER = {
    "settlement_{settlement.state}": {
        f"settlement_{state}" for state in SettlementState if state is not SettlementState.PENDING
    },
    "signer_{reason}": {f"signer_{reason}" for reason in UNFIT},
    "signer_{reason}_no_more": set(),  # told of in the row of the one before
}
FIXED = ["time", "level", "event", "logger", "request_id", "trace_id"]
SETTLEMENT = [
    *("network", "settlement", "state", "dialect", "scheme", "payer", "pay_to", "asset", "amount"),
]


def first_column(heading: str) -> set[str]:
    _, found, below = DOCS.partition(f"\n## {heading}\n")
    assert found, heading
    rows = re.findall(r"^\|(.*?)\|", below.partition("\n## ")[0], re.MULTILINE)
    return {name for row in rows for name in re.findall("`([^`]+)`", row)}


def names(node: ast.expr) -> Iterator[str]:
    """The names that an argument may stand for."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield from PUT_TOGETHER[ast.unparse(node)[2:-1]]


def events_of(source: str) -> set[str]:
    found: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            position = SPEAKERS.get(name, len(node.args))
            for argument in node.args[position : position + 1]:
                found.update(names(argument))
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.JoinedStr):
            text = ast.unparse(node.value)[2:-1]
            found.update(PUT_TOGETHER.get(text, ()))
    return found


def test_every_event_is_explained_and_no_other() -> None:
    told: set[str] = set()
    for path in sorted((ROOT / "facilitator").rglob("*.py")):
        told |= events_of(path.read_text("utf-8"))
    assert told == first_column("Events") - {"..._no_more"}


def test_an_event_is_found_however_it_is_told() -> None:
    assert events_of("event(_log, 20, 'a')\nself._event(30, 'b', x=1)") == {"a", "b"}
    assert events_of("name = f'settlement_{settlement.state}'") == {
        *("settlement_confirmed", "settlement_failed", "settlement_reorged", "settlement_lost"),
    }


async def test_the_lines_of_one_settlement(service: Service, chain: Devnet) -> None:
    """One for the request and one for each change, with fixed keys in a fixed order."""
    header = devnet_payment(chain)
    headers = {"X-Request-Id": "order-7731"}
    lines_before, asked = len(service.lines), len(service.logged("request"))
    async with service.session.post(
        f"{service.url}/settle", json=request(header), headers=headers
    ) as response:
        assert response.headers["X-Request-Id"] == "order-7731"
        reply = await response.json()
    await service.wait_for("request", asked + 1)
    lines = {line["event"]: line for line in service.lines[lines_before:]}
    transaction = ["transaction"]
    assert [*lines["settlement_submitted"]] == [
        *FIXED[:5],
        *SETTLEMENT,
        *transaction,
        *("kind", "signer", "account_nonce"),
    ]
    assert [*lines["settlement_confirmed"]] == [
        *FIXED[:4],
        *SETTLEMENT,
        *("took_ms", "transaction", "block_number"),
    ]
    assert [*lines["request"]] == [
        *FIXED[:5],
        *("method", "route", "status", "duration_ms", "dialect", "network", "scheme"),
        *("outcome", "settlement", "transaction"),
    ]
    assert {line["transaction"] for line in lines.values()} == {reply["txHash"]}
    assert len({line["settlement"] for line in lines.values()}) == 1
    assert lines["settlement_confirmed"]["took_ms"] >= 0
    assert lines["request"]["outcome"] == "settled"


async def last_request(service: Service, path: str, body: object = None) -> dict[str, Any]:
    """The log's line about it."""
    before = len(service.logged("request"))
    await (service.get(path) if body is None else service.post(path, body))
    await service.wait_for("request", before + 1)
    return service.logged("request")[-1]


async def test_a_request_says_what_came_of_it(service: Service, chain: Devnet) -> None:
    header = devnet_payment(chain)
    line = await last_request(service, "/verify", request(header))
    assert (line["dialect"], line["network"], line["outcome"]) == ("jeju", "jeju", "valid")
    line = await last_request(service, "/verify", request(header, maxAmountRequired="1"))
    assert (line["outcome"], line["reason"]) == ("invalid", "amount_not_exact")
    line = await last_request(service, "/verify", v2_body(chain))
    assert (line["dialect"], line["scheme"], line["outcome"]) == ("x402", "exact", "valid")
    line = await last_request(service, "/settle", request(header, maxAmountRequired="1"))
    assert (line["outcome"], line["reason"]) == ("refused", "amount_not_exact")
    line = await last_request(service, "/settlements/" + "0" * 32)
    assert (line["route"], line["status"]) == ("/settlements/{id}", 404)


async def test_nothing_that_a_client_writes_becomes_a_word_of_the_log(
    service: Service, chain: Devnet
) -> None:
    """But a path that is none of ours, in its own key, and a request id that is harmless."""
    header = {**devnet_payment(chain), "scheme": "sch3me-of-mine", "network": "netw0rk-of-mine"}
    line = await last_request(service, "/verify", request(header))
    assert "of-mine" not in json.dumps(line)
    line = await last_request(service, "/of-mine/1")
    assert (line["route"], line["path"], line["status"]) == (None, "/of-mine/1", 404)
    for bad in ("two words", "x" * 65, "a;b", "é"):
        before = len(service.logged("request"))
        async with service.session.get(
            f"{service.url}/supported", headers={"X-Request-Id": bad}
        ) as response:
            given = response.headers["X-Request-Id"]
        await service.wait_for("request", before + 1)
        assert service.logged("request")[-1]["request_id"] == given
        assert re.fullmatch("[0-9a-f]{16}", given)


async def test_every_key_is_explained(service: Service, chain: Devnet) -> None:
    await last_request(service, "/verify", request(devnet_payment(chain)))
    assert {key for line in service.lines for key in line} <= first_column("Keys")
