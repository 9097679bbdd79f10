"""What is known of each signer of one chain, and which of them takes the next transaction."""

from collections.abc import Iterable

from facilitator.domain.nonces import MAX_IN_FLIGHT
from facilitator.domain.payment import Reason

# For this long a signer that could not pay for gas is passed over where another one can.
UNFIT_FOR_MS = 15_000


class Account:
    """One signer's state, for all to read.

    `reserved` places are held by requests that have claimed nothing yet, `pending` transactions
    are in the journal and not mined, `unseen` of them since the loop last asked for them. `floor`
    is the least account nonce that the chain would still take. It takes part once it is `synced`:
    its next account nonce is certain; it is `doubted` once the chain has called one too low.
    `unfit` says why it could not pay for gas when it was last asked, which counts until
    `unfit_until` (unix milliseconds); `balance` is what it had then, in wei.
    """

    __slots__ = (
        *("address", "balance", "doubted", "floor", "looked_at", "pending", "reserved", "retires"),
        *("synced", "unfit", "unfit_until", "unseen"),
    )

    def __init__(self, address: bytes, *, retires: bool) -> None:
        self.address = address
        self.retires = retires
        self.reserved = 0
        self.pending = 0
        self.unseen = 0
        self.floor = 0
        self.balance: int | None = None
        self.synced = False
        self.doubted = False
        self.looked_at: int | None = None
        self.unfit: Reason | None = None
        self.unfit_until = 0

    @property
    def is_paused(self) -> bool:
        """Whether it signs nothing, as its next account nonce was not certain at the last look."""
        return not self.synced and self.looked_at is not None

    @property
    def load(self) -> int:
        """Transactions in flight, and those about to be."""
        return self.reserved + self.pending

    def can_pay(self, cost: int) -> bool:
        """Whether it had this many wei, and as many for each other transaction in flight: all of
        them may cost as much.
        """
        return self.balance is not None and self.balance >= cost * max(self.load, 1)

    def is_fit(self, now: int) -> bool:
        """Whether it can pay for gas, as far as is known."""
        return self.unfit is None or now >= self.unfit_until


def among(accounts: Iterable[Account], now: int) -> list[Account]:
    """Those that may take the next transaction, in the order of preference: who can pay for gas,
    or all where nobody can; the least loaded first. Where every key retires, what they have taken
    on is still brought to its end.
    """
    certain = [account for account in accounts if account.synced]
    active = [account for account in certain if not account.retires] or certain
    fit = [account for account in active if account.is_fit(now)] or active
    return sorted(fit, key=lambda account: account.load)


def with_room(accounts: Iterable[Account], now: int) -> Account | None:
    """The one of them that takes the next transaction; None where its pool would be full."""
    chosen = among(accounts, now)
    return chosen[0] if chosen and chosen[0].load < MAX_IN_FLIGHT else None
