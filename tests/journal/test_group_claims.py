"""Laws of the journal: payments that are claimed together, each for itself."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from facilitator.domain.settlement import SettlementState, TransactionKind
from facilitator.journal.store import (
    BudgetSpent,
    Claimed,
    IdempotencyKeyTaken,
    KeptReply,
    NewTransaction,
    Overcommitted,
    Store,
    Taken,
)
from tests.support.journal import (
    ALICE,
    CHAIN_ID,
    NOW,
    SIGNERS,
    SignerBroke,
    change,
    claimed,
    everything,
    moved,
    next_nonce,
    no_signature,
    payment,
    proof,
    settlement_of,
    signing,
    transaction_of,
)

pytestmark = pytest.mark.anyio


def group_of(
    asked: list[tuple[int, ...]] | None = None, **changes: object
) -> Callable[[tuple[int, ...]], NewTransaction]:
    """A group's transaction; which members it is for is added to `asked`."""
    any_call = transaction_of(payment()).call

    def transaction(members: tuple[int, ...]) -> NewTransaction:
        if asked is not None:
            asked.append(members)
        new = transaction_of(payment(), sign=signing(SIGNERS[0], any_call))
        return replace(new, kind=TransactionKind.GROUP, call=any_call, **changes)

    return transaction


async def test_a_group_shares_one_transaction_and_one_account_nonce(store: Store) -> None:
    members = [payment() for _ in range(5)]
    told = await store.claim_group([settlement_of(paid) for paid in members], group_of(), NOW)
    assert not isinstance(told, BudgetSpent)
    claims = [each for each in told if isinstance(each, Claimed)]
    assert [each.settlement.payment for each in claims] == members
    assert {each.transaction for each in claims} == {claims[0].transaction}
    assert claims[0].transaction.kind is TransactionKind.GROUP
    assert await next_nonce(store) == 1
    assert await store.in_flight(CHAIN_ID) == {ALICE: 1}
    records = (await store.open_work(CHAIN_ID)).records
    assert {record.settlement.id for record in records} == {each.settlement.id for each in claims}
    assert {record.transactions for record in records} == {(claims[0].transaction,)}
    first = await store.find_transaction(claims[0].transaction.attempts[0].hash)
    assert first == claims[0].settlement


async def test_who_cannot_be_claimed_drops_out_alone(store: Store) -> None:
    """The others are claimed, in the order given; the transaction is made for them alone."""
    known = await claimed(store)
    keyed = settlement_of(payment(), idempotency_key="order-1")
    assert isinstance(await store.claim(keyed, transaction_of(keyed.payment), NOW), Claimed)
    failed = await claimed(store)
    await moved(store, failed.settlement, SettlementState.FAILED)
    again = failed.settlement.payment
    wrong = await claimed(store)
    await moved(store, wrong.settlement, SettlementState.FAILED)
    fresh, twice = payment(), payment()
    asked: list[tuple[int, ...]] = []
    told = await store.claim_group(
        [
            settlement_of(known.settlement.payment),
            settlement_of(fresh),
            settlement_of(payment(), idempotency_key="order-1"),
            settlement_of(payment(), available=1),
            settlement_of(again, idempotency_key="order-2", body_digest=b"2"),
            settlement_of(twice),
            settlement_of(twice),
            settlement_of(wrong.settlement.payment, idempotency_key="order-1"),
            settlement_of(wrong.settlement.payment, idempotency_key="order-2"),
        ],
        group_of(asked),
        NOW,
    )
    assert not isinstance(told, BudgetSpent)
    kinds = [Taken, Claimed, IdempotencyKeyTaken, Overcommitted, Claimed, Claimed, Taken]
    assert [type(each) for each in told[:7]] == kinds
    assert [type(each) for each in told[7:]] == [IdempotencyKeyTaken] * 2
    assert await store.find_reply("", "order-2") == KeptReply(b"2", None)
    assert asked == [(1, 4, 5)]
    opened = await store.get(failed.settlement.id)
    assert opened is not None
    assert opened.settlement.state is SettlementState.PENDING
    assert [each.kind for each in opened.transactions] == [
        TransactionKind.SETTLE,
        TransactionKind.GROUP,
    ]


async def test_members_of_one_payer_count_against_each_other(store: Store) -> None:
    members = [settlement_of(payment(amount=400), available=1_000) for _ in range(4)]
    told = await store.claim_group(members, group_of(), NOW)
    assert not isinstance(told, BudgetSpent)
    assert [type(each) for each in told] == [Claimed, Claimed, Overcommitted, Overcommitted]
    assert told[2:] == (Overcommitted(200), Overcommitted(200))


async def test_where_nobody_can_be_claimed_nothing_is_signed(store: Store) -> None:
    known = await claimed(store)
    before = await everything(store)
    asked: list[tuple[int, ...]] = []
    told = await store.claim_group(
        [settlement_of(known.settlement.payment), settlement_of(payment(), available=0)],
        group_of(asked, sign=no_signature),
        NOW,
    )
    assert not isinstance(told, BudgetSpent)
    assert [type(each) for each in told] == [Taken, Overcommitted]
    assert asked == []
    assert await everything(store) == before


async def test_a_group_that_cannot_be_signed_or_paid_leaves_no_trace(store: Store) -> None:
    """Not of one of its members, whom the next claim finds unclaimed."""
    members = [settlement_of(payment()) for _ in range(3)]
    keys = [each.key for each in members]
    before = await everything(store, *keys)
    with pytest.raises(SignerBroke):
        await store.claim_group(members, group_of(sign=no_signature), NOW)
    assert await everything(store, *keys) == before
    poor = group_of(gas_budget=99, most_cost=100)
    assert await store.claim_group(members, poor, NOW) == BudgetSpent(0)
    assert await everything(store, *keys) == before
    told = await store.claim_group(members, group_of(), NOW)
    assert not isinstance(told, BudgetSpent)
    assert all(isinstance(each, Claimed) for each in told)


async def test_one_member_ends_without_the_others(store: Store) -> None:
    """Each has a proof of its own in the one transaction, and the same log proves no second one."""
    told = await store.claim_group([settlement_of(payment()) for _ in range(3)], group_of(), NOW)
    assert not isinstance(told, BudgetSpent)
    one, two, three = (each.settlement for each in told if isinstance(each, Claimed))
    changes = [
        change(one, SettlementState.CONFIRMED, seen=proof(1, log_index=0)),
        change(two, SettlementState.CONFIRMED, seen=proof(1, log_index=0)),
        change(three, SettlementState.CONFIRMED, seen=proof(1, log_index=1)),
    ]
    changed = await store.record([], changes, NOW)
    assert [each.id for each in changed] == [one.id, three.id]
    assert {record.settlement.id for record in (await store.open_work(CHAIN_ID)).records} == {
        one.id,
        two.id,
        three.id,
    }
    alone = await store.settle_again(two.id, two.version, transaction_of(two.payment), NOW)
    assert alone is not None
    assert not isinstance(alone, BudgetSpent)
    carried = await store.get(two.id)
    assert carried is not None
    assert [each.kind for each in carried.transactions] == ["group", "settle"]
