"""Records in the journal how transactions and settlements have ended, and wakes who waits for it.

A settlement whose transactions have ended without paying it gets a further one here.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio

from facilitator.chain.answers import ChainUnavailable, ask_all
from facilitator.chain.client import Reverted
from facilitator.domain.budget import Prepared
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import scheme_of
from facilitator.domain.settlement import (
    Mined,
    Resolved,
    SettleAgain,
    Settlement,
    SettlementChange,
    SettlementRecord,
    Transaction,
    TransactionChange,
    TransactionKind,
    TransactionState,
    Verdict,
    settlement_change,
    transaction_change,
)
from facilitator.engine.broadcast import Broadcaster
from facilitator.engine.counters import Tally
from facilitator.engine.events import paid_after_failure, settled_again, settlement_changed
from facilitator.engine.outcomes import OutcomeResolver
from facilitator.engine.reorgs import ReorgWatch
from facilitator.engine.signers import SignerPool
from facilitator.engine.waiters import Waiters
from facilitator.ethereum.abi import Call
from facilitator.journal.store import BudgetSpent, Store
from facilitator.telemetry.logs import event
from facilitator.telemetry.tracing import inside, span

_log = logging.getLogger(__name__)

# How many settlements are decided, or settled again, at a time: each takes a few round trips where
# its own receipts do not decide. A group whose transaction failed has up to 32 of them.
AT_ONCE = 16


@dataclass(kw_only=True, eq=False)
class Recorder:
    """Records the outcomes of one chain. `clock` is in unix milliseconds."""

    network: str
    store: Store
    outcomes: OutcomeResolver
    signers: SignerPool
    reorgs: ReorgWatch
    broadcaster: Broadcaster
    waiters: Waiters
    tally: Tally
    clock: Callable[[], int]

    async def conclude(
        self, records: Sequence[SettlementRecord], resolved: Mapping[int, Resolved], margin: int
    ) -> list[int]:
        """Record how these transactions and settlements have ended, wake who waits for them, and
        settle again those whose verdict is SettleAgain. `margin` is the seconds before its deadline
        after which a payment is not sent any more. Returns the ids of the transactions that are
        pending no more. Raises StoreError.
        """
        await self.outcomes.prefetch_blocks(
            end.receipt for end in resolved.values() if isinstance(end, Mined)
        )

        async def verdict_on(record: SettlementRecord) -> Verdict | Exception:
            self.tally.step()
            try:
                with inside(record.settlement.traceparent):
                    return await self.outcomes.verdict(record, resolved, margin)
            except Exception as fault:  # one broken settlement must not hold up all others
                return fault

        undecided: set[int] = set()
        changes: list[SettlementChange] = []
        again: list[Settlement] = []
        verdicts = await ask_all(verdict_on, records, AT_ONCE)
        for record, verdict in zip(records, verdicts, strict=True):
            if isinstance(verdict, Exception):
                # Its transactions stay pending in the journal, so that the next turn sees it anew.
                undecided.update(transaction.id for transaction in record.transactions)
                self._log_undecided(record.settlement, verdict)
                continue
            change = settlement_change(record.settlement, verdict)
            if change is not None:
                changes.append(change)
            elif isinstance(verdict, SettleAgain):
                again.append(record.settlement)
        if any(
            isinstance(resolved.get(each.id), Mined) and each.kind is TransactionKind.FILL
            for record in records
            for each in record.transactions
        ):
            # The filler may have replaced a group whose other payments count as made.
            self.reorgs.doubt()
        ended = [
            transaction_change(number, end)
            for number, end in resolved.items()
            if number not in undecided
        ]
        if ended or changes:
            await self.record(ended, changes)
        await ask_all(self._settle_again, again, AT_ONCE)
        return [change.id for change in ended]

    async def record(
        self, ended: Sequence[TransactionChange], changes: Sequence[SettlementChange]
    ) -> None:
        """Write changes to the journal, all or nothing, then wake who waits. Raises StoreError."""
        # A turn that is cancelled here must still log what was recorded, and wake who waits for it.
        with anyio.CancelScope(shield=True):
            try:
                changed = await self.store.record(ended, changes, self.clock())
            except BaseException:
                self.reorgs.doubt()  # whether it is written is not known
                raise
        for transaction in ended:
            self.broadcaster.forget(transaction.id)
            self.reorgs.mined(transaction.block_number)
            if transaction.state is TransactionState.SUPERSEDED:
                self.tally.superseded += 1
                event(
                    _log,
                    logging.ERROR,
                    "superseded",
                    network=self.network,
                    transaction_id=transaction.id,
                )
        overturned = {change.id for change in changes if change.overturns}
        for settlement in changed:
            self.tally.changes[settlement.state] += 1
            settlement_changed(self.network, settlement)
            if settlement.id in overturned:
                paid_after_failure(self.network, settlement)
            if settlement.proof is not None:
                self.reorgs.mined(settlement.proof.block_number)
            self.waiters.wake(settlement.id)

    async def _settle_again(self, settlement: Settlement) -> None:
        self.tally.step()
        with inside(settlement.traceparent), span("settle again"):
            await self._sign_further(settlement)

    async def _sign_further(self, settlement: Settlement) -> None:
        """Sign and send a further transaction. Where something speaks against it by now, do
        nothing: the next turn finds out what. The gas limit is the most that the payment may take,
        or what a node estimates where the signer's money or its budget does not allow for that.
        """
        scheme = scheme_of(settlement.payment)
        call = scheme.settlement_call(settlement.payment)
        gas_cap = scheme.gas_cap(settlement.payment)
        try:
            await self.signers.ready()
            signer = self.signers.least_loaded()
            if not self.signers.keys.allows(call, signer):
                event(
                    _log,
                    logging.ERROR,
                    "contract_not_configured",
                    network=self.network,
                    settlement=settlement.id,
                )
                return
            estimated = await self.signers.prepare(call, signer, gas_cap)
        except ChainUnavailable:
            return
        if isinstance(estimated, Reverted | Refusal):
            return
        # What a node estimates has not paid it: the node may lie, or what the call takes may have
        # changed. Gas that is not used costs nothing.
        generous = self.signers.with_gas(estimated, signer, gas_cap)
        transaction = await self._sign(settlement, call, signer, generous)
        if isinstance(transaction, BudgetSpent):
            transaction = await self._sign(settlement, call, signer, estimated)
        if isinstance(transaction, BudgetSpent):
            self.signers.unfit(signer, Reason.BUDGET_SPENT)
        elif transaction is not None:
            attempt = transaction.attempts[-1]
            settled_again(self.network, settlement, attempt.hash)
            await self.broadcaster.send(transaction, attempt)

    async def _sign(
        self, settlement: Settlement, call: Call, signer: bytes, prepared: Prepared
    ) -> Transaction | BudgetSpent | None:
        new = self.signers.transaction(TransactionKind.SETTLE, call, signer, prepared)
        return await self.store.settle_again(settlement.id, settlement.version, new, self.clock())

    def _log_undecided(self, settlement: Settlement, fault: Exception) -> None:
        known = isinstance(fault, ChainUnavailable)
        event(
            _log,
            logging.WARNING if known else logging.ERROR,
            "undecided",
            exc_info=None if known else fault,
            network=self.network,
            settlement=settlement.id,
            fault=str(fault) if known else type(fault).__name__,
        )
