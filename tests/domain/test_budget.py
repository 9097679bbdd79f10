"""The laws of what a signer may spend on gas, and of which account nonces it may use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facilitator.domain import budget
from facilitator.domain.nonces import MAX_IN_FLIGHT, missing, nonce_floor
from facilitator.ethereum.fees import GWEI, Fees
from tests.support import rows


@pytest.mark.parametrize(
    ("limit", "spent", "cost", "allowed"),
    [
        (None, 10**30, 10**30, True),
        (100, 0, 100, True),
        (100, 0, 101, False),
        (100, 99, 1, True),
        (100, 100, 1, False),
        (100, 150, 0, False),
    ],
)
def test_a_budget_may_be_spent_to_the_last_wei_and_not_beyond(
    limit: int | None, spent: int, cost: int, allowed: bool
) -> None:
    assert budget.allows(limit, spent, cost) is allowed


@pytest.mark.parametrize(
    ("now", "day"), [(0, 0), (86_399_999, 0), (86_400_000, 1), (1_800_000_000_000, 20833)]
)
def test_a_day_begins_at_midnight_utc(now: int, day: int) -> None:
    assert budget.day_of(now) == day


def test_the_data_of_a_transaction_is_paid_for_beside_its_gas() -> None:
    assert budget.most_cost(21_000, 2 * GWEI, 0) == 42_000 * GWEI
    assert budget.most_cost(21_000, 2 * GWEI, 7) == 42_000 * GWEI + 7


def test_a_pending_transaction_counts_with_its_dearest_attempt() -> None:
    """Any attempt may be the one that is mined, the first one too."""
    attempts = tuple(
        rows.attempt(number, fees=Fees(gwei * GWEI, GWEI)) for number, gwei in ((1, 9), (2, 5))
    )
    transaction = rows.transaction(gas_limit=100, l1_fee=3, attempts=attempts)
    assert budget.committed(transaction) == 900 * GWEI + 3


@given(st.integers(0), st.lists(st.integers(0)), st.lists(st.integers(0)))
def test_what_is_final_mined_and_pending_is_all_spent(
    final: int, mined: list[int], pending: list[int]
) -> None:
    assert budget.spent(final, mined, pending) == final + sum(mined) + sum(pending)


@pytest.mark.parametrize(
    ("wanted", "pending", "gap"),
    [
        (5, [], []),
        (5, [5], []),
        (5, [6], [5]),
        (5, [9, 7, 8], [5, 6]),
        (5, [5, 9], []),  # what follows is looked at when 5 is mined
        (5, [4], []),  # a machine that is ahead of us
    ],
)
def test_a_gap_is_what_the_chain_wants_below_everything_of_ours(
    wanted: int, pending: list[int], gap: list[int]
) -> None:
    assert list(missing(wanted, pending)) == gap


@pytest.mark.parametrize(
    ("journal", "mined", "pooled", "floor"),
    [
        (0, 0, (0,), 0),
        (7, 5, (7,), 7),  # our own in the pool
        (7, 5, (5,), 7),  # which the pool has dropped
        (5, 7, (7,), 7),  # another program mined some
        (5, 5, (8,), 8),  # the journal is older than the pool
        (5, 5, (8, 8), 8),
        (5, 5, (8, 5), None),  # one endpoint lies or lags: nobody knows which
        (5, 5, (8, 9), None),
        (5, 5, (4, 5), 5),  # neither raises anything
        (5, 5, (5 + MAX_IN_FLIGHT,), 5 + MAX_IN_FLIGHT),
        (5, 5, (6 + MAX_IN_FLIGHT,), None),  # more than any pool takes
        (5, 5, (), 5),
    ],
)
def test_the_pool_raises_the_floor_only_where_it_is_believed(
    journal: int, mined: int, pooled: tuple[int, ...], floor: int | None
) -> None:
    assert nonce_floor(journal, mined, pooled) == floor


@given(st.integers(0, 99), st.integers(0, 99), st.lists(st.integers(0, 200), max_size=3))
def test_no_floor_lets_an_account_nonce_be_used_twice(
    journal: int, mined: int, pooled: list[int]
) -> None:
    floor = nonce_floor(journal, mined, pooled)
    assert floor is None or floor >= max(journal, mined)
