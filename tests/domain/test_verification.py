"""The laws of verification: the boundaries of time, terms and amounts, and which refusal comes
first when several apply.
"""

from itertools import compress, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.payment import PaymentRequirements, Reason, Refusal
from facilitator.domain.schemes.jeju import JejuPayment
from facilitator.domain.verification import Terms, check_terms, check_time
from facilitator.ethereum.abi import MAX_UINT256
from tests.support import rows
from tests.support.drawn import addresses, uints

SIGNED_AT = 1_700_000_000
PAYMENT = rows.payment()
REQUIREMENTS = PaymentRequirements(
    scheme="exact",
    network="jeju",
    asset=rows.ASSET,
    pay_to=rows.SELLER,
    amount=1_000_000,
    resource="/api/report",
)
UPTO = replace(REQUIREMENTS, scheme="upto")
TERMS = Terms(min_amount=1, own_addresses=frozenset({rows.SIGNER, rows.CONTRACT}))


def judge(
    payment: JejuPayment = PAYMENT,
    requirements: PaymentRequirements = REQUIREMENTS,
    terms: Terms = TERMS,
) -> Reason | None:
    """The reason of `check_terms`, None where it has none."""
    refusal = check_terms(payment, requirements, terms)
    return None if refusal is None else refusal.reason


# --- time


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (SIGNED_AT - 61, Reason.IN_THE_FUTURE),
        (SIGNED_AT - 60, None),
        (SIGNED_AT, None),
        (SIGNED_AT + 300, None),
        (SIGNED_AT + 301, Reason.EXPIRED),
    ],
)
def test_the_first_and_the_last_second_are_still_valid(now: int, reason: Reason | None) -> None:
    """Exactly 60 s ahead and exactly 300 s old."""
    refusal = check_time(PAYMENT, now)
    assert (None if refusal is None else refusal.reason) == reason


@pytest.mark.parametrize("margin", [0, 1, 6, 24, 300])
def test_a_margin_comes_off_the_end_alone(margin: int) -> None:
    latest = PAYMENT.deadline - margin
    assert check_time(PAYMENT, latest, margin) is None
    expected = Refusal(Reason.EXPIRED, str(latest + 1), str(latest))
    assert check_time(PAYMENT, latest + 1, margin) == expected
    assert check_time(PAYMENT, PAYMENT.valid_from, margin) is None


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**20))
def test_a_payment_is_in_time_between_its_two_ends(
    now: int, valid_from: int, deadline: int, margin: int
) -> None:
    """Both inclusive. No margin ever makes a payment valid that is not valid without it."""
    payment = rows.payment(valid_from=valid_from, deadline=deadline)
    refusal = check_time(payment, now, margin)
    assert (refusal is None) == (valid_from <= now <= deadline - margin)
    if check_time(payment, now) is not None:
        assert refusal is not None
    if refusal is not None and refusal.reason is Reason.EXPIRED:
        assert int(refusal.found) > int(refusal.wanted)


# --- terms: one thing wrong


def test_a_payment_that_is_what_was_asked_for_passes() -> None:
    assert judge() is None
    assert judge(rows.payment(scheme="upto"), UPTO) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "base"}, Reason.NETWORK_MISMATCH),
        ({"network": "Jeju"}, Reason.NETWORK_MISMATCH),
        ({"pay_to": rows.PAYER}, Reason.RECIPIENT_MISMATCH),
        ({"pay_to": None}, Reason.RECIPIENT_MISMATCH),
        ({"asset": rows.SELLER}, Reason.ASSET_MISMATCH),
        ({"asset": None}, Reason.ASSET_MISMATCH),
        ({"resource": "/api/report/"}, Reason.RESOURCE_MISMATCH),
        ({"resource": "/API/report"}, Reason.RESOURCE_MISMATCH),
        ({"scheme": "permit"}, Reason.UNSUPPORTED_SCHEME),
        ({"scheme": "Exact"}, Reason.UNSUPPORTED_SCHEME),
        ({"scheme": ""}, Reason.UNSUPPORTED_SCHEME),
        ({"amount": 999_999}, Reason.AMOUNT_NOT_EXACT),
        ({"amount": 1_000_001}, Reason.AMOUNT_NOT_EXACT),
        ({"amount": 0}, Reason.AMOUNT_NOT_EXACT),
        ({"amount": None}, Reason.AMOUNT_NOT_EXACT),
    ],
)
def test_a_seller_who_asks_for_something_else_is_not_paid(
    changes: dict[str, Any], reason: Reason
) -> None:
    """What the seller misspelt is None, and fits no payment."""
    assert judge(requirements=replace(REQUIREMENTS, **changes)) == reason


# --- terms: amounts


@given(uints, st.none() | uints)
def test_exact_takes_the_very_amount(amount: int, asked: int | None) -> None:
    payment, requirements = rows.payment(amount=amount), replace(REQUIREMENTS, amount=asked)
    expected = None if amount == asked else Reason.AMOUNT_NOT_EXACT
    if amount == asked == 0:
        expected = Reason.AMOUNT_BELOW_MINIMUM
    assert judge(payment, requirements) == expected


@given(uints, st.none() | uints)
def test_upto_takes_all_from_one_unit_to_the_most(amount: int, most: int | None) -> None:
    """The payer picks the amount; the seller must read it."""
    payment, requirements = rows.payment(amount=amount), replace(UPTO, amount=most)
    expected = Reason.AMOUNT_ZERO if amount == 0 else None
    if most is None or amount > most:
        expected = Reason.AMOUNT_ABOVE_MAXIMUM
    assert judge(payment, requirements) == expected


@pytest.mark.parametrize("payers", ["exact", "upto"])
@pytest.mark.parametrize(
    ("sellers", "amount", "reason"),
    [
        ("exact", 1_000_000, None),
        ("exact", 999_999, Reason.AMOUNT_NOT_EXACT),
        ("upto", 1_000_000, None),
        ("upto", 999_999, None),
        ("upto", 1_000_001, Reason.AMOUNT_ABOVE_MAXIMUM),
    ],
)
def test_the_sellers_scheme_decides_about_the_amount(
    payers: str, sellers: str, amount: int, reason: Reason | None
) -> None:
    payment = rows.payment(scheme=payers, amount=amount)
    assert judge(payment, replace(REQUIREMENTS, scheme=sellers)) == reason


@pytest.mark.parametrize("requirements", [REQUIREMENTS, UPTO])
@pytest.mark.parametrize("scheme", ["", "EXACT", "exact ", "permit", "upto\0"])
def test_the_payers_scheme_must_be_one_that_the_contract_knows(
    requirements: PaymentRequirements, scheme: str
) -> None:
    """And it is the scheme that is not known that is told."""
    refusal = check_terms(rows.payment(scheme=scheme), requirements, TERMS)
    assert refusal == Refusal(Reason.UNSUPPORTED_SCHEME, scheme)
    asked = replace(requirements, scheme="barter")
    sellers = check_terms(rows.payment(scheme=scheme), asked, TERMS)
    assert sellers == Refusal(Reason.UNSUPPORTED_SCHEME, "barter")


@pytest.mark.parametrize("requirements", [REQUIREMENTS, UPTO])
@pytest.mark.parametrize("least", [0, 1, 2, 1_000, 2**255])
def test_the_least_amount_is_still_enough(requirements: PaymentRequirements, least: int) -> None:
    """A configured minimum of nothing is a minimum of one: the contract settles nothing for
    nothing.
    """
    terms, floor = replace(TERMS, min_amount=least), max(least, 1)
    enough = rows.payment(amount=floor)
    assert check_terms(enough, replace(requirements, amount=floor), terms) is None
    if floor > 1:
        short = rows.payment(amount=floor - 1)
        expected = Refusal(Reason.AMOUNT_BELOW_MINIMUM, str(floor - 1), str(floor))
        assert check_terms(short, replace(requirements, amount=floor - 1), terms) == expected


@given(uints, uints, uints, st.sampled_from(["exact", "upto"]))
def test_no_amount_passes_that_the_seller_or_the_contract_would_not_take(
    amount: int, asked: int, least: int, scheme: str
) -> None:
    requirements, terms = (
        replace(REQUIREMENTS, amount=asked, scheme=scheme),
        replace(TERMS, min_amount=least),
    )
    if judge(rows.payment(amount=amount), requirements, terms) is None:
        assert max(least, 1) <= amount <= asked
        assert scheme == "upto" or amount == asked


def test_amounts_are_told_whole() -> None:
    """As integers of any size: no float, no exponent."""
    payment, requirements = (
        rows.payment(amount=MAX_UINT256),
        replace(REQUIREMENTS, amount=MAX_UINT256 - 1),
    )
    told = (str(MAX_UINT256), str(MAX_UINT256 - 1))
    assert check_terms(payment, requirements, TERMS) == Refusal(Reason.AMOUNT_NOT_EXACT, *told)
    above = check_terms(payment, replace(requirements, scheme="upto"), TERMS)
    assert above == Refusal(Reason.AMOUNT_ABOVE_MAXIMUM, *told)


# --- terms: recipients


@pytest.mark.parametrize(
    "pay_to", [bytes(20), rows.ASSET, rows.CONTRACT, rows.SIGNER, b"\xc1" * 20]
)
def test_money_is_never_sent_where_it_is_lost(pay_to: bytes) -> None:
    """The zero address, the token, the contract, our signers: even when both sides agree. The last
    one is a contract of ours that this payment does not name.
    """
    terms = replace(TERMS, own_addresses=frozenset({rows.SIGNER, b"\xc1" * 20}))
    payment, requirements = rows.payment(pay_to=pay_to), replace(REQUIREMENTS, pay_to=pay_to)
    assert judge(payment, requirements, terms) == Reason.INVALID_RECIPIENT


@given(addresses)
def test_any_other_recipient_will_do_the_payer_included(pay_to: bytes) -> None:
    for recipient in (pay_to, rows.PAYER):
        payment, requirements = (
            rows.payment(pay_to=recipient),
            replace(REQUIREMENTS, pay_to=recipient),
        )
        forbidden = {bytes(20), rows.ASSET, *TERMS.own_addresses}
        expected = Reason.INVALID_RECIPIENT if recipient in forbidden else None
        assert judge(payment, requirements) == expected


# --- terms: several things wrong at once

# In the order in which they are reported, each with what the seller asks for instead.
TERM_FAULTS: list[tuple[Reason, dict[str, Any]]] = [
    (Reason.NETWORK_MISMATCH, {"network": "base"}),
    (Reason.RECIPIENT_MISMATCH, {"pay_to": None}),
    (Reason.ASSET_MISMATCH, {"asset": None}),
    (Reason.RESOURCE_MISMATCH, {"resource": "/other"}),
    (Reason.UNSUPPORTED_SCHEME, {"scheme": "barter"}),
    (Reason.AMOUNT_NOT_EXACT, {"amount": 2_000_000}),
]


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("below", [False, True])
def test_the_first_thing_wrong_is_the_one_reported(below: bool, ours: bool) -> None:
    """Mismatches, then scheme, amount, minimum, recipient: every combination of them."""
    own_addresses = frozenset({rows.SELLER}) if ours else TERMS.own_addresses
    terms = Terms(min_amount=2_000_000 if below else 1, own_addresses=own_addresses)
    last = Reason.INVALID_RECIPIENT if ours else None
    if below:
        last = Reason.AMOUNT_BELOW_MINIMUM
    for choice in product([False, True], repeat=len(TERM_FAULTS)):
        wrong = list(compress(TERM_FAULTS, choice))
        requirements = REQUIREMENTS
        for _, changes in wrong:
            requirements = replace(requirements, **changes)
        assert judge(PAYMENT, requirements, terms) == (wrong[0][0] if wrong else last)


def test_in_upto_too_much_comes_before_nothing_and_nothing_before_too_little() -> None:
    terms = replace(TERMS, min_amount=5)
    nothing = rows.payment(amount=0)
    assert judge(nothing, replace(UPTO, amount=None), terms) == Reason.AMOUNT_ABOVE_MAXIMUM
    assert judge(nothing, UPTO, terms) == Reason.AMOUNT_ZERO
    assert judge(rows.payment(amount=4), UPTO, terms) == Reason.AMOUNT_BELOW_MINIMUM
    assert judge(rows.payment(amount=6), replace(UPTO, amount=5), terms) == (
        Reason.AMOUNT_ABOVE_MAXIMUM
    )
