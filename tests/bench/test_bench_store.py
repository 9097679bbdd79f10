"""What measures the journal: it runs, on every engine, and adds up."""

import hashlib
from pathlib import Path

import pytest

from facilitator.journal.open import open_store
from tests.bench.store import REPLICAS, Figures, compare, grow
from tests.support.journal import CHAIN_ID
from tests.support.postgres import Server

pytestmark = pytest.mark.anyio


def test_of_a_hundred_latencies_the_second_but_highest_is_the_99th_percentile() -> None:
    figures = Figures.of([number / 1000 for number in range(1, 101)], 4.0)
    assert (figures.per_second, figures.p50, figures.p99) == (25.0, 50.0, 99.0)


def test_each_engine_and_each_number_of_replicas_has_a_row(
    postgres: Server, tmp_path: Path
) -> None:
    _, _, *rows = compare(postgres, tmp_path, 0.5)
    assert len(rows) == 2 + len(REPLICAS)
    for row in rows:
        assert float(row.split("|")[3].replace(",", "")) > 0


async def test_finished_settlements_are_what_they_would_be_if_they_had_been_made(
    postgres: Server, tmp_path: Path
) -> None:
    """The journal counts and reads them as its own."""
    _, _, *rows = grow(postgres, tmp_path, 0.5, [0, 50])
    assert len(rows) == 4
    store = await open_store(tmp_path / "growing.db")
    try:
        copy = await store.find(hashlib.md5(b"key 7").hexdigest())  # noqa: S324
        assert copy is not None
        record = await store.get(copy.id)
        assert record is not None
        assert [each.account_nonce for each in record.transactions] == [7]
        states = (await store.settlement_counts(CHAIN_ID)).states
        assert set(states) == {"confirmed"}
        assert states["confirmed"] > 50
    finally:
        await store.close()
