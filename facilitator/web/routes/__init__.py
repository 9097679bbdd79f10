"""The HTTP interface: the table of all paths and their handlers."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from facilitator.web.routes import about, payments, settlements

Handler = Callable[[Request], Awaitable[Response]]

# In the order in which Starlette tries them: the most frequent come first.
_HANDLERS: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/verify", payments.verify),
    ("POST", "/settle", payments.settle),
    ("POST", "/settle/gasless", payments.settle_gasless),
    ("POST", "/verify/signature", payments.verify_signature),
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
)
ROUTES = [Route(path, handler, methods=[method]) for method, path, handler in _HANDLERS]
