"""Which endpoints may be asked: each is probed for its chain id and its head, which are compared.

A probe is a POST of its own, shared by all calls that wait for it. While there are calls to make,
every endpoint is probed each INSPECT_EVERY seconds, the idle ones too, so that there is a head to
compare with. An endpoint that failed is well again only after a probe. Without calls there are no
probes.

Faults in a row open an endpoint's circuit (FAULTS_TO_OPEN): it is then not asked at all until its
pause is over. Before that it is the last resort, asked where no other endpoint answers.
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

# Called with the kind of fault when an endpoint is marked unhealthy, and with None when it is well
# again. The name is "jeju#0", never a URL.
OnChange = Callable[[str, FaultKind | None], None]


def ignore_change(name: str, fault: FaultKind | None) -> None:
    """Do nothing: for callers that need not know."""


# Reported again for an endpoint that was reported for another fault: these are worse.
_SERIOUS = frozenset({FaultKind.WRONG_CHAIN, FaultKind.STALE})


class Inspector:
    """The health of one chain's endpoints. Without a `chain_id` none is probed: an endpoint that
    failed is well again once its pause is over.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], *, chain_id: int | None, on_change: OnChange
    ) -> None:
        self._endpoints = endpoints
        self._chain_id = chain_id
        self._on_change = on_change
        self._probes: dict[Endpoint, tuple[asyncio.Task[None], float]] = {}
        self._reported: dict[Endpoint, FaultKind] = {}

    async def refresh(self) -> None:
        """Start the probes that are due, and wait up to INSPECTION_WAIT seconds for those of
        endpoints whose standing is unknown.
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
            if health.standing is Standing.UNKNOWN and endpoint in self._probes:
                task, started = self._probes[endpoint]
                awaited.append(task)
                until = max(until, started + INSPECTION_WAIT)
        if awaited and until > now:
            await asyncio.wait(awaited, timeout=until - now)

    def in_order(self) -> Sequence[Endpoint]:
        """Return all in the order in which a call tries them, those that are well first."""
        if len(self._endpoints) == 1:
            return self._endpoints
        return sorted(self._endpoints, key=lambda each: not each.is_well())

    def good(self) -> list[Endpoint]:
        """Return those that are well and asked for no pause, the preferred first."""
        now = asyncio.get_running_loop().time()
        return [
            each for each in self._endpoints if each.is_well() and each.health.silent_until <= now
        ]

    def voters(self) -> list[Endpoint]:
        """Return those whose answers count for the quorum, the preferred first. One that failed
        only a moment ago, or asked for a short pause, is among them: a brief fault of one endpoint
        must not lower the quorum to one.
        """
        now = asyncio.get_running_loop().time()
        return [
            each
            for each in self._endpoints
            if each.health.may_be_well() and not each.health.is_away(now)
        ]

    async def refusal(self, endpoint: Endpoint, until: float) -> TransportError | None:
        """Return why an endpoint may not be asked now, None where it may. One that is not well is
        probed first, where its pause is over or it is the last resort, until `until` on the event
        loop's clock.
        """
        health = endpoint.health
        now = asyncio.get_running_loop().time()
        pause = health.silent_until - now
        if pause > 0:
            reason = f"asked for a pause of {pause:.1f} s more"
            return TransportError(reason, pause, FaultKind.LIMITED)
        if endpoint.is_well():
            return None
        last_resort = health.standing is Standing.BROKEN and not health.is_open()
        if endpoint not in self._probes:
            if not health.is_due(now) and not last_resort:
                pause = health.inspect_at - now
                reason = f"{health.standing}, not asked for {pause:.1f} s more"
                return TransportError(reason, kind=FaultKind.EXCLUDED)
            self._start(endpoint)
        if endpoint in self._probes:
            task, _ = self._probes[endpoint]
            await asyncio.wait({task}, timeout=max(until - now, 0))
        if endpoint.is_well():
            return None
        kind = self._reported.get(endpoint, FaultKind.TIMEOUT)
        reason = f"{health.standing}, {kind}" if health.standing is Standing.BROKEN else kind
        return TransportError(reason, kind=kind)

    async def probe_again(self, endpoint: Endpoint) -> bool:
        """Probe it now, since a new connection may lead to another node; return whether it is
        well.
        """
        if self._chain_id is not None:
            await self._probe(endpoint, self._chain_id)
        return endpoint.is_well()

    def failed(self, endpoint: Endpoint, fault: TransportError) -> None:
        """Note that it gave no usable answer."""
        now = asyncio.get_running_loop().time()
        endpoint.health.failed(now)
        if fault.retry_after:
            endpoint.health.pause(now, min(fault.retry_after, RETRY_AFTER_LIMIT))
        self._exclude(endpoint, fault.kind)

    def answered(self, endpoint: Endpoint) -> None:
        """Note that it answered what it was asked."""
        endpoint.health.answered()
        self._recover(endpoint)

    def note_head(self, endpoint: Endpoint, answer: Answer) -> None:
        """Note the head that it gave in `answer` to any caller."""
        head = parse_head(answer.get("result"), asyncio.get_running_loop().time())
        if head is not None and self._chain_id is not None:
            self._compare(endpoint, head)

    def _start(self, endpoint: Endpoint) -> None:
        if endpoint in self._probes:
            return
        loop = asyncio.get_running_loop()
        if self._chain_id is None:
            endpoint.health.well(loop.time())
            return
        task = loop.create_task(self._probe(endpoint, self._chain_id))
        self._probes[endpoint] = (task, loop.time())
        task.add_done_callback(lambda _: self._probes.pop(endpoint, None))

    async def _probe(self, endpoint: Endpoint, chain_id: int) -> None:
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
        chain = answers.get(_FIRST, {}).get("result")
        head = parse_head(answers.get(_SECOND, {}).get("result"), loop.time())
        if not isinstance(chain, str) or not _QUANTITY.match(chain) or head is None:
            garbage = TransportError("neither chain id nor head", kind=FaultKind.GARBAGE)
            self.failed(endpoint, garbage)
        elif int(chain, 16) != chain_id:
            endpoint.health.excluded(Standing.WRONG_CHAIN, loop.time())
            self._exclude(endpoint, FaultKind.WRONG_CHAIN)
        elif self._compare(endpoint, head):
            endpoint.health.well(loop.time())
            self._recover(endpoint)

    def _compare(self, endpoint: Endpoint, head: Head) -> bool:
        """Return whether an endpoint with this head keeps up with the others. Heads that they gave
        earlier are compared, so that none is stale only because it was asked before the others.
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
        """Exclude an endpoint that lags behind `best` if both heads were seen at the same time;
        have it probed soon otherwise.
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
        """Return the plausible heads that the others gave in the last HEAD_LIFETIME seconds."""
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
        """Report that it is well again once it has answered a call, not only a probe: what is
        reported of an endpoint that answers nothing but probes would flap.
        """
        if endpoint in self._reported and endpoint.is_well() and not endpoint.health.faults:
            del self._reported[endpoint]
            self._on_change(endpoint.name, None)


def _is_plausible(head: Head) -> bool:
    """Return whether other heads may be compared with it: no honest block is from the future."""
    return head.timestamp <= time.time() + FUTURE_LIMIT
