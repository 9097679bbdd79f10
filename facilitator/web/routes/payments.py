"""POST /verify and POST /settle, in every dialect: reading, idempotency, settling, recording."""

import hashlib
import re
import time

import anyio
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from facilitator.chain.answers import ChainUnavailable, to_hex
from facilitator.dialects.detect import detect
from facilitator.domain.payment import TEMPORARY, Proof, Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.engine.requests import IdempotencyKey, SettleReply
from facilitator.engine.waiters import Waiter
from facilitator.journal.store import StoreError
from facilitator.telemetry.logs import describe
from facilitator.telemetry.metrics import MALFORMED, REPLAYED, SCHEMES
from facilitator.web.body import BodyError, read_body, until_disconnect
from facilitator.web.replies import RETRY_AFTER, reply, service_of
from facilitator.web.routes import jeju, x402
from facilitator.web.routes.dialect import (
    PENDING,
    BadRequest,
    Endpoint,
    PaymentRequest,
    Reader,
    Settlement,
    outage,
    outage_reply,
)
from facilitator.web.service import Service

DIALECTS: dict[str, Reader] = {"jeju": jeju.read, "x402": x402.read}
IDEMPOTENCY_KEY = "Idempotency-Key"
# Longer than any key that clients generate, and without a character that breaks headers or logs.
_KEY = re.compile(r"\A[\x21-\x7e]{1,255}\Z")
# The statuses of refusals for which the request or this service is at fault; of others it is 200.
_STATUS = {
    Reason.IDEMPOTENCY_CONFLICT: 409,
    Reason.INVALID_IDEMPOTENCY_KEY: 400,
    Reason.SIGNER_NOT_CONFIGURED: 503,
    **dict.fromkeys(TEMPORARY, 503),
}


class _Received(Struct, frozen=True):
    """A request with its body and what was decoded; `read_at` is of time.perf_counter()."""

    dialect: str
    body: bytes
    decoded: PaymentRequest | BadRequest
    read_at: float


async def verify(request: Request) -> Response:
    """POST /verify: would this payment settle? Nothing of it is stored."""
    service = service_of(request)
    received = await _receive(request, "verify")
    dialect, decoded = received.dialect, received.decoded
    if isinstance(decoded, BadRequest):
        service.metrics.verified(dialect, None, None, MALFORMED)
        return reply(decoded.body, decoded.status)
    retry_after = None
    try:
        verdict: AnyPayment | Refusal = await decoded.verify()
    except (ChainUnavailable, StoreError) as fault:
        verdict, retry_after = outage(fault)
    refusal = verdict if isinstance(verdict, Refusal) else None
    service.metrics.verified(dialect, decoded.network, decoded.scheme, refusal)
    body = decoded.encode_verdict(verdict)
    if refusal is None:
        describe(outcome="valid")
        return reply(body)
    describe(outcome="invalid", reason=str(refusal.reason))
    return _refuse(body, refusal, retry_after)


async def settle(request: Request) -> Response:
    """POST /settle: settle this payment, and wait for the outcome. In the Jeju dialect, with the
    payer's allowance.
    """
    return await _settle(request, "settle")


async def settle_gasless(request: Request) -> Response:
    """POST /settle/gasless: settle in the Jeju dialect alone, with an authorization (EIP-3009)
    instead of the payer's allowance.
    """
    return await _settle(request, "settle_gasless")


async def verify_signature(request: Request) -> Response:
    """POST /verify/signature: who signed this? In Jeju's dialect alone, and checks nothing else."""
    try:
        body = await read_body(request.receive, request.scope["headers"])
    except BodyError as refused:
        return jeju.signature_refused(str(refused), refused.status)
    return jeju.verify_signature(service_of(request), detect(body))


async def _settle(request: Request, endpoint: Endpoint) -> Response:
    service = service_of(request)
    received = await _receive(request, endpoint)
    decoded = received.decoded
    if isinstance(decoded, BadRequest):
        _count(service, received, MALFORMED)
        return reply(decoded.body, decoded.status)
    key = _idempotency_key(request, received.body)
    earlier = await _earlier_reply(service, key)
    if isinstance(earlier, bytes):
        describe(outcome="replayed")
        _count(service, received, REPLAYED)
        response = reply(earlier)
        response.headers["Idempotent-Replayed"] = "true"
        return response
    settlement: Settlement | SettleReply
    if isinstance(earlier, Refusal):
        settlement = SettleReply(refusal=earlier)
    else:
        assert not isinstance(key, Refusal)
        settlement = await decoded.settlement(key)
    sent, body = await _settle_and_encode(decoded, settlement, request.receive)
    refusal = sent.refusal or PENDING
    _describe_reply(sent)
    _count(service, received, sent.proof or refusal)
    return reply(body) if sent.proof is not None else _refuse(body, refusal, sent.retry_after)


async def _settle_and_encode(
    decoded: PaymentRequest, settlement: Settlement | SettleReply, receive: Receive
) -> tuple[SettleReply, bytes]:
    """Settle, and wait as long as the client does. Return the reply and its body, which must be
    sent at once. An outage becomes a refusal; a `settlement` that is a reply is only encoded.
    """
    if isinstance(settlement, SettleReply):
        return settlement, await decoded.encode_reply(settlement)
    settler, request = settlement
    waiter = Waiter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_hang_up_with_client, receive, waiter)
        try:
            async with settler.settle(request, waiter) as settling:
                found, body = settling.reply, await decoded.encode_reply(settling.reply)
                sent = await settling.deliver(body)
        except (ChainUnavailable, StoreError) as fault:
            found = sent = outage_reply(fault)
            body = await decoded.encode_reply(sent)
        tasks.cancel_scope.cancel()
    return sent, body if sent is found else await decoded.encode_reply(sent)


async def _hang_up_with_client(receive: Receive, waiter: Waiter) -> None:
    """Wait until the client goes away; the body has been read."""
    await until_disconnect(receive)
    waiter.hang_up()


async def _receive(request: Request, endpoint: Endpoint) -> _Received:
    """Read and decode a request. A body that cannot be read is of no dialect, and is refused in
    Jeju's words.
    """
    service, dialect, body = service_of(request), "jeju", b""
    decoded: PaymentRequest | BadRequest
    try:
        body = await read_body(request.receive, request.scope["headers"])
    except BodyError as refused:
        read_at = time.perf_counter()
        decoded = jeju.refuse_body(service, str(refused), refused.status, endpoint)
    else:
        read_at = time.perf_counter()
        detected = detect(body)
        # Only Jeju has this path.
        dialect = "jeju" if endpoint == "settle_gasless" else detected.dialect
        decoded = DIALECTS[dialect](service, detected, endpoint)
    # Logged are only words of closed sets, ids and hashes: nothing that a client can write.
    describe(dialect=dialect)
    if not isinstance(decoded, BadRequest):
        scheme = decoded.scheme if decoded.scheme in SCHEMES else None
        describe(network=decoded.network, scheme=scheme)
    return _Received(dialect, body, decoded, read_at)


def _idempotency_key(request: Request, body: bytes) -> IdempotencyKey | Refusal | None:
    """Return the request's idempotency key, or why it cannot be one; None without a key."""
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.match(keys[0]):
        return Refusal(Reason.INVALID_IDEMPOTENCY_KEY)
    sent = request.scope["path"].encode() + b"\0" + body
    return IdempotencyKey(keys[0], hashlib.sha256(sent).digest())


async def _earlier_reply(
    service: Service, key: IdempotencyKey | Refusal | None
) -> bytes | Refusal | None:
    """Return the stored final reply to an earlier request with this key, or why the key cannot be
    used; None where there is neither.
    """
    if not isinstance(key, IdempotencyKey):
        return key
    try:
        kept = await service.store.find_reply("", key.key)
    except StoreError:
        return Refusal(Reason.STORE_UNAVAILABLE)
    if kept is None:
        return None
    if kept.body_digest != key.body_digest:
        return Refusal(Reason.IDEMPOTENCY_CONFLICT)
    return kept.reply


def _refuse(body: bytes, refusal: Refusal, retry_after: float | None) -> Response:
    if refusal.reason in TEMPORARY:
        retry_after = retry_after or RETRY_AFTER
    return reply(body, _STATUS.get(refusal.reason, 200), retry_after)


def _describe_reply(sent: SettleReply) -> None:
    """Add the reply to POST /settle to the request's log line and span."""
    reason = None if sent.refusal is None else sent.refusal.reason
    if sent.proof is not None:
        outcome = "settled"
    else:
        outcome = "pending" if reason in (None, Reason.SETTLEMENT_PENDING) else "refused"
    describe(
        outcome=outcome,
        reason=None if reason is None else str(reason),
        settlement=sent.settlement_id,
        transaction=None if sent.transaction_hash is None else to_hex(sent.transaction_hash),
    )


def _count(service: Service, received: _Received, result: Proof | Refusal | str) -> None:
    """Count a POST /settle, and the time since its body was read."""
    decoded = received.decoded
    known = (None, None) if isinstance(decoded, BadRequest) else (decoded.network, decoded.scheme)
    seconds = time.perf_counter() - received.read_at
    service.metrics.settled(received.dialect, *known, result, seconds)
