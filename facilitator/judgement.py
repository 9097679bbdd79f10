"""What one turn makes of a settlement: its own receipts first, the rest of the chain where it
must."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

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
    Findings,
    Investigate,
    Keep,
    Mined,
    Policy,
    Reorged,
    Settlement,
    SettlementState,
    Superseded,
    Transaction,
    TransactionKind,
    TransactionState,
    Verdict,
    outcome,
)
from facilitator.store import Ride, SettlementChange, TransactionChange

Resolved = Mined | Superseded
_OPEN = frozenset({SettlementState.PENDING, SettlementState.REORGED})


class Judge:
    """Judges the settlements of one chain. Its methods raise ChainUnavailable.

    `confirm_block` takes a second look: whether the chain has a block (number, hash), None where
    that cannot be told. Nothing final is said of a block of which it says no.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        heads: Heads,
        investigator: Investigator,
        policy: Policy,
        confirm_block: Callable[[int, bytes], Awaitable[bool | None]],
    ) -> None:
        self._confirm_block = confirm_block
        self._chain = chain
        self._heads = heads
        self._investigator = investigator
        self._policy = policy

    async def judge(self, ride: Ride, resolved: Mapping[int, Resolved], margin: int) -> Verdict:
        """The verdict on one settlement, after a fresh look at the chain where that is due.

        `resolved` are the transactions that this turn saw come to an end, by id; `margin` is the
        seconds that must be left to mine another one.
        """
        settlement = ride.settlement
        transactions, receipts = _as_resolved(ride.transactions, resolved)
        proof = await self._proof_among(settlement.payment, receipts)
        if settlement.state not in _OPEN and proof is None:
            # It has its answer already; this is about a transaction that a reorg has set free.
            return Keep()
        verdict = outcome(settlement, transactions, proof, None, self._policy)
        if isinstance(verdict, Investigate):
            # A group succeeds whatever becomes of one payment in it.
            alone = [each for each in transactions if each.kind is not TransactionKind.GROUP]
            sent = [attempt.hash for each in alone for attempt in each.attempts]
            findings = await self._investigator.findings(settlement, sent, margin)
            if findings is not None:
                verdict = outcome(settlement, transactions, None, findings, self._policy)
                if isinstance(verdict, Confirm | Fail):
                    await self._look_twice(findings.block_number, findings.block_hash)
                if isinstance(verdict, Confirm):
                    await self._look_twice_at(verdict.proof)
                if isinstance(verdict, Fail):
                    await self._look_twice_at_use(settlement.payment, findings)
        return verdict

    async def _proof_among(self, payment: AnyPayment, receipts: Iterable[Receipt]) -> Proof | None:
        """The proof in receipts that are known to be on the chain, deep enough."""
        for receipt in receipts:
            if not receipt.succeeded:
                continue
            timestamp = await self._heads.timestamp_of(receipt.block_hash)
            if timestamp is None:
                raise ChainUnavailable("a receipt's block is missing")
            proof: Proof | None = scheme_of(payment).find_proof(payment, receipt.logs, timestamp)
            if proof is not None:
                await self._look_twice(receipt.block_number, receipt.block_hash)
                return proof
        return None

    async def _look_twice(self, number: int, block_hash: bytes) -> None:
        if await self._confirm_block(number, block_hash) is False:
            raise ChainUnavailable("a block that decides is not there at a second look")

    async def _look_twice_at(self, proof: Proof) -> None:
        """At a log of somebody else's transaction."""
        receipts = await self._chain.receipts([proof.transaction_hash])
        receipt = receipts.get(proof.transaction_hash)
        if receipt is None or await self._chain.witnesses.confirm_receipt(receipt) is False:
            raise ChainUnavailable("a receipt that decides is not there at a second look")

    async def _look_twice_at_use(self, payment: AnyPayment, findings: Findings) -> None:
        """At whether a payment was executed, by whomever: if it was, and no more is known of it, it
        has not failed.
        """

        def same(answer: bytes) -> bool:
            return bool(int.from_bytes(answer)) is findings.authorization_used

        call = scheme_of(payment).used_call(payment)
        if await self._chain.confirm_read(call, findings.block_number, same) is False:
            raise ChainUnavailable("whether a payment was executed is not agreed on")

    async def look_again(
        self, ride: Ride
    ) -> tuple[list[TransactionChange], SettlementChange | None]:
        """What has changed about a settlement whose transactions were mined, if a reorg undid or
        moved them.
        """
        settlement = ride.settlement
        mined = [each for each in ride.transactions if each.state is TransactionState.MINED]
        hashes = [attempt.hash for each in mined for attempt in each.attempts]
        if settlement.proof is not None:  # it may be in somebody else's transaction
            hashes.append(settlement.proof.transaction_hash)
        receipts = await self._deep_receipts(dict.fromkeys(hashes))
        changes = _moved(mined, receipts)
        change = None
        proof = await self._proof_among(settlement.payment, receipts.values())
        if settlement.state is SettlementState.CONFIRMED or proof is not None:
            change = change_of(settlement, outcome(settlement, mined, proof, None, self._policy))
        return changes, change

    async def fillers_again(self, fillers: Sequence[Transaction]) -> list[TransactionChange]:
        """What has changed about gap fillers that were mined."""
        hashes = [attempt.hash for each in fillers for attempt in each.attempts]
        return _moved(fillers, await self._deep_receipts(hashes))

    async def _deep_receipts(self, hashes: Collection[bytes]) -> dict[bytes, Receipt]:
        """Receipts on the head's chain, `confirmations` deep: all others count as none. One that
        cannot be told apart is ChainUnavailable.
        """
        head = self._heads.head
        assert head is not None
        receipts = await self._chain.receipts(hashes)
        deep = {}
        for each, receipt in receipts.items():
            holds = await self._heads.holds(receipt.block_number, receipt.block_hash)
            if holds is None:
                raise ChainUnavailable("a receipt's block is not known yet")
            if holds and head.number - receipt.block_number + 1 >= self._policy.confirmations:
                deep[each] = receipt
        return deep


def _as_resolved(
    transactions: Sequence[Transaction], resolved: Mapping[int, Resolved]
) -> tuple[list[Transaction], list[Receipt]]:
    """The transactions as they are at the end of this turn, and the receipts seen in it."""
    now, receipts = [], []
    for each in transactions:
        end = resolved.get(each.id)
        if end is None:
            now.append(each)
            continue
        change = end_of(each.id, end)
        now.append(replace(each, state=change.state, block_number=change.block_number))
        if isinstance(end, Mined):
            receipts.append(end.receipt)
    return now, receipts


def _moved(
    mined: Sequence[Transaction], receipts: Mapping[bytes, Receipt]
) -> list[TransactionChange]:
    """Of transactions that were mined, those that are now elsewhere, or not any more."""
    changes = []
    for each in mined:
        receipt = next((receipts[one.hash] for one in each.attempts if one.hash in receipts), None)
        if receipt is None:
            changes.append(TransactionChange(id=each.id, state=TransactionState.PENDING))
        elif receipt.block_number != each.block_number:
            changes.append(_mined(each.id, receipt))
    return changes


def _mined(transaction_id: int, receipt: Receipt) -> TransactionChange:
    return TransactionChange(
        id=transaction_id,
        state=TransactionState.MINED,
        block_number=receipt.block_number,
        gas_cost=receipt.gas_cost,
    )


def end_of(transaction_id: int, end: Resolved) -> TransactionChange:
    """What to write down about a transaction that has come to its end."""
    if isinstance(end, Mined):
        return _mined(transaction_id, end.receipt)
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
