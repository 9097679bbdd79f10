"""A journal reduced to a few dictionaries, for the simulation: what survives a crash."""

from dataclasses import dataclass, field

from msgspec.structs import replace

from facilitator.ethereum.fees import Fees
from facilitator.ethereum.transactions import Call
from facilitator.settlement import (
    Attempt,
    Settlement,
    SettlementState,
    Transaction,
    TransactionKind,
    TransactionState,
)
from tests.model_chain import Sent


@dataclass(slots=True)
class Journal:
    """Every method is one database transaction."""

    settlements: dict[str, Settlement] = field(default_factory=dict)
    transactions: dict[int, Transaction] = field(default_factory=dict)
    rides: dict[str, list[int]] = field(default_factory=dict)
    next_nonce: dict[bytes, int] = field(default_factory=dict)
    # every signature that was ever made, which no real journal keeps in this form
    signed: list[tuple[bytes, int, int, Sent]] = field(default_factory=list)

    def claim(
        self, settlement: Settlement, signer: bytes, floor: int, fees: Fees, now: int
    ) -> None:
        self.settlements[settlement.id] = settlement
        self.rides.setdefault(settlement.id, [])
        self.settle_again(settlement, signer, floor, fees, now)

    def settle_again(
        self, settlement: Settlement, signer: bytes, floor: int, fees: Fees, now: int
    ) -> None:
        nonce = max(self.next_nonce.get(signer, 0), floor)
        self.next_nonce[signer] = nonce + 1
        call = Call(b"", settlement.id.encode())
        transaction = self._sign(TransactionKind.SETTLE, signer, nonce, call, fees, now)
        self.rides[settlement.id].append(transaction.id)

    def fill(self, signer: bytes, nonce: int, fees: Fees, now: int) -> None:
        self._sign(TransactionKind.FILL, signer, nonce, Call(signer, b""), fees, now)

    def _sign(
        self,
        kind: TransactionKind,
        signer: bytes,
        nonce: int,
        call: Call,
        fees: Fees,
        now: int,
    ) -> Transaction:
        transaction = Transaction(
            id=len(self.transactions),
            chain_id=1,
            signer=signer,
            account_nonce=nonce,
            kind=kind,
            call=call,
            gas_limit=1,
            state=TransactionState.PENDING,
            block_number=None,
            attempts=(),
        )
        self.add_attempt(transaction, fees, now)
        return transaction

    def has(self, signer: bytes, nonce: int) -> bool:
        return any(each[:2] == (signer, nonce) for each in self.signed)

    def add_attempt(self, transaction: Transaction, fees: Fees, now: int) -> Attempt:
        sent = Sent(
            hash=b"transaction".ljust(24, b"\0") + len(self.signed).to_bytes(8),
            sender=transaction.signer,
            account_nonce=transaction.account_nonce,
            fees=fees,
            payment=transaction.call.calldata or None,
        )
        self.signed.append((transaction.signer, transaction.account_nonce, transaction.id, sent))
        attempt = Attempt(sent.hash, sent.hash, fees, now)
        self.transactions[transaction.id] = replace(
            transaction, attempts=(*transaction.attempts, attempt)
        )
        return attempt

    def move(self, transaction_id: int, state: TransactionState, block: int | None) -> None:
        old = self.transactions[transaction_id]
        self.transactions[transaction_id] = replace(old, state=state, block_number=block)

    def bury(self, horizon: int) -> None:
        for old in list(self.transactions.values()):
            if old.state is TransactionState.MINED and (old.block_number or 0) <= horizon:
                self.move(old.id, TransactionState.FINAL, old.block_number)

    def unsettled(self, horizon: int) -> list[Settlement]:
        """What is open, and what a reorg could still undo."""
        return [
            each
            for each in self.settlements.values()
            if each.state in (SettlementState.PENDING, SettlementState.REORGED)
            or (each.proof is not None and each.proof.block_number > horizon)
        ]

    def carriers(self, settlement: Settlement) -> list[Transaction]:
        return [self.transactions[each] for each in self.rides[settlement.id]]

    def bytes_of(self, attempt: Attempt) -> Sent:
        return self.signed[int.from_bytes(attempt.hash[24:])][3]
