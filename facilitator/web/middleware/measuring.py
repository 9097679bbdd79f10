"""Around everything: count and time each reply, and keep the metrics on their own listener."""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facilitator.web.middleware.guards import send_not_found

METRICS_PATH = "/metrics"


class MeasureRequests:
    """Tell `count` the method, the route and the status of every reply, and `time` its route, its
    status and how many seconds it took to its last byte.

    The route is the template of the path, so that there are only so many; where none was looked
    for, as in a reply to too many requests, it is the path.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        count: Callable[[str, str, int], None],
        observe: Callable[[str, int, float], None],
    ) -> None:
        self.app = app
        self.count = count
        self.observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status: int | None = None  # stays so when the client went away unanswered
        started = time.perf_counter()

        async def counting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.count(scope["method"], _route(scope), status)
            await send(message)

        try:
            await self.app(scope, receive, counting_send)
        finally:
            if status is not None:
                self.observe(_route(scope), status, time.perf_counter() - started)


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", scope["path"]))


class OwnListener:
    """Answer /metrics on the listener with this `port` and nothing else there; nowhere else."""

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self.app = app
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # of the socket that the request came in through: no header has a say in it
            _, port = scope["server"]
            if (port == self.port) != (scope["path"] == METRICS_PATH):
                await send_not_found(scope, send)
                return
        await self.app(scope, receive, send)
