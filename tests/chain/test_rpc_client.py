"""Laws of the JSON-RPC client, against scripted nodes on real sockets."""

import asyncio
import gc
import traceback
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facilitator.chain.rpc import RETRY_AFTER_LIMIT, RPC, RPCError, TransportError
from facilitator.domain.strict_json import JSON
from tests.support.rpcserver import (
    Reply,
    RPCServer,
    Script,
    always,
    answers,
    calls_in,
    echo,
    outcomes,
    reply_json,
    rpc_server,
    rpc_to,
    zipped,
)

pytestmark = pytest.mark.anyio

SECRET_PATH = "/v3/0123456789abcdef-key?token=fedcba9876543210"
LIMIT = 64 * 1024


def altered(change: Callable[[list[JSON]], JSON]) -> Script:
    """A node whose honest answers, always as a list, go through `change`."""
    return lambda body: reply_json(change(answers(body)))


def error_answer(body: JSON, code: JSON, message: JSON, data: JSON = None) -> dict[str, JSON]:
    call = calls_in(body)[0]
    return {"id": call["id"], "error": {"code": code, "message": message, "data": data}}


# --- batches


async def test_calls_of_one_turn_leave_as_one_post_and_each_gets_its_own_answer() -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        assert await outcomes(rpc, 50) == [[i] for i in range(50)]
        assert len(server.posts) == 1
        ids = [call["id"] for call in calls_in(server.posts[0])]
        assert len(set(map(str, ids))) == 50


async def test_calls_of_different_turns_leave_apart() -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        first = asyncio.create_task(rpc.call("first"))
        await asyncio.sleep(0.01)
        await rpc.call("second")
        await first
        assert server.methods == ["first", "second"]
        assert len(server.posts) == 2


async def test_a_lone_call_is_an_object_and_no_batch() -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        assert await rpc.call("eth_call", {"to": "0x00"}, "latest") == [{"to": "0x00"}, "latest"]
        assert server.posts == [
            {"id": 1, "method": "eth_call", "params": [{"to": "0x00"}, "latest"], "jsonrpc": "2.0"}
        ]


async def test_a_batch_over_the_limit_is_split() -> None:
    async with rpc_server() as server, rpc_to(server.url, batch_limit=10) as rpc:
        assert await outcomes(rpc, 21) == [[i] for i in range(21)]
        assert sorted(len(calls_in(body)) for body in server.posts) == [1, 10, 10]


async def test_answers_are_matched_by_id_in_any_order() -> None:
    async with rpc_server(altered(lambda all: all[::-1])) as server, rpc_to(server.url) as rpc:
        assert await outcomes(rpc, 5) == [[i] for i in range(5)]


async def test_a_null_result_is_an_answer() -> None:
    """eth_getTransactionReceipt says null for what is not mined."""

    def script(body: JSON) -> Reply:
        return reply_json({"id": calls_in(body)[0]["id"], "result": None, "error": None})

    async with rpc_server(script) as server, rpc_to(server.url) as rpc:
        assert await rpc.call("eth_getTransactionReceipt", "0x00") is None


async def test_parameters_that_are_no_json_fail_their_own_caller_only() -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        good, bad = await asyncio.gather(
            rpc.call("good"), rpc.call("bad", object()), return_exceptions=True
        )
        assert good == []
        assert isinstance(bad, TypeError)
        assert server.methods == ["good"]


# --- one call's fault is its own


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda all: all[:1] + all[2:], id="missing"),
        pytest.param(lambda all: [all[0], None, all[2]], id="null element"),
        pytest.param(lambda all: [all[0], [all[1]], all[2]], id="nested list"),
        pytest.param(lambda all: [*all, all[1]], id="duplicate"),
        pytest.param(lambda all: [all[0], {**all[1], "id": 10**9}, all[2]], id="foreign id"),
        pytest.param(lambda all: [all[0], {**all[1], "id": "2"}, all[2]], id="id as string"),
        pytest.param(lambda all: [all[0], {**all[1], "id": 2.0}, all[2]], id="id as float"),
        pytest.param(lambda all: [all[0], {"result": 1}, all[2]], id="no id"),
        pytest.param(lambda all: [all[0], {"id": 2}, all[2]], id="no result"),
        pytest.param(lambda all: [all[0], {"id": 2, "error": None}, all[2]], id="null error"),
        pytest.param(lambda all: [all[0], {"id": 2, "error": "no"}, all[2]], id="text error"),
        pytest.param(lambda all: [all[0], {"id": 2, "error": {}}, all[2]], id="error without code"),
    ],
)
async def test_a_fault_of_one_answer_is_the_fault_of_one_call(
    change: Callable[[list[JSON]], JSON],
) -> None:
    async with rpc_server(altered(change)) as server, rpc_to(server.url) as rpc:
        first, second, third = await outcomes(rpc, 3)
        assert (first, third) == ([0], [2])
        assert isinstance(second, TransportError)


async def test_only_unanswered_calls_go_to_the_next_endpoint() -> None:
    def script(body: JSON) -> Reply:
        first, _missing, third = answers(body)
        assert isinstance(third, dict)
        return reply_json([first, {"id": third["id"], "error": {"code": 3, "message": "no"}}])

    async with (
        rpc_server(script) as first,
        rpc_server() as second,
        rpc_to(first.url, second.url) as rpc,
    ):
        one, two, three = await outcomes(rpc, 3)
        assert (one, two) == ([0], [1])
        assert isinstance(three, RPCError)
        assert [calls_in(body)[0]["params"] for body in second.posts] == [[1]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["id", "result", "error", "code", "message"]), inner, max_size=5
                )
            ),
            max_leaves=12,
        ),
        max_size=4,
    )
)
async def test_no_garbage_is_ever_an_answer_to_more_than_its_own_id(garbage: list[JSON]) -> None:
    """Whatever JSON comes back, a call ends in a result under its id, or in an error."""
    async with rpc_server(lambda _body: reply_json(garbage)) as server, rpc_to(server.url) as rpc:
        for number, outcome in enumerate(await outcomes(rpc, 2), start=1):
            if not isinstance(outcome, RPCError | TransportError):
                own = [
                    item
                    for item in garbage
                    if isinstance(item, dict) and type(item.get("id")) is int
                    if item["id"] == number
                ]
                assert [item.get("result", own) for item in own] == [outcome]


# --- a node's refusal


async def test_an_error_answer_reaches_its_caller_and_no_other_endpoint() -> None:
    async with rpc_server() as first, rpc_server() as second, rpc_to(first.url, second.url) as rpc:
        first.script = lambda body: reply_json(error_answer(body, -32000, "nonce too low"))
        with pytest.raises(RPCError) as caught:
            await rpc.call("eth_sendRawTransaction", "0x00")
        assert (caught.value.code, caught.value.message) == (-32000, "nonce too low")
        assert str(caught.value) == "nonce too low (code -32000)"
        first.script = echo
        await rpc.call("next")
        assert (len(first.posts), len(second.posts)) == (2, 0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("0x8baa579f", "0x8baa579f"),
        ("Reverted 0x8baa579f", "0x8baa579f"),
        ({"message": "revert", "data": "0x8baa579f"}, "0x8baa579f"),
        ({"message": "revert"}, None),
        (["0x8baa579f"], None),
        (7, None),
        (None, None),
    ],
)
async def test_revert_data_is_read_in_every_shape_that_nodes_use(
    data: JSON, expected: str | None
) -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        server.script = lambda body: reply_json(error_answer(body, 3, "execution reverted", data))
        with pytest.raises(RPCError) as caught:
            await rpc.call("eth_call")
        assert caught.value.data == expected


# --- no usable answer

WHOLE_POST_FAULTS: dict[str, tuple[Script, str]] = {
    "too slow": (always(Reply(b"{}", delay=5)), "no answer within"),
    "slow body": (always(Reply(b"[", announce=10)), "no answer within"),
    "hangs up": (always(Reply(silent=True)), "ServerDisconnectedError"),
    "cut off": (always(Reply(b'[{"id":1', announce=500, hang_up=True)), "ClientPayloadError"),
    "server error": (always(Reply(b"{}", status=500)), "HTTP 500"),
    "forbidden": (always(Reply(b"{}", status=403)), "HTTP 403"),
    "redirect": (always(Reply(status=307, headers={"Location": "/elsewhere"})), "HTTP 307"),
    "HTML": (always(Reply(b"<html>try again</html>")), "not JSON"),
    "truncated": (lambda body: Reply(echo(body).body[:-9]), "not JSON"),
    "not UTF-8": (always(Reply(b'[{"id":1,"result":"\xff"}]')), "not JSON"),
    "too deep": (always(Reply(b"[" * 30_000)), "not JSON"),
    "trailing": (lambda body: Reply(echo(body).body + b"x"), "not JSON"),
    "no body": (always(Reply()), "not JSON"),
    "null": (always(Reply(b"null")), "answer to no call"),
    "text": (always(Reply(b'"ok"')), "answer to no call"),
    "empty batch": (always(Reply(b"[]")), "no answer to this call"),
    "too long": (lambda body: Reply(echo(body).body + b" " * LIMIT), "answer over"),
    "bad compression": (
        always(Reply(b"not gzip", headers={"Content-Encoding": "gzip"})),
        "",
    ),
    "limited as a whole": (
        always(reply_json({"id": None, "error": {"code": -32005, "message": "slow down"}})),
        "answer to no call: slow down",
    ),
}


def patience(fault: str) -> float:
    """Seconds that are waited for an answer: long, unless the fault is that there is none."""
    return 1.0 if fault in ("too slow", "slow body") else 20.0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("fault", WHOLE_POST_FAULTS)
async def test_no_usable_answer_is_a_transport_error_for_each_call(fault: str, count: int) -> None:
    script, words = WHOLE_POST_FAULTS[fault]
    async with (
        rpc_server(script) as server,
        rpc_to(server.url, timeout=patience(fault), response_limit=LIMIT) as rpc,
    ):
        for outcome in await outcomes(rpc, count):
            assert isinstance(outcome, TransportError)
            assert str(outcome).startswith("jeju#0: ")
            assert words in str(outcome)
        assert len(server.posts) == 1


@pytest.mark.parametrize("fault", WHOLE_POST_FAULTS)
async def test_the_next_endpoint_is_asked_once_with_the_same_calls(fault: str) -> None:
    script, _ = WHOLE_POST_FAULTS[fault]
    async with (
        rpc_server(script) as first,
        rpc_server() as second,
        rpc_to(first.url, second.url, timeout=patience(fault), response_limit=LIMIT) as rpc,
    ):
        assert await outcomes(rpc, 3) == [[0], [1], [2]]
        assert first.posts == second.posts
        assert len(first.posts) == 1


async def test_a_single_error_object_refuses_a_whole_batch() -> None:
    def script(body: JSON) -> Reply:
        return reply_json({"id": 1, "error": {"code": -32005, "message": "slow down"}})

    async with rpc_server(script) as server, rpc_to(server.url) as rpc:
        for outcome in await outcomes(rpc, 2):
            assert isinstance(outcome, TransportError)
            assert "slow down" in str(outcome)


async def test_an_endless_answer_is_not_read_past_the_limit() -> None:
    script = always(Reply(b" " * 65_536, endless=True))
    async with rpc_server(script) as server, rpc_to(server.url, response_limit=LIMIT) as rpc:
        with pytest.raises(TransportError, match="answer over 65536 bytes"):
            await rpc.call("m")
        await asyncio.sleep(0.05)
        assert server.aborted == 1
        assert server.bytes_sent < 16 * 1024 * 1024  # what the socket buffers of both sides hold


async def test_the_limit_counts_what_was_unpacked() -> None:
    script = always(zipped("0" * 50_000_000))
    async with rpc_server(script) as server, rpc_to(server.url, response_limit=LIMIT) as rpc:
        with pytest.raises(TransportError, match="answer over"):
            await rpc.call("m")


async def test_a_compressed_answer_is_read() -> None:
    def script(body: JSON) -> Reply:
        return zipped(answers(body)[0])

    async with rpc_server(script) as server, rpc_to(server.url) as rpc:
        assert await rpc.call("m", "x" * 10_000) == ["x" * 10_000]


async def test_a_closed_session_is_a_transport_error() -> None:
    async with rpc_server() as server:
        async with rpc_to(server.url) as rpc:
            pass
        with pytest.raises(TransportError, match="RuntimeError"):
            await rpc.call("m")


# --- several endpoints


async def test_when_all_fail_the_error_says_what_each_did() -> None:
    async with rpc_server() as gone:
        pass
    async with (
        rpc_server(always(Reply(status=502))) as first,
        rpc_to(first.url, gone.url) as rpc,
    ):
        with pytest.raises(TransportError) as caught:
            await rpc.call("m")
        assert str(caught.value) == "jeju#0: HTTP 502; jeju#1: cannot connect"


async def test_a_failed_endpoint_is_asked_last_until_its_penalty_is_over() -> None:
    async with (
        rpc_server(always(Reply(status=500))) as first,
        rpc_server() as second,
        rpc_to(first.url, second.url, penalty=0.3) as rpc,
    ):
        await rpc.call("one")
        first.script = echo
        await rpc.call("two")
        assert (first.methods, second.methods) == (["one"], ["one", "two"])
        second.script = always(Reply(status=500))
        await rpc.call("three")  # the only other one is still asked, penalty or not
        assert first.methods == ["one", "three"]
        await asyncio.sleep(0.35)
        await rpc.call("four")
        assert first.methods == ["one", "three", "four"]
        assert second.methods == ["one", "two", "three"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_retry_after_is_obeyed_and_passed_on(status: int) -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        server.script = always(Reply(status=status, headers={"Retry-After": "1"}))
        with pytest.raises(TransportError) as caught:
            await rpc.call("one")
        assert caught.value.retry_after == 1.0
        server.script = echo
        pause = 0.0
        for _ in range(5):
            with pytest.raises(TransportError) as caught:
                await rpc.call("too soon")
            pause = caught.value.retry_after or 0.0
            assert 0 < pause <= 1
        await asyncio.sleep(pause)
        assert await rpc.call("two") == []
        assert server.methods == ["one", "two"]
        assert server.times[1] - server.times[0] >= 0.99


@pytest.mark.parametrize(
    ("status", "value"),
    [(500, "5"), (429, "-1"), (429, "soon"), (429, "1.5"), (429, ""), (429, "9" * 400)],
)
async def test_no_other_retry_after_is_believed(status: int, value: str) -> None:
    script = always(Reply(status=status, headers={"Retry-After": value}))
    async with rpc_server(script) as server, rpc_to(server.url) as rpc:
        for _ in range(2):
            with pytest.raises(TransportError, match=f"HTTP {status}") as caught:
                await rpc.call("m")
            assert caught.value.retry_after is None
        assert len(server.posts) == 2


async def test_a_long_retry_after_is_told_in_full_but_obeyed_for_a_minute() -> None:
    script = always(Reply(status=429, headers={"Retry-After": "86400"}))
    async with rpc_server(script) as server, rpc_to(server.url) as rpc:
        with pytest.raises(TransportError) as caught:
            await rpc.call("m")
        assert caught.value.retry_after == 86400
        with pytest.raises(TransportError) as caught:
            await rpc.call("m")
        assert caught.value.retry_after is not None
        assert caught.value.retry_after <= RETRY_AFTER_LIMIT


# --- secrets


def everything_said(error: BaseException) -> str:
    """The error as any log could show it, with whatever hangs on it."""
    texts = []
    seen: BaseException | None = error
    while seen is not None:
        texts += [str(seen), repr(seen), repr(vars(seen))]
        texts += traceback.format_exception(seen)
        seen = seen.__cause__ or seen.__context__
    return "\n".join(texts)


@pytest.mark.parametrize("fault", [*WHOLE_POST_FAULTS, "refused", "no such host", "told by node"])
async def test_no_error_says_where_it_comes_from(fault: str) -> None:
    def tell(body: JSON) -> Reply:
        message = f"see {server.url} or https://x.example/buy?k=1, key fedcba9876543210 is over"
        return reply_json(error_answer(body, -32005, message))

    async with rpc_server(path=SECRET_PATH) as server:
        script, _ = WHOLE_POST_FAULTS.get(fault, (tell, ""))
        server.script = script
        url = {
            "refused": f"http://user:password@127.0.0.1:1{SECRET_PATH}",
            "no such host": f"http://nowhere.invalid{SECRET_PATH}",
        }.get(fault, server.url)
        async with rpc_to(url, timeout=patience(fault), response_limit=LIMIT) as rpc:
            assert "0123456789abcdef" not in repr(rpc)
            with pytest.raises((TransportError, RPCError)) as caught:
                await rpc.call("m")
    said = everything_said(caught.value)
    for secret in ("0123456789abcdef", "fedcba9876543210", "password", "://", ".invalid", "x.ex"):
        assert secret not in said


# --- cancellation


async def test_a_caller_that_leaves_takes_nobody_along() -> None:
    def script(body: JSON) -> Reply:
        return Reply(echo(body).body, delay=0.1)

    async with rpc_server(script) as server, rpc_to(server.url) as rpc:
        tasks = [asyncio.create_task(rpc.call("m", i)) for i in range(3)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
        assert (first, third) == ([0], [2])
        assert isinstance(second, asyncio.CancelledError)
        assert len(server.posts) == 1


async def test_a_call_cancelled_before_it_left_is_not_sent() -> None:
    async with rpc_server() as server, rpc_to(server.url) as rpc:
        doomed = asyncio.create_task(rpc.call("doomed"))
        kept = asyncio.create_task(rpc.call("kept"))
        asyncio.get_running_loop().call_soon(doomed.cancel)
        await kept
        assert server.methods == ["kept"]


async def test_when_every_caller_left_the_post_is_given_up() -> None:
    before = asyncio.all_tasks()
    async with rpc_server(always(Reply(delay=5))) as server, rpc_to(server.url) as rpc:
        tasks = [asyncio.create_task(rpc.call("m", i)) for i in range(3)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert server.aborted == 1
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("turns", range(6))
async def test_a_caller_may_leave_at_any_moment(turns: int) -> None:
    """Nothing is left behind or complained about, whatever the batch was doing."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    before = asyncio.all_tasks()
    async with (
        rpc_server(always(Reply(status=500))) as server,
        rpc_to(server.url, server.url) as rpc,
    ):
        tasks = [asyncio.create_task(rpc.call("m", i)) for i in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[0].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert all(isinstance(outcome, TransportError) for outcome in outcomes[1:])
    assert asyncio.all_tasks() == before
    del tasks, outcomes
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


@pytest.mark.parametrize("turns", range(4))
async def test_a_caller_may_leave_while_an_endpoint_is_left_alone(turns: int) -> None:
    """No POST is made then, so that a batch is over as soon as it has begun."""
    script = always(Reply(status=429, headers={"Retry-After": "5"}))
    async with rpc_server(script) as server, rpc_to(server.url) as rpc:
        await outcomes(rpc, 1)
        tasks = [asyncio.create_task(rpc.call("m", i)) for i in range(2)]
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[0].cancel()
        _, stayed = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(stayed, TransportError)
        assert len(server.posts) == 1


def test_a_loop_that_ends_ends_its_calls() -> None:
    """asyncio.run returns at once and quietly though a node has not answered yet."""

    async def main() -> None:
        async with rpc_server(always(Reply(delay=30))) as server, rpc_to(server.url) as rpc:
            call = asyncio.ensure_future(rpc.call("m"))
            await asyncio.sleep(0.05)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(main())


async def test_a_chain_without_urls_is_a_mistake_of_the_caller() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ValueError, match="jeju: no RPC URL"):
            RPC([], name="jeju", session=session)


async def test_a_server_that_went_away_is_asked_again_when_it_is_back() -> None:
    async with rpc_server() as server, rpc_to(server.url, penalty=5.0) as rpc:
        server.script = always(Reply(silent=True))
        with pytest.raises(TransportError):
            await rpc.call("m")
        server.script = echo
        assert await rpc.call("m", 1) == [1]


def test_the_scripted_node_is_honest_by_default() -> None:
    assert answers([{"id": 7, "method": "m", "params": [1]}]) == [
        {"jsonrpc": "2.0", "id": 7, "result": [1]}
    ]
    assert RPCServer("").script is echo
