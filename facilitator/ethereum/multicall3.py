"""Multicall3: several calls in one transaction. The contracts called see Multicall3 as the caller.

It lies at the same address on nearly every chain (https://github.com/mds1/multicall3).
"""

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from msgspec import Struct

from facilitator.ethereum.abi import Call, selector
from facilitator.ethereum.addresses import parse_address

MULTICALL3 = parse_address("0xcA11bde05977b3631167028862bE2a173976CA11")
_CALLS = "(address,bool,bytes)[]"
AGGREGATE3 = selector(f"aggregate3({_CALLS})")


class Inner(Struct, frozen=True):
    """One of the calls. Where it may not fail, its failure reverts the whole transaction."""

    call: Call
    may_fail: bool


def aggregate3(*inner: Inner) -> Call:
    """Return one call that makes all of them, in this order."""
    described = [(each.call.target, each.may_fail, each.call.calldata) for each in inner]
    return Call(MULTICALL3, AGGREGATE3 + encode([_CALLS], [described]))


def inner_calls(group: Call) -> tuple[Call, ...]:
    """Return the calls inside an `aggregate3`; an empty tuple where the bytes are not exactly those
    that `aggregate3` writes, as another reader might understand such bytes differently.
    """
    if (group.target, group.selector) != (MULTICALL3, AGGREGATE3):
        return ()
    try:
        [described] = decode([_CALLS], group.calldata[4:])
    except (DecodingError, OverflowError):
        return ()
    found = [
        Inner(Call(bytes.fromhex(target[2:]), calldata), may_fail)
        for target, may_fail, calldata in described
    ]
    return tuple(each.call for each in found) if aggregate3(*found) == group else ()
