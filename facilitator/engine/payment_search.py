"""Searches of the chain for a payment that the journal does not know to be paid.

A settlement whose own transactions did not pay: somebody else may have sent the same authorization
and paid it, or the reason for the failure may have passed, so that another transaction would settle
it. A request whose payment is not in the journal, but whose nonce is used: the search finds the
transaction, by which a seller whose reply was lost with an old journal can find the money.
"""

import asyncio
from collections.abc import Callable, Collection

import anyio

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.head_tracker import HeadTracker
from facilitator.chain.quorum import Agreement
from facilitator.chain.recent import Recent
from facilitator.domain.payment import Proof, Reason, Refusal
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.settlement import Findings, Policy, Settlement
from facilitator.domain.verification import check_time
from facilitator.engine.simulate import Simulator
from facilitator.ethereum.receipts import Receipt

# Blocks in one log query: what the strictest common providers allow.
LOG_RANGE = 500
# How far back, in all: a day of one-second blocks and more.
MAX_LOG_QUERIES = 200
# A payment's nonce was unused when it was taken on, so no older block has its proof. These seconds
# allow for the difference between the chain's clock and ours.
SLACK = 3600
# Log queries for a payment that is not in the journal, and how many such searches run at once: a
# request of anybody starts one.
REQUEST_QUERIES = 20
AT_ONCE = 2
REMEMBERED = 4096  # searches
# Seconds for which an empty result is remembered: nodes index logs late.
NOTHING_FOR = 60.0
_USED = frozenset({Reason.AUTHORIZATION_USED, Reason.AUTHORIZATION_USED_ON_CHAIN})


class PaymentSearch:
    """Searches one chain. `clock` is in unix milliseconds. Its methods raise ChainUnavailable."""

    def __init__(
        self,
        *,
        chain: Chain,
        simulator: Simulator,
        heads: HeadTracker,
        policy: Policy,
        clock: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._simulator = simulator
        self._heads = heads
        self._policy = policy
        self._clock = clock
        self._limit = anyio.Semaphore(AT_ONCE)
        # By request digest: two payments may share a nonce, and one transaction paid one of them.
        self._found: Recent[bytes | None, AnyPayment] = Recent(
            self._search,
            lambda found: NOTHING_FOR if found is None else float("inf"),
            limit=REMEMBERED,
            key=lambda payment: scheme_of(payment).request_digest(payment),
        )

    async def transaction_of(self, payment: AnyPayment) -> bytes | None:
        """Return the hash of the transaction that paid exactly this payment, whoever sent it; None
        where the last blocks show none.
        """
        return await self._found.look(payment)

    async def _search(self, payment: AnyPayment) -> bytes | None:
        async with self._limit:
            head = await self._chain.head()
            since = payment.valid_from
            proof = await self.find_proof(payment, head.number, since, REQUEST_QUERIES)
        return None if proof is None else proof.transaction_hash

    async def findings(
        self, settlement: Settlement, sent: Collection[bytes], margin: int
    ) -> Findings | None:
        """Return what the chain shows about a payment, and whether another transaction would settle
        it; None while that is still open. `sent` are the hashes of what was signed for it alone so
        far; `margin` is the seconds that must be left to mine another one.
        """
        payment = settlement.payment
        head = self._heads.head
        assert head is not None
        # Not the current head of the endpoint that answers: no quorum has agreed on that one.
        shown = await self._chain.block(head.number)
        if shown is None or shown.hash != head.hash:
            return None  # the endpoint lags: what it does not show may exist
        # The nonce is read as of the block up to which logs count: later, it could be used by a
        # transaction whose log does not count yet.
        deep = max(head.number - self._policy.confirmations + 1, 0)
        examined, reverted, receipts = await asyncio.gather(
            self._simulator.read_facts(payment, deep),
            self._simulator.simulate(payment),
            self._chain.receipts(sent),
        )
        refusal = None
        for receipt in receipts.values():
            if await self._paid_nothing(receipt, payment):
                # The call succeeded and did not pay: another one would do the same.
                refusal = Refusal(Reason.TRANSFER_MISSING)
        if examined.facts.authorization_used:
            since = max(payment.valid_from, settlement.created_at // 1000 - SLACK)
            proof = await self.find_proof(payment, deep, since)
            if proof is None and not await self._long_used(payment, head.number):
                return None
            return Findings(
                block_number=head.number,
                block_hash=head.hash,
                proof=proof,
                authorization_used=True,
                refusal=refusal,
            )
        now = self._clock() // 1000
        refusal = refusal or check_time(payment, now, margin) or examined.facts.refusal
        if refusal is None and reverted is not None:
            refusal = await self._simulator.diagnose(payment, reverted, now)
            if refusal.reason in _USED:
                return None  # used above `deep`
        return Findings(
            block_number=head.number,
            block_hash=head.hash,
            proof=None,
            authorization_used=False,
            refusal=refusal,
        )

    async def _long_used(self, payment: AnyPayment, head: int) -> bool:
        """Return whether the nonce was used so long ago that every endpoint shows the log that
        proves the payment, if there is one.
        """
        final = max(head - self._policy.superseded_depth + 1, 0)
        examined = await self._simulator.read_facts(payment, final)
        return examined.facts.authorization_used

    async def find_proof(
        self, payment: AnyPayment, last: int, since: int, queries: int = MAX_LOG_QUERIES
    ) -> Proof | None:
        """Return the log that proves the payment, in anybody's transaction up to block `last` and
        back to `since` (unix seconds), by at most `queries` log queries of LOG_RANGE blocks; None
        where there is none.
        """
        wanted = scheme_of(payment).proof_filter(payment)
        for _ in range(queries):
            first = max(last - LOG_RANGE + 1, 0)
            logs = await self._chain.quorum.logs(wanted, first, last)
            carriers = dict.fromkeys(log.transaction_hash for log in logs)
            shown_receipt = self._chain.quorum.shown_receipt
            receipts = await asyncio.gather(*(shown_receipt(each) for each in carriers))
            for receipt in receipts:
                if receipt is None or not receipt.succeeded:
                    raise ChainUnavailable("a log without a receipt that bears it out")
                proof = await self._proof_in(receipt, payment)
                if proof is not None:
                    return proof
            if first == 0:
                return None
            oldest = await self._chain.block(first)
            if oldest is None:
                raise ChainUnavailable("an old block is missing")
            if oldest.timestamp < since:
                if await self._chain.quorum.block_older(first, since) is not Agreement.AGREED:
                    raise ChainUnavailable("how old a block is, is not agreed on")
                return None
            last = first - 1
        return None

    async def _paid_nothing(self, receipt: Receipt, payment: AnyPayment) -> bool:
        timestamp = await self._mined_at(receipt)
        if timestamp is None or not receipt.succeeded:
            return False
        return scheme_of(payment).find_proof(payment, receipt.logs, timestamp) is None

    async def _proof_in(self, receipt: Receipt, payment: AnyPayment) -> Proof | None:
        timestamp = await self._mined_at(receipt)
        if timestamp is None:
            raise ChainUnavailable("a receipt's block is not on the chain")
        proof: Proof | None = scheme_of(payment).find_proof(payment, receipt.logs, timestamp)
        return proof

    async def _mined_at(self, receipt: Receipt) -> int | None:
        """Return the timestamp of a receipt's block, in unix seconds; None where the chain has
        another block at that height, or none: the receipt comes from an endpoint that lags behind
        a reorg, and proves nothing.
        """
        block = await self._chain.block(receipt.block_number)
        same = block is not None and block.hash == receipt.block_hash
        return block.timestamp if block is not None and same else None
