"""The kinds of value that the configuration is made of, wherever they stand.

Every parser raises ConfigError, about the `name` it is given: a variable, or a member of the file.
"""

import re
from collections.abc import Iterable
from typing import TypeVar
from urllib.parse import urlsplit

from facilitator.config.networks import Token
from facilitator.ethereum.addresses import ZERO_ADDRESS, parse_address

MAX_TOKENS = 100  # of a network; `check` asks the chain about each one
MAX_DECIMALS = 255  # ERC-20's decimals() is a uint8
MAX_SYMBOL_LENGTH = 32  # characters
MAX_NAME_LENGTH = 100  # characters

_Value = TypeVar("_Value", bytes, str)

# urlsplit drops tabs and line breaks without a word: only what can be seen may pass
_VISIBLE = re.compile(r"\A[\x21-\x7e]+\Z")


class ConfigError(ValueError):
    """One line that names the variable and says what it must be, without its value."""


def parse_contract(name: str, text: str) -> bytes:
    """The address of a contract, other than zero."""
    try:
        address = parse_address(text)
    except ValueError:
        raise ConfigError(
            f"{name} must be an address, 0x and 40 hex digits with the right checksum if any"
        ) from None
    if address == ZERO_ADDRESS:
        raise ConfigError(f"{name} must not be the zero address")
    return address


def parse_url(name: str, text: str) -> str:
    """An http(s) URL as it stands."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port out of range, an IPv6 address left open
        usable = False
    if usable and _VISIBLE.match(text):
        return text
    raise ConfigError(f"{name} must be an http:// or https:// URL with a host")


def parse_public_url(name: str, text: str) -> str:
    """An http(s) URL that is shown to everybody: credentials have no place in it."""
    if "@" in urlsplit(parse_url(name, text)).netloc:
        raise ConfigError(f"{name} must not contain credentials")
    return text


def parse_name(name: str, text: str) -> str:
    """A name that people read, of MAX_NAME_LENGTH characters at most."""
    return _printable(name, text, MAX_NAME_LENGTH)


def parse_symbol(name: str, text: str) -> str:
    """A symbol or a version, of MAX_SYMBOL_LENGTH characters at most."""
    return _printable(name, text, MAX_SYMBOL_LENGTH)


def _printable(name: str, text: str, limit: int) -> str:
    if text and text.isprintable() and text == text.strip() and len(text) <= limit:
        return text
    raise ConfigError(
        f"{name} must be printable text of 1 to {limit} characters, without a blank at either end"
    )


def parse_decimals(name: str, value: int | None) -> int:
    """The decimals of a token or currency; None stands for what is no integer."""
    if value is not None and 0 <= value <= MAX_DECIMALS:
        return value
    raise ConfigError(f"{name} must be an integer from 0 to {MAX_DECIMALS}")


def parse_token(
    prefix: str, *, address: str, symbol: str, decimals: int | None, name: str, version: str
) -> Token:
    """A token from its members; an error is about `prefix` and the member's name."""
    return Token(
        parse_contract(f"{prefix}address", address),
        parse_symbol(f"{prefix}symbol", symbol),
        parse_decimals(f"{prefix}decimals", decimals),
        parse_name(f"{prefix}name", name),
        parse_symbol(f"{prefix}version", version),
    )


def distinct(name: str, kind: str, values: Iterable[_Value]) -> tuple[_Value, ...]:
    """The values, none of which may stand there twice."""
    found = tuple(values)
    if len(set(found)) < len(found):
        raise ConfigError(f"{name} names the same {kind} twice")
    return found


def distinct_tokens(name: str, tokens: Iterable[Token]) -> tuple[Token, ...]:
    """The tokens: MAX_TOKENS at most, and no two with one address."""
    found = tuple(tokens)
    if len(found) > MAX_TOKENS:
        raise ConfigError(f"{name} must name {MAX_TOKENS} tokens at most")
    distinct(name, "address", [token.address for token in found])
    return found
