"""Verify and settle: read the body, and see which dialect it speaks."""

from starlette.requests import Request
from starlette.responses import Response

from facilitator.dialects.jeju.decode import Malformed
from facilitator.dialects.x402.decode import Unreadable, no_json, speaks_x402
from facilitator.domain.strict_json import JSON, StrictJSONError, decode
from facilitator.web.middleware import BodyError, read_body
from facilitator.web.routes import jeju, x402
from facilitator.web.routes.replying import service_of
from facilitator.web.routes.settling import read_idempotency_key


async def verify(request: Request) -> Response:
    """POST /verify: would this payment settle? Leaves no trace."""
    body, members = await _read(request)
    standard = _standard(body, members)
    if standard is not None:
        return await x402.verify(service_of(request), standard)
    return await jeju.verify(service_of(request), members)


async def settle(request: Request) -> Response:
    """POST /settle: settle this payment, and wait for the outcome. In the Jeju dialect, with the
    payer's allowance.
    """
    body, members = await _read(request)
    service, key = service_of(request), read_idempotency_key(request, body)
    standard = _standard(body, members)
    if standard is not None:
        return await x402.settle(service, standard, key, request.receive)
    return await jeju.settle(service, members, key, request.receive, gasless=False)


async def settle_gasless(request: Request) -> Response:
    """POST /settle/gasless: the same in the Jeju dialect, with an authorization (EIP-3009) in the
    allowance's stead.
    """
    body, members = await _read(request)
    service, key = service_of(request), read_idempotency_key(request, body)
    return await jeju.settle(service, members, key, request.receive, gasless=True)


async def verify_signature(request: Request) -> Response:
    """POST /verify/signature: who signed this? Neither time nor terms nor chain are looked at."""
    _, members = await _read(request)
    return jeju.verify_signature(service_of(request), members)


def _standard(
    body: bytes, members: dict[str, JSON] | Malformed
) -> dict[str, JSON] | Unreadable | None:
    """What a body of the standard dialect says; None where it is of the other one. A body that is
    no JSON is of this one where it looks like it, and hears what is wrong with it.
    """
    if isinstance(members, dict):
        return members if speaks_x402(members) else None
    if b'"paymentPayload"' not in body:
        return None
    try:
        decode(body)
    except StrictJSONError as wrong:
        return no_json(str(wrong))
    return None


async def _read(request: Request) -> tuple[bytes, dict[str, JSON] | Malformed]:
    """The body and its members. What cannot be read speaks no dialect, and is refused in Jeju's
    words.
    """
    service = service_of(request)
    try:
        body = await read_body(request.receive, request.scope["headers"])
    except BodyError as refused:
        return b"", Malformed(
            status=refused.status,
            words=str(refused),
            network=service.config.primary_network,
            undetermined=True,
        )
    return body, service.jeju.decode_object(body)
