"""The configuration: read once at the start from the environment and the file that it may name,
then passed as an argument. The environment overrides the file.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, Literal, cast

from msgspec import Struct

from facilitator.config.database import PostgreSQL
from facilitator.config.environment import Environment, Key
from facilitator.config.file import MAX_CONFIRMATIONS, NetworkEntry, read_config_file
from facilitator.config.file import VARIABLE as FILE_VARIABLE
from facilitator.config.networks import Network, Token
from facilitator.config.opentelemetry import Tracing, read_tracing
from facilitator.config.parsers import ConfigError
from facilitator.ethereum.addresses import ZERO_ADDRESS
from facilitator.ethereum.fees import GWEI

__all__ = ["Config", "ConfigError", "Key", "NetworkConfig", "Unserved", "load_config"]

Mode = Literal["production", "development"]

CONTRACT_VARIABLE: Final = "X402_FACILITATOR_ADDRESS"
# The contract refuses older payments (its own MAX_PAYMENT_AGE), so no setting may allow them.
CONTRACT_MAX_PAYMENT_AGE: Final = 300
# The contract's own limit (setProtocolFee).
MAX_PROTOCOL_FEE_BPS: Final = 1000


class NetworkConfig(Struct, frozen=True, kw_only=True):
    """How one network is served. `rpc_urls` may hold API keys, which no repr shows. `tokens` are
    those that payments may name, each address once; where `usdc` is known, it is the first of them.
    """

    network: Network
    rpc_urls: tuple[str, ...]
    contract: bytes | None
    usdc: Token | None
    tokens: tuple[Token, ...]
    explicit_rpc: bool
    confirmations: int  # 1: included in a block

    def __repr__(self) -> str:
        contract = None if self.contract is None else "0x" + self.contract.hex()
        return (
            f"NetworkConfig({self.network.name}, {len(self.rpc_urls)} RPC endpoints,"
            f" contract={contract})"
        )


class Unserved(Struct, frozen=True):
    """A known network that is not served, and the reason."""

    network: str
    reason: str


class Config(Struct, frozen=True, kw_only=True):
    """All settings of the service. Its repr is safe to log: no key, no RPC URL."""

    mode: Mode
    host: str
    port: int  # 0: any free port
    service_name: str
    public_url: str | None
    primary_network: str
    networks: dict[str, NetworkConfig]  # served ones, the primary among them
    unserved: tuple[Unserved, ...]
    keys: tuple[Key, ...]
    protocol_fee_bps: int  # reported where no contract can be asked
    fee_recipient: bytes | None
    max_payment_age: int  # seconds
    min_payment_amount: int  # atomic units
    allowed_factories: tuple[bytes, ...]  # EIP-6492
    database: Path | PostgreSQL
    retention_days: int | None  # of finished settlements; None: they are kept for ever
    settle_timeout: int  # seconds that a /settle request waits for its outcome
    settle_batch_max: int  # payments a transaction; 1: each has its own
    max_fee_per_gas: int  # wei, of every attempt
    max_gas_spend_per_day: int | None  # wei a signer and UTC day on each network; None: no limit
    log_format: Literal["text", "json"]
    log_level: str
    tracing: Tracing | None  # None: no spans
    trace_hosts: tuple[str, ...]  # of RPC endpoints that get a traceparent header
    metrics: bool  # off: nothing is measured
    metrics_port: int | None  # None: /metrics is on `port`; 0: any free port
    ready_requires_rpc: bool

    @property
    def primary(self) -> NetworkConfig:
        return self.networks[self.primary_network]

    def served(self, name: str) -> NetworkConfig:
        """Return how a network is served. Raises ConfigError where it is not."""
        if name not in self.networks:
            raise ConfigError(f"{name} is not served with these settings")
        return self.networks[name]

    @property
    def url(self) -> str:
        """The URL under which clients find the service."""
        return self.public_url or f"http://localhost:{self.port}"

    @property
    def is_production(self) -> bool:
        return self.mode == "production"

    @property
    def missing(self) -> tuple[str, ...]:
        """What is missing to settle on the primary network, in words for an operator."""
        found = []
        if not any(not key.retires for key in self.keys):
            found.append("no signing key (FACILITATOR_PRIVATE_KEY)")
        if self.primary.contract is None:
            found.append(f"no contract on {self.primary_network} ({CONTRACT_VARIABLE})")
        return tuple(found)


def load_config(environ: Mapping[str, str]) -> Config:
    """Read the configuration that `environ` describes, and the files that it names.

    Raises ConfigError, one line without any value, for the first setting that is wrong.
    """
    env = Environment(environ)
    # Test runners set NODE_ENV to "test"; it never means real money.
    stage = env.choice(
        "FACILITATOR_ENV",
        "NODE_ENV",
        default="development",
        options=("development", "production", "test"),
    )
    mode: Mode = "production" if stage == "production" else "development"
    file = read_config_file(env.text(FILE_VARIABLE)[1])
    primary = env.choice("X402_PRIMARY_NETWORK", default="jeju", options=tuple(file.networks))
    _check_contract_variables(environ, [entry.network for entry in file.networks.values()])
    networks, unserved = _networks(env, file.networks, mode, primary)
    log_format = env.choice(
        "LOG_FORMAT",
        default="json" if mode == "production" else "text",
        options=("text", "json"),
    )
    return Config(
        mode=mode,
        host=env.host("HOST", default="0.0.0.0"),  # noqa: S104 - a container's port is published
        port=env.integer("FACILITATOR_PORT", "PORT", default=3402, low=0, high=65_535),
        service_name=env.line("SERVICE_NAME", default="Jeju x402 Facilitator", limit=100),
        public_url=env.url("FACILITATOR_URL"),
        primary_network=primary,
        networks=networks,
        unserved=unserved,
        keys=env.keys("FACILITATOR_PRIVATE_KEY", "FACILITATOR_PRIVATE_KEY_FILE"),
        protocol_fee_bps=env.integer(
            "PROTOCOL_FEE_BPS", default=50, low=0, high=MAX_PROTOCOL_FEE_BPS
        ),
        fee_recipient=_known(env.address("FEE_RECIPIENT_ADDRESS")),
        max_payment_age=env.integer(
            "MAX_PAYMENT_AGE",
            default=CONTRACT_MAX_PAYMENT_AGE,
            low=1,
            high=CONTRACT_MAX_PAYMENT_AGE,
        ),
        # One unit at least: the contract refuses a payment of nothing.
        min_payment_amount=env.integer("MIN_PAYMENT_AMOUNT", default=1, low=1, high=2**256 - 1),
        allowed_factories=env.addresses("EIP6492_ALLOWED_FACTORIES") or file.allowed_factories,
        database=env.database("DATABASE_URL", default="sqlite:///facilitator.db"),
        retention_days=env.integer("RETENTION_DAYS", default=None, low=1, high=3650),
        settle_timeout=env.integer("SETTLE_TIMEOUT_SECONDS", default=45, low=1, high=600),
        settle_batch_max=env.integer("SETTLE_BATCH_MAX", default=32, low=1, high=128),
        max_fee_per_gas=GWEI
        * env.integer("MAX_FEE_PER_GAS_GWEI", default=500, low=1, high=1_000_000),
        # Not 0: with a budget of nothing nothing would settle.
        max_gas_spend_per_day=env.integer(
            "MAX_GAS_SPEND_PER_DAY", default=None, low=1, high=2**256 - 1
        ),
        log_format=cast(Literal["text", "json"], log_format),
        log_level=env.choice(
            "LOG_LEVEL",
            default="INFO",
            options=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        ),
        tracing=read_tracing(env),
        trace_hosts=env.hosts("TRACE_PROPAGATE_HOSTS"),
        metrics=env.choice("METRICS", default="on", options=("on", "off")) == "on",
        metrics_port=env.integer("METRICS_PORT", default=None, low=0, high=65_535),
        ready_requires_rpc=env.choice(
            "READY_REQUIRES_RPC", default="false", options=("false", "true")
        )
        == "true",
    )


def _check_contract_variables(environ: Mapping[str, str], networks: Collection[Network]) -> None:
    """Raise ConfigError for a misspelt network, whose contract would silently go unused."""
    known = {f"{CONTRACT_VARIABLE}_{network.variable}" for network in networks}
    for name in sorted(environ):
        if name.startswith(f"{CONTRACT_VARIABLE}_") and name not in known:
            raise ConfigError(f"{name} names no known network; known: {', '.join(sorted(known))}")


def _networks(
    env: Environment, entries: Mapping[str, NetworkEntry], mode: Mode, primary: str
) -> tuple[dict[str, NetworkConfig], tuple[Unserved, ...]]:
    """Return the networks that are served, and those that are not. In production only those with
    configured endpoints are served. Raises ConfigError where the primary network is not.
    """
    served: dict[str, NetworkConfig] = {}
    unserved: list[Unserved] = []
    for name, entry in entries.items():
        network = entry.network
        rpc_variable = f"{network.variable}_RPC_URL"
        chosen = env.urls(rpc_variable) or entry.rpc_urls
        address = _known(env.address(f"{network.variable}_USDC_ADDRESS") or network.usdc)
        usdc = None if address is None else network.usdc_at(address)
        contract = _contract(env, entry, is_primary=name == primary)
        tokens = _tokens(env, entry, usdc)
        rpc_urls = chosen or _default_rpc_urls(network, mode)
        if not rpc_urls:
            if name == primary:
                raise ConfigError(
                    f"{rpc_variable} must be set{' in production' if mode == 'production' else ''}:"
                    f" {name} is the primary network (X402_PRIMARY_NETWORK)"
                )
            unserved.append(Unserved(name, f"{rpc_variable} is not set"))
            continue
        served[name] = NetworkConfig(
            network=network,
            rpc_urls=rpc_urls,
            contract=contract,
            usdc=usdc,
            tokens=tokens,
            explicit_rpc=bool(chosen),
            confirmations=_confirmations(env, entry),
        )
    return served, tuple(unserved)


def _confirmations(env: Environment, entry: NetworkEntry) -> int:
    """Return how many blocks deep a payment must be before it counts. A setting for one network
    overrides one for all, in the environment and in the file alike.
    """
    general = env.integer("CONFIRMATIONS", default=1, low=1, high=MAX_CONFIRMATIONS)
    variable = f"{entry.network.variable}_CONFIRMATIONS"
    default = entry.confirmations or general
    return env.integer(variable, default=default, low=1, high=MAX_CONFIRMATIONS)


def _default_rpc_urls(network: Network, mode: Mode) -> tuple[str, ...]:
    """Return the default endpoint; in production there is none, since an operator must choose."""
    url = network.default_rpc_url
    return () if url is None or mode == "production" else (url,)


def _contract(env: Environment, entry: NetworkEntry, *, is_primary: bool) -> bytes | None:
    """Return the contract's address on a network. The variable without a network's name is the
    primary one's.
    """
    network = entry.network
    variable = f"{CONTRACT_VARIABLE}_{network.variable}"
    read = {env.address(variable), env.address(CONTRACT_VARIABLE) if is_primary else None}
    found = read - {None, ZERO_ADDRESS}
    if len(found) > 1:
        raise ConfigError(
            f"{CONTRACT_VARIABLE} and {variable} differ: {network.name} is the primary network,"
            " set one of them"
        )
    if found:
        return found.pop()
    return None if ZERO_ADDRESS in read else entry.contract


def _known(address: bytes | None) -> bytes | None:
    """Return None for the zero address, which means that there is none."""
    return None if address == ZERO_ADDRESS else address


def _tokens(env: Environment, entry: NetworkEntry, usdc: Token | None) -> tuple[Token, ...]:
    """Return the network's tokens: USDC first, then the configured ones."""
    source = f"{entry.network.variable}_TOKENS"
    others = env.tokens(source)
    if not others:
        source, others = f"{FILE_VARIABLE}: networks.{entry.network.name}.tokens", entry.tokens
    if usdc is None:
        return others
    if any(token.address == usdc.address for token in others):
        raise ConfigError(f"{source} must not name the network's USDC, which is there without it")
    return (usdc, *others)
