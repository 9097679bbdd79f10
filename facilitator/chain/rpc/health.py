"""What is known of one endpoint: whether it answers, whether it is on the chain that it should be
on, and how far its head has come. No I/O; time comes as an argument, in seconds of the event loop.
"""

import re
from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from facilitator.domain.strict_json import JSON

# An endpoint is probed this often while it is used, and before it is used after twice as long
# without a probe.
INSPECT_EVERY = 10.0
EXCLUDED_PAUSE = 2.0  # between probes of one that is on another chain or lags behind
PENALTY = 0.5  # after a fault, before an endpoint is preferred again; doubled by each further one
PENALTY_LIMIT = 5.0
LONE_PENALTY_LIMIT = 1.0  # of the only endpoint there is: nobody else answers in the meantime
# The longest pause that an endpoint may ask for, in seconds, and still count for the quorum: the
# others do not decide without it meanwhile.
SHORT_PAUSE = 2.0
# Faults in a row after which an endpoint is not asked at all until its pause is over: the circuit
# is open. Up to then it is asked where nobody else answers.
FAULTS_TO_OPEN = 3

# Behind the best endpoint by more than this, an endpoint is stale. A payment lives for minutes:
# what it shows of balances and nonces could be what another payment has changed long ago.
STALE_BLOCKS = 10
STALE_SECONDS = 30  # of block time
CORROBORATION = 2  # endpoints that must see further
HEAD_LIFETIME = 60.0  # a head that was seen longer ago proves nothing about anybody
FUTURE_LIMIT = 60  # seconds; no honest block is from further ahead of our clock

_NUMBER = re.compile(r"\A0x[0-9a-fA-F]{1,16}\Z")


class Standing(StrEnum):
    """Whether an endpoint may be asked."""

    UNKNOWN = "unknown"  # not probed yet, or not for long
    GOOD = "good"
    BROKEN = "broken"  # it failed, and has not been seen well since
    WRONG_CHAIN = "wrong_chain"
    STALE = "stale"


class Head(Struct, frozen=True):
    """The newest block of an endpoint; `timestamp` in unix seconds, `seen_at` in the loop's."""

    number: int
    timestamp: int
    seen_at: float


def parse_head(answer: JSON, now: float) -> Head | None:
    """A head from eth_getBlockByNumber; None where the answer is none."""
    if not isinstance(answer, dict):
        return None
    number, timestamp = answer.get("number"), answer.get("timestamp")
    if not (isinstance(number, str) and isinstance(timestamp, str)):
        return None
    if not (_NUMBER.match(number) and _NUMBER.match(timestamp)):
        return None
    head = Head(int(number, 16), int(timestamp, 16), now)
    return head if max(head.number, head.timestamp) < 2**63 else None


def is_stale(head: Head, others: Iterable[Head], now: int) -> bool:
    """Whether an endpoint with this head is too far behind; `others` are the heads of the others,
    `now` is our clock, in unix seconds.

    One other endpoint does not decide it: it may lie, and by a head far ahead it would have all
    reads to itself, without a second opinion. Its head counts only as far as our own clock confirms
    its time, and not where a third endpoint stands where this one does: a chain may stand still. A
    distance in blocks, which no clock can check, is believed once CORROBORATION of the others show
    it.
    """
    ahead = later = beside = 0
    for other in others:
        ahead += other.number - head.number > STALE_BLOCKS
        if min(other.timestamp, now) - head.timestamp > STALE_SECONDS:
            later += 1
        else:
            beside += 1
    return later > beside or ahead >= CORROBORATION


class Health:
    """One endpoint's. `penalty` is seconds of pause after the first of several faults, `limit` the
    most after many.
    """

    __slots__ = (
        *("_failed_at", "_limit", "_penalty", "_pause", "faults", "head", "inspect_at"),
        *("inspected_at", "silent_until", "standing"),
    )

    def __init__(self, penalty: float = PENALTY, limit: float = PENALTY_LIMIT) -> None:
        self.standing = Standing.UNKNOWN
        self.head: Head | None = None
        self.faults = 0  # in a row
        self.inspect_at = 0.0
        self.inspected_at: float | None = None
        self.silent_until = 0.0  # see `pause`
        self._pause = 0.0  # how long the last one was, or is
        self._penalty = penalty
        self._limit = max(limit, penalty)
        self._failed_at = 0.0

    def is_open(self) -> bool:
        """Whether it has failed so often that it is not even the last resort before its pause is
        over.
        """
        return self.faults >= FAULTS_TO_OPEN

    def may_be_well(self) -> bool:
        """Whether it is well, or was until now and may be again when it is asked."""
        if self.standing is Standing.BROKEN:
            return not self.is_open()
        return self.standing in (Standing.GOOD, Standing.UNKNOWN)

    def pause(self, now: float, seconds: float) -> None:
        """Note that it asked for a pause of so many seconds, by a Retry-After."""
        self.silent_until = now + seconds
        self._pause = seconds

    def is_away(self, now: float) -> bool:
        """Return whether it has asked for a pause that is too long to wait for."""
        return now < self.silent_until and self._pause > SHORT_PAUSE

    def failed(self, now: float) -> None:
        """Note that it gave no usable answer."""
        self.faults += 1
        self._failed_at = now
        self.standing = Standing.BROKEN
        pause = self._penalty * 2.0 ** min(self.faults - 1, 10)
        self.inspect_at = now + min(pause, self._limit)

    def excluded(self, standing: Standing, now: float) -> None:
        """Note that it answers for another chain, or for an older head than the others."""
        self.standing = standing
        self.inspect_at = now + EXCLUDED_PAUSE

    def well(self, now: float) -> None:
        """Note that a probe found it well. Its faults are forgotten only later, or when it answers
        what it failed to answer: some answer probes and nothing else.
        """
        if now - self._failed_at >= PENALTY_LIMIT:
            self.faults = 0
        self.standing = Standing.GOOD
        self.inspected_at = now
        self.inspect_at = now + INSPECT_EVERY

    def answered(self) -> None:
        """Note that it answered calls, not only a probe."""
        self.faults = 0

    def is_due(self, now: float) -> bool:
        """Return whether it should be probed."""
        return now >= self.inspect_at and now >= self.silent_until

    def expire(self, now: float) -> None:
        """Set its standing to UNKNOWN where the last probe is too long ago."""
        seen = self.inspected_at
        good = self.standing is Standing.GOOD
        if good and seen is not None and now - seen > 2 * INSPECT_EVERY:
            self.standing = Standing.UNKNOWN
