"""Metrics of the chains and the event loop.

A scrape reads memory and asks nobody: endpoints, signers and the loop count in plain numbers where
it happens. What they do not see is polled every few seconds, since the loop of a chain asks nothing
while nothing is open: nobody would learn that the nodes, or a signer's gas money, are gone before
the next payment comes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.rpc import FaultKind
from facilitator.chain.rpc.health import Standing
from facilitator.config.settings import NetworkConfig
from facilitator.domain import budget
from facilitator.domain.settlement import SettlementCounts, SettlementState
from facilitator.engine.loop import ChainLoop
from facilitator.engine.queue import QUEUE_LIMIT
from facilitator.engine.signers import SignerPool
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.fees import initial_fees
from facilitator.journal.store import Store, StoreError
from facilitator.telemetry.logs import event, get_logger
from facilitator.telemetry.metrics import Metrics

_log = get_logger(__name__)

_USED = frozenset({Standing.GOOD, Standing.UNKNOWN})
# What a settlement can come to, after it was taken on.
_ENDS = tuple(state for state in SettlementState if state is not SettlementState.PENDING)

Sample = tuple[Sequence[str], float]

# Seconds. Counting reads what is open, and a tally of the rest; asking costs one POST to a node.
COUNT_EVERY = 5.0
ASK_EVERY = 15.0
# Gas of a settlement, before one was seen: the dearest of the two plain ones takes 145-175 k.
TYPICAL_GAS = 175_000
LAG_EVERY = 1.0  # seconds between two measurements of how late the event loop is


class ChainPoller:
    """Polls one network; where it has no `signers`, only the journal's counts of it.

    `counts` are those, None until they were read first; `settlement_cost` is the wei that one
    payment may cost at the fees of the last poll, `max_fee_per_gas` the cap of those.
    """

    def __init__(
        self,
        *,
        network: str,
        chain_id: int,
        chain: Chain,
        store: Store,
        signers: SignerPool | None,
        metrics: Metrics,
        max_fee_per_gas: int,
    ) -> None:
        self.network = network
        self.counts: SettlementCounts | None = None
        self.settlement_cost: int | None = None
        self._chain_id = chain_id
        self._chain = chain
        self._store = store
        self._signers = signers
        self._metrics = metrics
        self._max_fee_per_gas = max_fee_per_gas

    async def run(self) -> None:
        """Poll for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._repeat, self._count, COUNT_EVERY)
            if self._signers is not None:
                tasks.start_soon(self._repeat, self._ask, ASK_EVERY)

    async def _repeat(self, poll: Callable[[], Awaitable[None]], every: float) -> None:
        while True:
            try:
                await poll()
            except Exception as bug:  # what is only for metrics must not end anything else
                event(_log, logging.ERROR, "survey_broken", exc_info=bug, network=self.network)
            await anyio.sleep(every)

    async def _count(self) -> None:
        with suppress(StoreError):  # counted where it is raised
            self.counts = await self._store.settlement_counts(self._chain_id)
            if self.network in self._metrics.networks:
                self._metrics.count_rows(self.network, self.counts)

    async def _ask(self) -> None:
        """In one round trip; the endpoints note the head for themselves."""
        chain, signers = self._chain, self._signers
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
            fees = initial_fees(market, self._max_fee_per_gas)
            paid = fees.max_fee_per_gas if fees else self._max_fee_per_gas
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
    """Record for ever how late timers fire: everything else is as late."""
    while True:
        due = anyio.current_time() + LAG_EVERY
        await anyio.sleep(LAG_EVERY)
        metrics.loop_lag.observe(max(anyio.current_time() - due, 0))


class ChainMetrics(Collector):
    """Tells about all networks. `clock` is in unix milliseconds."""

    def __init__(self, networks: Iterable[Observed], clock: Callable[[], int]) -> None:
        self._networks = tuple(networks)
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """For prometheus-client, at each scrape."""
        for name, text, labels, samples in _GAUGES:
            gauge = GaugeMetricFamily(f"facilitator_{name}", text, labels=("network", *labels))
            self._fill(gauge.add_metric, samples)
            yield gauge
        for name, text, labels, samples in _COUNTERS:
            counter = CounterMetricFamily(f"facilitator_{name}", text, labels=("network", *labels))
            self._fill(counter.add_metric, samples)
            yield counter

    def _fill(
        self,
        add: Callable[[Sequence[str], float], None],
        samples: "Callable[[Observed, int], Iterator[Sample]]",
    ) -> None:
        now = self._clock()
        for observed in self._networks:
            for labels, value in samples(observed, now):
                add((observed.network, *labels), value)


def _queue(one: Observed, _: int) -> Iterator[Sample]:
    if one.signers is not None:
        yield (), one.signers.waiting


def _queue_limit(one: Observed, _: int) -> Iterator[Sample]:
    if one.signers is not None:
        yield (), QUEUE_LIMIT


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


def _balances(one: Observed, _: int) -> Iterator[Sample]:
    for account in one.signers.accounts if one.signers else ():
        if account.balance is not None:
            yield (checksum(account.address),), account.balance


def _loads(one: Observed, _: int) -> Iterator[Sample]:
    for account in one.signers.accounts if one.signers else ():
        yield (checksum(account.address),), account.pending


def _cost(one: Observed, _: int) -> Iterator[Sample]:
    if one.poller is not None and one.poller.settlement_cost is not None:
        yield (), one.poller.settlement_cost


def _gaps(one: Observed, _: int) -> Iterator[Sample]:
    if one.loop is not None and one.signers is not None:
        for address in one.signers.addresses:
            yield (checksum(address),), address in one.loop.gaps


def _paused(one: Observed, _: int) -> Iterator[Sample]:
    for account in one.signers.accounts if one.signers else ():
        yield (checksum(account.address),), account.is_paused


def _at_fee_cap(one: Observed, _: int) -> Iterator[Sample]:
    if one.loop is not None:
        yield (), one.loop.at_fee_cap


def _silence(one: Observed, _: int) -> Iterator[Sample]:
    if one.loop is not None:
        yield (), one.loop.tally.silence()


def _up(one: Observed, _: int) -> Iterator[Sample]:
    for endpoint in one.chain.endpoints:
        yield (endpoint.name,), endpoint.health.standing in _USED


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


def _replacements(one: Observed, _: int) -> Iterator[Sample]:
    if one.loop is not None:
        yield (), one.loop.tally.replacements


def _superseded(one: Observed, _: int) -> Iterator[Sample]:
    if one.loop is not None:
        yield (), one.loop.tally.superseded


def _gas_spent(one: Observed, _: int) -> Iterator[Sample]:
    if one.loop is not None and one.signers is not None:
        for address in one.signers.addresses:
            yield (checksum(address),), one.loop.tally.gas_spent[address]


def _reorgs(one: Observed, _: int) -> Iterator[Sample]:
    if one.loop is not None:
        yield (), one.loop.tally.changes[SettlementState.REORGED]


def _changes(one: Observed, _: int) -> Iterator[Sample]:
    if one.loop is not None:
        for state in _ENDS:
            yield (state,), one.loop.tally.changes[state]


def _calls(one: Observed, _: int) -> Iterator[Sample]:
    for endpoint in one.chain.endpoints:
        yield (endpoint.name,), endpoint.calls


def _faults(one: Observed, _: int) -> Iterator[Sample]:
    for endpoint in one.chain.endpoints:
        for kind in FaultKind:  # all: Prometheus sees no increase from nothing
            yield (endpoint.name, kind), endpoint.faults[kind]


_Family = tuple[str, str, tuple[str, ...], Callable[[Observed, int], Iterator[Sample]]]
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
