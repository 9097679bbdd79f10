"""Everything that the routes use, built from the configuration and from nothing else.

One `Served` a network: its chain, its checks, and what settles on it where a key and a contract are
there to settle with.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import aiohttp
import anyio

from facilitator.chain import Chain
from facilitator.chain_metrics import ChainMetrics
from facilitator.config import Config, NetworkConfig
from facilitator.dialects import jeju as jeju_dialect
from facilitator.dialects import x402 as x402_dialect
from facilitator.ethereum.addresses import ZERO_ADDRESS, checksum
from facilitator.ethereum.multicall3 import AGGREGATE3, MULTICALL3
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import TransactionBuilder
from facilitator.examination import Examiner
from facilitator.history import History
from facilitator.leadership import Leadership
from facilitator.listeners import Listeners
from facilitator.measured_store import MeasuredStore
from facilitator.measurement import observe, watch_event_loop
from facilitator.metrics import Metrics
from facilitator.networks import Unit
from facilitator.node import ChainUnavailable, blames_endpoint
from facilitator.protocol_fee import ProtocolFee
from facilitator.recent import Recent
from facilitator.retention import Retention
from facilitator.rpc import RPC, FaultKind
from facilitator.schemes import eip3009, jeju
from facilitator.settlement import Policy
from facilitator.settler import Settler
from facilitator.signing import SignerPool
from facilitator.store import SharedStore, Store, StoreError
from facilitator.store.opening import open_store
from facilitator.submission import Submitter
from facilitator.telemetry import event, get_logger
from facilitator.tokens import Tokens
from facilitator.verification import Terms
from facilitator.verifier import Verifier
from facilitator.watcher import Watcher

_log = get_logger(__name__)

# Connections to all nodes together; a call waits for one when all are in use.
RPC_CONNECTIONS = 100


# Seconds for which a look counts: everybody may ask for `/` and /ready.
REACHABLE_FOR = 2.0
WRITABLE_FOR = 2.0
REACHABLE_TIMEOUT = 2.0


class StartRefused(Exception):
    """What the journal holds does not fit the configuration; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Served:
    """One network. `settler` is None where no key that signs new payments is configured, or nothing
    that it could settle; `watcher` and `signers` are there with any key, to end what was begun.
    `retention` is there beside a watcher, where what is finished is not kept for ever.
    `reachable` tells whether the chain answers, and is the one that it should be. `takes_x402` says
    that payments of the standard dialect are taken there.
    """

    config: NetworkConfig
    takes_x402: bool
    chain: Chain
    reachable: Recent[bool]
    tokens: Tokens
    protocol_fee: ProtocolFee
    verifier: Verifier
    settler: Settler | None
    watcher: Watcher | None
    signers: SignerPool | None = None
    retention: Retention | None = None


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


def unix_ms() -> int:
    """The wall clock, unix milliseconds."""
    return time.time_ns() // 1_000_000


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
        networks = {
            name: _serve(config, network, signers, retiring, opened, measured, session)
            for name, network in config.networks.items()
        }
        for served in networks.values():
            await _check_keys(store, served, signers)
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
        if isinstance(opened, SharedStore):
            notices = opened.notices
            tasks.start_soon(notices.run)
            metrics.notices.set_function(lambda: notices.arrive)
        if config.metrics:
            tasks.start_soon(watch_event_loop, metrics)
            observed = [
                observe(
                    *(tasks, served.config),
                    chain=served.chain,
                    signers=served.signers,
                    watcher=served.watcher,
                    store=store,
                    metrics=metrics,
                    max_fee_per_gas=config.max_fee_per_gas,
                )
                for served in networks.values()
            ]
            metrics.add(ChainMetrics(observed, unix_ms))
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


def _serve(
    config: Config,
    network: NetworkConfig,
    signers: tuple[Signer, ...],
    retiring: frozenset[bytes],
    opened: Store,
    measured: Callable[[Store], Store],
    session: aiohttp.ClientSession,
) -> Served:
    store = measured(opened)
    contract, chain_id = network.contract, network.network.chain_id
    rpc = RPC(
        network.rpc_urls,
        name=network.network.name,
        session=session,
        chain_id=chain_id,
        elsewhere=blames_endpoint,
        on_change=_tell_endpoint,
        trace_hosts=config.trace_hosts,
    )
    chain = Chain(rpc)
    reachable = Recent(partial(_is_reachable, chain, chain_id), REACHABLE_FOR)
    tokens = Tokens(chain, _known_units(network))
    protocol_fee = ProtocolFee(chain, contract, config.protocol_fee_bps)
    addresses = frozenset(signer.address for signer in signers)
    takes_x402 = _takes_x402(config, network)
    assets = tuple(token.address for token in network.tokens) if takes_x402 else ()
    terms = Terms(
        min_amount=config.min_payment_amount,
        own_addresses=addresses if contract is None else addresses | {contract},
        signers=addresses,
        assets=frozenset(assets),
        factories=frozenset(config.allowed_factories),
    )
    examiner = Examiner(chain=chain, sender=signers[0].address if signers else ZERO_ADDRESS)
    verifier = Verifier(
        examiner=examiner,
        store=store,
        terms=terms,
        contract=contract,
        production=config.is_production,
        clock=unix_ms,
    )
    deployments = takes_x402 and bool(config.allowed_factories)
    allowed = eip3009.allowed_calls(assets, deployments=deployments)
    if contract is not None:
        allowed |= jeju.allowed_calls(contract)
    if allowed:
        # Even where none are made any more: one that is pending may have to be replaced.
        allowed |= {(MULTICALL3, AGGREGATE3)}
    if not allowed or not signers:
        return Served(
            *(network, takes_x402, chain, reachable, tokens, protocol_fee, verifier),
            settler=None,
            watcher=None,
        )
    policy = Policy(
        confirmations=network.confirmations,
        max_fee_per_gas=config.max_fee_per_gas,
        gas_budget=config.max_gas_spend_per_day,
        batch_max=config.settle_batch_max,
    )
    pool = SignerPool(
        signers,
        retiring=retiring,
        builder=TransactionBuilder(
            chain_id, allowed, factories=frozenset(config.allowed_factories)
        ),
        chain=chain,
        store=store,
        chain_id=chain_id,
        policy=policy,
        clock=unix_ms,
    )
    listeners = Listeners()
    leadership = None
    if isinstance(opened, SharedStore):
        leadership = Leadership(store=opened, chain_id=chain_id, signers=pool, listeners=listeners)
    own_store = store if leadership is None else measured(leadership.store)
    watcher = Watcher(
        network=network.network.name,
        chain_id=chain_id,
        chain=chain,
        examiner=examiner,
        store=own_store,
        signers=pool,
        listeners=listeners,
        policy=policy,
        clock=unix_ms,
        leadership=leadership,
    )
    retention = None
    if config.retention_days is not None:
        retention = Retention(
            network=network.network.name,
            chain_id=chain_id,
            store=own_store,
            watcher=watcher,
            days=config.retention_days,
            clock=unix_ms,
        )
    if len(retiring) == len(signers):
        return Served(
            *(network, takes_x402, chain, reachable, tokens, protocol_fee, verifier),
            settler=None,
            watcher=watcher,
            signers=pool,
            retention=retention,
        )
    submitter = Submitter(
        chain=chain,
        examiner=examiner,
        store=store,
        signers=pool,
        watcher=watcher,
        history=History(chain=chain, investigator=watcher.investigator, clock=unix_ms),
        batch_max=policy.batch_max,
        clock=unix_ms,
    )
    settler = Settler(
        submitter=submitter,
        store=store,
        listeners=listeners,
        timeout=config.settle_timeout,
        clock=unix_ms,
    )
    return Served(
        *(network, takes_x402, chain, reachable, tokens, protocol_fee, verifier),
        settler=settler,
        watcher=watcher,
        signers=pool,
        retention=retention,
    )


def _tell_endpoint(endpoint: str, fault: FaultKind | None) -> None:
    """An endpoint ("base#1", never its URL) is not asked first any more, or is again."""
    if fault is None:
        event(_log, logging.INFO, "endpoint_recovered", endpoint=endpoint)
    else:
        event(_log, logging.WARNING, "endpoint_excluded", endpoint=endpoint, fault=fault)


def _takes_x402(config: Config, network: NetworkConfig) -> bool:
    """The standard dialect needs no contract of ours, so a key alone would settle on every network
    that has a public endpoint: somebody must have chosen this one.
    """
    is_primary = network.network.name == config.primary_network
    chosen = network.explicit_rpc or network.contract is not None or is_primary
    return chosen and bool(network.tokens)


def _known_units(config: NetworkConfig) -> dict[bytes, Unit]:
    """Of the tokens that need not be asked; the zero address stands for the native currency."""
    network = config.network
    units = {token.address: Unit(token.symbol, token.decimals) for token in config.tokens}
    return {ZERO_ADDRESS: Unit(network.native_symbol, network.native_decimals), **units}


async def _is_reachable(chain: Chain, chain_id: int) -> bool:
    with anyio.move_on_after(REACHABLE_TIMEOUT), suppress(ChainUnavailable):
        return await chain.chain_id() == chain_id
    return False


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
