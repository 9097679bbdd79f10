"""Everything that the routes use, built from the configuration and from nothing else.

One `Served` a network: its chain, its checks, and what settles on it where a key and a contract are
there to settle with.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
import anyio

from facilitator.chain import Chain
from facilitator.config import Config, NetworkConfig
from facilitator.dialects import jeju as jeju_dialect
from facilitator.dialects import x402 as x402_dialect
from facilitator.ethereum.addresses import ZERO_ADDRESS, checksum
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import TransactionBuilder
from facilitator.examination import Examiner
from facilitator.listeners import Listeners
from facilitator.metrics import Metrics
from facilitator.node import ChainUnavailable
from facilitator.rpc import RPC
from facilitator.schemes import eip3009, jeju
from facilitator.settlement import Policy
from facilitator.settler import Settler
from facilitator.signing import SignerPool
from facilitator.store import Store
from facilitator.store.sqlite import SQLiteStore
from facilitator.verification import Terms
from facilitator.verifier import Verifier
from facilitator.watcher import Watcher

# Connections to all nodes together; a call waits for one when all are in use.
RPC_CONNECTIONS = 100


# Milliseconds for which a look at a chain's endpoints counts: everybody may ask for `/`.
REACHABLE_FOR_MS = 2_000
REACHABLE_TIMEOUT = 2.0  # seconds


class StartRefused(Exception):
    """What the journal holds does not fit the configuration; the text says what to do."""


class Reachability:
    """Whether a chain answers, and is the one that it should be."""

    def __init__(self, chain: Chain, chain_id: int, clock: Callable[[], int]) -> None:
        self._chain = chain
        self._chain_id = chain_id
        self._clock = clock
        self._asked_at = -REACHABLE_FOR_MS
        self._answer = False
        self._lock = anyio.Lock()

    async def look(self) -> bool:
        """As of the last two seconds."""
        async with self._lock:
            if self._clock() - self._asked_at >= REACHABLE_FOR_MS:
                self._answer = await self._ask()
                self._asked_at = self._clock()
            return self._answer

    async def _ask(self) -> bool:
        with anyio.move_on_after(REACHABLE_TIMEOUT), suppress(ChainUnavailable):
            return await self._chain.chain_id() == self._chain_id
        return False


@dataclass(frozen=True, slots=True)
class Served:
    """One network. `settler` is None where no key that signs new payments is configured, or nothing
    that it could settle; `watcher` is there with any key, to end what was begun.
    """

    config: NetworkConfig
    chain: Chain
    reachability: Reachability
    verifier: Verifier
    settler: Settler | None
    watcher: Watcher | None


@dataclass(frozen=True, slots=True)
class Service:
    """The running service. `signers` are those that take new payments; `clock` is in unix
    milliseconds, `started_at` too.
    """

    config: Config
    store: Store
    jeju: jeju_dialect.Decoder
    x402: x402_dialect.Decoder
    networks: dict[str, Served]
    signers: tuple[bytes, ...]
    metrics: Metrics
    clock: Callable[[], int]
    started_at: int


def unix_ms() -> int:
    """The wall clock, unix milliseconds."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def run_service(config: Config, metrics: Metrics) -> AsyncIterator[Service]:
    """The service with its loops running. Raises StoreError, StartRefused."""
    async with AsyncExitStack() as stack:
        store = await SQLiteStore.open(config.database)
        stack.push_async_callback(store.close)
        connector = aiohttp.TCPConnector(limit=RPC_CONNECTIONS)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        signers = tuple(Signer(key.secret) for key in config.keys)
        retiring = frozenset(
            signer.address for signer, key in zip(signers, config.keys, strict=True) if key.retires
        )
        networks = {
            name: _serve(config, network, signers, retiring, store, session)
            for name, network in config.networks.items()
        }
        for served in networks.values():
            await _check_keys(store, served, signers)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        for served in networks.values():
            if served.watcher is not None:
                tasks.start_soon(served.watcher.run)
        yield Service(
            config=config,
            store=store,
            jeju=jeju_dialect.Decoder(
                config.networks, config.primary_network, config.max_payment_age
            ),
            x402=x402_dialect.Decoder(config.networks.values()),
            networks=networks,
            signers=tuple(each.address for each in signers if each.address not in retiring),
            metrics=metrics,
            clock=unix_ms,
            started_at=unix_ms(),
        )


def _serve(
    config: Config,
    network: NetworkConfig,
    signers: tuple[Signer, ...],
    retiring: frozenset[bytes],
    store: Store,
    session: aiohttp.ClientSession,
) -> Served:
    contract, chain_id = network.contract, network.network.chain_id
    rpc = RPC(network.rpc_urls, name=network.network.name, session=session)
    chain = Chain(rpc)
    reachability = Reachability(chain, chain_id, unix_ms)
    addresses = frozenset(signer.address for signer in signers)
    assets = tuple(token.address for token in network.tokens)
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
    allowed = eip3009.allowed_calls(assets, deployments=bool(config.allowed_factories))
    if contract is not None:
        allowed |= jeju.allowed_calls(contract)
    if not allowed or not signers:
        return Served(network, chain, reachability, verifier, settler=None, watcher=None)
    policy = Policy(confirmations=config.confirmations, max_fee_per_gas=config.max_fee_per_gas)
    pool = SignerPool(
        signers,
        retiring=retiring,
        builder=TransactionBuilder(chain_id, allowed),
        chain=chain,
        store=store,
        chain_id=chain_id,
        policy=policy,
        clock=unix_ms,
    )
    listeners = Listeners()
    watcher = Watcher(
        network=network.network.name,
        chain_id=chain_id,
        chain=chain,
        examiner=examiner,
        store=store,
        signers=pool,
        listeners=listeners,
        policy=policy,
        clock=unix_ms,
    )
    if len(retiring) == len(signers):
        return Served(network, chain, reachability, verifier, settler=None, watcher=watcher)
    settler = Settler(
        examiner=examiner,
        store=store,
        signers=pool,
        watcher=watcher,
        listeners=listeners,
        timeout=config.settle_timeout,
        clock=unix_ms,
    )
    return Served(network, chain, reachability, verifier, settler, watcher)


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
