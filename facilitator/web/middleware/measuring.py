"""The outermost layers: count and time each reply, and keep /metrics on its own listener."""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facilitator.web.middleware.guards import send_not_found

METRICS_PATH = "/metrics"


class MeasureRequests:
    """Calls `count` with the method, the route and the status of every reply, and `observe` with
    its route, its status and the seconds until its last byte.

    The route is the template of the path, of which there are few. It is the path itself where
    routing was not reached, as in the reply to too many requests.
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
    """Serves /metrics on the listener with this `port` alone, and no other path there."""

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self.app = app
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # The port of the socket that the request came through; no header can change it.
            _, port = scope["server"]
            if (port == self.port) != (scope["path"] == METRICS_PATH):
                await send_not_found(scope, send)
                return
        await self.app(scope, receive, send)
