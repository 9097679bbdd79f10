"""What is done for transactions that are pending: wait for them, send them again, replace them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from facilitator.broadcast import Broadcaster
from facilitator.judgement import Resolved
from facilitator.observation import Observer
from facilitator.settlement import (
    Attempt,
    Broadcast,
    Mined,
    Policy,
    Replace,
    Superseded,
    Transaction,
    decide,
)
from facilitator.signers import SignerPool
from facilitator.store import Store
from facilitator.tally import Tally
from facilitator.tracing import inside


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
        self, transactions: Sequence[Transaction], withheld: Collection[int] = ()
    ) -> tuple[dict[int, Resolved], dict[bytes, int]]:
        """Observe and decide every one, and act: those that have come to an end, by id, and how
        many transactions each signer has mined. Those that are `withheld`, by id, are not sent
        again. Raises ChainUnavailable, StoreError.
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
                case Replace() as replace:
                    to_send.append((transaction, await self._replace(transaction, replace, now)))
        await asyncio.gather(*(self._broadcaster.send_again(*one) for one in to_send))
        mined = {each.signer: observations[each.id].account_nonce for each in transactions}
        return resolved, mined

    async def _replace(self, transaction: Transaction, replace: Replace, now: int) -> Attempt:
        """The attempt to send: a new one at these fees, in the journal, where it may be signed."""
        if not self._signers.keys.allows(transaction.call, transaction.signer):
            # Its contract or key is configured no more, or not here: what was signed is all that
            # there will be.
            return transaction.attempts[-1]
        with inside(self._broadcaster.trace_of(transaction)):
            attempt = self._signers.keys.replacement(transaction, replace.fees)
        added = await self._store.add_attempt(transaction.id, attempt, self._policy.gas_budget, now)
        self._tally.replacements += added
        # Where the day's budget is spent, what was signed is all there will be today.
        return attempt if added else transaction.attempts[-1]
