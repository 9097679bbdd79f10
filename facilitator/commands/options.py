"""Parsers of command-line options, as strict as those of the environment.

No error repeats a value: it may be a private key that was pasted into the wrong option.
"""

import argparse
import re
from collections.abc import Callable
from typing import TypeVar

from facilitator.config.environment import Environment
from facilitator.config.parsers import ConfigError, parse_contract, parse_public_url
from facilitator.ethereum.abi import MAX_UINT256

T = TypeVar("T")
_DECIMAL = re.compile(r"\A(0|[1-9][0-9]{0,77})\Z")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of plain decimals from `least` to `most`, both inclusive."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}")
        return int(text)

    return parse


def amount(text: str) -> int:
    """Parse an amount in atomic units: a plain decimal below 2^256."""
    if not _DECIMAL.match(text) or int(text) > MAX_UINT256:
        raise argparse.ArgumentTypeError("expected a plain decimal number of atomic units")
    return int(text)


def address(text: str) -> bytes:
    """Parse a 20-byte address other than zero, whose checksum must be right if it has one."""
    return _parse(lambda: parse_contract("", text))


def url(text: str) -> str:
    """Parse an http(s) URL without credentials; a slash at its end is removed."""
    return _parse(lambda: parse_public_url("", _something(text))).rstrip("/")


def line(text: str) -> str:
    """Parse printable text of 1 to 100 characters."""
    return _parse(lambda: Environment({"": _something(text)}).line("", default="", limit=100))


def _something(text: str) -> str:
    """Refuse an empty option; an empty variable would count as unset."""
    if not text:
        raise ConfigError("is empty")
    return text


def _parse(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ConfigError as error:
        # its text begins with the setting's name, which is empty here: argparse names the option
        raise argparse.ArgumentTypeError(str(error).strip()) from None
