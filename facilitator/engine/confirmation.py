"""The second look: what ends a transaction must not be the word of one endpoint alone."""

import asyncio
import logging
from collections.abc import Mapping

from facilitator.chain.answers import to_hex
from facilitator.chain.client import Chain
from facilitator.chain.head_tracker import Heads
from facilitator.chain.quorum import same_receipt
from facilitator.domain.settlement import Mined, Policy, Resolved
from facilitator.ethereum.receipts import Receipt
from facilitator.telemetry.logs import event

_log = logging.getLogger(__name__)


class SecondLook:
    """Looks twice at blocks and receipts of one chain. Its methods raise ChainUnavailable."""

    def __init__(self, *, network: str, chain: Chain, heads: Heads, policy: Policy) -> None:
        self._network = network
        self._policy = policy
        self._chain = chain
        self._heads = heads
        self._confirmed: set[tuple[int, bytes]] = set()  # blocks that this turn looked at twice

    def begin_turn(self) -> None:
        """What was seen before may have changed."""
        self._confirmed.clear()

    async def confirm_block(self, number: int, block_hash: bytes) -> bool | None:
        """Whether the chain has this block: as the endpoint that is read from shows it by now, and
        as others witness where there are several.
        """
        if (number, block_hash) in self._confirmed:
            return True
        holds = await self._heads.holds(number, block_hash)
        if holds is False:
            return False
        elsewhere = await self._chain.witnesses.confirm_block(number, block_hash)
        holds = holds if elsewhere is None else elsewhere
        if holds:
            self._confirmed.add((number, block_hash))
        return holds

    async def confirm_ends(self, resolved: Mapping[int, Resolved]) -> dict[int, Resolved]:
        """Those ends that the witnesses bear out, where there are any, by the receipts that they
        agree on: by one that is made up a payment would seem to be made, or never to be.
        """
        if not self._chain.witnesses.exist:
            return dict(resolved)
        confirmed = await asyncio.gather(*(self._confirm_end(end) for end in resolved.values()))
        ends = zip(resolved, confirmed, strict=True)
        return {number: end for number, end in ends if end is not None}

    async def _confirm_end(self, end: Resolved) -> Resolved | None:
        if not isinstance(end, Mined):
            return end
        read = end.receipt
        agreed = await self._chain.witnesses.agree_receipt(read.transaction_hash)
        if agreed is not None and same_receipt(agreed, read):
            return end
        event(
            _log,
            logging.WARNING,
            "receipt_not_confirmed",
            network=self._network,
            transaction=to_hex(read.transaction_hash),
        )
        # Others may have overruled the one that was read: then theirs is as good.
        if agreed is None or not await self._is_deep(agreed):
            return None
        return Mined(end.attempt, agreed)

    async def _is_deep(self, receipt: Receipt) -> bool:
        head = self._heads.head
        assert head is not None
        depth = head.number - receipt.block_number + 1
        held = await self._heads.holds(receipt.block_number, receipt.block_hash)
        return held is True and depth >= self._policy.confirmations
