"""Verify and settle in the standard dialect: decode, call, encode."""

import time
from functools import partial

from starlette.responses import Response
from starlette.types import Receive

from facilitator.chain.answers import ChainUnavailable
from facilitator.dialects.x402 import encode as replies
from facilitator.dialects.x402.decode import Unreadable, Unserved, X402Request
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.domain.strict_json import JSON
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
from facilitator.web.service import Service


async def verify(service: Service, members: dict[str, JSON] | Unreadable) -> Response:
    """Would this payment settle?"""
    decoded = _decode(service, members)
    if isinstance(decoded, Unreadable):
        count_verification(service, "x402", decoded, MALFORMED)
        return reply(replies.verify_unreadable(decoded), 400)
    if isinstance(decoded, Unserved):
        describe_verdict(decoded.refusal)
        count_verification(service, "x402", decoded, decoded.refusal)
        return reply(replies.not_verified(decoded, decoded.refusal))
    retry_after = None
    try:
        result: AnyPayment | Refusal = await service.networks[
            decoded.served.network.name
        ].verifier.verify_exact(decoded.payment, decoded.accepted, decoded.requirements)
    except (ChainUnavailable, StoreError) as fault:
        result, retry_after = outage(fault)
    refusal = result if isinstance(result, Refusal) else None
    count_verification(service, "x402", decoded, refusal)
    describe_verdict(refusal)
    if isinstance(result, Refusal):
        return refuse(replies.not_verified(decoded, result), result, retry_after)
    return reply(replies.verified(decoded))


async def settle(
    service: Service,
    members: dict[str, JSON] | Unreadable,
    idempotency_key: IdempotencyKey | Refusal | None,
    receive: Receive,
) -> Response:
    """Settle this payment, and say what became of it."""
    started = time.perf_counter()
    decoded = _decode(service, members)
    if isinstance(decoded, Unreadable):
        count_settlement(service, "x402", decoded, MALFORMED, started)
        return reply(replies.settle_unreadable(decoded), 400)
    earlier = await earlier_reply(service, idempotency_key)
    if isinstance(earlier, bytes):
        count_settlement(service, "x402", decoded, REPLAYED, started)
        return replayed(earlier)
    if isinstance(earlier, Refusal):
        asked: Asked | SettleReply = SettleReply(refusal=earlier)
    elif isinstance(decoded, Unserved):
        asked = SettleReply(refusal=decoded.refusal)
    else:
        assert not isinstance(idempotency_key, Refusal)
        asked = await _asked(service, decoded, idempotency_key)
    told, body = await give_reply(asked, partial(_encode, decoded), receive)
    describe_outcome(told)
    count_settlement(service, "x402", decoded, told, started)
    if told.proof is not None:
        return reply(body)
    return refuse(body, told.refusal or _PENDING, told.retry_after)


_PENDING = Refusal(Reason.SETTLEMENT_PENDING)


def _decode(
    service: Service, members: dict[str, JSON] | Unreadable
) -> X402Request | Unserved | Unreadable:
    decoded = members if isinstance(members, Unreadable) else service.x402.decode(members)
    describe_request("x402", decoded)
    return decoded


async def _asked(
    service: Service, decoded: X402Request, idempotency_key: IdempotencyKey | None
) -> Asked | SettleReply:
    """What is to be settled, or why nothing is."""
    served = service.networks[decoded.served.network.name]
    try:
        payment = await served.verifier.check_exact(
            decoded.payment, decoded.accepted, decoded.requirements
        )
    except ChainUnavailable as fault:
        return outage_reply(fault)
    if isinstance(payment, Refusal):
        return SettleReply(refusal=payment)
    if served.settler is None:
        return SettleReply(refusal=Refusal(Reason.SIGNER_NOT_CONFIGURED))
    return served.settler, SettleRequest(payment, "x402", idempotency_key)


async def _encode(decoded: X402Request | Unserved, told: SettleReply) -> bytes:
    if told.proof is not None:
        return replies.settled(decoded, told.proof.transaction_hash, told.settlement_id, told.state)
    return replies.not_settled(
        decoded,
        told.refusal or _PENDING,
        transaction_hash=told.transaction_hash,
        settlement_id=told.settlement_id,
        state=told.state,
    )
