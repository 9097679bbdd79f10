"""The laws of what a request is refused with whose payment, or whose nonce, is known already."""

import pytest

from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.settlement import (
    SettlementState,
    may_open_again,
    nonce_conflict,
    repetition_refused,
)
from tests.support import rows

STATES = tuple(SettlementState)
OPEN = (SettlementState.PENDING, SettlementState.REORGED)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("used", [True, False])
def test_a_nonce_is_told_as_used_only_where_it_is_or_where_that_is_over(
    state: SettlementState, used: bool
) -> None:
    """While the settlement that has it is open it is being settled; where that failed, and the
    chain would still take the nonce, it is another payment's.
    """
    expected = Reason.AUTHORIZATION_USED
    if state in OPEN:
        expected = Reason.BEING_SETTLED
    elif state is SettlementState.FAILED and not used:
        expected = Reason.NONCE_TAKEN
    conflict = nonce_conflict(rows.settlement(state=state), authorization_used=used)
    assert conflict == Refusal(expected)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("replied", [None, 5])
@pytest.mark.parametrize(("until", "lives"), [(99, False), (100, False), (101, True)])
def test_a_repetition_hears_the_outcome_only_where_nobody_else_does_or_did(
    state: SettlementState, replied: int | None, until: int, lives: bool
) -> None:
    settlement = rows.settlement(
        state=state, waiter="another", waiter_until=until, replied_success_at=replied
    )
    refusal = repetition_refused(settlement, 100)
    if replied is not None or state is SettlementState.LOST:
        assert refusal == Refusal(Reason.AUTHORIZATION_USED)
    elif lives or state not in (SettlementState.PENDING, SettlementState.CONFIRMED):
        assert refusal == Refusal(Reason.BEING_SETTLED)
    else:
        assert refusal is None


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("same", [True, False])
def test_only_the_request_that_failed_opens_a_settlement_again(
    state: SettlementState, same: bool
) -> None:
    settlement = rows.settlement(state=state)
    digest = settlement.request_digest if same else b"another"
    assert may_open_again(settlement, digest) is (same and state is SettlementState.FAILED)
