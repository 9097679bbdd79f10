"""Many questions at once: what takes one round trip each takes as many altogether as one does."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from facilitator.chain.answers import ChainUnavailable

S = TypeVar("S")
T = TypeVar("T")


async def together(
    ask: Callable[[S], Awaitable[T]], subjects: Iterable[S], at_once: int | None = None
) -> list[T | ChainUnavailable]:
    """What `ask` comes to for each subject, in their order: its answer, or the ChainUnavailable
    that it raised, which holds up no other. Anything else that one of them raises is raised, once
    all have ended. At most `at_once` are under way at a time.
    """
    asked = tuple(subjects)
    gate = asyncio.Semaphore(at_once or max(len(asked), 1))

    async def one(subject: S) -> T | ChainUnavailable:
        async with gate:
            try:
                return await ask(subject)
            except ChainUnavailable as fault:
                return fault

    answers = await asyncio.gather(*(one(each) for each in asked), return_exceptions=True)
    told: list[T | ChainUnavailable] = []
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ChainUnavailable):
            raise answer
        told.append(answer)
    return told
