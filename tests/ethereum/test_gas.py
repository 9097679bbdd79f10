"""The laws of gas limits: none below what the bytes of a transaction cost, whatever a node says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facilitator.domain.batching import gas_limit as group_gas_limit
from facilitator.domain.batching import group_call
from facilitator.ethereum.abi import Call
from facilitator.ethereum.gas import gas_limit, intrinsic_gas

SOMEBODY = b"\xb0" * 20
CAP = 500_000
calls = st.builds(Call, st.binary(min_size=20, max_size=20), st.binary(max_size=600))
estimates = st.integers(0, 2**256 - 1) | st.integers(0, 2 * CAP)


@pytest.mark.parametrize(
    ("target", "calldata", "least"),
    [
        (SOMEBODY, b"", 21_000),
        (SOMEBODY, b"\0", 21_010),
        (SOMEBODY, b"\1", 21_040),
        (SOMEBODY, bytes(100), 22_000),  # and 21,400 for execution
        (SOMEBODY, b"\1" * 100, 25_000),  # and 22,600 for execution
        (SOMEBODY, b"\1\0" * 50, 23_500),
        (b"", b"", 53_000),
        (b"", b"\1", 53_018),  # one word of creation code
        (b"", b"\1" * 32, 53_514),
        (b"", b"\1" * 33, 53_532),
        (b"", bytes(32), 53_130),
        (b"", b"\1" * 3_200, 149_000),  # the floor is above 104,400
    ],
)
def test_a_transaction_has_the_gas_that_its_bytes_cost(
    target: bytes, calldata: bytes, least: int
) -> None:
    """EIP-2028 and EIP-7623; for a contract's creation EIP-2 and EIP-3860 as well."""
    assert intrinsic_gas(Call(target, calldata)) == least


@pytest.mark.parametrize(
    ("estimate", "limit"),
    [
        (0, CAP),
        (21_000, CAP),
        (24_999, CAP),
        (25_000, 31_250),
        (60_000, 75_000),
        (107_003, 133_753),
        (400_000, CAP),
        (2**256 - 1, CAP),
    ],
)
def test_an_estimate_gets_a_margin_and_an_impossible_one_is_none(estimate: int, limit: int) -> None:
    """The call then gets all that it may use."""
    assert gas_limit(Call(SOMEBODY, b"\1" * 100), estimate, CAP) == limit


def test_a_filler_of_a_gap_needs_no_more_than_a_transfer() -> None:
    assert gas_limit(Call(SOMEBODY, b""), 21_000, CAP) == 26_250


@given(calls, estimates, st.integers(21_000, CAP))
def test_no_gas_limit_is_below_what_the_bytes_cost_or_above_the_cap(
    call: Call, estimate: int, cap: int
) -> None:
    """Where there is none between the two, the call is refused."""
    limit, least = gas_limit(call, estimate, cap), intrinsic_gas(call)
    if limit is None:
        assert least > cap
    else:
        assert least <= limit <= cap


@given(st.lists(calls, min_size=1, max_size=32), st.data())
def test_no_group_has_less_gas_than_its_bytes_cost(
    members: list[Call], data: st.DataObject
) -> None:
    """However little each of its calls takes alone."""
    singles = [intrinsic_gas(call) + data.draw(st.integers(0, 2)) for call in members]
    assert group_gas_limit(singles) >= intrinsic_gas(group_call(members))
