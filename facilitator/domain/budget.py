"""What a signer may spend on gas in a day: wei, by the UTC day in which a transaction was signed.

A pending transaction counts with the most that it may cost, whichever day it was signed on, a mined
one with what it did cost: so the limit holds whatever the chain does next.
"""

from collections.abc import Iterable

from msgspec import Struct

from facilitator.domain.settlement import Transaction
from facilitator.ethereum.fees import Fees

DAY_MS = 86_400_000


def day_of(now: int) -> int:
    """Return the UTC day, counted from 1970, of a time in unix milliseconds."""
    return now // DAY_MS


def most_cost(gas_limit: int, max_fee_per_gas: int, l1_fee: int) -> int:
    """Return the most that a transaction may cost, in wei; `l1_fee` is charged beside gas."""
    return gas_limit * max_fee_per_gas + l1_fee


class Prepared(Struct, frozen=True):
    """What a transaction may cost: gas, wei a gas, and on an OP-stack chain wei for its data."""

    gas_limit: int
    fees: Fees
    l1_fee: int

    @property
    def most_cost(self) -> int:
        """Return the most that a transaction may cost, in wei; `l1_fee` is charged beside gas."""
        return most_cost(self.gas_limit, self.fees.max_fee_per_gas, self.l1_fee)


def committed(transaction: Transaction) -> int:
    """Return the most that a pending transaction may cost: any of its attempts may be the one
    mined.
    """
    dearest = max(attempt.fees.max_fee_per_gas for attempt in transaction.attempts)
    return most_cost(transaction.gas_limit, dearest, transaction.l1_fee)


def spent(final: int, mined: Iterable[int], pending: Iterable[int]) -> int:
    """Return how much of a day's budget is used, in wei: by final and mined transactions of that
    day, and by everything that is pending.
    """
    return final + sum(mined) + sum(pending)


def allows(budget: int | None, spent_so_far: int, cost: int) -> bool:
    """Return whether the budget has room for another `cost` wei; None is no limit."""
    return budget is None or spent_so_far + cost <= budget
