"""Sends what the journal holds to the chain: for the first time, and again while it is open."""

import logging
from collections.abc import Callable, Iterable

import anyio

from facilitator.chain.answers import NodeFault, to_hex
from facilitator.chain.client import Chain
from facilitator.domain.settlement import Attempt, Transaction
from facilitator.engine.signers import SignerPool
from facilitator.journal.store import SettlementRecord
from facilitator.telemetry.logs import event
from facilitator.telemetry.tracing import inside, span

_log = logging.getLogger(__name__)


class Broadcaster:
    """Sends the transactions of one chain. `clock` is in unix milliseconds."""

    def __init__(
        self, *, network: str, chain: Chain, signers: SignerPool, clock: Callable[[], int]
    ) -> None:
        self._network = network
        self._chain = chain
        self._signers = signers
        self._clock = clock
        self.sent_at: dict[int, int] = {}  # when each was last offered to the chain, by its id
        self._at_cap: set[int] = set()  # transactions for which that was logged
        self._lacking_gas: set[int] = set()  # those that were refused for their gas limit
        # The trace that each transaction belongs to, as of the last turn (W3C traceparent).
        self._traces: dict[int, str | None] = {}
        self._woken = anyio.Event()

    async def send(self, transaction: Transaction, attempt: Attempt) -> None:
        """Broadcast what is in the journal, and wake the loop, which follows it."""
        self.sent_at[transaction.id] = self._clock()
        self._woken.set()
        name = to_hex(attempt.hash)
        with span("send", network=self._network, transaction=name):
            fault = await self._chain.broadcast(attempt.raw)
        if fault is NodeFault.GAS_TOO_LOW and transaction.id in self.sent_at:
            self._lacking_gas.add(transaction.id)
        else:
            self._lacking_gas.discard(transaction.id)
        if fault is not None:
            # Possibly sent all the same: the next turns read what the chain shows.
            if fault is NodeFault.NONCE_TOO_LOW:
                self._signers.doubt(transaction.signer)
            event(
                _log,
                logging.WARNING,
                "broadcast_refused",
                network=self._network,
                transaction=name,
                fault=fault,
            )

    async def send_again(self, transaction: Transaction, attempt: Attempt) -> None:
        """Send, within the trace of the transaction's settlement."""
        with inside(self.trace_of(transaction)):
            await self.send(transaction, attempt)

    async def something_sent(self) -> None:
        """Return once something has been sent, since this returned last."""
        await self._woken.wait()
        self._woken = anyio.Event()

    def log_at_cap(self, transaction: Transaction, attempt: Attempt) -> None:
        """Log, once for each transaction, that it is stuck with its fees at the cap."""
        if transaction.id not in self._at_cap:
            self._at_cap.add(transaction.id)
            event(
                _log,
                logging.ERROR,
                "stuck_at_fee_cap",
                network=self._network,
                transaction=to_hex(attempt.hash),
            )

    @property
    def at_cap(self) -> int:
        """Return how many pending transactions are stuck with their fees at the cap."""
        return len(self._at_cap)

    def lacks_gas(self, transaction: Transaction) -> bool:
        """Return whether every endpoint refused it when it was last sent, as its gas limit is too
        low.
        """
        return transaction.id in self._lacking_gas

    def trace_of(self, transaction: Transaction) -> str | None:
        """Return the trace that a transaction belongs to (W3C traceparent)."""
        return self._traces.get(transaction.id)

    def note_traces(self, records: Iterable[SettlementRecord]) -> None:
        """Note the traces of these settlements as those of their transactions."""
        self._traces = {
            transaction.id: record.settlement.traceparent
            for record in records
            for transaction in record.transactions
        }

    def forget(self, transaction_id: int) -> None:
        """Forget a transaction that is pending no more."""
        self.sent_at.pop(transaction_id, None)
        self._at_cap.discard(transaction_id)
        self._lacking_gas.discard(transaction_id)

    def forget_before(self, time: int) -> None:
        """Forget what was sent until then: another process sends it again."""
        self.sent_at = {number: at for number, at in self.sent_at.items() if at > time}
        self._at_cap &= self.sent_at.keys()
        self._lacking_gas &= self.sent_at.keys()
