"""Laws of answers that count for a while, and what /ready costs the journal."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet
from facilitator.web.cached import Recent
from facilitator.web.service import WRITABLE_FOR
from tests.support.service import serve

pytestmark = pytest.mark.anyio


class Oracle:
    """Answers how often it was asked; while `broken` it raises instead."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False

    async def ask(self) -> int:
        self.asked += 1
        await asyncio.sleep(0.02)
        if self.broken:
            raise LookupError
        return self.asked


async def test_however_many_want_an_answer_one_of_them_asks() -> None:
    oracle = Oracle()
    recent = Recent(oracle.ask, lifetime=60.0)
    assert await asyncio.gather(*(recent.look() for _ in range(100))) == [1] * 100
    assert await recent.look() == 1


async def test_an_answer_counts_for_its_lifetime_and_no_longer() -> None:
    oracle = Oracle()
    recent = Recent(oracle.ask, lifetime=0.2)
    assert [await recent.look() for _ in range(5)] == [1] * 5
    await asyncio.sleep(0.2)
    assert [await recent.look() for _ in range(5)] == [2] * 5


async def test_a_false_answer_counts_as_long_as_a_true_one() -> None:
    asked: list[None] = []

    async def ask() -> bool:
        asked.append(None)
        return False

    recent = Recent(ask, lifetime=60.0)
    assert [await recent.look() for _ in range(5)] == [False] * 5
    assert len(asked) == 1


async def test_an_error_is_not_kept() -> None:
    """Nor is the answer from before it given once its time is over."""
    oracle = Oracle()
    recent = Recent(oracle.ask, lifetime=0.0)
    assert await recent.look() == 1
    oracle.broken = True
    for _ in range(2):
        with pytest.raises(LookupError):
            await recent.look()
    oracle.broken = False
    assert await recent.look() == 4


async def test_an_asker_that_goes_away_holds_nobody_up() -> None:
    oracle = Oracle()
    recent = Recent(oracle.ask, lifetime=60.0)
    first = asyncio.create_task(recent.look())
    waiting = asyncio.create_task(recent.look())
    await asyncio.sleep(0.01)
    first.cancel()
    assert await waiting == 2


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
