"""The reorg watch of one chain: what was mined and is not buried may be undone, or moved.

It looks after every reorg and at the start. A machine that lags does not show what exists all the
same, so nothing counts as undone until two looks in a row agree on it, and nothing is looked at
that lies above the head.
"""

from collections.abc import Callable, Iterator

from msgspec import Struct

from facilitator.heads import Heads
from facilitator.judgement import Judge
from facilitator.node import ChainUnavailable
from facilitator.settlement import Policy, TransactionState
from facilitator.store import OpenWork, Ride, SettlementChange, Store, TransactionChange


class Undone(Struct, frozen=True):
    """What to write down about one settlement, or about gap fillers."""

    transactions: tuple[TransactionChange, ...]
    settlement: SettlementChange | None


_NOTHING = Undone((), None)


class ReorgWatch:
    """Watches the journal's mined transactions and proofs."""

    def __init__(
        self, *, chain_id: int, store: Store, judge: Judge, heads: Heads, policy: Policy
    ) -> None:
        self._chain_id = chain_id
        self._store = store
        self._judge = judge
        self._heads = heads
        self._policy = policy
        self._in_doubt = False
        # What the last look found, by settlement ("" for fillers), until another one agrees.
        self._suspected: dict[str, Undone] = {}
        # The highest block in which something of ours was mined: a reorg is watched for above it.
        self._mined_until = -1

    @property
    def in_doubt(self) -> bool:
        """Whether there is something to look at again, soon."""
        return self._in_doubt

    @property
    def watching(self) -> bool:
        """Whether anything could still be undone."""
        return self._mined_until >= 0

    def doubt(self) -> None:
        """There was a reorg, or what happened is not known: look again."""
        self._in_doubt = True

    def mined(self, block_number: int | None) -> None:
        """Something of ours was mined there."""
        self._mined_until = max(self._mined_until, -1 if block_number is None else block_number)

    async def look(self, step: Callable[[], None]) -> list[Undone]:
        """What a reorg has undone or moved; `step` is called before each settlement. Raises
        ChainUnavailable and StoreError.
        """
        head = self._heads.head
        assert head is not None
        horizon = head.number - self._policy.reorg_watch_blocks
        work = await self._store.watched(self._chain_id, horizon)
        for number in _blocks(work):
            self.mined(number)
        found: dict[str, Undone] = {}
        open_questions = False
        for ride in work.rides:
            step()
            if max(_blocks_of(ride), default=-1) > head.number:
                open_questions = True
                continue
            try:
                changes, change = await self._judge.look_again(ride)
            except ChainUnavailable:
                open_questions = True
                continue
            found[ride.settlement.id] = Undone(tuple(changes), change)
        low = [each for each in work.fillers if (each.block_number or 0) <= head.number]
        found[""] = Undone(tuple(await self._judge.fillers_again(low)), None)
        found = {name: undone for name, undone in found.items() if undone != _NOTHING}
        agreed = [undone for name, undone in found.items() if self._suspected.get(name) == undone]
        self._suspected = {name: undone for name, undone in found.items() if undone not in agreed}
        self._in_doubt = open_questions or bool(self._suspected) or len(low) < len(work.fillers)
        return agreed

    async def bury(self) -> None:
        """Forget what no reorg reaches any more."""
        head = self._heads.head
        if head is None or not self.watching:
            return
        buried = head.number - self._policy.reorg_watch_blocks
        await self._store.bury(self._chain_id, buried)
        if self._mined_until <= buried:
            self._mined_until = -1


def _blocks_of(ride: Ride) -> Iterator[int]:
    for transaction in ride.transactions:
        if transaction.state is TransactionState.MINED and transaction.block_number is not None:
            yield transaction.block_number
    if ride.settlement.proof is not None:
        yield ride.settlement.proof.block_number


def _blocks(work: OpenWork) -> Iterator[int]:
    for ride in work.rides:
        yield from _blocks_of(ride)
    for filler in work.fillers:
        if filler.block_number is not None:
            yield filler.block_number
