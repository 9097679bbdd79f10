"""The one place where the engine of a chain is put together. Nothing runs yet."""

from collections.abc import Callable
from dataclasses import dataclass, field

from facilitator.chain.client import Chain
from facilitator.chain.head_tracker import HeadTracker
from facilitator.domain.settlement import Policy
from facilitator.engine.broadcast import Broadcaster
from facilitator.engine.counters import Tally
from facilitator.engine.leader import Leadership
from facilitator.engine.loop import ChainLoop
from facilitator.engine.nonce_gaps import NonceGaps
from facilitator.engine.outcomes import OutcomeResolver
from facilitator.engine.payment_search import PaymentSearch
from facilitator.engine.pending import PendingTransactions
from facilitator.engine.record import Recorder
from facilitator.engine.reorgs import ReorgWatch
from facilitator.engine.settle import Settler
from facilitator.engine.signers import SignerPool
from facilitator.engine.simulate import Simulator
from facilitator.engine.submit import Submitter
from facilitator.engine.waiters import Waiters
from facilitator.journal.store import Store


@dataclass(slots=True)
class Parts:
    """What the requests and the loop of one chain have in common. `clock` is in unix milliseconds;
    `heads` and what follows are made from the rest.
    """

    network: str
    chain_id: int
    chain: Chain
    simulator: Simulator
    signers: SignerPool
    policy: Policy
    clock: Callable[[], int]
    waiters: Waiters = field(default_factory=Waiters)
    heads: HeadTracker = field(init=False)
    broadcaster: Broadcaster = field(init=False)
    search: PaymentSearch = field(init=False)

    def __post_init__(self) -> None:
        self.heads = HeadTracker(network=self.network, chain=self.chain, clock=self.clock)
        self.broadcaster = Broadcaster(
            network=self.network, chain=self.chain, signers=self.signers, clock=self.clock
        )
        self.search = PaymentSearch(
            chain=self.chain,
            simulator=self.simulator,
            heads=self.heads,
            policy=self.policy,
            clock=self.clock,
        )


def build_submitter(parts: Parts, store: Store) -> Submitter:
    """Return the submitter, which takes payments on."""
    return Submitter(
        network=parts.network,
        chain=parts.chain,
        simulator=parts.simulator,
        store=store,
        signers=parts.signers,
        broadcaster=parts.broadcaster,
        heads=parts.heads,
        search=parts.search,
        policy=parts.policy,
        clock=parts.clock,
    )


def build_settler(parts: Parts, store: Store, timeout: int) -> Settler:
    """Return the settler, which replies to each request within `timeout` seconds."""
    return Settler(
        simulator=parts.simulator,
        submitter=build_submitter(parts, store),
        store=store,
        waiters=parts.waiters,
        timeout=timeout,
        clock=parts.clock,
    )


def build_loop(parts: Parts, store: Store, leadership: Leadership | None = None) -> ChainLoop:
    """Return the loop. Where other processes share the journal, `leadership` must be given, and
    `store` be its fenced one.
    """
    tally = Tally()
    outcomes = OutcomeResolver(
        chain=parts.chain, heads=parts.heads, search=parts.search, policy=parts.policy
    )
    reorgs = ReorgWatch(
        chain_id=parts.chain_id,
        store=store,
        outcomes=outcomes,
        heads=parts.heads,
        policy=parts.policy,
        tally=tally,
    )
    return ChainLoop(
        network=parts.network,
        chain_id=parts.chain_id,
        heads=parts.heads,
        broadcaster=parts.broadcaster,
        reorgs=reorgs,
        nonce_gaps=_gaps(parts, store),
        pending=_pending(parts, store, tally),
        recorder=_recorder(parts, store, tally, outcomes, reorgs),
        store=store,
        signers=parts.signers,
        policy=parts.policy,
        tally=tally,
        leadership=leadership,
        clock=parts.clock,
    )


def _gaps(parts: Parts, store: Store) -> NonceGaps:
    return NonceGaps(
        network=parts.network,
        chain_id=parts.chain_id,
        chain=parts.chain,
        heads=parts.heads,
        store=store,
        signers=parts.signers,
        broadcaster=parts.broadcaster,
        policy=parts.policy,
        clock=parts.clock,
    )


def _pending(parts: Parts, store: Store, tally: Tally) -> PendingTransactions:
    return PendingTransactions(
        network=parts.network,
        chain=parts.chain,
        heads=parts.heads,
        store=store,
        signers=parts.signers,
        broadcaster=parts.broadcaster,
        policy=parts.policy,
        tally=tally,
        clock=parts.clock,
    )


def _recorder(
    parts: Parts, store: Store, tally: Tally, outcomes: OutcomeResolver, reorgs: ReorgWatch
) -> Recorder:
    return Recorder(
        network=parts.network,
        store=store,
        outcomes=outcomes,
        signers=parts.signers,
        reorgs=reorgs,
        broadcaster=parts.broadcaster,
        waiters=parts.waiters,
        tally=tally,
        clock=parts.clock,
    )
