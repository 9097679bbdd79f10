"""One network as the service has it: its chain, its checks, and what settles on it where a key is
there, and something to settle.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import aiohttp
import anyio

from facilitator.chain.answers import ChainUnavailable, may_differ_elsewhere
from facilitator.chain.client import Chain
from facilitator.chain.protocol_fee import ProtocolFee
from facilitator.chain.rpc import RPC, FaultKind
from facilitator.chain.tokens import Tokens
from facilitator.config.networks import Unit
from facilitator.config.settings import Config, NetworkConfig
from facilitator.domain.schemes import eip3009, jeju
from facilitator.domain.settlement import Policy
from facilitator.domain.verification import Terms
from facilitator.engine.history import History
from facilitator.engine.leader import Leadership
from facilitator.engine.loop import Watcher
from facilitator.engine.retention import Retention
from facilitator.engine.settle import Settler
from facilitator.engine.signers import SignerPool
from facilitator.engine.simulate import Simulator
from facilitator.engine.submit import Submitter
from facilitator.engine.verify import Verifier
from facilitator.engine.waiters import Waiters
from facilitator.ethereum.addresses import ZERO_ADDRESS
from facilitator.ethereum.multicall3 import AGGREGATE3, MULTICALL3
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import TransactionBuilder
from facilitator.journal.store import SharedStore, Store
from facilitator.telemetry.logs import event, get_logger
from facilitator.web.cached import Recent

_log = get_logger(__name__)

# Seconds for which a look counts: everybody may ask for `/` and /ready.
REACHABLE_FOR = 2.0
REACHABLE_TIMEOUT = 2.0


def unix_ms() -> int:
    """The wall clock, unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Common:
    """What all networks have together. `retiring` are the addresses of those of `signers` that take
    no new payments; `opened` is the journal, `store` the same with its operations measured, and
    `measured` does that to another view of it.
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


def serve_network(common: Common, network: NetworkConfig) -> Served:
    """One network, with nothing running yet."""
    config, signers = common.config, common.signers
    rpc = RPC(
        network.rpc_urls,
        name=network.network.name,
        session=common.session,
        chain_id=network.network.chain_id,
        elsewhere=may_differ_elsewhere,
        on_change=_tell_endpoint,
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
        watcher=None,
    )
    allowed = _allowed_calls(config, network, assets)
    return _settling(common, served, simulator, allowed) if allowed and signers else served


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
        # Even where none are made any more: one that is pending may have to be replaced.
        allowed |= {(MULTICALL3, AGGREGATE3)}
    return allowed


def _settling(
    common: Common, served: Served, simulator: Simulator, allowed: frozenset[tuple[bytes, bytes]]
) -> Served:
    """The same network, with what settles on it."""
    config, network = common.config, served.config
    name, chain_id = network.network.name, network.network.chain_id
    policy = Policy(
        confirmations=network.confirmations,
        max_fee_per_gas=config.max_fee_per_gas,
        gas_budget=config.max_gas_spend_per_day,
        batch_max=config.settle_batch_max,
    )
    pool = _signer_pool(common, served, policy, allowed)
    waiters = Waiters()
    leadership = None
    if isinstance(common.opened, SharedStore):
        leadership = Leadership(
            store=common.opened, chain_id=chain_id, signers=pool, waiters=waiters
        )
    store = common.measured(common.opened if leadership is None else leadership.store)
    watcher = Watcher(
        network=name,
        chain_id=chain_id,
        chain=served.chain,
        simulator=simulator,
        store=store,
        signers=pool,
        waiters=waiters,
        policy=policy,
        clock=unix_ms,
        leadership=leadership,
    )
    retention = None
    if config.retention_days is not None:
        retention = Retention(
            network=name,
            chain_id=chain_id,
            store=store,
            watcher=watcher,
            days=config.retention_days,
            clock=unix_ms,
        )
    settler = None
    if len(common.retiring) < len(common.signers):
        settler = _settler(common, served.chain, simulator, pool, watcher, waiters, policy)
    return replace(served, settler=settler, watcher=watcher, signers=pool, retention=retention)


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


def _settler(
    common: Common,
    chain: Chain,
    simulator: Simulator,
    pool: SignerPool,
    watcher: Watcher,
    waiters: Waiters,
    policy: Policy,
) -> Settler:
    store = common.store
    submitter = Submitter(
        chain=chain,
        simulator=simulator,
        store=store,
        signers=pool,
        watcher=watcher,
        history=History(chain=chain, investigator=watcher.investigator, clock=unix_ms),
        batch_max=policy.batch_max,
        clock=unix_ms,
    )
    return Settler(
        submitter=submitter,
        store=store,
        waiters=waiters,
        timeout=common.config.settle_timeout,
        clock=unix_ms,
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
