"""The file that FACILITATOR_CONFIG names: networks and their tokens, in TOML.

It is read as strictly as the environment: a member that is unknown, of another type or out of its
range stops the start with one line that names it and repeats no value. RPC URLs are as secret here
as there, and there is no member that takes a private key.
"""

import re
import tomllib
from collections.abc import Collection
from typing import Final, TypeVar

from msgspec import Struct, structs

from facilitator.config.networks import NETWORKS, Network, Token
from facilitator.config.parsers import (
    MAX_NAME_LENGTH,
    MAX_SYMBOL_LENGTH,
    ConfigError,
    distinct,
    distinct_tokens,
    parse_contract,
    parse_decimals,
    parse_public_url,
    parse_token,
    parse_url,
    parse_words,
)

VARIABLE: Final = "FACILITATOR_CONFIG"
FILE_LIMIT: Final = 2**20  # bytes
# As deep as a reorg is watched for.
MAX_CONFIRMATIONS: Final = 64
# Clients in JavaScript read a chain id as a number: beyond this one they would read another.
MAX_CHAIN_ID: Final = 2**53 - 1

_Kind = TypeVar("_Kind")

# A name becomes part of variables' names, and must not look like a CAIP-2 one (eip155:8453).
_NETWORK_NAME = re.compile(r"\A[a-z][a-z0-9-]{0,31}\Z")
# What may be quoted: a misspelt member, but nothing as long as a private key.
_MEMBER_NAME = re.compile(r"\A[A-Za-z][A-Za-z0-9_-]{0,31}\Z")
_POSITION = re.compile(r"\(at (line [0-9]+), column [0-9]+\)\Z")

_TOP = ("networks", "eip6492_allowed_factories")
_NETWORK = (
    *("chain_id", "title", "rpc_urls", "contract", "usdc", "usdc_name", "explorer"),
    *("native_symbol", "native_name", "native_decimals", "mainnet", "tokens", "confirmations"),
)
_TOKEN = ("address", "symbol", "decimals", "name", "version")


class NetworkEntry(Struct, frozen=True, kw_only=True):
    """One network as it is known, with what the file says of it. `rpc_urls` carry API keys: they
    never show in a repr.
    """

    network: Network
    rpc_urls: tuple[str, ...] = ()
    contract: bytes | None = None
    tokens: tuple[Token, ...] = ()  # without USDC
    confirmations: int | None = None

    def __repr__(self) -> str:
        return f"NetworkEntry({self.network.name}, {len(self.rpc_urls)} RPC endpoints)"


class ConfigFile(Struct, frozen=True, kw_only=True):
    """What the file says. `networks` are all that are known, those of the file last."""

    networks: dict[str, NetworkEntry]
    allowed_factories: tuple[bytes, ...] = ()  # EIP-6492


class _Table:
    """A table of the file; `prefix` and a member's name together say where in the file it stands.

    A method returns None for a member that is not there, and raises ConfigError for another type.
    """

    def __init__(self, prefix: str, content: object, known: Collection[str]) -> None:
        if not isinstance(content, dict):
            raise ConfigError(f"{prefix.removesuffix('.')} must be a table")
        for name in content:
            if name not in known:
                named = name if _MEMBER_NAME.match(name) else "a member"
                raise ConfigError(f"{prefix}{named} is not known; known: {', '.join(known)}")
        self.prefix = prefix
        self._content: dict[str, object] = content

    def content(self, name: str) -> object:
        return self._content.get(name)

    def text(self, name: str) -> str | None:
        return self._typed(name, str, "a string")

    def integer(self, name: str) -> int | None:
        return self._typed(name, int, "an integer")

    def boolean(self, name: str) -> bool | None:
        return self._typed(name, bool, "true or false")

    def contract(self, name: str) -> bytes | None:
        text = self.text(name)
        return None if text is None else parse_contract(f"{self.prefix}{name}", text)

    def public_url(self, name: str) -> str | None:
        text = self.text(name)
        return None if text is None else parse_public_url(f"{self.prefix}{name}", text)

    def words(self, name: str, limit: int) -> str | None:
        text = self.text(name)
        return None if text is None else parse_words(f"{self.prefix}{name}", text, limit)

    def decimals(self, name: str) -> int | None:
        value = self.integer(name)
        return None if value is None else parse_decimals(f"{self.prefix}{name}", value)

    def confirmations(self, name: str) -> int | None:
        value = self.integer(name)
        if value is not None and not 1 <= value <= MAX_CONFIRMATIONS:
            raise ConfigError(f"{self.prefix}{name} must be from 1 to {MAX_CONFIRMATIONS}")
        return value

    def elements(self, name: str) -> list[tuple[str, object]]:
        """The elements of an array, each with the place where it stands."""
        found = self._typed(name, list, "an array") or []
        return [(f"{self.prefix}{name}[{n}]", element) for n, element in enumerate(found)]

    def texts(self, name: str) -> list[tuple[str, str]]:
        """The elements of an array of strings, each with the place where it stands."""
        return [(where, _text(where, element)) for where, element in self.elements(name)]

    def needed_text(self, name: str) -> str:
        """A string that must be there."""
        return _text(f"{self.prefix}{name}", self._content.get(name))

    def _typed(self, name: str, kind: type[_Kind], described: str) -> _Kind | None:
        value = self._content.get(name)
        if value is None:
            return None
        # true is an int as well, to isinstance
        if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return value
        raise ConfigError(f"{self.prefix}{name} must be {described}")


def read_config_file(path: str | None) -> ConfigFile:
    """The file at `path`, or what holds without one. Raises ConfigError."""
    entries = {name: NetworkEntry(network=network) for name, network in NETWORKS.items()}
    if path is None:
        return ConfigFile(networks=entries)
    top = _Table(f"{VARIABLE}: ", _load(path), _TOP)
    networks = top.content("networks")
    if networks is not None:
        if not isinstance(networks, dict):
            raise ConfigError(f"{VARIABLE}: networks must be a table")
        for name, content in networks.items():
            entries[name] = _entry(name, content)
    _check_chain_ids(entries)
    factories = top.texts("eip6492_allowed_factories")
    return ConfigFile(
        networks=entries,
        allowed_factories=distinct(
            f"{VARIABLE}: eip6492_allowed_factories",
            "address",
            [parse_contract(where, text) for where, text in factories],
        ),
    )


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
    table = _Table(prefix, content, _NETWORK)
    rpc_urls = [parse_url(where, text) for where, text in table.texts("rpc_urls")]
    if not rpc_urls and table.content("rpc_urls") is not None:
        raise ConfigError(f"{prefix}rpc_urls must name one URL at least")
    tokens = [_token(f"{where}.", element) for where, element in table.elements("tokens")]
    return NetworkEntry(
        network=_network(name, table),
        rpc_urls=distinct(f"{prefix}rpc_urls", "URL", rpc_urls),
        contract=table.contract("contract"),
        tokens=distinct_tokens(f"{prefix}tokens", tokens),
        confirmations=table.confirmations("confirmations"),
    )


def _network(name: str, table: _Table) -> Network:
    """The network with what the file says of it; one that is known stays the chain that it is."""
    where, known = f"{table.prefix}chain_id", NETWORKS.get(name)
    chain_id = table.integer("chain_id")
    if known is not None:
        if chain_id not in (None, known.chain_id):
            raise ConfigError(f"{where} must be {known.chain_id}, which {name} has")
        if known.is_mainnet and table.boolean("mainnet") is False:
            raise ConfigError(f"{table.prefix}mainnet must be true, which {name} is")
        network = known
    elif chain_id is None or not 1 <= chain_id <= MAX_CHAIN_ID:
        raise ConfigError(f"{where} must be given, an integer from 1 to {MAX_CHAIN_ID}")
    else:
        network = Network(
            name=name,
            chain_id=chain_id,
            title=name,
            usdc=None,
            default_rpc_url=None,
            explorer=None,
        )
    changes = _changes(table)
    return structs.replace(
        network, **{field: value for field, value in changes.items() if value is not None}
    )


def _changes(table: _Table) -> dict[str, object]:
    """The fields of a Network that the file may set, None where it does not."""
    return {
        "title": table.words("title", MAX_NAME_LENGTH),
        "usdc": table.contract("usdc"),
        "usdc_domain_name": table.words("usdc_name", MAX_NAME_LENGTH),
        "explorer": table.public_url("explorer"),
        "native_symbol": table.words("native_symbol", MAX_SYMBOL_LENGTH),
        "native_name": table.words("native_name", MAX_NAME_LENGTH),
        "native_decimals": table.decimals("native_decimals"),
        "is_mainnet": table.boolean("mainnet"),
    }


def _token(prefix: str, content: object) -> Token:
    table = _Table(prefix, content, _TOKEN)
    return parse_token(
        prefix,
        address=table.needed_text("address"),
        symbol=table.needed_text("symbol"),
        decimals=table.integer("decimals"),
        name=table.needed_text("name"),
        version=table.needed_text("version"),
    )


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where} must be a string")
    return value


def _check_chain_ids(entries: dict[str, NetworkEntry]) -> None:
    """A payment names one chain: two networks of one chain id could not be told apart."""
    names: dict[int, str] = {}
    for name, entry in entries.items():
        other = names.setdefault(entry.network.chain_id, name)
        if other != name:
            raise ConfigError(f"{VARIABLE}: networks.{name}.chain_id is that of {other}")
