"""The loop of one chain: observe, decide, act.

It is level-triggered. Each turn reads from the journal what is open and from the chain what it
shows, and lets the pure functions of `settlement` decide. A restart is its first turn; a lost
reply, a dropped transaction, a reorg and a crash all take the same way. One look at the head
drives all receipts, and where nothing is open the chain is not asked at all.
"""

import logging
from collections.abc import Callable

import anyio

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.head_tracker import HeadTracker, Sight
from facilitator.domain.settlement import (
    Policy,
    TransactionState,
    transaction_change,
)
from facilitator.engine.broadcast import Broadcaster
from facilitator.engine.counters import Tally
from facilitator.engine.leader import Leadership
from facilitator.engine.nonce_gaps import NonceGaps
from facilitator.engine.pending import PendingTransactions
from facilitator.engine.record import Recorder
from facilitator.engine.reorgs import ReorgWatch
from facilitator.engine.signers import SignerPool
from facilitator.journal.store import LostLease, Store, StoreError
from facilitator.telemetry.logs import event

_log = logging.getLogger(__name__)

MIN_POLL_MS = 100
MAX_POLL_MS = 2_000
# A node may show a block before it shows the receipts in it: an unchanged head is looked at again.
LOOK_AGAIN_MS = 1_000
MAX_BACKOFF_SECONDS = 10.0
# The journal says who watches the chain: once it is back, somebody is to do so within seconds.
MAX_JOURNAL_BACKOFF_SECONDS = 1.0
# A process that only follows looks at the head that often.
FOLLOW_HEAD_MS = 5_000


class ChainLoop:
    """Takes every open transaction and settlement of one chain to its end; see `wiring`."""

    def __init__(
        self,
        *,
        network: str,
        chain_id: int,
        heads: HeadTracker,
        broadcaster: Broadcaster,
        reorgs: ReorgWatch,
        gaps: NonceGaps,
        pending: PendingTransactions,
        recorder: Recorder,
        store: Store,
        signers: SignerPool,
        policy: Policy,
        tally: Tally,
        leadership: Leadership | None,
        clock: Callable[[], int],
    ) -> None:
        self._network = network
        self._chain_id = chain_id
        self._heads = heads
        self._broadcaster = broadcaster
        self._reorgs = reorgs
        self._gaps = gaps
        self._pending = pending
        self._recorder = recorder
        self._store = store
        self._signers = signers
        self._policy = policy
        self.tally = tally
        self._leadership = leadership
        self._clock = clock
        self._looked_at = 0

    @property
    def gaps(self) -> frozenset[bytes]:
        """Return the signers whose next account nonce nothing of ours has; none while another
        process watches the chain.
        """
        return frozenset() if self._follows else self._gaps.open

    @property
    def at_fee_cap(self) -> int:
        """Return how many transactions wait for the fees to fall, as they may not offer more."""
        return self._broadcaster.at_cap

    @property
    def horizon(self) -> int | None:
        """Return the highest block that no reorg reaches any more, as of the last look at the head;
        None before the first one, and while another process watches the chain.
        """
        head = self._heads.head
        return (
            None if self._follows or head is None else head.number - self._policy.reorg_watch_blocks
        )

    @property
    def _follows(self) -> bool:
        return self._leadership is not None and not self._leadership.leads

    async def run(self) -> None:
        """Turn for ever; faults of the chain or the journal only delay the next turn."""
        backoff = 0.5
        while True:
            self.tally.step()
            try:
                pause = await self._take_part()
                backoff = 0.5
            except LostLease:
                self._event(logging.WARNING, "lease_lost")
                pause = 0.0
            except (ChainUnavailable, StoreError) as fault:
                self._event(logging.WARNING, "turn_failed", fault=str(fault))
                journal = isinstance(fault, StoreError)
                most = MAX_JOURNAL_BACKOFF_SECONDS if journal else MAX_BACKOFF_SECONDS
                pause, backoff = min(backoff, most), min(2 * backoff, most)
            except Exception as bug:  # one turn that is broken must not end all others
                event(_log, logging.ERROR, "turn_broken", exc_info=bug, network=self._network)
                pause, backoff = backoff, min(2 * backoff, MAX_BACKOFF_SECONDS)
            self.tally.rest()
            with anyio.move_on_after(pause):
                await self._broadcaster.something_sent()

    async def leave(self) -> None:
        """Give up the lease after `run`, so that another process need not wait until it ends."""
        if self._leadership is not None:
            await self._leadership.step_down()

    async def _take_part(self) -> float | None:
        """Take a turn, unless another process watches the chain. Returns the seconds until the next
        one.
        """
        if self._leadership is None:
            return await self.turn()
        return await self._leadership.take_part(self)

    def take_over(self) -> None:
        """Begin to lead: what happened while another process did is not known here."""
        self._event(logging.INFO, "watching")
        self._looked_at = 0
        self._reorgs.doubt()

    async def follow(self) -> None:
        """Deadlines depend on how fast blocks come, whoever watches. Raises ChainUnavailable."""
        now = self._clock()
        self._broadcaster.forget_before(now - self._policy.rebroadcast_every_ms)
        if now - self._looked_at >= FOLLOW_HEAD_MS:
            self._looked_at = now
            await self._heads.update()

    async def turn(self) -> float | None:
        """Take one turn. Returns the seconds until the next one, None where nothing is open."""
        sight = await self._heads.update()
        if sight is Sight.REPLACED:
            self._reorgs.doubt()
        if self._reorgs.in_doubt and sight is not Sight.LAGGING:
            for undone in await self._reorgs.check():
                changed = () if undone.settlement is None else (undone.settlement,)
                await self._recorder.record(undone.transactions, changed)
        now = self._clock()
        if sight is Sight.LAGGING or (
            sight is Sight.SAME and now - self._looked_at < LOOK_AGAIN_MS
        ):
            return self._poll()
        # Only now read what is open: whatever the head holds was in the journal before it was sent.
        self._signers.about_to_observe()
        work = await self._store.open_work(self._chain_id)
        if await self._gaps.replace_with_filler(work.given_up):
            work = await self._store.open_work(self._chain_id)
        pending = {
            transaction.id: transaction
            for record in work.records
            for transaction in record.transactions
            if transaction.state is TransactionState.PENDING
        }
        pending.update((filler.id, filler) for filler in work.fillers)
        self._broadcaster.note_traces(work.records)
        withheld = {each.id for each in work.given_up}
        resolved, mined = await self._pending.advance(
            tuple(pending.values()), work.records, withheld
        )
        margin = self._policy.margin_seconds(self._heads.interval_ms)
        for number in await self._recorder.conclude(work.records, resolved, margin):
            signer = pending.pop(number).signer
            self._signers.ended(signer)
            self.tally.gas_spent[signer] += (
                transaction_change(number, resolved[number]).gas_cost or 0
            )
        self._looked_at = now
        await self._gaps.fill(tuple(pending.values()), mined)
        return await self._rest(busy=bool(pending or work.records))

    async def _rest(self, *, busy: bool) -> float | None:
        await self._reorgs.finalize()
        if busy or self._reorgs.in_doubt:
            return self._poll()
        return MAX_POLL_MS / 1000 if self._reorgs.watching else None

    def _poll(self) -> float:
        """Return the seconds until the next look, four of them a block: an outcome is known a
        quarter of an interval late at most.
        """
        return min(max(self._heads.interval_ms // 4, MIN_POLL_MS), MAX_POLL_MS) / 1000

    def _event(self, level: int, name: str, **fields: str | int) -> None:
        event(_log, level, name, exc_info=None, network=self._network, **fields)
