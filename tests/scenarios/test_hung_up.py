"""Who hangs up has asked all the same: the seller may come back for the answer."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.nonces import MAX_IN_FLIGHT
from tests.support.bursts import OPTIONS, payers, post_all, replies_of, x402_posts
from tests.support.service import serve
from tests.support.x402 import v2_body
from tests.support.x402_chain import transfers
from tests.support.x402_service import USED, resume_mining, settle, stop_mining

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return OPTIONS


async def test_who_hangs_up_in_the_queue_is_settled_and_hears_success_on_asking_again(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Alone or beside others in a group. A payment that was dropped with its client could expire
    before the seller asks again; one that is settled is told once, whenever that is.
    """
    gone, stays = (v2_body(devnet, payer=payer) for payer in payers(devnet)[:2])
    async with serve(devnet, tmp_path) as service:
        await stop_mining(devnet)
        first = await post_all(service, x402_posts(devnet, MAX_IN_FLIGHT))
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT)
        async with aiohttp.ClientSession() as impatient:
            posting = asyncio.create_task(impatient.post(service.url + "/settle", json=gone))
            await asyncio.sleep(0.5)  # no event says that one waits
            posting.cancel()
        waiting = asyncio.create_task(settle(service, stays))
        await asyncio.sleep(0.5)
        await resume_mining(devnet)
        await service.wait_for("settlement_confirmed", MAX_IN_FLIGHT + 2)
        reply, again = await settle(service, gone), await settle(service, gone)
        assert all(each["success"] for each in await replies_of(first))
        assert (await waiting)["success"]
    assert reply["success"] is True
    assert (again["success"], again["errorReason"]) == (False, USED)
    assert len(await transfers(devnet)) == MAX_IN_FLIGHT + 2
