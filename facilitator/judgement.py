"""What one turn makes of a settlement: its own receipts first, the rest of the chain where it
must."""

from collections.abc import Mapping

from msgspec.structs import replace

from facilitator.chain import Chain
from facilitator.ethereum.receipts import Receipt
from facilitator.heads import Heads
from facilitator.investigation import Investigator
from facilitator.node import ChainUnavailable
from facilitator.payments import Proof
from facilitator.schemes import AnyPayment, scheme_of
from facilitator.settlement import (
    Confirm,
    Fail,
    Investigate,
    Keep,
    Mined,
    Policy,
    Reorged,
    Settlement,
    SettlementState,
    Superseded,
    TransactionState,
    Verdict,
    outcome,
)
from facilitator.store import Ride, SettlementChange, TransactionChange

Resolved = Mined | Superseded
_OPEN = frozenset({SettlementState.PENDING, SettlementState.REORGED})


class Judge:
    """Judges the settlements of one chain. Its methods raise ChainUnavailable."""

    def __init__(
        self,
        *,
        chain: Chain,
        heads: Heads,
        investigator: Investigator,
        policy: Policy,
    ) -> None:
        self._chain = chain
        self._heads = heads
        self._investigator = investigator
        self._policy = policy

    async def judge(self, ride: Ride, resolved: Mapping[int, Resolved], margin: int) -> Verdict:
        """The verdict on one settlement, after a fresh look at the chain where that is due.

        `resolved` are the transactions that this turn saw come to an end, by id; `margin` is the
        seconds that must be left to mine another one.
        """
        settlement, proof = ride.settlement, None
        transactions = []
        for transaction in ride.transactions:
            end = resolved.get(transaction.id)
            if end is None:
                transactions.append(transaction)
                continue
            change = end_of(transaction.id, end)
            transactions.append(
                replace(transaction, state=change.state, block_number=change.block_number)
            )
            if isinstance(end, Mined):
                proof = proof or await self._proof_in(settlement.payment, end.receipt)
        if settlement.state not in _OPEN and proof is None:
            # It has its answer already; this is about a transaction that a reorg has set free.
            return Keep()
        verdict = outcome(settlement, transactions, proof, None, self._policy)
        if isinstance(verdict, Investigate):
            sent = [attempt.hash for each in transactions for attempt in each.attempts]
            findings = await self._investigator.findings(settlement, sent, margin)
            if findings is not None:
                verdict = outcome(settlement, transactions, None, findings, self._policy)
        return verdict

    async def _proof_in(self, payment: AnyPayment, receipt: Receipt) -> Proof | None:
        if not receipt.succeeded:
            return None
        timestamp = await self._heads.timestamp_of(receipt.block_hash)
        if timestamp is None:
            raise ChainUnavailable("a receipt's block is missing")
        proof: Proof | None = scheme_of(payment).find_proof(payment, receipt.logs, timestamp)
        return proof

    async def look_again(
        self, ride: Ride
    ) -> tuple[list[TransactionChange], SettlementChange | None]:
        """What has changed about a settlement whose transactions were mined, if a reorg undid or
        moved them.
        """
        settlement = ride.settlement
        mined = [each for each in ride.transactions if each.state is TransactionState.MINED]
        hashes = {attempt.hash for each in mined for attempt in each.attempts}
        if settlement.proof is not None:  # it may be in somebody else's transaction
            hashes.add(settlement.proof.transaction_hash)
        receipts = await self._chain.receipts(hashes)
        proof = None
        for receipt in receipts.values():
            proof = proof or await self._proof_in(settlement.payment, receipt)
        changes = []
        for each in mined:
            block_number = next(
                (receipts[one.hash].block_number for one in each.attempts if one.hash in receipts),
                None,
            )
            state = TransactionState.PENDING if block_number is None else TransactionState.MINED
            if (state, block_number) != (each.state, each.block_number):
                changes.append(
                    TransactionChange(id=each.id, state=state, block_number=block_number)
                )
        change = None
        if settlement.state is SettlementState.CONFIRMED or proof is not None:
            verdict = outcome(settlement, mined, proof, None, self._policy)
            change = change_of(settlement, verdict)
        return changes, change


def end_of(transaction_id: int, end: Resolved) -> TransactionChange:
    """What to write down about a transaction that has come to its end."""
    if isinstance(end, Mined):
        number = end.receipt.block_number
        return TransactionChange(
            id=transaction_id, state=TransactionState.MINED, block_number=number
        )
    return TransactionChange(id=transaction_id, state=TransactionState.SUPERSEDED)


def change_of(settlement: Settlement, verdict: Verdict) -> SettlementChange | None:
    """What to write down about a verdict, if anything."""
    change = SettlementChange(id=settlement.id, version=settlement.version, state=settlement.state)
    match verdict:
        case Confirm(proof):
            return replace(change, state=SettlementState.CONFIRMED, proof=proof)
        case Fail(refusal):
            reorged = settlement.state is SettlementState.REORGED
            state = SettlementState.LOST if reorged else SettlementState.FAILED
            return replace(change, state=state, refusal=refusal)
        case Reorged():
            return replace(change, state=SettlementState.REORGED)
        case _:
            return None
