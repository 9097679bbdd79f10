"""Laws of the journal, the same for every engine: what becomes of what was claimed."""

import asyncio

import pytest
from msgspec.structs import replace

from facilitator.domain.settlement import (
    SettlementState,
    Transaction,
    TransactionState,
)
from facilitator.ethereum.fees import GWEI, Fees
from facilitator.journal.store import (
    Claimed,
    OpenWork,
    SettlementChange,
    SettlementRecord,
    Store,
    StoreError,
    TransactionChange,
)
from tests.support.engines import Engine
from tests.support.journal import (
    ALICE,
    BOB,
    CHAIN_ID,
    NOW,
    OTHER_CHAIN_ID,
    SIGNERS,
    SignerBroke,
    change,
    claimed,
    everything,
    filled,
    filler,
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

# Further transactions and attempts


@pytest.mark.parametrize("state", SettlementState)
async def test_only_an_open_settlement_gets_a_further_transaction(
    store: Store, state: SettlementState
) -> None:
    """Once a version: of 20 that saw the same one, one gets it."""
    first = await claimed(store)
    settlement = first.settlement
    if state is not SettlementState.PENDING:
        settlement = await moved(store, settlement, state)
    results = await asyncio.gather(
        *(
            store.settle_again(
                settlement.id, settlement.version, transaction_of(settlement.payment), NOW + 2
            )
            for _ in range(20)
        )
    )
    further = [result for result in results if isinstance(result, Transaction)]
    record = await store.get(settlement.id)
    if state in (SettlementState.PENDING, SettlementState.REORGED):
        assert len(further) == 1
        after = replace(settlement, version=settlement.version + 1, updated_at=NOW + 2)
        assert record == SettlementRecord(after, (first.transaction, further[0]))
    else:
        assert not further
        assert record == SettlementRecord(settlement, (first.transaction,))
    assert await next_nonce(store) == 1 + len(further)


async def test_a_further_transaction_that_cannot_be_signed_changes_nothing(store: Store) -> None:
    first = (await claimed(store)).settlement
    unsigned = transaction_of(first.payment, sign=no_signature)
    with pytest.raises(SignerBroke):
        await store.settle_again(first.id, first.version, unsigned, NOW)
    assert await store.settle_again("another", 1, unsigned, NOW) is None
    assert await store.find(first.key) == first
    assert await next_nonce(store) == 1


async def test_a_replacement_is_kept_in_the_order_of_signing(store: Store) -> None:
    transaction = (await claimed(store)).transaction
    attempts = list(transaction.attempts)
    for gwei in (9, 3, 7):
        fees = Fees(gwei * GWEI, GWEI)
        attempts.append(signing(SIGNERS[0], transaction.call, fees=fees)(0))
        assert await store.add_attempt(transaction.id, attempts[-1], None, NOW)
    work = await store.open_work(CHAIN_ID)
    assert work.records[0].transactions == (replace(transaction, attempts=tuple(attempts)),)


@pytest.mark.parametrize(
    "state", [each for each in TransactionState if each is not TransactionState.PENDING]
)
async def test_only_a_pending_transaction_is_replaced(
    store: Store, state: TransactionState
) -> None:
    first = await claimed(store)
    await store.record([TransactionChange(id=first.transaction.id, state=state)], [], NOW)
    other = signing(SIGNERS[0], first.transaction.call, fees=Fees(GWEI, GWEI))(0)
    assert not await store.add_attempt(first.transaction.id, other, None, NOW)
    assert not await store.add_attempt(first.transaction.id + 1, other, None, NOW)
    record = await store.get(first.settlement.id)
    assert record is not None
    assert record.transactions == (replace(first.transaction, state=state),)


async def test_the_same_bytes_are_stored_for_one_transaction_only(store: Store) -> None:
    """A signer that does not use the nonce that it was given cannot get two transactions."""
    attempt = (await claimed(store)).transaction.attempts[0]
    with pytest.raises(StoreError):
        await filled(store, replace(filler(), sign=lambda _: attempt))
    assert await next_nonce(store) == 1


# Recording what the chain showed


async def test_a_change_is_applied_to_the_version_that_it_was_made_for(store: Store) -> None:
    """Of 50 that saw the same version one is applied; the rest and all later ones are left out."""
    settlement = (await claimed(store)).settlement
    racers = [
        change(settlement, state)
        for state in (SettlementState.CONFIRMED, SettlementState.FAILED) * 25
    ]
    results = await asyncio.gather(*(store.record([], [racer], NOW + 3) for racer in racers))
    (changed,) = (result for result in results if result)
    assert changed == (await store.find(settlement.key),)
    assert changed[0].version == settlement.version + 1
    assert changed[0].updated_at == NOW + 3
    assert await store.record([], racers, NOW + 4) == ()
    stranger = SettlementChange(id="another", version=1, state=SettlementState.FAILED)
    assert await store.record([], [stranger], NOW) == ()


async def test_a_settlement_goes_through_its_states(store: Store) -> None:
    """A proof stands in the confirmed state only, a refusal in failed and lost ones."""
    settlement = (await claimed(store)).settlement
    for state in (
        SettlementState.CONFIRMED,
        SettlementState.REORGED,
        SettlementState.CONFIRMED,
        SettlementState.REORGED,
        SettlementState.LOST,
    ):
        wanted = change(settlement, state)
        settlement = await moved(store, settlement, state)
        assert (settlement.proof, settlement.refusal) == (wanted.proof, wanted.refusal)
        assert await store.find(settlement.key) == settlement


async def test_one_proof_never_proves_two_settlements(store: Store) -> None:
    """The second is left out, and everything else in the same call is applied."""
    first, second, third = [await claimed(store) for _ in range(3)]
    same = proof(1)
    changes = [
        change(first.settlement, SettlementState.CONFIRMED, seen=same),
        change(second.settlement, SettlementState.CONFIRMED, seen=same),
        change(third.settlement, SettlementState.CONFIRMED, seen=proof(1, log_index=4)),
    ]
    ended = [
        TransactionChange(id=each.transaction.id, state=TransactionState.MINED, block_number=9)
        for each in (first, second, third)
    ]
    changed = await store.record(ended, changes, NOW)
    assert [settlement.id for settlement in changed] == [first.settlement.id, third.settlement.id]
    assert await store.record([], changes[1:2], NOW) == ()
    record = await store.get(second.settlement.id)
    assert record is not None
    assert record.settlement == second.settlement
    assert record.transactions[0].state is TransactionState.MINED
    assert record.transactions[0].block_number == 9


async def test_racers_with_one_proof_confirm_one_settlement(store: Store) -> None:
    settlements = [(await claimed(store)).settlement for _ in range(20)]
    changed = await asyncio.gather(
        *(
            store.record([], [change(each, SettlementState.CONFIRMED, seen=proof(1))], NOW)
            for each in settlements
        )
    )
    assert sum(map(len, changed)) == 1


async def test_a_proof_is_one_of_its_chain_and_free_again_after_a_reorg(store: Store) -> None:
    same = proof(1)
    first = (await claimed(store)).settlement
    second = (await claimed(store)).settlement
    far = (await claimed(store, payment(chain_id=OTHER_CHAIN_ID))).settlement
    confirmed = SettlementState.CONFIRMED
    changes = [change(first, confirmed, seen=same), change(far, confirmed, seen=same)]
    changed = await store.record([], changes, NOW)
    assert [each.id for each in changed] == [first.id, far.id]
    await moved(store, changed[0], SettlementState.REORGED)
    assert len(await store.record([], [change(second, confirmed, seen=same)], NOW)) == 1


# What the loop has to look at


async def test_open_work_is_what_can_still_change(store: Store) -> None:
    """Settlements in pending or reorged, those with a pending transaction, pending fillers; of this
    chain only.
    """
    mined = TransactionState.MINED
    expected: list[str] = []
    for state in SettlementState:
        for transaction_state in TransactionState:
            first = await claimed(store)
            if state is not SettlementState.PENDING:
                await moved(store, first.settlement, state)
            ended = TransactionChange(id=first.transaction.id, state=transaction_state)
            await store.record([ended], [], NOW)
            if transaction_state is TransactionState.PENDING or state in (
                SettlementState.PENDING,
                SettlementState.REORGED,
            ):
                expected.append(first.settlement.id)
    waiting = await filled(store, filler(signer=SIGNERS[1]))
    gone = await filled(store, filler(signer=SIGNERS[1]))
    await store.record([TransactionChange(id=gone.id, state=mined, block_number=1)], [], NOW)
    await claimed(store, payment(chain_id=OTHER_CHAIN_ID))
    await filled(store, filler(chain_id=OTHER_CHAIN_ID))
    work = await store.open_work(CHAIN_ID)
    assert sorted(record.settlement.id for record in work.records) == sorted(expected)
    assert work.fillers == (waiting,)
    for record in work.records:
        assert await store.get(record.settlement.id) == record
    assert await store.open_work(1) == OpenWork(records=(), fillers=())


async def test_what_was_mined_is_watched_until_it_is_buried(store: Store) -> None:
    records = [await claimed(store) for _ in range(4)]
    far = await claimed(store, payment(chain_id=OTHER_CHAIN_ID))
    blocks = (10, 11, 12, None)
    for first, block in zip((*records, far), (*blocks, 10), strict=True):
        state = TransactionState.MINED if block else TransactionState.PENDING
        ended = TransactionChange(id=first.transaction.id, state=state, block_number=block)
        await store.record([ended], [], NOW)

    async def watched() -> list[str]:
        found = (await store.watched(CHAIN_ID, 100)).records
        assert [await store.get(record.settlement.id) for record in found] == list(found)
        return sorted(record.settlement.id for record in found)

    assert await watched() == sorted(each.settlement.id for each in records[:3])
    assert await store.finalize(CHAIN_ID, 9) == 0
    assert await store.finalize(CHAIN_ID, 11) == 2
    assert await store.finalize(CHAIN_ID, 11) == 0
    assert await watched() == [records[2].settlement.id]
    buried = await store.get(records[0].settlement.id)
    assert buried is not None
    assert buried.transactions[0].state is TransactionState.FINAL
    assert buried.transactions[0].block_number == 10
    assert len((await store.watched(OTHER_CHAIN_ID, 100)).records) == 1


async def test_a_reorg_takes_a_mined_transaction_back(store: Store) -> None:
    first = await claimed(store)
    mined = TransactionChange(
        id=first.transaction.id, state=TransactionState.MINED, block_number=10
    )
    await store.record([mined], [], NOW)
    undone = TransactionChange(id=first.transaction.id, state=TransactionState.PENDING)
    await store.record([undone], [], NOW)
    record = SettlementRecord(first.settlement, (first.transaction,))
    assert await store.open_work(CHAIN_ID) == OpenWork(records=(record,), fillers=())
    assert await store.watched(CHAIN_ID, 0) == OpenWork(records=(), fillers=())


@pytest.mark.parametrize("state", TransactionState)
async def test_an_ended_transaction_may_be_wanted_again(
    store: Store, state: TransactionState
) -> None:
    """One that was superseded or is final is pending again; nobody else's, and no other nonce."""
    await filled(store)
    ended = await filled(store)
    await store.record([TransactionChange(id=ended.id, state=state, block_number=7)], [], NOW)
    assert not await store.revive(CHAIN_ID, BOB, ended.account_nonce)
    assert not await store.revive(OTHER_CHAIN_ID, ALICE, ended.account_nonce)
    assert not await store.revive(CHAIN_ID, ALICE, ended.account_nonce + 1)
    wanted = state in (TransactionState.SUPERSEDED, TransactionState.FINAL)
    assert await store.revive(CHAIN_ID, ALICE, ended.account_nonce) is wanted
    pending = wanted or state is TransactionState.PENDING
    assert (ended.id in [each.id for each in (await store.open_work(CHAIN_ID)).fillers]) is pending
    assert not await store.revive(CHAIN_ID, ALICE, ended.account_nonce)


@pytest.mark.parametrize("state", SettlementState)
async def test_no_transaction_of_a_settlement_that_was_told_to_have_failed_is_revived(
    store: Store, state: SettlementState
) -> None:
    first = await claimed(store)
    if state is not SettlementState.PENDING:
        await moved(store, first.settlement, state)
    gone = TransactionChange(id=first.transaction.id, state=TransactionState.SUPERSEDED)
    await store.record([gone], [], NOW)
    revived = await store.revive(
        CHAIN_ID, first.transaction.signer, first.transaction.account_nonce
    )
    assert revived is (state not in (SettlementState.FAILED, SettlementState.LOST))


async def test_in_flight_counts_the_pending_transactions_of_each_signer(store: Store) -> None:
    assert await store.in_flight(CHAIN_ID) == {}
    for signer in (*SIGNERS[:2], SIGNERS[0]):
        await filled(store, filler(signer=signer))
    last = await filled(store, filler(signer=SIGNERS[1]))
    await filled(store, filler(chain_id=OTHER_CHAIN_ID))
    assert await store.in_flight(CHAIN_ID) == {ALICE: 2, BOB: 2}
    await store.record([TransactionChange(id=last.id, state=TransactionState.MINED)], [], NOW)
    assert await store.in_flight(CHAIN_ID) == {ALICE: 2, BOB: 1}


# The life of the journal itself


async def test_closing_finishes_what_was_asked(engine: Engine) -> None:
    """And afterwards the journal refuses, as often as it is closed."""
    store = await engine()
    fresh = [payment() for _ in range(100)]
    claims = [
        asyncio.ensure_future(store.claim(settlement_of(paid), transaction_of(paid), NOW))
        for paid in fresh
    ]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert all([isinstance(await claim, Claimed) for claim in claims])
    with pytest.raises(StoreError):
        await store.find("key")
    with pytest.raises(StoreError):
        await store.ping()
    await store.close()
    store = await engine()
    assert len((await store.open_work(CHAIN_ID)).records) == 100
    await store.close()


async def test_a_journal_that_can_be_written_answers_a_ping(store: Store) -> None:
    before = await everything(store)
    await store.ping()
    assert await everything(store) == before
