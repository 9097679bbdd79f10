"""Pending transactions of one chain: observed, sent again, replaced, resolved."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from facilitator.chain.answers import ChainUnavailable, ask_all, to_hex
from facilitator.chain.client import Chain
from facilitator.chain.head_tracker import HeadTracker
from facilitator.domain import batching
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.settlement import (
    Attempt,
    Broadcast,
    Mined,
    Observation,
    Policy,
    Replace,
    Resolved,
    Superseded,
    Transaction,
    TransactionKind,
    decide,
)
from facilitator.engine.broadcast import Broadcaster
from facilitator.engine.counters import Tally
from facilitator.engine.nonce_gaps import FILLER_GAS_CAP
from facilitator.engine.signers import SignerPool
from facilitator.ethereum.fees import Fees
from facilitator.ethereum.gas import intrinsic_gas
from facilitator.ethereum.receipts import Receipt
from facilitator.journal.store import SettlementRecord, Store
from facilitator.telemetry.logs import event
from facilitator.telemetry.tracing import inside

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class PendingTransactions:
    """Advances the pending transactions of one chain. `clock` is in unix milliseconds."""

    network: str
    chain: Chain
    heads: HeadTracker
    store: Store
    signers: SignerPool
    broadcaster: Broadcaster
    policy: Policy
    tally: Tally
    clock: Callable[[], int]

    async def advance(
        self,
        transactions: Sequence[Transaction],
        records: Sequence[SettlementRecord],
        withheld: Collection[int] = (),
    ) -> tuple[dict[int, Resolved], dict[bytes, int]]:
        """Observe every transaction, decide about it, and act. Returns those that have ended, by
        id, and by signer how many of its transactions the chain has mined. `records` are the
        settlements that they carry; those whose ids are in `withheld` are not sent again. Raises
        ChainUnavailable and StoreError.
        """
        now = self.clock()
        observations = await self._observe(transactions, self.broadcaster.sent_at, now)
        load = Counter(transaction.signer for transaction in transactions)
        for signer in self.signers.addresses:
            self.signers.observe(signer, load[signer])
        resolved: dict[int, Resolved] = {}
        to_send: list[tuple[Transaction, Attempt]] = []
        for transaction in transactions:
            seen = observations[transaction.id]
            match decide(transaction, seen, now, self.policy):
                case Mined() | Superseded() as end:
                    resolved[transaction.id] = end
                case _ if transaction.id in withheld:
                    continue
                case Broadcast(attempt, at_cap):
                    to_send.append((transaction, attempt))
                    if at_cap:
                        self.broadcaster.log_at_cap(transaction, attempt)
                case Replace(fees):
                    generous = self._with_gas(transaction, records)
                    to_send.append((transaction, await self._replace(generous, fees, now)))
        await asyncio.gather(*(self.broadcaster.send_again(*one) for one in to_send))
        mined = {each.signer: observations[each.id].account_nonce for each in transactions}
        ends = await asyncio.gather(*(self._confirm_end(end) for end in resolved.values()))
        confirmed = zip(resolved, ends, strict=True)
        return {number: end for number, end in confirmed if end is not None}, mined

    async def _observe(
        self, transactions: Sequence[Transaction], broadcast_at: Mapping[int, int], now: int
    ) -> dict[int, Observation]:
        """Return what the chain shows of each transaction, by id, in one round trip for all
        receipts and account nonces, and a second one where it is needed.

        A receipt counts only if its block is on the head's chain: an endpoint that lags behind a
        reorg shows others. A transaction does not count as superseded while one of its receipts is
        in doubt, or while it is not known whether another endpoint shows one. `broadcast_at` is
        when each was last sent, by id; it and `now` are in unix milliseconds. Raises
        ChainUnavailable.
        """
        head = self.heads.head
        assert head is not None
        # each once, and in the same order in every run
        signers = tuple(dict.fromkeys(transaction.signer for transaction in transactions))
        hashes = [attempt.hash for each in transactions for attempt in each.attempts]
        receipts, mined = await asyncio.gather(
            self.chain.receipts(hashes), self.chain.account_nonces(signers, "latest")
        )
        shown, unknown = await self._missed(transactions, receipts, mined, now)
        receipts.update(shown)
        strangers = await self._strangers(receipts.values())
        overruling = await self.chain.quorum.overruling_receipts(strangers)
        if overruling:
            receipts.update(overruling)
            strangers = await self._strangers(receipts.values())
        doubtful = unknown | strangers
        receipts = {each: found for each, found in receipts.items() if each not in doubtful}
        unmined = [
            transaction
            for transaction in transactions
            if not any(attempt.hash in receipts for attempt in transaction.attempts)
        ]
        depth = head.number - self.policy.superseded_depth
        passed = dict.fromkeys(
            each.signer for each in unmined if each.account_nonce < mined[each.signer]
        )
        final = await self.chain.quorum.final_account_nonces(
            passed, depth, self.policy.superseded_depth
        )
        oldest = min((each.attempts[-1].signed_at for each in unmined), default=None)
        market = None
        if oldest is not None and now - oldest >= self.policy.replace_after_ms:
            market = await self.chain.fee_market()
        return {
            each.id: Observation(
                head=head,
                receipts=receipts,
                account_nonce=mined[each.signer],
                final_account_nonce=0
                if any(attempt.hash in doubtful for attempt in each.attempts)
                else final.get(each.signer, 0),
                market=market,
                broadcast_at=broadcast_at.get(each.id),
                block_interval_ms=self.heads.interval_ms,
            )
            for each in transactions
        }

    async def _missed(
        self,
        transactions: Sequence[Transaction],
        receipts: Mapping[bytes, Receipt],
        mined: Mapping[bytes, int],
        now: int,
    ) -> tuple[dict[bytes, Receipt], set[bytes]]:
        """Return the receipts that only other endpoints show, of transactions that should be mined
        by now, and the hashes for which that is not known. These transactions are those whose
        account nonce the chain has used, and each signer's first one if it is old enough to be
        replaced.
        """
        unmined = [
            each
            for each in transactions
            if not any(attempt.hash in receipts for attempt in each.attempts)
        ]
        first: dict[bytes, int] = {}
        for each in unmined:
            first[each.signer] = min(each.account_nonce, first.get(each.signer, each.account_nonce))
        patience = self.policy.patience_ms(self.heads.interval_ms)
        hashes = [
            attempt.hash
            for each in unmined
            for attempt in each.attempts
            if each.account_nonce < mined[each.signer]
            or (
                each.account_nonce == first[each.signer]
                and now - each.attempts[-1].signed_at >= patience
            )
        ]
        answers = await ask_all(self.chain.quorum.shown_receipt, hashes)
        found = dict(zip(hashes, answers, strict=True))
        return (
            {each: receipt for each, receipt in found.items() if isinstance(receipt, Receipt)},
            {each for each, receipt in found.items() if isinstance(receipt, ChainUnavailable)},
        )

    async def _strangers(self, receipts: Iterable[Receipt]) -> set[bytes]:
        """Return the transaction hashes of receipts whose block is not known to be on the head's
        chain.
        """
        found = tuple(receipts)
        blocks = tuple(dict.fromkeys((each.block_number, each.block_hash) for each in found))
        held = await asyncio.gather(*(self.heads.holds(*block) for block in blocks))
        sure = {block for block, holds in zip(blocks, held, strict=True) if holds}
        return {
            each.transaction_hash
            for each in found
            if (each.block_number, each.block_hash) not in sure
        }

    async def _confirm_end(self, end: Resolved) -> Resolved | None:
        """Return an end with the receipt that the quorum agrees on, None where there is none: by an
        invented receipt a payment would seem to be made, or to have failed.
        """
        if not isinstance(end, Mined):
            return end
        answer = await self.chain.quorum.confirm_receipt(end.receipt)
        if answer.agreed:
            return end
        event(
            _log,
            logging.WARNING,
            "receipt_not_confirmed",
            network=self.network,
            transaction=to_hex(end.receipt.transaction_hash),
        )
        if answer.value is None or not await self._is_deep(answer.value):
            return None
        return Mined(end.attempt, answer.value)

    async def _is_deep(self, receipt: Receipt) -> bool:
        head = self.heads.head
        assert head is not None
        held = await self.heads.holds(receipt.block_number, receipt.block_hash)
        return held is True and self.policy.is_deep(receipt.block_number, head)

    def _with_gas(
        self, transaction: Transaction, records: Sequence[SettlementRecord]
    ) -> Transaction:
        """Return the transaction, with the highest gas limit that it may have where its own is too
        low for a block or was too low for every endpoint: some chains charge gas for more than the
        bytes (Arbitrum: for their data on L1).
        """
        carried = transaction.gas_limit >= intrinsic_gas(transaction.call)
        if carried and not self.broadcaster.lacks_gas(transaction):
            return transaction
        payments = [
            record.settlement.payment
            for record in records
            if any(each.id == transaction.id for each in record.transactions)
        ]
        most = most_gas(transaction.kind, payments)
        return replace(transaction, gas_limit=max(most, transaction.gas_limit))

    async def _replace(self, transaction: Transaction, fees: Fees, now: int) -> Attempt:
        """Return the attempt to send: a new one at these fees, in the journal, where it may be
        signed.
        """
        if not self.signers.keys.allows(transaction.call, transaction.signer):
            # Its contract or key is no longer configured, or another replica has the key: nothing
            # further can be signed here.
            return transaction.attempts[-1]
        with inside(self.broadcaster.trace_of(transaction)):
            attempt = self.signers.keys.replacement(transaction, fees)
        added = await self.store.add_attempt(
            transaction.id, attempt, self.policy.gas_budget, now, transaction.gas_limit
        )
        self.tally.replacements += added
        # Where the day's budget is spent, nothing further is signed today.
        return attempt if added else transaction.attempts[-1]


def most_gas(kind: TransactionKind, payments: Sequence[AnyPayment]) -> int:
    """Return the most gas that a transaction which carries these payments may use."""
    if kind is TransactionKind.FILL:
        return FILLER_GAS_CAP
    caps = [scheme_of(payment).gas_cap(payment) for payment in payments]
    if kind is TransactionKind.GROUP:
        return min(batching.gas_limit(caps), batching.GROUP_GAS_CAP)
    return sum(caps)  # there is just one
