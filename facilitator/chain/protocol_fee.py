"""The share that a network's contract keeps of each payment, read from the contract itself.

Replies show it; the amount that was kept of a payment comes from the payment's own log.
"""

from contextlib import suppress

import anyio

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.recent import Recent
from facilitator.domain.schemes import jeju

READ_FOR = 15.0  # seconds for which an answer is reused
READ_TIMEOUT = 1.0  # seconds that a reply waits for one


class ProtocolFee:
    """The share of one contract. `configured` (basis points) stands in while it does not answer."""

    def __init__(self, chain: Chain, contract: bytes | None, configured: int) -> None:
        self._chain = chain
        self._contract = contract
        self._configured = configured
        self._read: Recent[int] = Recent(self._ask, READ_FOR)

    async def bps(self, amount: int, fee: int) -> int:
        """Return the share in basis points, of a payment of `amount` of which the contract kept
        `fee` (atomic units). It is read again where the last answer is old, or does not give `fee`.
        """
        if not _fits(self._read.recall(), amount, fee):
            self._read.expire()
        with anyio.move_on_after(READ_TIMEOUT), suppress(ChainUnavailable):
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
