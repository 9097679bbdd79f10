"""What /ready costs the journal, and how soon it follows it."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet
from facilitator.web.service import WRITABLE_FOR
from tests.support.service import serve

pytestmark = pytest.mark.anyio


async def test_a_hundred_probes_write_the_journal_once(devnet: Devnet, tmp_path: Path) -> None:
    wal = tmp_path / "facilitator.db-wal"
    async with serve(devnet, tmp_path) as service:
        await service.get("/ready")
        before, started = wal.stat().st_mtime_ns, asyncio.get_running_loop().time()
        size = wal.stat().st_size
        for _ in range(100):
            assert (await service.get("/ready"))[0] == 200
        passed = asyncio.get_running_loop().time() - started
        if passed < WRITABLE_FOR:
            assert (wal.stat().st_mtime_ns, wal.stat().st_size) == (before, size)
        await asyncio.sleep(WRITABLE_FOR)
        await service.get("/ready")
        assert wal.stat().st_mtime_ns > before


async def test_readiness_follows_the_journal_within_its_time(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Somebody holds the database's write lock: not ready soon after, and ready soon again."""
    async with serve(devnet, tmp_path) as service:
        assert (await service.get("/ready"))[0] == 200
        with closing(sqlite3.connect(tmp_path / "facilitator.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(WRITABLE_FOR)
            status, reply = await service.get("/ready")
            assert (status, reply["status"], reply["journal"]) == (503, "not_ready", False)
            other.execute("ROLLBACK")
        await asyncio.sleep(WRITABLE_FOR)
        status, reply = await service.get("/ready")
        assert (status, reply["status"]) == (200, "ready")
