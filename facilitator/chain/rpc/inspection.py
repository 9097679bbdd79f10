"""Which endpoints may be asked: looks at each for its chain id and its head, and compares.

A look is a POST of its own, shared by all who wait for it. While there are calls to make, every
endpoint is looked at each INSPECT_EVERY seconds, the idle ones too, so that there is a head to
compare with; an endpoint that failed is believed again only after a look. Where nothing is asked,
nothing is looked at.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence

from facilitator.chain.rpc.endpoint import RETRY_AFTER_LIMIT, Endpoint
from facilitator.chain.rpc.health import (
    EXCLUDED_PAUSE,
    FUTURE_LIMIT,
    HEAD_LIFETIME,
    Head,
    Standing,
    is_stale,
    parse_head,
)
from facilitator.chain.rpc.wire import Answer, FaultKind, PendingCall, TransportError

INSPECTION_WAIT = 1.0  # seconds for which calls wait to learn which endpoint is the best
INSPECTION_TIMEOUT = 5.0  # seconds
SAME_TIME = 1.0  # seconds; few chains have more than one block in it

_QUANTITY = re.compile(r"\A0x[0-9a-fA-F]{1,64}\Z")
_FIRST, _SECOND = 1, 2  # ids

# Told whenever an endpoint ceases to be asked first, with the kind of fault, and (None) when it is
# well again. The name is "jeju#0", never a URL.
OnChange = Callable[[str, FaultKind | None], None]


def ignore_change(name: str, fault: FaultKind | None) -> None:
    """For those who do not want to know."""


# Told even of an endpoint that is known to fail.
_SERIOUS = frozenset({FaultKind.WRONG_CHAIN, FaultKind.STALE})


class Inspector:
    """Knows the endpoints of one chain. Without a `chain_id` none is looked at, and each counts as
    well again once its pause is over.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], *, chain_id: int | None, on_change: OnChange
    ) -> None:
        self._endpoints = endpoints
        self._chain_id = chain_id
        self._on_change = on_change
        self._looks: dict[Endpoint, tuple[asyncio.Task[None], float]] = {}
        self._reported: dict[Endpoint, FaultKind] = {}

    async def refresh(self) -> None:
        """Have the endpoints looked at that it is time for. Waits, for INSPECTION_WAIT at most,
        only where one has not been looked at for long, and not at all where none is due.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        awaited: list[asyncio.Task[None]] = []
        until = now
        for endpoint in self._endpoints:
            health = endpoint.health
            if now < health.inspect_at and health.standing is not Standing.UNKNOWN:
                continue
            health.expire(now)
            if health.is_due(now):
                self._start(endpoint)
            if health.standing is Standing.UNKNOWN and endpoint in self._looks:
                task, started = self._looks[endpoint]
                awaited.append(task)
                until = max(until, started + INSPECTION_WAIT)
        if awaited and until > now:
            await asyncio.wait(awaited, timeout=until - now)

    def in_order(self) -> Sequence[Endpoint]:
        """All, those that are well first: what one does not answer is asked of the next."""
        if len(self._endpoints) == 1:
            return self._endpoints
        return sorted(self._endpoints, key=lambda each: not each.is_well())

    def good(self) -> list[Endpoint]:
        """Those that are well, the preferred first."""
        now = asyncio.get_running_loop().time()
        return [
            each for each in self._endpoints if each.is_well() and each.health.silent_until <= now
        ]

    def witnesses(self) -> list[Endpoint]:
        """Those whose own word counts, the preferred first: also one that has failed a moment ago,
        or asked for a short pause. Whoever speaks to us must not be the only one there is because
        of that.
        """
        now = asyncio.get_running_loop().time()
        return [
            each
            for each in self._endpoints
            if each.health.may_be_well() and not each.health.is_away(now)
        ]

    async def refusal(self, endpoint: Endpoint, until: float) -> TransportError | None:
        """Why an endpoint may not be asked now, None where it may. One that is not known to be well
        is looked at first, where its pause allows.
        """
        health = endpoint.health
        now = asyncio.get_running_loop().time()
        pause = health.silent_until - now
        if pause > 0:
            told = f"asked for a pause of {pause:.1f} s more"
            return TransportError(told, pause, FaultKind.LIMITED)
        if endpoint.is_well():
            return None
        last_resort = health.standing is Standing.BROKEN and not health.is_open()
        if endpoint not in self._looks:
            if not health.is_due(now) and not last_resort:
                pause = health.inspect_at - now
                told = f"{health.standing}, not asked for {pause:.1f} s more"
                return TransportError(told, kind=FaultKind.EXCLUDED)
            self._start(endpoint)
        if endpoint in self._looks:
            task, _ = self._looks[endpoint]
            await asyncio.wait({task}, timeout=max(until - now, 0))
        if endpoint.is_well():
            return None
        kind = self._reported.get(endpoint, FaultKind.TIMEOUT)
        told = f"{health.standing}, {kind}" if health.standing is Standing.BROKEN else kind
        return TransportError(told, kind=kind)

    async def look_again(self, endpoint: Endpoint) -> bool:
        """Whether it is well, seen from now on: behind a new connection may be another node."""
        if self._chain_id is not None:
            await self._look(endpoint, self._chain_id)
        return endpoint.is_well()

    def failed(self, endpoint: Endpoint, fault: TransportError) -> None:
        """It gave no usable answer."""
        now = asyncio.get_running_loop().time()
        endpoint.health.failed(now)
        if fault.retry_after:
            endpoint.health.pause(now, min(fault.retry_after, RETRY_AFTER_LIMIT))
        self._exclude(endpoint, fault.kind)

    def answered(self, endpoint: Endpoint) -> None:
        """It answered what it was asked."""
        endpoint.health.answered()
        self._recover(endpoint)

    def note_head(self, endpoint: Endpoint, answer: Answer) -> None:
        """It was asked for its head, by whomever: `answer` is what it said."""
        head = parse_head(answer.get("result"), asyncio.get_running_loop().time())
        if head is not None and self._chain_id is not None:
            self._compare(endpoint, head)

    def _start(self, endpoint: Endpoint) -> None:
        if endpoint in self._looks:
            return
        loop = asyncio.get_running_loop()
        if self._chain_id is None:
            endpoint.health.well(loop.time())
            return
        task = loop.create_task(self._look(endpoint, self._chain_id))
        self._looks[endpoint] = (task, loop.time())
        task.add_done_callback(lambda _: self._looks.pop(endpoint, None))

    async def _look(self, endpoint: Endpoint, chain_id: int) -> None:
        loop = asyncio.get_running_loop()
        calls = (
            PendingCall(_FIRST, "eth_chainId", (), loop.create_future()),
            PendingCall(_SECOND, "eth_getBlockByNumber", ("latest", False), loop.create_future()),
        )
        try:
            answers = await endpoint.ask(calls, loop.time() + INSPECTION_TIMEOUT)
        except TransportError as fault:
            self.failed(endpoint, fault)
            return
        told = answers.get(_FIRST, {}).get("result")
        head = parse_head(answers.get(_SECOND, {}).get("result"), loop.time())
        if not isinstance(told, str) or not _QUANTITY.match(told) or head is None:
            garbage = TransportError("neither chain id nor head", kind=FaultKind.GARBAGE)
            self.failed(endpoint, garbage)
        elif int(told, 16) != chain_id:
            endpoint.health.excluded(Standing.WRONG_CHAIN, loop.time())
            self._exclude(endpoint, FaultKind.WRONG_CHAIN)
        elif self._compare(endpoint, head):
            endpoint.health.well(loop.time())
            self._recover(endpoint)

    def _compare(self, endpoint: Endpoint, head: Head) -> bool:
        """Whether an endpoint with this head keeps up with the others. Compared is with what they
        showed before, so that none is stale because it was asked earlier.
        """
        endpoint.health.head = head
        if self._is_stale(endpoint, head, head.seen_at):
            endpoint.health.excluded(Standing.STALE, head.seen_at)
            self._exclude(endpoint, FaultKind.STALE)
            return False
        if _is_plausible(head):
            for other in self._endpoints:
                seen = other.health.head
                if other is endpoint or seen is None:
                    continue
                if self._is_stale(other, seen, head.seen_at):
                    self._suspect(other, seen, head)
        return True

    def _is_stale(self, endpoint: Endpoint, head: Head, now: float) -> bool:
        return is_stale(head, self._heads(endpoint, now), int(time.time()))

    def _suspect(self, endpoint: Endpoint, seen: Head, best: Head) -> None:
        """An endpoint lagged when it was last seen: its head tells as much where both were seen at
        the same time, and is to be looked at again where it was not.
        """
        health = endpoint.health
        if not endpoint.is_well():
            return
        if best.seen_at - seen.seen_at <= SAME_TIME:
            health.excluded(Standing.STALE, best.seen_at)
            self._exclude(endpoint, FaultKind.STALE)
        else:
            soon = max(best.seen_at, seen.seen_at + EXCLUDED_PAUSE)
            health.inspect_at = min(health.inspect_at, soon)

    def _heads(self, endpoint: Endpoint, now: float) -> list[Head]:
        """What the others have shown of late."""
        return [
            head
            for other in self._endpoints
            if other is not endpoint and other.health.standing is not Standing.WRONG_CHAIN
            if (head := other.health.head) is not None
            if now - head.seen_at <= HEAD_LIFETIME and _is_plausible(head)
        ]

    def _exclude(self, endpoint: Endpoint, kind: FaultKind) -> None:
        if endpoint.is_closed():
            return  # by our own side, which shuts down
        endpoint.faults[kind] += 1
        known = self._reported.get(endpoint)
        if known is None or (kind in _SERIOUS and kind is not known):
            self._reported[endpoint] = kind
            self._on_change(endpoint.name, kind)

    def _recover(self, endpoint: Endpoint) -> None:
        """Only now and not when it was looked at: an endpoint may do well there and nowhere else,
        and would be reported with each call.
        """
        if endpoint in self._reported and endpoint.is_well() and not endpoint.health.faults:
            del self._reported[endpoint]
            self._on_change(endpoint.name, None)


def _is_plausible(head: Head) -> bool:
    """Whether others may be measured by it."""
    return head.timestamp <= time.time() + FUTURE_LIMIT
