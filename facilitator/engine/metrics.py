"""Metrics of the chains and the event loop.

A scrape only reads memory: endpoints, signers and the loop count in plain numbers what they do. The
rest is polled every few seconds, since the loop of a chain asks nothing while nothing is open:
otherwise nobody would notice before the next payment that the nodes are down, or that a signer has
no gas money.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.rpc import FaultKind
from facilitator.chain.rpc.endpoint import Endpoint
from facilitator.chain.rpc.health import Standing
from facilitator.config.settings import NetworkConfig
from facilitator.domain import budget
from facilitator.domain.settlement import SettlementCounts, SettlementState
from facilitator.engine.loop import ChainLoop
from facilitator.engine.queue import QUEUE_LIMIT, Account
from facilitator.engine.signers import SignerPool
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.fees import initial_fees
from facilitator.journal.store import Store, StoreError
from facilitator.telemetry.logs import event, get_logger
from facilitator.telemetry.metrics import Metrics

_log = get_logger(__name__)

_USED = frozenset({Standing.GOOD, Standing.UNKNOWN})
# The states that a settlement can reach after it was taken on.
_ENDS = tuple(state for state in SettlementState if state is not SettlementState.PENDING)

# Seconds. Counting reads what is open and totals of the rest; asking takes one POST to a node.
COUNT_EVERY = 5.0
ASK_EVERY = 15.0
# Gas of a settlement, before one was seen: the dearest of the two plain ones takes 145-175 k.
TYPICAL_GAS = 175_000
LAG_EVERY = 1.0  # seconds between two measurements of how late the event loop is


@dataclass(kw_only=True, eq=False)
class ChainPoller:
    """Polls one network; without `signers`, only the journal's counts of it.

    `counts` are those, None until they were first read; `settlement_cost` is the most wei that one
    payment may cost at the fees of the last poll; `max_fee_per_gas` is the cap of the fees.
    """

    network: str
    chain_id: int
    chain: Chain
    store: Store
    signers: SignerPool | None
    metrics: Metrics
    max_fee_per_gas: int
    counts: SettlementCounts | None = field(default=None, init=False)
    settlement_cost: int | None = field(default=None, init=False)

    async def run(self) -> None:
        """Poll for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._repeat, self._count, COUNT_EVERY)
            if self.signers is not None:
                tasks.start_soon(self._repeat, self._ask, ASK_EVERY)

    async def _repeat(self, poll: Callable[[], Awaitable[None]], every: float) -> None:
        while True:
            try:
                await poll()
            except Exception as bug:  # a metric must not stop anything else
                event(_log, logging.ERROR, "survey_broken", exc_info=bug, network=self.network)
            await anyio.sleep(every)

    async def _count(self) -> None:
        with suppress(StoreError):  # counted where it is raised
            self.counts = await self.store.settlement_counts(self.chain_id)
            if self.network in self.metrics.networks:
                self.metrics.count_rows(self.network, self.counts)

    async def _ask(self) -> None:
        """Read balances and fees in one round trip; endpoints record the head by themselves."""
        chain, signers = self.chain, self.signers
        assert signers is not None
        accounts = signers.accounts
        with suppress(ChainUnavailable):  # the endpoints' own metrics show it
            _, market, balances = await asyncio.gather(
                chain.head(),
                chain.fee_market(),
                asyncio.gather(*(chain.balance(account.address) for account in accounts)),
            )
            for account, balance in zip(accounts, balances, strict=True):
                account.balance = balance
            fees = initial_fees(market, self.max_fee_per_gas)
            paid = fees.max_fee_per_gas if fees else self.max_fee_per_gas
            last = signers.last_prepared
            gas, data = (last.gas_limit, last.l1_fee) if last else (TYPICAL_GAS, 0)
            self.settlement_cost = budget.most_cost(gas, paid, data)


class Observed(Struct, frozen=True):
    """One network: `signers`, `loop` and `poller` where it has them."""

    network: str
    chain: Chain
    signers: SignerPool | None
    loop: ChainLoop | None
    poller: ChainPoller | None


def observe(
    tasks: TaskGroup,
    network: NetworkConfig,
    *,
    chain: Chain,
    signers: SignerPool | None,
    loop: ChainLoop | None,
    store: Store,
    metrics: Metrics,
    max_fee_per_gas: int,
) -> Observed:
    """Time the calls to a network's nodes and, where payments are settled on it or dashboards know
    it, poll it from now on. Return what its metrics are read from.
    """
    name = network.network.name
    for endpoint in chain.endpoints:
        endpoint.observe = metrics.rpc_timer(name, endpoint.name).observe
    poller = None
    if signers is not None or name in metrics.networks:
        poller = ChainPoller(
            network=name,
            chain_id=network.network.chain_id,
            chain=chain,
            store=store,
            signers=signers,
            metrics=metrics,
            max_fee_per_gas=max_fee_per_gas,
        )
        tasks.start_soon(poller.run)
    return Observed(name, chain, signers, loop, poller)


async def watch_event_loop(metrics: Metrics) -> None:
    """Record, again and again, how late timers fire: everything else is as late."""
    while True:
        due = anyio.current_time() + LAG_EVERY
        await anyio.sleep(LAG_EVERY)
        metrics.loop_lag.observe(max(anyio.current_time() - due, 0))


class ChainMetrics(Collector):
    """The metrics of all networks. `clock` is in unix milliseconds."""

    def __init__(self, networks: Iterable[Observed], clock: Callable[[], int]) -> None:
        self._networks = tuple(networks)
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; prometheus-client calls this at each scrape."""
        now = self._clock()
        for kind, families in _FAMILIES:
            for name, text, labels, samples in families:
                family = kind(f"facilitator_{name}", text, labels=("network", *labels))
                for one in self._networks:
                    for values, number in samples(one, now):
                        family.add_metric((one.network, *values), number)
                yield family


# The values of a metric's labels, and its own; and what returns all of those of one network, given
# the time in unix milliseconds.
Sample = tuple[Sequence[str], float]
Samples = Callable[[Observed, int], Iterable[Sample]]


def _of_loop(value: Callable[[ChainLoop], float]) -> Samples:
    return lambda one, _: [] if one.loop is None else [((), value(one.loop))]


def _of_signers(value: Callable[[SignerPool], float]) -> Samples:
    return lambda one, _: [] if one.signers is None else [((), value(one.signers))]


def _of_account(value: Callable[[Account], float | None]) -> Samples:
    def samples(one: Observed, _: int) -> Iterator[Sample]:
        for account in one.signers.accounts if one.signers else ():
            if (known := value(account)) is not None:
                yield (checksum(account.address),), known

    return samples


def _of_signer(value: Callable[[ChainLoop, bytes], float]) -> Samples:
    def samples(one: Observed, _: int) -> Iterator[Sample]:
        if one.loop is not None and one.signers is not None:
            for address in one.signers.addresses:
                yield (checksum(address),), value(one.loop, address)

    return samples


def _of_endpoint(value: Callable[[Endpoint], float]) -> Samples:
    return lambda one, _: [((each.name,), value(each)) for each in one.chain.endpoints]


_queue = _of_signers(lambda signers: signers.waiting)
_queue_limit = _of_signers(lambda _: QUEUE_LIMIT)
_balances = _of_account(lambda account: account.balance)
_loads = _of_account(lambda account: account.pending)
_paused = _of_account(lambda account: account.is_paused)
_gaps = _of_signer(lambda loop, address: address in loop.gaps)
_gas_spent = _of_signer(lambda loop, address: loop.tally.gas_spent[address])
_at_fee_cap = _of_loop(lambda loop: loop.broadcaster.at_cap)
_silence = _of_loop(lambda loop: loop.tally.silence())
_replacements = _of_loop(lambda loop: loop.tally.replacements)
_superseded = _of_loop(lambda loop: loop.tally.superseded)
_reorgs = _of_loop(lambda loop: loop.tally.changes[SettlementState.REORGED])
_up = _of_endpoint(lambda endpoint: endpoint.health.standing in _USED)
_calls = _of_endpoint(lambda endpoint: endpoint.calls)


def _rows(one: Observed, _: int) -> Iterator[Sample]:
    if one.poller is not None and one.poller.counts is not None:
        for state in SettlementState:
            yield (state,), one.poller.counts.states.get(state, 0)


def _in_flight(one: Observed, _: int) -> Iterator[Sample]:
    if one.poller is not None and one.poller.counts is not None:
        yield (), one.poller.counts.pending


def _oldest(one: Observed, now: int) -> Iterator[Sample]:
    if one.poller is not None and one.poller.counts is not None:
        since = one.poller.counts.oldest_pending
        yield (), 0 if since is None else max(now - since, 0) / 1000


def _cost(one: Observed, _: int) -> Iterator[Sample]:
    if one.poller is not None and one.poller.settlement_cost is not None:
        yield (), one.poller.settlement_cost


def _head_age(one: Observed, _: int) -> Iterator[Sample]:
    seen = [head.timestamp for each in one.chain.endpoints if (head := each.health.head)]
    if seen:
        yield (), max(time.time() - max(seen), 0)


def _head_lag(one: Observed, _: int) -> Iterator[Sample]:
    heads = {each.name: head.number for each in one.chain.endpoints if (head := each.health.head)}
    for name, number in heads.items():
        yield (name,), max(heads.values()) - number


def _signed(one: Observed, _: int) -> Iterator[Sample]:
    if one.signers is not None and one.loop is not None:
        yield (), one.signers.signed + one.loop.tally.replacements


def _changes(one: Observed, _: int) -> Iterator[Sample]:
    if one.loop is not None:
        for state in _ENDS:
            yield (state,), one.loop.tally.changes[state]


def _faults(one: Observed, _: int) -> Iterator[Sample]:
    for endpoint in one.chain.endpoints:
        for kind in FaultKind:  # all: Prometheus sees no increase from nothing
            yield (endpoint.name, kind), endpoint.faults[kind]


_Family = tuple[str, str, tuple[str, ...], Samples]
_SIGNER, _ENDPOINT = ("signer",), ("endpoint",)
_GAUGES: tuple[_Family, ...] = (
    ("queue_depth", "Payments that wait for a signer.", (), _queue),
    ("queue_limit", "How many payments may wait for a signer.", (), _queue_limit),
    ("journal_settlements", "Payments in the journal, by state.", ("state",), _rows),
    ("settlements_in_flight", "Payments whose fate is open.", (), _in_flight),
    ("oldest_pending_seconds", "Since the oldest pending payment was taken on.", (), _oldest),
    ("signer_balance_wei", "Gas money, as last seen.", _SIGNER, _balances),
    ("signer_in_flight", "A signer's transactions that are not mined.", _SIGNER, _loads),
    ("signer_nonce_gap", "1 while nothing of ours has the next nonce.", _SIGNER, _gaps),
    ("signer_paused", "1 while its account nonce is not certain.", _SIGNER, _paused),
    ("stuck_at_fee_cap", "Transactions that wait for fees to fall.", (), _at_fee_cap),
    ("settlement_cost_wei", "What a payment may cost at the fees of now.", (), _cost),
    ("rpc_endpoint_up", "1 while the endpoint is used.", _ENDPOINT, _up),
    ("rpc_head_lag_blocks", "Behind the furthest endpoint.", _ENDPOINT, _head_lag),
    ("head_age_seconds", "Since the newest block that was seen.", (), _head_age),
    ("loop_beat_age_seconds", "Since the chain's loop did a step; 0 at rest.", (), _silence),
)
_COUNTERS: tuple[_Family, ...] = (
    ("attempts", "Transactions signed, replacements included.", (), _signed),
    ("replacements", "Attempts that replace one with higher fees.", (), _replacements),
    ("superseded", "Transactions whose account nonce another one took.", (), _superseded),
    ("gas_spent_wei", "Paid for mined transactions.", _SIGNER, _gas_spent),
    ("reorgs", "Settled payments that left the chain again.", (), _reorgs),
    ("settlement_changes", "Payments that came to a state.", ("state",), _changes),
    ("rpc_calls", "Calls made to nodes.", _ENDPOINT, _calls),
    ("rpc_errors", "Why endpoints gave no usable answer.", ("endpoint", "kind"), _faults),
)
_FAMILIES = ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS))
