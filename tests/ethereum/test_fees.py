"""Fees: integers, bumps that pools accept, and a cap that nothing passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facilitator.ethereum.fees import (
    GWEI,
    MIN_PRIORITY_FEE,
    FeeMarket,
    Fees,
    agreed_market,
    are_near,
    bumped_fees,
    fee_market,
    initial_fees,
    outbidding_fees,
)

CAP = 500 * GWEI
wei = st.integers(1, 2**80) | st.integers(1, 1_000 * GWEI)
markets = st.builds(FeeMarket, base_fee=st.integers(0, 2**80), priority_fee=wei)


@st.composite
def fees(draw: st.DrawFn) -> Fees:
    max_fee = draw(wei)
    return Fees(max_fee, draw(st.integers(1, max_fee)))


def are_integers(found: Fees) -> bool:
    return type(found.max_fee_per_gas) is int and type(found.max_priority_fee_per_gas) is int


@pytest.mark.parametrize(
    ("told", "agreed"),
    [
        ([(7, 3)], (7, 3)),
        ([(7, 3), (7, 300)], (7, 3)),
        ([(7, 3), (9, 3)], (9, 3)),
        ([(7, 3), (900, 300), (8, 4)], (8, 4)),
        ([(7, 3), (8, 4), (0, 1)], (7, 3)),
    ],
)
def test_of_several_markets_no_single_one_makes_us_pay_more(
    told: list[tuple[int, int]], agreed: tuple[int, int]
) -> None:
    assert agreed_market([FeeMarket(*each) for each in told]) == FeeMarket(*agreed)


@pytest.mark.parametrize(
    ("market", "near"),
    [((20, 6), True), ((21, 3), False), ((10, 7), False), ((5, 2), True), ((4, 3), False)],
)
def test_near_is_what_neither_is_more_than_twice_of(market: tuple[int, int], near: bool) -> None:
    gwei = FeeMarket(market[0] * GWEI, market[1] * GWEI)
    agreed = FeeMarket(10 * GWEI, 3 * GWEI)
    assert are_near(gwei, agreed) is are_near(agreed, gwei) is near


@given(fees(), markets, wei)
def test_a_bump_raises_both_fees_by_an_eighth_within_the_cap(
    last: Fees, market: FeeMarket, cap: int
) -> None:
    """Rounded up, so that geth (a tenth) and the stricter pools (an eighth) take it; and the tip is
    never above the whole fee, which no node accepts.
    """
    bumped = bumped_fees(last, market, cap)
    if bumped is None:
        assert 8 * cap < 9 * last.max_fee_per_gas
        return
    assert are_integers(bumped)
    assert 8 * bumped.max_fee_per_gas >= 9 * last.max_fee_per_gas
    assert 8 * bumped.max_priority_fee_per_gas >= 9 * last.max_priority_fee_per_gas
    assert bumped.max_fee_per_gas > last.max_fee_per_gas
    assert bumped.max_priority_fee_per_gas > last.max_priority_fee_per_gas
    assert bumped.max_priority_fee_per_gas <= bumped.max_fee_per_gas <= cap


@given(fees(), markets, wei)
def test_a_bump_asks_no_more_than_the_market_or_the_pool_does(
    last: Fees, market: FeeMarket, cap: int
) -> None:
    bumped = bumped_fees(last, market, cap)
    if bumped is not None:
        least_fee = -(-last.max_fee_per_gas * 9 // 8)
        least_tip = -(-last.max_priority_fee_per_gas * 9 // 8)
        tip = max(least_tip, market.priority_fee)
        assert bumped.max_fee_per_gas == min(max(least_fee, 2 * market.base_fee + tip), cap)
        assert bumped.max_priority_fee_per_gas <= tip


@given(fees(), markets, markets, wei)
def test_bumps_are_monotone_in_the_market(
    last: Fees, one: FeeMarket, other: FeeMarket, cap: int
) -> None:
    cheap = FeeMarket(min(one.base_fee, other.base_fee), min(one.priority_fee, other.priority_fee))
    dear = FeeMarket(max(one.base_fee, other.base_fee), max(one.priority_fee, other.priority_fee))
    low, high = bumped_fees(last, cheap, cap), bumped_fees(last, dear, cap)
    assert (low is None) == (high is None)
    if low is not None and high is not None:
        assert low.max_fee_per_gas <= high.max_fee_per_gas
        assert low.max_priority_fee_per_gas <= high.max_priority_fee_per_gas


@given(fees(), markets)
def test_bumps_come_to_an_end_at_the_cap(last: Fees, market: FeeMarket) -> None:
    """So a transaction has a bounded number of attempts, whatever the market does."""
    start, cap = Fees(GWEI, min(GWEI, last.max_priority_fee_per_gas)), CAP
    bumps, current = 0, bumped_fees(start, market, cap)
    while current is not None:
        bumps, current = bumps + 1, bumped_fees(current, market, cap)
    assert bumps <= 53  # log(500) / log(9/8)


@pytest.mark.parametrize(
    ("last", "cap", "bumped"),
    [
        (Fees(8, 8), 9, Fees(9, 9)),
        (Fees(8, 8), 8, None),
        (Fees(1, 1), 2, Fees(2, 2)),
        (Fees(1, 1), 1, None),
        (Fees(9, 1), 11, Fees(11, 2)),
        (Fees(1000, 100), 1125, Fees(1125, 113)),
        (Fees(1000, 100), 1124, None),
        (Fees(2**100, 2**99), 2**101, Fees(9 * 2**97, 9 * 2**96)),
    ],
)
def test_a_bump_is_rounded_up_and_ends_exactly_at_the_cap(
    last: Fees, cap: int, bumped: Fees | None
) -> None:
    assert bumped_fees(last, FeeMarket(base_fee=0, priority_fee=1), cap) == bumped


@given(fees(), markets, wei)
def test_what_outbids_another_one_does_so_in_every_pool_unless_the_cap_forbids_it(
    last: Fees, market: FeeMarket, cap: int
) -> None:
    """It is never below what a first attempt would offer now, and never above the cap."""
    first = initial_fees(market, cap)
    if first is None:
        return
    found = outbidding_fees(last, first, cap)
    assert are_integers(found)
    assert found.max_priority_fee_per_gas <= found.max_fee_per_gas <= cap
    assert found.max_fee_per_gas >= first.max_fee_per_gas
    assert found.max_priority_fee_per_gas >= first.max_priority_fee_per_gas
    if 1125 * last.max_fee_per_gas <= 1000 * cap:
        assert 1000 * found.max_fee_per_gas >= 1125 * last.max_fee_per_gas
        assert 1000 * found.max_priority_fee_per_gas >= 1125 * last.max_priority_fee_per_gas
    else:
        assert found.max_fee_per_gas == cap


@given(markets, wei)
def test_first_fees_never_pass_the_cap_and_can_pay_the_next_block(
    market: FeeMarket, cap: int
) -> None:
    first = initial_fees(market, cap)
    if first is None:
        assert market.base_fee + MIN_PRIORITY_FEE > cap
        return
    assert are_integers(first)
    assert first.max_priority_fee_per_gas <= first.max_fee_per_gas <= cap
    assert first.max_fee_per_gas >= min(cap, market.base_fee + market.priority_fee)
    assert first.max_priority_fee_per_gas <= market.priority_fee


def test_first_fees_survive_a_doubled_base_fee() -> None:
    assert initial_fees(FeeMarket(10 * GWEI, GWEI), CAP) == Fees(21 * GWEI, GWEI)
    assert initial_fees(FeeMarket(300 * GWEI, GWEI), CAP) == Fees(CAP, GWEI)


def test_the_market_is_the_next_base_fee_and_the_median_tip() -> None:
    """eth_feeHistory gives one base fee more than blocks: the last is the next block's."""
    rewards = [[5 * GWEI], [GWEI], [3 * GWEI]]
    assert fee_market([7, 8, 9, 10], rewards) == FeeMarket(10, 3 * GWEI)


@pytest.mark.parametrize("rewards", [[], [[]], [[0]], [[0], [0], [GWEI]]])
def test_a_market_without_tips_still_tips_the_least(rewards: list[list[int]]) -> None:
    assert fee_market([GWEI], rewards) == FeeMarket(GWEI, MIN_PRIORITY_FEE)


@given(st.lists(st.lists(st.integers(0, 2**70), max_size=1), max_size=9), st.integers(0, 2**70))
def test_no_single_block_decides_the_tip(rewards: list[list[int]], base_fee: int) -> None:
    tips = [row[0] for row in rewards if row]
    found = fee_market([base_fee], rewards)
    assert found.base_fee == base_fee
    assert found.priority_fee in {MIN_PRIORITY_FEE, *tips}
    if found.priority_fee > MIN_PRIORITY_FEE:
        assert sum(tip > found.priority_fee for tip in tips) * 2 <= len(tips)
