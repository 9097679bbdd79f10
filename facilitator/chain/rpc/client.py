"""JSON-RPC 2.0 over HTTP for one chain: coalesced batches, deadlines, failover, two error classes.

Calls made in the same turn of the event loop, by any requests, leave as one POST. A call ends
in exactly one of three ways: a result, RPCError (the node answered this call with an error; asking
another node would be asking for a second opinion) or TransportError (nobody gave a usable answer;
what was asked may still have happened). Reads go to the first endpoint that is well, so that those
of one decision come from one node as long as it answers.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from urllib.parse import urlsplit

import aiohttp

from facilitator.chain.rpc.endpoint import Endpoint
from facilitator.chain.rpc.health import (
    LONE_PENALTY_LIMIT,
    PENALTY,
    PENALTY_LIMIT,
    Health,
    Standing,
)
from facilitator.chain.rpc.inspection import Inspector, OnChange, ignore_change
from facilitator.chain.rpc.wire import (
    Answer,
    FaultKind,
    Params,
    PendingCall,
    RPCError,
    TransportError,
    settle,
)
from facilitator.domain.strict_json import JSON

RESPONSE_LIMIT = 16 * 1024 * 1024  # bytes, after decompression


def never(method: str, error: RPCError) -> bool:
    """Every error of a node is an answer."""
    return False


class RPC:
    """The nodes of one chain, the first preferred. The session belongs to the caller."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        name: str,
        session: aiohttp.ClientSession,
        chain_id: int | None = None,
        elsewhere: Callable[[str, RPCError], bool] = never,
        on_change: OnChange = ignore_change,
        timeout: float = 10.0,
        batch_limit: int = 100,
        response_limit: int = RESPONSE_LIMIT,
        penalty: float = PENALTY,
        trace_hosts: Collection[str] = (),
    ) -> None:
        """`name` is the network's. With a `chain_id` nothing is taken from an endpoint that is on
        another chain, or whose head lags behind another one's; without it every endpoint is taken
        at its word. `elsewhere` returns whether another node may answer a call that one answered
        with this error; `on_change` is called when an endpoint fails or comes back. `timeout` is
        seconds for a call, however many endpoints are asked; `batch_limit` is calls a POST;
        `response_limit` is bytes; `penalty` is seconds; endpoints at `trace_hosts` get a
        traceparent header.
        """
        if not urls:
            raise ValueError(f"{name}: no RPC URL")
        self.endpoints = tuple(
            Endpoint(
                f"{name}#{index}",
                url,
                session=session,
                health=Health(penalty, PENALTY_LIMIT if len(urls) > 1 else LONE_PENALTY_LIMIT),
                batch_limit=batch_limit,
                response_limit=response_limit,
                propagates=urlsplit(url).hostname in trace_hosts,
            )
            for index, url in enumerate(urls)
        )
        self._inspector = Inspector(self.endpoints, chain_id=chain_id, on_change=on_change)
        self._elsewhere = elsewhere
        self._timeout = timeout
        self._last_id = 0
        self._queue: list[PendingCall] = []
        self._queues: dict[Endpoint, list[PendingCall]] = {}  # of calls for one of them alone
        self._in_flight: dict[asyncio.Task[None], list[PendingCall]] = {}

    async def call(self, method: str, *params: object) -> JSON:
        """The node's `result`; raises RPCError or TransportError."""
        call = self._enqueue(method, params)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._abandon(call)
            raise

    async def call_all(self, calls: Iterable[tuple[str, Params]]) -> list[JSON | RPCError]:
        """The same for several calls, each a method and its parameters: of each, in order, the
        result or the error. Raises TransportError where any has neither.

        One caller waits for all: a task for each would cost more than everything else about them.
        """
        queued: list[PendingCall] = []
        answers: list[JSON | RPCError] = []
        try:
            for method, params in calls:
                queued.append(self._enqueue(method, params))
            for call in queued:
                try:
                    answers.append(await call.future)
                except RPCError as error:
                    answers.append(error)
        except BaseException:
            for call in queued:
                if not call.future.cancel() and not call.future.cancelled():
                    call.future.exception()  # or asyncio would report that nobody asked for it
                self._abandon(call)
            raise
        return answers

    async def call_everywhere(self, method: str, *params: object) -> set[asyncio.Future[JSON]]:
        """Ask every endpoint that is well, or the first that answers where none is. The calls go on
        when their caller stops waiting.
        """
        await self._inspector.refresh()
        good = self._inspector.good()
        # One alone shares its POST with all other calls.
        targets: list[Endpoint | None] = [None] if len(good) < 2 else [*good]
        asked = {self._enqueue(method, params, target).future for target in targets}
        for future in asked:
            future.add_done_callback(_retrieve)
        return asked

    async def call_each(self, method: str, *params: object) -> list[JSON | BaseException]:
        """Return what each endpoint answers by itself, the preferred first: its result, or the
        RPCError or TransportError that is there instead. Endpoints that are away, on another chain
        or behind, or that asked for a pause of more than SHORT_PAUSE are left out, so there may be
        none.
        """
        await self._inspector.refresh()
        calls = [self._enqueue(method, params, each) for each in self._inspector.voters()]
        try:
            return await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        except asyncio.CancelledError:
            for call in calls:
                self._abandon(call)
            raise

    def _enqueue(self, method: str, params: Params, target: Endpoint | None = None) -> PendingCall:
        """Have a call leave with the others of this turn, for `target` alone or for the
        first endpoint that answers.
        """
        loop = asyncio.get_running_loop()
        self._last_id = number = self._last_id + 1
        call = PendingCall(number, method, params, loop.create_future())
        queue = self._queue if target is None else self._queues.setdefault(target, [])
        if not queue:
            loop.call_soon(self._flush, loop, target)
        queue.append(call)
        return call

    def _flush(self, loop: asyncio.AbstractEventLoop, target: Endpoint | None) -> None:
        queue = self._queue if target is None else self._queues[target]
        calls = [call for call in queue if not call.future.done()]
        queue.clear()
        limit = (target or self._inspector.in_order()[0]).batch_limit
        for start in range(0, len(calls), limit):
            batch = calls[start : start + limit]
            task = loop.create_task(self._run(batch, target))
            for call in batch:
                call.task = task
            self._in_flight[task] = batch
            task.add_done_callback(self._in_flight.pop)

    def _abandon(self, call: PendingCall) -> None:
        """A caller went away. Its batch goes on while anybody else waits for it."""
        if call.task is None:
            return
        if all(other.future.done() for other in self._in_flight.get(call.task, ())):
            call.task.cancel()

    async def _run(self, batch: list[PendingCall], target: Endpoint | None) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        calls = batch
        try:
            if target is None:
                await self._inspector.refresh()
            endpoints = [target] if target else self._inspector.in_order()
            for tried, endpoint in enumerate(endpoints):
                now = loop.time()
                # One that hangs must leave time for the next.
                until = now + (deadline - now) / (len(endpoints) - tried)
                calls = await self._ask(endpoint, calls, until)
                if not calls:
                    break
            for call in calls:
                call.give_up()
        finally:
            for call in batch:  # not answered yet: this task was cancelled, the loop is closing
                call.future.cancel()

    async def _ask(
        self, endpoint: Endpoint, calls: list[PendingCall], until: float
    ) -> list[PendingCall]:
        """Ask one endpoint; settle what it answers and return the calls that it did not."""
        fault = await self._inspector.refusal(endpoint, until)
        answers: dict[int, Answer] = {}
        if fault is None:
            answers, fault = await self._answers(endpoint, calls, until)
        if fault is not None:
            for call in calls:
                call.fault(endpoint.name, fault)
            return [call for call in calls if not call.future.done()]
        answered = [
            settle(call, answers.get(call.id), endpoint.name, endpoint.clean, self._elsewhere)
            for call in calls
        ]
        if all(answered):
            self._inspector.answered(endpoint)
        else:
            missing = TransportError("not every call was answered", kind=FaultKind.INCOMPLETE)
            self._inspector.failed(endpoint, missing)
        return [call for call in calls if not call.future.done()]

    async def _answers(
        self, endpoint: Endpoint, calls: list[PendingCall], until: float
    ) -> tuple[dict[int, Answer], TransportError | None]:
        """What one endpoint answers, by id, or why nothing of it may be used."""
        reconnects = endpoint.reconnects
        try:
            answers = await endpoint.ask(calls, until)
        except TransportError as fault:
            self._inspector.failed(endpoint, fault)
            return {}, fault
        for call in calls:
            if call.wants_head and call.id in answers:
                self._inspector.note_head(endpoint, answers[call.id])
        if endpoint.reconnects != reconnects:
            await self._inspector.probe_again(endpoint)
        # It may have been found out while it was answering.
        standing = endpoint.health.standing
        if standing in (Standing.WRONG_CHAIN, Standing.STALE):
            return {}, TransportError(standing, kind=FaultKind.EXCLUDED)
        return answers, None


def _retrieve(future: asyncio.Future[JSON]) -> None:
    """Or asyncio would report that nobody asked for the error."""
    if not future.cancelled():
        future.exception()
