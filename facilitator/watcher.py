"""The loop of one chain: observe, decide, act.

It is level-triggered. Each turn reads from the journal what is open and from the chain what it
shows, and lets the pure functions of `settlement` decide. A restart is its first turn; a lost
reply, a dropped transaction, a reorg and a crash all take the same way. One look at the head
drives all receipts, and where nothing is open the chain is not asked at all.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import anyio

from facilitator.chain import Chain
from facilitator.changes import settlement_changed
from facilitator.examination import Examiner
from facilitator.gaps import Gaps
from facilitator.heads import Heads, Sight
from facilitator.investigation import Investigator
from facilitator.judgement import Judge, Resolved, change_of, end_of
from facilitator.leadership import Leadership
from facilitator.listeners import Listeners
from facilitator.node import ChainUnavailable, NodeFault, to_hex
from facilitator.observation import Observer
from facilitator.reorgs import ReorgWatch
from facilitator.resettlement import Resettler
from facilitator.settlement import (
    Attempt,
    Broadcast,
    Mined,
    Policy,
    Replace,
    SettleAgain,
    Settlement,
    Superseded,
    Transaction,
    TransactionState,
    decide,
)
from facilitator.signing import SignerPool
from facilitator.store import (
    Ride,
    SettlementChange,
    Store,
    StoreError,
    TransactionChange,
)
from facilitator.tally import Tally
from facilitator.telemetry import event
from facilitator.tracing import inside, span

_log = logging.getLogger(__name__)

MIN_POLL_MS = 100
MAX_POLL_MS = 2_000
# A node may show a block before it shows the receipts in it: an unchanged head is looked at again.
LOOK_AGAIN_MS = 1_000
MAX_BACKOFF_SECONDS = 10.0
# A process that only follows looks at the head that often.
FOLLOW_HEAD_MS = 5_000


class Watcher:
    """Takes every open transaction and settlement of one chain to its end. `clock` is in unix
    milliseconds.
    """

    def __init__(
        self,
        *,
        network: str,
        chain_id: int,
        chain: Chain,
        examiner: Examiner,
        store: Store,
        signers: SignerPool,
        listeners: Listeners,
        policy: Policy,
        clock: Callable[[], int],
        leadership: Leadership | None = None,
    ) -> None:
        """`leadership` where other processes share the journal; `store` is its own one then."""
        self._network = network
        self._chain_id = chain_id
        self._chain = chain
        self._store = store
        self._signers = signers
        self._listeners = listeners
        self._policy = policy
        self._clock = clock
        self.tally = Tally()
        self._heads = Heads(chain)
        self._observer = Observer(chain=chain, heads=self._heads, policy=policy)
        self.investigator = Investigator(
            chain=chain, examiner=examiner, heads=self._heads, policy=policy, clock=clock
        )
        self._judge = Judge(
            chain=chain,
            heads=self._heads,
            investigator=self.investigator,
            policy=policy,
            confirm_block=self._confirm_block,
        )
        self._reorgs = ReorgWatch(
            chain_id=chain_id, store=store, judge=self._judge, heads=self._heads, policy=policy
        )
        self._gaps = Gaps(
            network=network,
            chain_id=chain_id,
            chain=chain,
            heads=self._heads,
            store=store,
            signers=signers,
            policy=policy,
            clock=clock,
            send=self.send,
        )
        self._resettler = Resettler(
            network=network, store=store, signers=signers, clock=clock, send=self.send
        )
        self._leadership = leadership
        self._broadcast_at: dict[int, int] = {}
        self._at_cap: set[int] = set()  # transactions of which that was told
        # What each transaction is a part of, as of the last turn (W3C traceparent).
        self._traces: dict[int, str | None] = {}
        self._confirmed: set[tuple[int, bytes]] = set()  # blocks that this turn looked at twice
        self._looked_at = 0
        self._woken = anyio.Event()

    async def _confirm_block(self, number: int, block_hash: bytes) -> bool | None:
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

    @property
    def network(self) -> str:
        """The chain's name."""
        return self._network

    @property
    def gaps(self) -> frozenset[bytes]:
        """The signers whose next account nonce nothing of ours has."""
        return self._gaps.open

    @property
    def horizon(self) -> int | None:
        """The highest block that no reorg reaches any more, as of the last look at the head; None
        before the first one, and while another process watches the chain.
        """
        follows = self._leadership is not None and not self._leadership.leads
        head = self._heads.head
        return None if follows or head is None else head.number - self._policy.reorg_watch_blocks

    @property
    def settle_margin(self) -> int:
        """Seconds before its deadline after which a payment is not sent any more."""
        return max(self._policy.settle_margin, -(-2 * self._heads.interval_ms // 1000))

    async def send(self, transaction: Transaction, attempt: Attempt) -> None:
        """Broadcast what the journal holds already, and have the loop follow it."""
        self._broadcast_at[transaction.id] = self._clock()
        self._woken.set()
        name = to_hex(attempt.hash)
        with span("send", network=self._network, transaction=name):
            fault = await self._chain.broadcast(attempt.raw)
        if fault is not None:
            # Possibly sent all the same: the next turns read what the chain shows.
            if fault is NodeFault.NONCE_TOO_LOW:
                self._signers.doubt(transaction.signer)
            self._event(logging.WARNING, "broadcast_refused", transaction=name, fault=fault)

    async def _send_again(self, transaction: Transaction, attempt: Attempt) -> None:
        with inside(self._traces.get(transaction.id)):
            await self.send(transaction, attempt)

    async def run(self) -> None:
        """Turn for ever; faults of the chain or the journal only delay the next turn."""
        backoff = 0.5
        while True:
            self.tally.step()
            try:
                pause = await self._take_part()
                backoff = 0.5
            except (ChainUnavailable, StoreError) as fault:
                self._event(logging.WARNING, "turn_failed", fault=str(fault))
                pause, backoff = backoff, min(2 * backoff, MAX_BACKOFF_SECONDS)
            except Exception as bug:  # one turn that is broken must not end all others
                event(_log, logging.ERROR, "turn_broken", exc_info=bug, network=self._network)
                pause, backoff = backoff, min(2 * backoff, MAX_BACKOFF_SECONDS)
            self.tally.rest()
            with anyio.move_on_after(pause):
                await self._woken.wait()
                self._woken = anyio.Event()

    async def leave(self) -> None:
        """After `run`: another process need not wait until this one is missed."""
        if self._leadership is not None:
            await self._leadership.step_down()

    async def _take_part(self) -> float | None:
        """A turn, where no other process watches the chain; the seconds until the next one."""
        if self._leadership is None:
            return await self._turn()
        return await self._leadership.take_part(self._turn, self._take_over, self._follow)

    def _take_over(self) -> None:
        """What happened while another process watched is not known here."""
        self._event(logging.INFO, "watching")
        self._looked_at = 0
        self._reorgs.doubt()

    async def _follow(self) -> None:
        """Deadlines depend on how fast blocks come, whoever watches. Raises ChainUnavailable."""
        now = self._clock()
        recent = now - self._policy.rebroadcast_every_ms
        self._broadcast_at = {
            number: at for number, at in self._broadcast_at.items() if at > recent
        }
        if now - self._looked_at >= FOLLOW_HEAD_MS:
            self._looked_at = now
            await self._heads.look()

    async def _turn(self) -> float | None:
        """One turn; the seconds until the next one, None where nothing is open."""
        self._confirmed.clear()
        sight = await self._heads.look()
        if sight is Sight.REPLACED:
            self._reorgs.doubt()
        if self._reorgs.in_doubt and sight is not Sight.LAGGING:
            for undone in await self._reorgs.look(self.tally.step):
                changed = () if undone.settlement is None else (undone.settlement,)
                await self._record(undone.transactions, changed)
        now = self._clock()
        if sight is Sight.LAGGING or (
            sight is Sight.SAME and now - self._looked_at < LOOK_AGAIN_MS
        ):
            return self._poll()
        # Only now read what is open: whatever the head holds was in the journal before it was sent.
        self._signers.about_to_observe()
        work = await self._store.open_work(self._chain_id)
        pending = {
            transaction.id: transaction
            for ride in work.rides
            for transaction in ride.transactions
            if transaction.state is TransactionState.PENDING
        }
        pending.update((filler.id, filler) for filler in work.fillers)
        self._traces = {
            transaction.id: ride.settlement.traceparent
            for ride in work.rides
            for transaction in ride.transactions
        }
        resolved, mined = await self._advance(tuple(pending.values()))
        resolved = await self._look_twice(resolved)
        for number in await self._conclude(work.rides, resolved):
            signer = pending.pop(number).signer
            self._signers.ended(signer)
            self.tally.gas_spent[signer] += end_of(number, resolved[number]).gas_cost or 0
        self._looked_at = now
        await self._gaps.fill(tuple(pending.values()), mined)
        return await self._rest(busy=bool(pending or work.rides))

    async def _advance(
        self, transactions: Sequence[Transaction]
    ) -> tuple[dict[int, Resolved], dict[bytes, int]]:
        """Observe and decide every pending transaction, and act: those that have come to an end,
        and how many transactions each signer has mined.
        """
        now = self._clock()
        observations = await self._observer.observe(transactions, self._broadcast_at, now)
        load = Counter(transaction.signer for transaction in transactions)
        for signer in self._signers.addresses:
            self._signers.observe(signer, load[signer])
        resolved: dict[int, Resolved] = {}
        to_send: list[tuple[Transaction, Attempt]] = []
        for transaction in transactions:
            seen = observations[transaction.id]
            match decide(transaction, seen, now, self._policy):
                case Mined() | Superseded() as end:
                    resolved[transaction.id] = end
                case Broadcast(attempt, at_cap):
                    to_send.append((transaction, attempt))
                    if at_cap and transaction.id not in self._at_cap:
                        self._at_cap.add(transaction.id)
                        self._event(
                            logging.ERROR, "stuck_at_fee_cap", transaction=to_hex(attempt.hash)
                        )
                case Replace(fees):
                    if not self._signers.allows(transaction.call, transaction.signer):
                        # Its contract is configured no more: what was signed is all there will be.
                        to_send.append((transaction, transaction.attempts[-1]))
                        continue
                    with inside(self._traces.get(transaction.id)):
                        attempt = self._signers.replacement(transaction, fees)
                    added = await self._store.add_attempt(
                        transaction.id, attempt, self._policy.gas_budget, now
                    )
                    self.tally.replacements += added
                    # Where the day's budget is spent, what was signed is all there will be today.
                    to_send.append((transaction, attempt if added else transaction.attempts[-1]))
        await asyncio.gather(*(self._send_again(*one) for one in to_send))
        mined = {each.signer: observations[each.id].account_nonce for each in transactions}
        return resolved, mined

    async def _look_twice(self, resolved: Mapping[int, Resolved]) -> dict[int, Resolved]:
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
            name = to_hex(transaction_hash)
            self._event(logging.WARNING, "receipt_not_confirmed", transaction=name)
        return {
            number: end
            for number, end in resolved.items()
            if not (isinstance(end, Mined) and end.receipt.transaction_hash in refuted)
        }

    async def _conclude(self, rides: Sequence[Ride], resolved: Mapping[int, Resolved]) -> list[int]:
        """Record what transactions and settlements have come to, and tell who waits. The ids of the
        transactions that are pending no more.
        """
        undecided: set[int] = set()
        changes: list[SettlementChange] = []
        again: list[Settlement] = []
        for ride in rides:
            self.tally.step()
            try:
                with inside(ride.settlement.traceparent):
                    verdict = await self._judge.judge(ride, resolved, self.settle_margin)
            except Exception as fault:
                # Its transactions stay pending in the journal, so that the next turn sees it anew;
                # one that breaks something must not hold up all others.
                undecided.update(transaction.id for transaction in ride.transactions)
                known = isinstance(fault, ChainUnavailable)
                event(
                    _log,
                    logging.WARNING if known else logging.ERROR,
                    "undecided",
                    exc_info=None if known else fault,
                    network=self._network,
                    settlement=ride.settlement.id,
                    fault=str(fault) if known else type(fault).__name__,
                )
                continue
            change = change_of(ride.settlement, verdict)
            if change is not None:
                changes.append(change)
            elif isinstance(verdict, SettleAgain):
                again.append(ride.settlement)
        ended = [end_of(number, end) for number, end in resolved.items() if number not in undecided]
        if ended or changes:
            await self._record(ended, changes)
        for settlement in again:
            self.tally.step()
            await self._resettler.settle_again(settlement)
        return [change.id for change in ended]

    async def _record(
        self, ended: Sequence[TransactionChange], changes: Sequence[SettlementChange]
    ) -> None:
        changed = await self._store.record(ended, changes, self._clock())
        for transaction in ended:
            self._broadcast_at.pop(transaction.id, None)
            self._at_cap.discard(transaction.id)
            self._reorgs.mined(transaction.block_number)
            if transaction.state is TransactionState.SUPERSEDED:
                self._event(logging.ERROR, "superseded", transaction_id=transaction.id)
        for settlement in changed:
            self.tally.changes[settlement.state] += 1
            settlement_changed(self._network, settlement)
            if settlement.proof is not None:
                self._reorgs.mined(settlement.proof.block_number)
            self._listeners.wake(settlement.id)

    async def _rest(self, *, busy: bool) -> float | None:
        await self._reorgs.bury()
        if busy or self._reorgs.in_doubt:
            return self._poll()
        return MAX_POLL_MS / 1000 if self._reorgs.watching else None

    def _poll(self) -> float:
        """Four looks a block: an outcome is known a quarter of an interval late at most."""
        return min(max(self._heads.interval_ms // 4, MIN_POLL_MS), MAX_POLL_MS) / 1000

    def _event(self, level: int, name: str, **fields: str | int) -> None:
        event(_log, level, name, exc_info=None, network=self._network, **fields)
