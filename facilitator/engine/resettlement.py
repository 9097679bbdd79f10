"""A further transaction for a settlement whose transactions have ended without paying it."""

import logging
from collections.abc import Awaitable, Callable

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Reverted
from facilitator.domain.budget import Prepared
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import scheme_of
from facilitator.domain.settlement import Attempt, Settlement, Transaction, TransactionKind
from facilitator.engine.events import settled_again
from facilitator.engine.signers import SignerPool
from facilitator.ethereum.calls import Call
from facilitator.journal.store import BudgetSpent, Store
from facilitator.telemetry import tracing
from facilitator.telemetry.logs import event

_log = logging.getLogger(__name__)


class Resettler:
    """Settles payments of one chain again. `send` broadcasts what the journal holds already."""

    def __init__(
        self,
        *,
        network: str,
        store: Store,
        signers: SignerPool,
        clock: Callable[[], int],
        send: Callable[[Transaction, Attempt], Awaitable[None]],
    ) -> None:
        self._network = network
        self._store = store
        self._signers = signers
        self._clock = clock
        self._send = send

    async def settle_again(self, settlement: Settlement) -> None:
        """Sign a further transaction, unless something speaks against it by now: then the next turn
        finds out what. It may use the most gas that the payment may take; where the signer's money
        or its budget does not allow for that, what a node estimates. Raises StoreError.
        """
        with tracing.inside(settlement.traceparent), tracing.span("settle again"):
            await self._settle_again(settlement)

    async def _settle_again(self, settlement: Settlement) -> None:
        scheme = scheme_of(settlement.payment)
        call = scheme.settlement_call(settlement.payment)
        gas_cap = scheme.gas_cap(settlement.payment)
        try:
            await self._signers.ready()
            signer = self._signers.least_loaded()
            if not self._signers.keys.allows(call, signer):
                self._event(logging.ERROR, "contract_not_configured", settlement)
                return
            estimated = await self._signers.prepare(call, signer, gas_cap)
        except ChainUnavailable:
            return
        if isinstance(estimated, Reverted | Refusal):
            return
        # What a node estimates has not paid it: the node may lie, or what the call takes may have
        # changed. Gas that is not used costs nothing.
        generous = self._signers.with_gas(estimated, signer, gas_cap)
        transaction = await self._sign(settlement, call, signer, generous)
        if isinstance(transaction, BudgetSpent):
            transaction = await self._sign(settlement, call, signer, estimated)
        if isinstance(transaction, BudgetSpent):
            self._signers.unfit(signer, Reason.BUDGET_SPENT)
        elif transaction is not None:
            attempt = transaction.attempts[-1]
            settled_again(self._network, settlement, attempt.hash)
            await self._send(transaction, attempt)

    async def _sign(
        self, settlement: Settlement, call: Call, signer: bytes, prepared: Prepared
    ) -> Transaction | BudgetSpent | None:
        new = self._signers.transaction(TransactionKind.SETTLE, call, signer, prepared)
        return await self._store.settle_again(settlement.id, settlement.version, new, self._clock())

    def _event(self, level: int, name: str, settlement: Settlement) -> None:
        event(_log, level, name, network=self._network, settlement=settlement.id)
