"""One SQL text for every engine, but for the operations that the code lists."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, cast

import pytest

from facilitator.domain.settlement import Attempt, SettlementState, TransactionChange
from facilitator.domain.settlement import TransactionState as State
from facilitator.journal.engine import DIFFERENCES, Connection, Operation, T
from facilitator.journal.postgres.store import PostgresStore
from facilitator.journal.sqlite.store import SQLiteStore
from facilitator.journal.store import Claimed, Store
from tests.support.engines import Engine
from tests.support.journal import (
    ALICE,
    CHAIN_ID,
    NOW,
    change,
    filler,
    payment,
    settlement_of,
    transaction_of,
)

pytestmark = pytest.mark.anyio

STATEMENTS = ("fetch", "fetchrow", "fetchval", "execute", "lock")


class Recorder:
    """An engine before another one: it writes down what each operation of the store is in SQL."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._operation = "nothing"
        self.texts: dict[str, set[str]] = defaultdict(set)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @contextmanager
    def during(self, operation: str) -> Iterator[None]:
        self._operation = operation
        yield
        self._operation = "nothing"

    async def write(self, operation: Operation[T], *locks: Any) -> T:
        return cast(T, await self._engine.write(self._seen(operation), *locks))

    async def read(self, operation: Operation[T]) -> T:
        return cast(T, await self._engine.read(self._seen(operation)))

    async def look_up(self, operation: Operation[T]) -> T:
        return cast(T, await self._engine.look_up(self._seen(operation)))

    def _seen(self, operation: Operation[T]) -> Operation[T]:
        texts = self.texts[self._operation]
        return lambda db: operation(cast(Connection, RecordedConnection(db, texts)))


class RecordedConnection:
    """What an engine does by a method of its own counts as a text of its own."""

    def __init__(self, db: Connection, texts: set[str]) -> None:
        self._db = db
        self._texts = texts

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def recorded(*arguments: Any) -> Any:
            own = f"{name} of {type(self._db).__name__}"
            self._texts.add(arguments[0] if name in STATEMENTS else own)
            return await getattr(self._db, name)(*arguments)

        return recorded


def recorded(store: Store) -> tuple[Store, Recorder]:
    """The same store, with what its operations are in SQL."""
    if isinstance(store, SQLiteStore):
        recorder = Recorder(store._engine)
        return SQLiteStore(cast(Any, recorder)), recorder
    assert isinstance(store, PostgresStore)
    recorder = Recorder(store._pool)
    return PostgresStore(cast(Any, recorder), store.notices), recorder


async def every_operation(store: Store, recorder: Recorder) -> None:
    """Every operation of the store once, down every branch that has SQL of its own."""

    async def do(name: str, *arguments: Any, **named: Any) -> Any:
        with recorder.during(name):
            return await getattr(store, name)(*arguments, **named)

    async def claimed() -> Claimed:
        paid = payment()
        new = settlement_of(paid, second_key=f"second {paid.authorization_nonce}")
        return cast(Claimed, await do("claim", new, transaction_of(paid), NOW))

    async def ended(first: Claimed, state: State, cost: int | None = None) -> None:
        block = None if state is State.SUPERSEDED else 9
        end = TransactionChange(
            id=first.transaction.id, state=state, block_number=block, gas_cost=cost
        )
        await do("record", [end], [], NOW)
        if cost is not None:
            await do("finalize", CHAIN_ID, 9)

    def outbid(last: Attempt) -> Attempt:
        return filler().sign(90 + len(last.raw) % 2)

    paid = payment()
    group = [settlement_of(paid)]
    await do("claim_group", group, lambda _: transaction_of(paid), NOW)
    first, second, third = [await claimed() for _ in range(3)]
    again = transaction_of(paid)
    await do("settle_again", second.settlement.id, second.settlement.version, again, NOW)
    await do("fill", filler(), 70, NOW)
    attempt = filler().sign(80)
    await do("add_attempt", second.transaction.id, attempt, 2**200, NOW, 300_000)
    await do("raise_nonce_floor", CHAIN_ID, ALICE, 60)
    confirmed = [change(first.settlement, SettlementState.CONFIRMED)]
    await do("record", [], confirmed, NOW)
    await do("record", [], [change(third.settlement, SettlementState.FAILED)], NOW)
    await ended(first, State.MINED, 5)
    await ended(third, State.MINED, 7)
    assert await do("revive", CHAIN_ID, ALICE, first.transaction.account_nonce)
    nonce = third.transaction.account_nonce
    assert await do("replace_with_filler", filler(), nonce, outbid, NOW)
    await do("become_waiter", first.settlement.id, "waiter", NOW, NOW)
    await do("renew", first.settlement.id, "waiter", NOW + 9)
    assert await do("mark_success_replied", first.settlement.id, "waiter", NOW, b"paid")
    await do("let_go", second.settlement.id, "waiter")
    await do("keep_reply", third.settlement.id, b"failed")
    for name in ("find", "get"):
        await do(name, first.settlement.id)
    await do("find_transaction", b"\0" * 32)
    await do("find_reply", "", "order")
    await do("outstanding", CHAIN_ID, first.settlement.payment.asset, ALICE)
    for name in ("open_work", "in_flight", "settlement_counts"):
        await do(name, CHAIN_ID)
    await do("watched", CHAIN_ID, 1)
    await ended(first, State.SUPERSEDED)
    later, in_time = NOW + 10**10, 1_700_000_000_000
    assert await do("forget", CHAIN_ID, horizon=2**40, before=later, now=in_time, limit=9) == 1
    assert await do("used_by", [first.settlement.key]) is not None
    await do("mark_all_replied", NOW)
    await do("ping")


async def test_the_text_of_an_operation_is_the_same_on_every_engine_but_for_those_listed(
    engine: Engine, tmp_path: Path
) -> None:
    """And each of those is listed with its reason."""
    operations = {
        name
        for name, found in vars(Store).items()
        if iscoroutinefunction(found) and name != "close" and not name.startswith("_")
    }
    texts: list[dict[str, set[str]]] = []
    first = await engine()
    for opened in (first, await SQLiteStore.open(tmp_path / "other.db")):
        store, recorder = recorded(opened)
        await every_operation(store, recorder)
        await opened.close()
        assert set(recorder.texts) | {"ping"} == operations
        texts.append(recorder.texts)
    differing = {name for name in operations if texts[0][name] != texts[1][name]}
    assert differing == (set() if isinstance(first, SQLiteStore) else set(DIFFERENCES))
