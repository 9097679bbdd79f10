"""Signatures: what we sign others recover, what others sign we recover, and of every signature only
one spelling counts.
"""

import pytest
from eth_account import Account
from eth_keys.datatypes import PrivateKey, PublicKey, Signature
from hypothesis import given
from hypothesis import strategies as st

from facilitator.ethereum.secp256k1 import (
    HALF_ORDER,
    ORDER,
    InvalidSignature,
    Signer,
    normalise,
    recover,
)

secrets = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32))
digests = st.binary(min_size=32, max_size=32)
SECRET = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
DIGEST = bytes(range(32))


def foreign_signature(secret: bytes, digest: bytes) -> bytes:
    """By eth-account: r, s, v as 27 or 28."""
    return bytes(Account.unsafe_sign_hash(digest, secret).signature)


def raw(r: int, s: int, v: int) -> bytes:
    return r.to_bytes(32) + s.to_bytes(32) + bytes((v,))


@given(secrets)
def test_a_signer_has_the_address_of_its_key(secret: bytes) -> None:
    assert Signer(secret).address == PrivateKey(secret).public_key.to_canonical_address()


@given(secrets, digests)
def test_what_eth_account_signs_is_recovered(secret: bytes, digest: bytes) -> None:
    signature = normalise(foreign_signature(secret, digest))
    assert recover(digest, signature) == PrivateKey(secret).public_key.to_canonical_address()


@given(secrets, digests)
def test_what_a_signer_signs_is_what_eth_account_signs(secret: bytes, digest: bytes) -> None:
    """RFC 6979: the same nonce, so the same bytes."""
    parity, r, s = Signer(secret).sign(digest)
    assert raw(r, s, 27 + parity) == foreign_signature(secret, digest)
    assert 0 < s <= HALF_ORDER
    assert recover(digest, normalise(raw(r, s, parity))) == Signer(secret).address


@given(digests, st.integers(1, ORDER - 1), st.integers(1, HALF_ORDER), st.sampled_from([27, 28]))
def test_random_signatures_recover_as_eth_keys_says_or_not_at_all(
    digest: bytes, r: int, s: int, v: int
) -> None:
    """About half of them have no point on the curve."""
    try:
        key: PublicKey = Signature(raw(r, s, v - 27)).recover_public_key_from_msg_hash(digest)
    except Exception:
        with pytest.raises(InvalidSignature):
            recover(digest, normalise(raw(r, s, v)))
        return
    assert recover(digest, normalise(raw(r, s, v))) == key.to_canonical_address()


@pytest.mark.parametrize(("given_v", "kept"), [(0, 27), (1, 28), (27, 27), (28, 28)])
def test_v_is_27_or_28_afterwards(given_v: int, kept: int) -> None:
    assert normalise(raw(1, 1, given_v)) == raw(1, 1, kept)


@pytest.mark.parametrize("v", [v for v in range(256) if v not in (0, 1, 27, 28)])
def test_any_other_v_is_refused(v: int) -> None:
    """EIP-155's 35 and above among them: that is for transactions."""
    with pytest.raises(InvalidSignature, match="v must"):
        normalise(raw(1, 1, v))


@given(secrets, digests)
def test_the_high_s_twin_of_a_signature_is_refused(secret: bytes, digest: bytes) -> None:
    """It recovers to the same signer on the bare curve, so it would be a second spelling."""
    signature = foreign_signature(secret, digest)
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])
    for v in (27, 28):
        with pytest.raises(InvalidSignature, match="upper half"):
            normalise(raw(r, ORDER - s, v))


@pytest.mark.parametrize("s", [HALF_ORDER + 1, ORDER - 1])
def test_s_may_reach_half_the_order_and_no_more(s: int) -> None:
    assert normalise(raw(1, HALF_ORDER, 27)) == raw(1, HALF_ORDER, 27)
    with pytest.raises(InvalidSignature, match="upper half"):
        normalise(raw(1, s, 27))


@pytest.mark.parametrize("outside", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_r_and_s_are_within_the_order(outside: int) -> None:
    for r, s in ((outside, 1), (1, outside), (outside, outside)):
        with pytest.raises(InvalidSignature, match="out of range"):
            normalise(raw(r, s, 27))


@pytest.mark.parametrize("length", [length for length in range(131) if length != 65])
def test_every_other_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidSignature, match=f"got {length}"):
        normalise(foreign_signature(SECRET, DIGEST).ljust(131, b"\x1b")[:length])


@given(secrets, digests)
def test_compact_signatures_are_refused(secret: bytes, digest: bytes) -> None:
    """EIP-2098: 64 bytes, the parity in the highest bit of s. The contract knows none."""
    signature = foreign_signature(secret, digest)
    s = int.from_bytes(signature[32:64]) | (signature[64] - 27) << 255
    with pytest.raises(InvalidSignature):
        normalise(signature[:32] + s.to_bytes(32))


@given(st.binary(min_size=64, max_size=64), st.sampled_from([0, 1, 2, 26, 27, 28, 29, 255]))
def test_garbage_is_refused_without_being_shown_or_has_one_spelling(rs: bytes, v: int) -> None:
    garbage = rs + bytes((v,))
    try:
        once = normalise(garbage)
    except InvalidSignature as invalid:
        refused = str(invalid)
    else:
        refused = ""
        assert normalise(once) == once
    assert garbage.hex() not in refused


@pytest.mark.parametrize("secret", [bytes(32), ORDER.to_bytes(32), b"\xff" * 32, b"", bytes(33)])
def test_what_is_no_key_makes_no_signer(secret: bytes) -> None:
    with pytest.raises(ValueError):
        Signer(secret)


@given(st.integers(2**200, ORDER - 1).map(lambda number: number.to_bytes(32)))
def test_a_signer_shows_its_address_and_never_its_key(secret: bytes) -> None:
    signer = Signer(secret)
    for shown in (repr(signer), str(signer), f"{signer}", f"{[signer]}"):
        assert signer.address.hex() in shown
        assert secret.hex() not in shown
        assert str(int.from_bytes(secret)) not in shown
    assert not hasattr(signer, "__dict__")
