"""Laws of several calls that one caller waits for together."""

import asyncio
import gc
from typing import Any

import pytest

from facilitator.chain.rpc import RPCError, TransportError
from facilitator.domain.strict_json import JSON
from tests.support.rpcserver import Reply, always, answers, calls_in, reply_json, rpc_server, rpc_to

pytestmark = pytest.mark.anyio

THREE = [("m", (0,)), ("m", (1,)), ("m", (2,))]


def refuse_the_second(body: JSON) -> Reply:
    given: list[Any] = answers(body)
    given[1] = {"id": given[1]["id"], "error": {"code": 3, "message": "reverted", "data": "0x01"}}
    return reply_json(given)


def watch_for_complaints() -> list[dict[str, Any]]:
    complaints: list[dict[str, Any]] = []
    handle = asyncio.get_running_loop().set_exception_handler
    handle(lambda _loop, context: complaints.append(context))
    return complaints


async def test_they_leave_as_one_post_and_are_answered_in_order() -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        assert await rpc.call_all(THREE) == [[0], [1], [2]]
        assert len(server.posts) == 1


async def test_they_share_the_post_of_the_turn() -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        three, one = await asyncio.gather(rpc.call_all(THREE), rpc.call("n", 7))
        assert three == [[0], [1], [2]]
        assert one == [7]
        assert len(server.posts) == 1


async def test_more_than_a_post_takes_are_answered_all_the_same() -> None:
    async with rpc_server() as server, rpc_to(server.url, batch_limit=2) as rpc:
        assert await rpc.call_all(THREE) == [[0], [1], [2]]
        assert len(server.posts) == 2


async def test_no_calls_need_no_answer() -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        assert await rpc.call_all([]) == []
        assert server.posts == []


async def test_an_error_of_one_is_the_answer_to_that_one() -> None:
    async with rpc_server(refuse_the_second) as server, rpc_to(server.url) as rpc:
        first, second, third = await rpc.call_all(THREE)
        assert (first, third) == ([0], [2])
        assert isinstance(second, RPCError)
        assert second.data == "0x01"


@pytest.mark.parametrize("kept", range(3))
async def test_one_without_an_answer_leaves_none_to_the_caller(kept: int) -> None:
    """Nor is anything complained about: the others have errors that nobody asks for."""
    complaints = watch_for_complaints()
    lossy = always(Reply(status=500)) if kept == 0 else _answer_first(kept)
    async with rpc_server(lossy) as server, rpc_to(server.url) as rpc:
        with pytest.raises(TransportError):
            await rpc.call_all(THREE)
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


def _answer_first(count: int) -> Any:
    return lambda body: reply_json(answers(body)[:count])


@pytest.mark.parametrize("turns", range(6))
async def test_their_caller_may_leave_at_any_moment(turns: int) -> None:
    """Another caller in the same POST still has its answer; nothing is left or complained about."""
    complaints = watch_for_complaints()
    before = asyncio.all_tasks()
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        leaving = asyncio.create_task(rpc.call_all(THREE))
        staying = asyncio.create_task(rpc.call("n", 7))
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == [7]
        with pytest.raises(asyncio.CancelledError):
            await leaving
        sent = [call["method"] for post in server.posts for call in calls_in(post)]
        assert sent.count("n") == 1
    assert asyncio.all_tasks() == before
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_when_their_caller_left_the_post_is_given_up() -> None:
    before = asyncio.all_tasks()
    async with rpc_server(always(Reply(delay=5))) as server, rpc_to(server.url) as rpc:
        task = asyncio.create_task(rpc.call_all(THREE))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)
        assert server.aborted == 1
    assert asyncio.all_tasks() == before


async def test_parameters_that_are_no_json_send_nothing() -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        with pytest.raises(TypeError):
            await rpc.call_all([("m", (0,)), ("m", (object(),))])
        assert await rpc.call("n", 7) == [7]
        assert server.methods == ["n"]
