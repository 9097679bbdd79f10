"""The head of one chain over time: whether it moved, stands, lags behind what was seen, or was
replaced by another history.

Where several endpoints are configured it is no higher than two of them bear out: the depth of all
that is decided is measured from it.
"""

import logging
from collections.abc import Callable
from enum import StrEnum

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.ethereum.receipts import Block
from facilitator.telemetry.logs import event

_log = logging.getLogger(__name__)

REMEMBERED = 256  # heads, and timestamps of blocks
# No chain that keeps time is slower; one that mines on demand tells nothing about its next block.
MAX_INTERVAL_MS = 15_000
# A head that nothing as high was shown after, for so long and so many blocks, counts as never
# having been: machines that lag catch up sooner, and after a lie nothing would be decided until
# the chain has passed it.
LAG_LIMIT_MS = 10_000
LAG_LIMIT_BLOCKS = 5


class Sight(StrEnum):
    """What a look at the head showed, against the looks before it."""

    SAME = "same"
    MOVED = "moved"
    # An endpoint that has not caught up: what it does not show may exist all the same.
    LAGGING = "lagging"
    # A reorg, a head that was forgotten, or the first look: nothing that was seen before is known
    # to be still there.
    REPLACED = "replaced"


class Heads:
    """Looks at one chain's head, and remembers the last ones by number. `clock` is in unix
    milliseconds.
    """

    def __init__(self, *, network: str, chain: Chain, clock: Callable[[], int]) -> None:
        self._network = network
        self._chain = chain
        self._clock = clock
        self._hashes: dict[int, bytes] = {}
        self._timestamps: dict[bytes, int] = {}
        # Whether one of several endpoints told of the head while the others were away.
        self._told_alone = False
        # Since when nothing as high as the head was shown, and the height that was shown first.
        self._lagging_since: tuple[int, int] | None = None
        self.head: Block | None = None
        self.interval_ms = 0  # between blocks, as observed; 0 until two were seen

    async def look(self) -> Sight:
        """Ask for the head and compare. Raises ChainUnavailable."""
        shown = await self._chain.head()
        head = await self._borne_out(shown)
        known = self.head
        if known is None or not await self._continues(head):
            return self._replace(head)
        if head.number < known.number:
            if not self._lags_for_long(head):
                return Sight.LAGGING
            self._forget(known)
            return self._replace(await self._borne_out(shown))
        self._lagging_since = None
        if head.number == known.number:
            return Sight.SAME
        passed = 1000 * (head.timestamp - known.timestamp)
        average = passed // (head.number - known.number)
        self.interval_ms = min(average, MAX_INTERVAL_MS)
        self._remember(head)
        return Sight.MOVED

    async def _borne_out(self, shown: Block) -> Block:
        """The head that an endpoint has `shown`, or where that is higher than two of several bear
        out, the block at the height that they do, as it shows that one.
        """
        witnesses, known = self._chain.witnesses, self.head
        higher = known is None or shown.number > known.number
        if not witnesses.exist or not (higher or self._told_alone):
            return shown
        try:
            agreed = await witnesses.height()
        except ChainUnavailable:
            if known is None:
                raise
            height = known.number  # nothing further is borne out for now
        else:
            height = agreed.count
            # What one told alone is asked for until others have come as far.
            if agreed.alone or known is None or height >= known.number:
                self._told_alone = agreed.alone
        if shown.number <= height:
            return shown
        block = await self._chain.block(height)
        if block is None:
            raise ChainUnavailable("a block below the head is missing")
        return block

    def _lags_for_long(self, shown: Block) -> bool:
        """Whether nothing as high as the known head was shown for too long."""
        now = self._clock()
        since, height = self._lagging_since = self._lagging_since or (now, shown.number)
        lagged = now - since
        # The interval is what the block that is doubted would have it be: blocks count as well.
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
        """Whether `head` stands on the newest block that was seen at or below its height."""
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
        """Whether the chain that ends in the head has this block; None where that cannot be told,
        as from a machine that does not know the block's height yet. Raises ChainUnavailable.
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
        """When a block was made, unix seconds; None where the chain has no such block."""
        timestamp = self._timestamps.get(block_hash)
        if timestamp is None:
            block = await self._chain.block(block_hash)
            if block is None:
                return None
            timestamp = self._timestamps[block_hash] = block.timestamp
        return timestamp
