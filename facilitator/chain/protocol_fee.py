"""The share that the contract of one network keeps of each payment, as the contract itself says.

Only words hang on it: what was kept of a payment is in the payment's own log.
"""

import anyio

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.domain.schemes import jeju

READ_FOR = 15.0  # seconds for which an answer counts
READ_TIMEOUT = 1.0  # seconds that a reply waits for one


class ProtocolFee:
    """`configured` (basis points) stands in where the contract does not tell."""

    def __init__(self, chain: Chain, contract: bytes | None, configured: int) -> None:
        self._chain = chain
        self._contract = contract
        self._configured = configured
        self._read: int | None = None
        self._until = float("-inf")  # on the event loop's clock
        self._lock = anyio.Lock()

    async def bps(self, amount: int, fee: int) -> int:
        """The share in basis points, of a payment of `amount` of which the contract kept `fee`
        (atomic units): read anew where what was read before is old, or is not what was kept.
        """
        with anyio.move_on_after(READ_TIMEOUT):
            async with self._lock:
                if anyio.current_time() > self._until or not _fits(self._read, amount, fee):
                    await self._ask()
        for known in (self._read, self._configured):
            if known is not None and _fits(known, amount, fee):
                return known
        # The owner has changed it since, or nobody answers: the least that would keep as much.
        return -(-fee * 10_000 // amount)

    async def _ask(self) -> None:
        if self._contract is None:
            return
        try:
            [answer] = await self._chain.read([jeju.stats_call(self._contract)])
        except ChainUnavailable:
            return
        state = jeju.read_stats(answer)
        if state is not None:
            self._read, self._until = state.fee_bps, anyio.current_time() + READ_FOR


def _fits(bps: int | None, amount: int, fee: int) -> bool:
    """Whether the contract, which rounds down, keeps `fee` of `amount` at this share."""
    return bps is not None and amount * bps // 10_000 == fee
