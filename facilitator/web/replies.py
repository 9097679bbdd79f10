"""JSON replies, and what every route needs of a request."""

import math
from collections.abc import Mapping
from typing import cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from facilitator.web.service import Service, unix_ms

# Seconds after which a client may retry when the chain or the journal was out of reach.
RETRY_AFTER = 5
_encode = msgspec.json.Encoder().encode


def service_of(request: Request) -> Service:
    """Return the service that the application's lifespan has built."""
    return cast(Service, request.state.service)


def reply(body: bytes, status: int = 200, retry_after: float | None = None) -> Response:
    """Reply with a body that is JSON already; `retry_after` is in seconds."""
    response = Response(body, status, media_type="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))
    return response


def json_reply(
    members: Mapping[str, object], status: int = 200, retry_after: float | None = None
) -> Response:
    """Reply with a JSON object; `retry_after` is in seconds."""
    return reply(_encode(members), status, retry_after)


def not_found(path: str) -> Response:
    """Reply to a path that is not served."""
    return json_reply({"error": "Not found", "path": path, "timestamp": unix_ms()}, 404)
