"""What the store takes and returns: payments to claim, transactions to sign, and the answers."""

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
    """A payment to claim. `key` and `second_key` are the one-shot nonces that it uses up.

    `available` is how much of the asset the payer could spend as of a recent block: this payment
    and all pending ones of the same payer and asset must fit into it. `outstanding` holds, by id,
    the settlements that were open before that block was asked for, with the amount that the block
    does not show yet: 0 where the money had moved by then. `body_digest` is the digest of the
    request that brought the idempotency key.
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
        """Return whether this repeats the request of `found`, a settlement that FAILED."""
        return (
            found.state is SettlementState.FAILED
            and found.key == self.key
            and found.request_digest == self.request_digest
        )


class NewTransaction(Struct, frozen=True, kw_only=True):
    """A transaction to sign inside the store's own transaction, once the account nonce is known.

    `nonce_floor` is the least account nonce that the chain would still take; `sign` is called at
    most once, with the nonce that was handed out. `most_cost` is the most that the transaction may
    cost in wei, `l1_fee` included, and `gas_budget` what its signer may spend in a day, in wei
    (None: no limit).
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
    """The payment is claimed, and its transaction signed and stored."""

    settlement: Settlement
    transaction: Transaction


class Taken(Struct, frozen=True):
    """One of the payment's nonces is in the journal already, with this settlement."""

    settlement: Settlement


class IdempotencyKeyTaken(Struct, frozen=True):
    """The caller's idempotency key belongs to this other settlement."""

    settlement: Settlement


class KeptReply(Struct, frozen=True):
    """What the journal keeps under an idempotency key: the digest of the request that brought the
    key, and the body of the final reply, once there is one.
    """

    body_digest: bytes
    reply: bytes | None


class Overcommitted(Struct, frozen=True):
    """The payer's pending payments leave only this much of the asset, in atomic units."""

    left: int


class BudgetSpent(Struct, frozen=True):
    """The signer has spent this much of its day's gas budget, in wei: another does not fit."""

    spent: int


ClaimedOrNot = Claimed | Taken | IdempotencyKeyTaken | Overcommitted
