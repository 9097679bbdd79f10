"""Random lives of a journal, step by step beside a model of a few dictionaries.

The model is what the protocol says, written down a second time and as simply as can be; whatever
the journal answers, and all that it holds, must be what the model says, also after it was closed
and opened again.
"""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from facilitator.domain.settlement import (
    Attempt,
    Settlement,
    SettlementState,
    Transaction,
    TransactionKind,
    TransactionState,
)
from facilitator.ethereum.fees import GWEI, Fees
from facilitator.ethereum.secp256k1 import Signer
from facilitator.journal.store import (
    Claimed,
    IdempotencyKeyTaken,
    NewSettlement,
    OpenWork,
    Overcommitted,
    SettlementRecord,
    Store,
    Taken,
    TransactionChange,
)
from tests.support.engines import ENGINES, Engine, engine_of
from tests.support.journal import (
    CHAIN_ID,
    SIGNERS,
    change,
    filler,
    payment,
    proof,
    settlement_of,
    signing,
    transaction_of,
)

# Two steps: what asks at its very end, before it and after it all happens.
LEASE = 20
OPEN = (SettlementState.PENDING, SettlementState.REORGED)
PAYERS = (b"\x0a" * 20, b"\x0b" * 20)
small = st.integers(min_value=0, max_value=2)
picks = st.integers(min_value=0, max_value=2**16)
seldom = st.sampled_from((False, False, False, True))
waiters = st.sampled_from(("ann", "ben"))


class Journal(RuleBasedStateMachine):
    """Few payments, keys, signers and waiters, so that they meet; time goes on by itself."""

    def __init__(self, name: str, request: pytest.FixtureRequest) -> None:
        super().__init__()
        self.name = name
        self.request = request

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.engine = engine_of(self.name, self.request, Path(self.folder.name))
        self.now = 1_000
        self.settlements: dict[str, Settlement] = {}
        self.second_keys: dict[str, str | None] = {}
        self.idempotency: dict[str, str] = {}
        self.transactions: dict[int, Transaction] = {}
        self.carried: dict[str, list[int]] = {}
        self.filled_at: dict[int, int] = {}
        self.used: dict[str, bytes] = {}
        self.next_nonce = {signer.address: 0 for signer in SIGNERS}
        self.store = self.open()
        for number in range(3):
            self.claim_fresh(number)

    def open(self) -> Store:
        return self.runner.run(opened(self.engine))

    def claim_fresh(self, number: int) -> None:
        """A payment of nobody else's, so that there is something to work with from the start."""
        new = settlement_of(
            payment(nonce=f"fresh {number}", payer=b"\x0c" * 20), waiter="ann", waiter_until=50
        )
        result = self.runner.run(self.store.claim(new, transaction_of(new.payment), self.tick()))
        assert isinstance(result, Claimed)
        self.settlements[result.settlement.id] = result.settlement
        self.second_keys[result.settlement.id] = None
        self.signed(result.transaction, SIGNERS[0].address, 0)
        self.carried[result.settlement.id] = [result.transaction.id]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.store.close())
            self.runner.close()
            self.folder.cleanup()

    def tick(self) -> int:
        self.now += 10
        return self.now

    def pick(self, number: int, *states: SettlementState) -> Settlement:
        """One of those in these states, if there are any, or else of all."""
        all_of_them = list(self.settlements.values())
        some = [each for each in all_of_them if each.state in states] or all_of_them
        return some[number % len(some)]

    def holder(self, key: str | None) -> Settlement | None:
        for each in self.settlements.values():
            if key is not None and key in (each.key, self.second_keys[each.id]):
                return each
        return None

    def record_of(self, settlement_id: str) -> SettlementRecord:
        carried = (self.transactions[number] for number in self.carried[settlement_id])
        return SettlementRecord(self.settlements[settlement_id], tuple(carried))

    def signed(self, transaction: Transaction, signer: bytes, floor: int) -> None:
        """A transaction came out: its nonce is the next one, or the floor where that is higher."""
        nonce = max(self.next_nonce[signer], floor)
        assert (transaction.signer, transaction.account_nonce) == (signer, nonce)
        assert transaction.id not in self.transactions
        self.next_nonce[signer] = nonce + 1
        self.transactions[transaction.id] = transaction

    @rule(
        number=small,
        payer=st.sampled_from(PAYERS),
        token=st.none() | small,
        amount=st.integers(min_value=1, max_value=3),
        available=st.integers(min_value=1, max_value=6),
        idempotency_key=st.none() | st.sampled_from(("order", "bill")),
        signer=st.sampled_from(SIGNERS),
        floor=st.integers(min_value=0, max_value=12),
        waiter=waiters,
    )
    def claim(
        self,
        *,
        number: int,
        payer: bytes,
        token: int | None,
        amount: int,
        available: int,
        idempotency_key: str | None,
        signer: Signer,
        floor: int,
        waiter: str,
    ) -> None:
        token_nonce = None if token is None else token.to_bytes(32)
        new = settlement_of(
            payment(nonce=str(number), payer=payer, amount=amount, token_nonce=token_nonce),
            available=available,
            idempotency_key=idempotency_key,
            waiter=waiter,
            waiter_until=self.now + LEASE,
        )
        self.ask(new, signer, floor)

    @rule(
        number=picks,
        waiter=waiters,
        other_terms=st.booleans(),
        key=st.none() | st.sampled_from(("order", "bill")),
    )
    def claim_the_same_again(
        self, number: int, waiter: str, other_terms: bool, key: str | None
    ) -> None:
        settlement = self.pick(number, SettlementState.FAILED, SettlementState.LOST)
        new = settlement_of(
            settlement.payment,
            digest=b"\x00" * 32 if other_terms else None,
            idempotency_key=key,
            waiter=waiter,
            waiter_until=self.now + LEASE,
        )
        trace = f"00-{self.now:032x}-00f067aa0ba902b7-01"  # another request's
        self.ask(replace(new, traceparent=trace), SIGNERS[1], 0)

    def ask(self, new: NewSettlement, signer: Signer, floor: int) -> None:
        now = self.tick()
        transaction = transaction_of(new.payment, signer=signer, floor=floor)
        result = self.runner.run(self.store.claim(new, transaction, now))
        refusal = self.refusal(new)
        if refusal is not None:
            assert result == refusal
            return
        assert isinstance(result, Claimed)
        found, settlement = self.holder(new.key), result.settlement
        earlier_key = None if found is None else found.idempotency_key
        assert settlement == Settlement(
            id=settlement.id if found is None else found.id,
            key=new.key,
            idempotency_key=new.idempotency_key or earlier_key,
            request_digest=new.request_digest,
            dialect="jeju",
            payment=new.payment,
            state=SettlementState.PENDING,
            version=1 if found is None else found.version + 1,
            waiter=new.waiter,
            waiter_until=new.waiter_until,
            replied_success_at=None if found is None else found.replied_success_at,
            proof=None,
            refusal=None,
            created_at=now if found is None else found.created_at,
            updated_at=now,
            traceparent=new.traceparent,
        )
        if found is None:
            assert settlement.id not in self.settlements
            self.second_keys[settlement.id] = new.second_key
            self.carried[settlement.id] = []
        if new.idempotency_key is not None:
            if earlier_key is not None:
                del self.idempotency[earlier_key]
            self.idempotency[new.idempotency_key] = settlement.id
        self.settlements[settlement.id] = settlement
        self.signed(result.transaction, signer.address, floor)
        self.carried[settlement.id].append(result.transaction.id)

    def refusal(self, new: NewSettlement) -> Taken | IdempotencyKeyTaken | Overcommitted | None:
        """Why this payment is not to be claimed now."""
        found = self.holder(new.key) or self.holder(new.second_key)
        if found is not None and not (
            found.state is SettlementState.FAILED
            and found.key == new.key
            and found.request_digest == new.request_digest
        ):
            return Taken(found)
        theirs = self.idempotency.get(new.idempotency_key or "")
        if theirs is not None and (found is None or theirs != found.id):
            return IdempotencyKeyTaken(self.settlements[theirs])
        left = new.available - sum(
            each.payment.amount
            for each in self.settlements.values()
            if each.state in OPEN and each.payment.payer == new.payment.payer
        )
        return Overcommitted(left) if new.payment.amount > left else None

    @rule(number=picks, behind=seldom)
    def settle_again(self, number: int, behind: bool) -> None:
        settlement, now = self.pick(number), self.tick()
        version = settlement.version - behind
        further = transaction_of(settlement.payment, floor=2)
        result = self.runner.run(self.store.settle_again(settlement.id, version, further, now))
        if behind or settlement.state not in OPEN:
            assert result is None
            return
        assert isinstance(result, Transaction)
        self.signed(result, further.signer, 2)
        self.carried[settlement.id].append(result.id)
        self.settlements[settlement.id] = replace(settlement, version=version + 1, updated_at=now)

    @rule(account_nonce=st.integers(min_value=0, max_value=14))
    def fill(self, account_nonce: int) -> None:
        signer = SIGNERS[0].address
        result = self.runner.run(self.store.fill(filler(), account_nonce, self.tick()))
        taken = {each.account_nonce for each in self.transactions.values() if each.signer == signer}
        if account_nonce in taken:
            assert result is None
            return
        assert result is not None
        assert (result.signer, result.account_nonce) == (signer, account_nonce)
        self.transactions[result.id] = result
        self.filled_at[result.id] = self.now
        self.next_nonce[signer] = max(self.next_nonce[signer], account_nonce + 1)

    @rule(account_nonce=st.integers(min_value=0, max_value=14))
    def revive(self, account_nonce: int) -> None:
        slot = (SIGNERS[0].address, account_nonce)
        ended = (TransactionState.SUPERSEDED, TransactionState.FINAL)
        wanted = [
            each
            for each in self.transactions.values()
            if (each.signer, each.account_nonce) == slot
            and each.state in ended
            and not self.is_given_up(each)
        ]
        assert self.runner.run(self.store.revive(CHAIN_ID, *slot)) is bool(wanted)
        for each in wanted:
            self.transactions[each.id] = replace(
                each, state=TransactionState.PENDING, block_number=None, gas_cost=None
            )

    def is_given_up(self, transaction: Transaction) -> bool:
        told = (SettlementState.FAILED, SettlementState.LOST)
        return transaction.kind is not TransactionKind.FILL and any(
            self.settlements[name].state in told
            for name, carriers in self.carried.items()
            if transaction.id in carriers
        )

    @rule(number=picks)
    def replace_with_filler(self, number: int) -> None:
        """Of what must not be sent again, or else of anything."""
        all_of_them = list(self.transactions.values())
        some = [each for each in all_of_them if self.is_given_up(each)] or all_of_them
        old, now = some[number % len(some)], self.tick()
        signer = next(each for each in SIGNERS if each.address == old.signer)
        new = filler(signer=signer)
        fees = Fees(now * GWEI, now)  # no two are the same
        attempt = signing(signer, new.call, fees=fees)(old.account_nonce)
        seen: list[Attempt] = []

        def outbid(last: Attempt) -> Attempt:
            seen.append(last)
            return attempt

        result = self.runner.run(
            self.store.replace_with_filler(new, old.account_nonce, outbid, now)
        )
        if not self.is_given_up(old) or old.state is TransactionState.MINED:
            assert (result, seen) == (None, [])
            return
        self.transactions[old.id] = replace(
            old,
            kind=TransactionKind.FILL,
            call=new.call,
            gas_limit=new.gas_limit,
            state=TransactionState.PENDING,
            block_number=None,
            gas_cost=None,
            attempts=(*old.attempts, attempt),
        )
        assert (result, seen) == (self.transactions[old.id], [old.attempts[-1]])
        self.filled_at[old.id] = now

    @rule(number=picks, gwei=st.integers(min_value=1, max_value=2**30))
    def add_attempt(self, number: int, gwei: int) -> None:
        transaction = list(self.transactions.values())[number % len(self.transactions)]
        signer = next(each for each in SIGNERS if each.address == transaction.signer)
        fees = Fees(gwei * GWEI, gwei)
        attempt = signing(signer, transaction.call, fees=fees)(transaction.account_nonce)
        if attempt in transaction.attempts:
            return
        added = self.runner.run(self.store.add_attempt(transaction.id, attempt, None, self.now))
        assert added == (transaction.state is TransactionState.PENDING)
        if added:
            self.transactions[transaction.id] = replace(
                transaction, attempts=(*transaction.attempts, attempt)
            )

    @rule(
        number=picks,
        state=st.sampled_from(SettlementState),
        behind=seldom,
        log=st.integers(min_value=0, max_value=1),
        ended=st.sampled_from(TransactionState),
        block=st.integers(min_value=1, max_value=3),
        gas_cost=st.none() | st.integers(min_value=0, max_value=2**80),
    )
    def record(
        self,
        *,
        number: int,
        state: SettlementState,
        behind: bool,
        log: int,
        ended: TransactionState,
        block: int,
        gas_cost: int | None = None,
    ) -> None:
        settlement, now = self.pick(number), self.tick()
        seen = proof(log)
        wanted = change(replace(settlement, version=settlement.version - behind), state, seen=seen)
        last = self.carried[settlement.id][-1]
        end = TransactionChange(id=last, state=ended, block_number=block, gas_cost=gas_cost)
        result = self.runner.run(self.store.record([end], [wanted], now))
        self.transactions[last] = replace(
            self.transactions[last], state=ended, block_number=block, gas_cost=gas_cost
        )
        elsewhere = any(
            each.proof == seen and each.id != settlement.id for each in self.settlements.values()
        )
        if behind or (state is SettlementState.CONFIRMED and elsewhere):
            assert result == ()
            return
        after = replace(
            settlement,
            state=state,
            version=settlement.version + 1,
            proof=wanted.proof,
            refusal=wanted.refusal,
            updated_at=now,
        )
        assert result == (after,)
        self.settlements[settlement.id] = after

    @rule(number=picks, log=st.integers(min_value=0, max_value=1))
    def confirm(self, number: int, log: int) -> None:
        state, mined = SettlementState.CONFIRMED, TransactionState.MINED
        self.record(number=number, state=state, behind=False, log=log, ended=mined, block=2)

    @rule(block=st.integers(min_value=1, max_value=3))
    def finalize(self, block: int) -> None:
        buried = [
            each
            for each in self.transactions.values()
            if each.state is TransactionState.MINED and (each.block_number or 0) <= block
        ]
        assert self.runner.run(self.store.finalize(CHAIN_ID, block)) == len(buried)
        for each in buried:
            self.transactions[each.id] = replace(each, state=TransactionState.FINAL)

    @rule(number=picks, waiter=waiters)
    def become_waiter(self, number: int, waiter: str) -> None:
        settlement, now = self.pick(number), self.tick()
        free = settlement.waiter is None or settlement.waiter_until <= now
        if free and settlement.replied_success_at is None:
            settlement = replace(settlement, waiter=waiter, waiter_until=now + LEASE)
        result = self.runner.run(self.store.become_waiter(settlement.id, waiter, now + LEASE, now))
        assert result == settlement
        self.settlements[settlement.id] = settlement

    @rule(number=picks, waiter=waiters)
    def renew(self, number: int, waiter: str) -> None:
        settlement, until = self.pick(number), self.tick() + LEASE
        renewed = self.runner.run(self.store.renew(settlement.id, waiter, until))
        assert renewed == (settlement.waiter == waiter)
        if renewed:
            self.settlements[settlement.id] = replace(settlement, waiter_until=until)

    @rule(number=picks, waiter=waiters)
    def let_go(self, number: int, waiter: str) -> None:
        settlement = self.pick(number)
        self.runner.run(self.store.let_go(settlement.id, waiter))
        if settlement.waiter == waiter:
            self.settlements[settlement.id] = replace(settlement, waiter=None)

    @rule(number=picks, waiter=waiters)
    def tell_success(self, number: int, waiter: str) -> None:
        settlement, now = self.pick(number, SettlementState.CONFIRMED), self.tick()
        allowed = (
            settlement.waiter == waiter
            and settlement.state is SettlementState.CONFIRMED
            and settlement.replied_success_at is None
        )
        told = self.runner.run(self.store.mark_success_replied(settlement.id, waiter, now))
        assert told == allowed
        if told:
            self.settlements[settlement.id] = replace(settlement, replied_success_at=now)

    @rule(signer=st.sampled_from(SIGNERS), floor=st.integers(min_value=0, max_value=12))
    def raise_floor(self, signer: Signer, floor: int) -> None:
        address = signer.address
        self.next_nonce[address] = max(self.next_nonce[address], floor)
        risen = self.runner.run(self.store.raise_nonce_floor(CHAIN_ID, address, floor))
        assert risen == self.next_nonce[address]

    @rule(back=st.integers(min_value=0, max_value=60), horizon=st.sampled_from((16, 17)))
    def forget(self, back: int, horizon: int) -> None:
        now = self.tick()
        before = now - back
        ended = {
            number
            for number, each in self.transactions.items()
            if each.state in (TransactionState.SUPERSEDED, TransactionState.FINAL)
        }
        old = [
            each
            for each in self.settlements.values()
            if each.state not in OPEN
            and each.updated_at < before
            and each.waiter_until < before
            and (each.proof is None or each.proof.block_number <= horizon)
            and ended.issuperset(self.carried[each.id])
        ]
        forgotten = self.runner.run(
            self.store.forget(CHAIN_ID, horizon=horizon, before=before, now=now, limit=1000)
        )
        assert forgotten == len(old)
        leaving = {
            number for number, at in self.filled_at.items() if at < before and number in ended
        }
        for each in old:
            last = self.transactions[self.carried[each.id][-1]].carrying.hash
            for key in (each.key, self.second_keys[each.id]):
                if key is not None and each.state is not SettlementState.FAILED:
                    self.used.setdefault(key, each.proof.transaction_hash if each.proof else last)
            if each.idempotency_key is not None:
                del self.idempotency[each.idempotency_key]
        for each in old:
            leaving.update(self.carried.pop(each.id))
            del self.settlements[each.id], self.second_keys[each.id]
        for numbers in self.carried.values():
            leaving -= set(numbers)
        for number in leaving:
            del self.transactions[number]
            self.filled_at.pop(number, None)
        if not self.settlements:
            self.claim_fresh(self.now)

    @rule()
    def close_and_open(self) -> None:
        """Waiters are requests of a process: none outlives it where it is the only one, and
        where it is one of several their leases say for how long they count.
        """
        self.runner.run(self.store.close())
        self.store = self.open()
        if self.name != "sqlite":
            return
        for each in self.settlements.values():
            if each.replied_success_at is None:
                self.settlements[each.id] = replace(each, waiter=None)

    @invariant()
    def the_journal_holds_what_the_model_holds(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.compare())

    async def compare(self) -> None:
        pending = [
            each for each in self.transactions.values() if each.state is TransactionState.PENDING
        ]
        records = [self.record_of(settlement_id) for settlement_id in self.settlements]
        for record in records:
            assert await self.store.get(record.settlement.id) == record
            assert await self.store.find(record.settlement.key) == record.settlement
        for key, transaction_hash in self.used.items():
            assert await self.store.used_by([key]) == transaction_hash
        carried = {number for numbers in self.carried.values() for number in numbers}
        work = await self.store.open_work(CHAIN_ID)
        assert by_id(work) == by_id(
            OpenWork(
                records=tuple(
                    record
                    for record in records
                    if record.settlement.state in OPEN
                    or any(each in pending for each in record.transactions)
                ),
                fillers=tuple(each for each in pending if each.id not in carried),
            )
        )
        mined = [
            each for each in self.transactions.values() if each.state is TransactionState.MINED
        ]
        for horizon in (16, 17):  # below the block of every proof, and at it
            watched = await self.store.watched(CHAIN_ID, horizon)
            assert by_id(watched) == by_id(
                OpenWork(
                    records=tuple(
                        record
                        for record in records
                        if any(each in mined for each in record.transactions)
                        or (record.settlement.state is SettlementState.CONFIRMED and horizon < 17)
                    ),
                    fillers=tuple(each for each in mined if each.id not in carried),
                )
            )
        in_flight: dict[bytes, int] = {}
        for each in pending:
            in_flight[each.signer] = in_flight.get(each.signer, 0) + 1
        assert await self.store.in_flight(CHAIN_ID) == in_flight
        states = [each.state for each in self.settlements.values()]
        counts = await self.store.settlement_counts(CHAIN_ID)
        assert counts.states == Counter(states)
        assert (counts.total, counts.pending) == (
            len(states),
            sum(state in OPEN for state in states),
        )
        assert counts.oldest_pending == min(
            (
                each.created_at
                for each in self.settlements.values()
                if each.state is SettlementState.PENDING
            ),
            default=None,
        )


async def opened(engine: Engine) -> Store:
    return await engine()


def by_id(work: OpenWork) -> tuple[dict[str, SettlementRecord], dict[int, Transaction]]:
    """Open work has no order that anything depends on."""
    return (
        {record.settlement.id: record for record in work.records},
        {filler.id: filler for filler in work.fillers},
    )


# A server takes many times as long for a step as a file does, and the laws are the same.
EXAMPLES = {"sqlite": 60, "postgres": 10, "pgbouncer": 6}


@pytest.mark.parametrize("name", ENGINES)
def test_a_journal_is_what_the_model_says(name: str, request: pytest.FixtureRequest) -> None:
    class OnThisEngine(Journal):
        def __init__(self) -> None:
            super().__init__(name, request)

    run_state_machine_as_test(
        OnThisEngine,
        settings=settings(max_examples=EXAMPLES[name], stateful_step_count=40, deadline=None),
    )
