"""What the store takes and gives: payments to take on, changes, and what these come to."""

from collections.abc import Callable, Mapping

from msgspec import Struct

from facilitator.domain.schemes import AnyPayment
from facilitator.domain.settlement import (
    Attempt,
    Settlement,
    SettlementState,
    Transaction,
    TransactionKind,
)
from facilitator.ethereum.abi import Call


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


ClaimedOrNot = Claimed | Taken | IdempotencyKeyTaken | Overcommitted
