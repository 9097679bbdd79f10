"""The second look: what ends a transaction must not be the word of one endpoint alone."""

import asyncio
import logging
from collections.abc import Mapping

from facilitator.chain import Chain
from facilitator.heads import Heads
from facilitator.judgement import Resolved
from facilitator.node import to_hex
from facilitator.settlement import Mined
from facilitator.telemetry import event

_log = logging.getLogger(__name__)


class SecondLook:
    """Looks twice at blocks and receipts of one chain. Its methods raise ChainUnavailable."""

    def __init__(self, *, network: str, chain: Chain, heads: Heads) -> None:
        self._network = network
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
        """Those ends that the witnesses bear out, where there are any: by a receipt that is made
        up a payment would seem to be made, or never to be.
        """
        mined = [end.receipt for end in resolved.values() if isinstance(end, Mined)]
        confirm = self._chain.witnesses.confirm_receipt
        answers = await asyncio.gather(*(confirm(each) for each in mined))
        refuted = {
            receipt.transaction_hash
            for receipt, same in zip(mined, answers, strict=True)
            if same is False
        }
        for transaction_hash in refuted:
            event(
                _log,
                logging.WARNING,
                "receipt_not_confirmed",
                network=self._network,
                transaction=to_hex(transaction_hash),
            )
        return {
            number: end
            for number, end in resolved.items()
            if not (isinstance(end, Mined) and end.receipt.transaction_hash in refuted)
        }
