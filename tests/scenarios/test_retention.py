"""RETENTION_DAYS with the real service: what is old leaves the journal, and is paid no second time.

The days pass by moving the journal's times back while no process has it open.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.chain import approve, devnet_authorization, devnet_payment, settled_logs
from tests.support.postgres import Server
from tests.support.service import Service, request, serve
from tests.support.x402 import v2_body

pytestmark = pytest.mark.anyio

DATABASE = "retention"
AGE = """UPDATE settlement SET updated_at = updated_at - 2 * 86400000,
    listener_until = listener_until - 2 * 86400000"""
COUNTS = """SELECT (SELECT count(*) FROM settlement), (SELECT count(*) FROM "transaction"),
    (SELECT count(*) FROM attempt), (SELECT count(*) FROM settlement_transaction),
    (SELECT count(*) FROM used_key)"""
USED = ("Nonce has already been used", "invalid_exact_evm_nonce_already_used")
DEPTH = 80  # blocks: more than a reorg is watched for

Ask = Callable[[str], list[int]]


@pytest.fixture(params=["sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[dict[str, str], Ask]]:
    """The settings of a process on an empty journal, and what runs SQL there: a row's numbers."""
    if request.param == "sqlite":
        file = tmp_path / "facilitator.db"

        def ask(statement: str) -> list[int]:
            with sqlite3.connect(file) as db:
                row = db.execute(statement).fetchone()
            db.close()
            return list(row or ())

        yield {"DATABASE_URL": f"sqlite:///{file}"}, ask
        return
    server: Server = request.getfixturevalue("postgres")
    server.create(DATABASE)

    def execute(statement: str) -> list[int]:
        told = server.execute(DATABASE, statement).strip()
        return [int(each) for each in told.split("|") if each.isdigit()]

    yield {"DATABASE_URL": server.url(DATABASE)}, execute
    server.drop(DATABASE)


async def test_what_is_forgotten_is_used_all_the_same(
    devnet: Devnet, tmp_path: Path, journal: tuple[dict[str, str], Ask]
) -> None:
    """In both dialects, gasless as well: the answer is `already used`, with the hash, and nothing
    is sent; not even while the chain shows the nonces as free, as a node does that lags.
    """
    settings, ask = journal
    await approve(devnet)
    before_all = await devnet.rpc("evm_snapshot")
    gasless = {
        **request(devnet_payment(devnet, payer=devnet.payer)),
        "authParams": devnet_authorization(devnet),
    }
    bodies = [
        ("/settle", request(devnet_payment(devnet))),
        ("/settle/gasless", gasless),
        ("/settle", v2_body(devnet)),
    ]
    async with serve(devnet, tmp_path, **settings) as first:
        paid = [await first.post(path, body) for path, body in bodies]
        assert [reply["success"] for _, reply in paid] == [True] * 3
    assert ask(COUNTS) == [3, 3, 3, 3, 0]
    await devnet.rpc("anvil_mine", hex(DEPTH))
    async with serve(devnet, tmp_path, RETENTION_DAYS="1", **settings) as young:
        assert (await young.settle(devnet_payment(devnet)))["success"]
        assert not young.logged("settlements_forgotten")
    ask(AGE)
    await devnet.rpc("anvil_mine", hex(DEPTH))
    async with serve(devnet, tmp_path, RETENTION_DAYS="1", **settings) as second:
        await second.wait_for("settlements_forgotten")
        assert second.logged("settlements_forgotten")[0]["forgotten"] == 4
        assert ask(COUNTS) == [0, 0, 0, 0, 5]
        await refused(second, bodies, paid)
        assert len(await settled_logs(devnet)) == 3
        assert await devnet.rpc("evm_revert", before_all)
        await refused(second, bodies, paid)
        assert await settled_logs(devnet) == []
        assert not second.logged("settlement_submitted")


async def refused(
    service: Service, bodies: list[tuple[str, Any]], paid: list[tuple[int, dict[str, Any]]]
) -> None:
    """Each is told that it is used, and by which transaction, with an idempotency key as well."""
    for (path, body), (_, before) in zip(bodies, paid, strict=True):
        name = "txHash" if "txHash" in before else "transaction"
        for headers in ({}, {"Idempotency-Key": "order-7"}):
            async with service.session.post(service.url + path, json=body, headers=headers) as got:
                reply = await got.json()
            assert (got.status, reply["success"], reply[name]) == (200, False, before[name])
            assert reply.get("error", reply.get("errorReason")) in USED
        _, verdict = await service.post("/verify", body)
        assert (verdict["isValid"], verdict["invalidReason"] in USED) == (False, True)


async def test_one_of_several_replicas_forgets(
    devnet: Devnet, tmp_path: Path, postgres: Server
) -> None:
    """The one that watches the chain; the others do not even try."""
    await approve(devnet)
    postgres.create(DATABASE)
    settings = {"DATABASE_URL": postgres.url(DATABASE), "RETENTION_DAYS": "1"}
    try:
        async with serve(devnet, tmp_path, **settings) as first:
            for _ in range(3):
                assert (await first.settle(devnet_payment(devnet)))["success"]
        await devnet.rpc("anvil_mine", hex(DEPTH))
        postgres.execute(DATABASE, AGE)
        async with (
            serve(devnet, tmp_path, **settings) as one,
            serve(devnet, tmp_path, **settings) as other,
        ):
            async with asyncio.timeout(30):
                while not (  # noqa: ASYNC110 - another process logs it
                    one.logged("watching") or other.logged("watching")
                ):
                    await asyncio.sleep(0.02)
            leader, follower = (one, other) if one.logged("watching") else (other, one)
            await leader.wait_for("settlements_forgotten")
            assert not follower.logged("settlements_forgotten")
            assert not follower.logged("watching")
            for each in (one, other):
                assert not each.logged("forgetting_failed")
                assert (await each.settle(devnet_payment(devnet)))["success"]
    finally:
        postgres.drop(DATABASE)
