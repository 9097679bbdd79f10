"""Housekeeping of one chain: finished settlements leave the journal once they are old enough.

It is a task of its own, so that neither payments nor the loop wait for it. Of several processes
only the one that watches the chain runs it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from facilitator.domain.budget import DAY_MS
from facilitator.engine.loop import ChainLoop
from facilitator.journal.store import Store, StoreError
from facilitator.telemetry.logs import event, get_logger

_log = get_logger(__name__)

# Settlements deleted in one database transaction. Claims wait for it where there is one writer: for
# 30 ms, with 200,000 settlements in a SQLite file.
BATCH = 200
PAUSE = 0.25  # seconds between two batches where there is more: 800 a second leave
EVERY = 60.0  # seconds
LOOK_AGAIN = 1.0  # seconds, while another process watches the chain, or no head is known yet


@dataclass(kw_only=True, eq=False)
class Retention:
    """Forgets what has been finished for `days`. `store` must be the one that `loop` writes to;
    `clock` is in unix milliseconds.
    """

    network: str
    chain_id: int
    store: Store
    loop: ChainLoop
    days: int
    clock: Callable[[], int]

    async def run(self) -> None:
        """Forget old settlements, again and again; a fault only delays it."""
        while True:
            try:
                forgotten = await self._forget()
                if forgotten:
                    self._event(logging.INFO, "settlements_forgotten", forgotten=forgotten)
            except StoreError as fault:
                self._event(logging.WARNING, "forgetting_failed", fault=str(fault))
            except Exception as bug:  # housekeeping must not stop anything else
                event(_log, logging.ERROR, "forgetting_broken", exc_info=bug, network=self.network)
            await anyio.sleep(LOOK_AGAIN if self.loop.horizon is None else EVERY)

    async def _forget(self) -> int:
        """Delete all that is old enough, batch by batch. Returns how many settlements that was."""
        forgotten = 0
        while (horizon := self.loop.horizon) is not None:
            now = self.clock()
            batch = await self.store.forget(
                self.chain_id,
                horizon=horizon,
                before=now - self.days * DAY_MS,
                now=now,
                limit=BATCH,
            )
            forgotten += batch
            if batch < BATCH:
                break
            await anyio.sleep(PAUSE)
        return forgotten

    def _event(self, level: int, name: str, **fields: str | int) -> None:
        event(_log, level, name, exc_info=None, network=self.network, **fields)
