"""Payments of both versions, drawn by a seed: good ones, and each field broken in turn.

A case is named by its version and by what was done, as "v2 signed: another recipient".
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from facilitator.ethereum.addresses import checksum
from tests.oracle.market import (
    BALANCE,
    Body,
    Cases,
    Make,
    Market,
    Path,
    amount_name,
    asked_at,
    at,
    edited,
    paths,
    rewritten,
)
from tests.oracle.spellings import HEX_SPELLINGS, OUT_OF_TYPE, SIGNATURES, SPELLINGS
from tests.oracle.wallets import wallet
from tests.support.x402 import Token, parity_v

GOOD: Final = 20  # payments of each version that nothing is wrong with
STRANGER: Final = "0x1111111111111111111111111111111111111111"
AUTHORIZATION: Final = ("paymentPayload", "payload", "authorization")


def good(market: Market, version: int) -> Cases:
    make = partial(market.good, version)
    for number in range(GOOD):
        yield f"drawn {number + 1}", make
    for amount in ("1", str(BALANCE)):
        yield f"{amount} units", partial(make, requirements={amount_name(version): amount})
    yield "valid for ever", partial(make, authorization={"validBefore": str(2**256 - 1)})
    yield "valid from the start", partial(make, authorization={"validAfter": "0"})
    yield "v of 0 or 1", partial(make, signature=parity_v)


def signed(market: Market, version: int) -> Cases:
    """The payer signed for something else than what is asked, or what the chain refuses."""

    def make(**authorization: str) -> Make:
        return partial(market.good, version, authorization=authorization)

    def timed(name: str, seconds: int) -> Body:
        then = str(int(time.time()) + seconds)
        return market.good(version, authorization={name: then})

    yield "another recipient", make(to=STRANGER)
    for value in ("0", "1", str(2**256 - 1)):
        yield f"a value of {value}", make(value=value)
    for seconds in (-1_000_000, -60, -1, 0, 4):
        yield f"over in {seconds} s", partial(timed, "validBefore", seconds)
    for seconds in (30, 1_000_000):
        yield f"not before {seconds} s", partial(timed, "validAfter", seconds)
    first = market.payers[0]
    used = {"nonce": market.used}
    yield "a used nonce", partial(market.good, version, payer=first, authorization=used)
    yield "money that is not there", partial(market.good, version, payer=market.poor)
    much = {amount_name(version): str(BALANCE + 1)}
    yield "one more than there is", partial(market.good, version, payer=first, requirements=much)
    domains: dict[str, object] = {
        "name": "Another Coin",
        "version": "1",
        "chain_id": 1,
        "verifying_contract": bytes(20),
    }
    for name, other in domains.items():
        yield f"another {name}", partial(market.good, version, domain={name: other})


def tampered(market: Market, version: int) -> Cases:
    """One member of the authorization is changed after it was signed."""
    for name, value in {
        "from": STRANGER,
        "to": STRANGER,
        "value": "1",
        "validAfter": "1",
        "validBefore": str(2**40),
        "nonce": "0x" + "11" * 32,
    }.items():
        yield name, partial(market.good, version, tampered={name: value})


def signature(market: Market, version: int) -> Cases:
    for name, change in SIGNATURES.items():
        yield name, partial(market.good, version, signature=change)


def spelled(market: Market, version: int) -> Cases:
    """Integers as only some software writes or reads them."""
    fields: dict[str, tuple[Path, ...]] = {
        "value": ((*AUTHORIZATION, "value"),),
        "validAfter": ((*AUTHORIZATION, "validAfter"),),
        "validBefore": ((*AUTHORIZATION, "validBefore"),),
        "amount": asked_at(version, amount_name(version)),
    }

    def make(places: tuple[Path, ...], spell: Callable[[int], object]) -> Body:
        body = market.good(version, authorization={"validAfter": "1000"})
        return rewritten(body, places, lambda text: spell(int(text)))

    for field, places in fields.items():
        for name, spell in SPELLINGS.items():
            yield f"{field} {name}", partial(make, places, spell)


def hexadecimal(market: Market, version: int) -> Cases:
    """Addresses, nonces and signatures in other spellings, and in none."""
    fields: dict[str, tuple[Path, ...]] = {
        "from": ((*AUTHORIZATION, "from"),),
        "to": ((*AUTHORIZATION, "to"),),
        "nonce": ((*AUTHORIZATION, "nonce"),),
        "signature": ((*AUTHORIZATION[:2], "signature"),),
        "payTo": asked_at(version, "payTo"),
        "asset": asked_at(version, "asset"),
    }

    def make(places: tuple[Path, ...], spell: Callable[[str], str]) -> Body:
        return rewritten(market.good(version), places, spell)

    for field, places in fields.items():
        for name, spell in HEX_SPELLINGS.items():
            yield f"{field} {name}", partial(make, places, spell)


def asked(market: Market, version: int) -> Cases:
    """The seller asks for what cannot be had here, and the payer agrees."""
    devnet, name, domain_version = market.devnet, market.token.name, market.token.version
    requirements: dict[str, dict[str, object]] = {
        "a scheme that nobody knows": {"scheme": "exactly"},
        "a scheme in capitals": {"scheme": "EXACT"},
        "a network that nobody knows": {"network": "nowhere" if version == 1 else "eip155:999"},
        "a network of another kind": {"network": "solana"},
        "a network without a number": {"network": "eip155:"},
        "the network of the other version": {
            "network": f"eip155:{devnet.chain_id}" if version == 1 else devnet.network_name
        },
        "no domain": {"extra": {}},
        "no name": {"extra": {"version": domain_version}},
        "no version": {"extra": {"name": name}},
        "more than a domain": {"extra": {"name": name, "version": domain_version, "more": [1]}},
        "payment to the signer": {"payTo": checksum(devnet.signer.address)},
        "payment to the asset": {"payTo": checksum(devnet.usdc)},
    }
    for case, change in requirements.items():
        yield case, partial(market.good, version, requirements=change)
    yield "payment by the signer", partial(market.good, version, payer=devnet.signer)
    for case, address in {
        "no contract": bytes.fromhex(STRANGER[2:]),
        "no token": devnet.multicall3,
    }.items():
        token = Token(address, name, domain_version)
        yield f"an asset that is {case}", partial(market.good, version, token=token)
    for case, token in {
        "name": Token(devnet.usdc, "Another Coin", domain_version),
        "version": Token(devnet.usdc, name, "1"),
    }.items():
        yield f"another {case} of the token", partial(market.good, version, token=token)


def later(market: Market, version: int) -> Cases:
    """The seller asks for something else than the payer agreed to."""
    for name, value in other_terms(market, version).items():

        def make(name: str = name, value: object = value) -> Body:
            return edited(market.good(version), ("paymentRequirements", name), value)

        yield name, make


def accepted(market: Market, version: int) -> Cases:
    """The payment's copy of the terms says something else than the terms (version 2 only)."""
    if version == 2:
        for name, value in other_terms(market, version).items():
            yield name, partial(market.good, version, accepted={name: value})


def other_terms(market: Market, version: int) -> dict[str, object]:
    return {
        "scheme": "upto",
        "network": "avalanche" if version == 1 else "eip155:43114",
        amount_name(version): "1",
        "asset": STRANGER,
        "payTo": STRANGER,
        "maxTimeoutSeconds": 7,
        "extra": {"name": "Another Coin", "version": market.token.version},
    }


def typed(market: Market, version: int) -> Cases:
    """Every member in turn is left out, or is of a type or a value that it cannot be."""

    def make(path: Path, value: object) -> Body:
        return edited(market.good(version), path, value)

    for path in paths(market.good(version)):
        for name, value in OUT_OF_TYPE.items():
            yield f"{'.'.join(path)} {name}", partial(make, path, value)


def more(market: Market, version: int) -> Cases:
    """Members that nobody knows, and versions that do not agree."""

    def unknown() -> Body:
        body = market.good(version)
        for path in [(), *paths(body)]:
            holder: Any = at(body, path)
            if isinstance(holder, dict):
                holder.update(copy.deepcopy({"unknown": {"deeply": [None, 1, "x"]}}))
        return body

    def outer(number: object) -> Body:
        return {**market.good(version), "x402Version": number}

    yield "unknown members", unknown
    for number in (0, 3, 3 - version, "2", None):
        yield f"{number!r} as the outer version", partial(outer, number)
        payment = {"x402Version": number}
        yield f"{number!r} as the payment's", partial(market.good, version, payment=payment)


KINDS: Final[tuple[Callable[[Market, int], Cases], ...]] = (
    *(good, signed, tampered, signature, wallet, spelled, hexadecimal),
    *(asked, later, accepted, typed, more),
)


def cases(market: Market) -> Cases:
    """All of them, each with its name."""
    for version in (1, 2):
        for kind in KINDS:
            for name, make in kind(market, version):
                yield f"v{version} {kind.__name__}: {name}", make
