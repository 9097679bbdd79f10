"""Payments by smart wallets: deployed ones, ones that are not there yet, accounts that delegate."""

from functools import partial

from tests.oracle.market import Cases, Market
from tests.support.x402 import long_form, wrap_6492


def wallet(market: Market, version: int) -> Cases:
    owner, stranger = market.payers[:2]
    by_owner = partial(market.good, version, payer=owner)
    by_stranger = partial(market.good, version, payer=stranger)
    deployed = {"owner": market.wallet}
    yield "signed in 65 bytes", partial(by_owner, **deployed)
    yield "signed in 192 bytes", partial(by_owner, **deployed, signature=long_form(owner))
    yield "signed by a stranger in 65 bytes", partial(by_stranger, **deployed)
    long = long_form(stranger)
    yield "signed by a stranger in 192 bytes", partial(by_stranger, **deployed, signature=long)
    yield "not signed", partial(by_owner, **deployed, signature=lambda made: b"")
    for behaviour, address in market.rogues.items():
        yield f"that answers with {behaviour}", partial(by_owner, owner=address)
    for name, account in market.delegating.items():
        yield f"an account whose code {name}", partial(market.good, version, payer=account)
    for name, there in {"undeployed": market.undeployed, "unlisted": market.unlisted}.items():
        it = {"owner": there.address}
        yield name, partial(by_owner, **it, signature=there.wrap)
        yield f"{name}, signed by a stranger", partial(by_stranger, **it, signature=there.wrap)
        yield f"{name}, without its deployment", partial(by_owner, **it)
    other = wrap_6492(market.undeployed.factory, b"\x01\x02\x03\x04")
    it = {"owner": market.undeployed.address}
    yield "undeployed, with a call that deploys nothing", partial(by_owner, **it, signature=other)
    wrapped = market.undeployed.wrap
    yield "deployed, wrapped all the same", partial(by_owner, **deployed, signature=wrapped)
    yield "a key's, wrapped all the same", partial(by_owner, signature=wrapped)
