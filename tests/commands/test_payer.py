"""What our payer signs is what eth-account signs, byte for byte."""

import base64
import json
import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from x402.schemas import (
    PaymentPayload,
    PaymentRequirementsV1,
    parse_payment_payload,
    parse_payment_requirements,
)

from facilitator.commands.payer import (
    auth_params,
    request_body,
    sign_authorization,
    sign_payment,
    standard_body,
    standard_requirements,
)
from facilitator.config.networks import NETWORKS, Token
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.secp256k1 import ORDER, Signer
from tests.support import signing

keys = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32))
addresses = st.binary(min_size=20, max_size=20)
uint256s = st.integers(0, 2**256 - 1)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=50, deadline=None)
@given(keys, addresses, addresses, addresses, uint256s, words, st.sampled_from(["exact", "upto"]))
def test_a_payment_is_signed_as_eth_account_does(
    key: bytes,
    contract: bytes,
    asset: bytes,
    pay_to: bytes,
    amount: int,
    resource: str,
    scheme: str,
) -> None:
    ours = sign_payment(
        Signer(key),
        chain_id=8453,
        contract=contract,
        network="base",
        asset=asset,
        pay_to=pay_to,
        amount=amount,
        resource=resource,
        timestamp=1_700_000_000,
        scheme=scheme,
    )
    theirs = signing.sign_payment(
        key,
        contract=contract,
        chain_id=8453,
        asset=asset,
        pay_to=pay_to,
        amount=amount,
        network="base",
        resource=resource,
        nonce=ours["nonce"],
        timestamp=1_700_000_000,
        scheme=scheme,
    )
    assert ours == theirs


@settings(max_examples=50, deadline=None)
@given(
    keys,
    addresses,
    addresses,
    st.integers(1, 2**53),
    uint256s,
    uint256s,
    uint256s,
    st.binary(min_size=32, max_size=32),
)
def test_an_authorization_is_signed_as_eth_account_does(
    key: bytes,
    token: bytes,
    to: bytes,
    chain_id: int,
    value: int,
    valid_after: int,
    valid_before: int,
    nonce: bytes,
) -> None:
    usdc = Token(token, "USDC", 6, "USD Coin", "2")
    ours = sign_authorization(
        Signer(key), usdc, chain_id, to, value, valid_after, valid_before, nonce
    )
    theirs = signing.sign_authorization(
        key,
        token=token,
        chain_id=chain_id,
        to=to,
        value=value,
        valid_after=valid_after,
        valid_before=valid_before,
        nonce=nonce,
    )
    assert auth_params(ours) == theirs
    assert ours == {
        "from": checksum(Signer(key).address),
        "to": checksum(to),
        "value": str(value),
        "validAfter": str(valid_after),
        "validBefore": str(valid_before),
        "nonce": "0x" + nonce.hex(),
        "signature": theirs["authSignature"],
    }


def test_the_token_s_own_domain_is_signed() -> None:
    """Circle's test tokens are "USDC" where the real ones are "USD Coin"."""
    signer, nonce = Signer(secrets.token_bytes(32)), bytes(32)
    signatures = {
        sign_authorization(
            signer, Token(bytes(20), "USDC", 6, name, version), 1, bytes(20), 1, 0, 2, nonce
        )["signature"]
        for name, version in (("USD Coin", "2"), ("USDC", "2"), ("USD Coin", "1"))
    }
    assert len(signatures) == 3


def test_two_payments_never_share_a_nonce_and_the_body_asks_for_what_was_signed() -> None:
    def pay() -> dict[str, object]:
        return sign_payment(
            Signer(b"\x01" * 32),
            chain_id=1,
            contract=b"\xc0" * 20,
            network="ethereum",
            asset=b"\x01" * 20,
            pay_to=b"\x02" * 20,
            amount=5,
            resource="/",
            timestamp=1,
        )

    header = pay()
    assert header["nonce"] != pay()["nonce"]
    body = request_body(header)
    assert json.loads(base64.b64decode(body["paymentHeader"])) == header
    assert body["paymentRequirements"] == {
        "scheme": "exact",
        "network": "ethereum",
        "maxAmountRequired": "5",
        "payTo": header["payTo"],
        "asset": header["asset"],
        "resource": "/",
    }
    assert request_body(header, maximum=9)["paymentRequirements"]["maxAmountRequired"] == "9"


@pytest.mark.parametrize(("version", "network"), [(1, "base-sepolia"), (2, "eip155:84532")])
def test_the_official_packages_read_a_body_of_the_standard_dialect(
    version: int, network: str
) -> None:
    """And find in it what was signed, asked for as it was signed."""
    served = NETWORKS["base-sepolia"]
    token = served.usdc_at(b"\x05" * 20)
    signer, to = Signer(b"\x01" * 32), b"\x02" * 20
    signed = sign_authorization(signer, token, served.chain_id, to, 7, 0, 2**40, bytes(32))
    url = "https://api.example/report"
    requirements = standard_requirements(
        version=version,
        network=served,
        token=token,
        pay_to=to,
        amount=7,
        resource=url,
        lifetime=300,
    )
    body = standard_body(requirements, signed, version=version, resource=url)
    asked = parse_payment_requirements(version, body["paymentRequirements"])
    paid = parse_payment_payload(body["paymentPayload"])
    assert body["x402Version"] == paid.x402_version == version
    assert (asked.scheme, asked.network, asked.get_amount()) == ("exact", network, "7")
    assert (asked.asset, asked.pay_to) == (checksum(token.address), checksum(to))
    assert (asked.max_timeout_seconds, asked.extra) == (300, {"name": "USDC", "version": "2"})
    authorization = {name: value for name, value in signed.items() if name != "signature"}
    assert paid.payload == {"signature": signed["signature"], "authorization": authorization}
    if isinstance(paid, PaymentPayload):
        assert paid.accepted == asked
        assert paid.resource is not None
        assert paid.resource.url == url
    else:
        assert isinstance(asked, PaymentRequirementsV1)
        assert (paid.scheme, paid.network, asked.resource) == ("exact", network, url)
