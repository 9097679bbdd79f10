"""What can become of a whole POST at an endpoint, by name. The chain has taken the calls, but for
those of a request that was dropped.
"""

import json
from collections.abc import Callable

from aiohttp import web

from tests.support.faultproxy import Answer, Cut, PostFault, drop_request


def drop_reply(answers: list[Answer]) -> web.Response:
    """The connection is closed instead of the answer."""
    raise Cut


def respond(status: int, body: str = "", **headers: str) -> PostFault:
    """A status with a body of its own; `Retry_After` is a header Retry-After."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _answers: web.Response(status=status, text=body, headers=named)


def rate_limited(seconds: int) -> PostFault:
    """429 with a Retry-After."""
    return respond(429, "slow down", Retry_After=str(seconds))


def _rewrite(change: Callable[[list[Answer]], object]) -> PostFault:
    return lambda answers: web.json_response(change(answers))


def truncate(answers: list[Answer]) -> web.Response:
    """JSON that ends too early."""
    return web.Response(text=json.dumps(answers)[: -len(answers) - 5])


def inflate(answers: list[Answer]) -> web.Response:
    """Ten times the answer, most of it padding."""
    text = json.dumps(answers)
    return web.Response(text=text + " " * (9 * len(text)))


POST_FAULTS: dict[str, PostFault] = {
    "request dropped": drop_request,
    "reply dropped": drop_reply,
    "429": respond(429, "slow down"),
    "429 with Retry-After": rate_limited(1),
    "500": respond(500, "oops"),
    "503 with Retry-After": respond(503, "later", Retry_After="1"),
    "HTML": respond(200, "<html>try again</html>"),
    "truncated": truncate,
    "empty batch": _rewrite(lambda _answers: []),
    "null": _rewrite(lambda _answers: None),
    "wrong ids": _rewrite(lambda answers: [{**each, "id": each["id"] + 10**6} for each in answers]),
    "reordered": _rewrite(lambda answers: answers[::-1]),
    "missing element": _rewrite(lambda answers: answers[1:]),
    "null element": _rewrite(lambda answers: [None, *answers[1:]]),
    "10x body": inflate,
}
HARMLESS = frozenset({"reordered", "10x body"})
