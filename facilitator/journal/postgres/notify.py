"""Notices of settlements that have changed, by LISTEN and NOTIFY: a replica need not look for what
another one records.

Nothing relies on them. LISTEN ends with its connection, and a pooler that shares sessions delivers
notices to whoever has the session by then. So a replica counts on notices only while it receives
its own: every few seconds it sends one through the pool that records outcomes.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress

import asyncpg

from facilitator.config.database import PostgreSQL
from facilitator.journal.engine import Connection, StoreError
from facilitator.journal.postgres.pool import Pool, connect_arguments, describe
from facilitator.telemetry.logs import event, get_logger

_log = get_logger(__name__)

CHANNEL = "facilitator_changed"
# A payload is shorter than 8,000 bytes (PostgreSQL, NOTIFY): ids of 32, and a space after each.
IDS_A_NOTICE = 7_999 // 33

# Seconds. A connection that is dead without a word is noticed within the two together.
SPEAK_EVERY = 5.0
HEARD_WITHIN = 5.0
# The first is longer than the time between two looks at the journal, which notices make rare: so
# that there is one between loss and return.
RETRY_FIRST = 1.0
RETRY_LAST = 30.0


async def notify(db: Connection, changed: Sequence[str]) -> None:
    """Notify the other processes of these settlements, once the transaction is committed.

    Such a commit takes a lock that all of the server's databases share: so claims, each with a
    transaction of its own, send no notice.
    """
    for first in range(0, len(changed), IDS_A_NOTICE):
        notice = " ".join(changed[first : first + IDS_A_NOTICE])
        await db.execute("SELECT pg_notify($1, $2)", CHANNEL, notice)


class PostgresNotices:
    """`Notices`, on a connection of its own to `address`; None: they arrive nowhere."""

    def __init__(self, address: PostgreSQL | None, pool: Pool) -> None:
        self._address = address
        self._pool = pool
        self._callbacks: list[Callable[[str], None]] = []
        self._own_channel = f"facilitator_{secrets.token_hex(8)}"
        self._logged: bool | None = None  # whether notices arrive, as the log says
        self.arrive = False
        self._arrived = asyncio.Event()  # once, for who proves it

    def subscribe(self, callback: Callable[[str], None]) -> None:
        """As the protocol says."""
        self._callbacks.append(callback)

    async def run(self) -> None:
        """As the protocol says."""
        pause = RETRY_FIRST
        while self._address is not None:
            try:
                await self._listen(self._address)
            except Exception as fault:  # whatever it is, payments are settled without notices
                pause = RETRY_FIRST if self.arrive else min(2 * pause, RETRY_LAST)
                self._now(arrive=False, why=describe(fault))
            await asyncio.sleep(pause)

    async def prove(self) -> str | None:
        """Why notices do not arrive here; None once its own notice has come back."""
        if self._address is None:
            return "nobody listens behind a pooler"
        listening = asyncio.create_task(self._listen(self._address))
        arrived = asyncio.create_task(self._arrived.wait())
        await asyncio.wait({listening, arrived}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        arrived.cancel()
        ended, _ = await asyncio.gather(listening, arrived, return_exceptions=True)
        return describe(ended) if isinstance(ended, Exception) else None

    async def _listen(self, address: PostgreSQL) -> None:
        """For as long as notices arrive. Raises what ends it."""
        connection = await asyncpg.connect(**connect_arguments(address))
        heard, cut_off = asyncio.Event(), asyncio.Event()
        connection.add_termination_listener(lambda _: cut_off.set())
        try:
            await connection.add_listener(CHANNEL, self._hear)
            await connection.add_listener(self._own_channel, lambda *_: heard.set())
            while not cut_off.is_set():
                heard.clear()
                await self._pool.write(self._speak)
                if not await _within(HEARD_WITHIN, heard):
                    raise StoreError("what is told does not come back")
                self._now(arrive=True)
                self._arrived.set()
                await _within(SPEAK_EVERY, cut_off)
        finally:
            connection.terminate()
        raise StoreError("the connection has ended")

    async def _speak(self, db: Connection) -> None:
        await db.execute("SELECT pg_notify($1, '')", self._own_channel)

    def _hear(self, _connection: object, _pid: int, _channel: str, notice: str) -> None:
        for settlement_id in notice.split():
            for callback in self._callbacks:
                callback(settlement_id)

    def _now(self, *, arrive: bool, why: str = "") -> None:
        self.arrive = arrive
        if self._logged is arrive:
            return
        self._logged = arrive
        if arrive:
            event(_log, logging.INFO, "notices_arrive")
        else:
            event(_log, logging.WARNING, "notices_lost", why=why)


async def _within(seconds: float, happened: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(happened.wait(), seconds)
    return happened.is_set()
