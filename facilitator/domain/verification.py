"""The checks that a payment must pass before its chain is asked, pure functions of what was sent
and `now`.

They come in the order in which each dialect reports their refusals. `now` and all times are unix
seconds.
"""

from msgspec import Struct

from facilitator.domain.payment import Payment, PaymentRequirements, Reason, Refusal
from facilitator.domain.schemes import eip3009, scheme_of
from facilitator.domain.schemes.jeju import SCHEMES, JejuPayment
from facilitator.ethereum.addresses import ZERO_ADDRESS, parse_address
from facilitator.ethereum.multicall3 import MULTICALL3

# The official facilitators refuse what expires sooner, in seconds from now (inclusive).
EXACT_TIME_LEFT = 6
# Contracts that move other people's money and keep what is sent to them: Permit2, and the two
# through which the standard dialect uses it.
_SHARED_CONTRACTS = (
    MULTICALL3,
    parse_address("0x000000000022D473030F116dDEE9F6B43aC78BA3"),
    parse_address("0x402085c248EeA27D92E8b30b2C58ed07f9E20001"),
    parse_address("0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"),
)


class Terms(Struct, frozen=True):
    """What this service demands of every payment on one network, whatever the seller asks.

    `own_addresses` are the signers and contracts that must never be a recipient: money sent there
    is lost, or lets a payer aim our signers at themselves. A signer pays nobody either. `assets`
    are the tokens that the operator lists for the standard dialect, `factories` those that may
    deploy a payer's wallet (EIP-6492).
    """

    min_amount: int
    own_addresses: frozenset[bytes]
    signers: frozenset[bytes] = frozenset()
    assets: frozenset[bytes] = frozenset()
    factories: frozenset[bytes] = frozenset()


def check_time(payment: Payment, now: int, margin: int = 0) -> Refusal | None:
    """Refuse before `valid_from`, and when less than `margin` seconds are left until `deadline`.

    Where both apply, the scheme decides which is reported; in the standard dialect a payment that
    has expired is never reported as too early.
    """
    early = Refusal(Reason.IN_THE_FUTURE) if now < payment.valid_from else None
    latest = payment.deadline - margin
    late = Refusal(Reason.EXPIRED, str(now), str(latest)) if now > latest else None
    return late or early if scheme_of(payment).expiry_first else early or late


def check_terms(
    payment: JejuPayment, requirements: PaymentRequirements, terms: Terms
) -> Refusal | None:
    """Refuse a payment that is not what the seller asks for, or not what this service settles."""
    if payment.network != requirements.network:
        return Refusal(Reason.NETWORK_MISMATCH)
    if payment.pay_to != requirements.pay_to:
        return Refusal(Reason.RECIPIENT_MISMATCH)
    if payment.asset != requirements.asset:
        return Refusal(Reason.ASSET_MISMATCH)
    if payment.resource != requirements.resource:
        return Refusal(Reason.RESOURCE_MISMATCH)
    return _check_amount(payment, requirements, terms) or _check_recipient(
        payment, terms, payment.contract
    )


def _check_amount(
    payment: JejuPayment, requirements: PaymentRequirements, terms: Terms
) -> Refusal | None:
    amount, asked = str(payment.amount), str(requirements.amount)
    # The seller's scheme decides which amounts are right; the contract must know the payer's too.
    for scheme in (requirements.scheme, payment.scheme):
        if scheme not in SCHEMES:
            return Refusal(Reason.UNSUPPORTED_SCHEME, scheme)
    if requirements.scheme == "exact" and payment.amount != requirements.amount:
        return Refusal(Reason.AMOUNT_NOT_EXACT, amount, asked)
    if requirements.amount is None or payment.amount > requirements.amount:
        return Refusal(Reason.AMOUNT_ABOVE_MAXIMUM, amount, asked)
    if requirements.scheme == "upto" and payment.amount == 0:
        return Refusal(Reason.AMOUNT_ZERO)
    # The contract refuses an amount of zero, however low the configured minimum is.
    return _check_minimum(payment, max(terms.min_amount, 1))


def _check_minimum(payment: Payment, least: int) -> Refusal | None:
    if payment.amount < least:
        return Refusal(Reason.AMOUNT_BELOW_MINIMUM, str(payment.amount), str(least))
    return None


def _check_recipient(payment: Payment, terms: Terms, *more: bytes) -> Refusal | None:
    forbidden = (ZERO_ADDRESS, payment.asset, *_SHARED_CONTRACTS, *more)
    if payment.pay_to in forbidden or payment.pay_to in terms.own_addresses:
        return Refusal(Reason.INVALID_RECIPIENT)
    return None


def check_offer(
    accepted: PaymentRequirements, requirements: PaymentRequirements, terms: Terms
) -> Refusal | None:
    """Refuse where the payer accepted another offer than the seller's, or one that is not served:
    the checks of the standard dialect's scheme `exact` that come before the signature.
    """
    if requirements.scheme != eip3009.SCHEME:
        return Refusal(Reason.UNSUPPORTED_SCHEME, requirements.scheme)
    if accepted.scheme != requirements.scheme:
        return Refusal(Reason.SCHEME_MISMATCH)
    if requirements.domain is None:
        return Refusal(Reason.MISSING_DOMAIN)
    if accepted.network != requirements.network:
        return Refusal(Reason.NETWORK_MISMATCH)
    if accepted != requirements:
        return Refusal(Reason.OFFER_MISMATCH)
    if requirements.asset not in terms.assets:
        return Refusal(Reason.UNLISTED_ASSET)
    return None


def check_authorization(
    payment: Payment, requirements: PaymentRequirements, terms: Terms, now: int | None
) -> Refusal | None:
    """Refuse an authorization that is not what the seller asks for, or not what this service
    settles: the checks that come after the signature. Without `now`, time is not checked.
    """
    if payment.pay_to != requirements.pay_to:
        return Refusal(Reason.RECIPIENT_MISMATCH)
    if payment.payer in terms.signers:
        return Refusal(Reason.INVALID_PAYER)
    late = None if now is None else check_time(payment, now, EXACT_TIME_LEFT - 1)
    if late is not None:
        return late
    if payment.amount != requirements.amount:
        return Refusal(Reason.AMOUNT_NOT_EXACT, str(payment.amount), str(requirements.amount))
    return _check_minimum(payment, terms.min_amount) or _check_recipient(payment, terms)
