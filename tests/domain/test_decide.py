"""The laws of `decide`: what to do about one transaction, given what the chain shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.settlement import (
    Action,
    Broadcast,
    Mined,
    Observation,
    Policy,
    Replace,
    Superseded,
    Transaction,
    Wait,
    decide,
)
from facilitator.ethereum.fees import GWEI, FeeMarket, Fees
from facilitator.ethereum.receipts import Receipt
from tests.support import rows

CAP = 500 * GWEI
MARKET = FeeMarket(base_fee=GWEI, priority_fee=GWEI // 10)
NONCE = 7
HEAD = 1_000

# Nothing is to be done about it: offered just now, signed just now, not next in line.
IDLE = Observation(
    head=rows.block(HEAD),
    receipts={},
    account_nonce=NONCE - 1,
    final_account_nonce=0,
    market=MARKET,
    broadcast_at=0,
)
NEXT_IN_LINE = replace(IDLE, account_nonce=NONCE)
ONE = rows.attempt(1, fees=Fees(2 * GWEI, GWEI))
TWO = rows.attempt(2, fees=Fees(3 * GWEI, 2 * GWEI))
THREE = rows.attempt(3, fees=Fees(4 * GWEI, 3 * GWEI))
REPLACED = rows.transaction(attempts=(ONE, TWO, THREE))


def mined(number: int, depth: int, *, succeeded: bool = True) -> dict[bytes, Receipt]:
    found = rows.receipt(number, HEAD - depth + 1, succeeded=succeeded)
    return {found.transaction_hash: found}


# --- rules 1 and 2: a receipt


@pytest.mark.parametrize("confirmations", [1, 2, 3, 12])
def test_a_receipt_counts_from_the_confirmations_on_and_waits_before(confirmations: int) -> None:
    """Inclusion is depth 1; exactly `confirmations` deep is deep enough."""
    policy = Policy(confirmations=confirmations)
    deep = mined(1, confirmations)
    seen = replace(IDLE, receipts=deep)
    assert decide(rows.transaction(), seen, 0, policy) == Mined(ONE, deep[ONE.hash])
    shallow = replace(IDLE, receipts=mined(1, confirmations - 1))
    assert decide(rows.transaction(), shallow, 0, policy) == Wait()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_attempt_may_be_the_one_that_is_mined(number: int) -> None:
    found = mined(number, 1)
    expected = Mined(REPLACED.attempts[number - 1], *found.values())
    assert decide(REPLACED, replace(IDLE, receipts=found), 0, Policy()) == expected


def test_a_reverted_transaction_is_mined_all_the_same() -> None:
    """Its nonce is used up; what it means for the payment is for `outcome` to say."""
    found = mined(1, 1, succeeded=False)
    seen = replace(IDLE, receipts=found)
    assert decide(rows.transaction(), seen, 0, Policy()) == Mined(ONE, *found.values())


def test_a_receipt_of_another_transaction_means_nothing() -> None:
    seen = replace(IDLE, receipts=mined(99, 5))
    assert decide(rows.transaction(), seen, 0, Policy()) == Wait()


def test_a_receipt_above_the_head_waits() -> None:
    """The head and the receipt may come from two machines of one endpoint."""
    seen = replace(IDLE, receipts=mined(1, -3))
    assert decide(rows.transaction(), seen, 0, Policy()) == Wait()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_receipt_of_ours_outranks_everything_else(depth: int) -> None:
    """However much else matches: a buried nonce, patience that has run out, a due broadcast."""
    seen = replace(
        NEXT_IN_LINE,
        receipts=mined(2, depth),
        account_nonce=NONCE,
        final_account_nonce=NONCE + 5,
        broadcast_at=None,
    )
    action = decide(REPLACED, seen, 10**9, Policy(confirmations=2))
    assert action == (Wait() if depth < 2 else Mined(TWO, *mined(2, depth).values()))


# --- rule 3: superseded


@pytest.mark.parametrize(
    ("buried", "expected"), [(NONCE - 1, Wait()), (NONCE, Wait()), (NONCE + 1, Superseded())]
)
def test_only_a_buried_count_above_our_nonce_supersedes(buried: int, expected: Action) -> None:
    """A count equal to our nonce says that ours is the next one wanted."""
    seen = replace(IDLE, final_account_nonce=buried)
    assert decide(rows.transaction(), seen, 0, Policy()) == expected


def test_a_shallow_nonce_supersedes_nothing() -> None:
    """Lagging machines and reorgs make a nonce look taken; the bytes are offered on."""
    seen = replace(IDLE, account_nonce=NONCE + 1, final_account_nonce=NONCE, broadcast_at=None)
    assert decide(rows.transaction(), seen, 10**9, Policy()) == Broadcast(ONE)


def test_superseded_comes_before_any_sending() -> None:
    seen = replace(NEXT_IN_LINE, final_account_nonce=NONCE + 1, broadcast_at=None)
    assert decide(rows.transaction(), seen, 10**9, Policy()) == Superseded()


# --- rule 4: replace


def replace_due(now: int, policy: Policy, transaction: Transaction = REPLACED) -> bool:
    return isinstance(decide(transaction, NEXT_IN_LINE, now, policy), Replace)


def test_patience_ends_exactly_at_replace_after() -> None:
    policy = Policy(replace_after_ms=10_000)
    assert not replace_due(9_999, policy)
    assert replace_due(10_000, policy)


def test_patience_is_two_block_intervals_where_they_are_longer() -> None:
    slow = replace(NEXT_IN_LINE, block_interval_ms=12_000)
    policy = Policy(replace_after_ms=10_000, rebroadcast_every_ms=10**9)
    assert decide(REPLACED, slow, 23_999, policy) == Wait()
    assert isinstance(decide(REPLACED, slow, 24_000, policy), Replace)


def test_patience_counts_from_the_last_attempt() -> None:
    late = rows.attempt(2, signed_at=50_000)
    transaction = rows.transaction(attempts=(ONE, late))
    assert not replace_due(59_999, Policy(), transaction)
    assert replace_due(60_000, Policy(), transaction)


def test_a_replacement_outbids_the_last_attempt_and_not_an_earlier_one() -> None:
    calm = replace(NEXT_IN_LINE, market=FeeMarket(base_fee=1, priority_fee=1))
    action = decide(REPLACED, calm, 10_000, Policy())
    expected = Fees(
        THREE.fees.max_fee_per_gas * 9 // 8, THREE.fees.max_priority_fee_per_gas * 9 // 8
    )
    assert action == Replace(expected)


@pytest.mark.parametrize("account_nonce", [NONCE - 2, NONCE - 1, NONCE + 1])
def test_only_the_next_nonce_in_line_is_replaced(account_nonce: int) -> None:
    """The ones behind it wait for it, not for higher fees."""
    seen = replace(IDLE, account_nonce=account_nonce)
    assert decide(rows.transaction(), seen, 10**9, Policy()) == Broadcast(ONE)


def test_at_the_cap_the_same_bytes_are_offered_on() -> None:
    """The bumped fee may equal the cap; one wei above it there is no replacement any more."""
    bumped = 2 * GWEI * 9 // 8
    calm = replace(NEXT_IN_LINE, market=FeeMarket(base_fee=1, priority_fee=1))
    transaction = rows.transaction(attempts=(ONE,))
    at_cap = decide(transaction, calm, 10_000, Policy(max_fee_per_gas=bumped))
    assert at_cap == Replace(Fees(bumped, GWEI * 9 // 8))
    above = decide(transaction, calm, 10_000, Policy(max_fee_per_gas=bumped - 1))
    assert above == Broadcast(ONE)


@pytest.mark.parametrize(("over", "at_cap"), [(0, False), (1, True)])
def test_what_the_cap_holds_up_is_told_apart(over: int, at_cap: bool) -> None:
    """Where the next block's base fee is above what may be offered, and patience is over."""
    dear = FeeMarket(base_fee=ONE.fees.max_fee_per_gas + over, priority_fee=1)
    seen = replace(NEXT_IN_LINE, market=dear)
    policy = Policy(max_fee_per_gas=ONE.fees.max_fee_per_gas)
    transaction = rows.transaction(attempts=(ONE,))
    assert decide(transaction, seen, 10_000, policy) == Broadcast(ONE, at_cap)
    assert decide(transaction, seen, 9_999, policy) in (Broadcast(ONE), Wait())


def test_without_a_fee_market_nothing_is_replaced() -> None:
    seen = replace(NEXT_IN_LINE, market=None)
    assert decide(rows.transaction(), seen, 10**9, Policy()) == Broadcast(ONE)


# --- rule 5: broadcast


@pytest.mark.parametrize("account_nonce", [NONCE, NONCE - 1])
def test_a_new_process_offers_the_last_bytes_at_once(account_nonce: int) -> None:
    seen = replace(IDLE, account_nonce=account_nonce, broadcast_at=None)
    assert decide(REPLACED, seen, 1, Policy()) == Broadcast(THREE)


@pytest.mark.parametrize("late_by", [10_000, 10**9])
def test_a_new_process_offers_what_is_stored_before_it_replaces_it(late_by: int) -> None:
    """However long it was down: what was stored before a crash may never have been sent, and may
    be mined at the fees that it has. It is replaced once it was offered.
    """
    seen = replace(NEXT_IN_LINE, broadcast_at=None)
    assert decide(REPLACED, seen, late_by, Policy()) == Broadcast(THREE)
    offered = replace(seen, broadcast_at=late_by)
    assert isinstance(decide(REPLACED, offered, late_by, Policy()), Replace)


def test_bytes_are_offered_again_exactly_every_rebroadcast_interval() -> None:
    seen = replace(IDLE, broadcast_at=1_000)
    policy = Policy(rebroadcast_every_ms=5_000)
    assert decide(REPLACED, seen, 5_999, policy) == Wait()
    assert decide(REPLACED, seen, 6_000, policy) == Broadcast(THREE)


# --- for every observation there is

wei = st.integers(1, 600 * GWEI)
markets = st.none() | st.builds(
    FeeMarket, base_fee=st.integers(0, 600 * GWEI), priority_fee=st.integers(1, 50 * GWEI)
)


@st.composite
def attempts(draw: st.DrawFn) -> Transaction:
    rising = sorted(draw(st.lists(wei, min_size=1, max_size=4, unique=True)))
    drawn = tuple(
        rows.attempt(
            number,
            fees=Fees(fee, draw(st.integers(1, fee))),
            signed_at=draw(st.integers(0, 60_000)),
        )
        for number, fee in enumerate(rising, start=1)
    )
    return rows.transaction(attempts=drawn)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    receipts = {}
    for number in draw(st.sets(st.integers(1, 9), max_size=3)):
        depth = draw(st.integers(-2, 20))
        receipts.update(mined(number, depth, succeeded=draw(st.booleans())))
    return Observation(
        head=rows.block(HEAD),
        receipts=receipts,
        account_nonce=draw(st.integers(NONCE - 3, NONCE + 3)),
        final_account_nonce=draw(st.integers(NONCE - 3, NONCE + 3)),
        market=draw(markets),
        broadcast_at=draw(st.none() | st.integers(0, 60_000)),
        block_interval_ms=draw(st.integers(0, 20_000)),
    )


policies = st.builds(
    Policy, confirmations=st.integers(1, 12), max_fee_per_gas=st.integers(GWEI, 600 * GWEI)
)


@given(attempts(), observations(), st.integers(0, 120_000), policies)
def test_whatever_is_seen_the_laws_hold(
    transaction: Transaction, seen: Observation, now: int, policy: Policy
) -> None:
    """Never a fee above the cap, never a replacement that does not raise both fees by an eighth,
    never Superseded or sent again while a receipt of ours exists, never Mined without one that is
    deep enough, and only bytes of this transaction are sent.
    """
    action = decide(transaction, seen, now, policy)
    ours = {each.hash for each in transaction.attempts}
    last = transaction.attempts[-1]
    has_receipt = not ours.isdisjoint(seen.receipts)
    match action:
        case Mined(attempt, receipt):
            assert attempt in transaction.attempts
            assert receipt == seen.receipts[attempt.hash]
            assert seen.head.number - receipt.block_number + 1 >= policy.confirmations
        case Superseded():
            assert not has_receipt
            assert seen.final_account_nonce > transaction.account_nonce
        case Replace(fees):
            assert not has_receipt
            assert seen.account_nonce == transaction.account_nonce
            assert seen.broadcast_at is not None
            assert fees.max_fee_per_gas <= policy.max_fee_per_gas
            assert 8 * fees.max_fee_per_gas >= 9 * last.fees.max_fee_per_gas
            assert 8 * fees.max_priority_fee_per_gas >= 9 * last.fees.max_priority_fee_per_gas
        case Broadcast(attempt):
            assert not has_receipt
            assert attempt == last
        case Wait():
            assert has_receipt or seen.broadcast_at is not None
