"""Take a payment on: check it against the chain, wait for a signer, claim it, send its transaction.

Up to the claim nothing leaves a trace. The claim stores the settlement together with its signed
transaction, in one database transaction; what is claimed is sent, even if the client goes away in
between. Payments that wait for a signer may be claimed as a group, with one transaction for all.
From there on a settlement belongs to the loop (`loop`).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio
from msgspec import Struct
from msgspec.structs import replace

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain, Reverted
from facilitator.chain.head_tracker import HeadTracker
from facilitator.domain import batching
from facilitator.domain.budget import Prepared
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.settlement import Policy, Settlement, Transaction, TransactionKind
from facilitator.domain.verification import check_time
from facilitator.engine.broadcast import Broadcaster
from facilitator.engine.events import settlement_submitted
from facilitator.engine.payment_search import PaymentSearch
from facilitator.engine.queue import Member, QueueFull, Slot
from facilitator.engine.requests import SettleReply, SettleRequest
from facilitator.engine.signers import UNFIT, SignerPool
from facilitator.engine.simulate import Simulator
from facilitator.ethereum.abi import Call, CodeOf
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
from facilitator.telemetry.logs import event, get_logger
from facilitator.telemetry.tracing import current_traceparent, span

_log = get_logger(__name__)

# Milliseconds that a waiter counts for, unless it renews its lease.
WAITER_LEASE_MS = 15_000

# The result of a submission: a reply where nothing was claimed, a record where this request claimed
# the payment, the settlement alone where another request was faster.
Submitted = SettleReply | SettlementRecord | Settlement


class _Ready(Struct, frozen=True):
    """A member of a group whose call was simulated; `prepared` is what the call costs alone."""

    member: Member[Submitted]
    call: Call
    prepared: Prepared


@dataclass(kw_only=True, eq=False)
class Submitter:
    """Takes on payments of one network. `clock` is in unix milliseconds."""

    network: str
    chain: Chain
    simulator: Simulator
    store: Store
    signers: SignerPool
    broadcaster: Broadcaster
    heads: HeadTracker
    search: PaymentSearch
    policy: Policy
    clock: Callable[[], int]
    # Whether payments may share transactions; None until it is known if Multicall3 is deployed.
    _groups: bool | None = field(default=None, init=False)

    async def submit(
        self, request: SettleRequest, request_digest: bytes, waiter: str, until: float
    ) -> Submitted:
        """Take a payment on, and send its transaction. `waiter` is the id of the request; it waits
        for a signer until `until` on the event loop's clock. Raises ChainUnavailable, StoreError.
        """
        late = self._too_late(request.payment)
        if late is not None:
            return await self.refused_before_nonce(request.payment) or late
        examined = await self._examine(request, request_digest, waiter)
        if isinstance(examined, SettleReply):
            return examined
        await self.signers.ready()
        if self._groups is None:
            self._groups = self.policy.batch_max > 1 and bool(await self.chain.code(MULTICALL3))
        until = min(until, self._deadline(examined[0].payment))
        try:
            with span("claim"):
                return await self._claim_with_any(*examined, until)
        except (QueueFull, TimeoutError):
            refused = SettleReply(refusal=Refusal(Reason.OVERLOADED))
            return self._too_late(request.payment) or refused

    async def refused_before_nonce(self, payment: AnyPayment) -> SettleReply | None:
        """Return the reply to a payment that is forged or too late: these refusals come before any
        about its nonce. Raises ChainUnavailable.
        """
        forged = await self.simulator.forged(payment)
        return self._too_late(payment) if forged is None else SettleReply(refusal=forged)

    def _too_late(self, payment: AnyPayment) -> SettleReply | None:
        late = check_time(payment, self.clock() // 1000, self._margin)
        return None if late is None else SettleReply(refusal=late)

    @property
    def _margin(self) -> int:
        return self.policy.margin_seconds(self.heads.interval_ms)

    def _deadline(self, payment: AnyPayment) -> float:
        """Return until when a payment may wait for a signer, on the event loop's clock."""
        left = payment.deadline - self._margin + 1 - self.clock() // 1000
        return anyio.current_time() + min(left, 2**31)

    async def _examine(
        self, request: SettleRequest, request_digest: bytes, waiter: str
    ) -> tuple[NewSettlement, Reason] | SettleReply:
        """Return what is to be claimed, and the reason for the refusal in case other payments take
        the money first.
        """
        paid = request.payment
        with span("verify"):
            others = await self.store.outstanding(paid.chain_id, paid.asset, paid.payer)
            beside = [each.payment for each in others]
            examined, used = await self.simulator.read_facts_beside(paid, beside)
        payment, facts = examined.payment, examined.facts
        if facts.refusal is not None:
            return await self._refused(payment, facts.refusal)
        key = request.idempotency_key
        payment_key, second_key = scheme_of(payment).payment_keys(payment)
        new = NewSettlement(
            key=payment_key,
            second_key=second_key,
            request_digest=request_digest,
            dialect=request.dialect,
            payment=payment,
            available=facts.spendable,
            outstanding={
                other.id: 0 if was_used else other.payment.amount
                for other, was_used in zip(others, used, strict=True)
            },
            waiter=waiter,
            waiter_until=self.clock() + WAITER_LEASE_MS,
            idempotency_key=None if key is None else key.key,
            body_digest=None if key is None else key.body_digest,
            traceparent=current_traceparent(),
        )
        return new, facts.limit

    async def _refused(self, payment: AnyPayment, refusal: Refusal) -> SettleReply:
        if refusal.reason is Reason.AUTHORIZATION_USED_ELSEWHERE:
            # The money sits in the contract, and only its owner can give it back.
            event(_log, logging.CRITICAL, "authorization_used_elsewhere", payer=payment.payer)
        if refusal.reason is not Reason.AUTHORIZATION_USED:
            return SettleReply(refusal=refusal)
        found = await self.search.transaction_of(payment)
        return SettleReply(refusal=refusal, transaction_hash=found)

    # --- with which signer

    async def _claim_with_any(self, new: NewSettlement, limit: Reason, until: float) -> Submitted:
        """Claim with the signer whose turn it is; while it cannot pay for gas and another one may,
        with the next one.
        """
        for _ in self.signers.addresses[1:]:
            submitted = await self._claim_in_turn(new, limit, until)
            refusal = submitted.refusal if isinstance(submitted, SettleReply) else None
            unfit = refusal is not None and refusal.reason in UNFIT
            if not unfit or not self.signers.has_another():
                return submitted
        return await self._claim_in_turn(new, limit, until)

    async def _claim_in_turn(self, new: NewSettlement, limit: Reason, until: float) -> Submitted:
        if self._groups and scheme_of(new.payment).groupable(new.payment):
            member: Member[Submitted] = Member(new, limit)
            async with self.signers.slot(until, member) as slot:
                if slot is None:
                    submitted = await member.result()
                elif slot.company:
                    submitted = await self._claim_group(member, slot)
                else:
                    submitted = await self._claim(new, limit, slot)
            if submitted is not None:
                return submitted
        async with self.signers.slot(until) as slot:
            assert slot is not None
            return await self._claim(new, limit, slot)

    # --- one payment alone

    async def _claim(self, new: NewSettlement, limit: Reason, slot: Slot[Submitted]) -> Submitted:
        """Claim one payment and send its transaction, or return why not."""
        late = self._too_late(new.payment)
        if late is not None:
            return late
        call = scheme_of(new.payment).settlement_call(new.payment)
        prepared = await self._prepare(new.payment, call, slot.signer)
        if isinstance(prepared, SettleReply):
            return prepared
        transaction = self.signers.transaction(TransactionKind.SETTLE, call, slot.signer, prepared)
        with anyio.CancelScope(shield=True):
            claimed = await self.store.claim(new, transaction, self.clock())
            if isinstance(claimed, Claimed):
                settlement_submitted(self.network, claimed)
                await self._send(claimed.transaction, slot)
        if isinstance(claimed, BudgetSpent):
            self.signers.unfit(slot.signer, Reason.BUDGET_SPENT)
            return SettleReply(refusal=Refusal(Reason.BUDGET_SPENT))
        return _submitted(claimed, new, limit)

    async def _prepare(
        self, payment: AnyPayment, call: Call, signer: bytes
    ) -> Prepared | SettleReply:
        gas_cap = scheme_of(payment).gas_cap(payment)
        prepare = partial(self.signers.prepare, call, signer, gas_cap)
        found: Prepared | Refusal | Reverted = await prepare()
        prepared, early = await self.simulator.or_in_next_block(payment, found, prepare)
        if isinstance(prepared, Reverted):
            now = self.clock() // 1000
            refusal = await self.simulator.diagnose(payment, prepared, now, early=early)
            return SettleReply(refusal=refusal)
        return SettleReply(refusal=prepared) if isinstance(prepared, Refusal) else prepared

    async def _send(self, sent: Transaction, slot: Slot[Submitted]) -> None:
        """Send the transaction that payments were claimed with."""
        self.signers.claimed(slot)
        await self.broadcaster.send(sent, sent.attempts[-1])

    # --- a group

    async def _claim_group(
        self, leader: Member[Submitted], slot: Slot[Submitted]
    ) -> Submitted | None:
        """Claim as many as can be claimed of the `leader` and those that share its slot, send them
        in one transaction, and resolve each of them. Returns the leader's result; None where it has
        to be claimed alone, as the signer cannot pay for a group.
        """
        members = (leader, *slot.company)
        try:
            await self._prepare_group(members, slot)
        except (ChainUnavailable, StoreError) as fault:
            for member in members:
                member.resolve(fault)
        finally:
            for member in members:
                member.resolve(None)
        return await leader.result()

    async def _prepare_group(
        self, members: Sequence[Member[Submitted]], slot: Slot[Submitted]
    ) -> None:
        payers = [CodeOf(member.new.payment.payer) for member in members]
        codes, ready = await asyncio.gather(
            self.chain.read(payers),
            asyncio.gather(
                *(
                    asyncio.create_task(
                        self._prepare_member(member, slot.signer), context=member.context
                    )
                    for member in members
                )
            ),
        )
        # Code of a payer could use up the gas of all others, so such a payment goes alone.
        fit = [
            each for each, code in zip(ready, codes, strict=True) if each is not None and not code
        ]
        fit = fit[: batching.fitting([each.prepared.gas_limit for each in fit])]
        call = batching.group_call(each.call for each in fit)
        singles = [each.prepared for each in fit]
        together = await self.signers.prepare_group(call, slot.signer, singles)
        if together is not None:
            with anyio.CancelScope(shield=True):
                await self._claim_together(fit, slot, together)

    async def _prepare_member(self, member: Member[Submitted], signer: bytes) -> _Ready | None:
        payment = member.new.payment
        call = scheme_of(payment).settlement_call(payment)
        try:
            prepared = self._too_late(payment) or await self._prepare(payment, call, signer)
        except ChainUnavailable as fault:
            member.resolve(fault)
            return None
        if isinstance(prepared, SettleReply):
            member.resolve(prepared)
            return None
        return _Ready(member, call, prepared)

    async def _claim_together(
        self, ready: Sequence[_Ready], slot: Slot[Submitted], together: Prepared
    ) -> None:
        """Claim a group and send it; `together` is what all of them cost. Members that have
        withdrawn in the meantime are left out.
        """
        ready = [each for each in ready if not each.member.withdrawn]

        def transaction(indexes: tuple[int, ...]) -> NewTransaction:
            sharing = [ready[index] for index in indexes]
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
            return self.signers.transaction(kind, call, slot.signer, prepared)

        group = [each.member.new for each in ready]
        claims = await self.store.claim_group(group, transaction, self.clock())
        if isinstance(claims, BudgetSpent):
            return
        sent = None
        for one, claimed in zip(ready, claims, strict=True):
            if isinstance(claimed, Claimed):
                one.member.context.run(settlement_submitted, self.network, claimed)
                sent = claimed.transaction
        if sent is not None:
            await self._send(sent, slot)
        for one, claimed in zip(ready, claims, strict=True):
            one.member.resolve(_submitted(claimed, one.member.new, one.member.limit))


def _submitted(
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
