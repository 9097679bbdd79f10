"""Gaps in a signer's account nonces: found, confirmed at a later head, and closed.

An account nonce below our pending transactions can become unused: the journal comes from a backup,
or somebody else's transaction left the chain in a reorg. Nothing above it is mined until it is
used, so we use it with a filler, an empty transfer to ourselves. Where the journal has a
transaction with that nonce that counts as ended, that one is revived and sent again. But where the
failure of a payment in it was reported, it must not be mined any more: a filler that offers more
for gas takes its place.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain, Reverted
from facilitator.chain.head_tracker import HeadTracker
from facilitator.chain.quorum import Agreement
from facilitator.domain import nonces
from facilitator.domain.budget import Prepared
from facilitator.domain.payment import Refusal
from facilitator.domain.settlement import Policy, Transaction, TransactionKind
from facilitator.engine.broadcast import Broadcaster
from facilitator.engine.signers import SignerPool
from facilitator.ethereum.abi import Call
from facilitator.ethereum.addresses import checksum
from facilitator.journal.store import NewTransaction, Store
from facilitator.telemetry.logs import event

_log = logging.getLogger(__name__)

# A transfer to oneself takes 21,000 gas on most chains; some add the cost of the data.
FILLER_GAS_CAP = 500_000
# How many times longer to wait where the node's pool holds something for the missing nonce.
POOLED_PATIENCE = 12


@dataclass(kw_only=True, eq=False)
class NonceGaps:
    """Fills the gaps of one chain's signers."""

    network: str
    chain_id: int
    chain: Chain
    heads: HeadTracker
    store: Store
    signers: SignerPool
    broadcaster: Broadcaster
    policy: Policy
    clock: Callable[[], int]
    # By signer: the missing nonce, when it was first seen, and at which head.
    _seen: dict[bytes, tuple[int, int, int]] = field(default_factory=dict, init=False)
    _alerted: set[tuple[bytes, int]] = field(default_factory=set, init=False)
    # The signers with a transaction that must not be sent, and that no filler could replace.
    _held_up: frozenset[bytes] = field(default_factory=frozenset, init=False)

    @property
    def open(self) -> frozenset[bytes]:
        """Return the signers whose next account nonce no transaction of ours has, as last seen."""
        return self._held_up.union(self._seen)

    async def fill(self, pending: Sequence[Transaction], mined: Mapping[bytes, int]) -> None:
        """Close the gaps below every signer's pending transactions; `mined` is how many the chain
        has of each signer. Raises ChainUnavailable and StoreError.
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
        return self.policy.patience_ms(self.heads.interval_ms)

    async def _is_old(self, signer: bytes, account_nonce: int, signed_at: int) -> bool:
        """Return whether the same nonce is still missing at a later head, the transaction behind it
        has waited for some time, and the quorum agrees.
        """
        head = self.heads.head
        assert head is not None
        now = self.clock()
        wanted, since, height = self._seen.setdefault(signer, (account_nonce, now, head.number))
        if wanted != account_nonce:
            self._seen[signer] = (account_nonce, now, head.number)
            return False
        if head.number < height:  # the earlier head did not exist
            self._seen[signer] = (account_nonce, since, head.number)
            return False
        if now - signed_at < self._patience or head.number <= height:
            return False
        if await self.chain.account_nonce(signer) != account_nonce:
            return False
        agreement = await self.chain.quorum.account_nonce_is(signer, account_nonce)
        return agreement is Agreement.AGREED

    async def replace_with_filler(self, given_up: Sequence[Transaction]) -> bool:
        """Replace these with fillers, at once, before a block takes them from a pool that has their
        bytes. Return whether any was replaced. Raises StoreError.
        """
        held_up = {each.id: each.signer for each in given_up}
        for each in given_up:
            with suppress(ChainUnavailable):  # the next turn tries again
                if await self._replaced(each.signer, each.account_nonce):
                    del held_up[each.id]
        self._held_up = frozenset(held_up.values())
        return len(held_up) < len(given_up)

    async def _replaced(self, signer: bytes, account_nonce: int) -> bool:
        if signer not in self.signers.addresses or not await self._is_unused(signer, account_nonce):
            return False
        prepared = await self._prepare(signer)
        if prepared is None:
            return False
        filler = await self._replace(signer, account_nonce, prepared)
        if filler is not None:
            await self._filled(filler)
        return filler is not None

    async def _close(self, signer: bytes, gap: range) -> None:
        # No endpoint alone may undo what the journal has.
        unused = await self._is_unused(signer, gap.start)
        # Asked before the first filler is sent: after that the pool holds the filler.
        may_come = await self._may_still_come(signer, gap.start)
        for account_nonce in gap[: nonces.MAX_IN_FLIGHT]:
            if unused and await self.store.revive(self.chain_id, signer, account_nonce):
                self._alert("gap_reopened", signer, account_nonce)
                continue  # the next turn sends it
            if signer not in self.signers.addresses:
                return  # its key is another replica's
            prepared = await self._prepare(signer)
            if prepared is None:
                return
            filler = None
            if unused:
                filler = await self._replace(signer, account_nonce, prepared)
            if filler is None:
                if may_come:
                    return
                new = self._new(signer, prepared)
                filler = await self.store.fill(new, account_nonce, self.clock())
            if filler is None:
                return  # the journal has it as mined, or the only endpoint left is wrong
            await self._filled(filler)

    async def _is_unused(self, signer: bytes, account_nonce: int) -> bool:
        agreement = await self.chain.quorum.account_nonce_unused(signer, account_nonce)
        return agreement is Agreement.AGREED

    async def _prepare(self, signer: bytes) -> Prepared | None:
        """Return the gas limit and fees of a filler; None where the signer cannot pay for one."""
        prepared = await self.signers.prepare(Call(signer, b""), signer, FILLER_GAS_CAP)
        return None if isinstance(prepared, Reverted | Refusal) else prepared

    def _new(self, signer: bytes, prepared: Prepared) -> NewTransaction:
        call = Call(signer, b"")
        return self.signers.transaction(TransactionKind.FILL, call, signer, prepared)

    async def _replace(
        self, signer: bytes, account_nonce: int, prepared: Prepared
    ) -> Transaction | None:
        """Return the filler that replaced what must not be sent again; None where the journal has
        no such transaction.
        """
        new = self._new(signer, prepared)
        outbid = self.signers.keys.outbidding(new.call, signer, account_nonce, prepared)
        return await self.store.replace_with_filler(new, account_nonce, outbid, self.clock())

    async def _filled(self, filler: Transaction) -> None:
        self._alert("gap_filled", filler.signer, filler.account_nonce)
        await self.broadcaster.send(filler, filler.attempts[-1])

    async def _may_still_come(self, signer: bytes, account_nonce: int) -> bool:
        """Return whether the node's pool holds a transaction with the missing nonce, which is given
        more time to be mined.
        """
        pooled = await self.chain.account_nonce(signer, "pending")
        waited = self.clock() - self._seen[signer][1]
        return pooled > account_nonce and waited < POOLED_PATIENCE * self._patience

    def _alert(self, name: str, signer: bytes, account_nonce: int) -> None:
        if (signer, account_nonce) not in self._alerted:
            self._alerted.add((signer, account_nonce))
            event(
                _log,
                logging.ERROR,
                name,
                network=self.network,
                signer=checksum(signer),
                account_nonce=account_nonce,
            )
