"""Laws of the journal, the same for every engine: what must not be sent again becomes a filler."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from facilitator.domain.budget import DAY_MS
from facilitator.domain.settlement import (
    Attempt,
    SettlementState,
    Transaction,
    TransactionKind,
    TransactionState,
)
from facilitator.ethereum.fees import GWEI, Fees
from facilitator.journal.store import (
    Claimed,
    NewTransaction,
    OpenWork,
    SettlementRecord,
    Store,
    TransactionChange,
)
from tests.support.journal import (
    ALICE,
    BOB,
    CHAIN_ID,
    LEASE,
    NOW,
    OTHER_CHAIN_ID,
    SIGNERS,
    SignerBroke,
    claimed,
    everything,
    filled,
    filler,
    gas_spent,
    moved,
    next_nonce,
    payment,
    settlement_of,
    signing,
    transaction_of,
)

pytestmark = pytest.mark.anyio

TOLD = (SettlementState.FAILED, SettlementState.LOST)
LATER = NOW + 60_000


def outbidding(
    account_nonce: int, seen: list[Attempt] | None = None
) -> Callable[[Attempt], Attempt]:
    """What signs a filler at twice the fees of the attempt that it is given."""

    def outbid(last: Attempt) -> Attempt:
        if seen is not None:
            seen.append(last)
        fees = Fees(2 * last.fees.max_fee_per_gas, 2 * last.fees.max_priority_fee_per_gas)
        return signing(SIGNERS[0], filler().call, fees=fees)(account_nonce)

    return outbid


async def replaced_with_filler(
    store: Store, account_nonce: int, new: NewTransaction | None = None, now: int = NOW
) -> Transaction | None:
    outbid = outbidding(account_nonce)
    return await store.replace_with_filler(new or filler(), account_nonce, outbid, now)


async def ended(
    store: Store, transaction: Transaction, state: TransactionState, cost: int | None = None
) -> None:
    mined = state in (TransactionState.MINED, TransactionState.FINAL)
    seen = TransactionState.MINED if mined else state
    end = TransactionChange(
        id=transaction.id, state=seen, block_number=9 if mined else None, gas_cost=cost
    )
    await store.record([end], [], NOW)
    if state is TransactionState.FINAL:
        await store.finalize(CHAIN_ID, 9)


async def told(store: Store, state: SettlementState = SettlementState.FAILED) -> Claimed:
    """Superseded, and its settlement in that state."""
    first = await claimed(store)
    settlement = await moved(store, first.settlement, state)
    await ended(store, first.transaction, TransactionState.SUPERSEDED)
    return replace(first, settlement=settlement)


@pytest.mark.parametrize("state", SettlementState)
@pytest.mark.parametrize("carrier", TransactionState)
async def test_it_is_what_carries_a_told_failure_and_is_not_mined(
    store: Store, state: SettlementState, carrier: TransactionState
) -> None:
    """Everything else stays as it is, and is revived where it has ended."""
    first = await claimed(store)
    settlement = first.settlement
    if state is not SettlementState.PENDING:
        settlement = await moved(store, settlement, state)
    await ended(store, first.transaction, carrier)
    before = await store.get(settlement.id)
    filling = await replaced_with_filler(store, first.transaction.account_nonce)
    if state not in TOLD or carrier is TransactionState.MINED:
        assert filling is None
        assert await store.get(settlement.id) == before
        return
    new = filler()
    attempt = signing(SIGNERS[0], new.call, fees=Fees(4 * GWEI, 2 * GWEI))(0)
    assert filling == replace(
        first.transaction,
        kind=TransactionKind.FILL,
        call=new.call,
        gas_limit=new.gas_limit,
        attempts=(*first.transaction.attempts, attempt),
    )
    assert await store.get(settlement.id) == SettlementRecord(settlement, (filling,))
    assert await store.open_work(CHAIN_ID) == OpenWork(
        (SettlementRecord(settlement, (filling,)),), ()
    )
    for each in filling.attempts:
        assert await store.find_transaction(each.hash) == settlement
    assert await store.in_flight(CHAIN_ID) == {ALICE: 1}
    assert await next_nonce(store) == 1


async def test_nobody_else_s_and_no_other_nonce(store: Store) -> None:
    nonce = (await told(store)).transaction.account_nonce
    free = await filled(store)
    before = await everything(store)
    assert await replaced_with_filler(store, nonce, filler(signer=SIGNERS[1])) is None
    assert await replaced_with_filler(store, nonce, filler(chain_id=OTHER_CHAIN_ID)) is None
    assert await replaced_with_filler(store, free.account_nonce) is None
    assert await replaced_with_filler(store, free.account_nonce + 1) is None
    assert await everything(store) == before
    assert not await store.revive(CHAIN_ID, BOB, nonce)


async def test_it_outbids_the_last_attempt(store: Store) -> None:
    first = await claimed(store)
    dearer = signing(SIGNERS[0], first.transaction.call, fees=Fees(9 * GWEI, 5 * GWEI))(0)
    assert await store.add_attempt(first.transaction.id, dearer, None, NOW)
    await moved(store, first.settlement, SettlementState.LOST)
    seen: list[Attempt] = []
    outbid = outbidding(0, seen)
    filling = await store.replace_with_filler(filler(), 0, outbid, NOW)
    assert filling is not None
    assert (seen, filling.attempts[:-1]) == ([dearer], (*first.transaction.attempts, dearer))
    assert filling.attempts[-1].fees == Fees(18 * GWEI, 10 * GWEI)
    assert filling.carrying == first.transaction.attempts[0]


async def test_one_that_cannot_be_signed_changes_nothing(store: Store) -> None:
    first = await told(store)
    before = await store.get(first.settlement.id), await everything(store)

    def broken(last: Attempt) -> Attempt:
        raise SignerBroke(last.hash)

    with pytest.raises(SignerBroke):
        await store.replace_with_filler(filler(), first.transaction.account_nonce, broken, NOW)
    assert (await store.get(first.settlement.id), await everything(store)) == before


async def test_a_filler_that_has_taken_its_place_is_one_from_then_on(store: Store) -> None:
    """Pending, mined, watched, superseded and wanted again like any other, and never taken over."""
    first = await told(store)
    nonce = first.transaction.account_nonce
    assert not await store.revive(CHAIN_ID, ALICE, nonce)
    filling = await replaced_with_filler(store, nonce)
    assert filling is not None
    assert (await store.open_work(CHAIN_ID)).given_up == ()
    assert await replaced_with_filler(store, nonce) is None
    await ended(store, filling, TransactionState.MINED)
    [record] = (await store.watched(CHAIN_ID, 100)).records
    mined = replace(filling, state=TransactionState.MINED, block_number=9)
    assert record == SettlementRecord(first.settlement, (mined,))
    for state in (TransactionState.FINAL, TransactionState.SUPERSEDED):
        await ended(store, filling, state)
        assert await replaced_with_filler(store, nonce) is None
        assert await store.revive(CHAIN_ID, ALICE, nonce)
        assert await store.open_work(CHAIN_ID) == OpenWork(
            (SettlementRecord(first.settlement, (filling,)),), ()
        )


async def test_what_must_not_be_sent_again_is_told_apart(store: Store) -> None:
    """Set free by a reorg after a settlement was told to have failed; once, whatever it carries."""
    group = [settlement_of(payment()) for _ in range(3)]
    answers = await store.claim_group(group, lambda _: transaction_of(group[0].payment), NOW)
    assert isinstance(answers, tuple)
    records = [each for each in answers if isinstance(each, Claimed)]
    other = await claimed(store)
    assert (await store.open_work(CHAIN_ID)).given_up == ()
    states = (SettlementState.FAILED, SettlementState.LOST, SettlementState.CONFIRMED)
    for each, state in zip(records, states, strict=True):
        await moved(store, each.settlement, state)
    work = await store.open_work(CHAIN_ID)
    assert work.given_up == (records[0].transaction,)
    filling = await replaced_with_filler(store, records[0].transaction.account_nonce)
    assert filling is not None
    for each in records:
        carried = await store.get(each.settlement.id)
        assert carried is not None
        assert carried.transactions == (filling,)
    assert await store.get(other.settlement.id) == SettlementRecord(
        other.settlement, (other.transaction,)
    )
    assert (await store.open_work(CHAIN_ID)).given_up == ()


async def test_a_payment_that_is_asked_for_again_is_settled_beside_the_filler(
    store: Store,
) -> None:
    first = await told(store)
    filling = await replaced_with_filler(store, first.transaction.account_nonce)
    again = await store.claim(
        settlement_of(first.settlement.payment), transaction_of(first.settlement.payment), LATER
    )
    assert isinstance(again, Claimed)
    record = await store.get(first.settlement.id)
    assert record is not None
    assert record.transactions == (filling, again.transaction)


@pytest.mark.parametrize("later", [NOW, NOW + DAY_MS])
async def test_what_the_first_one_had_cost_is_not_spent(store: Store, later: int) -> None:
    """By the day of its signing; what the filler may cost counts, and what it did, by its own."""
    first = await claimed(store)
    await moved(store, first.settlement, SettlementState.FAILED)
    await ended(store, first.transaction, TransactionState.FINAL, cost=2**80)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == 2**80
    new = replace(filler(), l1_fee=5, gas_budget=1)
    filling = await replaced_with_filler(store, 0, new, later)
    assert filling is not None
    assert filling.l1_fee == 5
    assert await gas_spent(store, CHAIN_ID, ALICE, later) == 21_000 * 4 * GWEI + 5
    await ended(store, filling, TransactionState.FINAL, cost=7)
    assert await gas_spent(store, CHAIN_ID, ALICE, later) == 7
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == (7 if later == NOW else 0)


async def test_what_had_cost_nothing_gives_nothing_back(store: Store) -> None:
    first, second = await told(store), await claimed(store)
    await ended(store, second.transaction, TransactionState.FINAL, cost=3)
    assert await replaced_with_filler(store, first.transaction.account_nonce) is not None
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == 21_000 * 4 * GWEI + 3


async def forget(store: Store, now: int) -> int:
    """One settlement, and one filler beside it."""
    return await store.forget(CHAIN_ID, horizon=100, before=now, now=now, limit=1)


async def test_it_is_forgotten_with_what_it_carried_and_not_before(store: Store) -> None:
    first = await told(store)
    filling = await replaced_with_filler(store, first.transaction.account_nonce)
    assert filling is not None
    await ended(store, filling, TransactionState.FINAL)
    other = await filled(store)
    await ended(store, other, TransactionState.FINAL)
    assert await forget(store, NOW + 2) == 0  # somebody listens
    assert await store.get(first.settlement.id) is not None
    assert await store.fill(filler(), other.account_nonce, NOW) is not None  # that one has left
    assert await forget(store, NOW + LEASE + 1) == 1
    assert await store.fill(filler(), filling.account_nonce, NOW) is not None


async def test_of_what_is_forgotten_the_payment_s_own_transaction_is_told(store: Store) -> None:
    first = await claimed(store, replace(payment(), deadline=NOW // 1000 + 10_000))
    await moved(store, first.settlement, SettlementState.LOST)
    await ended(store, first.transaction, TransactionState.SUPERSEDED)
    filling = await replaced_with_filler(store, first.transaction.account_nonce)
    assert filling is not None
    await ended(store, filling, TransactionState.SUPERSEDED)
    assert await forget(store, NOW + LEASE + 1) == 1
    assert await store.used_by([first.settlement.key]) == first.transaction.attempts[0].hash
