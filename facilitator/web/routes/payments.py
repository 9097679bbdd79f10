"""POST /verify and POST /settle, whichever dialect they are asked in."""

import hashlib
import re
import time

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from facilitator.chain.answers import ChainUnavailable
from facilitator.dialects.detect import detect
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.engine.requests import IdempotencyKey, SettleReply
from facilitator.journal.store import StoreError
from facilitator.web.middleware import BodyError, read_body
from facilitator.web.routes import jeju, x402
from facilitator.web.routes.dialect import (
    BadRequest,
    Endpoint,
    PaymentRequest,
    Reader,
    Settlement,
    outage,
    settle_and_encode,
)
from facilitator.web.routes.replies import (
    MALFORMED,
    PENDING,
    REPLAYED,
    count_settlement,
    count_verification,
    describe_reply,
    describe_request,
    describe_verdict,
    refuse,
    replayed,
    reply,
    service_of,
)
from facilitator.web.service import Service

DIALECTS: dict[str, Reader] = {"jeju": jeju.read, "x402": x402.read}
IDEMPOTENCY_KEY = "Idempotency-Key"
# Longer than any key that clients generate, and without a character that breaks headers or logs.
_KEY = re.compile(r"\A[\x21-\x7e]{1,255}\Z")


class _Received(Struct, frozen=True):
    """A request as it arrived; `read_at` is of time.perf_counter()."""

    dialect: str
    body: bytes
    asked: PaymentRequest | BadRequest
    read_at: float


async def verify(request: Request) -> Response:
    """POST /verify: would this payment settle? Leaves no trace."""
    service = service_of(request)
    received = await _receive(request, "verify")
    dialect, asked = received.dialect, received.asked
    if isinstance(asked, BadRequest):
        count_verification(service, dialect, None, MALFORMED)
        return reply(asked.body, asked.status)
    retry_after = None
    try:
        verdict: AnyPayment | Refusal = await asked.verify()
    except (ChainUnavailable, StoreError) as fault:
        verdict, retry_after = outage(fault)
    refusal = verdict if isinstance(verdict, Refusal) else None
    count_verification(service, dialect, asked, refusal)
    describe_verdict(refusal)
    body = asked.encode_verdict(verdict)
    return reply(body) if refusal is None else refuse(body, refusal, retry_after)


async def settle(request: Request) -> Response:
    """POST /settle: settle this payment, and wait for the outcome. In the Jeju dialect, with the
    payer's allowance.
    """
    return await _settle(request, "settle")


async def settle_gasless(request: Request) -> Response:
    """POST /settle/gasless: the same in the Jeju dialect alone, with an authorization (EIP-3009)
    instead of the allowance.
    """
    return await _settle(request, "settle_gasless")


async def verify_signature(request: Request) -> Response:
    """POST /verify/signature: who signed this? Jeju's alone; no time, term or chain is checked."""
    try:
        body = await read_body(request.receive, request.scope["headers"])
    except BodyError as refused:
        return jeju.signature_refused(str(refused), refused.status)
    return jeju.verify_signature(service_of(request), detect(body))


async def _settle(request: Request, endpoint: Endpoint) -> Response:
    service = service_of(request)
    received = await _receive(request, endpoint)
    dialect, asked, started = received.dialect, received.asked, received.read_at
    if isinstance(asked, BadRequest):
        count_settlement(service, dialect, None, MALFORMED, started)
        return reply(asked.body, asked.status)
    key = _idempotency_key(request, received.body)
    earlier = await _earlier_reply(service, key)
    if isinstance(earlier, bytes):
        count_settlement(service, dialect, asked, REPLAYED, started)
        return replayed(earlier)
    settlement: Settlement | SettleReply
    if isinstance(earlier, Refusal):
        settlement = SettleReply(refusal=earlier)
    else:
        assert not isinstance(key, Refusal)
        settlement = await asked.settlement(key)
    sent, body = await settle_and_encode(asked, settlement, request.receive)
    describe_reply(sent)
    count_settlement(service, dialect, asked, sent, started)
    if sent.proof is not None:
        return reply(body)
    return refuse(body, sent.refusal or PENDING, sent.retry_after)


async def _receive(request: Request, endpoint: Endpoint) -> _Received:
    """Read and decode a request. A body that cannot be read speaks no dialect, and is refused in
    Jeju's words.
    """
    service, dialect, body = service_of(request), "jeju", b""
    asked: PaymentRequest | BadRequest
    try:
        body = await read_body(request.receive, request.scope["headers"])
    except BodyError as refused:
        read_at = time.perf_counter()
        asked = jeju.refuse_body(service, str(refused), refused.status, endpoint)
    else:
        read_at = time.perf_counter()
        detected = detect(body)
        # Only Jeju has this path.
        dialect = "jeju" if endpoint == "settle_gasless" else detected.dialect
        asked = DIALECTS[dialect](service, detected, endpoint)
    describe_request(dialect, None if isinstance(asked, BadRequest) else asked)
    return _Received(dialect, body, asked, read_at)


def _idempotency_key(request: Request, body: bytes) -> IdempotencyKey | Refusal | None:
    """Return the key that the seller gave this request, or why it cannot be one; None without."""
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
    """Return the final reply that a request with this key got before, or why the key cannot be
    used; None where the request is still to be answered.
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
