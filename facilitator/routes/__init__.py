"""The HTTP interface: a handler a path, and no path that is not in this table."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from facilitator.routes import about, payments, settlements
from facilitator.routes.about import not_found

__all__ = ["ROUTES", "not_found"]

Handler = Callable[[Request], Awaitable[Response]]

_HANDLERS: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", about.index),
    ("GET", "/health", about.health),
    ("GET", "/ready", about.ready),
    ("GET", "/stats", about.stats),
    ("GET", "/metrics", about.metrics),
    ("GET", "/supported", about.supported),
    ("GET", "/supported/networks", about.supported_networks),
    ("GET", "/supported/tokens/{network}", about.supported_tokens),
    ("GET", "/settlements", settlements.by_payment),
    ("GET", "/settlements/{id}", settlements.by_id),
    ("GET", "/verify", about.describe_verify),
    ("GET", "/settle", about.describe_settle),
    ("POST", "/verify", payments.verify),
    ("POST", "/verify/signature", payments.verify_signature),
    ("POST", "/settle", payments.settle),
    ("POST", "/settle/gasless", payments.settle_gasless),
)
ROUTES = [Route(path, handler, methods=[method]) for method, path, handler in _HANDLERS]
