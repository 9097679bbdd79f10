"""The signers of one chain: their keys, and which of them signs the next transaction.

A node's pool keeps only so many transactions of one account, so each signer has a limited number in
flight. A payment that comes while all are full waits in a bounded queue; it is claimed only after.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from msgspec.structs import replace

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain, Reverted
from facilitator.chain.l1_fee import DataFees
from facilitator.domain import batching
from facilitator.domain.budget import Prepared
from facilitator.domain.nonces import nonce_floor
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.settlement import Attempt, Policy, Transaction, TransactionKind
from facilitator.engine.queue import (
    UNFIT_FOR_MS,
    Account,
    Member,
    Queue,
    Slot,
    among,
    with_room,
)
from facilitator.ethereum.abi import Call
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.fees import Fees, initial_fees, outbidding_fees
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import TransactionBuilder
from facilitator.journal.store import NewTransaction, Store
from facilitator.telemetry.logs import event
from facilitator.telemetry.tracing import current, inside, span

_log = logging.getLogger(__name__)

# How often an account nonce that is not certain is read again, while payments ask for a signer.
LOOK_AT_NONCE_MS = 2_000
# Refusals that are due to one signer: another one may be able to pay for gas.
UNFIT = frozenset({Reason.OUT_OF_GAS_MONEY, Reason.BUDGET_SPENT})


@dataclass(kw_only=True, eq=False)
class Keys:
    """The keys of this process, by the address of their account. `clock` is in unix milliseconds.
    What signs raises KeyError for an account whose key is not here.
    """

    signers: Mapping[bytes, Signer]
    builder: TransactionBuilder
    chain_id: int
    policy: Policy
    clock: Callable[[], int]

    def allows(self, call: Call, address: bytes) -> bool:
        """Return whether this account may sign the call: its contract must still be configured, and
        its key be in this process, not only in another replica.
        """
        return address in self.signers and self.builder.allows(call, address)

    def sign(
        self, address: bytes, account_nonce: int, call: Call, gas_limit: int, fees: Fees
    ) -> Attempt:
        """Return the call signed, with these fees (wei a gas) and this gas limit."""
        with span("sign", chain_id=self.chain_id, account_nonce=account_nonce):
            signed = self.builder.sign(
                self.signers[address],
                account_nonce=account_nonce,
                call=call,
                gas_limit=gas_limit,
                fees=fees,
            )
        return Attempt(hash=signed.hash, raw=signed.raw, fees=fees, signed_at=self.clock())

    def replacement(self, transaction: Transaction, fees: Fees) -> Attempt:
        """Return the same transaction signed with other fees."""
        return self.sign(
            transaction.signer,
            transaction.account_nonce,
            transaction.call,
            transaction.gas_limit,
            fees,
        )

    def outbidding(
        self, call: Call, address: bytes, account_nonce: int, prepared: Prepared
    ) -> Callable[[Attempt], Attempt]:
        """Return a function that signs the call with fees so high that pools accept it in the place
        of another attempt with that account nonce.
        """

        def sign(last: Attempt) -> Attempt:
            fees = outbidding_fees(last.fees, prepared.fees, self.policy.max_fee_per_gas)
            return self.sign(address, account_nonce, call, prepared.gas_limit, fees)

        return sign


class SignerPool:
    """The signers of one chain. One that is `retiring` takes no new payment: it only replaces its
    own transactions, until they are mined.
    """

    def __init__(
        self,
        signers: Sequence[Signer],
        *,
        retiring: frozenset[bytes],
        builder: TransactionBuilder,
        chain: Chain,
        store: Store,
        chain_id: int,
        policy: Policy,
        clock: Callable[[], int],
    ) -> None:
        self._accounts = {
            signer.address: Account(signer.address, retires=signer.address in retiring)
            for signer in signers
        }
        self.keys = Keys(
            signers={signer.address: signer for signer in signers},
            builder=builder,
            chain_id=chain_id,
            policy=policy,
            clock=clock,
        )
        self._chain = chain
        self._data_fees = DataFees(chain)
        self._store = store
        self._chain_id = chain_id
        self._policy = policy
        self._clock = clock
        self._queue: Queue[Any] = Queue(self._reserve, policy.batch_max)
        self.signed = 0  # first attempts, for metrics
        self.last_prepared: Prepared | None = None  # of a single payment

    @property
    def accounts(self) -> tuple[Account, ...]:
        """Every signer's state, in the order of configuration."""
        return tuple(self._accounts.values())

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Every signer's address, in the order of configuration."""
        return tuple(self._accounts)

    @property
    def waiting(self) -> int:
        """Return how many payments wait for a slot."""
        return len(self._queue)

    async def ready(self) -> None:
        """Make the next account nonce of the signers certain, so that none is handed out twice.
        Raises ChainUnavailable where it is certain of no signer, and StoreError.
        """
        await asyncio.gather(*(self._sync(each) for each in self.accounts if not each.synced))
        if not any(account.synced for account in self.accounts):
            raise ChainUnavailable("no signer's account nonce is certain")

    async def _sync(self, account: Account) -> None:
        now = self._clock()
        if account.looked_at is not None and now - account.looked_at < LOOK_AT_NONCE_MS:
            return
        address, chain = account.address, self._chain
        mined, pooled = await asyncio.gather(
            chain.quorum.account_nonce(address), chain.quorum.pooled_nonces(address)
        )
        # Read after the chain: what another process signs meanwhile would seem to be a stranger's.
        known = await self._store.raise_nonce_floor(self._chain_id, address, 0)
        floor: int | None = known
        # A false count makes a gap, which stops the signer. One of several endpoints, while the
        # others are away, is believed only where the journal must be wrong, and within limits.
        if not mined.alone or not known or account.doubted:
            floor = nonce_floor(known, mined.value, pooled, alone=mined.alone)
        if floor is not None:
            await self._store.raise_nonce_floor(self._chain_id, address, floor)
            account.doubted = False
        elif account.looked_at is None:
            self._event(logging.CRITICAL, "signer_paused", address)
        account.synced, account.looked_at = floor is not None, now if floor is None else None

    def doubt(self, address: bytes) -> None:
        """Hand out no further account nonce of this signer until it was read from the chain again,
        as a node has refused one as too low. Does nothing for a signer of another replica.
        """
        account = self._accounts.get(address)
        if account is not None:
            account.synced, account.doubted = False, True

    def about_to_observe(self) -> None:
        """Note that the loop reads the journal now, and may not see what is claimed later."""
        for account in self.accounts:
            account.unseen = 0

    def observe(self, address: bytes, pending: int) -> None:
        """Note how many of a signer's transactions the loop saw pending."""
        account = self._accounts[address]
        account.pending = pending + account.unseen
        self._queue.admit()

    @asynccontextmanager
    async def slot(
        self, until: float, member: Member[Any] | None = None
    ) -> AsyncIterator[Slot[Any] | None]:
        """Hold a slot of the least loaded signer during the block.

        While all are full it waits in the queue. Raises TimeoutError at `until`, on the event
        loop's clock, and QueueFull when too many wait already. A `member` of a group may share its
        slot with others, or the slot of another one: then it gets None, and that one resolves it.
        """
        account = None if self._queue else self._reserve()
        slot: Slot[Any] | None = None if account is None else Slot(account)
        if slot is None:
            with anyio.fail_after(until - anyio.current_time()):
                slot = await self._queue.wait(member)
        try:
            yield slot
        finally:
            if slot is not None:
                slot.give_back()
                self._queue.admit()

    def least_loaded(self) -> bytes:
        """Return the signer for a transaction that must not wait: one that settles a payment again.
        Raises ChainUnavailable where no signer's account nonce is certain.
        """
        chosen = among(self.accounts, self._clock())
        if not chosen:
            raise ChainUnavailable("no signer's account nonce is certain")
        return chosen[0].address

    def has_another(self) -> bool:
        """Return whether a signer that takes new payments can pay for gas, as far as is known."""
        now = self._clock()
        return any(each.synced and not each.retires and each.is_fit(now) for each in self.accounts)

    def unfit(self, address: bytes, reason: Reason) -> None:
        """Prefer other signers for a while: this one cannot pay for gas now."""
        account = self._accounts[address]
        if account.unfit is not reason:
            self._event(logging.CRITICAL, f"signer_{reason}", address)
        account.unfit, account.unfit_until = reason, self._clock() + UNFIT_FOR_MS

    def _fit_again(self, account: Account, reason: Reason) -> None:
        if account.unfit is reason:
            account.unfit = None
            self._event(logging.INFO, f"signer_{reason}_no_more", account.address)

    def _event(self, level: int, name: str, address: bytes) -> None:
        event(_log, level, name, signer=checksum(address), chain_id=self._chain_id)

    def claimed(self, slot: Slot[Any]) -> None:
        """Note that the slot has become a transaction in the journal."""
        slot.take()
        self._fit_again(slot.account, Reason.BUDGET_SPENT)

    def ended(self, address: bytes) -> None:
        """Note that a transaction of this signer is pending no more: its slot is free at once, not
        only when the loop observes the signer again.
        """
        account = self._accounts.get(address)
        if account is not None and account.pending > 0:
            account.pending -= 1
        self._queue.admit()

    def _reserve(self) -> Account | None:
        account = with_room(self.accounts, self._clock())
        if account is not None:
            account.reserved += 1
        return account

    async def prepare(
        self, call: Call, address: bytes, gas_cap: int, block: str = "latest"
    ) -> Prepared | Reverted | Refusal:
        """Simulate `call` as this signer would send it, with at most `gas_cap` gas. Returns its gas
        limit and fees, or its revert, or why this signer cannot pay for it now. Raises
        ChainUnavailable.
        """
        preparation, l1_fee = await asyncio.gather(
            self._chain.prepare(call, address, gas_cap, block), self._data_fees.most(call)
        )
        if isinstance(preparation, Reverted):
            return preparation
        account = self._accounts[address]
        if preparation.account_nonce > account.floor:
            account.floor = await self._raised_floor(account, preparation.account_nonce)
        account.balance = preparation.balance
        fees = initial_fees(preparation.market, self._policy.max_fee_per_gas)
        if fees is None:
            return Refusal(Reason.FEES_ABOVE_CAP)
        prepared = Prepared(preparation.gas_limit, fees, l1_fee)
        if call.calldata:
            self.last_prepared = prepared
        if not account.can_pay(prepared.most_cost):
            self.unfit(address, Reason.OUT_OF_GAS_MONEY)
            return Refusal(Reason.OUT_OF_GAS_MONEY)
        self._fit_again(account, Reason.OUT_OF_GAS_MONEY)
        return prepared

    async def _raised_floor(self, account: Account, shown: int) -> int:
        """Return the account's new floor, where an endpoint shows a higher account nonce: the
        quorum must agree.
        """
        agreed = await self._chain.quorum.raised_account_nonce(account.address, shown)
        return account.floor if agreed is None else max(account.floor, agreed)

    async def prepare_group(
        self, call: Call, address: bytes, singles: Sequence[Prepared]
    ) -> Prepared | None:
        """Return what a group may cost, given what each of its calls may cost alone; None where
        there are none, or this signer cannot pay for as many. Raises ChainUnavailable.
        """
        if not singles:
            return None
        gas_limit = batching.gas_limit([each.gas_limit for each in singles])
        fees = batching.highest([each.fees for each in singles])
        together = Prepared(gas_limit, fees, await self._data_fees.most(call))
        return together if self._accounts[address].can_pay(together.most_cost) else None

    def with_gas(self, prepared: Prepared, address: bytes, gas_limit: int) -> Prepared:
        """Return `prepared` with this gas limit, or unchanged if the signer cannot pay for it."""
        raised = replace(prepared, gas_limit=gas_limit)
        return raised if self._accounts[address].can_pay(raised.most_cost) else prepared

    def transaction(
        self, kind: TransactionKind, call: Call, address: bytes, prepared: Prepared
    ) -> NewTransaction:
        """Return what the store needs to hand out an account nonce and to sign the call with it."""
        account = self._accounts[address]
        span_of_request = current()  # the journal signs in a thread of its own

        def sign(account_nonce: int) -> Attempt:
            self.signed += 1
            with inside(span_of_request):
                return self.keys.sign(
                    address, account_nonce, call, prepared.gas_limit, prepared.fees
                )

        return NewTransaction(
            chain_id=self._chain_id,
            signer=address,
            nonce_floor=account.floor,
            kind=kind,
            call=call,
            gas_limit=prepared.gas_limit,
            sign=sign,
            l1_fee=prepared.l1_fee,
            most_cost=prepared.most_cost,
            gas_budget=self._policy.gas_budget,
        )
