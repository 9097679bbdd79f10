"""The service with one more route, which does whatever could make a secret show."""

import asyncio
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from typing import cast

from hypercorn.typing import ASGIFramework
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from facilitator.config.settings import load_config
from facilitator.web.app import create_app
from facilitator.web.server import listen, serve, server_config, start_logging, stop_signal

_other = logging.getLogger("somebody.else")


def raises(told: str) -> None:
    try:
        raise OSError(f"cannot reach {told}")
    except OSError as error:
        error.add_note(f"asked with {told}")
        raise ExceptionGroup(told, [ValueError(told), KeyError(told)]) from error


async def fails(told: str) -> None:
    raises(told)


class Unraisable:
    def __init__(self, told: str) -> None:
        self.told = told

    def __del__(self) -> None:
        raises(self.told)


async def halves(told: str) -> AsyncIterator[str]:
    yield "first half"
    raises(told)


def in_a_thread(told: str) -> None:
    thread = threading.Thread(target=raises, args=(told,), name="leaking")
    thread.start()
    thread.join()


def in_a_task(told: str) -> None:
    task = asyncio.create_task(fails(told), name=told)
    task.add_done_callback(lambda _: None)


def with_arguments(told: str) -> None:
    _other.error("told %s and %r", told, {"authorization": told})


def with_wrong_arguments(told: str) -> None:
    _other.error("told %d", told)


def with_a_traceback(told: str) -> None:
    try:
        raises(told)
    except ExceptionGroup:
        _other.exception("failed for %s", told)


WAYS: dict[str, Callable[[str], object]] = {
    "raise": raises,
    "task": in_a_task,
    "callback": lambda told: asyncio.get_running_loop().call_soon(raises, told),
    "thread": in_a_thread,
    "unraisable": Unraisable,
    "warning": lambda told: warnings.warn(told, stacklevel=1),
    "arguments": with_arguments,
    "wrong-arguments": with_wrong_arguments,
    "traceback": with_a_traceback,
}


async def leak(request: Request) -> Response:
    """All that there is to know, told in one of the WAYS."""
    body = (await request.body()).decode()
    headers = [*request.scope["headers"], *request.headers.items()]
    told = " ".join(
        [repr(headers), json.dumps(dict(request.headers)), body, repr(os.environ), str(request.url)]
    )
    way = request.path_params["way"]
    if way == "half":
        return StreamingResponse(halves(told))
    WAYS[way](told)
    return PlainTextResponse("done")


async def main() -> None:
    config = load_config(os.environ)
    start_logging(config)
    listener = listen(config.host, 0)
    app = create_app(replace(config, port=listener.getsockname()[1]))
    app.router.routes.append(Route("/leak/{way}", leak, methods=["POST"]))
    server = server_config(config, [listener.detach()])
    await serve(cast(ASGIFramework, app), server, shutdown_trigger=stop_signal)
    raises(repr(os.environ))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
