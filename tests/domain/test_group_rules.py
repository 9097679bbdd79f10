"""What a group's call is, which of them a signer may sign, and how much gas they get."""

import pytest
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector
from hypothesis import given
from hypothesis import strategies as st

from facilitator.domain.batching import GROUP_GAS_CAP, fitting, gas_limit, group_call, highest
from facilitator.domain.schemes import eip3009, jeju
from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import Fees
from facilitator.ethereum.multicall3 import (
    AGGREGATE3,
    MULTICALL3,
    Inner,
    aggregate3,
    inner_calls,
)
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import ForbiddenCall, TransactionBuilder

CONTRACT, ASSET, FACTORY = b"\xc0" * 20, b"\xa5" * 20, b"\xfa" * 20
SIGNER = Signer(b"\x01" * 32)
GROUP = (MULTICALL3, AGGREGATE3)
ALLOWED = jeju.allowed_calls(CONTRACT) | eip3009.allowed_calls((ASSET,), deployments=False)
SETTLE = Call(CONTRACT, jeju.SETTLE + b"\x07" * 100)
GASLESS = Call(CONTRACT, jeju.SETTLE_WITH_AUTHORIZATION + b"\x08" * 64)
TRANSFER = Call(ASSET, eip3009.TRANSFER_BY_KEY + b"\x09" * 32)
THEFT = Call(ASSET, bytes.fromhex("a9059cbb") + bytes(64))
calls = st.builds(Call, st.binary(min_size=20, max_size=20), st.binary(max_size=100))


def sign(
    call: Call,
    allowed: frozenset[tuple[bytes, bytes]] = ALLOWED | {GROUP},
    factories: frozenset[bytes] = frozenset(),
) -> None:
    builder = TransactionBuilder(420691, allowed, factories=factories)
    builder.sign(SIGNER, account_nonce=0, call=call, gas_limit=100_000, fees=Fees(2, 1))


@given(st.lists(calls, min_size=1, max_size=5))
def test_a_group_is_what_eth_abi_makes_of_its_calls_and_can_be_read_again(
    members: list[Call],
) -> None:
    """Every one of them may fail."""
    form = "(address,bool,bytes)[]"
    encoded = encode([form], [[(each.target, True, each.calldata) for each in members]])
    selector = bytes(function_signature_to_4byte_selector(f"aggregate3({form})"))
    call = group_call(members)
    assert call == Call(MULTICALL3, selector + encoded)
    assert inner_calls(call) == tuple(members)


def test_a_group_of_allowed_calls_is_signed() -> None:
    for members in ([SETTLE], [SETTLE, GASLESS, TRANSFER], [TRANSFER] * 32):
        sign(group_call(members))


@pytest.mark.parametrize(
    "member",
    [
        THEFT,
        Call(CONTRACT, b""),
        Call(ASSET, jeju.SETTLE),
        Call(b"\xc1" * 20, SETTLE.calldata),
        Call(SIGNER.address, b""),  # a filler is the signer's own, and no member of anything
        Call(FACTORY, b"\x01\x02\x03\x04"),
        Call(MULTICALL3, b""),
        group_call([SETTLE]),
    ],
)
def test_a_group_with_one_call_that_is_not_allowed_is_refused(member: Call) -> None:
    """Wherever it stands among those that are, and whether it may fail or not."""
    for members in ([member], [SETTLE, member, TRANSFER], [TRANSFER, member]):
        for may_fail in (False, True):
            with pytest.raises(ForbiddenCall):
                sign(aggregate3(*(Inner(each, may_fail) for each in members)))


def test_groups_are_signed_only_where_they_are_allowed() -> None:
    with pytest.raises(ForbiddenCall):
        sign(group_call([SETTLE]), ALLOWED)


def test_a_listed_factory_is_called_in_a_group_and_by_no_signer() -> None:
    """So Multicall3 is whom it sees."""
    deploy = Call(FACTORY, b"\x01\x02\x03\x04")
    wrapped = aggregate3(Inner(deploy, may_fail=True), Inner(TRANSFER, may_fail=False))
    sign(wrapped, factories=frozenset({FACTORY}))
    with pytest.raises(ForbiddenCall):
        sign(deploy, factories=frozenset({FACTORY}))
    with pytest.raises(ForbiddenCall):
        sign(wrapped, factories=frozenset({CONTRACT}))


@pytest.mark.parametrize(
    "calldata",
    [
        AGGREGATE3,
        AGGREGATE3 + bytes(32),
        group_call([]).calldata,
        group_call([SETTLE]).calldata + bytes(32),
        group_call([SETTLE]).calldata[:-1],
        AGGREGATE3 + b"\xff" * 96,
        # the flag is 2: eth-abi and Solidity do not read that alike
        group_call([SETTLE]).calldata.replace(
            (1).to_bytes(32) + (96).to_bytes(32), b"\0" * 31 + b"\2" + (96).to_bytes(32)
        ),
    ],
)
def test_a_group_that_is_not_written_as_ours_are_is_refused(calldata: bytes) -> None:
    assert inner_calls(Call(MULTICALL3, calldata)) == ()
    with pytest.raises(ForbiddenCall):
        sign(Call(MULTICALL3, calldata))


def test_only_a_group_has_calls_inside() -> None:
    assert inner_calls(Call(CONTRACT, group_call([SETTLE]).calldata)) == ()
    assert inner_calls(SETTLE) == ()


gas = st.integers(min_value=21_000, max_value=500_000)


@given(st.lists(gas, min_size=1, max_size=32), st.data())
def test_every_call_of_a_group_gets_all_that_it_may_take_alone(
    singles: list[int], data: st.DataObject
) -> None:
    """Whatever the others use up of theirs, and though a call hands on 63/64 of what is left."""
    left = gas_limit(singles)
    for single in singles:
        assert left - left // 64 >= single
        left -= data.draw(st.integers(min_value=0, max_value=single))


@given(st.lists(gas, max_size=128))
def test_a_group_is_as_large_as_its_gas_allows(singles: list[int]) -> None:
    count = fitting(singles)
    assert count == 0 or gas_limit(singles[:count]) <= GROUP_GAS_CAP
    assert count == len(singles) or gas_limit(singles[: count + 1]) > GROUP_GAS_CAP
    assert fitting([100_000] * 32) == 32


def test_a_group_offers_the_highest_of_each_fee() -> None:
    assert highest([Fees(30, 1), Fees(20, 3), Fees(25, 2)]) == Fees(30, 3)
