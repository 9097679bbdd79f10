"""JSON as a payment service must read it: one text, one meaning.

Parsers differ on duplicate keys, NaN, overflowing numbers, lone surrogates and encodings. Where two
programs read one body in two ways, a payment is checked as one thing and settled as another. So
whatever RFC 8259 calls unpredictable is refused here.
"""

import json
import math
import re
from typing import Never, TypeAlias

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None

MAX_DEPTH = 64  # a description of a resource in JSON Schema takes some ten levels
MAX_INTEGER_DIGITS = 100  # 2^256 has 78
QUOTED_IN_REASON = 40  # characters of a caller's key that a reason repeats

# A string is one token, so brackets inside it do not count. An unterminated one runs to the end of
# the text; the parser will refuse it.
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class StrictJSONError(ValueError):
    """The text is not JSON, or not JSON with a single meaning. Its text is a short reason."""


def decode(body: bytes) -> JSON:
    """Decode UTF-8 JSON (RFC 8259); raise StrictJSONError for everything that is ambiguous.

    Refused: a byte order mark, other encodings, duplicate keys, NaN and Infinity, numbers beyond a
    double, integers over MAX_INTEGER_DIGITS digits, nesting over MAX_DEPTH, lone surrogates.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise StrictJSONError("not UTF-8") from None
    if text.startswith("\ufeff"):
        raise StrictJSONError("byte order mark")
    check_depth(text)
    try:
        value: JSON = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise StrictJSONError(f"not JSON: {error.msg} at character {error.pos}") from None
    # Raw UTF-8 cannot hold a surrogate; only an escape can make one. "\\ud" also matches an escaped
    # backslash before "ud", which costs a needless check and nothing else.
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(value)
    return value


def check_depth(text: str) -> None:
    """Raise StrictJSONError where `text` nests deeper than MAX_DEPTH.

    It counts without recursion, so that a body of brackets cannot exhaust the stack. The parser in
    C relies on Python's recursion limit for that, which any library may raise.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _BRACKETS.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise StrictJSONError(f"nested deeper than {MAX_DEPTH}")
        elif first in "]}":
            depth -= 1


def _check_surrogates(value: JSON) -> None:
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise StrictJSONError("lone surrogate")
    elif isinstance(value, list):
        for item in value:
            _check_surrogates(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_surrogates(key)
            _check_surrogates(item)


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise StrictJSONError(f"duplicate key {key[:QUOTED_IN_REASON]!a}")
            seen.add(key)
    return members


def _integer(digits: str) -> int:
    if len(digits.removeprefix("-")) > MAX_INTEGER_DIGITS:
        raise StrictJSONError(f"integer of more than {MAX_INTEGER_DIGITS} digits")
    return int(digits)


def _double(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise StrictJSONError("number out of range")
    return number


def _constant(name: str) -> Never:
    raise StrictJSONError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_double,
    parse_constant=_constant,
)
