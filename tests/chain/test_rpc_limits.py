"""Laws of batches that an endpoint refuses: they shrink to what it takes, and stay so."""

import asyncio
from collections.abc import Callable

import pytest

from facilitator.chain.rpc import TransportError
from facilitator.domain.strict_json import JSON
from tests.support.rpcserver import (
    Reply,
    Script,
    answers,
    calls_in,
    echo,
    outcomes,
    reply_json,
    rpc_server,
    rpc_to,
)

pytestmark = pytest.mark.anyio

Refuse = Callable[[list[dict[str, JSON]]], Reply]


def error(message: str, number: JSON = None) -> dict[str, JSON]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": -32600, "message": message}}


def rest_too_large(calls: list[dict[str, JSON]]) -> Reply:
    """As geth does once the answers of a batch have grown too long."""
    answered = answers([dict(call) for call in calls])
    return reply_json([answered[0], *(error("response too large", c["id"]) for c in calls[1:])])


REFUSALS: dict[str, Refuse] = {
    "413": lambda _calls: Reply(status=413),
    "one object": lambda _calls: reply_json(error("batch too large")),
    "one element": lambda _calls: reply_json([error("Batch size exceeds the limit of 3")]),
    "the first call's id": lambda calls: reply_json([error("batch too large", calls[0]["id"])]),
    "every call": lambda calls: reply_json(
        [error("maximum batch size is 3", each["id"]) for each in calls]
    ),
    "the answers": rest_too_large,
}


def at_most(limit: int, refuse: Refuse) -> Script:
    """A node that takes as many calls a POST and no more."""

    def script(body: JSON) -> Reply:
        calls = calls_in(body)
        return refuse(calls) if len(calls) > limit else echo(body)

    return script


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_batch_is_halved_until_it_is_taken_and_the_next_one_is_no_larger(
    refusal: str,
) -> None:
    async with (
        rpc_server(at_most(3, REFUSALS[refusal])) as server,
        rpc_server() as second,
        rpc_to(server.url, second.url) as rpc,
    ):
        assert await outcomes(rpc, 16) == [[i] for i in range(16)]
        assert rpc.endpoints[0].batch_limit == 2
        assert rpc.endpoints[0].faults == {}
        learned = len(server.posts)
        assert await outcomes(rpc, 16) == [[i] for i in range(16)]
        assert [len(calls_in(body)) for body in server.posts[learned:]] == [2] * 8
        assert second.posts == []


async def test_where_no_batch_is_taken_calls_leave_one_by_one() -> None:
    refuse: Refuse = lambda _calls: reply_json(error("batch requests are not supported"))  # noqa: E731
    async with rpc_server(at_most(1, refuse)) as server, rpc_to(server.url) as rpc:
        assert await outcomes(rpc, 5) == [[i] for i in range(5)]
        assert rpc.endpoints[0].batch_limit == 1


async def test_a_lone_call_that_is_too_large_is_a_fault() -> None:
    async with rpc_server(lambda _body: Reply(status=413)) as server, rpc_to(server.url) as rpc:
        with pytest.raises(TransportError, match="HTTP 413"):
            await rpc.call("m")
        assert len(server.posts) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (3, "batch too large"),
        (-32000, "execution reverted: batch too large"),
        (-32000, "batch of wine"),
        (-32005, "daily limit exceeded"),
    ],
)
async def test_no_contract_s_words_make_batches_shrink(code: int, message: str) -> None:
    def script(body: JSON) -> Reply:
        calls = calls_in(body)
        told: JSON = {"id": calls[0]["id"], "error": {"code": code, "message": message}}
        return reply_json([told, *answers(body)[1:]])

    async with rpc_server(script) as server, rpc_to(server.url) as rpc:
        await asyncio.gather(*(rpc.call("m", i) for i in range(4)), return_exceptions=True)
        assert rpc.endpoints[0].batch_limit == 100
        assert len(server.posts) == 1
