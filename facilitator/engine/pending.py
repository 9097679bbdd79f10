"""What is done for transactions that are pending: wait for them, send them again, replace them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from msgspec.structs import replace

from facilitator.domain import batching
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.settlement import (
    Attempt,
    Broadcast,
    Mined,
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
from facilitator.engine.observation import Observer
from facilitator.engine.signers import SignerPool
from facilitator.ethereum.fees import Fees
from facilitator.ethereum.gas import intrinsic_gas
from facilitator.journal.store import SettlementRecord, Store
from facilitator.telemetry.tracing import inside


class PendingTransactions:
    """Takes those of one chain further. `clock` is in unix milliseconds."""

    def __init__(
        self,
        *,
        observer: Observer,
        store: Store,
        signers: SignerPool,
        broadcaster: Broadcaster,
        policy: Policy,
        tally: Tally,
        clock: Callable[[], int],
    ) -> None:
        self._observer = observer
        self._store = store
        self._signers = signers
        self._broadcaster = broadcaster
        self._policy = policy
        self._tally = tally
        self._clock = clock

    async def advance(
        self,
        transactions: Sequence[Transaction],
        records: Sequence[SettlementRecord],
        withheld: Collection[int] = (),
    ) -> tuple[dict[int, Resolved], dict[bytes, int]]:
        """Observe and decide every one, and act: those that have come to an end, by id, and how
        many transactions each signer has mined. `records` are what they carry. Those that are
        `withheld`, by id, are not sent again. Raises ChainUnavailable, StoreError.
        """
        now = self._clock()
        observations = await self._observer.observe(transactions, self._broadcaster.sent_at, now)
        load = Counter(transaction.signer for transaction in transactions)
        for signer in self._signers.addresses:
            self._signers.observe(signer, load[signer])
        resolved: dict[int, Resolved] = {}
        to_send: list[tuple[Transaction, Attempt]] = []
        for transaction in transactions:
            seen = observations[transaction.id]
            match decide(transaction, seen, now, self._policy):
                case Mined() | Superseded() as end:
                    resolved[transaction.id] = end
                case _ if transaction.id in withheld:
                    continue
                case Broadcast(attempt, at_cap):
                    to_send.append((transaction, attempt))
                    if at_cap:
                        self._broadcaster.tell_at_cap(transaction, attempt)
                case Replace(fees):
                    generous = self._with_gas(transaction, records)
                    to_send.append((transaction, await self._replace(generous, fees, now)))
        await asyncio.gather(*(self._broadcaster.send_again(*one) for one in to_send))
        mined = {each.signer: observations[each.id].account_nonce for each in transactions}
        return resolved, mined

    def _with_gas(
        self, transaction: Transaction, records: Sequence[SettlementRecord]
    ) -> Transaction:
        """The same, with all the gas that it may use where no block would hold it, or no endpoint
        took it, for want of gas: some chains count more than the bytes (Arbitrum: what their data
        costs on L1).
        """
        carried = transaction.gas_limit >= intrinsic_gas(transaction.call)
        if carried and not self._broadcaster.lacks_gas(transaction):
            return transaction
        payments = [
            record.settlement.payment
            for record in records
            if any(each.id == transaction.id for each in record.transactions)
        ]
        most = most_gas(transaction.kind, payments)
        return replace(transaction, gas_limit=max(most, transaction.gas_limit))

    async def _replace(self, transaction: Transaction, fees: Fees, now: int) -> Attempt:
        """The attempt to send: a new one at these fees, in the journal, where it may be signed."""
        if not self._signers.keys.allows(transaction.call, transaction.signer):
            # Its contract or key is configured no more, or not here: what was signed is all that
            # there will be.
            return transaction.attempts[-1]
        with inside(self._broadcaster.trace_of(transaction)):
            attempt = self._signers.keys.replacement(transaction, fees)
        added = await self._store.add_attempt(
            transaction.id, attempt, self._policy.gas_budget, now, transaction.gas_limit
        )
        self._tally.replacements += added
        # Where the day's budget is spent, what was signed is all there will be today.
        return attempt if added else transaction.attempts[-1]


def most_gas(kind: TransactionKind, payments: Sequence[AnyPayment]) -> int:
    """The most gas that a transaction which carries these payments may use."""
    if kind is TransactionKind.FILL:
        return FILLER_GAS_CAP
    caps = [scheme_of(payment).gas_cap(payment) for payment in payments]
    if kind is TransactionKind.GROUP:
        return min(batching.gas_limit(caps), batching.GROUP_GAS_CAP)
    return sum(caps)  # of the one that there is
