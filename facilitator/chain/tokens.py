"""What replies show beside a payment: a token's unit (its symbol and decimals), read from the token
itself, and the share that a network's contract keeps, read from the contract.

No money depends on either: everything else counts atomic units, and what was kept of a payment
comes from the payment's own log. A token without a usable answer has no known unit.
"""

from contextlib import suppress

import anyio

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.recent import Recent
from facilitator.config.networks import Unit
from facilitator.domain.schemes import jeju
from facilitator.ethereum.abi import WORD, Call, selector

KNOWN_LIMIT = 256  # tokens whose units are remembered
# Seconds that the first reply about a token waits for its answer.
READ_TIMEOUT = 0.25
UNKNOWN_FOR = 60.0  # seconds after which a token that could not be read is asked again
SYMBOL_LIMIT = 32  # characters
MAX_DECIMALS = 255  # of a uint8
FEE_READ_FOR = 15.0  # seconds for which a contract's share is reused
FEE_TIMEOUT = 1.0  # seconds that a reply waits for it

_SYMBOL = selector("symbol()")
_DECIMALS = selector("decimals()")


class Tokens:
    """The units of one network's tokens. `known` are those that need not be asked for."""

    def __init__(self, chain: Chain, known: dict[bytes, Unit]) -> None:
        self._chain = chain
        self._known = known
        self._read: Recent[Unit | None, bytes] = Recent(self._ask, _lifetime, limit=KNOWN_LIMIT)

    def recall(self, asset: bytes) -> Unit | None:
        """Return the unit where it is known or was read before; None otherwise."""
        return self._known.get(asset) or self._read.recall(asset)

    async def unit(self, asset: bytes) -> Unit | None:
        """Return the unit of a token, which the token is asked for once; None where it does not
        answer in time.

        For tokens that the contract takes: others could be anybody's, and each costs a call.
        """
        return self._known.get(asset) or await self._read.look(asset)

    async def _ask(self, asset: bytes) -> Unit | None:
        with anyio.move_on_after(READ_TIMEOUT), suppress(ChainUnavailable):
            answers = await self._chain.read((Call(asset, _SYMBOL), Call(asset, _DECIMALS)))
            symbol, decimals = read_symbol(answers[0]), read_decimals(answers[1])
            if symbol is not None and decimals is not None:
                return Unit(symbol, decimals)
        return None


def _lifetime(unit: Unit | None) -> float:
    return UNKNOWN_FOR if unit is None else float("inf")


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


class ProtocolFee:
    """The share of one contract. `configured` (basis points) stands in while it does not answer."""

    def __init__(self, chain: Chain, contract: bytes | None, configured: int) -> None:
        self._chain = chain
        self._contract = contract
        self._configured = configured
        self._read: Recent[int] = Recent(self._ask, FEE_READ_FOR)

    async def bps(self, amount: int, fee: int) -> int:
        """Return the share in basis points, of a payment of `amount` of which the contract kept
        `fee` (atomic units). It is read again where the last answer is old, or does not give `fee`.
        """
        if not _fits(self._read.recall(), amount, fee):
            self._read.expire()
        with anyio.move_on_after(FEE_TIMEOUT), suppress(ChainUnavailable):
            await self._read.look()
        for known in (self._read.recall(), self._configured):
            if known is not None and _fits(known, amount, fee):
                return known
        # The owner has changed it since, or no node answers: the least that keeps as much.
        return -(-fee * 10_000 // amount)

    async def _ask(self) -> int:
        if self._contract is None:
            raise ChainUnavailable("no contract is configured")
        [answer] = await self._chain.read([jeju.stats_call(self._contract)])
        state = jeju.read_stats(answer)
        if state is None:
            raise ChainUnavailable("there is no X402Facilitator")
        return state.fee_bps


def _fits(bps: int | None, amount: int, fee: int) -> bool:
    """Return whether the contract, which rounds down, keeps `fee` of `amount` at this share."""
    return bps is not None and amount * bps // 10_000 == fee
