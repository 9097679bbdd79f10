"""Multicall3: several calls in one transaction, in which the callees see Multicall3 as the caller.

It lies at the same address on nearly every chain (https://github.com/mds1/multicall3).
"""

from eth_abi.abi import encode
from msgspec import Struct

from facilitator.ethereum.abi import selector
from facilitator.ethereum.addresses import parse_address
from facilitator.ethereum.transactions import Call

MULTICALL3 = parse_address("0xcA11bde05977b3631167028862bE2a173976CA11")
AGGREGATE3 = selector("aggregate3((address,bool,bytes)[])")


class Inner(Struct, frozen=True):
    """One of the calls. Where it may not fail, its failure reverts the whole transaction."""

    call: Call
    may_fail: bool


def aggregate3(*inner: Inner) -> Call:
    """All of them in order, in one call."""
    described = [(each.call.target, each.may_fail, each.call.calldata) for each in inner]
    return Call(MULTICALL3, AGGREGATE3 + encode(["(address,bool,bytes)[]"], [described]))
