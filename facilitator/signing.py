"""The signers of one chain: which of them takes the next transaction, and under which limits.

A node's pool keeps only so many transactions of one account, so each signer has a limited number in
flight; who comes when all are full waits in a bounded queue. Nothing is claimed while waiting.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from facilitator.chain import Chain, Reverted
from facilitator.ethereum.fees import Fees, initial_fees
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import Call, TransactionBuilder
from facilitator.payments import Reason, Refusal
from facilitator.settlement import Attempt, Policy, Transaction, TransactionKind
from facilitator.store import NewTransaction, Store

# geth's pool guarantees an account 16 slots and lends it up to 64.
MAX_IN_FLIGHT = 64
QUEUE_LIMIT = 1024


class QueueFull(Exception):
    """As many payments wait for a signer as may."""


class _Waiter:
    __slots__ = ("address", "granted")

    def __init__(self) -> None:
        self.granted = anyio.Event()
        self.address = b""


class _Account:
    """One signer's counts: `reserved` places are held by requests that have claimed nothing yet,
    `pending` transactions are in the journal and not mined. `floor` is the least account nonce that
    the chain would still take.
    """

    __slots__ = ("floor", "pending", "reserved", "retires", "signer", "synced")

    def __init__(self, signer: Signer, *, retires: bool) -> None:
        self.signer = signer
        self.retires = retires
        self.reserved = 0
        self.pending = 0
        self.floor = 0
        self.synced = False

    @property
    def load(self) -> int:
        return self.reserved + self.pending


class SignerPool:
    """The private keys of one chain. Nothing else signs. A signer that is `retiring` takes no new
    payment: it only replaces its own transactions, until they are mined.
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
            signer.address: _Account(signer, retires=signer.address in retiring)
            for signer in signers
        }
        self._active = [each for each in self._accounts.values() if not each.retires]
        self._builder = builder
        self._chain = chain
        self._store = store
        self._chain_id = chain_id
        self._policy = policy
        self._clock = clock
        self._queue: deque[_Waiter] = deque()

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Every signer's address, in the order of configuration."""
        return tuple(self._accounts)

    async def ready(self) -> None:
        """Before the first transaction: see that no account nonce is handed out twice.

        The journal knows which were. Where it knows of none beyond what is mined (it is new, or was
        lost), transactions that wait in the node's pool count as well, up to as many as may be in
        flight. Raises ChainUnavailable and StoreError, and is asked again then.
        """
        for account in self._accounts.values():
            if account.synced:
                continue
            address = account.signer.address
            mined, pooled = await asyncio.gather(
                self._chain.account_nonce(address), self._chain.account_nonce(address, "pending")
            )
            next_nonce = await self._store.raise_nonce_floor(self._chain_id, address, mined)
            if next_nonce == mined and pooled > mined:
                floor = min(pooled, mined + MAX_IN_FLIGHT)
                await self._store.raise_nonce_floor(self._chain_id, address, floor)
            account.synced = True

    def observe(self, address: bytes, pending: int) -> None:
        """How many of a signer's transactions the loop saw pending."""
        self._accounts[address].pending = pending
        self._admit()

    @asynccontextmanager
    async def place(self, until: float) -> AsyncIterator[bytes]:
        """A place of the least loaded signer, whose address it gives, held for the block.

        When all are full it waits its turn, until `until` on the event loop's clock (TimeoutError);
        raises QueueFull when too many wait already.
        """
        address = None if self._queue else self._reserve()
        if address is None:
            with anyio.fail_after(until - anyio.current_time()):
                address = await self._wait()
        try:
            yield address
        finally:
            self._accounts[address].reserved -= 1
            self._admit()

    def least_loaded(self) -> bytes:
        """The signer for a transaction that must not wait: one that takes up a payment again."""
        return self._least_loaded().signer.address

    def _least_loaded(self) -> _Account:
        # Where every key retires, what they have taken on is still brought to its end.
        among = self._active or list(self._accounts.values())
        return min(among, key=lambda account: account.load)

    def claimed(self, address: bytes) -> None:
        """The place of this signer has become a transaction in the journal."""
        self._accounts[address].pending += 1

    def ended(self, address: bytes) -> None:
        """A transaction of this signer is pending no more: its place is free at once, not only
        when the loop looks again.
        """
        account = self._accounts.get(address)
        if account is not None and account.pending > 0:
            account.pending -= 1
        self._admit()

    def _reserve(self) -> bytes | None:
        account = self._least_loaded()
        if account.load >= MAX_IN_FLIGHT:
            return None
        account.reserved += 1
        return account.signer.address

    def _admit(self) -> None:
        while self._queue:
            address = self._reserve()
            if address is None:
                return
            waiter = self._queue.popleft()
            waiter.address = address
            waiter.granted.set()

    async def _wait(self) -> bytes:
        if len(self._queue) >= QUEUE_LIMIT:
            raise QueueFull
        waiter = _Waiter()
        self._queue.append(waiter)
        try:
            await waiter.granted.wait()
        except BaseException:  # cancelled: give back what may have been granted in the meantime
            if waiter.address:
                self._accounts[waiter.address].reserved -= 1
                self._admit()
            else:
                self._queue.remove(waiter)
            raise
        return waiter.address

    async def prepare(
        self, call: Call, address: bytes, gas_cap: int
    ) -> tuple[int, Fees] | Reverted | Refusal:
        """Simulate `call` as this signer would send it, with at most `gas_cap` gas: its gas limit
        and fees, the revert that it would end in, or why this signer cannot pay for it now. Raises
        ChainUnavailable.
        """
        preparation = await self._chain.prepare(call, address, gas_cap)
        if isinstance(preparation, Reverted):
            return preparation
        account = self._accounts[address]
        account.floor = max(account.floor, preparation.account_nonce)
        fees = initial_fees(preparation.market, self._policy.max_fee_per_gas)
        if fees is None:
            return Refusal(Reason.FEES_ABOVE_CAP)
        # All that is in flight may cost as much again.
        most = preparation.gas_limit * fees.max_fee_per_gas * account.load
        if preparation.balance < most:
            return Refusal(Reason.OUT_OF_GAS_MONEY)
        return preparation.gas_limit, fees

    def transaction(
        self, kind: TransactionKind, call: Call, address: bytes, gas_limit: int, fees: Fees
    ) -> NewTransaction:
        """What the store needs to hand out an account nonce and have the call signed with it."""
        account = self._accounts[address]

        def sign(account_nonce: int) -> Attempt:
            return self._sign(account.signer, account_nonce, call, gas_limit, fees)

        return NewTransaction(
            chain_id=self._chain_id,
            signer=address,
            nonce_floor=account.floor,
            kind=kind,
            call=call,
            gas_limit=gas_limit,
            sign=sign,
        )

    def allows(self, call: Call, address: bytes) -> bool:
        """Whether this signer may sign the call; not where its contract is configured no more."""
        return self._builder.allows(call, address)

    def replacement(self, transaction: Transaction, fees: Fees) -> Attempt:
        """The same transaction with other fees."""
        return self._sign(
            self._accounts[transaction.signer].signer,
            transaction.account_nonce,
            transaction.call,
            transaction.gas_limit,
            fees,
        )

    def _sign(
        self, signer: Signer, account_nonce: int, call: Call, gas_limit: int, fees: Fees
    ) -> Attempt:
        signed = self._builder.sign(
            signer, account_nonce=account_nonce, call=call, gas_limit=gas_limit, fees=fees
        )
        return Attempt(hash=signed.hash, raw=signed.raw, fees=fees, signed_at=self._clock())
