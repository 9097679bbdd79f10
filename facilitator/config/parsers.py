"""Parsers of single values, for the environment and the file alike.

Each raises ConfigError about the `name` that it is given: a variable or a member.
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

# urlsplit silently drops tabs and line breaks, so nothing but visible characters is accepted
_VISIBLE = re.compile(r"\A[\x21-\x7e]+\Z")


class ConfigError(ValueError):
    """A setting is wrong. The text is one line that names it and what it must be, not its value."""


def parse_contract(name: str, text: str) -> bytes:
    """Parse a contract's address, which is not zero."""
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
    """Check an http(s) URL and return it unchanged."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port out of range, an IPv6 address left open
        usable = False
    if usable and _VISIBLE.match(text):
        return text
    raise ConfigError(f"{name} must be an http:// or https:// URL with a host")


def parse_public_url(name: str, text: str) -> str:
    """Check an http(s) URL that is shown to everybody, so without credentials; return it."""
    if "@" in urlsplit(parse_url(name, text)).netloc:
        raise ConfigError(f"{name} must not contain credentials")
    return text


def parse_name(name: str, text: str) -> str:
    """Check a name that people read, of MAX_NAME_LENGTH characters at most."""
    return _printable(name, text, MAX_NAME_LENGTH)


def parse_symbol(name: str, text: str) -> str:
    """Check a symbol or a version, of MAX_SYMBOL_LENGTH characters at most."""
    return _printable(name, text, MAX_SYMBOL_LENGTH)


def _printable(name: str, text: str, limit: int) -> str:
    if text and text.isprintable() and text == text.strip() and len(text) <= limit:
        return text
    raise ConfigError(
        f"{name} must be printable text of 1 to {limit} characters, without a blank at either end"
    )


def parse_decimals(name: str, value: int | None) -> int:
    """Check the decimals of a token or currency; None stands for a value that is no integer."""
    if value is not None and 0 <= value <= MAX_DECIMALS:
        return value
    raise ConfigError(f"{name} must be an integer from 0 to {MAX_DECIMALS}")


def parse_token(
    prefix: str, *, address: str, symbol: str, decimals: int | None, name: str, version: str
) -> Token:
    """Build a token from its members; errors name `prefix` and the member."""
    return Token(
        parse_contract(f"{prefix}address", address),
        parse_symbol(f"{prefix}symbol", symbol),
        parse_decimals(f"{prefix}decimals", decimals),
        parse_name(f"{prefix}name", name),
        parse_symbol(f"{prefix}version", version),
    )


def distinct(name: str, kind: str, values: Iterable[_Value]) -> tuple[_Value, ...]:
    """Return the values as a tuple; none may be repeated."""
    found = tuple(values)
    if len(set(found)) < len(found):
        raise ConfigError(f"{name} names the same {kind} twice")
    return found


def distinct_tokens(name: str, tokens: Iterable[Token]) -> tuple[Token, ...]:
    """Return the tokens: MAX_TOKENS at most, no two with one address."""
    found = tuple(tokens)
    if len(found) > MAX_TOKENS:
        raise ConfigError(f"{name} must name {MAX_TOKENS} tokens at most")
    distinct(name, "address", [token.address for token in found])
    return found
