"""A bare Starlette application, served exactly as the service is: the floor that nothing built on
the same server can go below. It reads the body and answers with the beginning of it.
"""

import asyncio
import json
import os
import sys
from typing import cast

from hypercorn.typing import ASGIFramework
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from facilitator.config.settings import load_config
from facilitator.web.server import (
    listen,
    new_event_loop,
    serve,
    server_config,
    spare_the_collector,
    stop_signal,
)


async def main(size: int) -> None:
    """Serve replies of `size` bytes until SIGTERM, configured as the service is."""

    async def echo(request: Request) -> Response:
        body = await request.body()
        return Response(body[:size], media_type="application/json")

    config = load_config(os.environ)
    listener = listen(config.host, config.port)
    host, port = listener.getsockname()
    server = server_config(config, [listener.detach()])
    app = Starlette(routes=[Route("/verify", echo, methods=["POST"])])
    spare_the_collector()
    started = {"event": "started", "listening": f"{host}:{port}"}
    print(json.dumps(started), file=sys.stderr, flush=True)
    await serve(cast(ASGIFramework, app), server, shutdown_trigger=stop_signal)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
