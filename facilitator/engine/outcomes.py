"""What one turn makes of a settlement: its own receipts first, the rest of the chain where it
must."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.head_tracker import Heads
from facilitator.chain.together import together
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
from facilitator.engine.payment_search import Investigator
from facilitator.ethereum.receipts import Receipt

# What is to be written down about what a reorg has undone.
Found = tuple[tuple[TransactionChange, ...], SettlementChange | None]
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

    async def judge(
        self, record: SettlementRecord, resolved: Mapping[int, Resolved], margin: int
    ) -> Verdict:
        """The verdict on one settlement, after a fresh look at the chain where that is due.

        `resolved` are the transactions that this turn saw come to an end, by id; `margin` is the
        seconds that must be left to mine another one.
        """
        settlement = record.settlement
        transactions, receipts = as_resolved(record.transactions, resolved)
        proof = await self._proof_among(settlement.payment, receipts)
        if settlement.state not in _OPEN and proof is None:
            # It has its answer already; this is about a transaction that a reorg has set free.
            return Keep()
        verdict = outcome(settlement, transactions, proof, None, self._policy)
        if isinstance(verdict, Investigate):
            # A group or a filler succeeds whatever becomes of one payment in it.
            alone = [each for each in transactions if each.kind is TransactionKind.SETTLE]
            sent = [attempt.hash for each in alone for attempt in each.attempts]
            findings = await self._investigator.findings(settlement, sent, margin)
            if findings is not None:
                verdict = outcome(settlement, transactions, None, findings, self._policy)
                if isinstance(verdict, Confirm | Fail):
                    await self._look_twice(findings.block_number, findings.block_hash)
                if isinstance(verdict, Confirm):
                    await self._look_twice_at(settlement.payment, verdict.proof)
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

    async def _look_twice_at(self, payment: AnyPayment, proof: Proof) -> None:
        """At a log of somebody else's transaction."""
        receipt = await self._chain.witnesses.agree_receipt(proof.transaction_hash)
        if receipt is None or await self._proof_among(payment, (receipt,)) != proof:
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

    async def look_again(self, watched: Sequence[Watched]) -> list[Found | None]:
        """What has changed about settlements whose transactions were mined, and about gap fillers
        that were, if a reorg undid or moved them; None where that cannot be told now.

        In a few round trips for all: their receipts, the blocks of these, a second look at them.
        """
        hashes = dict.fromkeys(one for each in watched for one in watched_hashes(each))
        receipts = await self._deep_receipts(tuple(hashes))
        await self.learn_blocks(each for each in receipts.values() if isinstance(each, Receipt))

        async def look(each: Watched) -> Found:
            return await self._look_again(each, receipts)

        found = await together(look, watched)
        return [None if isinstance(each, ChainUnavailable) else each for each in found]

    async def _look_again(
        self, watched: Watched, receipts: Mapping[bytes, Receipt | ChainUnavailable]
    ) -> Found:
        mine: dict[bytes, Receipt] = {}
        for each in watched_hashes(watched):
            receipt = receipts.get(each)
            if isinstance(receipt, ChainUnavailable):
                raise receipt
            if receipt is not None:
                mine[each] = receipt
        changes = tuple(moved_transactions(mined_transactions(watched), mine))
        if isinstance(watched, Transaction):
            return changes, None
        settlement = watched.settlement
        change = None
        proof = await self._proof_among(settlement.payment, mine.values())
        if settlement.state is SettlementState.CONFIRMED or proof is not None:
            mined = mined_transactions(watched)
            change = settlement_change(
                settlement, outcome(settlement, mined, proof, None, self._policy)
            )
        return changes, change

    async def learn_blocks(self, receipts: Iterable[Receipt]) -> None:
        """Look at the blocks in which these may prove something, all at once: whoever judges by
        one of them then finds it known. What is not known then is asked again by him.
        """
        blocks = {each.block_hash: each.block_number for each in receipts if each.succeeded}

        async def learn(block: tuple[bytes, int]) -> None:
            block_hash, number = block
            await self._heads.timestamp_of(block_hash)
            await self._confirm_block(number, block_hash)

        await together(learn, blocks.items())

    async def _deep_receipts(
        self, hashes: Sequence[bytes]
    ) -> dict[bytes, Receipt | ChainUnavailable]:
        """Receipts on the head's chain, `confirmations` deep: all others count as none. Of one that
        cannot be told apart, ChainUnavailable.
        """
        head = self._heads.head
        assert head is not None

        async def receipt_of(each: bytes) -> Receipt | None:
            witnesses = self._chain.witnesses
            if not witnesses.exist:
                return await witnesses.find_receipt(each)
            # One alone neither makes a receipt up nor hides it.
            receipt = await witnesses.agree_receipt(each)
            if receipt is None and await witnesses.find_receipt(each) is not None:
                raise ChainUnavailable("a receipt is not agreed on")
            return receipt

        async def holds(block: tuple[int, bytes]) -> bool | None:
            known = await self._heads.holds(*block)
            if known is False and await self._chain.witnesses.deny_block(*block) is False:
                return None
            return known

        receipts = await together(receipt_of, hashes)
        mined = [each for each in receipts if isinstance(each, Receipt)]
        blocks = tuple(dict.fromkeys((each.block_number, each.block_hash) for each in mined))
        held = dict(zip(blocks, await together(holds, blocks), strict=True))
        deep: dict[bytes, Receipt | ChainUnavailable] = {}
        for each, receipt in zip(hashes, receipts, strict=True):
            if isinstance(receipt, ChainUnavailable):
                deep[each] = receipt
            elif receipt is not None:
                known = held[receipt.block_number, receipt.block_hash]
                depth = head.number - receipt.block_number + 1
                if known is None:
                    deep[each] = ChainUnavailable("a receipt's block is not known yet")
                elif isinstance(known, ChainUnavailable):
                    deep[each] = known
                elif known and depth >= self._policy.confirmations:
                    deep[each] = receipt
        return deep
