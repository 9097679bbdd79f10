"""Values of command-line options: right or refused, and never repeated in the error."""

import argparse
from collections.abc import Callable

import pytest

from facilitator.commands.options import address, amount, line, url, whole_number

KEY = "0x" + "5e" * 32


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (address, "0x" + "ab" * 20, b"\xab" * 20),
        (address, "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", None),
        (amount, "0", 0),
        (amount, "1000000", 1_000_000),
        (amount, str(2**256 - 1), 2**256 - 1),
        (line, "/api/report?x=é", "/api/report?x=é"),
        (url, "https://pay.example/x402/", "https://pay.example/x402"),
        (url, "http://[::1]:3402", "http://[::1]:3402"),
        (whole_number(1, 9), "1", 1),
        (whole_number(1, 9), "9", 9),
    ],
)
def test_what_is_right_is_taken(
    parse: Callable[[str], object], text: str, value: object | None
) -> None:
    assert parse(text) == (bytes.fromhex(text[2:]) if value is None else value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((address, text) for text in ("", "0x", "0x00", "0x" + "00" * 20, "ab" * 20, KEY)),
        (address, "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed"),
        *((amount, text) for text in ("", "-1", "+1", " 1", "01", "1.5", "0x10", "1e6", "\u0661")),
        *((amount, text) for text in (str(2**256), "1" * 79, KEY)),
        *((line, text) for text in ("", "  ", "a\nb", "\x1b[31m", "x" * 101)),
        *((url, text) for text in ("", "pay.example", "ftp://x", "http://", "http://a b", KEY)),
        (url, "http://user:" + KEY + "@pay.example"),
        *((whole_number(1, 9), text) for text in ("", "0", "10", "-1", "1.0", "\u0663", KEY)),
    ],
)
def test_what_is_not_is_refused_without_being_repeated(
    parse: Callable[[str], object], text: str
) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        parse(text)
    assert str(refused.value)
    assert KEY not in str(refused.value)
