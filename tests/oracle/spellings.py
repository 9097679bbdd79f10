"""Values and the ways to write them: what a member cannot be, integers, hex, signatures."""

from collections.abc import Callable, Mapping
from typing import Final

from tests.oracle.market import ABSENT
from tests.support.x402 import MAGIC_6492, compact, high_s

FULL_WIDTH: Final = {ord("0") + digit: ord("\uff10") + digit for digit in range(10)}
ARABIC: Final = {ord("0") + digit: ord("\u0660") + digit for digit in range(10)}
OUT_OF_TYPE: Final[Mapping[str, object]] = {
    "absent": ABSENT,
    "null": None,
    '""': "",
    '"x"': "x",
    "0": 0,
    "-1": -1,
    "1.5": 1.5,
    "true": True,
    "[]": [],
    "{}": {},
}
# An integer as other software would write it, or read it.
SPELLINGS: Final[Mapping[str, Callable[[int], object]]] = {
    "a JSON number": lambda number: number,
    "a JSON float": float,
    "with spaces": lambda number: f" {number} ",
    "with a newline": lambda number: f"{number}\n",
    "with a plus": lambda number: f"+{number}",
    "with a minus": lambda number: f"-{number}",
    "with leading zeros": lambda number: f"00{number}",
    "in hex": hex,
    "in full-width digits": lambda number: f"{number}".translate(FULL_WIDTH),
    "in Arabic digits": lambda number: f"{number}".translate(ARABIC),
    "with an underscore": lambda number: f"{number:_}",
    "with a comma": lambda number: f"{number:,}",
    "as a decimal": lambda number: f"{number}.0",
    "as a power": lambda number: f"{number}e0",
    "past 256 bits": lambda number: str(number + 2**256),
}
HEX_SPELLINGS: Final[Mapping[str, Callable[[str], str]]] = {
    "in lower case": str.lower,
    "in capitals": lambda text: "0x" + text[2:].upper(),
    "with 0X": lambda text: "0X" + text[2:],
    "without 0x": lambda text: text[2:],
    "with a space": lambda text: text + " ",
    "a byte short": lambda text: text[:-2],
    "a digit short": lambda text: text[:-1],
    "a byte long": lambda text: text + "00",
    "not hex": lambda text: text[:-1] + "g",
    "zero": lambda text: "0x" + "00" * (len(text) // 2 - 1),
}
SIGNATURES: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "a bit of r": lambda made: bytes([made[0] ^ 1]) + made[1:],
    "a bit of s": lambda made: made[:63] + bytes([made[63] ^ 1]) + made[64:],
    "the other v": lambda made: made[:64] + bytes([55 - made[64]]),
    "v of 2": lambda made: made[:64] + b"\x02",
    "v of 29": lambda made: made[:64] + b"\x1d",
    "v of 255": lambda made: made[:64] + b"\xff",
    "high s": high_s,
    "64 bytes": compact,
    "66 bytes": lambda made: made + b"\x00",
    "no bytes": lambda made: b"",
    "one byte": lambda made: made[:1],
    "zeros": lambda made: bytes(65),
    "the mark of a wallet's, and nothing before it": lambda made: MAGIC_6492,
}
