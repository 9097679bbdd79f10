"""The laws of an EIP-3009 payment: what is signed, what makes two of them one, what is called."""

from eth_abi.abi import decode, encode
from eth_account import Account as Keys
from eth_account.messages import SignableMessage, _hash_eip191_message
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.schemes import scheme_of
from facilitator.domain.schemes.eip3009 import (
    GAS_BY_KEY,
    GAS_BY_WALLET,
    GAS_WITH_DEPLOYMENT,
    TRANSFER_BY_KEY,
    TRANSFER_BY_WALLET,
    Deployment,
    Eip3009Payment,
    allowed_calls,
    attributed,
    authorization_key,
    digest,
    gas_cap,
    payment_keys,
    request_digest,
    settlement_call,
)
from facilitator.ethereum.multicall3 import AGGREGATE3, MULTICALL3
from tests.support import rows
from tests.support.drawn import addresses, authorizations
from tests.support.encoding import FIELDS, SPLIT, WHOLE
from tests.support.signing import AUTHORIZATION_TYPE, sign_typed_data, typed_data
from tests.support.x402 import compact, high_s, parity_v

KEY = b"\x42" * 32
OWNER = bytes.fromhex(Keys.from_key(KEY).address[2:])
FACTORY = b"\xfa" * 20
LISTED = Deployment(FACTORY, b"deploy", listed=True)
TYPES = FIELDS.split(",")


def fields(payment: Eip3009Payment) -> list[object]:
    return [
        to_checksum_address(payment.payer),
        to_checksum_address(payment.pay_to),
        payment.amount,
        payment.valid_after,
        payment.valid_before,
        payment.authorization_nonce,
    ]


def signable(payment: Eip3009Payment) -> SignableMessage:
    names = [field["name"] for field in AUTHORIZATION_TYPE]
    return typed_data(
        "TransferWithAuthorization",
        AUTHORIZATION_TYPE,
        dict(zip(names, fields(payment), strict=True)),
        name=payment.domain_name,
        version=payment.domain_version,
        chain_id=payment.chain_id,
        verifying_contract=payment.asset,
    )


def signed(payment: Eip3009Payment, key: bytes = KEY) -> Eip3009Payment:
    signature = sign_typed_data(key, signable(payment))
    return replace(payment, signature=signature, signed_by_key=False)


@given(authorizations)
def test_the_digest_is_what_eth_account_signs(payment: Eip3009Payment) -> None:
    assert digest(payment) == _hash_eip191_message(signable(payment))


@given(authorizations)
def test_a_signature_is_the_payers_own_or_nobodys(payment: Eip3009Payment) -> None:
    mine = signed(replace(payment, payer=OWNER))
    assert attributed(mine) == replace(mine, signed_by_key=True)
    assert attributed(replace(mine, payer=b"\x99" * 20)).signed_by_key is False
    assert attributed(replace(mine, amount=mine.amount ^ 1)).signed_by_key is False


def test_only_v_may_be_spelt_in_two_ways() -> None:
    mine = signed(rows.exact(payer=OWNER))
    other = attributed(replace(mine, signature=parity_v(mine.signature)))
    assert other == attributed(mine)
    for shape in (high_s(mine.signature), compact(mine.signature), mine.signature + b"\0", b""):
        assert attributed(replace(mine, signature=shape)).signed_by_key is False


@given(authorizations, st.binary(max_size=100))
def test_a_key_has_one_signature_a_wallet_many(payment: Eip3009Payment, other: bytes) -> None:
    """Requests are the same where the same was signed, by whatever spelling of a key's signature;
    of a wallet each signature is another request.
    """
    by_key = replace(payment, signed_by_key=True)
    assert request_digest(by_key) == request_digest(replace(by_key, signature=other))
    by_wallet = replace(payment, signed_by_key=False)
    again = replace(by_wallet, signature=other)
    same = other == payment.signature
    assert (request_digest(by_wallet) == request_digest(again)) is same
    assert request_digest(by_wallet) != request_digest(by_key)
    assert request_digest(replace(by_key, deployment=LISTED)) == request_digest(by_key)


@given(authorizations, authorizations)
def test_what_is_signed_otherwise_is_another_request(
    one: Eip3009Payment, other: Eip3009Payment
) -> None:
    assert (request_digest(one) == request_digest(other)) is (digest(one) == digest(other))


@given(authorizations, addresses)
def test_one_nonce_is_one_payment(payment: Eip3009Payment, other: bytes) -> None:
    """Of one payer, in one token, on one chain; whatever else is signed with it."""
    key, second = payment_keys(payment)
    assert second is None
    assert key == authorization_key(
        payment.chain_id, payment.asset, payment.payer, payment.authorization_nonce
    )
    same = replace(payment, pay_to=other, amount=1, valid_before=7, signature=b"", domain_name="x")
    assert payment_keys(same)[0] == key
    flipped = bytes(byte ^ 1 for byte in payment.authorization_nonce)
    for changes in (
        {"chain_id": payment.chain_id + 1},
        {"asset": bytes(byte ^ 1 for byte in payment.asset)},
        {"payer": bytes(byte ^ 1 for byte in payment.payer)},
        {"authorization_nonce": flipped},
    ):
        assert payment_keys(replace(payment, **changes))[0] != key


@given(authorizations)
def test_a_keys_signature_goes_in_three_words(payment: Eip3009Payment) -> None:
    call = settlement_call(payment)
    assert call.target == payment.asset
    assert call.calldata[:4] == TRANSFER_BY_KEY == function_signature_to_4byte_selector(SPLIT)
    r, s, v = payment.signature[:32], payment.signature[32:64], payment.signature[64]
    expected = encode([*TYPES, "uint8", "bytes32", "bytes32"], [*fields(payment), v, r, s])
    assert call.calldata[4:] == expected


@given(authorizations, st.binary(max_size=300))
@example(rows.exact(), b"")
def test_a_wallets_signature_goes_as_it_is(payment: Eip3009Payment, signature: bytes) -> None:
    call = settlement_call(replace(payment, signed_by_key=False, signature=signature))
    assert call.target == payment.asset
    assert call.calldata[:4] == TRANSFER_BY_WALLET == function_signature_to_4byte_selector(WHOLE)
    assert call.calldata[4:] == encode([*TYPES, "bytes"], [*fields(payment), signature])


@given(authorizations, addresses, st.binary(max_size=300))
def test_a_wallet_is_deployed_in_the_transaction_that_pays(
    payment: Eip3009Payment, factory: bytes, calldata: bytes
) -> None:
    """The deployment may fail, where somebody was faster; the payment may not."""
    bare = replace(payment, signed_by_key=False)
    wrapped = replace(bare, deployment=Deployment(factory, calldata, listed=True))
    call = settlement_call(wrapped)
    assert (call.target, call.calldata[:4]) == (MULTICALL3, AGGREGATE3)
    (calls,) = decode(["(address,bool,bytes)[]"], call.calldata[4:])
    transfer = settlement_call(bare)
    assert calls == (
        ("0x" + factory.hex(), True, calldata),
        ("0x" + transfer.target.hex(), False, transfer.calldata),
    )
    unlisted = replace(bare, deployment=Deployment(factory, calldata, listed=False))
    assert settlement_call(unlisted) == transfer


def test_a_call_takes_no_more_gas_than_its_kind_needs() -> None:
    by_wallet = rows.exact(signed_by_key=False)
    assert gas_cap(rows.exact()) == GAS_BY_KEY
    assert gas_cap(by_wallet) == GAS_BY_WALLET
    assert gas_cap(replace(by_wallet, deployment=replace(LISTED, listed=False))) == GAS_BY_WALLET
    assert gas_cap(replace(by_wallet, deployment=LISTED)) == GAS_WITH_DEPLOYMENT
    assert GAS_BY_KEY <= GAS_BY_WALLET <= GAS_WITH_DEPLOYMENT <= 3_000_000


@given(authorizations, st.booleans(), st.booleans())
def test_every_call_is_one_that_a_signer_may_make(
    payment: Eip3009Payment, by_key: bool, deploys: bool
) -> None:
    """Of a listed token; another token's, or a deployment where none is allowed, is none."""
    payment = replace(
        payment, signed_by_key=by_key, deployment=LISTED if deploys else None, asset=rows.ASSET
    )
    call = settlement_call(payment)
    pair = (call.target, call.selector)
    assert pair in allowed_calls((rows.ASSET,), deployments=True)
    assert (pair in allowed_calls((rows.ASSET,), deployments=False)) is not deploys
    assert (pair in allowed_calls((b"\x77" * 20,), deployments=True)) is deploys


def test_the_question_to_a_wallet_can_never_be_signed() -> None:
    payment = rows.exact(signed_by_key=False)
    question = scheme_of(payment).wallet_question(payment, (b"code", b"code", bytes(32), b""))
    assert question is not None
    assert (question.target, question.selector) not in allowed_calls(
        (rows.ASSET,), deployments=True
    )
    assert scheme_of(payment).wallet_question(payment, (b"", b"code", bytes(32), b"")) is None
