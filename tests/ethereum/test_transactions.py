"""Raw transactions: the bytes of eth-account, for nothing but what the allow-list names."""

import pytest
import rlp  # type: ignore[import-untyped] # it ships no types
from eth_account import Account
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facilitator.domain.schemes import jeju
from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import Fees
from facilitator.ethereum.secp256k1 import ORDER, Signer
from facilitator.ethereum.transactions import (
    ForbiddenCall,
    TransactionBuilder,
    created_address,
    encode_bytes,
    encode_int,
    encode_list,
)

SECRET = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
SIGNER = Signer(SECRET)
CONTRACT = b"\xc0" * 20
ALLOWED = jeju.allowed_calls(CONTRACT)
FEES = Fees(2, 1)

secrets = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32))
addresses = st.binary(min_size=20, max_size=20)
uint64s = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 127, 128, 255, 256, 2**32])


def by_eth_account(
    secret: bytes, chain_id: int, nonce: int, call: Call, gas_limit: int, fees: Fees
) -> tuple[bytes, bytes]:
    signed = Account.sign_transaction(
        {
            "type": 2,
            "chainId": chain_id,
            "nonce": nonce,
            # eth-account spells a creation as an empty "to"
            "to": to_checksum_address(call.target) if call.target else "",
            "value": 0,
            "data": call.calldata,
            "gas": gas_limit,
            "maxFeePerGas": fees.max_fee_per_gas,
            "maxPriorityFeePerGas": fees.max_priority_fee_per_gas,
        },
        secret,
    )
    return bytes(signed.raw_transaction), bytes(signed.hash)


@settings(max_examples=500, deadline=None)
@given(
    secrets,
    st.integers(1, 2**63 - 1),
    uint64s,
    addresses,
    st.binary(min_size=4, max_size=700),
    uint64s,
    uint64s,
    uint64s,
)
@example(SECRET, 1, 0, bytes(20), bytes(4), 0, 0, 0)
@example(SECRET, 420691, 127, b"\xff" * 20, b"\x7f" * 4, 128, 256, 1)
@example(SECRET, 8453, 128, bytes(19) + b"\1", bytes(55), 21_000, 10**9, 10**6)
@example(SECRET, 8453, 2**64 - 1, CONTRACT, bytes(56), 2**32, 2**63, 2**63)
@example(SECRET, 8453, 3, CONTRACT, b"\xab" * 70_000, 10**7, 10**12, 10**9)
@example(SECRET, 8453, 3, b"", b"\x60" * 7_000, 10**7, 10**12, 10**9)
def test_the_raw_bytes_and_the_hash_are_those_of_eth_account(
    secret: bytes,
    chain_id: int,
    nonce: int,
    target: bytes,
    calldata: bytes,
    gas_limit: int,
    max_fee: int,
    tip: int,
) -> None:
    """Byte for byte, zeros and long calldata included."""
    call, fees = Call(target, calldata), Fees(max_fee, tip)
    builder = TransactionBuilder(chain_id, frozenset({(target, calldata[:4])}))
    ours = builder.sign(
        Signer(secret), account_nonce=nonce, call=call, gas_limit=gas_limit, fees=fees
    )
    theirs = by_eth_account(secret, chain_id, nonce, call, gas_limit, fees)
    assert (ours.raw, ours.hash) == theirs


@given(secrets, uint64s)
def test_a_gap_filler_is_an_empty_transfer_of_nothing_to_oneself(secret: bytes, nonce: int) -> None:
    signer = Signer(secret)
    call = Call(signer.address, b"")
    ours = TransactionBuilder(1, frozenset()).sign(
        signer, account_nonce=nonce, call=call, gas_limit=21_000, fees=FEES
    )
    assert (ours.raw, ours.hash) == by_eth_account(secret, 1, nonce, call, 21_000, FEES)


def sign(call: Call, allowed: frozenset[tuple[bytes, bytes]] = ALLOWED) -> None:
    TransactionBuilder(420691, allowed).sign(
        SIGNER, account_nonce=0, call=call, gas_limit=100_000, fees=FEES
    )


@pytest.mark.parametrize("selector", [jeju.SETTLE, jeju.SETTLE_WITH_AUTHORIZATION])
@given(arguments=st.binary(max_size=100))
def test_only_the_two_settlements_of_the_contract_are_signed(
    selector: bytes, arguments: bytes
) -> None:
    sign(Call(CONTRACT, selector + arguments))
    for target in (b"\xc1" * 20, bytes(20), SIGNER.address, b""):
        with pytest.raises(ForbiddenCall):
            sign(Call(target, selector + arguments))


@given(addresses, st.binary(max_size=40))
def test_every_other_target_or_selector_is_forbidden(target: bytes, calldata: bytes) -> None:
    """Random ones, with the right contract and with the right selector alike."""
    for call in (
        Call(target, calldata),
        Call(CONTRACT, calldata),
        Call(target, jeju.SETTLE + calldata),
    ):
        if (call.target, call.calldata[:4]) not in ALLOWED:
            with pytest.raises(ForbiddenCall):
                sign(call)


@pytest.mark.parametrize(
    "call",
    [
        Call(SIGNER.address, b"\0"),
        Call(SIGNER.address, jeju.SETTLE),
        Call(SIGNER.address[:-1] + b"\0", b""),
        Call(CONTRACT, b""),
        Call(bytes(20), b""),
        Call(b"", b""),
        Call(CONTRACT, jeju.SETTLE[:3]),
        Call(CONTRACT, bytes.fromhex("a9059cbb") + bytes(64)),  # transfer
        Call(CONTRACT, bytes.fromhex("f2fde38b") + bytes(32)),  # transferOwnership
    ],
)
def test_no_filler_and_no_call_that_nobody_allowed(call: Call) -> None:
    """A filler carries no calldata and goes to the signer itself."""
    with pytest.raises(ForbiddenCall):
        sign(call)
    with pytest.raises(ForbiddenCall):
        sign(call, frozenset())


def test_an_empty_allow_list_allows_fillers_alone() -> None:
    sign(Call(SIGNER.address, b""), frozenset())
    with pytest.raises(ForbiddenCall):
        sign(Call(CONTRACT, jeju.SETTLE), frozenset())


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (encode_bytes(b""), "80"),
        (encode_bytes(b"\x7f"), "7f"),
        (encode_bytes(b"\x80"), "8180"),
        (encode_bytes(b"dog"), "83646f67"),
        (encode_bytes(bytes(55)), "b7" + "00" * 55),
        (encode_bytes(bytes(56)), "b838" + "00" * 56),
        (encode_bytes(bytes(256)), "b90100" + "00" * 256),
        (encode_int(0), "80"),
        (encode_int(15), "0f"),
        (encode_int(1024), "820400"),
        (encode_list(), "c0"),
        (encode_list(encode_bytes(b"cat"), encode_bytes(b"dog")), "c88363617483646f67"),
    ],
)
def test_rlp_is_that_of_the_yellow_paper(encoded: bytes, expected: str) -> None:
    assert encoded.hex() == expected


@given(addresses, uint64s)
@example(bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0"), 0)
def test_a_contract_lands_where_the_rlp_library_says(sender: bytes, account_nonce: int) -> None:
    by_library = keccak(rlp.encode([sender, account_nonce]))[12:]
    assert created_address(sender, account_nonce) == by_library


def test_who_may_deploy_may_deploy_nothing_else() -> None:
    code = b"\x60\x80\x60\x40" + bytes(60)
    allowed = frozenset({(b"", code[:4])})
    sign(Call(b"", code), allowed)
    for call in (Call(b"", b"\x61" + code[1:]), Call(CONTRACT, code), Call(bytes(20), code)):
        with pytest.raises(ForbiddenCall):
            sign(call, allowed)
