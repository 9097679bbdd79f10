"""The laws of the journal, the same for every engine."""

import asyncio

import pytest
from msgspec.structs import replace

from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.settlement import (
    Attempt,
    SettlementState,
    Transaction,
    TransactionKind,
    TransactionState,
)
from facilitator.ethereum.fees import Fees
from facilitator.journal.store import (
    Claimed,
    IdempotencyKeyTaken,
    Overcommitted,
    SettlementChange,
    SettlementRecord,
    Store,
    StoreError,
    Taken,
    TransactionChange,
)
from tests.support.claims import (
    CHAIN,
    MAX_UINT256,
    SIGNER,
    claim,
    confirm,
    fail,
    new_settlement,
    new_transaction,
    payment,
    proof,
    record_of,
)
from tests.support.engines import Engine

pytestmark = pytest.mark.anyio


async def test_what_is_claimed_is_there_with_its_signed_bytes(store: Store) -> None:
    """Every field comes back, 256-bit amounts and any text included."""
    big = payment(1, amount=MAX_UINT256)
    claimed = await claim(store, payment=big, second_key="other", traceparent="00-ab")
    found = await store.find("key-1")
    assert found == claimed.settlement
    assert await store.find("other") == found
    assert found is not None
    assert found.payment == big
    assert (found.state, found.version, found.waiter) == (SettlementState.PENDING, 1, "me")
    record = await record_of(store, claimed)
    assert record == SettlementRecord(found, (claimed.transaction,))
    [attempt] = claimed.transaction.attempts
    assert attempt == new_transaction().sign(0)


async def test_200_racers_for_one_payment_have_one_winner(store: Store) -> None:
    results = await asyncio.gather(
        *(store.claim(new_settlement(), new_transaction(), 1) for _ in range(200))
    )
    winners = [result for result in results if isinstance(result, Claimed)]
    assert len(winners) == 1
    losers = [result for result in results if isinstance(result, Taken)]
    assert len(losers) == 199
    assert {loser.settlement.id for loser in losers} == {winners[0].settlement.id}
    assert (await claim(store, 2)).transaction.account_nonce == 1


async def test_account_nonces_are_distinct_and_dense(store: Store) -> None:
    """Under concurrency, a signer at a time, from the floor upward."""
    other = b"\x09" * 20
    await asyncio.gather(
        *(
            store.claim(new_settlement(n), new_transaction(SIGNER if n % 2 else other, 40), 1)
            for n in range(200)
        )
    )
    work = await store.open_work(CHAIN)
    taken: dict[bytes, list[int]] = {SIGNER: [], other: []}
    for record in work.records:
        [transaction] = record.transactions
        taken[transaction.signer].append(transaction.account_nonce)
    assert sorted(taken[SIGNER]) == sorted(taken[other]) == list(range(40, 140))


async def test_the_floor_only_rises(store: Store) -> None:
    assert await store.raise_nonce_floor(CHAIN, SIGNER, 7) == 7
    assert await store.raise_nonce_floor(CHAIN, SIGNER, 3) == 7
    assert (await claim(store)).transaction.account_nonce == 7
    assert await store.raise_nonce_floor(CHAIN, SIGNER, 0) == 8


async def test_a_claim_that_cannot_be_signed_leaves_nothing(store: Store) -> None:
    def refuse(_: int) -> Attempt:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await store.claim(new_settlement(), replace(new_transaction(), sign=refuse), 1)
    assert await store.find("key-1") is None
    assert (await store.open_work(CHAIN)).records == ()
    assert (await claim(store)).transaction.account_nonce == 0


async def test_one_failing_operation_takes_no_other_with_it(store: Store) -> None:
    def refuse(_: int) -> Attempt:
        raise RuntimeError("no")

    bad = replace(new_transaction(), sign=refuse)
    results = await asyncio.gather(
        *(
            store.claim(new_settlement(n), bad if n % 3 == 0 else new_transaction(), 1)
            for n in range(30)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Claimed) for result in results) == 20
    assert sum(isinstance(result, RuntimeError) for result in results) == 10
    records = (await store.open_work(CHAIN)).records
    assert sorted(record.transactions[0].account_nonce for record in records) == list(range(20))


async def test_a_caller_that_goes_away_disturbs_nobody(store: Store) -> None:
    tasks = [asyncio.create_task(claim(store, n)) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, Claimed) for result in results) == 10
    records = (await store.open_work(CHAIN)).records
    nonces = sorted(record.transactions[0].account_nonce for record in records)
    assert nonces == list(range(len(nonces)))


async def test_neither_of_two_keys_is_used_twice(store: Store) -> None:
    """Whichever of the two it stands in, on either side."""
    await claim(store, 1, second_key="token-1")
    for key, second_key in (("key-2", "token-1"), ("token-1", None), ("key-3", "key-1")):
        new = new_settlement(2, key=key, second_key=second_key)
        assert isinstance(await store.claim(new, new_transaction(), 1), Taken), key


async def test_an_idempotency_conflict_is_told_apart_from_a_payment_conflict(store: Store) -> None:
    first = await claim(store, 1, idempotency_key="k", tenant="a")
    same_key = await store.claim(
        new_settlement(2, idempotency_key="k", tenant="a"), new_transaction(), 1
    )
    assert same_key == IdempotencyKeyTaken(first.settlement)
    same_payment = await store.claim(
        new_settlement(1, idempotency_key="k", tenant="a"), new_transaction(), 1
    )
    assert same_payment == Taken(first.settlement)
    await claim(store, 3, idempotency_key="k", tenant="b")


async def test_pending_payments_count_against_what_the_payer_has(store: Store) -> None:
    """Of the same payer and asset only, and only until they have ended."""
    first = await claim(store, 1, available=12)
    await claim(store, 2, available=12)
    short = await store.claim(new_settlement(3, available=12), new_transaction(), 1)
    assert short == Overcommitted(left=2)
    assert await store.find("key-3") is None
    await claim(store, 4, available=12, payment=payment(4, payer=b"\x0a" * 20))
    assert await confirm(store, first, proof())
    assert (await claim(store, 3, available=12)).transaction.account_nonce == 3


async def test_a_failed_settlement_is_opened_again_by_the_identical_request_only(
    store: Store,
) -> None:
    claimed = await claim(store)
    await fail(store, claimed)
    other = await store.claim(new_settlement(1, request_digest=b"x"), new_transaction(), 3)
    assert isinstance(other, Taken)
    again = await claim(store, waiter="you")
    assert again.settlement.id == claimed.settlement.id
    assert (again.settlement.state, again.settlement.refusal) == (SettlementState.PENDING, None)
    assert again.settlement.version == 3
    assert again.settlement.waiter == "you"
    record = await record_of(store, again)
    assert [each.id for each in record.transactions] == [
        claimed.transaction.id,
        again.transaction.id,
    ]


@pytest.mark.parametrize(
    "state", [SettlementState.CONFIRMED, SettlementState.REORGED, SettlementState.LOST]
)
async def test_no_other_state_is_opened_again(store: Store, state: SettlementState) -> None:
    claimed = await claim(store)
    change = SettlementChange(id=claimed.settlement.id, version=1, state=state)
    assert await store.record([], [change], 2)
    assert isinstance(await store.claim(new_settlement(), new_transaction(), 3), Taken)


async def test_one_proof_never_proves_two_settlements(store: Store) -> None:
    """The second is left out; what else was to be recorded is."""
    first, second, third = [await claim(store, n) for n in (1, 2, 3)]
    assert await confirm(store, first, proof(1))
    changes = [
        SettlementChange(
            id=each.settlement.id, version=1, state=SettlementState.CONFIRMED, proof=which
        )
        for each, which in ((second, proof(1)), (third, proof(3)))
    ]
    changed = await store.record([], changes, 2)
    assert [settlement.id for settlement in changed] == [third.settlement.id]
    assert changed[0].proof == proof(3)
    assert (await record_of(store, second)).settlement.state is SettlementState.PENDING


async def test_a_stale_version_changes_nothing(store: Store) -> None:
    claimed = await claim(store)
    again = await store.settle_again(claimed.settlement.id, 1, new_transaction(), 2)
    assert isinstance(again, Transaction)
    assert again.account_nonce == 1
    assert await store.settle_again(claimed.settlement.id, 1, new_transaction(), 2) is None
    assert not await confirm(store, claimed, proof())
    assert (await record_of(store, claimed)).settlement.state is SettlementState.PENDING
    assert (await claim(store, 2)).transaction.account_nonce == 2


async def test_only_what_is_open_is_settled_again(store: Store) -> None:
    claimed = await claim(store)
    assert await confirm(store, claimed, proof())
    assert await store.settle_again(claimed.settlement.id, 2, new_transaction(), 2) is None


async def test_attempts_are_added_while_the_transaction_is_pending(store: Store) -> None:
    claimed = await claim(store)
    number = claimed.transaction.id
    second = Attempt(hash=b"\x0b" * 32, raw=b"second", fees=Fees(200, 20), signed_at=8)
    assert await store.add_attempt(number, second, None, 1)
    [transaction] = (await record_of(store, claimed)).transactions
    assert transaction.attempts == (*claimed.transaction.attempts, second)
    assert await confirm(store, claimed, proof())
    third = replace(second, hash=b"\x0c" * 32)
    assert not await store.add_attempt(number, third, None, 1)


async def test_one_waiter_at_a_time(store: Store) -> None:
    """Another one takes over when it lets go, or when its lease has ended."""
    claimed = await claim(store, waiter_until=1_000)
    number = claimed.settlement.id
    assert (await store.become_waiter(number, "you", 2_000, now=999)).waiter == "me"
    assert (await store.become_waiter(number, "you", 2_000, now=1_000)).waiter == "you"
    await store.let_go(number, "me")
    assert (await store.become_waiter(number, "me", 3_000, now=1_500)).waiter == "you"
    await store.let_go(number, "you")
    assert (await store.become_waiter(number, "me", 3_000, now=1_500)).waiter == "me"
    with pytest.raises(LookupError):
        await store.become_waiter("unknown", "me", 1, 0)


async def test_success_is_told_once(store: Store) -> None:
    """By the waiter, in state CONFIRMED, and never again by anybody."""
    claimed = await claim(store)
    number = claimed.settlement.id
    assert not await store.mark_success_replied(number, "me", 5)
    assert await confirm(store, claimed, proof())
    assert not await store.mark_success_replied(number, "you", 5)
    told = await asyncio.gather(*(store.mark_success_replied(number, "me", 5) for _ in range(50)))
    assert sum(told) == 1
    await store.let_go(number, "me")
    settlement = await store.become_waiter(number, "you", 9_000, 6_000)
    assert (settlement.waiter, settlement.replied_success_at) == (None, 5)


async def test_open_work_is_what_is_not_ended(store: Store) -> None:
    """Pending and reorged settlements, pending transactions of any, and fillers."""
    claims = [await claim(store, n) for n in range(4)]
    filler = await store.fill(replace(new_transaction(), kind=TransactionKind.FILL), 99, 1)
    assert await confirm(store, claims[0], proof(1))
    await fail(store, claims[1])
    lost = SettlementChange(
        id=claims[2].settlement.id, version=1, state=SettlementState.REORGED, proof=None
    )
    assert await store.record([], [lost], 2)
    work = await store.open_work(CHAIN)
    assert {record.settlement.id for record in work.records} == {
        each.settlement.id for each in claims[2:]
    }
    assert work.fillers == (filler,)
    assert (await store.open_work(CHAIN + 1)).records == ()
    assert await store.in_flight(CHAIN) == {SIGNER: 3}
    back = TransactionChange(id=claims[0].transaction.id, state=TransactionState.PENDING)
    await store.record([back], [], 3)
    reopened = {record.settlement.id for record in (await store.open_work(CHAIN)).records}
    assert claims[0].settlement.id in reopened


async def test_what_was_mined_is_watched_until_it_is_buried(store: Store) -> None:
    claimed = await claim(store)
    await claim(store, 2)
    assert await confirm(store, claimed, proof())
    assert [record.settlement.id for record in (await store.watched(CHAIN, 100)).records] == [
        claimed.settlement.id
    ]
    assert await store.finalize(CHAIN, 8) == 0
    assert await store.finalize(CHAIN + 1, 9) == 0
    assert await store.finalize(CHAIN, 9) == 1
    assert (await store.watched(CHAIN, 100)).records == ()
    [transaction] = (await record_of(store, claimed)).transactions
    assert transaction.state is TransactionState.FINAL


async def test_a_refusal_comes_back_as_it_was(store: Store) -> None:
    claimed = await claim(store)
    refusal = Refusal(Reason.INSUFFICIENT_BALANCE, "1", "ü")
    change = SettlementChange(
        id=claimed.settlement.id, version=1, state=SettlementState.FAILED, refusal=refusal
    )
    [settlement] = await store.record([], [change], 2)
    assert settlement.refusal == refusal
    assert settlement.updated_at == 2


async def test_a_closed_store_says_so(engine: Engine) -> None:
    store = await engine()
    await store.ping()
    await store.close()
    with pytest.raises(StoreError):
        await store.ping()
