"""Answers that are remembered for a while: a question that anybody may cause must not cost a call
each time.
"""

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar, TypeVarTuple

import anyio

Answer = TypeVar("Answer")
Question = TypeVarTuple("Question")


class Recent(Generic[Answer, *Question]):
    """Asks with `ask`, and remembers each answer for `lifetime` seconds, which may depend on it.
    However many want the same answer at once, one of them asks. An error is not remembered: the
    next one asks again.

    `limit` is how many answers are remembered, those that were wanted last; `key` tells which
    questions are the same one.
    """

    def __init__(
        self,
        ask: Callable[[*Question], Awaitable[Answer]],
        lifetime: float | Callable[[Answer], float],
        *,
        limit: int = 1,
        key: Callable[[*Question], Hashable] = lambda *question: question,
    ) -> None:
        self._ask = ask
        self._lifetime = lifetime
        self._limit = limit
        self._key = key
        self._entries: dict[Hashable, _Entry[Answer]] = {}  # the least recently wanted one first

    async def look(self, *question: *Question) -> Answer:
        """Return the answer; raises what asking raises."""
        entry = self._known(question) or self._new(question)
        async with entry.lock:
            for answer in entry.answers:
                if anyio.current_time() < entry.until:
                    return answer
            answer = await self._ask(*question)
            lifetime = self._lifetime(answer) if callable(self._lifetime) else self._lifetime
            entry.until, entry.answers = anyio.current_time() + lifetime, (answer,)
            return answer

    def recall(self, *question: *Question) -> Answer | None:
        """Return the last answer without asking, however old; None where there is none."""
        entry = self._known(question)
        return entry.answers[0] if entry is not None and entry.answers else None

    def expire(self, *question: *Question) -> None:
        """Have the next one ask again, since the last answer is known to be wrong."""
        entry = self._known(question)
        if entry is not None:
            entry.until = float("-inf")

    def _known(self, question: "tuple[*Question]") -> "_Entry[Answer] | None":
        key = self._key(*question)
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._entries[key] = entry  # as the last one
        return entry

    def _new(self, question: "tuple[*Question]") -> "_Entry[Answer]":
        entry = self._entries[self._key(*question)] = _Entry()
        if len(self._entries) > self._limit:
            del self._entries[next(iter(self._entries))]
        return entry


class _Entry(Generic[Answer]):
    """What is remembered about one question, until `until` on the event loop's clock."""

    __slots__ = ("answers", "lock", "until")

    def __init__(self) -> None:
        self.answers: tuple[Answer, ...] = ()  # one, once it was asked
        self.until = float("-inf")
        self.lock = anyio.Lock()
