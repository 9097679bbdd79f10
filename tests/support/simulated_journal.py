"""A journal reduced to a few dictionaries, for the simulation: what survives a crash.

It keeps the promises of `Store` that the loop and the admission of payments need. Each method is
one database transaction, and any of them may be the last thing that a process does.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from facilitator.domain.settlement import (
    Attempt,
    Settlement,
    SettlementState,
    Transaction,
    TransactionKind,
    TransactionState,
)
from facilitator.journal.store import (
    Claimed,
    NewSettlement,
    NewTransaction,
    OpenWork,
    SettlementChange,
    SettlementRecord,
    Taken,
    TransactionChange,
)
from tests.support.model_chain import Sent

OPEN = (SettlementState.PENDING, SettlementState.REORGED)


def no_step() -> None:
    """Nothing crashes here."""


@dataclass(slots=True)
class Journal:
    """`step` is called before and after each write: a crash may come there."""

    events: Counter[str] = field(default_factory=Counter)
    step: Callable[[], None] = no_step
    settlements: dict[str, Settlement] = field(default_factory=dict)
    transactions: dict[int, Transaction] = field(default_factory=dict)
    signed_for: dict[str, list[int]] = field(default_factory=dict)
    next_nonce: dict[bytes, int] = field(default_factory=dict)
    # every signature that was ever made, by its bytes, which no real journal keeps in this form
    signed: dict[bytes, tuple[int, Sent]] = field(default_factory=dict)

    async def find(self, key: str) -> Settlement | None:
        return next((each for each in self.settlements.values() if each.key == key), None)

    async def outstanding(
        self, chain_id: int, asset: bytes, payer: bytes
    ) -> tuple[Settlement, ...]:
        return tuple(
            each
            for each in self.settlements.values()
            if each.state in OPEN and each.payment.payer == payer
        )

    async def claim(
        self, new: NewSettlement, transaction: NewTransaction, now: int
    ) -> Claimed | Taken:
        old = await self.find(new.key)
        if old is not None and old.state is not SettlementState.FAILED:
            return Taken(old)
        self.step()
        settlement = Settlement(
            id=new.key if old is None else old.id,
            key=new.key,
            request_digest=new.request_digest,
            dialect=new.dialect,
            payment=new.payment,
            state=SettlementState.PENDING,
            version=1 if old is None else old.version + 1,
            waiter=None,
            waiter_until=0,
            replied_success_at=None,
            proof=None,
            refusal=None,
            created_at=now if old is None else old.created_at,
            updated_at=now,
        )
        self.settlements[settlement.id] = settlement
        signed = self._sign(transaction, self._hand_out(transaction))
        self.signed_for.setdefault(settlement.id, []).append(signed.id)
        self.events["claim" if old is None else "claim after a failure"] += 1
        self.step()
        return Claimed(settlement, signed)

    async def settle_again(
        self, settlement_id: str, version: int, transaction: NewTransaction, now: int
    ) -> Transaction | None:
        settlement = self.settlements[settlement_id]
        if settlement.version != version or settlement.state not in OPEN:
            return None
        self.step()
        self.settlements[settlement_id] = replace(settlement, version=version + 1)
        signed = self._sign(transaction, self._hand_out(transaction))
        self.signed_for[settlement_id].append(signed.id)
        self.events["another transaction"] += 1
        self.step()
        return signed

    async def fill(
        self, transaction: NewTransaction, account_nonce: int, now: int
    ) -> Transaction | None:
        slot = (transaction.signer, account_nonce)
        if any((each.signer, each.account_nonce) == slot for each in self.transactions.values()):
            return None
        self.step()
        due = self.next_nonce.get(transaction.signer, 0)
        self.next_nonce[transaction.signer] = max(due, account_nonce + 1)
        self.events["gap filled"] += 1
        signed = self._sign(transaction, account_nonce)
        self.step()
        return signed

    async def revive(self, chain_id: int, signer: bytes, account_nonce: int) -> bool:
        for each in self.transactions.values():
            ended = each.state in (TransactionState.SUPERSEDED, TransactionState.FINAL)
            if ended and (each.signer, each.account_nonce) == (signer, account_nonce):
                carried = [
                    self.settlements[name].state
                    for name, ids in self.signed_for.items()
                    if each.id in ids
                ]
                filler = each.kind is TransactionKind.FILL
                if filler or not {SettlementState.FAILED, SettlementState.LOST} & set(carried):
                    self.step()
                    self.transactions[each.id] = replace(
                        each, state=TransactionState.PENDING, block_number=None
                    )
                    self.events["gap reopened"] += 1
                    return True
        return False

    async def replace_with_filler(
        self,
        transaction: NewTransaction,
        account_nonce: int,
        outbid: Callable[[Attempt], Attempt],
        now: int,
    ) -> Transaction | None:
        slot = (transaction.signer, account_nonce)
        for old in self.transactions.values():
            told = any(
                self.settlements[name].state in (SettlementState.FAILED, SettlementState.LOST)
                for name, ids in self.signed_for.items()
                if old.id in ids
            )
            named = (old.signer, old.account_nonce) == slot
            pays = old.kind is not TransactionKind.FILL
            if named and told and pays and old.state is not TransactionState.MINED:
                self.step()
                attempt = outbid(old.attempts[-1])
                filler = replace(
                    old,
                    kind=transaction.kind,
                    call=transaction.call,
                    gas_limit=transaction.gas_limit,
                    state=TransactionState.PENDING,
                    block_number=None,
                    attempts=(*old.attempts, attempt),
                )
                self.transactions[old.id] = filler
                self._note(filler, attempt)
                self.events["taken over"] += 1
                self.step()
                return filler
        return None

    def _hand_out(self, new: NewTransaction) -> int:
        nonce = max(self.next_nonce.get(new.signer, 0), new.nonce_floor)
        self.next_nonce[new.signer] = nonce + 1
        return nonce

    def _sign(self, new: NewTransaction, nonce: int) -> Transaction:
        attempt = new.sign(nonce)
        transaction = Transaction(
            id=len(self.transactions) + 1,
            chain_id=new.chain_id,
            signer=new.signer,
            account_nonce=nonce,
            kind=new.kind,
            call=new.call,
            gas_limit=new.gas_limit,
            state=TransactionState.PENDING,
            block_number=None,
            attempts=(attempt,),
        )
        self.transactions[transaction.id] = transaction
        self._note(transaction, attempt)
        return transaction

    def _note(self, transaction: Transaction, attempt: Attempt) -> None:
        settles = transaction.kind is TransactionKind.SETTLE
        sent = Sent(
            hash=attempt.hash,
            sender=transaction.signer,
            account_nonce=transaction.account_nonce,
            fees=attempt.fees,
            calldata=transaction.call.calldata if settles else None,
        )
        self.signed[attempt.raw] = (transaction.id, sent)

    async def add_attempt(
        self,
        transaction_id: int,
        attempt: Attempt,
        gas_budget: int | None,
        now: int,
        gas_limit: int | None = None,
    ) -> bool:
        old = self.transactions[transaction_id]
        if old.state is not TransactionState.PENDING:
            return False
        self.step()
        self.transactions[transaction_id] = replace(
            old, attempts=(*old.attempts, attempt), gas_limit=gas_limit or old.gas_limit
        )
        self._note(old, attempt)
        self.events["replacement"] += 1
        return True

    async def record(
        self,
        transactions: Sequence[TransactionChange],
        settlements: Sequence[SettlementChange],
        now: int,
    ) -> tuple[Settlement, ...]:
        self.step()
        for each in transactions:
            if each.state is TransactionState.SUPERSEDED:
                self.events["superseded"] += 1
            self.transactions[each.id] = replace(
                self.transactions[each.id], state=each.state, block_number=each.block_number
            )
        changed = []
        for change in settlements:
            old = self.settlements[change.id]
            if old.version == change.version:
                changed.append(
                    replace(
                        old,
                        state=change.state,
                        version=old.version + 1,
                        proof=change.proof,
                        refusal=change.refusal,
                    )
                )
                self.settlements[change.id] = changed[-1]
                self.events[change.state.value] += 1
        self.step()
        return tuple(changed)

    async def finalize(self, chain_id: int, block_number: int) -> int:
        buried = [
            each
            for each in self.transactions.values()
            if each.state is TransactionState.MINED and (each.block_number or 0) <= block_number
        ]
        for each in buried:
            self.transactions[each.id] = replace(each, state=TransactionState.FINAL)
        return len(buried)

    async def get(self, settlement_id: str) -> SettlementRecord | None:
        settlement = self.settlements[settlement_id]
        return SettlementRecord(settlement, self.carriers(settlement))

    async def open_work(self, chain_id: int) -> OpenWork:
        return self._work(lambda each: each.state in OPEN, TransactionState.PENDING)

    async def watched(self, chain_id: int, horizon: int) -> OpenWork:
        def is_watched(each: Settlement) -> bool:
            proven = each.state is SettlementState.CONFIRMED and each.proof is not None
            return proven and each.proof.block_number > horizon  # type: ignore[union-attr]

        return self._work(is_watched, TransactionState.MINED)

    def _work(self, chosen: Callable[[Settlement], bool], state: TransactionState) -> OpenWork:
        records = (
            SettlementRecord(each, self.carriers(each)) for each in self.settlements.values()
        )
        carried = {number for numbers in self.signed_for.values() for number in numbers}
        return OpenWork(
            records=tuple(
                record
                for record in records
                if chosen(record.settlement)
                or any(transaction.state is state for transaction in record.transactions)
            ),
            fillers=tuple(
                each
                for each in self.transactions.values()
                if each.id not in carried and each.state is state
            ),
        )

    async def raise_nonce_floor(self, chain_id: int, signer: bytes, floor: int) -> int:
        self.next_nonce[signer] = max(self.next_nonce.get(signer, 0), floor)
        return self.next_nonce[signer]

    def carriers(self, settlement: Settlement) -> tuple[Transaction, ...]:
        return tuple(self.transactions[each] for each in self.signed_for[settlement.id])
