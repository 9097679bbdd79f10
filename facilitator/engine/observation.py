"""What one turn of the loop sees of the transactions that are still open."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.head_tracker import Heads
from facilitator.chain.together import together
from facilitator.domain.settlement import Observation, Policy, Transaction
from facilitator.ethereum.receipts import Receipt


class Observer:
    """Observes one chain."""

    def __init__(self, *, chain: Chain, heads: Heads, policy: Policy) -> None:
        self._chain = chain
        self._heads = heads
        self._policy = policy
        # By signer: the head at which one endpoint of several, left alone, began to count so that
        # a transaction of ours would be superseded.
        self._alone_since: dict[bytes, int] = {}

    async def observe(
        self, transactions: Sequence[Transaction], broadcast_at: Mapping[int, int], now: int
    ) -> dict[int, Observation]:
        """One round trip for all receipts and account nonces, a second one where it is needed.

        A receipt counts where the head's chain has its block: a machine that lags behind a reorg
        shows others. Until it is known which of them is right, no transaction is superseded; nor
        until it is known of every endpoint that none shows a receipt.

        By transaction id. `broadcast_at` says when each was last offered to the chain, `now` is in
        unix milliseconds. Raises ChainUnavailable.
        """
        head = self._heads.head
        assert head is not None
        # each once, and in the same order in every run
        signers = tuple(dict.fromkeys(transaction.signer for transaction in transactions))
        hashes = [attempt.hash for each in transactions for attempt in each.attempts]
        receipts, mined = await asyncio.gather(
            self._chain.receipts(hashes), self._chain.account_nonces(signers, "latest")
        )
        shown, untold = await self._missed(transactions, receipts, mined, now)
        receipts.update(shown)
        strangers = await self._strangers(receipts.values())
        if strangers and self._chain.witnesses.exist:
            receipts.update(await self._overruled(strangers))
            strangers = await self._strangers(receipts.values())
        doubtful = untold | strangers
        receipts = {each: found for each, found in receipts.items() if each not in doubtful}
        unmined = [
            transaction
            for transaction in transactions
            if not any(attempt.hash in receipts for attempt in transaction.attempts)
        ]
        depth = head.number - self._policy.superseded_depth
        passed = dict.fromkeys(
            each.signer for each in unmined if each.account_nonce < mined[each.signer]
        )
        buried = await self._buried(passed, depth)
        oldest = min((each.attempts[-1].signed_at for each in unmined), default=None)
        market = None
        if oldest is not None and now - oldest >= self._policy.replace_after_ms:
            market = await self._chain.fee_market()
        return {
            each.id: Observation(
                head=head,
                receipts=receipts,
                account_nonce=mined[each.signer],
                buried_account_nonce=0
                if any(attempt.hash in doubtful for attempt in each.attempts)
                else buried.get(each.signer, 0),
                market=market,
                broadcast_at=broadcast_at.get(each.id),
                block_interval_ms=self._heads.interval_ms,
            )
            for each in transactions
        }

    async def _missed(
        self,
        transactions: Sequence[Transaction],
        receipts: Mapping[bytes, Receipt],
        mined: Mapping[bytes, int],
        now: int,
    ) -> tuple[dict[bytes, Receipt], set[bytes]]:
        """What other endpoints show of transactions that should be mined by now, and the hashes of
        which that cannot be told: those whose nonce the chain has used, and of each signer the
        first one, if it is old enough to be replaced.
        """
        unmined = [
            each
            for each in transactions
            if not any(attempt.hash in receipts for attempt in each.attempts)
        ]
        first: dict[bytes, int] = {}
        for each in unmined:
            first[each.signer] = min(each.account_nonce, first.get(each.signer, each.account_nonce))
        patience = self._policy.patience_ms(self._heads.interval_ms)
        hashes = [
            attempt.hash
            for each in unmined
            for attempt in each.attempts
            if each.account_nonce < mined[each.signer]
            or (
                each.account_nonce == first[each.signer]
                and now - each.attempts[-1].signed_at >= patience
            )
        ]
        found = await together(self._chain.witnesses.find_receipt, hashes)
        told = dict(zip(hashes, found, strict=True))
        return (
            {each: receipt for each, receipt in told.items() if isinstance(receipt, Receipt)},
            {each for each, receipt in told.items() if isinstance(receipt, ChainUnavailable)},
        )

    async def _overruled(self, hashes: Iterable[bytes]) -> dict[bytes, Receipt]:
        """What the endpoints agree on about these transactions, where they do."""
        asked = tuple(hashes)
        agreed = await together(self._chain.witnesses.agree_receipt, asked)
        told = zip(asked, agreed, strict=True)
        return {each: receipt for each, receipt in told if isinstance(receipt, Receipt)}

    async def _buried(self, signers: Iterable[bytes], depth: int) -> dict[bytes, int]:
        """Two endpoints must agree on it: superseded by a lie, a transaction of ours would be paid
        for twice, and its nonce be a gap. One that is left alone is believed once it has stayed
        alone, and said so, for as many blocks again as bury a count: a passing lie lasts no longer.
        """
        asked = tuple(signers) if depth >= 0 else ()
        agreed = self._chain.witnesses.account_nonce
        told = await asyncio.gather(*(agreed(signer, depth) for signer in asked))
        alone = {signer for signer, each in zip(asked, told, strict=True) if each.alone}
        self._alone_since = {
            # a head that was forgotten was too high
            signer: min(self._alone_since.get(signer, depth), depth)
            for signer in asked
            if signer in alone
        }
        too_soon = depth - self._policy.superseded_depth
        return {
            signer: each.count
            for signer, each in zip(asked, told, strict=True)
            if self._alone_since.get(signer, too_soon) <= too_soon
        }

    async def _strangers(self, receipts: Iterable[Receipt]) -> set[bytes]:
        """Those whose block is not on the head's chain, or not known to be; by transaction hash."""
        found = tuple(receipts)
        blocks = tuple(dict.fromkeys((each.block_number, each.block_hash) for each in found))
        held = await asyncio.gather(*(self._heads.holds(*block) for block in blocks))
        sure = {block for block, holds in zip(blocks, held, strict=True) if holds}
        return {
            each.transaction_hash
            for each in found
            if (each.block_number, each.block_hash) not in sure
        }
