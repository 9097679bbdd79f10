"""The journal: the truth about what was taken on, signed, sent and said.

One protocol, the same laws on every engine. Every method is one database transaction; when it
returns, what it wrote survives a crash. Settlement states change by compare-and-set on `version`,
so nothing is overwritten that another reader has decided since. Times are unix milliseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from facilitator.domain.schemes import AnyPayment
from facilitator.domain.settlement import (
    Attempt,
    OpenWork,
    Settlement,
    SettlementChange,
    SettlementCounts,
    SettlementRecord,
    SettlementState,
    Transaction,
    TransactionChange,
    TransactionKind,
)
from facilitator.ethereum.transactions import Call

# What the other rooms use of the journal, wherever it is defined.
__all__ = [
    "BudgetSpent",
    "Claimed",
    "Fence",
    "IdempotencyKeyTaken",
    "KeptReply",
    "LostLease",
    "NewSettlement",
    "NewTransaction",
    "Notices",
    "OpenWork",
    "Overcommitted",
    "SettlementChange",
    "SettlementRecord",
    "SharedStore",
    "Store",
    "StoreError",
    "StoreLocked",
    "Taken",
    "TransactionChange",
]


class StoreError(Exception):
    """The database did not do what it was asked; whether it was written is unknown."""


class StoreLocked(StoreError):
    """Another process has this database open."""


class LostLease(StoreError):
    """Nothing was written: another process watches the chain by now."""


class NewSettlement(Struct, frozen=True, kw_only=True):
    """A payment to take on. `key` and `second_key` are the one-shot nonces that it uses up.

    `available` is how much of the asset the payer could spend as of a recent block: this payment
    and all pending ones of the same payer and asset must fit into it. `outstanding` says of those
    that were open before that block was asked, by id, how much it does not show yet: 0 where the
    money had moved by then. `body_digest` is of the request that brought the idempotency key.
    """

    key: str
    second_key: str | None
    request_digest: bytes
    dialect: str
    payment: AnyPayment
    available: int
    waiter: str
    waiter_until: int
    tenant: str = ""
    idempotency_key: str | None = None
    body_digest: bytes | None = None
    traceparent: str | None = None
    outstanding: Mapping[str, int] = {}

    def reopens(self, found: Settlement) -> bool:
        """Whether this is the request of a settlement in the journal, which FAILED, once more."""
        return (
            found.state is SettlementState.FAILED
            and found.key == self.key
            and found.request_digest == self.request_digest
        )


class NewTransaction(Struct, frozen=True, kw_only=True):
    """A transaction to sign inside the store's own transaction, once the account nonce is known.

    `nonce_floor` is the least account nonce that the chain would still take; `sign` gets the nonce
    that was handed out, and is called at most once. `most_cost` is the most wei that it may cost,
    `l1_fee` included, and `gas_budget` what its signer may spend in a day (None: no limit).
    """

    chain_id: int
    signer: bytes
    nonce_floor: int
    kind: TransactionKind
    call: Call
    gas_limit: int
    sign: Callable[[int], Attempt]
    l1_fee: int = 0
    most_cost: int = 0
    gas_budget: int | None = None


class Claimed(Struct, frozen=True):
    """The payment is ours to settle: claimed, and its transaction signed and stored."""

    settlement: Settlement
    transaction: Transaction


class Taken(Struct, frozen=True):
    """One of the payment's nonces is in the journal already, with this settlement."""

    settlement: Settlement


class IdempotencyKeyTaken(Struct, frozen=True):
    """The caller's idempotency key belongs to this other settlement."""

    settlement: Settlement


class KeptReply(Struct, frozen=True):
    """What the journal holds under an idempotency key: the digest of the request that brought it,
    and the body of its final reply, once there is one.
    """

    body_digest: bytes
    reply: bytes | None


class Overcommitted(Struct, frozen=True):
    """The payer's pending payments leave only this much of the asset, in atomic units."""

    left: int


class BudgetSpent(Struct, frozen=True):
    """The signer has spent this much of its day's budget for gas, in wei: too much for another."""

    spent: int


class Store(Protocol):
    """See the module's text for what every method promises. All raise StoreError."""

    async def claim(
        self, new: NewSettlement, transaction: NewTransaction, now: int
    ) -> Claimed | Taken | IdempotencyKeyTaken | Overcommitted | BudgetSpent:
        """Insert the settlement, hand out the account nonce, sign and store the attempt: all or
        nothing. A FAILED settlement of the same key and request digest is opened again instead
        (PENDING, refusal and kept reply cleared, waiter set, version + 1; an idempotency key that
        comes with the request takes the place of the one before, which is free from then on).
        Nothing but Claimed leaves a trace.
        """

    async def claim_group(
        self,
        group: Sequence[NewSettlement],
        transaction: Callable[[tuple[int, ...]], NewTransaction],
        now: int,
    ) -> tuple[Claimed | Taken | IdempotencyKeyTaken | Overcommitted, ...] | BudgetSpent:
        """Claim payments that share one transaction, each for itself as `claim` does, in the order
        given: an answer for each. `transaction` gets the indexes of those that are claimed, and is
        asked once, where there is one. BudgetSpent leaves no trace of any.
        """

    async def settle_again(
        self, settlement_id: str, version: int, transaction: NewTransaction, now: int
    ) -> Transaction | BudgetSpent | None:
        """A further transaction for a settlement in PENDING or REORGED; its version rises. None
        where its version is another by now.
        """

    async def fill(
        self, transaction: NewTransaction, account_nonce: int, now: int
    ) -> Transaction | None:
        """A transaction that carries no settlement (kind FILL), at exactly this account nonce,
        which is not handed out again. None where the journal has a transaction of that nonce.
        """

    async def revive(self, chain_id: int, signer: bytes, account_nonce: int) -> bool:
        """The chain wants an account nonce whose transaction counts as ended (SUPERSEDED, FINAL):
        it is PENDING again, and what it had cost is not spent. False where there is none, or it
        must not be sent again (see `take_over`).
        """

    async def replace_with_filler(
        self,
        transaction: NewTransaction,
        account_nonce: int,
        outbid: Callable[[Attempt], Attempt],
        now: int,
    ) -> Transaction | None:
        """The chain wants an account nonce whose transaction, no filler and not MINED, carries a
        settlement that FAILED or was LOST: that was told, and must stay true. So `transaction`, a
        filler, takes its place: the same row, PENDING, with a further attempt, which `outbid` signs
        given its last one. What it had cost is not spent; what it carried and the attempts stay
        known, for one of them may be mined all the same. None where there is no such transaction.
        """

    async def add_attempt(
        self,
        transaction_id: int,
        attempt: Attempt,
        gas_budget: int | None,
        now: int,
        gas_limit: int | None = None,
    ) -> bool:
        """Append a replacement; False unless the transaction is still PENDING, and where the
        signer's budget for the day does not allow for it. `gas_limit`: the transaction's from now
        on, no lower than it was (None: as it was).
        """

    async def record(
        self,
        transactions: Sequence[TransactionChange],
        settlements: Sequence[SettlementChange],
        now: int,
    ) -> tuple[Settlement, ...]:
        """Apply all changes in one transaction; the settlements that did change, as they are now.

        A change whose version has passed, or whose proof is another settlement's already, is left
        out.
        """

    async def finalize(self, chain_id: int, block_number: int) -> int:
        """MINED transactions at or below that block become FINAL; how many did."""

    async def forget(
        self, chain_id: int, *, horizon: int, before: int, now: int, limit: int
    ) -> int:
        """Delete up to `limit` settlements of a chain that are CONFIRMED, FAILED or LOST, neither
        changed nor listened to since `before`, their proof at block `horizon` at most, and all
        their transactions FINAL or SUPERSEDED: with those that carry nothing else, and as many
        fillers of that age. How many settlements did leave.

        Of one that did not FAIL `used_by` knows the keys until an hour after its payment's
        deadline. Idempotency keys and replies are gone. What is left of the gas budgets does not
        change, nor do the account nonces that are handed out next.
        """

    async def used_by(self, keys: Sequence[str]) -> bytes | None:
        """The hash of the transaction of a settlement that was forgotten, and that had one of these
        keys; None where there was none whose payment could still be presented.
        """

    async def find(self, key: str) -> Settlement | None:
        """The settlement that has this key as its first or second one."""

    async def get(self, settlement_id: str) -> SettlementRecord | None:
        """One settlement with its transactions."""

    async def find_transaction(self, transaction_hash: bytes) -> Settlement | None:
        """The settlement that this transaction was signed for, or that its log proves."""

    async def open_work(self, chain_id: int) -> OpenWork:
        """Settlements in PENDING or REORGED or with a PENDING transaction, and pending fillers."""

    async def watched(self, chain_id: int, horizon: int) -> OpenWork:
        """What a reorg could still undo: records with a MINED transaction, or CONFIRMED by a proof
        above block `horizon`, whosever it is; and MINED fillers.
        """

    async def outstanding(
        self, chain_id: int, asset: bytes, payer: bytes
    ) -> tuple[Settlement, ...]:
        """The settlements of a payer and asset in PENDING or REORGED."""

    async def gas_spent(self, chain_id: int, signer: bytes, now: int) -> int:
        """What the signer's budget of the day of `now` has gone to, in wei (see `budget`)."""

    async def become_waiter(
        self, settlement_id: str, waiter: str, until: int, now: int
    ) -> Settlement:
        """Become the settlement's waiter if nobody was told of success and no waiter lives
        (none, or its `waiter_until` is at or before now). The settlement as it then is; its
        `waiter` tells whether it worked. LookupError for an unknown id.
        """

    async def renew(self, settlement_id: str, waiter: str, until: int) -> bool:
        """Stay the settlement's waiter until then; False for one that is it no more."""

    async def let_go(self, settlement_id: str, waiter: str) -> None:
        """Stop being the waiter, if one still is, having said nothing."""

    async def mark_success_replied(
        self, settlement_id: str, waiter: str, now: int, reply: bytes | None = None
    ) -> bool:
        """Take the right to say success, once in the settlement's life: True only for its waiter,
        in state CONFIRMED, when `replied_success_at` was not set. `reply` is kept with it, for
        repetitions under the settlement's idempotency key.
        """

    async def mark_all_replied(self, now: int) -> int:
        """Of every settlement that could still end in success, let nobody hear of it any more; how
        many there were. For a journal that comes from a backup: what happened since is not in it.
        Raises StoreLocked where another process uses the journal, as `refuse_shared` does.
        """

    async def keep_reply(self, settlement_id: str, reply: bytes) -> None:
        """Keep a final reply of failure, for repetitions under the settlement's idempotency key."""

    async def find_reply(self, tenant: str, idempotency_key: str) -> KeptReply | None:
        """What is kept under an idempotency key; None where no claimed payment came with it."""

    async def raise_nonce_floor(self, chain_id: int, signer: bytes, floor: int) -> int:
        """Make sure that no nonce below `floor` is handed out any more; the next one to be."""

    async def in_flight(self, chain_id: int) -> dict[bytes, int]:
        """How many PENDING transactions each signer has on a chain (no entry: none)."""

    async def settlement_counts(self, chain_id: int) -> SettlementCounts:
        """How many settlements there are in each state, and since when the oldest is pending."""

    async def ping(self) -> None:
        """Raise StoreError unless the database can be written."""

    async def close(self) -> None:
        """Finish what was asked, then release the database."""


class Fence:
    """Whose turn it is to watch a chain, as this process knows it. `token` is the fencing token of
    its lease, None while another process has it.
    """

    __slots__ = ("chain_id", "token")

    def __init__(self, chain_id: int) -> None:
        self.chain_id = chain_id
        self.token: int | None = None


class Notices(Protocol):
    """What tells at once of settlements that `record` has changed, in whichever process. Some may
    be missed, so who waits for one looks in the journal as well, now and then.
    """

    @property
    def arrive(self) -> bool:
        """Whether they do at present, as far as is known."""

    def subscribe(self, tell: Callable[[str], None]) -> None:
        """`tell` is called with the id of each, while `run` runs."""

    async def run(self) -> None:
        """Listen for them, and again whenever that breaks off; return where nothing can be heard.
        Raises nothing of the database.
        """

    async def prove(self) -> str | None:
        """Instead of `run`, once: why none arrive here, without any password; None if they do."""


@runtime_checkable
class SharedStore(Store, Protocol):
    """A journal that several processes have open. One of them at a time watches a chain."""

    async def lead(self, chain_id: int, holder: str, lease_ms: int) -> int | None:
        """Take the lease of a chain's loop, or prolong it, for so many milliseconds from now by
        the database's clock. Its fencing token, which rises whenever the lease goes to another
        holder; None where another one has it.
        """

    async def step_down(self, chain_id: int, holder: str) -> None:
        """End the lease, if the holder has it: another one may take it at once."""

    async def refuse_shared(self) -> None:
        """Raise StoreLocked where another process uses the journal, as far as leases tell: one is
        held, or has ended within the seconds in which its holder may come back to it.
        """

    def fenced(self, fence: Fence) -> Store:
        """The same journal for the loop of a chain: nothing is written, and LostLease raised,
        unless the lease is still the one of the token that the fence had when it was asked.
        """

    async def ended(self, settlement_ids: Sequence[str]) -> frozenset[str]:
        """Those of them that are not PENDING nor REORGED."""

    @property
    def notices(self) -> Notices:
        """Of what any of the processes records."""
