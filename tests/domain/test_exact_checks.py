"""The checks of the standard dialect that ask nobody: which refusal comes first, and where each
boundary lies.
"""

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.payment import PaymentRequirements, Reason
from facilitator.domain.schemes.eip3009 import Eip3009Payment
from facilitator.domain.verification import (
    EXACT_TIME_LEFT,
    Terms,
    check_authorization,
    check_offer,
)
from tests.support import rows
from tests.support.drawn import addresses, uints

NOW = 1_700_000_010
OTHER = b"\x0e" * 20
REQUIREMENTS = PaymentRequirements(
    scheme="exact",
    network="eip155:420691",
    asset=rows.ASSET,
    pay_to=rows.SELLER,
    amount=1_000_000,
    domain=("USD Coin", "2"),
)
TERMS = Terms(
    min_amount=100,
    own_addresses=frozenset({rows.SIGNER, rows.CONTRACT}),
    signers=frozenset({rows.SIGNER}),
    assets=frozenset({rows.ASSET}),
)
Wrong = tuple[Reason, dict[str, Any]]


def offer(
    accepted: PaymentRequirements, requirements: PaymentRequirements, terms: Terms = TERMS
) -> Reason | None:
    refusal = check_offer(accepted, requirements, terms)
    return None if refusal is None else refusal.reason


def judge(
    payment: Eip3009Payment,
    requirements: PaymentRequirements = REQUIREMENTS,
    now: int | None = NOW,
    terms: Terms = TERMS,
) -> Reason | None:
    refusal = check_authorization(payment, requirements, terms, now)
    return None if refusal is None else refusal.reason


# What the seller asks, then what the payer accepted, in the order of their codes.
ASKED: list[Wrong] = [
    (Reason.UNSUPPORTED_SCHEME, {"scheme": "upto"}),
    (Reason.MISSING_DOMAIN, {"domain": None}),
    (Reason.UNLISTED_ASSET, {"asset": OTHER}),
]
ACCEPTED: list[Wrong] = [
    (Reason.SCHEME_MISMATCH, {"scheme": "upto"}),
    (Reason.NETWORK_MISMATCH, {"network": "eip155:1"}),
    (Reason.OFFER_MISMATCH, {"amount": 1}),
    (Reason.OFFER_MISMATCH, {"asset": OTHER}),
    (Reason.OFFER_MISMATCH, {"pay_to": OTHER}),
    (Reason.OFFER_MISMATCH, {"domain": ("USD Coin", "1")}),
    (Reason.OFFER_MISMATCH, {"domain": None}),
]
ORDER = [
    Reason.UNSUPPORTED_SCHEME,
    Reason.SCHEME_MISMATCH,
    Reason.MISSING_DOMAIN,
    Reason.NETWORK_MISMATCH,
    Reason.OFFER_MISMATCH,
    Reason.UNLISTED_ASSET,
]


def test_what_is_asked_must_be_served_and_what_was_accepted_be_the_same() -> None:
    assert offer(REQUIREMENTS, REQUIREMENTS) is None
    for reason, changes in ASKED:
        asked = replace(REQUIREMENTS, **changes)
        assert offer(asked, asked) is reason
    for reason, changes in ACCEPTED:
        assert offer(replace(REQUIREMENTS, **changes), REQUIREMENTS) is reason


def test_the_first_thing_wrong_with_an_offer_is_told() -> None:
    for reason, changes in ASKED:
        asked = replace(REQUIREMENTS, **changes)
        for other, more in ACCEPTED:
            expected = min(reason, other, key=ORDER.index)
            assert offer(replace(asked, **more), asked) in {expected, reason}
            if set(changes) != set(more):
                assert offer(replace(asked, **more), asked) is expected


# In the order of their codes.
SIGNED: list[Wrong] = [
    (Reason.RECIPIENT_MISMATCH, {"pay_to": OTHER}),
    (Reason.INVALID_PAYER, {"payer": rows.SIGNER}),
    (Reason.EXPIRED, {"deadline": NOW}),
    (Reason.IN_THE_FUTURE, {"valid_from": NOW + 1}),
    (Reason.AMOUNT_NOT_EXACT, {"amount": 99}),
]


def test_the_first_thing_wrong_with_an_authorization_is_told() -> None:
    assert judge(rows.exact()) is None
    for number in range(1, len(SIGNED) + 1):
        for wrong in combinations(SIGNED, number):
            payment = rows.exact()
            for _, changes in wrong:
                payment = replace(payment, **changes)
            assert judge(payment) is wrong[0][0]


def test_without_a_time_everything_but_the_time_is_checked() -> None:
    late = rows.exact(valid_from=NOW + 1, deadline=NOW - 1)
    assert judge(late, now=None) is None
    assert judge(replace(late, amount=1), now=None) is Reason.AMOUNT_NOT_EXACT


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40))
def test_six_seconds_must_be_left(now: int, valid_after: int, valid_before: int) -> None:
    """As the official facilitators have it: validAfter <= now, now + 6 <= validBefore."""
    payment = rows.exact(
        valid_from=valid_after,
        valid_after=valid_after,
        deadline=valid_before - 1,
        valid_before=valid_before,
    )
    expected = None
    if now < valid_after:
        expected = Reason.IN_THE_FUTURE
    if now + EXACT_TIME_LEFT > valid_before:
        expected = Reason.EXPIRED
    assert judge(payment, now=now) is expected


@given(uints, uints, uints)
def test_the_amount_is_exactly_the_price(amount: int, price: int, least: int) -> None:
    expected = None
    if amount < least:
        expected = Reason.AMOUNT_BELOW_MINIMUM
    if amount != price:
        expected = Reason.AMOUNT_NOT_EXACT
    payment, requirements = rows.exact(amount=amount), replace(REQUIREMENTS, amount=price)
    assert judge(payment, requirements, terms=replace(TERMS, min_amount=least)) is expected


LOST = [
    bytes(20),
    rows.ASSET,
    rows.SIGNER,
    rows.CONTRACT,
    bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11"),
    bytes.fromhex("000000000022D473030F116dDEE9F6B43aC78BA3"),
    bytes.fromhex("402085c248EeA27D92E8b30b2C58ed07f9E20001"),
    bytes.fromhex("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"),
]


@pytest.mark.parametrize("pay_to", LOST)
def test_nothing_is_paid_where_it_is_lost(pay_to: bytes) -> None:
    assert judge(rows.exact(pay_to=pay_to), replace(REQUIREMENTS, pay_to=pay_to)) is (
        Reason.INVALID_RECIPIENT
    )


@given(addresses.filter(lambda address: address not in LOST))
def test_anybody_else_may_be_paid(pay_to: bytes) -> None:
    """The payer included, who then pays nobody but the token's own books."""
    assert judge(rows.exact(pay_to=pay_to), replace(REQUIREMENTS, pay_to=pay_to)) is None
    payer = replace(REQUIREMENTS, pay_to=rows.PAYER)
    assert judge(rows.exact(pay_to=rows.PAYER), payer) is None
