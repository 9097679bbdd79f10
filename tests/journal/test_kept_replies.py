"""Laws of the journal, the same for every engine: replies kept for repetition, and whose a
transaction is.
"""

from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from facilitator.domain.settlement import Settlement, SettlementState
from facilitator.journal.store import Claimed, KeptReply, Store, Taken
from tests.support.journal import (
    NOW,
    REFUSAL,
    SIGNERS,
    change,
    claimed,
    moved,
    payment,
    proof,
    settlement_of,
    signing,
    transaction_of,
)

pytestmark = pytest.mark.anyio

DIGEST = b"\xd1" * 32


async def keyed(store: Store, key: str | None = "order", tenant: str = "") -> Settlement:
    """A pending settlement that came with an idempotency key."""
    paid = payment()
    new = settlement_of(paid, idempotency_key=key, body_digest=DIGEST, tenant=tenant)
    result = await store.claim(new, transaction_of(paid), NOW)
    assert isinstance(result, Claimed)
    return result.settlement


async def test_a_key_holds_its_requests_digest_from_the_claim_on(store: Store) -> None:
    assert await store.find_reply("", "order") is None
    await keyed(store)
    assert await store.find_reply("", "order") == KeptReply(DIGEST, None)
    assert await store.find_reply("", "Order") is None
    assert await store.find_reply("", "") is None


async def test_a_key_is_its_tenants_own(store: Store) -> None:
    await keyed(store, tenant="shop")
    assert await store.find_reply("", "order") is None
    assert await store.find_reply("shop", "order") == KeptReply(DIGEST, None)


async def test_a_claim_that_does_not_succeed_keeps_no_key(store: Store) -> None:
    first = await keyed(store, None)
    new = settlement_of(first.payment, idempotency_key="late", body_digest=DIGEST)
    assert isinstance(await store.claim(new, transaction_of(first.payment), NOW), Taken)
    poor = settlement_of(payment(), idempotency_key="late", body_digest=DIGEST, available=0)
    await store.claim(poor, transaction_of(poor.payment), NOW)
    assert await store.find_reply("", "late") is None


async def test_a_success_is_kept_with_the_right_to_say_it(
    store: Store, engine: Callable[[], Awaitable[Store]]
) -> None:
    """In one step: no crash leaves the one without the other."""
    settlement = await keyed(store)
    assert not await store.mark_success_replied(settlement.id, "waiter", NOW, b"early")
    settlement = await moved(store, settlement, SettlementState.CONFIRMED)
    assert not await store.mark_success_replied(settlement.id, "somebody else", NOW, b"theirs")
    assert await store.find_reply("", "order") == KeptReply(DIGEST, None)
    assert await store.mark_success_replied(settlement.id, "waiter", NOW, b"\x00success\xff")
    assert not await store.mark_success_replied(settlement.id, "waiter", NOW, b"again")
    await store.close()
    opened = await engine()
    assert await opened.find_reply("", "order") == KeptReply(DIGEST, b"\x00success\xff")
    await opened.close()


@pytest.mark.parametrize("state", list(SettlementState))
async def test_only_an_end_that_is_no_success_is_kept_as_a_failure(
    store: Store, state: SettlementState
) -> None:
    settlement = await keyed(store)
    if state in (SettlementState.REORGED, SettlementState.LOST):
        settlement = await moved(store, settlement, SettlementState.CONFIRMED)
        settlement = await moved(store, settlement, SettlementState.REORGED)
    if state not in (SettlementState.PENDING, SettlementState.REORGED):
        settlement = await moved(store, settlement, state)
    await store.keep_reply(settlement.id, b"no")
    final = state in (SettlementState.FAILED, SettlementState.LOST)
    assert await store.find_reply("", "order") == KeptReply(DIGEST, b"no" if final else None)


async def test_a_failure_that_is_opened_again_is_repeated_no_more(store: Store) -> None:
    """The money may move now, so that nobody is told from memory that it does not."""
    settlement = await keyed(store)
    failed = await moved(store, settlement, SettlementState.FAILED)
    assert failed.refusal == REFUSAL
    await store.keep_reply(settlement.id, b"no")
    paid = failed.payment
    again = await store.claim(settlement_of(paid), transaction_of(paid), NOW)
    assert isinstance(again, Claimed)
    assert await store.find_reply("", "order") == KeptReply(DIGEST, None)


async def test_every_attempt_leads_to_its_settlement(store: Store) -> None:
    one, other = await claimed(store), await claimed(store)
    call = transaction_of(one.settlement.payment).call
    bumped = signing(SIGNERS[0], call)(one.transaction.account_nonce + 100)
    assert await store.add_attempt(one.transaction.id, bumped, None, NOW)
    for attempt in (*one.transaction.attempts, bumped):
        assert await store.find_transaction(attempt.hash) == one.settlement
    assert await store.find_transaction(other.transaction.attempts[0].hash) == other.settlement
    assert await store.find_transaction(b"\x99" * 32) is None
    assert await store.find_transaction(b"") is None


async def test_somebody_elses_transaction_leads_to_what_it_proves(store: Store) -> None:
    settlement = (await claimed(store)).settlement
    theirs = replace(proof(7), transaction_hash=b"\x77" * 32)
    confirmed = change(settlement, SettlementState.CONFIRMED, seen=theirs)
    (after,) = await store.record([], [confirmed], NOW + 1)
    assert await store.find_transaction(b"\x77" * 32) == after
