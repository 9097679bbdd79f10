"""The checks that a payment must pass, pure functions of what was sent, what the chain shows and
`now`.

They come in the order in which their refusals are reported: time, terms, facts. Time and terms need
nothing but the request; facts come from the chain. `now` and all times are unix seconds.
"""

from msgspec import Struct

from facilitator.ethereum.addresses import ZERO_ADDRESS
from facilitator.payments import Payment, Quote, Reason, Refusal
from facilitator.schemes.jeju import SCHEMES, JejuFacts, JejuPayment


class Terms(Struct, frozen=True):
    """What this service demands of every payment on one network, whatever the seller asks.

    `own_addresses` are the signers and contracts that must never be a recipient: money sent there
    is lost, or lets a payer aim our signers at themselves.
    """

    min_amount: int
    own_addresses: frozenset[bytes]


def check_time(payment: Payment, now: int, margin: int = 0) -> Refusal | None:
    """Refuse before `valid_from`, and when less than `margin` seconds are left until `deadline`."""
    if now < payment.valid_from:
        return Refusal(Reason.IN_THE_FUTURE)
    latest = payment.deadline - margin
    if now > latest:
        return Refusal(Reason.EXPIRED, str(now), str(latest))
    return None


def check_terms(payment: JejuPayment, quote: Quote, terms: Terms) -> Refusal | None:
    """Refuse a payment that is not what the seller asks for, or not what this service settles."""
    if payment.network != quote.network:
        return Refusal(Reason.NETWORK_MISMATCH)
    if payment.pay_to != quote.pay_to:
        return Refusal(Reason.RECIPIENT_MISMATCH)
    if payment.asset != quote.asset:
        return Refusal(Reason.ASSET_MISMATCH)
    if payment.resource != quote.resource:
        return Refusal(Reason.RESOURCE_MISMATCH)
    return _check_amount(payment, quote, terms) or _check_recipient(payment, terms)


def _check_amount(payment: JejuPayment, quote: Quote, terms: Terms) -> Refusal | None:
    amount, asked = str(payment.amount), str(quote.amount)
    # The seller's scheme decides which amounts are right, but the contract must know the payer's
    # too.
    for scheme in (quote.scheme, payment.scheme):
        if scheme not in SCHEMES:
            return Refusal(Reason.UNSUPPORTED_SCHEME, scheme)
    if quote.scheme == "exact" and payment.amount != quote.amount:
        return Refusal(Reason.AMOUNT_NOT_EXACT, amount, asked)
    if quote.amount is None or payment.amount > quote.amount:
        return Refusal(Reason.AMOUNT_ABOVE_MAXIMUM, amount, asked)
    if quote.scheme == "upto" and payment.amount == 0:
        return Refusal(Reason.AMOUNT_ZERO)
    # The contract settles nothing for nothing, however low the configured minimum is.
    least = max(terms.min_amount, 1)
    if payment.amount < least:
        return Refusal(Reason.AMOUNT_BELOW_MINIMUM, amount, str(least))
    return None


def _check_recipient(payment: JejuPayment, terms: Terms) -> Refusal | None:
    forbidden = (ZERO_ADDRESS, payment.asset, payment.contract)
    if payment.pay_to in forbidden or payment.pay_to in terms.own_addresses:
        return Refusal(Reason.INVALID_RECIPIENT)
    return None


def check_facts(payment: JejuPayment, facts: JejuFacts) -> Refusal | None:
    """Refuse what the chain would refuse, as of the block that `facts` were read from."""
    if facts.authorization_used:
        return Refusal(Reason.AUTHORIZATION_USED)
    if not facts.contract_deployed:
        return Refusal(Reason.CONTRACT_NOT_CONFIGURED)
    if not facts.asset_supported:
        return Refusal(Reason.UNSUPPORTED_ASSET)
    if facts.token_authorization_used:
        return Refusal(Reason.AUTHORIZATION_USED_ELSEWHERE)
    if facts.balance < payment.amount:
        return Refusal(Reason.INSUFFICIENT_BALANCE, str(facts.balance), str(payment.amount))
    if facts.allowance is not None and facts.allowance < payment.amount:
        return Refusal(Reason.INSUFFICIENT_ALLOWANCE, str(facts.allowance), str(payment.amount))
    return None
