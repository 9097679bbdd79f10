"""Verify and settle in the Jeju dialect: decode, call, encode."""

import time
from functools import partial

from starlette.responses import Response
from starlette.types import Receive

from facilitator.chain.answers import ChainUnavailable
from facilitator.config.networks import Unit
from facilitator.dialects.jeju import encode as replies
from facilitator.dialects.jeju.decode import AuthParams, JejuRequest, Malformed
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.domain.schemes.jeju import JejuPayment, recover_payer
from facilitator.domain.strict_json import JSON
from facilitator.domain.verification import check_time
from facilitator.engine.settle import IdempotencyKey, SettleReply, SettleRequest
from facilitator.journal.store import StoreError
from facilitator.web.routes.counting import (
    MALFORMED,
    REPLAYED,
    count_settlement,
    count_verification,
)
from facilitator.web.routes.describing import describe_outcome, describe_request, describe_verdict
from facilitator.web.routes.replying import reply
from facilitator.web.routes.settling import (
    Asked,
    earlier_reply,
    give_reply,
    outage,
    outage_reply,
    refuse,
    replayed,
)
from facilitator.web.service import Served, Service

Members = dict[str, JSON] | Malformed


async def verify(service: Service, members: Members) -> Response:
    """Would this payment settle?"""
    decoded = _decode(service, members)
    if isinstance(decoded, Malformed):
        count_verification(service, "jeju", decoded, MALFORMED)
        return reply(replies.not_verified_unread(decoded, service.clock()), decoded.status)
    retry_after = None
    try:
        result = await _verdict(service, decoded)
    except (ChainUnavailable, StoreError) as fault:
        result, retry_after = outage(fault)
    refusal = result if isinstance(result, Refusal) else None
    count_verification(service, "jeju", decoded, refusal)
    describe_verdict(refusal)
    if isinstance(result, Refusal):
        why = replies.words(result, decoded)
        return refuse(replies.not_verified(why, service.clock()), result, retry_after)
    return reply(replies.verified(result, service.clock()))


async def settle(
    service: Service,
    members: Members,
    idempotency_key: IdempotencyKey | Refusal | None,
    receive: Receive,
    *,
    gasless: bool,
) -> Response:
    """Settle this payment, and say what became of it."""
    started = time.perf_counter()
    decoded = _decode(service, members, "required" if gasless else "ignored")
    if isinstance(decoded, Malformed):
        count_settlement(service, "jeju", decoded, MALFORMED, started)
        return reply(replies.not_understood(decoded, service.clock()), decoded.status)
    earlier = await earlier_reply(service, idempotency_key)
    if isinstance(earlier, bytes):
        count_settlement(service, "jeju", decoded, REPLAYED, started)
        return replayed(earlier)
    payment: JejuPayment | None = None
    asked: Asked | SettleReply
    if isinstance(earlier, Refusal):
        asked = SettleReply(refusal=earlier)
    else:
        assert not isinstance(idempotency_key, Refusal)
        payment, asked = await _asked(service, decoded, idempotency_key)
    told, body = await give_reply(asked, partial(_encode, service, decoded, payment), receive)
    describe_outcome(told)
    count_settlement(service, "jeju", decoded, told, started)
    if told.proof is not None:
        return reply(body)
    return refuse(body, told.refusal or _PENDING, told.retry_after)


def verify_signature(service: Service, members: Members) -> Response:
    """Who signed this?"""
    decoded = members if isinstance(members, Malformed) else service.jeju.decode_signed(members)
    if isinstance(decoded, Malformed):
        return reply(replies.signature_invalid(decoded.words), decoded.status)
    signer: bytes | Refusal = Refusal(Reason.UNSUPPORTED_NETWORK, decoded.network)
    if decoded.served is not None:
        signer = recover_payer(decoded.payment, decoded.claimed_payer)
    if isinstance(signer, Refusal):
        return reply(replies.signature_invalid(replies.signature_words(signer, decoded)))
    return reply(replies.signature_valid(decoded, signer))


_PENDING = Refusal(Reason.SETTLEMENT_PENDING)


def _decode(
    service: Service, members: Members, auth_params: AuthParams = "optional"
) -> JejuRequest | Malformed:
    decoded: JejuRequest | Malformed
    if isinstance(members, Malformed):
        decoded = members
    else:
        decoded = service.jeju.decode(members, auth_params)
    describe_request("jeju", decoded)
    return decoded


async def _verdict(service: Service, decoded: JejuRequest) -> AnyPayment | Refusal:
    """What POST /verify has to say. Raises ChainUnavailable and StoreError."""
    served = _served(service, decoded)
    if isinstance(served, Refusal):
        return check_time(decoded.payment, service.clock() // 1000) or served
    return await served.verifier.verify_jeju(
        decoded.payment, decoded.claimed_payer, decoded.requirements
    )


def _served(service: Service, decoded: JejuRequest) -> Served | Refusal:
    """The payment's network; the one that is asked for must be served as well."""
    for network in (decoded.payment.network, decoded.requirements.network):
        if network not in service.networks:
            return Refusal(Reason.UNSUPPORTED_NETWORK, network)
    return service.networks[decoded.payment.network]


async def _asked(
    service: Service, decoded: JejuRequest, idempotency_key: IdempotencyKey | None
) -> tuple[JejuPayment | None, Asked | SettleReply]:
    """What is to be settled, or why nothing is; with the payment once it is verified."""
    late = check_time(decoded.payment, service.clock() // 1000)
    served = _served(service, decoded)
    if isinstance(served, Refusal):
        return None, SettleReply(refusal=late or served)
    payment = served.verifier.check_jeju(
        decoded.payment, decoded.claimed_payer, decoded.requirements
    )
    if isinstance(payment, Refusal):
        return None, SettleReply(refusal=late or payment)
    if not service.signers:
        return payment, await _without_a_key(service, decoded)
    if served.settler is None or served.config.contract is None:
        return payment, SettleReply(refusal=late or Refusal(Reason.CONTRACT_NOT_CONFIGURED))
    # Late or not: what was taken on in time has an outcome to be told.
    return payment, (served.settler, SettleRequest(payment, "jeju", idempotency_key))


# The first of the checks: who fails it is not verified.
_OUT_OF_TIME = frozenset({Reason.IN_THE_FUTURE, Reason.EXPIRED})


async def _without_a_key(service: Service, decoded: JejuRequest) -> SettleReply:
    """What the payment lacks is told first: its payer may mend that, while the operator mends the
    other.
    """
    try:
        verdict = await _verdict(service, decoded)
    except (ChainUnavailable, StoreError) as fault:
        return outage_reply(fault)
    unable = Refusal(Reason.SIGNER_NOT_CONFIGURED)
    return SettleReply(refusal=verdict if isinstance(verdict, Refusal) else unable)


async def _encode(
    service: Service, decoded: JejuRequest, payment: JejuPayment | None, told: SettleReply
) -> bytes:
    reason = None if told.refusal is None else told.refusal.reason
    if reason in _OUT_OF_TIME and told.transaction_hash is None:
        payment = None
    unit = None if payment is None else await _unit(service, decoded, payment, told)
    now = service.clock()
    if told.proof is not None and payment is not None:
        protocol_fee = service.networks[payment.network].protocol_fee
        fee_bps = await protocol_fee.bps(payment.amount, told.proof.fee)
        return replies.settled(decoded, payment, told.proof, now, fee_bps=fee_bps, unit=unit)
    return replies.not_settled(
        decoded,
        told.refusal or _PENDING,
        now,
        payment=payment,
        unit=unit,
        transaction_hash=told.transaction_hash,
    )


# What is only said of a payment in a token that the contract takes.
_ASSET_TAKEN = frozenset({Reason.INSUFFICIENT_BALANCE, Reason.INSUFFICIENT_ALLOWANCE})


async def _unit(
    service: Service, decoded: JejuRequest, payment: JejuPayment, told: SettleReply
) -> Unit | None:
    """What the payment's amount is written in. Tokens that the contract does not take are not
    asked: they would be asked by whoever likes.
    """
    tokens = service.networks[decoded.requirements.network].tokens
    taken = told.refusal is not None and told.refusal.reason in _ASSET_TAKEN
    if taken or told.transaction_hash is not None:
        return await tokens.unit(payment.asset)
    return tokens.recall(payment.asset)
