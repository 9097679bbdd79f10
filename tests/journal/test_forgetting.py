"""Laws of the journal, the same for every engine: what leaves it, and what stays known of that."""

import asyncio

import pytest
from msgspec.structs import replace

from facilitator.domain.schemes import scheme_of
from facilitator.domain.schemes.jeju import JejuPayment
from facilitator.domain.settlement import Settlement, SettlementState, TransactionState
from facilitator.journal.store import Claimed, NewTransaction, Store, StoreError, TransactionChange
from tests.support.journal import (
    ALICE,
    CHAIN_ID,
    LEASE,
    NOW,
    OTHER_CHAIN_ID,
    SIGNERS,
    change,
    claimed,
    filled,
    filler,
    gas_spent,
    moved,
    next_nonce,
    payment,
    proof,
    settlement_of,
    signing,
    transaction_of,
)

pytestmark = pytest.mark.anyio

FINISHED = (SettlementState.CONFIRMED, SettlementState.FAILED, SettlementState.LOST)
# After every waiter's lease.
LATER = NOW + LEASE + 1
HOUR = 3_600_000
# Far above the block of every proof.
HORIZON = 1_000


async def forget(
    store: Store,
    *,
    chain_id: int = CHAIN_ID,
    horizon: int = HORIZON,
    before: int = LATER,
    now: int = LATER,
    limit: int = 100,
) -> int:
    return await store.forget(chain_id, horizon=horizon, before=before, now=now, limit=limit)


async def finished(
    store: Store,
    state: SettlementState = SettlementState.CONFIRMED,
    paid: JejuPayment | None = None,
) -> Claimed:
    """A settlement that has come to its end in that state, its transaction FINAL."""
    first = await claimed(store, paid)
    await end(store, first.transaction.id)
    return Claimed(await moved(store, first.settlement, state), first.transaction)


async def end(
    store: Store, transaction_id: int, state: TransactionState = TransactionState.FINAL
) -> None:
    await store.record([TransactionChange(id=transaction_id, state=state, block_number=9)], [], NOW)


def keys_of(settlement: Settlement) -> list[str]:
    keys = scheme_of(settlement.payment).payment_keys(settlement.payment)
    return [key for key in keys if key is not None]


async def test_only_what_has_come_to_its_end_leaves(store: Store) -> None:
    """Settled, failed or lost, with no transaction that a reorg could still bring back."""
    left: list[Settlement] = []
    stayed: list[Settlement] = []
    for state in SettlementState:
        for transaction_state in TransactionState:
            first = await claimed(store)
            settlement = first.settlement
            if state is not SettlementState.PENDING:
                settlement = await moved(store, settlement, state)
            await end(store, first.transaction.id, transaction_state)
            ended = transaction_state in (TransactionState.FINAL, TransactionState.SUPERSEDED)
            (left if ended and state in FINISHED else stayed).append(settlement)
    assert await forget(store) == len(left) == 6
    for settlement in left:
        assert await store.get(settlement.id) is None
        assert await store.find(settlement.key) is None
    for settlement in stayed:
        assert await store.find(settlement.key) == settlement
    assert (await store.settlement_counts(CHAIN_ID)).total == len(stayed)
    assert await forget(store) == 0


async def test_what_was_touched_since_stays(store: Store) -> None:
    """Changed, or listened to."""
    settlement = (await finished(store)).settlement
    assert await forget(store, before=settlement.updated_at) == 0
    assert await forget(store, before=settlement.waiter_until) == 0
    assert await forget(store, before=settlement.waiter_until + 1) == 1


async def test_a_proof_that_a_reorg_may_still_take_stays(store: Store) -> None:
    """Whosever transaction it is in."""
    settlement = (await finished(store)).settlement
    assert settlement.proof is not None
    assert await forget(store, horizon=settlement.proof.block_number - 1) == 0
    assert await forget(store, horizon=settlement.proof.block_number) == 1


async def test_the_oldest_leave_first_and_no_more_than_asked_for(store: Store) -> None:
    records = [await claimed(store) for _ in range(5)]
    for number in (3, 0, 4, 1, 2):
        await end(store, records[number].transaction.id)
        failed = change(records[number].settlement, SettlementState.FAILED)
        await store.record([], [failed], NOW - number)
    assert await forget(store, limit=2) == 2
    there = [await store.get(record.settlement.id) is not None for record in records]
    assert there == [True, True, True, False, False]
    assert await forget(store, limit=2) == 2
    assert await forget(store, limit=2) == 1


async def test_another_chain_keeps_its_own(store: Store) -> None:
    near = await finished(store)
    far = await finished(store, paid=payment(chain_id=OTHER_CHAIN_ID))
    assert await forget(store, chain_id=OTHER_CHAIN_ID) == 1
    assert await store.get(far.settlement.id) is None
    assert await store.get(near.settlement.id) is not None


async def test_its_transactions_leave_with_it(store: Store) -> None:
    """All of them, with every replacement: nothing finds them by their hashes any more."""
    first = (await claimed(store)).settlement
    again = await store.settle_again(first.id, first.version, transaction_of(first.payment), NOW)
    record = await store.get(first.id)
    assert record is not None
    hashes = [attempt.hash for each in record.transactions for attempt in each.attempts]
    assert len(hashes) == 2
    assert again is not None
    for transaction in record.transactions:
        await end(store, transaction.id, TransactionState.SUPERSEDED)
    await moved(store, record.settlement, SettlementState.FAILED)
    assert await forget(store) == 1
    for each in hashes:
        assert await store.find_transaction(each) is None


async def test_a_transaction_stays_until_the_last_that_it_carried_has_left(store: Store) -> None:
    group = [settlement_of(payment()) for _ in range(3)]

    def shared(members: tuple[int, ...]) -> NewTransaction:
        return transaction_of(group[0].payment)

    told = await store.claim_group(group, shared, NOW)
    assert isinstance(told, tuple)
    records = [each for each in told if isinstance(each, Claimed)]
    transaction = records[0].transaction
    await end(store, transaction.id)
    for number, record in enumerate(records):
        await moved(store, record.settlement, SettlementState.CONFIRMED)
        assert await store.find_transaction(transaction.attempts[0].hash) is not None
        assert await forget(store) == 1
        for other in records[number + 1 :]:
            left = await store.get(other.settlement.id)
            assert left is not None
            assert [each.id for each in left.transactions] == [transaction.id]
    assert await store.find_transaction(transaction.attempts[0].hash) is None


async def test_old_fillers_leave_and_those_that_may_be_wanted_stay(store: Store) -> None:
    fillers = {state: await filled(store) for state in TransactionState}
    for state, transaction in fillers.items():
        await end(store, transaction.id, state)
    nonces = {state: transaction.account_nonce for state, transaction in fillers.items()}
    assert await forget(store, before=NOW) == 0  # as old as that, not older
    assert await store.revive(CHAIN_ID, ALICE, nonces[TransactionState.FINAL])
    await end(store, fillers[TransactionState.FINAL].id)
    assert await forget(store) == 0  # fillers are no settlements
    assert [each.id for each in (await store.open_work(CHAIN_ID)).fillers] == [
        fillers[TransactionState.PENDING].id
    ]
    assert [each.id for each in (await store.watched(CHAIN_ID, 0)).fillers] == [
        fillers[TransactionState.MINED].id
    ]
    assert not await store.revive(CHAIN_ID, ALICE, nonces[TransactionState.FINAL])
    assert await store.fill(filler(), nonces[TransactionState.SUPERSEDED], NOW) is not None


@pytest.mark.parametrize("token_nonce", [None, b"\x05" * 32])
@pytest.mark.parametrize("state", FINISHED)
async def test_the_keys_are_known_until_the_payment_cannot_be_presented_any_more(
    store: Store, state: SettlementState, token_nonce: bytes | None
) -> None:
    """With the transaction that paid, or the last one that was to. A failed one may be tried again,
    so nothing is known of it.
    """
    deadline = LATER // 1000 + 7_200
    paid = replace(payment(token_nonce=token_nonce), deadline=deadline)
    first = await finished(store, state, paid)
    keys = keys_of(first.settlement)
    assert len(keys) == 1 + (token_nonce is not None)
    assert await store.used_by(keys) is None
    assert await forget(store) == 1
    known = first.transaction.attempts[-1].hash
    if first.settlement.proof is not None:
        known = first.settlement.proof.transaction_hash
    if state is SettlementState.FAILED:
        assert await store.used_by(keys) is None
        again = await store.claim(settlement_of(paid), transaction_of(paid), LATER)
        assert isinstance(again, Claimed)
        assert again.settlement.id != first.settlement.id
        return
    last = deadline * 1000 + HOUR
    for now in (LATER, last - 1):
        assert await forget(store, now=now) == 0
        for key in keys:
            assert await store.used_by([key]) == known
            assert await store.used_by(["unknown", key]) == known
    assert await forget(store, chain_id=OTHER_CHAIN_ID, now=last) == 0
    assert await store.used_by(keys) == known
    assert await forget(store, now=last) == 0
    assert await store.used_by(keys) is None
    assert await store.used_by([]) is None


async def test_of_a_replaced_transaction_the_last_bytes_are_known(store: Store) -> None:
    paid = replace(payment(), deadline=2**256 - 1)
    first = await claimed(store, paid)
    call = first.transaction.call
    fees = replace(first.transaction.attempts[0].fees, max_fee_per_gas=9 * 10**9)
    attempt = signing(SIGNERS[0], call, fees=fees)(first.transaction.account_nonce)
    assert await store.add_attempt(first.transaction.id, attempt, None, NOW)
    await end(store, first.transaction.id)
    await moved(store, first.settlement, SettlementState.LOST)
    assert await forget(store) == 1
    assert await store.used_by([first.settlement.key]) == attempt.hash


async def test_keys_whose_payment_has_expired_are_not_kept_at_all(store: Store) -> None:
    first = await finished(store)
    assert first.settlement.payment.deadline * 1000 + HOUR < LATER
    assert await forget(store) == 1
    assert await store.used_by(keys_of(first.settlement)) is None


async def test_account_nonces_and_budgets_are_as_before(store: Store) -> None:
    records = [await claimed(store) for _ in range(3)]
    mined = [
        TransactionChange(
            id=record.transaction.id, state=TransactionState.MINED, block_number=9, gas_cost=2**70
        )
        for record in records[:2]
    ]
    changes = [change(record.settlement, SettlementState.CONFIRMED) for record in records[:2]]
    await store.record(mined, changes, NOW)
    assert await store.finalize(CHAIN_ID, 9) == 2
    spent, work = await gas_spent(store, CHAIN_ID, ALICE, NOW), await store.open_work(CHAIN_ID)
    assert await forget(store) == 2
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == spent > 2**71
    assert await store.open_work(CHAIN_ID) == work
    assert await next_nonce(store) == 3
    assert (await claimed(store)).transaction.account_nonce == 3


async def test_an_idempotency_key_is_free_again(store: Store) -> None:
    paid, other = payment(), payment()
    new = settlement_of(paid, idempotency_key="order", body_digest=b"\x01" * 32)
    first = await store.claim(new, transaction_of(paid), NOW)
    assert isinstance(first, Claimed)
    await end(store, first.transaction.id)
    await moved(store, first.settlement, SettlementState.CONFIRMED)
    assert await store.find_reply("", "order") is not None
    assert await forget(store) == 1
    assert await store.find_reply("", "order") is None
    again = settlement_of(other, idempotency_key="order", body_digest=b"\x02" * 32)
    assert isinstance(await store.claim(again, transaction_of(other), NOW), Claimed)


async def test_a_log_that_is_forgotten_proves_nothing_else_before_the_key_is_free(
    store: Store,
) -> None:
    """The same payment is known by its key, and another payment has another log."""
    paid = replace(payment(), deadline=2**63)
    first = await claimed(store, paid)
    await end(store, first.transaction.id)
    confirmed = change(first.settlement, SettlementState.CONFIRMED, seen=proof(1))
    await store.record([], [confirmed], NOW)
    assert await forget(store) == 1
    assert await store.used_by([first.settlement.key]) == proof(1).transaction_hash


async def test_who_opens_a_failed_one_again_meanwhile_loses_nothing(store: Store) -> None:
    """Either it was opened in time and stays, or it is taken on anew; never half of both."""
    failed = [(await finished(store, SettlementState.FAILED)).settlement for _ in range(30)]

    async def again(settlement: Settlement) -> Claimed | None:
        paid = settlement.payment
        for _ in range(3):
            try:
                told = await store.claim(settlement_of(paid), transaction_of(paid), LATER)
            except StoreError:
                continue  # it left in between
            assert isinstance(told, Claimed)
            return told
        return None

    forgetting = asyncio.gather(*(forget(store, limit=7) for _ in range(3)))
    results = await asyncio.gather(*map(again, failed))
    left = await forgetting
    opened = [each.settlement.id for each in results if each is not None]
    assert len(opened) == len(failed)
    old = {settlement.id for settlement in failed}
    assert sum(left) == len(set(opened) - old)
    for told in results:
        assert told is not None
        record = await store.get(told.settlement.id)
        assert record is not None
        assert record.settlement.state is SettlementState.PENDING
        assert record.transactions[-1] == told.transaction
    assert await next_nonce(store) == 2 * len(failed)
