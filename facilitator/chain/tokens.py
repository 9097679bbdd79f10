"""What amounts of a token are written in: its symbol and decimals, as the token itself says.

Only words hang on it, never money: amounts are counted in atomic units everywhere else. So a token
that says nothing, or nonsense, is simply not known.
"""

import anyio

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.config.networks import Unit
from facilitator.ethereum.abi import WORD, selector
from facilitator.ethereum.transactions import Call

KNOWN_LIMIT = 256  # tokens that are remembered
# Seconds that the first reply about a token waits for what the token says of itself.
READ_TIMEOUT = 0.25
UNKNOWN_FOR = 60.0  # seconds after which a token that could not be read is asked again
SYMBOL_LIMIT = 32  # characters
MAX_DECIMALS = 255  # of a uint8

_SYMBOL = selector("symbol()")
_DECIMALS = selector("decimals()")


class Tokens:
    """The units of one network's tokens. `known` need not be asked for and are never forgotten."""

    def __init__(self, chain: Chain, known: dict[bytes, Unit]) -> None:
        self._chain = chain
        self._known = known
        # With the event loop's time until which it counts; the least recently used first.
        self._read: dict[bytes, tuple[float, Unit | None]] = {}
        self._lock = anyio.Lock()

    def recall(self, asset: bytes) -> Unit | None:
        """The unit, if it was known or read before."""
        return self._known.get(asset) or self._remembered(asset)[1]

    async def unit(self, asset: bytes) -> Unit | None:
        """The unit of a token, asked of the token once; None where it does not tell in time.

        For tokens that the contract takes: others could be anybody's, and each costs a question.
        """
        if asset not in self._known:
            with anyio.move_on_after(READ_TIMEOUT):
                async with self._lock:
                    until, _ = self._remembered(asset)
                    if until <= anyio.current_time():
                        # Stands if the answer fails or comes too late.
                        self._remember(asset, anyio.current_time() + UNKNOWN_FOR, None)
                        found = await self._ask(asset)
                        if found is not None:
                            self._remember(asset, float("inf"), found)
        return self.recall(asset)

    async def _ask(self, asset: bytes) -> Unit | None:
        try:
            answers = await self._chain.read((Call(asset, _SYMBOL), Call(asset, _DECIMALS)))
        except ChainUnavailable:
            return None
        symbol, decimals = read_symbol(answers[0]), read_decimals(answers[1])
        return None if symbol is None or decimals is None else Unit(symbol, decimals)

    def _remembered(self, asset: bytes) -> tuple[float, Unit | None]:
        found = self._read.pop(asset, None)
        if found is None:
            return float("-inf"), None
        self._read[asset] = found
        return found

    def _remember(self, asset: bytes, until: float, unit: Unit | None) -> None:
        self._read.pop(asset, None)
        if len(self._read) >= KNOWN_LIMIT:
            del self._read[next(iter(self._read))]
        self._read[asset] = (until, unit)


def read_symbol(answer: bytes) -> str | None:
    """The answer of `symbol()`: a string, or bytes32 as tokens of the time before ERC-20 was final
    have it. None unless it is 1 to 32 printable characters.
    """
    if len(answer) == WORD:
        content = answer.rstrip(b"\0")
    else:
        offset, length = int.from_bytes(answer[:WORD]), int.from_bytes(answer[WORD : 2 * WORD])
        padded = length + -length % WORD
        # UTF-8 has at most four bytes a character.
        if offset != WORD or length > 4 * SYMBOL_LIMIT or len(answer) != 2 * WORD + padded:
            return None
        content = answer[2 * WORD : 2 * WORD + length]
    try:
        symbol = content.decode()
    except UnicodeDecodeError:
        return None
    return symbol if 0 < len(symbol) <= SYMBOL_LIMIT and symbol.isprintable() else None


def read_decimals(answer: bytes) -> int | None:
    """The answer of `decimals()`; None unless it is a uint8."""
    decimals = int.from_bytes(answer)
    return decimals if len(answer) == WORD and decimals <= MAX_DECIMALS else None
