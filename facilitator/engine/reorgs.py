"""The reorg watch of one chain: what was mined and is not final yet may be undone, or moved.

It checks everything after a reorg and at the start, in slices, so that other work of the loop does
not wait for it. An endpoint that lags does not show everything that exists, so nothing counts as
undone until two checks in a row agree, and nothing above the head is checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from msgspec import Struct

from facilitator.chain.head_tracker import HeadTracker
from facilitator.domain.settlement import (
    Policy,
    SettlementRecord,
    Transaction,
    TransactionState,
    Watched,
)
from facilitator.engine.counters import Tally
from facilitator.engine.outcomes import OutcomeResolver, Undone
from facilitator.journal.store import Store

# How many settlements and gap fillers one turn checks, in three or four round trips.
SLICE = 200
# After so many checks, what still differs from the journal is given up, if it lies deeper than any
# reorg reaches: until then it keeps blocks from becoming final.
MAX_CHECKS = 100


class _Doubtful(Struct):
    """Something to check again, after `checks` that found it otherwise than the journal has it."""

    watched: Watched
    checks: int = 0


@dataclass(kw_only=True, eq=False)
class ReorgWatch:
    """Watches the journal's mined transactions and proofs."""

    chain_id: int
    store: Store
    outcomes: OutcomeResolver
    heads: HeadTracker
    policy: Policy
    tally: Tally
    _must_read: bool = field(default=False, init=False)  # what the journal has to check
    # What to check, by settlement or filler, in this order. An entry leaves when a check agrees
    # with the journal: so it stays until what was found is recorded there.
    _doubtful: dict[str, _Doubtful] = field(default_factory=dict, init=False)
    # What the last check found of each, until another one agrees.
    _suspected: dict[str, Undone] = field(default_factory=dict, init=False)
    # The highest block in which something of ours was mined: a reorg is watched for above it.
    _mined_until: int = field(default=-1, init=False)

    @property
    def in_doubt(self) -> bool:
        """Return whether there is something to check soon."""
        return self._must_read or bool(self._doubtful)

    @property
    def watching(self) -> bool:
        """Return whether anything could still be undone."""
        return self._mined_until >= 0

    def doubt(self) -> None:
        """Have everything checked again: there was a reorg, or the state is not known."""
        self._must_read = True

    def mined(self, block_number: int | None) -> None:
        """Note that a transaction of ours was mined in this block, or a payment proved there."""
        self._mined_until = max(self._mined_until, -1 if block_number is None else block_number)

    async def check(self) -> list[Undone]:
        """Check the next SLICE that are in doubt. Return what a reorg has undone or moved. Raises
        ChainUnavailable and StoreError.
        """
        head = self.heads.head
        assert head is not None
        horizon = head.number - self.policy.reorg_watch_blocks
        self.tally.step()
        if self._must_read:
            await self._read(horizon)
        some = dict(islice(self._doubtful.items(), SLICE))
        await self._read_suspected(some)
        low = {
            name: each.watched
            for name, each in some.items()
            if max(_blocks_of(each.watched), default=-1) <= head.number
        }
        self.tally.step()
        results = await self.outcomes.recheck(tuple(low.values()))
        found = dict(zip(low, results, strict=True))
        agreed = []
        for name, each in some.items():
            before = self._suspected.pop(name, None)
            del self._doubtful[name]
            undone = found.get(name)
            if undone == Undone(()):
                continue
            each.checks += name in found
            if each.checks < MAX_CHECKS or max(_blocks_of(each.watched), default=-1) > horizon:
                self._doubtful[name] = each  # after all others
                if undone is not None:
                    self._suspected[name] = undone
            if undone is not None and undone == before:
                agreed.append(undone)
        if any(isinstance(self._doubtful[name].watched, Transaction) for name in self._suspected):
            self._must_read = True  # the only way to read a filler again
        return agreed

    async def _read(self, horizon: int) -> None:
        """Read what the journal has to check. What was not checked since the last reorg comes
        first, or reorgs in quick succession would put it off for ever; then what lies highest,
        which a reorg reaches first.
        """
        work = await self.store.watched(self.chain_id, horizon)
        found: dict[str, Watched] = {each.settlement.id: each for each in work.records}
        found.update((f"filler {each.id}", each) for each in work.fillers)
        height = {name: max(_blocks_of(each), default=-1) for name, each in found.items()}
        for highest in height.values():
            self.mined(highest)
        newest = sorted(found, key=lambda name: -height[name])
        left = self._doubtful
        self._doubtful = {
            name: _Doubtful(found[name], left[name].checks if name in left else 0)
            for name in (*left, *newest)
            if name in found
        }
        self._suspected = {
            name: undone for name, undone in self._suspected.items() if name in found
        }
        self._must_read = False

    async def _read_suspected(self, some: dict[str, _Doubtful]) -> None:
        """Read suspected settlements again: what is recorded must follow from their state now."""
        for name, each in some.items():
            if name in self._suspected and isinstance(each.watched, SettlementRecord):
                each.watched = await self.store.get(name) or each.watched

    async def finalize(self) -> None:
        """Finalize what no reorg reaches any more, unless it is still in doubt."""
        head = self.heads.head
        if head is None or not self.watching or self._must_read:
            return
        in_doubt = (block for each in self._doubtful.values() for block in _blocks_of(each.watched))
        reach = head.number - self.policy.reorg_watch_blocks
        deepest = min(reach, min(in_doubt, default=head.number) - 1)
        await self.store.finalize(self.chain_id, deepest)
        if self._mined_until <= deepest:
            self._mined_until = -1


def _blocks_of(watched: Watched) -> Iterator[int]:
    transactions = (watched,) if isinstance(watched, Transaction) else watched.transactions
    for transaction in transactions:
        if transaction.state is TransactionState.MINED and transaction.block_number is not None:
            yield transaction.block_number
    if isinstance(watched, SettlementRecord) and watched.settlement.proof is not None:
        yield watched.settlement.proof.block_number
