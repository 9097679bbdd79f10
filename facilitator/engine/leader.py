"""Which of several processes watches a chain: the one that has its lease.

The others serve requests all the same. They learn of outcomes by notices, or by reading the
journal, and take over within seconds when the lease is not prolonged.
"""

import secrets
from contextlib import suppress
from typing import Protocol

import anyio

from facilitator.engine.counters import Tally
from facilitator.engine.signers import SignerPool
from facilitator.engine.waiters import Waiters
from facilitator.journal.store import Fence, LostLease, SharedStore, Store, StoreError

# A process that died is replaced after this long at most, and FOLLOW_EVERY more.
LEASE_MS = 5_000
PROLONG_EVERY = 1.5  # seconds
FOLLOW_EVERY = 0.5  # seconds between two reads of the journal
# Seconds between two reads of outcomes while notices report them as well. Not many: during an
# upgrade the chain may be watched by a replica of a release that sends no notices.
LOOK_ANYWAY_EVERY = 2.0


class Loop(Protocol):
    """The loop of one chain, as its leadership drives it. `tally` knows whether it is stuck."""

    tally: Tally

    async def turn(self) -> float | None:
        """Take one turn. Returns the seconds until the next one, None where nothing is open."""

    def take_over(self) -> None:
        """Begin to lead: what happened while another process did is not known here."""

    async def follow(self) -> None:
        """Take one step while another process leads."""


class Leadership:
    """This process's part in watching one chain. Its loop writes to `store`, which is fenced."""

    def __init__(
        self, *, store: SharedStore, chain_id: int, signers: SignerPool, waiters: Waiters
    ) -> None:
        self._shared = store
        self._chain_id = chain_id
        self._signers = signers
        self._waiters = waiters
        self._holder = secrets.token_hex(8)
        self._fence = Fence(chain_id)
        self._prolong_at = 0.0
        self._look_at = 0.0
        self._idle = False
        self._failed = False
        self.store: Store = store.fenced(self._fence)
        store.notices.subscribe(waiters.wake)

    @property
    def leads(self) -> bool:
        """Return whether this process watches the chain, as far as it knows."""
        return self._fence.token is not None

    async def take_part(self, loop: Loop) -> float:
        """Take one step, leading or following. Returns the seconds until the next one.

        A turn may take longer than a lease, which is prolonged meanwhile unless the loop is stuck.
        The turn is cancelled where another process has the lease. Raises what the loop raises,
        StoreError, and LostLease for a turn that was cancelled.
        """
        leads, is_new = await self._hold()
        if is_new:
            self._idle = self._failed = False
            loop.take_over()
        await self._wake_who_waits()
        if leads and not self._idle:
            pause = await self._take_turn(loop)
            self._idle = pause is None
            return FOLLOW_EVERY if pause is None else pause
        # Others sign as well: this counts what they have claimed.
        self._signers.about_to_observe()
        in_flight = await self._shared.in_flight(self._chain_id)
        for signer in self._signers.addresses:
            self._signers.observe(signer, in_flight.get(signer, 0))
        if leads:
            self._idle = not in_flight
            return 0 if in_flight else FOLLOW_EVERY
        await loop.follow()
        return FOLLOW_EVERY

    async def _hold(self) -> tuple[bool, bool]:
        """Return whether the lease is this process's, and whether that is new."""
        now = anyio.current_time()
        before = self._fence.token
        if before is not None and now < self._prolong_at:
            return True, False
        token = self._fence.token = await self._lead()
        return token is not None, token not in (None, before)

    async def _lead(self) -> int | None:
        now = anyio.current_time()
        # Not to be cancelled: `step_down` must come after this, not before it.
        with anyio.CancelScope(shield=True):
            token = await self._shared.lead(self._chain_id, self._holder, LEASE_MS)
        self._prolong_at = now + PROLONG_EVERY
        return token

    async def _take_turn(self, loop: Loop) -> float | None:
        held, pause = self._fence.token, None
        fault: Exception | None = None
        async with anyio.create_task_group() as tasks:
            # After a turn that failed, a long one loses the lease, so that another process can try:
            # its nodes may answer.
            if not self._failed:
                tasks.start_soon(self._prolong, held, tasks.cancel_scope, loop.tally)
            try:
                pause = await loop.turn()
            except Exception as raised:  # raised below: the task group would wrap it
                fault = raised
            tasks.cancel_scope.cancel()
        self._failed = fault is not None and not isinstance(fault, StoreError)
        if isinstance(fault, LostLease):
            self._fence.token = None
        if fault is not None:
            raise fault
        if self._fence.token != held:
            raise LostLease("another replica watches this chain now")
        return pause

    async def _prolong(self, held: int | None, turn: anyio.CancelScope, tally: Tally) -> None:
        """Prolong the lease during a turn. Whatever happens to the turn, the journal refuses writes
        with a token that no longer holds the lease.
        """
        while not tally.is_stuck:
            await anyio.sleep(self._prolong_at - anyio.current_time())
            try:
                token = await self._lead()
            except StoreError:
                await anyio.sleep(FOLLOW_EVERY)
                continue
            if token != held:
                self._fence.token = None
                turn.cancel()
                return

    async def _wake_who_waits(self) -> None:
        """Wake requests of this process that wait for what another process has recorded."""
        waited_for = self._waiters.waited_for
        arrive, now = self._shared.notices.arrive, anyio.current_time()
        if not waited_for or (arrive and now < self._look_at):
            return
        for settlement_id in await self._shared.ended(waited_for):
            self._waiters.wake(settlement_id)
        # Outcomes recorded before notices began to arrive are found by one more read.
        self._look_at = now + LOOK_ANYWAY_EVERY if arrive else now

    async def step_down(self) -> None:
        """Let another process take over at once."""
        if self._fence.token is not None:
            self._fence.token = None
            with suppress(StoreError):  # the lease ends by itself
                await self._shared.step_down(self._chain_id, self._holder)
