"""What every handler needs: the service, and a JSON reply."""

import math
from typing import cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from facilitator.web.service import Service

# Seconds after which a client may try again what found the chain or the journal out of reach.
RETRY_AFTER = 5
_encode = msgspec.json.Encoder().encode


def service_of(request: Request) -> Service:
    """What the application's lifespan has built."""
    return cast(Service, request.state.service)


def reply(body: bytes, status: int = 200, retry_after: float | None = None) -> Response:
    """A JSON body that is encoded already; `retry_after` in seconds."""
    response = Response(body, status, media_type="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))
    return response


def json_reply(
    members: dict[str, object], status: int = 200, retry_after: float | None = None
) -> Response:
    """A JSON object."""
    return reply(_encode(members), status, retry_after)
