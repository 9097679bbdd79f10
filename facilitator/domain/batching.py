"""Several payments in one transaction: a Multicall3 `aggregate3` in which each call may fail alone.

A signer has at most 64 transactions in flight, but a block has gas for many more payments: those
that queue share transactions. Pure functions of what each payment would take alone.
"""

from collections.abc import Iterable, Sequence

from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import Fees
from facilitator.ethereum.multicall3 import Inner, aggregate3

# Half of a common block, and below what any one transaction may have (EIP-7825: 2^24).
GROUP_GAS_CAP = 15_000_000
# What Multicall3 itself uses for each call: it decodes it, calls, and keeps what is returned. That
# each estimate includes the 21,000 gas of a transaction, needed once, is a further reserve.
GAS_PER_CALL = 5_000
GAS_PER_GROUP = 30_000


def group_call(calls: Iterable[Call]) -> Call:
    """Return one call that makes all of them, in this order; one that fails undoes no other."""
    return aggregate3(*(Inner(call, may_fail=True) for call in calls))


def gas_limit(singles: Sequence[int]) -> int:
    """Return the gas limit of a group, from the limits that each of its calls would have alone.

    A node's estimate is no use here: where a call that may fail runs out of gas, the group succeeds
    all the same. A call gets at most 63/64 of the gas that is left (EIP-150), so the sum is raised
    until the last call gets enough.
    """
    return -(-sum(singles) * 64 // 63) + GAS_PER_CALL * len(singles) + GAS_PER_GROUP


def fitting(singles: Sequence[int]) -> int:
    """Return how many of the calls, from the first one on, fit into one transaction."""
    count = len(singles)
    while count and gas_limit(singles[:count]) > GROUP_GAS_CAP:
        count -= 1
    return count


def highest(fees: Sequence[Fees]) -> Fees:
    """Return the highest of each of the two fees, of at least one pair."""
    return Fees(
        max(each.max_fee_per_gas for each in fees),
        max(each.max_priority_fee_per_gas for each in fees),
    )
