"""ASGI layers around the routes, and the one way to read a request's body.

Every layer passes what is not HTTP (the lifespan) on unchanged.
"""

from starlette.middleware import Middleware

from facilitator.web.middleware.body import (
    BODY_DEADLINE,
    BODY_LIMIT,
    BodyError,
    BodyTooLarge,
    BodyTooSlow,
    ClientDisconnected,
    DrainBody,
    read_body,
)
from facilitator.web.middleware.guards import (
    AccessLog,
    CatchErrors,
    ConcurrencyLimit,
)
from facilitator.web.middleware.headers import CORS, RequestId, SecurityHeaders
from facilitator.web.middleware.measuring import MeasureRequests, OwnListener

__all__ = [
    "BODY_DEADLINE",
    "BODY_LIMIT",
    "CORS",
    "AccessLog",
    "BodyError",
    "BodyTooLarge",
    "BodyTooSlow",
    "CatchErrors",
    "ClientDisconnected",
    "ConcurrencyLimit",
    "DrainBody",
    "MeasureRequests",
    "OwnListener",
    "RequestId",
    "SecurityHeaders",
    "layers",
    "read_body",
]


def layers(*, concurrency: int) -> list[Middleware]:
    """Return the layers, the outermost first; `concurrency` is how many requests run at once."""
    return [
        Middleware(DrainBody),
        Middleware(RequestId),  # before the log, which names the request
        Middleware(AccessLog),
        Middleware(SecurityHeaders),  # outside of all that answers, errors included
        Middleware(CORS),
        Middleware(ConcurrencyLimit, limit=concurrency),
        Middleware(CatchErrors),
    ]
