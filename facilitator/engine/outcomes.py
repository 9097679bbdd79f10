"""The outcome of each settlement: decided by the receipts of its own transactions, or by a search
of the chain where these do not decide.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from facilitator.chain.answers import ChainUnavailable, ask_all
from facilitator.chain.client import Chain
from facilitator.chain.head_tracker import HeadTracker
from facilitator.chain.quorum import Agreement
from facilitator.domain.payment import Proof
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.settlement import (
    Confirm,
    Fail,
    Findings,
    Investigate,
    Keep,
    Policy,
    Resolved,
    SettlementChange,
    SettlementRecord,
    SettlementState,
    Transaction,
    TransactionChange,
    TransactionKind,
    Verdict,
    Watched,
    as_resolved,
    mined_transactions,
    moved_transactions,
    outcome,
    settlement_change,
    watched_hashes,
)
from facilitator.engine.payment_search import PaymentSearch
from facilitator.ethereum.receipts import Receipt

_OPEN = frozenset({SettlementState.PENDING, SettlementState.REORGED})


class Undone(Struct, frozen=True):
    """What to record about one settlement, or one gap filler, that a reorg has undone or moved."""

    transactions: tuple[TransactionChange, ...]
    settlement: SettlementChange | None = None


@dataclass(kw_only=True, eq=False)
class OutcomeResolver:
    """Resolves the outcomes of one chain's settlements. Its methods raise ChainUnavailable.

    Nothing final is decided by a block or a receipt before the quorum has confirmed it.
    """

    chain: Chain
    heads: HeadTracker
    search: PaymentSearch
    policy: Policy

    async def verdict(
        self, record: SettlementRecord, resolved: Mapping[int, Resolved], margin: int
    ) -> Verdict:
        """Return the verdict on one settlement, after a search of the chain where that is due.

        `resolved` are the transactions that this turn saw mined or superseded, by id; `margin` is
        the seconds that must be left to mine another one.
        """
        settlement = record.settlement
        transactions, receipts = as_resolved(record.transactions, resolved)
        proof = await self._proof_among(settlement.payment, receipts)
        if settlement.state not in _OPEN and proof is None:
            # Its outcome was reported already; a reorg has undone one of its transactions.
            return Keep()
        verdict = outcome(settlement, transactions, proof, None, self.policy)
        if isinstance(verdict, Investigate):
            # A group or a filler succeeds whatever becomes of one payment in it.
            single = [each for each in transactions if each.kind is TransactionKind.SETTLE]
            sent = [attempt.hash for each in single for attempt in each.attempts]
            findings = await self.search.findings(settlement, sent, margin)
            if findings is not None:
                verdict = outcome(settlement, transactions, None, findings, self.policy)
                if isinstance(verdict, Confirm | Fail):
                    await self._confirm_block(findings.block_number, findings.block_hash)
                if isinstance(verdict, Confirm):
                    await self._confirm_log(settlement.payment, verdict.proof)
                if isinstance(verdict, Fail):
                    await self._confirm_use(settlement.payment, findings)
        return verdict

    async def _proof_among(self, payment: AnyPayment, receipts: Iterable[Receipt]) -> Proof | None:
        """Return the proof in receipts that are on the chain and deep enough, None where none is
        one.
        """
        for receipt in receipts:
            if not receipt.succeeded:
                continue
            timestamp = await self.heads.timestamp_of(receipt.block_hash)
            if timestamp is None:
                raise ChainUnavailable("a receipt's block is missing")
            proof: Proof | None = scheme_of(payment).find_proof(payment, receipt.logs, timestamp)
            if proof is not None:
                await self._confirm_block(receipt.block_number, receipt.block_hash)
                return proof
        return None

    async def _confirm_block(self, number: int, block_hash: bytes) -> None:
        if not await self.heads.confirms(number, block_hash):
            raise ChainUnavailable("a block that decides is not there at a second look")

    async def _confirm_log(self, payment: AnyPayment, proof: Proof) -> None:
        """Confirm a proof in somebody else's transaction."""
        answer = await self.chain.quorum.receipt(proof.transaction_hash)
        receipt = answer.value if answer.agreed else None
        if receipt is None or await self._proof_among(payment, (receipt,)) != proof:
            raise ChainUnavailable("a receipt that decides is not there at a second look")

    async def _confirm_use(self, payment: AnyPayment, findings: Findings) -> None:
        """Confirm whether a payment was executed, by anybody: if it was, it may have paid, even if
        no proof was found, and has not failed.
        """

        def same(answer: bytes) -> bool:
            return bool(int.from_bytes(answer)) is findings.authorization_used

        call = scheme_of(payment).used_call(payment)
        agreement = await self.chain.quorum.read(call, findings.block_number, same)
        if agreement is not Agreement.AGREED:
            raise ChainUnavailable("whether a payment was executed is not agreed on")

    async def recheck(self, watched: Sequence[Watched]) -> list[Undone | None]:
        """Return what a reorg has changed about settlements and gap fillers that were mined, in
        their order; None where that is not known now.

        It takes a few round trips for all: for the receipts, their blocks, and to confirm them.
        """
        hashes = dict.fromkeys(one for each in watched for one in watched_hashes(each))
        receipts = await self._deep_receipts(tuple(hashes))
        await self.prefetch_blocks(each for each in receipts.values() if isinstance(each, Receipt))

        async def undone(each: Watched) -> Undone:
            return await self._undone(each, receipts)

        found = await ask_all(undone, watched)
        return [None if isinstance(each, ChainUnavailable) else each for each in found]

    async def _undone(
        self, watched: Watched, receipts: Mapping[bytes, Receipt | ChainUnavailable]
    ) -> Undone:
        mine: dict[bytes, Receipt] = {}
        for each in watched_hashes(watched):
            receipt = receipts.get(each)
            if isinstance(receipt, ChainUnavailable):
                raise receipt
            if receipt is not None:
                mine[each] = receipt
        changes = tuple(moved_transactions(mined_transactions(watched), mine))
        if isinstance(watched, Transaction):
            return Undone(changes)
        settlement = watched.settlement
        change = None
        proof = await self._proof_among(settlement.payment, mine.values())
        if settlement.state is SettlementState.CONFIRMED or proof is not None:
            mined = mined_transactions(watched)
            change = settlement_change(
                settlement, outcome(settlement, mined, proof, None, self.policy)
            )
        return Undone(changes, change)

    async def prefetch_blocks(self, receipts: Iterable[Receipt]) -> None:
        """Read and confirm the blocks of receipts that may prove something, all in the same round
        trips. What fails is read again when it is needed.
        """
        blocks = {each.block_hash: each.block_number for each in receipts if each.succeeded}

        async def learn(block: tuple[bytes, int]) -> None:
            block_hash, number = block
            await self.heads.timestamp_of(block_hash)
            await self.heads.confirms(number, block_hash)

        await ask_all(learn, blocks.items())

    async def _deep_receipts(
        self, hashes: Sequence[bytes]
    ) -> dict[bytes, Receipt | ChainUnavailable]:
        """Return, by transaction hash, the receipts on the head's chain that are `confirmations`
        deep, and ChainUnavailable for those of which that is not known; all others are left out.
        """
        head = self.heads.head
        assert head is not None

        async def receipt_of(each: bytes) -> Receipt | None:
            # One endpoint alone can neither invent a receipt nor hide one.
            answer = await self.chain.quorum.receipt(each)
            if not answer.agreed:
                raise ChainUnavailable("a receipt is not agreed on")
            return answer.value

        async def holds(block: tuple[int, bytes]) -> bool | None:
            return await self.heads.still_holds(*block)

        receipts = await ask_all(receipt_of, hashes)
        mined = [each for each in receipts if isinstance(each, Receipt)]
        blocks = tuple(dict.fromkeys((each.block_number, each.block_hash) for each in mined))
        held = dict(zip(blocks, await ask_all(holds, blocks), strict=True))
        deep: dict[bytes, Receipt | ChainUnavailable] = {}
        for each, receipt in zip(hashes, receipts, strict=True):
            if isinstance(receipt, ChainUnavailable):
                deep[each] = receipt
            elif receipt is not None:
                known = held[receipt.block_number, receipt.block_hash]
                if known is None:
                    deep[each] = ChainUnavailable("a receipt's block is not known yet")
                elif isinstance(known, ChainUnavailable):
                    deep[each] = known
                elif known and self.policy.is_deep(receipt.block_number, head):
                    deep[each] = receipt
        return deep
