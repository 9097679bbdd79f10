"""The head of one chain over time: whether it moved, stood still, lags behind an earlier head, or
was replaced by another history; and which blocks that history has.

Depths are measured from the head, so with several endpoints it is no higher than two of them have
reached. One endpoint may be several backends behind a load balancer: "a backend that lags" is one
that has not yet seen blocks that another backend of the same endpoint has shown.
"""

import logging
from collections.abc import Callable
from enum import StrEnum

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.quorum import Agreement
from facilitator.ethereum.receipts import Block
from facilitator.telemetry.logs import event

_log = logging.getLogger(__name__)

REMEMBERED = 256  # heads, and timestamps of blocks
# No chain that keeps time is slower; one that mines on demand says nothing about its next block.
MAX_INTERVAL_MS = 15_000
# A head is discarded when none as high was read for so long and for so many blocks. A backend that
# lags catches up sooner. A head that was a lie must go, or nothing would be decided until the chain
# passes the height that was made up.
LAG_LIMIT_MS = 10_000
LAG_LIMIT_BLOCKS = 5


class Sight(StrEnum):
    """How the head that was read compares with the one before it."""

    SAME = "same"
    MOVED = "moved"
    # From an endpoint or backend that has not caught up: what it does not show may still exist.
    LAGGING = "lagging"
    # A reorg, a head that was discarded, or the first head: blocks seen before may be gone.
    REPLACED = "replaced"


class HeadTracker:
    """Follows one chain's head and remembers the last ones by number. `clock` is in unix
    milliseconds.
    """

    def __init__(self, *, network: str, chain: Chain, clock: Callable[[], int]) -> None:
        self._network = network
        self._chain = chain
        self._clock = clock
        self._hashes: dict[int, bytes] = {}
        self._timestamps: dict[bytes, int] = {}
        # Whether one endpoint, left alone, reported the head.
        self._alone = False
        # Since when only heads below the known one were read, and the height of the first of them.
        self._lagging_since: tuple[int, int] | None = None
        self.head: Block | None = None
        self.interval_ms = 0  # between blocks, as observed; 0 until two were seen
        self._confirmed: set[tuple[int, bytes]] = set()  # blocks, since the last update

    async def update(self) -> Sight:
        """Read the head and return how it compares with the last one. Blocks must be confirmed anew
        after each update. Raises ChainUnavailable.
        """
        self._confirmed.clear()
        shown = await self._chain.head()
        head = await self._agreed_on(shown)
        known = self.head
        if known is None or not await self._continues(head):
            return self._replace(head)
        if head.number < known.number:
            if not self._lags_for_long(head):
                return Sight.LAGGING
            self._forget(known)
            return self._replace(await self._agreed_on(shown))
        self._lagging_since = None
        if head.number == known.number:
            return Sight.SAME
        passed = 1000 * (head.timestamp - known.timestamp)
        average = passed // (head.number - known.number)
        self.interval_ms = min(average, MAX_INTERVAL_MS)
        self._remember(head)
        return Sight.MOVED

    async def _agreed_on(self, shown: Block) -> Block:
        """Return the head that an endpoint has `shown`. Where that is higher than a quorum has
        reached, return instead its block at the quorum's height. Raises ChainUnavailable.
        """
        quorum, known = self._chain.quorum, self.head
        higher = known is None or shown.number > known.number
        if not quorum.several or not (higher or self._alone):
            return shown
        try:
            agreed = await quorum.height()
        except ChainUnavailable:
            if known is None:
                raise
            height = known.number  # nothing higher is agreed on for now
        else:
            height = agreed.value
            # A height from one endpoint alone is asked for again until others have reached it.
            if agreed.alone or known is None or height >= known.number:
                self._alone = agreed.alone
        if shown.number <= height:
            return shown
        block = await self._chain.block(height)
        if block is None:
            raise ChainUnavailable("a block below the head is missing")
        return block

    def _lags_for_long(self, shown: Block) -> bool:
        """Return whether for too long no head was read that is as high as the known one."""
        now = self._clock()
        since, height = self._lagging_since = self._lagging_since or (now, shown.number)
        lagged = now - since
        # The interval may come from the very head that is doubted, so blocks are counted as well.
        return lagged >= LAG_LIMIT_MS and (
            lagged >= LAG_LIMIT_BLOCKS * self.interval_ms
            or shown.number >= height + LAG_LIMIT_BLOCKS
        )

    def _forget(self, known: Block) -> None:
        event(
            _log,
            logging.WARNING,
            "head_forgotten",
            network=self._network,
            block_number=known.number,
        )
        self.head = None
        self._hashes.clear()

    def _replace(self, head: Block) -> Sight:
        self._lagging_since = None
        self._hashes.clear()
        self._remember(head)
        return Sight.REPLACED

    async def _continues(self, head: Block) -> bool:
        """Return whether `head` descends from the newest block seen at or below its height. Raises
        ChainUnavailable.
        """
        known = max((number for number in self._hashes if number <= head.number), default=None)
        if known is None:
            return False
        if known == head.number:
            return head.hash == self._hashes[known]
        if known == head.number - 1:
            return head.parent_hash == self._hashes[known]
        block = await self._chain.block(known)
        return block is not None and block.hash == self._hashes[known]

    async def holds(self, number: int, block_hash: bytes) -> bool | None:
        """Return whether the chain that ends in the head has this block, as the first endpoint that
        is well shows it; None where that is not known: a backend that lags has no block so high.
        Raises ChainUnavailable.
        """
        if self.head is None or number > self.head.number:
            return None
        known = self._hashes.get(number)
        if known is None:
            block = await self._chain.block(number)
            if block is None:
                return None
            known = block.hash
            self._note_timestamp(block)
        return known == block_hash

    async def confirms(self, number: int, block_hash: bytes) -> bool:
        """Check a block once more before something final is decided by it: return False where the
        first endpoint that is well shows another block there, or the quorum does not confirm it.
        Raises ChainUnavailable.
        """
        if (number, block_hash) in self._confirmed:
            return True
        held = await self.holds(number, block_hash)
        if held is False:
            return False
        if self._chain.quorum.several:
            held = (await self._chain.quorum.block(number, block_hash)) is Agreement.AGREED
        if held:
            self._confirmed.add((number, block_hash))
        return held is not False

    async def still_holds(self, number: int, block_hash: bytes) -> bool | None:
        """Return what `holds` does, but False only where the quorum has another block at this
        height, and None while only one endpoint shows another. Raises ChainUnavailable.
        """
        held = await self.holds(number, block_hash)
        quorum = self._chain.quorum
        if held is False and quorum.several:
            gone = await quorum.block(number, block_hash) is Agreement.CONTRADICTED
            return False if gone else None
        return held

    def _remember(self, head: Block) -> None:
        self.head = head
        self._hashes[head.number] = head.hash
        self._hashes[head.number - 1] = head.parent_hash
        while len(self._hashes) > REMEMBERED:
            del self._hashes[min(self._hashes)]
        self._note_timestamp(head)

    def _note_timestamp(self, block: Block) -> None:
        self._timestamps[block.hash] = block.timestamp
        while len(self._timestamps) > REMEMBERED:
            del self._timestamps[next(iter(self._timestamps))]

    async def timestamp_of(self, block_hash: bytes) -> int | None:
        """Return when a block was made, unix seconds; None where the chain has no such block.
        Raises ChainUnavailable.
        """
        timestamp = self._timestamps.get(block_hash)
        if timestamp is None:
            block = await self._chain.block(block_hash)
            if block is None:
                return None
            timestamp = self._timestamps[block_hash] = block.timestamp
        return timestamp
