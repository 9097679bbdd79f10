"""The ASGI application, whose lifespan runs the service."""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePath
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from facilitator import __version__
from facilitator.config.settings import Config
from facilitator.ethereum.addresses import checksum
from facilitator.journal.store import StoreError
from facilitator.telemetry.logs import event, get_logger
from facilitator.telemetry.metrics import Metrics
from facilitator.web.middleware import layers, measuring_layers
from facilitator.web.replies import not_found
from facilitator.web.routes import ROUTES
from facilitator.web.service import Service, StartRefused, run_service

_log = get_logger(__name__)
# Requests at once: as many as settlements may wait for a signer, and as many again for the rest.
CONCURRENCY = 4096
MOUNTS = Path("/proc/self/mountinfo")
# File systems with which container engines stack an image's layers.
LAYERS = frozenset({"overlay", "fuse.fuse-overlayfs", "aufs"})

_ESCAPED = re.compile(r"\\([0-7]{3})")


class State(TypedDict):
    """The state that the lifespan gives to every request."""

    service: Service


def create_app(config: Config) -> Starlette:
    """Build the ASGI application; it needs a server with lifespan support."""
    metrics = Metrics(config, (route.path for route in ROUTES))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        try:
            async with run_service(config, metrics) as service:
                _log_start(service)
                yield State(service=service)
        except (StoreError, StartRefused) as refused:
            event(_log, logging.CRITICAL, "start_refused", why=str(refused))
            raise

    app = Starlette(
        routes=ROUTES,
        middleware=[*measuring_layers(config, metrics), *layers(concurrency=CONCURRENCY)],
        exception_handlers={404: _not_found, 405: _not_found},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a trailing slash is another path
    return app


async def _not_found(request: Request, _: Exception) -> Response:
    """Reply to unknown paths, wrong methods and trailing slashes alike."""
    return not_found(request.scope["path"])


def _log_start(service: Service) -> None:
    """Log what this process serves, what it lacks, and whether its journal would be lost."""
    config = service.config
    contract = config.primary.contract
    event(
        _log,
        logging.INFO,
        "started",
        version=__version__,
        mode=config.mode,
        listening=f"{config.host}:{config.port}",
        metrics_port=config.metrics_port,
        networks=list(service.networks),
        settling=[name for name, served in service.networks.items() if served.settler],
        unserved={each.network: each.reason for each in config.unserved},
        signers=[checksum(address) for address in service.signers],
        contract=None if contract is None else checksum(contract),
        database=str(config.database),
        missing=list(config.missing),
    )
    journal = config.database
    if config.is_production and isinstance(journal, Path) and is_fleeting(journal):
        event(
            _log,
            logging.WARNING,
            "journal_not_on_a_volume",
            database=str(config.database),
            why="it goes away with the container, and with it what was signed and not yet mined",
        )


def on_container_layer(path: PurePath, mounts: str) -> bool:
    """Return whether the absolute `path` is on a container's own layer, which goes away with the
    container. `mounts` is the text of /proc/self/mountinfo (proc_pid_mountinfo(5)), of which field
    5 is the mount point and the one after " - " the file system's type.
    """
    longest, kind = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        if len(left.split()) < 5 or not right:
            continue
        point = PurePath(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), left.split()[4]))
        # a later mount at the same place hides the earlier one
        if path.is_relative_to(point) and len(point.parts) >= longest:
            longest, kind = len(point.parts), right.split()[0]
    return kind in LAYERS


def is_fleeting(path: Path) -> bool:
    """Return whether the file goes away with the container; False where the system cannot tell."""
    try:
        return on_container_layer(path.resolve(), MOUNTS.read_text())
    except OSError:
        return False
