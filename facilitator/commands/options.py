"""Values of command-line options, parsed as strictly as the environment.

No error repeats a value: somebody may have pasted a private key into the wrong option.
"""

import argparse
import re
from collections.abc import Callable
from typing import TypeVar

from facilitator.config.environment import ConfigError, Environment
from facilitator.config.parsers import parse_contract
from facilitator.ethereum.abi import MAX_UINT256

T = TypeVar("T")
_DECIMAL = re.compile(r"\A(0|[1-9][0-9]{0,77})\Z")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A parser of plain decimals from `least` to `most`, both inclusive."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}")
        return int(text)

    return parse


def amount(text: str) -> int:
    """Atomic units as the wire has them: a plain decimal below 2^256."""
    if not _DECIMAL.match(text) or int(text) > MAX_UINT256:
        raise argparse.ArgumentTypeError("expected a plain decimal number of atomic units")
    return int(text)


def address(text: str) -> bytes:
    """A 20-byte address other than zero, its checksum right where it has one (EIP-55)."""
    return _parse(lambda: parse_contract("", text))


def url(text: str) -> str:
    """An http(s) URL without credentials and without a slash at its end."""
    value = _parse(lambda: Environment({"": _something(text)}).url(""))
    assert value is not None
    return value.rstrip("/")


def line(text: str) -> str:
    """Printable text of at least one and at most 100 characters."""
    return _parse(lambda: Environment({"": _something(text)}).line("", default="", limit=100))


def _something(text: str) -> str:
    """A variable that is set to nothing counts as unset; an option does not."""
    if not text:
        raise ConfigError("is empty")
    return text


def _parse(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ConfigError as error:
        # the environment's words begin with the variable's name, which argparse says itself
        raise argparse.ArgumentTypeError(str(error).strip()) from None
