"""Gaps in a signer's account nonces: found, looked at twice, and filled.

What stood below our own transactions can vanish: the journal comes from a backup, or somebody
else's transaction left the chain in a reorg. Then nobody will ever use that account nonce, and
nothing above it is mined, unless we send an empty transfer to ourselves.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from facilitator import nonces
from facilitator.chain import Chain, Reverted
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.transactions import Call
from facilitator.heads import Heads
from facilitator.payments import Refusal
from facilitator.settlement import Attempt, Policy, Transaction, TransactionKind
from facilitator.signing import SignerPool
from facilitator.store import Store
from facilitator.telemetry import event

_log = logging.getLogger(__name__)

# A transfer to oneself takes 21,000 on most chains; some count the data's costs in gas as well.
FILLER_GAS_CAP = 500_000
# How many times longer to wait where the node's pool holds something for the missing nonce.
POOLED_PATIENCE = 12


class Gaps:
    """Fills the gaps of one chain's signers. `send` broadcasts what the journal holds already."""

    def __init__(
        self,
        *,
        network: str,
        chain: Chain,
        heads: Heads,
        store: Store,
        signers: SignerPool,
        policy: Policy,
        clock: Callable[[], int],
        send: Callable[[Transaction, Attempt], Awaitable[None]],
    ) -> None:
        self._network = network
        self._chain = chain
        self._heads = heads
        self._store = store
        self._signers = signers
        self._policy = policy
        self._clock = clock
        self._send = send
        # By signer: the missing nonce, when it was first seen, and at which head.
        self._seen: dict[bytes, tuple[int, int, int]] = {}
        self._alerted: set[tuple[bytes, int]] = set()

    @property
    def open(self) -> frozenset[bytes]:
        """The signers whose next account nonce nothing of ours has, as far as was seen."""
        return frozenset(self._seen)

    async def fill(self, pending: Sequence[Transaction], mined: Mapping[bytes, int]) -> None:
        """Look at every signer's pending transactions; `mined` counts those that the chain has.
        Raises ChainUnavailable and StoreError.
        """
        by_signer: dict[bytes, list[int]] = {}
        for transaction in pending:
            by_signer.setdefault(transaction.signer, []).append(transaction.account_nonce)
        self._seen = {signer: seen for signer, seen in self._seen.items() if signer in by_signer}
        for signer, ours in by_signer.items():
            gap = nonces.missing(mined[signer], ours)
            if not gap:
                self._seen.pop(signer, None)
            elif await self._is_old(signer, gap.start):
                await self._fill(signer, gap)

    async def _is_old(self, signer: bytes, account_nonce: int) -> bool:
        """The second look: the same nonce is missing after a while, at a later head, and now."""
        head = self._heads.head
        assert head is not None
        now = self._clock()
        wanted, since, height = self._seen.setdefault(signer, (account_nonce, now, head.number))
        if wanted != account_nonce:
            self._seen[signer] = (account_nonce, now, head.number)
            return False
        patience = max(self._policy.replace_after_ms, 2 * self._heads.interval_ms)
        if now - since < patience or head.number <= height:
            return False
        if await self._chain.account_nonce(signer) != account_nonce:
            return False
        pooled = await self._chain.account_nonce(signer, "pending")
        return pooled <= account_nonce or now - since >= POOLED_PATIENCE * patience

    async def _fill(self, signer: bytes, gap: range) -> None:
        call = Call(signer, b"")
        prepared = await self._signers.prepare(call, signer, FILLER_GAS_CAP)
        if isinstance(prepared, Reverted | Refusal):
            return
        for account_nonce in gap[: nonces.MAX_IN_FLIGHT]:
            new = self._signers.transaction(TransactionKind.FILL, call, signer, prepared)
            filler = await self._store.fill(new, account_nonce, self._clock())
            if filler is None:
                # A transaction of ours that counts as ended is wanted again: no reorg that is
                # watched for does that, and only a person can say what is true.
                self._alert("gap_not_filled", signer, account_nonce)
                return
            self._alert("gap_filled", signer, account_nonce)
            await self._send(filler, filler.attempts[-1])

    def _alert(self, name: str, signer: bytes, account_nonce: int) -> None:
        if (signer, account_nonce) not in self._alerted:
            self._alerted.add((signer, account_nonce))
            event(
                _log,
                logging.ERROR if name == "gap_filled" else logging.CRITICAL,
                name,
                network=self._network,
                signer=checksum(signer),
                account_nonce=account_nonce,
            )
