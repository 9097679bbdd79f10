"""Gaps in a signer's account nonces: found, looked at twice, and closed.

What stood below our own transactions can vanish: the journal comes from a backup, or somebody
else's transaction left the chain in a reorg. Then nobody will ever use that account nonce, and
nothing above it is mined, unless we send an empty transfer to ourselves. Where the journal has a
transaction of that nonce that counts as ended, it is not ended after all, and is sent again.
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
        chain_id: int,
        chain: Chain,
        heads: Heads,
        store: Store,
        signers: SignerPool,
        policy: Policy,
        clock: Callable[[], int],
        send: Callable[[Transaction, Attempt], Awaitable[None]],
    ) -> None:
        self._network = network
        self._chain_id = chain_id
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
        by_signer: dict[bytes, list[Transaction]] = {}
        for transaction in pending:
            by_signer.setdefault(transaction.signer, []).append(transaction)
        self._seen = {signer: seen for signer, seen in self._seen.items() if signer in by_signer}
        for signer, ours in by_signer.items():
            gap = nonces.missing(mined[signer], [each.account_nonce for each in ours])
            if not gap:
                self._seen.pop(signer, None)
                continue
            first = min(ours, key=lambda each: each.account_nonce)
            if await self._is_old(signer, gap.start, first.attempts[0].signed_at):
                await self._close(signer, gap)

    @property
    def _patience(self) -> int:
        return max(self._policy.replace_after_ms, 2 * self._heads.interval_ms)

    async def _is_old(self, signer: bytes, account_nonce: int, signed_at: int) -> bool:
        """The second look: the same nonce is missing at a later head, a while after what stands
        behind it was signed, and now, for another endpoint as well.
        """
        head = self._heads.head
        assert head is not None
        now = self._clock()
        wanted, _, height = self._seen.setdefault(signer, (account_nonce, now, head.number))
        if wanted != account_nonce:
            self._seen[signer] = (account_nonce, now, head.number)
            return False
        if now - signed_at < self._patience or head.number <= height:
            return False
        if await self._chain.account_nonce(signer) != account_nonce:
            return False
        confirmed = await self._chain.witnesses.confirm_account_nonce(signer, account_nonce)
        return confirmed is not False

    async def _close(self, signer: bytes, gap: range) -> None:
        call = Call(signer, b"")
        for account_nonce in gap[: nonces.MAX_IN_FLIGHT]:
            if await self._store.revive(self._chain_id, signer, account_nonce):
                self._alert("gap_reopened", signer, account_nonce)
                continue  # the next turn sends it
            if signer not in self._signers.addresses:
                return  # its key is another replica's
            if await self._may_still_come(signer, gap.start):
                return
            prepared = await self._signers.prepare(call, signer, FILLER_GAS_CAP)
            if isinstance(prepared, Reverted | Refusal):
                return
            new = self._signers.transaction(TransactionKind.FILL, call, signer, prepared)
            filler = await self._store.fill(new, account_nonce, self._clock())
            if filler is None:
                # A payment that was told to have failed is wanted again, or one that a reorg is
                # watched for: that watch, or a person, can say what is true.
                self._alert("gap_not_filled", signer, account_nonce)
                return
            self._alert("gap_filled", signer, account_nonce)
            await self._send(filler, filler.attempts[-1])

    async def _may_still_come(self, signer: bytes, account_nonce: int) -> bool:
        """Whether the node's pool holds something for the missing nonce, that gets more time."""
        pooled = await self._chain.account_nonce(signer, "pending")
        waited = self._clock() - self._seen[signer][1]
        return pooled > account_nonce and waited < POOLED_PATIENCE * self._patience

    def _alert(self, name: str, signer: bytes, account_nonce: int) -> None:
        if (signer, account_nonce) not in self._alerted:
            self._alerted.add((signer, account_nonce))
            event(
                _log,
                logging.CRITICAL if name == "gap_not_filled" else logging.ERROR,
                name,
                network=self._network,
                signer=checksum(signer),
                account_nonce=account_nonce,
            )
