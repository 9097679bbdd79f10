"""ABI words packed by hand are the words of eth-abi."""

import pytest
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from facilitator.ethereum.abi import (
    MAX_UINT256,
    Dynamic,
    address_word,
    encode_arguments,
    selector,
    topic,
    uint_word,
)

addresses = st.binary(min_size=20, max_size=20)
uints = st.integers(0, MAX_UINT256) | st.sampled_from([0, 1, 2**64, 2**255, MAX_UINT256])
words = st.binary(min_size=32, max_size=32)
contents = st.binary(max_size=200)
TRANSFER = "transfer(address,uint256)"


def packed(value: bytes | int | str, kind: str) -> bytes | Dynamic:
    match kind, value:
        case "uint256", int(number):
            return uint_word(number)
        case "address", bytes(address):
            return address_word(address)
        case "string", str(text):
            return Dynamic(text.encode())
        case "bytes", bytes(content):
            return Dynamic(content)
        case "bytes32", bytes(word):
            return word
    raise AssertionError(kind)


strategies: dict[str, st.SearchStrategy[bytes | int | str]] = {
    "address": addresses,
    "uint256": uints,
    "string": st.text(max_size=80),
    "bytes": contents,
    "bytes32": words,
}
SETTLE = ["address"] * 3 + ["uint256", "string", "string", "uint256", "bytes"]
GASLESS = [*SETTLE, "uint256", "uint256", "bytes32", "bytes"]


@st.composite
def arguments(
    draw: st.DrawFn, kinds: st.SearchStrategy[list[str]]
) -> list[tuple[str, bytes | int | str]]:
    return [(kind, draw(strategies[kind])) for kind in draw(kinds)]


@given(
    arguments(
        st.sampled_from([SETTLE, GASLESS])
        | st.lists(st.sampled_from(sorted(strategies)), max_size=9)
    )
)
def test_arguments_are_packed_as_eth_abi_packs_them(
    given_arguments: list[tuple[str, bytes | int | str]],
) -> None:
    """settle's and settleWithAuthorization's lists, and any other of the same types."""
    kinds = [kind for kind, _ in given_arguments]
    values = [value for _, value in given_arguments]
    ours = encode_arguments(*(packed(value, kind) for kind, value in given_arguments))
    assert ours == encode(kinds, values)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 63, 64, 65])
def test_padding_fills_a_word_and_adds_none(length: int) -> None:
    content = b"\xff" * length
    assert encode_arguments(Dynamic(content)) == encode(["bytes"], [content])


@pytest.mark.parametrize("value", [-1, MAX_UINT256 + 1])
def test_what_is_no_uint256_does_not_wrap_around(value: int) -> None:
    with pytest.raises(OverflowError):
        uint_word(value)


def test_selectors_and_topics_are_those_of_the_signature() -> None:
    assert selector(TRANSFER) == function_signature_to_4byte_selector(TRANSFER)
    assert topic(TRANSFER) == keccak(TRANSFER.encode())
