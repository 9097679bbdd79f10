"""Claim payments with a signer that has a place for them, and send their transaction.

Up to the claim nothing leaves a trace; it stores the signed transaction, and what is claimed is
sent, even if who asked for it goes away in between.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio
from msgspec import Struct
from msgspec.structs import replace

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain, Reverted
from facilitator.domain import batching
from facilitator.domain.budget import Prepared
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.settlement import Settlement, Transaction, TransactionKind
from facilitator.engine.events import settlement_submitted
from facilitator.engine.loop import Watcher
from facilitator.engine.queue import Member, Place
from facilitator.engine.requests import SettleReply
from facilitator.engine.signers import SignerPool
from facilitator.engine.simulate import Simulator
from facilitator.ethereum.calls import Call, CodeOf
from facilitator.ethereum.multicall3 import MULTICALL3
from facilitator.journal.store import (
    BudgetSpent,
    Claimed,
    IdempotencyKeyTaken,
    NewSettlement,
    NewTransaction,
    Overcommitted,
    SettlementRecord,
    Store,
    StoreError,
    Taken,
)

Submitted = SettleReply | SettlementRecord | Settlement


class _Ready(Struct, frozen=True):
    """A member of a group whose call was simulated, and what that takes alone."""

    member: Member[Submitted]
    call: Call
    prepared: Prepared


class Claimer:
    """Claims payments of one chain. `batch_max` of them may share a transaction; `too_late` tells a
    payment that could not be mined in time. Its methods raise ChainUnavailable and StoreError.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        simulator: Simulator,
        store: Store,
        signers: SignerPool,
        watcher: Watcher,
        too_late: Callable[[AnyPayment], SettleReply | None],
        batch_max: int,
        clock: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._simulator = simulator
        self._store = store
        self._signers = signers
        self._watcher = watcher
        self._too_late = too_late
        self._groups: bool | None = None if batch_max > 1 else False
        self._clock = clock

    async def ready(self) -> None:
        """See, once, whether the chain has what groups are made with."""
        if self._groups is None:
            self._groups = bool(await self._chain.code(MULTICALL3))

    def member(self, new: NewSettlement, limit: Reason) -> Member[Submitted] | None:
        """The payment as one that may share a transaction; None where it may not."""
        groupable = self._groups and scheme_of(new.payment).groupable(new.payment)
        return Member(new, limit) if groupable else None

    async def claim(self, new: NewSettlement, limit: Reason, place: Place[Submitted]) -> Submitted:
        """Claim one payment and send its transaction, or say why not."""
        late = self._too_late(new.payment)
        if late is not None:
            return late
        call = scheme_of(new.payment).settlement_call(new.payment)
        prepared = await self._prepare(new.payment, call, place.signer)
        if isinstance(prepared, SettleReply):
            return prepared
        transaction = self._signers.transaction(
            TransactionKind.SETTLE, call, place.signer, prepared
        )
        with anyio.CancelScope(shield=True):
            claimed = await self._store.claim(new, transaction, self._clock())
            if isinstance(claimed, Claimed):
                settlement_submitted(self._watcher.network, claimed)
                await self._send(claimed.transaction, place)
        if isinstance(claimed, BudgetSpent):
            self._signers.unfit(place.signer, Reason.BUDGET_SPENT)
            return SettleReply(refusal=Refusal(Reason.BUDGET_SPENT))
        return _told(claimed, new, limit)

    async def _prepare(
        self, payment: AnyPayment, call: Call, signer: bytes
    ) -> Prepared | SettleReply:
        gas_cap = scheme_of(payment).gas_cap(payment)
        prepared = await self._signers.prepare(call, signer, gas_cap)
        early = isinstance(prepared, Reverted) and await self._simulator.begins_later(payment)
        if early:
            with suppress(ChainUnavailable):  # a node need not have a pending block
                later = await self._signers.prepare(call, signer, gas_cap, "pending")
                early, prepared = later == prepared, later
        if isinstance(prepared, Reverted):
            now = self._clock() // 1000
            refusal = await self._simulator.diagnose(payment, prepared, now, early=early)
            return SettleReply(refusal=refusal)
        return SettleReply(refusal=prepared) if isinstance(prepared, Refusal) else prepared

    async def claim_group(
        self, leader: Member[Submitted], place: Place[Submitted]
    ) -> Submitted | None:
        """Claim as many as can be claimed of the `leader` and his company, send them in one
        transaction, and tell each of them. What a group cannot do, for want of gas money for one,
        each of them does alone: that is what None means.
        """
        members = (leader, *place.company)
        try:
            await self._claim_group(members, place)
        except (ChainUnavailable, StoreError) as fault:
            for member in members:
                member.tell(fault)
        finally:
            for member in members:
                member.tell(None)
        return await leader.answer()

    async def _claim_group(
        self, members: Sequence[Member[Submitted]], place: Place[Submitted]
    ) -> None:
        payers = [CodeOf(member.new.payment.payer) for member in members]
        codes, ready = await asyncio.gather(
            self._chain.read(payers),
            asyncio.gather(
                *(
                    asyncio.create_task(
                        self._simulate(member, place.signer), context=member.context
                    )
                    for member in members
                )
            ),
        )
        # A payer's own code could use up the gas of all others.
        fit = [
            each for each, code in zip(ready, codes, strict=True) if each is not None and not code
        ]
        fit = fit[: batching.fitting([each.prepared.gas_limit for each in fit])]
        call = batching.group_call(each.call for each in fit)
        singles = [each.prepared for each in fit]
        together = await self._signers.prepare_group(call, place.signer, singles)
        if together is not None:
            with anyio.CancelScope(shield=True):
                await self._claim_together(fit, place, together)

    async def _simulate(self, member: Member[Submitted], signer: bytes) -> _Ready | None:
        payment = member.new.payment
        call = scheme_of(payment).settlement_call(payment)
        try:
            told = self._too_late(payment) or await self._prepare(payment, call, signer)
        except ChainUnavailable as fault:
            member.tell(fault)
            return None
        if isinstance(told, SettleReply):
            member.tell(told)
            return None
        return _Ready(member, call, told)

    async def _claim_together(
        self, ready: Sequence[_Ready], place: Place[Submitted], together: Prepared
    ) -> None:
        """`together` is what all of them may cost. Who went away in the meantime is left out."""
        ready = [each for each in ready if not each.member.withdrawn]

        def transaction(claimed: tuple[int, ...]) -> NewTransaction:
            sharing = [ready[number] for number in claimed]
            if len(sharing) == 1:
                [one] = sharing
                kind, call, prepared = TransactionKind.SETTLE, one.call, one.prepared
            else:
                kind, call = (
                    TransactionKind.GROUP,
                    batching.group_call(each.call for each in sharing),
                )
                limit = batching.gas_limit([each.prepared.gas_limit for each in sharing])
                prepared = replace(together, gas_limit=limit)
            return self._signers.transaction(kind, call, place.signer, prepared)

        group = [each.member.new for each in ready]
        told = await self._store.claim_group(group, transaction, self._clock())
        if isinstance(told, BudgetSpent):
            return
        sent = None
        for one, each in zip(ready, told, strict=True):
            if isinstance(each, Claimed):
                one.member.context.run(settlement_submitted, self._watcher.network, each)
                sent = each.transaction
        if sent is not None:
            await self._send(sent, place)
        for one, each in zip(ready, told, strict=True):
            one.member.tell(_told(each, one.member.new, one.member.limit))

    async def _send(self, sent: Transaction, place: Place[Submitted]) -> None:
        """What payments were claimed with."""
        self._signers.claimed(place)
        await self._watcher.send(sent, sent.attempts[-1])


def _told(
    claimed: Claimed | Taken | IdempotencyKeyTaken | Overcommitted,
    new: NewSettlement,
    limit: Reason,
) -> Submitted:
    if isinstance(claimed, Overcommitted):
        left, asked = str(max(claimed.left, 0)), str(new.payment.amount)
        return SettleReply(refusal=Refusal(limit, left, asked))
    if isinstance(claimed, IdempotencyKeyTaken):
        return SettleReply(refusal=Refusal(Reason.IDEMPOTENCY_CONFLICT))
    if isinstance(claimed, Taken):
        return claimed.settlement
    return SettlementRecord(claimed.settlement, (claimed.transaction,))
