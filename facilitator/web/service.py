"""Wires the service behind the routes from the configuration: what all networks share, each network
with its chain and its engine, and the loops that run beside the requests.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import aiohttp
import anyio
from anyio.abc import TaskGroup

from facilitator.chain.answers import ChainUnavailable, may_differ_elsewhere
from facilitator.chain.client import Chain
from facilitator.chain.recent import Recent
from facilitator.chain.rpc import RPC, FaultKind
from facilitator.chain.tokens import ProtocolFee, Tokens
from facilitator.config.networks import Unit
from facilitator.config.settings import Config, NetworkConfig
from facilitator.dialects.jeju import decode as jeju_dialect
from facilitator.dialects.x402 import decode as x402_dialect
from facilitator.domain.schemes import eip3009, jeju
from facilitator.domain.settlement import Policy
from facilitator.domain.verification import Terms
from facilitator.engine.leader import Leadership
from facilitator.engine.loop import ChainLoop
from facilitator.engine.metrics import ChainMetrics, observe, watch_event_loop
from facilitator.engine.retention import Retention
from facilitator.engine.settle import Settler
from facilitator.engine.signers import SignerPool
from facilitator.engine.simulate import Simulator
from facilitator.engine.verify import Verifier
from facilitator.engine.wiring import Parts, build_loop, build_settler
from facilitator.ethereum.addresses import ZERO_ADDRESS, checksum
from facilitator.ethereum.multicall3 import AGGREGATE3, MULTICALL3
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import TransactionBuilder
from facilitator.journal.measured import MeasuredStore
from facilitator.journal.open import open_store
from facilitator.journal.store import SharedStore, Store, StoreError
from facilitator.telemetry.logs import event, get_logger
from facilitator.telemetry.metrics import Metrics

_log = get_logger(__name__)

# HTTP connections to all nodes together; a call waits while all are in use.
RPC_CONNECTIONS = 100
# Seconds for which a check of the journal or of a chain is reused: anybody can ask for `/` and
# /ready at any rate.
WRITABLE_FOR = 2.0
REACHABLE_FOR = 2.0
REACHABLE_TIMEOUT = 2.0


class StartRefused(Exception):
    """The journal does not fit the configuration; the text says what to do."""


def unix_ms() -> int:
    """Read the wall clock, in unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Common:
    """What all networks share. `retiring` are the addresses of those `signers` that take no new
    payments. `opened` is the journal, `store` the same one with its operations timed; `measured`
    returns any other view of it with timed operations.
    """

    config: Config
    signers: tuple[Signer, ...]
    retiring: frozenset[bytes]
    opened: Store
    store: Store
    measured: Callable[[Store], Store]
    session: aiohttp.ClientSession


@dataclass(frozen=True, slots=True)
class Served:
    """One network. `takes_x402` is whether the standard dialect is served there, `reachable`
    whether a node of the right chain answers. `settler` is None without a key that signs new
    payments, or without anything to settle. With any key there are `loop` and `signers`, to finish
    what was begun, and beside them `retention` where finished settlements are to be deleted.
    """

    config: NetworkConfig
    takes_x402: bool
    chain: Chain
    reachable: Recent[bool]
    tokens: Tokens
    protocol_fee: ProtocolFee
    verifier: Verifier
    settler: Settler | None
    loop: ChainLoop | None
    signers: SignerPool | None = None
    retention: Retention | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """The running service. `signers` are the addresses that take new payments, `writable` is
    whether the journal can be written; `clock` and `started_at` are in unix milliseconds.
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
    """Run the service with its loops inside the block. Raises StoreError, StartRefused."""
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
    """Start the loops of all networks; they end with the stack."""
    loops = [served.loop for served in networks.values() if served.loop is not None]
    for loop in loops:
        stack.push_async_callback(loop.leave)
    tasks = await stack.enter_async_context(anyio.create_task_group())
    stack.callback(tasks.cancel_scope.cancel)
    for loop in loops:
        tasks.start_soon(loop.run)
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
            tasks,
            served.config,
            chain=served.chain,
            signers=served.signers,
            loop=served.loop,
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
    """Raise StartRefused where the key of a pending transaction is missing: without it the
    transaction could be neither replaced nor finished.
    """
    network = served.config.network
    known = {signer.address for signer in signers} if served.loop else set()
    for address in await store.in_flight(network.chain_id):
        if address not in known:
            raise StartRefused(
                f"{checksum(address)} has pending transactions on {network.name}: start with its"
                " key and contract until they are settled"
            )


def serve_network(common: Common, network: NetworkConfig) -> Served:
    """Build one network; nothing runs yet."""
    config, signers = common.config, common.signers
    rpc = RPC(
        network.rpc_urls,
        name=network.network.name,
        session=common.session,
        chain_id=network.network.chain_id,
        elsewhere=may_differ_elsewhere,
        on_change=_log_endpoint,
        trace_hosts=config.trace_hosts,
    )
    chain = Chain(rpc)
    takes_x402 = _takes_x402(config, network)
    assets = tuple(token.address for token in network.tokens) if takes_x402 else ()
    simulator = Simulator(chain=chain, sender=signers[0].address if signers else ZERO_ADDRESS)
    served = Served(
        network,
        takes_x402,
        chain,
        reachable=Recent(partial(_is_reachable, chain, network.network.chain_id), REACHABLE_FOR),
        tokens=Tokens(chain, _known_units(network)),
        protocol_fee=ProtocolFee(chain, network.contract, config.protocol_fee_bps),
        verifier=_verifier(common, network, assets, simulator),
        settler=None,
        loop=None,
    )
    allowed = _allowed_calls(config, network, assets)
    return _with_engine(common, served, simulator, allowed) if allowed and signers else served


def _verifier(
    common: Common, network: NetworkConfig, assets: tuple[bytes, ...], simulator: Simulator
) -> Verifier:
    contract = network.contract
    addresses = frozenset(signer.address for signer in common.signers)
    terms = Terms(
        min_amount=common.config.min_payment_amount,
        own_addresses=addresses if contract is None else addresses | {contract},
        signers=addresses,
        assets=frozenset(assets),
        factories=frozenset(common.config.allowed_factories),
    )
    return Verifier(
        simulator=simulator,
        store=common.store,
        terms=terms,
        contract=contract,
        production=common.config.is_production,
        clock=unix_ms,
    )


def _allowed_calls(
    config: Config, network: NetworkConfig, assets: tuple[bytes, ...]
) -> frozenset[tuple[bytes, bytes]]:
    deployments = bool(assets) and bool(config.allowed_factories)
    allowed = eip3009.allowed_calls(assets, deployments=deployments)
    if network.contract is not None:
        allowed |= jeju.allowed_calls(network.contract)
    if allowed:
        # Even where no groups are made any more: a pending one may have to be replaced.
        allowed |= {(MULTICALL3, AGGREGATE3)}
    return allowed


def _with_engine(
    common: Common, served: Served, simulator: Simulator, allowed: frozenset[tuple[bytes, bytes]]
) -> Served:
    """Return the network with its signers and its loop, and with what settles on it."""
    config, network = common.config, served.config
    name, chain_id = network.network.name, network.network.chain_id
    policy = Policy(
        confirmations=network.confirmations,
        max_fee_per_gas=config.max_fee_per_gas,
        gas_budget=config.max_gas_spend_per_day,
        batch_max=config.settle_batch_max,
    )
    pool = _signer_pool(common, served, policy, allowed)
    parts = Parts(name, chain_id, served.chain, simulator, pool, policy, unix_ms)
    leadership = None
    if isinstance(common.opened, SharedStore):
        leadership = Leadership(
            store=common.opened, chain_id=chain_id, signers=pool, waiters=parts.waiters
        )
    store = common.measured(common.opened if leadership is None else leadership.store)
    loop = build_loop(parts, store, leadership)
    retention = None
    if config.retention_days is not None:
        retention = Retention(
            network=name,
            chain_id=chain_id,
            store=store,
            loop=loop,
            days=config.retention_days,
            clock=unix_ms,
        )
    settler = None
    if len(common.retiring) < len(common.signers):
        settler = build_settler(parts, common.store, config.settle_timeout)
    return replace(served, settler=settler, loop=loop, signers=pool, retention=retention)


def _signer_pool(
    common: Common, served: Served, policy: Policy, allowed: frozenset[tuple[bytes, bytes]]
) -> SignerPool:
    chain_id = served.config.network.chain_id
    return SignerPool(
        common.signers,
        retiring=common.retiring,
        builder=TransactionBuilder(
            chain_id, allowed, factories=frozenset(common.config.allowed_factories)
        ),
        chain=served.chain,
        store=common.store,
        chain_id=chain_id,
        policy=policy,
        clock=unix_ms,
    )


def _log_endpoint(endpoint: str, fault: FaultKind | None) -> None:
    """Log that an endpoint was excluded or has recovered, by its name ("base#1"), never its URL."""
    if fault is None:
        event(_log, logging.INFO, "endpoint_recovered", endpoint=endpoint)
    else:
        event(_log, logging.WARNING, "endpoint_excluded", endpoint=endpoint, fault=fault)


def _takes_x402(config: Config, network: NetworkConfig) -> bool:
    """Return whether the standard dialect is served on a network. It needs no contract of ours:
    with a key alone it could settle on every network with a public endpoint, so the operator must
    have chosen the network.
    """
    is_primary = network.network.name == config.primary_network
    chosen = network.explicit_rpc or network.contract is not None or is_primary
    return chosen and bool(network.tokens)


def _known_units(config: NetworkConfig) -> dict[bytes, Unit]:
    """Return the units of the configured tokens; the zero address is the native currency."""
    network = config.network
    units = {token.address: Unit(token.symbol, token.decimals) for token in config.tokens}
    return {ZERO_ADDRESS: Unit(network.native_symbol, network.native_decimals), **units}


async def _is_reachable(chain: Chain, chain_id: int) -> bool:
    with anyio.move_on_after(REACHABLE_TIMEOUT), suppress(ChainUnavailable):
        return await chain.chain_id() == chain_id
    return False
