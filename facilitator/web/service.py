"""Everything that the routes use, built from the configuration and from nothing else: what all
networks have together, one `Served` each, and the loops that run beside the requests.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp
import anyio
from anyio.abc import TaskGroup

from facilitator.config.settings import Config
from facilitator.dialects.jeju import decode as jeju_dialect
from facilitator.dialects.x402 import decode as x402_dialect
from facilitator.engine.measurement import observe, watch_event_loop
from facilitator.engine.metrics import ChainMetrics
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.secp256k1 import Signer
from facilitator.journal.measured import MeasuredStore
from facilitator.journal.open import open_store
from facilitator.journal.store import SharedStore, Store, StoreError
from facilitator.telemetry.metrics import Metrics
from facilitator.web.cached import Recent
from facilitator.web.served import Common, Served, serve_network, unix_ms

# Connections to all nodes together; a call waits for one when all are in use.
RPC_CONNECTIONS = 100
# Seconds for which a look counts: everybody may ask for /ready.
WRITABLE_FOR = 2.0


class StartRefused(Exception):
    """What the journal holds does not fit the configuration; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Service:
    """The running service. `signers` are those that take new payments; `writable` tells whether the
    journal can be written; `clock` is in unix milliseconds, `started_at` too.
    """

    config: Config
    store: Store
    jeju: jeju_dialect.Decoder
    x402: x402_dialect.Decoder
    networks: dict[str, Served]
    signers: tuple[bytes, ...]
    metrics: Metrics
    writable: Recent[bool]
    clock: Callable[[], int]
    started_at: int


@asynccontextmanager
async def run_service(config: Config, metrics: Metrics) -> AsyncIterator[Service]:
    """The service with its loops running. Raises StoreError, StartRefused."""
    async with AsyncExitStack() as stack:
        opened = await open_store(config.database)
        stack.push_async_callback(opened.close)

        def measured(journal: Store) -> Store:
            return MeasuredStore.before(journal, metrics) if config.metrics else journal

        store = measured(opened)
        connector = aiohttp.TCPConnector(limit=RPC_CONNECTIONS)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        signers = tuple(Signer(key.secret) for key in config.keys)
        retiring = frozenset(
            signer.address for signer, key in zip(signers, config.keys, strict=True) if key.retires
        )
        common = Common(config, signers, retiring, opened, store, measured, session)
        networks = {
            name: serve_network(common, network) for name, network in config.networks.items()
        }
        for served in networks.values():
            await _check_keys(store, served, signers)
        await _run_loops(stack, common, networks, metrics)
        yield Service(
            config=config,
            store=store,
            jeju=jeju_dialect.Decoder(
                config.networks, config.primary_network, config.max_payment_age
            ),
            x402=x402_dialect.Decoder(
                served.config for served in networks.values() if served.takes_x402
            ),
            networks=networks,
            signers=tuple(each.address for each in signers if each.address not in retiring),
            metrics=metrics,
            writable=Recent(partial(_can_write, store), WRITABLE_FOR),
            clock=unix_ms,
            started_at=unix_ms(),
        )


async def _run_loops(
    stack: AsyncExitStack, common: Common, networks: dict[str, Served], metrics: Metrics
) -> None:
    """Start them, to end with the stack."""
    watchers = [served.watcher for served in networks.values() if served.watcher is not None]
    for watcher in watchers:
        stack.push_async_callback(watcher.leave)
    tasks = await stack.enter_async_context(anyio.create_task_group())
    stack.callback(tasks.cancel_scope.cancel)
    for watcher in watchers:
        tasks.start_soon(watcher.run)
    for served in networks.values():
        if served.retention is not None:
            tasks.start_soon(served.retention.run)
    if isinstance(common.opened, SharedStore):
        notices = common.opened.notices
        tasks.start_soon(notices.run)
        metrics.notices.set_function(lambda: notices.arrive)
    if common.config.metrics:
        _measure(tasks, common, networks, metrics)


def _measure(
    tasks: TaskGroup, common: Common, networks: dict[str, Served], metrics: Metrics
) -> None:
    tasks.start_soon(watch_event_loop, metrics)
    observed = [
        observe(
            *(tasks, served.config),
            chain=served.chain,
            signers=served.signers,
            watcher=served.watcher,
            store=common.store,
            metrics=metrics,
            max_fee_per_gas=common.config.max_fee_per_gas,
        )
        for served in networks.values()
    ]
    metrics.add(ChainMetrics(observed, unix_ms))


async def _can_write(store: Store) -> bool:
    try:
        await store.ping()
    except StoreError:
        return False
    return True


async def _check_keys(store: Store, served: Served, signers: tuple[Signer, ...]) -> None:
    """A transaction whose key is gone could be neither replaced nor taken up again."""
    network = served.config.network
    known = {signer.address for signer in signers} if served.watcher else set()
    for address in await store.in_flight(network.chain_id):
        if address not in known:
            raise StartRefused(
                f"{checksum(address)} has pending transactions on {network.name}: start with its"
                " key and contract until they are settled"
            )
