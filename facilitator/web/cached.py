"""Answers that count for a while: what everybody may ask must not cost an inquiry each time."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

Answer = TypeVar("Answer")


class Recent(Generic[Answer]):
    """The answer to one question, at most `lifetime` seconds old. However many want it at once, one
    of them asks. An error is the asker's own: whoever comes next asks again.
    """

    def __init__(self, ask: Callable[[], Awaitable[Answer]], lifetime: float) -> None:
        self._ask = ask
        self._lifetime = lifetime
        self._answers: list[tuple[float, Answer]] = []  # the last one, once there is one
        self._lock = anyio.Lock()

    async def look(self) -> Answer:
        """The answer; raises what asking raises."""
        async with self._lock:
            for until, answer in self._answers:
                if anyio.current_time() < until:
                    return answer
            answer = await self._ask()
            self._answers = [(anyio.current_time() + self._lifetime, answer)]
            return answer
