"""Environment variables, parsed strictly.

A wrong value stops the start; it never falls back to the default. An empty variable counts as
unset, because templates leave empty ones behind, except for those in NEVER_EMPTY. No error repeats
a value: it may be a key that was put into the wrong variable.
"""

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from facilitator.config.database import (
    PostgreSQL,
    parse_postgresql,
    parse_sqlite,
    read_password_file,
)
from facilitator.config.networks import Token
from facilitator.config.parsers import (
    ConfigError,
    distinct,
    distinct_tokens,
    parse_contract,
    parse_public_url,
    parse_token,
    parse_url,
)
from facilitator.ethereum.addresses import ZERO_ADDRESS
from facilitator.ethereum.secp256k1 import ORDER

# The empty string is a mistake here: the default would mean development, a journal beside the one
# that all replicas share, fewer networks than configured, no limit on gas, or public metrics.
NEVER_EMPTY = frozenset(
    {
        *("FACILITATOR_ENV", "NODE_ENV", "FACILITATOR_CONFIG", "DATABASE_URL"),
        *("MAX_GAS_SPEND_PER_DAY", "METRICS_PORT"),
    }
)
KEY_FILE_LIMIT = 65_536  # bytes; a thousand keys are 66 kB

_Default = TypeVar("_Default", int, None)

_NO_ADDRESS = "0x" + "0" * 40
_INTEGER = re.compile(r"\A(0|[1-9][0-9]{0,77})\Z")
_KEY = re.compile(r"\A(0x)?([0-9a-fA-F]{64})\Z")
_HOST_NAME = re.compile(r"\A[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")


class Key(Struct, frozen=True):
    """A private key of 32 bytes. A key that retires signs for no new payments, and for the
    transactions that it has pending until they end.
    """

    secret: bytes
    retires: bool = False

    def __repr__(self) -> str:
        return f"Key(<hidden>, retires={self.retires})"


class Environment:
    """Reads variables from `environ`, one method for each kind of value. Given several names, a
    method reads the first that is set. All raise ConfigError.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, *names: str) -> tuple[str, str | None]:
        """Return (name, value) of the first variable that is set, else (the first name, None)."""
        for name in names:
            value = self._environ.get(name)
            if value == "" and name not in NEVER_EMPTY:
                continue
            if value is not None:
                if not value.strip():
                    raise ConfigError(f"{name} is set but empty: give it a value or unset it")
                return name, value
        return names[0], None

    def integer(self, *names: str, default: _Default, low: int, high: int) -> int | _Default:
        """Return a plain decimal from `low` to `high` inclusive, without sign or leading zero."""
        name, value = self.text(*names)
        if value is None:
            return default
        if _INTEGER.match(value) and low <= int(value) <= high:
            return int(value)
        limit = str(high) if high < 2**64 else f"2^{high.bit_length()}-1"
        raise ConfigError(f"{name} must be a plain integer from {low} to {limit}")

    def choice(self, *names: str, default: str, options: Collection[str]) -> str:
        """Return one of `options`, exactly as written there."""
        name, value = self.text(*names)
        if value is None:
            return default
        if value in options:
            return value
        raise ConfigError(f"{name} must be one of {', '.join(options)}")

    def line(self, name: str, *, default: str, limit: int) -> str:
        """Return printable text of at most `limit` characters."""
        value = self.text(name)[1]
        if value is None:
            return default
        if value.isprintable() and len(value) <= limit:
            return value
        raise ConfigError(f"{name} must be printable text of at most {limit} characters")

    def host(self, name: str, *, default: str) -> str:
        """Return an IP address or a host name to listen on."""
        value = self.text(name)[1]
        if value is None:
            return default
        host = _host(value)
        if host is None:
            raise ConfigError(f"{name} must be an IP address or a host name")
        return host

    def hosts(self, name: str) -> tuple[str, ...]:
        """Return host names and IP addresses, in lower case; separated by commas, each once."""
        items = [_host(item) for item in _items(name, self.text(name)[1])]
        found = [item.lower() for item in items if item is not None]
        if len(found) < len(items):
            raise ConfigError(f"{name} must hold IP addresses and host names, without ports")
        return distinct(name, "host", found)

    def address(self, name: str) -> bytes | None:
        """Return the 20 bytes of an address, whose checksum must be right if it has one (EIP-55).
        A zero address is how an operator says that there is none.
        """
        value = self.text(name)[1]
        if value is None:
            return None
        return ZERO_ADDRESS if value == _NO_ADDRESS else parse_contract(name, value)

    def addresses(self, name: str) -> tuple[bytes, ...]:
        """Return addresses; separated by commas, each once."""
        items = _items(name, self.text(name)[1])
        return distinct(name, "address", [parse_contract(name, item) for item in items])

    def tokens(self, name: str) -> tuple[Token, ...]:
        """Return tokens, `address|symbol|decimals|name|version`; separated by commas, each once."""
        items = _items(name, self.text(name)[1])
        return distinct_tokens(
            name, [_token(f"{name}, token {n}: ", item) for n, item in enumerate(items, start=1)]
        )

    def url(self, name: str) -> str | None:
        """Return an http(s) URL without credentials, which may be shown to everybody."""
        value = self.text(name)[1]
        return None if value is None else parse_public_url(name, value)

    def urls(self, name: str) -> tuple[str, ...]:
        """Return http(s) URLs, the preferred one first; separated by commas.

        No URL may be repeated: answers of one endpoint are checked with another, and an endpoint
        that is named twice would confirm itself.
        """
        items = _items(name, self.text(name)[1])
        return distinct(name, "URL", [parse_url(name, item) for item in items])

    def database(self, name: str, *, default: str) -> Path | PostgreSQL:
        """Return the journal's place: a SQLite file, or a database of a PostgreSQL server."""
        value = self.text(name)[1] or default
        pool_size = self.integer("DATABASE_POOL_SIZE", default=10, low=2, high=1_000)
        cache = self.integer("DATABASE_STATEMENT_CACHE", default=100, low=0, high=10_000)
        file = self.text("DATABASE_PASSWORD_FILE")[1]
        password_file = None if file is None else Path(file)
        direct_name, direct = self.text("DATABASE_LISTEN_URL")
        if not value.startswith("postgresql://"):
            if direct is not None:
                raise ConfigError(f"{direct_name} is set, and {name} names no PostgreSQL database")
            return parse_sqlite(name, value)
        if password_file is not None:
            read_password_file(password_file)
        parse = partial(
            parse_postgresql,
            password_file=password_file,
            pool_size=pool_size,
            statement_cache=cache,
        )
        found = parse(name, value)
        return found if direct is None else replace(found, direct=parse(direct_name, direct))

    def keys(self, name: str, file_name: str) -> tuple[Key, ...]:
        """Return private keys: `name` holds them separated by commas, or `file_name` names a file.

        The file has one key per line. Blank lines and those that start with # are skipped; the word
        `retire` after a key marks it as retiring.
        """
        listed = self.text(name)[1]
        file = self.text(file_name)[1]
        if listed is not None and file is not None:
            raise ConfigError(f"{name} and {file_name} are both set: use one of them")
        if listed is not None:
            found = tuple(Key(_secret(name, item)) for item in _items(name, listed))
        elif file is not None:
            name, found = file_name, tuple(_keys_of_file(file_name, file))
        else:
            return ()
        if len({key.secret for key in found}) < len(found):
            raise ConfigError(f"{name} holds the same key twice")
        return found


def _host(value: str) -> str | None:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return value if _HOST_NAME.match(value) else None


def _items(name: str, value: str | None) -> list[str]:
    if value is None:
        return []
    items = [item.strip() for item in value.split(",")]
    if "" in items:
        raise ConfigError(f"{name} has an empty item between its commas")
    return items


def _token(prefix: str, item: str) -> Token:
    match item.split("|"):
        case [address, symbol, decimals, name, version]:
            return parse_token(
                prefix,
                address=address,
                symbol=symbol,
                decimals=int(decimals) if _INTEGER.match(decimals) else None,
                name=name,
                version=version,
            )
    raise ConfigError(f"{prefix}must be address|symbol|decimals|name|version")


def _secret(name: str, text: str) -> bytes:
    match = _KEY.match(text)
    if match is None or not 0 < int(match[2], 16) < ORDER:
        raise ConfigError(f"{name} must hold private keys of 32 bytes in hex, in the curve's range")
    return bytes.fromhex(match[2])


def _keys_of_file(name: str, path: str) -> Iterator[Key]:
    try:
        with open(path, "rb") as file:
            content = file.read(KEY_FILE_LIMIT + 1)
        lines = content.decode("ascii").splitlines()
    except OSError as error:
        raise ConfigError(f"{name}: the file cannot be read ({error.strerror})") from None
    except ValueError:  # not ASCII, or a path with a null character
        raise ConfigError(f"{name} must name a text file of private keys") from None
    if len(content) > KEY_FILE_LIMIT:
        raise ConfigError(f"{name}: the file is larger than {KEY_FILE_LIMIT} bytes")
    empty = True
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        empty = False
        if words[1:] not in ([], ["retire"]):
            raise ConfigError(f"{name}, line {number}: only `retire` may follow a key")
        yield Key(_secret(f"{name}, line {number},", words[0]), retires=len(words) == 2)
    if empty:
        raise ConfigError(f"{name}: the file holds no key")
