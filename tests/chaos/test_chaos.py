"""Everything goes wrong at once, and no promise breaks; the judge can tell when one does."""

import asyncio
import itertools
import re
import sys

import pytest
from msgspec.structs import replace

from tests.chaos.evidence import Evidence, Row
from tests.chaos.judge import judge, story
from tests.chaos.payments import (
    BROKEN,
    CUT,
    PENDING,
    REFUSED,
    SUCCESS,
    UNAVAILABLE,
    USED,
    Heard,
    Payment,
)
from tests.chaos.plan import Order, lives, orders

pytestmark = pytest.mark.anyio

SECONDS, SEED = 20, 11
TIMEOUT = 400  # seconds; the faults end after SECONDS, then everybody asks
SIGNER = "5e" * 20


async def test_no_promise_breaks_when_everything_fails_at_once() -> None:
    """Hang-ups, duplicates, lying endpoints, reorgs and kill -9: the chain's logs are the judge."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), "--seed", str(SEED)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    told = output.decode()
    assert process.returncode == 0, told + errors.decode()
    figures = {name: int(figure) for name, figure in re.findall(r"^(\w+) +(\d+)", told, re.M)}
    assert figures["seed"] == SEED
    assert figures["settled"] >= 10
    assert figures["settled"] + figures["refused"] == figures["tried"]
    assert min(figures["kills"], figures["faults"], figures["refused"]) >= 1
    assert figures["pending"] == figures["violations"] == 0


def test_a_seed_decides_the_same_again() -> None:
    def drawn(seed: int) -> list[object]:
        asked = itertools.islice(orders(seed, short_lived=True), 100)
        return [*asked, *itertools.islice(lives(seed), 20)]

    assert drawn(7) == drawn(7) != drawn(8)


async def test_bad_options_are_a_usage_error() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos", "--seconds", "0"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"above 0" in said


# --- the judge

ORDER: Order = next(orders(1, short_lived=False))
KEY = "order-1"


def heard(meaning: str, at: float, transaction: str = "", key: str | None = None) -> Heard:
    return Heard(
        begun=at, ended=at + 1, key=key, meaning=meaning, transaction=transaction, body=b"{}"
    )


SUCCEEDED = heard(SUCCESS, 1, "0xaa")
FAILED = heard(REFUSED, 1)


def row(state: str, *hashes: str) -> Row:
    ridden = ("mined", 0, hashes)
    return Row(id="id", state=state, refusal=None, told=False, transactions=(ridden,))


def evidence_of(
    *moved: str, state: str | None, nonces: dict[int, str] | None = None, mined: int = 1
) -> Evidence:
    """That the payment moved in these transactions, and what the journal has of it."""
    return Evidence(
        moved={ORDER.number: [*moved]} if moved else {},
        spent={ORDER.payer: ORDER.amount if moved else 0},
        rows={} if state is None else {ORDER.number: row(state, *moved)},
        counts={SIGNER: mined},
        nonces={SIGNER: {0: "mined"} if nonces is None else nonces},
    )


PAID = evidence_of("0xaa", state="confirmed")
UNPAID = evidence_of(state="failed")


def broken(evidence: Evidence, *told: Heard, exact: bool = True) -> set[str]:
    payment = Payment(ORDER, {}, [*told])
    found = [*judge([payment], evidence, exact=exact)]
    assert all(story(each, evidence, 0.0).startswith(each.law) for each in found)
    return {each.law for each in found}


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (PAID, [SUCCEEDED]),
        (PAID, [SUCCEEDED, heard(USED, 2, "0xaa")]),
        (PAID, [heard(CUT, 1), heard(USED, 2, "0xaa")]),
        (PAID, [FAILED, heard(SUCCESS, 2, "0xaa")]),
        (PAID, [replace(SUCCEEDED, key=KEY), replace(SUCCEEDED, key=KEY, replayed=True)]),
        (UNPAID, [FAILED]),
        (UNPAID, [heard(PENDING, 1), heard(REFUSED, 2)]),
    ],
)
def test_what_is_promised_breaks_no_law(evidence: Evidence, told: list[Heard]) -> None:
    assert broken(evidence, *told) == set()


@pytest.mark.parametrize(
    ("law", "evidence", "told"),
    [
        ("double", evidence_of("0xaa", "0xbb", state="confirmed"), [SUCCEEDED]),
        ("lost", PAID, [heard(PENDING, 1)]),
        ("lost", PAID, [heard(UNAVAILABLE, 1)]),
        ("lost", UNPAID, [heard(USED, 1)]),
        ("lost", evidence_of(state="pending"), [FAILED]),
        ("lost", PAID, [FAILED]),
        ("false success", UNPAID, [SUCCEEDED]),
        ("false success", PAID, [heard(SUCCESS, 1, "0xbb")]),
        ("false failure", PAID, [FAILED]),
        ("second success", PAID, [SUCCEEDED, SUCCEEDED]),
        ("second success", PAID, [SUCCEEDED, replace(SUCCEEDED, key=KEY)]),
        (
            "changed replay",
            PAID,
            [replace(SUCCEEDED, key=KEY), replace(SUCCEEDED, key=KEY, replayed=True, body=b"[]")],
        ),
        ("swallowed success", PAID, [heard(PENDING, 1), heard(USED, 2)]),
        ("broken reply", UNPAID, [heard(BROKEN, 1), FAILED]),
        ("journal", evidence_of("0xaa", state=None), [SUCCEEDED]),
        ("journal", evidence_of("0xaa", state="failed"), [SUCCEEDED]),
        ("journal", evidence_of(state="confirmed"), [FAILED]),
        ("nonce gap", evidence_of(state="failed", nonces={0: "mined", 2: "mined"}), [FAILED]),
        ("nonce gap", evidence_of(state="failed", nonces={0: "pending"}), [FAILED]),
        ("nonce gap", evidence_of(state="failed", nonces={0: "superseded"}), [FAILED]),
        ("nonce gap", evidence_of(state="failed", mined=2), [FAILED]),
        ("balance", replace(PAID, spent={ORDER.payer: 2 * ORDER.amount}), [SUCCEEDED]),
        ("balance", replace(UNPAID, spent={ORDER.payer: 1}), [FAILED]),
    ],
)
def test_each_broken_promise_is_found(law: str, evidence: Evidence, told: list[Heard]) -> None:
    assert law in broken(evidence, *told)


def test_after_a_reorg_a_success_may_stand_in_another_transaction() -> None:
    """But stand it must."""
    assert broken(PAID, heard(SUCCESS, 1, "0xbb"), exact=False) == set()
    assert "false success" in broken(UNPAID, SUCCEEDED, exact=False)


def test_a_failure_that_somebody_asked_about_again_may_be_undone() -> None:
    """Also by a request that was on its way, or whose client has just hung up."""
    failed = heard(REFUSED, 5)
    used = heard(USED, 7, "0xaa")
    assert "false failure" not in broken(PAID, failed, used, heard(CUT, 4))
    assert "false failure" not in broken(PAID, heard(CUT, 1), failed)
    assert "false failure" in broken(PAID, heard(CUT, -20), failed)
