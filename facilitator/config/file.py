"""The file that FACILITATOR_CONFIG names: networks and their tokens, in TOML.

It is read as strictly as the environment: a member that is unknown, of the wrong type or out of its
range stops the start with one line that names it and repeats no value. RPC URLs are secret here as
well, and no member takes a private key.
"""

import re
import tomllib
from collections.abc import Callable
from typing import Final, TypeVar

from msgspec import Struct, ValidationError, convert, structs

from facilitator.config.networks import NETWORKS, Network, Token
from facilitator.config.parsers import (
    ConfigError,
    distinct,
    distinct_tokens,
    parse_contract,
    parse_decimals,
    parse_name,
    parse_public_url,
    parse_symbol,
    parse_token,
    parse_url,
)

VARIABLE: Final = "FACILITATOR_CONFIG"
FILE_LIMIT: Final = 2**20  # bytes
# Blocks, as deep as the reorg watch.
MAX_CONFIRMATIONS: Final = 64
# Clients in JavaScript read a chain id as a number, which is exact up to here.
MAX_CHAIN_ID: Final = 2**53 - 1

_Kind = TypeVar("_Kind")
_Written = TypeVar("_Written")
_Table = TypeVar("_Table", bound=Struct)

# It becomes part of variables' names, and must not look like a CAIP-2 name (eip155:8453).
_NETWORK_NAME = re.compile(r"\A[a-z][a-z0-9-]{0,31}\Z")
# What may be quoted: a misspelt member, but nothing as long as a private key.
_MEMBER_NAME = re.compile(r"\A[A-Za-z][A-Za-z0-9_-]{0,31}\Z")
_POSITION = re.compile(r"\(at (line [0-9]+), column [0-9]+\)\Z")

# TOML's words for the types that msgspec names.
_KINDS = {
    "str": "a string",
    "int": "an integer",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
}


class _Token(Struct, kw_only=True, forbid_unknown_fields=True):
    """A token as it is written in the file."""

    address: str
    symbol: str
    decimals: int | None = None
    name: str
    version: str


class _Network(Struct, kw_only=True, forbid_unknown_fields=True):
    """A network as it is written in the file; None stands for a member that is not there."""

    chain_id: int | None = None
    title: str | None = None
    rpc_urls: list[str] | None = None
    contract: str | None = None
    usdc: str | None = None
    usdc_name: str | None = None
    explorer: str | None = None
    native_symbol: str | None = None
    native_name: str | None = None
    native_decimals: int | None = None
    mainnet: bool | None = None
    tokens: list[_Token] = []
    confirmations: int | None = None


class _File(Struct, forbid_unknown_fields=True):
    """The file as it is written."""

    networks: dict[str, object] = {}
    eip6492_allowed_factories: list[str] = []


class NetworkEntry(Struct, frozen=True, kw_only=True):
    """One known network, with the file's settings for it. `rpc_urls` may hold API keys: they never
    show in a repr.
    """

    network: Network
    rpc_urls: tuple[str, ...] = ()
    contract: bytes | None = None
    tokens: tuple[Token, ...] = ()  # without USDC
    confirmations: int | None = None

    def __repr__(self) -> str:
        return f"NetworkEntry({self.network.name}, {len(self.rpc_urls)} RPC endpoints)"


class ConfigFile(Struct, frozen=True, kw_only=True):
    """The content of the file. `networks` are all known ones, those that the file adds last."""

    networks: dict[str, NetworkEntry]
    allowed_factories: tuple[bytes, ...] = ()  # EIP-6492


def read_config_file(path: str | None) -> ConfigFile:
    """Read the file at `path`; None stands for no file. Raises ConfigError."""
    entries = {name: NetworkEntry(network=network) for name, network in NETWORKS.items()}
    if path is None:
        return ConfigFile(networks=entries)
    file = _convert(f"{VARIABLE}: ", _load(path), _File)
    for name, content in file.networks.items():
        entries[name] = _entry(name, content)
    _check_chain_ids(entries)
    where = f"{VARIABLE}: eip6492_allowed_factories"
    return ConfigFile(
        networks=entries,
        allowed_factories=distinct(
            where,
            "address",
            [
                parse_contract(f"{where}[{n}]", text)
                for n, text in enumerate(file.eip6492_allowed_factories)
            ],
        ),
    )


def _convert(prefix: str, content: object, kind: type[_Table]) -> _Table:
    """Return a table of the file as `kind`. Raises ConfigError about `prefix` and the member that
    is unknown, missing or of another type; no value is repeated.
    """
    try:
        return convert(content, kind)
    except ValidationError as error:
        text = str(error)
    message, found, path = text.rpartition(" - at `$")
    path = path.strip(".`") if found else ""
    quoted = (message if found else text).partition("`")[2].rpartition("`")[0]
    if text.startswith("Expected"):
        expected = _KINDS[re.split("[ `]", quoted)[0]]
        raise ConfigError(f"{prefix}{path}".removesuffix(".") + f" must be {expected}")
    inside = f"{prefix}{path}." if path else prefix
    if text.startswith("Object missing"):  # only tokens have required members, all of them strings
        raise ConfigError(f"{inside}{quoted} must be a string")
    within: type[Struct] = _Token if path else kind
    known = [field.name for field in structs.fields(within)]
    named = quoted if _MEMBER_NAME.match(quoted) else "a member"
    raise ConfigError(f"{inside}{named} is not known; known: {', '.join(known)}")


def _load(path: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"{VARIABLE}: the file cannot be read ({error.strerror})") from None
    except ValueError:  # a path with a null character
        raise ConfigError(f"{VARIABLE} must name a file") from None
    if len(content) > FILE_LIMIT:
        raise ConfigError(f"{VARIABLE}: the file is larger than {FILE_LIMIT} bytes")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{VARIABLE}: the file is not UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{VARIABLE}: the file is nested too deeply") from None
    except ValueError as error:  # its text may quote the file, its position does not
        position = _POSITION.search(str(error))
        where = "" if position is None else f", {position[1]}"
        raise ConfigError(f"{VARIABLE}: the file is not TOML{where}") from None


def _entry(name: str, content: object) -> NetworkEntry:
    if not _NETWORK_NAME.match(name):
        raise ConfigError(
            f"{VARIABLE}: networks must have names of a-z, 0-9 and -, a letter first, of 32"
            " characters at most"
        )
    prefix = f"{VARIABLE}: networks.{name}."
    table = _convert(prefix, content, _Network)
    if table.rpc_urls == []:
        raise ConfigError(f"{prefix}rpc_urls must name one URL at least")
    rpc_urls = [
        parse_url(f"{prefix}rpc_urls[{n}]", text) for n, text in enumerate(table.rpc_urls or [])
    ]
    tokens = [
        parse_token(f"{prefix}tokens[{n}].", **structs.asdict(token))
        for n, token in enumerate(table.tokens)
    ]
    confirmations = table.confirmations
    if confirmations is not None and not 1 <= confirmations <= MAX_CONFIRMATIONS:
        raise ConfigError(f"{prefix}confirmations must be from 1 to {MAX_CONFIRMATIONS}")
    return NetworkEntry(
        network=_network(name, prefix, table),
        rpc_urls=distinct(f"{prefix}rpc_urls", "URL", rpc_urls),
        contract=_given(parse_contract, f"{prefix}contract", table.contract),
        tokens=distinct_tokens(f"{prefix}tokens", tokens),
        confirmations=confirmations,
    )


def _network(name: str, prefix: str, table: _Network) -> Network:
    """Return the network as the file describes it; a known one keeps its chain id. Raises
    ConfigError.
    """
    known, chain_id = NETWORKS.get(name), table.chain_id
    if known is not None:
        if chain_id not in (None, known.chain_id):
            raise ConfigError(f"{prefix}chain_id must be {known.chain_id}, which {name} has")
        if known.is_mainnet and table.mainnet is False:
            raise ConfigError(f"{prefix}mainnet must be true, which {name} is")
        network = known
    elif chain_id is None or not 1 <= chain_id <= MAX_CHAIN_ID:
        raise ConfigError(f"{prefix}chain_id must be given, an integer from 1 to {MAX_CHAIN_ID}")
    else:
        network = Network(name=name, chain_id=chain_id, title=name)
    changes = {
        "title": _given(parse_name, f"{prefix}title", table.title),
        "usdc": _given(parse_contract, f"{prefix}usdc", table.usdc),
        "usdc_domain_name": _given(parse_name, f"{prefix}usdc_name", table.usdc_name),
        "explorer": _given(parse_public_url, f"{prefix}explorer", table.explorer),
        "native_symbol": _given(parse_symbol, f"{prefix}native_symbol", table.native_symbol),
        "native_name": _given(parse_name, f"{prefix}native_name", table.native_name),
        "native_decimals": _given(
            parse_decimals, f"{prefix}native_decimals", table.native_decimals
        ),
        "is_mainnet": table.mainnet,
    }
    return structs.replace(
        network, **{field: value for field, value in changes.items() if value is not None}
    )


def _given(
    parse: Callable[[str, _Written], _Kind], name: str, value: _Written | None
) -> _Kind | None:
    """Parse a member; None stands for one that is not in the file."""
    return None if value is None else parse(name, value)


def _check_chain_ids(entries: dict[str, NetworkEntry]) -> None:
    """Raise ConfigError where two networks have one chain id: no payment could tell them apart."""
    names: dict[int, str] = {}
    for name, entry in entries.items():
        other = names.setdefault(entry.network.chain_id, name)
        if other != name:
            raise ConfigError(f"{VARIABLE}: networks.{name}.chain_id is that of {other}")
