"""The laws of what the chain shows about a payment: enough is enough, and what is told first."""

from itertools import compress, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes.jeju import JejuFacts, check_facts
from facilitator.ethereum.abi import MAX_UINT256
from tests.support import rows
from tests.support.drawn import uints

FACTS = JejuFacts(
    contract_deployed=True,
    authorization_used=False,
    asset_supported=True,
    balance=1_000_000,
    allowance=1_000_000,
    token_authorization_used=False,
)

# In the order in which their words are reported.
FACT_FAULTS: list[tuple[Reason, dict[str, Any]]] = [
    (Reason.AUTHORIZATION_USED, {"authorization_used": True}),
    (Reason.CONTRACT_NOT_CONFIGURED, {"contract_deployed": False}),
    (Reason.UNSUPPORTED_ASSET, {"asset_supported": False}),
    (Reason.AUTHORIZATION_USED_ELSEWHERE, {"token_authorization_used": True}),
    (Reason.INSUFFICIENT_BALANCE, {"balance": 999_999}),
    (Reason.INSUFFICIENT_ALLOWANCE, {"allowance": 999_999}),
]


def test_the_first_fact_against_a_payment_is_the_one_reported() -> None:
    """In every combination of them."""
    for choice in product([False, True], repeat=len(FACT_FAULTS)):
        wrong, facts = list(compress(FACT_FAULTS, choice)), FACTS
        for _, changes in wrong:
            facts = replace(facts, **changes)
        refusal = check_facts(rows.payment(), facts)
        assert (refusal and refusal.reason) == (wrong[0][0] if wrong else None)


@given(uints, uints, st.none() | uints)
def test_balance_and_allowance_must_cover_the_amount_to_the_unit(
    amount: int, balance: int, allowance: int | None
) -> None:
    """A payment that needs no allowance is not asked for one."""
    facts = replace(FACTS, balance=balance, allowance=allowance)
    expected = None
    if allowance is not None and allowance < amount:
        expected = Refusal(Reason.INSUFFICIENT_ALLOWANCE, str(allowance), str(amount))
    if balance < amount:
        expected = Refusal(Reason.INSUFFICIENT_BALANCE, str(balance), str(amount))
    assert check_facts(rows.payment(amount=amount), facts) == expected


@pytest.mark.parametrize("amount", [1, 1_000_000, MAX_UINT256])
def test_the_very_amount_is_enough(amount: int) -> None:
    facts = replace(FACTS, balance=amount, allowance=amount)
    payment = rows.payment(amount=amount)
    assert check_facts(payment, facts) is None
    for changes in ({"balance": amount - 1}, {"allowance": amount - 1}):
        assert check_facts(payment, replace(facts, **changes)) is not None
    assert check_facts(payment, replace(facts, allowance=None)) is None
