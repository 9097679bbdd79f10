"""The head of one chain over time: whether it moved, stands, lags behind what was seen, or was
replaced by another history.
"""

from enum import StrEnum

from facilitator.chain import Chain
from facilitator.ethereum.receipts import Block

REMEMBERED = 256  # heads, and timestamps of blocks
# No chain that keeps time is slower; one that mines on demand tells nothing about its next block.
MAX_INTERVAL_MS = 15_000


class Sight(StrEnum):
    """What a look at the head showed, against the looks before it."""

    SAME = "same"
    MOVED = "moved"
    # An endpoint that has not caught up: what it does not show may exist all the same.
    LAGGING = "lagging"
    # A reorg, or the first look: nothing that was seen before is known to be still there.
    REPLACED = "replaced"


class Heads:
    """Looks at one chain's head, and remembers the last ones by number."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._hashes: dict[int, bytes] = {}
        self._timestamps: dict[bytes, int] = {}
        self.head: Block | None = None
        self.interval_ms = 0  # between blocks, as observed; 0 until two were seen

    async def look(self) -> Sight:
        """Ask for the head and compare. Raises ChainUnavailable."""
        head = await self._chain.head()
        if not await self._continues(head):
            self._hashes.clear()
            self._remember(head)
            return Sight.REPLACED
        if self.head is not None and head.number < self.head.number:
            return Sight.LAGGING
        if self.head is not None and head.number == self.head.number:
            return Sight.SAME
        if self.head is not None:
            passed = 1000 * (head.timestamp - self.head.timestamp)
            average = passed // (head.number - self.head.number)
            self.interval_ms = min(average, MAX_INTERVAL_MS)
        self._remember(head)
        return Sight.MOVED

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
