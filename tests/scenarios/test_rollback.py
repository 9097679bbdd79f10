"""An upgrade that is taken back: v1, v2, v1 on one journal, with payments in flight all the while.

v2 is this package with one more migration and another version; `make test-rollback` tells it all.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator import __version__
from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.journal.schema import KNOWN_VERSION
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.postgres import Server
from tests.support.releases import later_release
from tests.support.service import Service, environment, launch, request

pytestmark = pytest.mark.anyio

STEP = """
    ALTER TABLE settlement ADD COLUMN of_version_2 TEXT;
    ALTER TABLE "transaction" ADD COLUMN of_version_2 TEXT NOT NULL DEFAULT 'new';
    CREATE TABLE only_version_2 (id INTEGER NOT NULL, PRIMARY KEY (id)) STRICT, WITHOUT ROWID;
    """


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture(params=("sqlite", "postgres"))
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a journal that is not there yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/journal.db"
        return
    server: Server = request.getfixturevalue("postgres")
    server.create("rolled_back")
    yield server.url("rolled_back")
    server.drop("rolled_back")


def next_version(folder: Path, version: str, steps: int) -> Path:
    """A folder whose `facilitator` is a later one: that many more migrations."""
    later_release(folder, *(STEP.replace("version_2", f"step_{n}") for n in range(steps)))
    about = folder / "facilitator" / "__init__.py"
    about.write_text(about.read_text().replace(f'"{__version__}"', f'"{version}"'))
    return folder


class Seller:
    """Asks for payments to be settled, and tells what it hears."""

    def __init__(self, devnet: Devnet) -> None:
        self.devnet = devnet
        self.headers: list[dict[str, Any]] = []

    async def ask(self, service: Service, count: int) -> list[dict[str, Any]]:
        """Replies to that many new payments."""
        new = [devnet_payment(self.devnet) for _ in range(count)]
        self.headers += new
        return list(await asyncio.gather(*(service.settle(header) for header in new)))

    async def ask_again(self, service: Service) -> list[dict[str, Any]]:
        """Replies to all payments so far."""
        return list(await asyncio.gather(*(service.settle(each) for each in self.headers)))


async def transactions(devnet: Devnet) -> int:
    """How many of the signer's have been mined."""
    signer = "0x" + devnet.signer.address.hex()
    return int(str(await devnet.rpc("eth_getTransactionCount", signer, "latest")), 16)


@asynccontextmanager
async def running(told: dict[str, str], tree: Path | None = None) -> AsyncIterator[Service]:
    async with launch(told, tree=tree) as launched:
        service = await launched.started()
        _, about = await service.get("/")
        print(f"  {about['version']} runs")
        yield service


async def test_v1_v2_v1_on_one_journal_settles_everything_once(
    devnet: Devnet, journal: str, tmp_path: Path
) -> None:
    """v1 stops with payments in flight; v2 changes the tables, takes more, and is killed; v1 comes
    back to a journal one version ahead, and finishes the payments of both.
    """
    await approve(devnet)
    v2 = next_version(tmp_path / "v2", "9.0.0", 1)
    told = environment(devnet, tmp_path, DATABASE_URL=journal, SETTLE_TIMEOUT_SECONDS="2")
    seller = Seller(devnet)
    before = await transactions(devnet)
    await devnet.rpc("evm_setIntervalMining", 0)
    async with running(told) as first:
        replies = await seller.ask(first, 4)
        assert {reply["error"] for reply in replies} == {"Settlement pending"}
        assert await first.stop() == 0
    async with running(told, v2) as second:
        assert (await second.get("/"))[1]["version"] == "9.0.0"
        replies += await seller.ask(second, 4)
        assert {reply["error"] for reply in replies} == {"Settlement pending"}
        posting = asyncio.create_task(second.post("/settle", request(devnet_payment(devnet))))
        await second.wait_for("settlement_submitted", 5)
        await second.stop(signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await posting
    async with running({**told, "SETTLE_TIMEOUT_SECONDS": "45"}) as third:
        assert (await third.get("/"))[1]["version"] == __version__
        await devnet.rpc("evm_setIntervalMining", 1)
        await third.wait_for("settlement_confirmed", 9)
        outcomes = await seller.ask_again(third)
        later = await seller.ask(third, 2)
        repeated = await seller.ask_again(third)
        assert await third.stop() == 0
    logs = await settled_logs(devnet)
    print(f"  {len(logs)} payments on the chain, of {len(seller.headers) + 1} asked for")
    assert [reply["success"] for reply in outcomes + later] == [True] * 10
    assert {reply["error"] for reply in repeated} == {"Nonce has already been used"}
    # Not always those that were told first: one that waits long is replaced with a higher fee.
    paid = {log.transaction_hash for log in logs}
    assert {reply["txHash"] for reply in outcomes + later} < paid
    assert len(logs) == len({log.payment_id for log in logs}) == 11
    assert await transactions(devnet) - before == len(paid), "some transaction paid nothing"


async def test_two_versions_back_is_refused_before_anything_is_touched(
    devnet: Devnet, journal: str, tmp_path: Path
) -> None:
    """Forward again is the way out, and nothing is lost meanwhile."""
    await approve(devnet)
    later = next_version(tmp_path / "later", "9.0.0", 2)
    told = environment(devnet, tmp_path, DATABASE_URL=journal, SETTLE_TIMEOUT_SECONDS="2")
    seller = Seller(devnet)
    await devnet.rpc("evm_setIntervalMining", 0)
    async with running(told, later) as service:
        [pending] = await seller.ask(service, 1)
        assert await service.stop() == 0
    async with launch(told) as old:
        assert await old.ended() == 1
        [refused] = old.logged("start_refused")
        assert f"schema version {KNOWN_VERSION + 2} is too new for this program" in refused["why"]
    async with running({**told, "SETTLE_TIMEOUT_SECONDS": "45"}, later) as service:
        await devnet.rpc("evm_setIntervalMining", 1)
        [reply] = await seller.ask_again(service)
    [log] = await settled_logs(devnet)
    assert pending["error"] == "Settlement pending"
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)
