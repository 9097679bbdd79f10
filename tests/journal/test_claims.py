"""Laws of the journal, the same for every engine: what a claim is, and what leaves no trace."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from facilitator.domain.settlement import (
    Attempt,
    Settlement,
    SettlementState,
    Transaction,
    TransactionKind,
    TransactionState,
)
from facilitator.ethereum.abi import Call
from facilitator.ethereum.transactions import ForbiddenCall
from facilitator.journal.store import (
    Claimed,
    IdempotencyKeyTaken,
    KeptReply,
    NewSettlement,
    OpenWork,
    Overcommitted,
    SettlementRecord,
    Store,
    Taken,
)
from tests.support.journal import (
    ALICE,
    BOB,
    CAROL,
    CHAIN_ID,
    LEASE,
    NOW,
    OTHER_CHAIN_ID,
    REFUSAL,
    SIGNERS,
    SignerBroke,
    claimed,
    everything,
    filled,
    filler,
    moved,
    next_nonce,
    no_signature,
    payment,
    settlement_of,
    signing,
    transaction_of,
)

pytestmark = pytest.mark.anyio

# One payment, one claim


async def test_of_200_racers_for_one_payment_one_claims_it(store: Store) -> None:
    """The others are told whose it is, nothing is signed for them, and no nonce is used up."""
    paid = payment()
    signatures = 0

    def sign(account_nonce: int) -> Attempt:
        nonlocal signatures
        signatures += 1
        return signing(SIGNERS[0], transaction_of(paid).call)(account_nonce)

    results = await asyncio.gather(
        *(
            store.claim(settlement_of(paid, waiter=str(n)), transaction_of(paid, sign=sign), NOW)
            for n in range(200)
        )
    )
    (winner,) = (result for result in results if isinstance(result, Claimed))
    losers = [result for result in results if isinstance(result, Taken)]
    assert len(losers) == 199
    assert all(loser.settlement == winner.settlement for loser in losers)
    assert signatures == 1
    assert await next_nonce(store) == 1


async def test_one_token_authorization_serves_one_payment(store: Store) -> None:
    """Two payments of different nonces that pull with the same EIP-3009 nonce: one is claimed."""
    racers = [payment(token_nonce=b"\x05" * 32) for _ in range(20)]
    results = await asyncio.gather(
        *(store.claim(settlement_of(paid), transaction_of(paid), NOW) for paid in racers)
    )
    assert sum(isinstance(result, Claimed) for result in results) == 1
    assert sum(isinstance(result, Taken) for result in results) == 19


@pytest.mark.parametrize("ours", ["key", "second_key"])
@pytest.mark.parametrize("theirs", ["key", "second_key"])
async def test_a_nonce_is_used_up_by_whichever_key_names_it(
    store: Store, ours: str, theirs: str
) -> None:
    """A payment's second nonce may be the first one of another payment."""

    def keyed(which: str, other: str) -> NewSettlement:
        keys = {"key": f"{other}-1", "second_key": f"{other}-2", which: "shared"}
        return settlement_of(payment(), key=keys["key"], second_key=keys["second_key"])

    first, second = keyed(theirs, "a"), keyed(ours, "b")
    winner = await store.claim(first, transaction_of(first.payment), NOW)
    assert isinstance(winner, Claimed)
    result = await store.claim(second, transaction_of(second.payment), NOW)
    assert result == Taken(winner.settlement)
    assert await store.find("shared") == winner.settlement


@pytest.mark.parametrize("amount", [0, 1, 2**63, 2**64, 2**256 - 1])
async def test_what_was_claimed_is_read_back_unchanged(store: Store, amount: int) -> None:
    """Every field of a payment, amounts up to uint256 and any text included."""
    paid = payment(
        amount=amount,
        nonce='\x00"\\\u2028\N{SNOWMAN}\U0001f4b8' + "n" * 300,
        resource="/\N{LATIN SMALL LETTER E WITH ACUTE}?a=1&b=\x7f",
        token_nonce=b"\xff" * 32,
    )
    new, signed = settlement_of(paid, waiter="me"), transaction_of(paid, floor=7)
    result = await store.claim(new, signed, NOW)
    assert isinstance(result, Claimed)
    assert result.settlement == Settlement(
        id=result.settlement.id,
        key=new.key,
        request_digest=new.request_digest,
        dialect="jeju",
        payment=paid,
        state=SettlementState.PENDING,
        version=result.settlement.version,
        waiter="me",
        waiter_until=NOW + LEASE,
        replied_success_at=None,
        proof=None,
        refusal=None,
        created_at=NOW,
        updated_at=NOW,
        traceparent=new.traceparent,
    )
    assert result.transaction == Transaction(
        id=result.transaction.id,
        chain_id=CHAIN_ID,
        signer=ALICE,
        account_nonce=7,
        kind=TransactionKind.SETTLE,
        call=signed.call,
        gas_limit=signed.gas_limit,
        state=TransactionState.PENDING,
        block_number=None,
        attempts=(signing(SIGNERS[0], signed.call)(7),),
    )
    record = SettlementRecord(result.settlement, (result.transaction,))
    assert new.second_key is not None
    assert await store.get(result.settlement.id) == record
    assert await store.find(new.key) == result.settlement
    assert await store.find(new.second_key) == result.settlement
    assert await store.open_work(CHAIN_ID) == OpenWork(records=(record,), fillers=())


# Account nonces


async def test_account_nonces_are_distinct_and_dense(
    engine: Callable[[], Awaitable[Store]],
) -> None:
    """Under concurrency, for settlements and second transactions, across restarts."""
    handed_out: list[int] = []
    for _ in range(3):
        store = await engine()
        first = await claimed(store)
        fresh = [payment() for _ in range(40)]
        results = await asyncio.gather(
            *(store.claim(settlement_of(paid), transaction_of(paid), NOW) for paid in fresh),
            store.settle_again(
                first.settlement.id, first.settlement.version, transaction_of(payment()), NOW
            ),
        )
        transactions = [first.transaction]
        for result in results:
            assert isinstance(result, Claimed | Transaction)
            transactions.append(result.transaction if isinstance(result, Claimed) else result)
        handed_out += [transaction.account_nonce for transaction in transactions]
        await store.close()
    assert sorted(handed_out) == list(range(3 * 42))


async def test_every_signer_counts_for_itself_on_every_chain(store: Store) -> None:
    first = [
        (await filled(store, filler(signer=signer, chain_id=chain_id))).account_nonce
        for signer in SIGNERS
        for chain_id in (CHAIN_ID, OTHER_CHAIN_ID)
        for _ in range(2)
    ]
    assert first == [0, 1] * 6


async def test_an_account_nonce_below_the_floor_is_never_handed_out(store: Store) -> None:
    """And a floor that is lower than what was handed out takes nothing back."""
    assert (await filled(store, filler(floor=5))).account_nonce == 5
    assert (await filled(store, filler(floor=3))).account_nonce == 6
    assert await store.raise_nonce_floor(CHAIN_ID, ALICE, 20) == 20
    assert await store.raise_nonce_floor(CHAIN_ID, ALICE, 10) == 20
    assert (await filled(store)).account_nonce == 20
    assert await store.raise_nonce_floor(CHAIN_ID, BOB, 4) == 4
    assert (await filled(store, filler(signer=SIGNERS[1]))).account_nonce == 4


# Nothing but Claimed leaves a trace


async def test_a_claim_that_is_refused_leaves_no_trace(store: Store) -> None:
    """Taken, IdempotencyKeyTaken, Overcommitted: no row, no nonce, no key, nothing signed."""
    first, other = payment(), payment(nonce="other")
    taken = settlement_of(first, idempotency_key="order-1")
    assert isinstance(await store.claim(taken, transaction_of(first), NOW), Claimed)
    keys = (taken.key, settlement_of(other).key)
    before = await everything(store, *keys)
    for new, kind in (
        (settlement_of(first, waiter="late", idempotency_key="order-2"), Taken),
        (settlement_of(other, idempotency_key="order-1"), IdempotencyKeyTaken),
        (settlement_of(other, idempotency_key="order-3", available=1), Overcommitted),
    ):
        unsigned = transaction_of(new.payment, sign=no_signature, floor=50)
        assert isinstance(await store.claim(new, unsigned, NOW + 1), kind)
        assert await everything(store, *keys) == before
    for idempotency_key in ("order-2", "order-3"):
        free = payment()
        new = settlement_of(free, idempotency_key=idempotency_key)
        assert isinstance(await store.claim(new, transaction_of(free), NOW), Claimed)


async def test_a_signer_that_raises_leaves_no_trace(store: Store) -> None:
    """Its own exception reaches the caller, and what shared the commit is not touched."""
    before = await everything(store)
    broken, fine = payment(nonce="broken"), [payment() for _ in range(10)]
    results = await asyncio.gather(
        *(store.claim(settlement_of(paid), transaction_of(paid), NOW) for paid in fine[:5]),
        store.claim(settlement_of(broken), transaction_of(broken, sign=no_signature), NOW),
        *(store.claim(settlement_of(paid), transaction_of(paid), NOW) for paid in fine[5:]),
        return_exceptions=True,
    )
    assert isinstance(results[5], SignerBroke)
    nonces = [result.transaction.account_nonce for result in results if isinstance(result, Claimed)]
    assert sorted(nonces) == list(range(10))
    assert await store.find(settlement_of(broken).key) is None
    assert before != await everything(store)
    forbidden = signing(SIGNERS[0], Call(CAROL, b"\x00" * 4))
    with pytest.raises(ForbiddenCall):
        await filled(store, replace(filler(), sign=forbidden))
    assert await next_nonce(store) == 10
    assert isinstance(
        await store.claim(settlement_of(broken), transaction_of(broken), NOW), Claimed
    )


# Overcommit


async def test_64_payments_against_a_balance_for_one_claim_one(store: Store) -> None:
    racers = [payment(amount=1_000) for _ in range(64)]
    results = await asyncio.gather(
        *(
            store.claim(settlement_of(paid, available=1_999), transaction_of(paid), NOW)
            for paid in racers
        )
    )
    assert sum(isinstance(result, Claimed) for result in results) == 1
    assert results.count(Overcommitted(999)) == 63


async def test_all_that_a_payer_has_can_be_claimed_and_not_one_unit_more(store: Store) -> None:
    """Amounts are uint256: their sums are exact where 64 bits or floating point would not be."""
    half = 2**255
    await claimed(store, payment(amount=half))
    just_too_much, all_that_is_left = payment(amount=half), payment(amount=half - 1)
    over = settlement_of(just_too_much, available=2**256 - 1)
    fits = settlement_of(all_that_is_left, available=2**256 - 1)
    assert await store.claim(over, transaction_of(just_too_much), NOW) == Overcommitted(half - 1)
    assert isinstance(await store.claim(fits, transaction_of(all_that_is_left), NOW), Claimed)


async def test_only_the_same_payer_asset_and_chain_count(store: Store) -> None:
    await claimed(store, payment(amount=100, payer=BOB))
    await claimed(store, payment(amount=100, asset=BOB))
    await claimed(store, payment(amount=100, chain_id=OTHER_CHAIN_ID))
    paid = payment(amount=100)
    result = await store.claim(settlement_of(paid, available=100), transaction_of(paid), NOW)
    assert isinstance(result, Claimed)


@pytest.mark.parametrize("state", SettlementState)
async def test_what_may_still_be_paid_counts(store: Store, state: SettlementState) -> None:
    """Pending and reorged payments do, all others have moved the money or never will."""
    first = await claimed(store, payment(amount=100))
    if state is not SettlementState.PENDING:
        await moved(store, first.settlement, state)
    paid = payment(amount=1)
    result = await store.claim(settlement_of(paid, available=100), transaction_of(paid), NOW)
    open_still = state in (SettlementState.PENDING, SettlementState.REORGED)
    assert isinstance(result, Overcommitted if open_still else Claimed)


# Idempotency keys


async def test_an_idempotency_key_belongs_to_one_payment_of_its_tenant(store: Store) -> None:
    racers = [payment() for _ in range(50)]
    results = await asyncio.gather(
        *(
            store.claim(settlement_of(paid, idempotency_key="order"), transaction_of(paid), NOW)
            for paid in racers
        )
    )
    (winner,) = (result for result in results if isinstance(result, Claimed))
    assert results.count(IdempotencyKeyTaken(winner.settlement)) == 49
    theirs = payment()
    new = settlement_of(theirs, idempotency_key="order", tenant="somebody else")
    assert isinstance(await store.claim(new, transaction_of(theirs), NOW), Claimed)


async def test_a_conflict_of_payments_is_not_one_of_idempotency_keys(store: Store) -> None:
    """The same payment under its own key, another key, or none: Taken."""
    paid = payment()
    new = settlement_of(paid, idempotency_key="order")
    first = await store.claim(new, transaction_of(paid), NOW)
    assert isinstance(first, Claimed)
    for key in ("order", "another", None):
        again = settlement_of(paid, idempotency_key=key)
        assert await store.claim(again, transaction_of(paid), NOW) == Taken(first.settlement)


# Opening a failed settlement again


async def test_a_failed_settlement_is_opened_again_by_the_identical_request(store: Store) -> None:
    """Once, however many ask; it keeps its id and its first transaction."""
    first = await claimed(store)
    failed = await moved(store, first.settlement, SettlementState.FAILED)
    assert failed.refusal == REFUSAL
    paid = first.settlement.payment
    results = await asyncio.gather(
        *(
            store.claim(
                settlement_of(paid, waiter=f"again {n}", waiter_until=NOW + 2 * LEASE),
                transaction_of(paid),
                NOW + 5,
            )
            for n in range(50)
        )
    )
    (winner,) = (result for result in results if isinstance(result, Claimed))
    assert results.count(Taken(winner.settlement)) == 49
    assert winner.settlement.waiter is not None
    assert winner.settlement == replace(
        first.settlement,
        version=failed.version + 1,
        waiter=winner.settlement.waiter,
        waiter_until=NOW + 2 * LEASE,
        updated_at=NOW + 5,
    )
    assert winner.transaction.account_nonce == 1
    record = await store.get(first.settlement.id)
    assert record == SettlementRecord(winner.settlement, (first.transaction, winner.transaction))


async def test_a_failed_settlement_is_not_opened_by_another_request(store: Store) -> None:
    """Neither by other terms for the same nonce, nor by way of its second nonce."""
    gasless = payment(token_nonce=b"\x06" * 32)
    failed = await moved(store, (await claimed(store, gasless)).settlement, SettlementState.FAILED)
    sibling = payment(token_nonce=b"\x06" * 32)
    before = await everything(store, failed.key)
    for new in (
        settlement_of(gasless, digest=b"\x00" * 32),
        settlement_of(sibling),
        settlement_of(sibling, digest=failed.request_digest),
    ):
        result = await store.claim(new, transaction_of(new.payment, sign=no_signature), NOW)
        assert result == Taken(failed)
    assert await everything(store, failed.key) == before


@pytest.mark.parametrize(
    "state", [each for each in SettlementState if each is not SettlementState.FAILED]
)
async def test_only_a_failed_settlement_is_opened_again(
    store: Store, state: SettlementState
) -> None:
    first = await claimed(store)
    settlement = first.settlement
    if state is not SettlementState.PENDING:
        settlement = await moved(store, settlement, state)
    new = settlement_of(settlement.payment)
    result = await store.claim(new, transaction_of(settlement.payment, sign=no_signature), NOW)
    assert result == Taken(settlement)


async def test_a_failed_settlement_stays_failed_where_it_cannot_be_opened(store: Store) -> None:
    """The signer raises, or the balance has gone meanwhile."""
    failed = await moved(store, (await claimed(store)).settlement, SettlementState.FAILED)
    paid = failed.payment
    with pytest.raises(SignerBroke):
        await store.claim(settlement_of(paid), transaction_of(paid, sign=no_signature), NOW)
    poor = settlement_of(paid, available=paid.amount - 1)
    result = await store.claim(poor, transaction_of(paid, sign=no_signature), NOW)
    assert result == Overcommitted(paid.amount - 1)
    assert await store.find(failed.key) == failed
    assert await next_nonce(store) == 1


async def test_an_idempotency_key_survives_failing_and_opening(store: Store) -> None:
    paid = payment()
    new = settlement_of(paid, idempotency_key="order", tenant="shop")
    first = await store.claim(new, transaction_of(paid), NOW)
    assert isinstance(first, Claimed)
    await moved(store, first.settlement, SettlementState.FAILED)
    again = await store.claim(settlement_of(paid), transaction_of(paid), NOW)
    assert isinstance(again, Claimed)
    other = settlement_of(payment(), idempotency_key="order", tenant="shop")
    result = await store.claim(other, transaction_of(other.payment), NOW)
    assert result == IdempotencyKeyTaken(again.settlement)


async def test_the_key_of_the_request_that_opens_a_failure_again_is_kept(store: Store) -> None:
    """With its body, for its reply; the key from before is free, and may come with any payment."""
    paid = payment()
    new = settlement_of(paid, idempotency_key="order-1", body_digest=b"1")
    first = await store.claim(new, transaction_of(paid), NOW)
    assert isinstance(first, Claimed)
    await moved(store, first.settlement, SettlementState.FAILED)
    await store.keep_reply(first.settlement.id, b"failed")
    new = settlement_of(paid, idempotency_key="order-2", body_digest=b"2")
    again = await store.claim(new, transaction_of(paid), NOW)
    assert isinstance(again, Claimed)
    assert again.settlement.idempotency_key == "order-2"
    assert await store.find_reply("", "order-2") == KeptReply(b"2", None)
    assert await store.find_reply("", "order-1") is None
    other = settlement_of(payment(), idempotency_key="order-2")
    refused = await store.claim(other, transaction_of(other.payment), NOW)
    assert refused == IdempotencyKeyTaken(again.settlement)
    other = settlement_of(payment(), idempotency_key="order-1")
    assert isinstance(await store.claim(other, transaction_of(other.payment), NOW), Claimed)
    confirmed = await moved(store, again.settlement, SettlementState.CONFIRMED)
    assert await store.mark_success_replied(confirmed.id, "waiter", NOW, b"paid")
    assert await store.find_reply("", "order-2") == KeptReply(b"2", b"paid")


async def test_a_failure_is_opened_again_under_its_own_key_but_not_under_anothers(
    store: Store,
) -> None:
    """A key that another payment has is a conflict as at a first claim, and leaves no trace."""
    paid, other = payment(), settlement_of(payment(), idempotency_key="theirs")
    new = settlement_of(paid, idempotency_key="own", body_digest=b"1")
    first = await store.claim(new, transaction_of(paid), NOW)
    theirs = await store.claim(other, transaction_of(other.payment), NOW)
    assert isinstance(first, Claimed)
    assert isinstance(theirs, Claimed)
    await moved(store, first.settlement, SettlementState.FAILED)
    before = await everything(store, new.key)
    for key in ("theirs", "own"):
        once_more = settlement_of(paid, idempotency_key=key, body_digest=b"2")
        told = await store.claim(once_more, transaction_of(paid), NOW + 1)
        if key == "theirs":
            assert told == IdempotencyKeyTaken(theirs.settlement)
            assert await everything(store, new.key) == before
        else:
            assert isinstance(told, Claimed)
            assert told.settlement.idempotency_key == "own"
    assert await store.find_reply("", "own") == KeptReply(b"2", None)


async def test_of_failures_opened_again_at_once_with_one_key_one_has_it(store: Store) -> None:
    """Together with first claims that bring the same key."""
    failed = [await claimed(store) for _ in range(10)]
    for each in failed:
        await moved(store, each.settlement, SettlementState.FAILED)
    racers = [*(each.settlement.payment for each in failed), *(payment() for _ in range(10))]
    results = await asyncio.gather(
        *(
            store.claim(settlement_of(paid, idempotency_key="order"), transaction_of(paid), NOW)
            for paid in racers
        )
    )
    (winner,) = (result for result in results if isinstance(result, Claimed))
    assert results.count(IdempotencyKeyTaken(winner.settlement)) == 19
