"""The loop of one chain: observe, decide, act.

It is level-triggered. Each turn reads what is open from the journal and its state from the chain,
and lets the pure functions of `settlement` decide. A restart is a first turn; a lost reply, a
dropped transaction, a reorg and a crash are all handled the same way. Receipts are read only where
the head has changed, or some time has passed, and nothing is read while nothing is open.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

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
# A node may show a block before the receipts in it: after this an unchanged head is read again.
LOOK_AGAIN_MS = 1_000
MAX_BACKOFF_SECONDS = 10.0
# Who watches the chain is in the journal: once that is back, somebody must do so within seconds.
MAX_JOURNAL_BACKOFF_SECONDS = 1.0
# How often a process that only follows reads the head.
FOLLOW_HEAD_MS = 5_000


@dataclass(kw_only=True, eq=False)
class ChainLoop:
    """Takes every open transaction and settlement of one chain to its end; see `wiring`."""

    network: str
    chain_id: int
    heads: HeadTracker
    broadcaster: Broadcaster
    reorgs: ReorgWatch
    nonce_gaps: NonceGaps
    pending: PendingTransactions
    recorder: Recorder
    store: Store
    signers: SignerPool
    policy: Policy
    tally: Tally
    leadership: Leadership | None
    clock: Callable[[], int]
    _looked_at: int = field(default=0, init=False)

    @property
    def gaps(self) -> frozenset[bytes]:
        """Return the signers whose next account nonce no transaction of ours has; none while
        another process watches the chain.
        """
        return frozenset() if self._follows else self.nonce_gaps.open

    @property
    def horizon(self) -> int | None:
        """Return the highest block that no reorg reaches any more, as of the head last read; None
        before the first one, and while another process watches the chain.
        """
        head = self.heads.head
        return (
            None if self._follows or head is None else head.number - self.policy.reorg_watch_blocks
        )

    @property
    def _follows(self) -> bool:
        return self.leadership is not None and not self.leadership.leads

    async def run(self) -> None:
        """Turn for ever; faults of the chain or the journal only delay the next turn."""
        backoff = 0.5
        while True:
            self.tally.step()
            try:
                pause = (
                    await self.turn()
                    if self.leadership is None
                    else await self.leadership.take_part(self)
                )
                backoff = 0.5
            except LostLease:
                self._event(logging.WARNING, "lease_lost")
                pause = 0.0
            except (ChainUnavailable, StoreError) as fault:
                self._event(logging.WARNING, "turn_failed", fault=str(fault))
                journal = isinstance(fault, StoreError)
                most = MAX_JOURNAL_BACKOFF_SECONDS if journal else MAX_BACKOFF_SECONDS
                pause, backoff = min(backoff, most), min(2 * backoff, most)
            except Exception as bug:  # one broken turn must not end the loop
                event(_log, logging.ERROR, "turn_broken", exc_info=bug, network=self.network)
                pause, backoff = backoff, min(2 * backoff, MAX_BACKOFF_SECONDS)
            self.tally.rest()
            with anyio.move_on_after(pause):
                await self.broadcaster.something_sent()

    async def leave(self) -> None:
        """Give up the lease after `run`, so that another process need not wait for its end."""
        if self.leadership is not None:
            await self.leadership.step_down()

    def take_over(self) -> None:
        """Begin to lead: what happened while another process did is not known here."""
        self._event(logging.INFO, "watching")
        self._looked_at = 0
        self.reorgs.doubt()

    async def follow(self) -> None:
        """Keep the block interval, and so deadlines, up to date. Raises ChainUnavailable."""
        now = self.clock()
        self.broadcaster.forget_before(now - self.policy.rebroadcast_every_ms)
        if now - self._looked_at >= FOLLOW_HEAD_MS:
            self._looked_at = now
            await self.heads.update()

    async def turn(self) -> float | None:
        """Take one turn. Returns the seconds until the next one, None where nothing is open."""
        sight = await self.heads.update()
        if sight is Sight.REPLACED:
            self.reorgs.doubt()
        if self.reorgs.in_doubt and sight is not Sight.LAGGING:
            for undone in await self.reorgs.check():
                changed = () if undone.settlement is None else (undone.settlement,)
                await self.recorder.record(undone.transactions, changed)
        now = self.clock()
        if sight is Sight.LAGGING or (
            sight is Sight.SAME and now - self._looked_at < LOOK_AGAIN_MS
        ):
            return self._poll()
        # Read after the head: whatever that holds was in the journal before it was sent.
        self.signers.about_to_observe()
        work = await self.store.open_work(self.chain_id)
        if await self.nonce_gaps.replace_with_filler(work.given_up):
            work = await self.store.open_work(self.chain_id)
        pending = {
            transaction.id: transaction
            for record in work.records
            for transaction in record.transactions
            if transaction.state is TransactionState.PENDING
        }
        pending.update((filler.id, filler) for filler in work.fillers)
        self.broadcaster.note_traces(work.records)
        withheld = {each.id for each in work.given_up}
        resolved, mined = await self.pending.advance(
            tuple(pending.values()), work.records, withheld
        )
        margin = self.policy.margin_seconds(self.heads.interval_ms)
        for number in await self.recorder.conclude(work.records, resolved, margin):
            signer = pending.pop(number).signer
            self.signers.ended(signer)
            self.tally.gas_spent[signer] += (
                transaction_change(number, resolved[number]).gas_cost or 0
            )
        self._looked_at = now
        await self.nonce_gaps.fill(tuple(pending.values()), mined)
        return await self._rest(busy=bool(pending or work.records))

    async def _rest(self, *, busy: bool) -> float | None:
        await self.reorgs.finalize()
        if busy or self.reorgs.in_doubt:
            return self._poll()
        return MAX_POLL_MS / 1000 if self.reorgs.watching else None

    def _poll(self) -> float:
        """Return the seconds until the next turn, four of which fit in a block interval: an outcome
        is known a quarter of an interval late at most.
        """
        return min(max(self.heads.interval_ms // 4, MIN_POLL_MS), MAX_POLL_MS) / 1000

    def _event(self, level: int, name: str, **fields: str | int) -> None:
        event(_log, level, name, exc_info=None, network=self.network, **fields)
