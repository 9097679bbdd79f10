"""A real Prometheus and Alertmanager that watch one service, and a webhook that hears them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from tests.alerts.programs import RULES, program
from tests.support.ports import reserved_port

DEADLINE = 60.0  # seconds


class Webhook:
    """What an on-call tool is: takes Alertmanager's notifications."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        self._arrived = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        self.alerts.extend((await request.json())["alerts"])
        self._arrived.set()
        return web.Response()

    def names(self) -> set[str]:
        return {each["labels"]["alertname"] for each in self.alerts}

    async def received(self, name: str, status: str = "firing") -> dict[str, Any]:
        """Wait for the alert of this name in this state."""
        async with asyncio.timeout(DEADLINE):
            while True:
                for alert in self.alerts:
                    if (alert["labels"]["alertname"], alert["status"]) == (name, status):
                        return alert
                self._arrived.clear()
                await self._arrived.wait()


def hurried(rules: Path) -> str:
    """The rules as they are, but for how long a condition has to hold: minutes are for people."""
    found = yaml.safe_load(rules.read_text())
    for group in found["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "2s"
    text: str = yaml.safe_dump(found)
    return text


@asynccontextmanager
async def monitoring(folder: Path, target: str) -> AsyncIterator[Webhook]:
    """Watch `target` (host:port), a scrape and an evaluation a second, until the block ends."""
    webhook, (prometheus, alertmanager) = Webhook(), (reserved_port(), reserved_port())
    async with AsyncExitStack() as stack:
        app = web.Application()
        app.router.add_post("/", webhook.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        receiver = {"url": f"http://127.0.0.1:{runner.addresses[0][1]}/", "send_resolved": True}
        route = {"receiver": "on-call", "group_by": ["..."], "group_wait": "0s"}
        configuration = {
            "route": {**route, "group_interval": "1s", "repeat_interval": "1h"},
            "receivers": [{"name": "on-call", "webhook_configs": [receiver]}],
        }
        (folder / "alertmanager.yaml").write_text(yaml.safe_dump(configuration))
        (folder / "rules.yaml").write_text(hurried(RULES))
        every = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
        targets = [{"targets": [f"127.0.0.1:{alertmanager}"]}]
        configuration = {
            "global": every,
            "rule_files": ["rules.yaml"],
            "alerting": {"alertmanagers": [{"static_configs": targets}]},
            "scrape_configs": [
                {"job_name": "facilitator", "static_configs": [{"targets": [target]}]}
            ],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        alerting = _process(
            folder,
            *(program("alertmanager"), "--cluster.listen-address="),
            f"--config.file={folder}/alertmanager.yaml",
            f"--storage.path={folder}/alertmanager",
            f"--web.listen-address=127.0.0.1:{alertmanager}",
        )
        await stack.enter_async_context(alerting)
        await _ready(alertmanager)
        watching = _process(
            folder,
            program("prometheus"),
            f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/prometheus",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        )
        await stack.enter_async_context(watching)
        await _ready(prometheus)
        yield webhook


@asynccontextmanager
async def _process(folder: Path, *command: str) -> AsyncIterator[None]:
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}
        )
        try:
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _ready(port: int) -> None:
    async with asyncio.timeout(DEADLINE), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/-/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
