"""Addresses as text: one spelling of EIP-55 goes out, and nothing but an address comes in."""

import pytest
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import assume, given
from hypothesis import strategies as st

from facilitator.ethereum.addresses import checksum, parse_address
from facilitator.ethereum.keccak import keccak256

addresses = st.binary(min_size=20, max_size=20)
USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"


@given(st.binary(max_size=500))
def test_keccak_is_the_one_of_ethereum(content: bytes) -> None:
    assert keccak256(content) == keccak(content)


@given(addresses)
def test_checksum_is_eip_55(address: bytes) -> None:
    assert checksum(address) == to_checksum_address(address)


@given(addresses)
def test_every_right_spelling_parses(address: bytes) -> None:
    """With its checksum, or in one case, which carries none."""
    digits = address.hex()
    for spelling in (to_checksum_address(address), "0x" + digits, "0x" + digits.upper()):
        assert parse_address(spelling) == address


@given(addresses, st.sets(st.integers(0, 39), min_size=1))
def test_one_letter_of_the_wrong_case_is_refused(address: bytes, swapped: set[int]) -> None:
    right = to_checksum_address(address)[2:]
    text = "".join(
        letter.swapcase() if place in swapped else letter for place, letter in enumerate(right)
    )
    assume(text not in (right, right.lower(), right.upper()))
    with pytest.raises(ValueError, match="checksum"):
        parse_address("0x" + text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        USDC[2:],
        "0X" + USDC[2:],
        "0x" + USDC,
        USDC + "\n",
        "\n" + USDC,
        USDC + " ",
        " " + USDC,
        USDC + "\0",
        USDC + "00",
        USDC[:-1],
        USDC[:-1] + "g",
        USDC[:-1] + "\uff13",  # a full-width 3
        USDC[:-1] + "\u0663",  # an Arabic-Indic 3
        USDC[:-1] + "\n",
        USDC.lower() + "\n",  # without a checksum to fail on
        USDC.lower() + " ",
        USDC[:10] + "_" + USDC[11:],
        "0x" + " " * 40,
        "0x-" + USDC[3:],
        "0x\uff11" + "1" * 39,
        "vitalik.eth",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@given(st.text(max_size=60))
def test_text_that_parses_is_forty_ascii_hex_digits(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert text.isascii()
    assert text.lower() == "0x" + address.hex()


def test_the_zero_address_and_its_neighbours_parse() -> None:
    assert parse_address("0x" + "0" * 40) == bytes(20)
    assert parse_address("0x" + "1" * 40) == b"\x11" * 20
    assert parse_address("0x" + "f" * 40) == parse_address("0x" + "F" * 40) == b"\xff" * 20
