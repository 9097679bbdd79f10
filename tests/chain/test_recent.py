"""Laws of answers that are remembered for a while."""

import asyncio

import pytest

from facilitator.chain.recent import Recent

pytestmark = pytest.mark.anyio


class Oracle:
    """Answers how often it was asked; while `broken` it raises instead."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False

    async def ask(self) -> int:
        self.asked += 1
        await asyncio.sleep(0.02)
        if self.broken:
            raise LookupError
        return self.asked


async def test_however_many_want_an_answer_one_of_them_asks() -> None:
    oracle = Oracle()
    recent = Recent(oracle.ask, lifetime=60.0)
    assert await asyncio.gather(*(recent.look() for _ in range(100))) == [1] * 100
    assert await recent.look() == 1


async def test_an_answer_counts_for_its_lifetime_and_no_longer() -> None:
    oracle = Oracle()
    recent = Recent(oracle.ask, lifetime=0.2)
    assert [await recent.look() for _ in range(5)] == [1] * 5
    await asyncio.sleep(0.2)
    assert [await recent.look() for _ in range(5)] == [2] * 5


async def test_a_false_answer_counts_as_long_as_a_true_one() -> None:
    asked: list[None] = []

    async def ask() -> bool:
        asked.append(None)
        return False

    recent = Recent(ask, lifetime=60.0)
    assert [await recent.look() for _ in range(5)] == [False] * 5
    assert len(asked) == 1


async def test_an_error_is_not_kept() -> None:
    """Nor is the answer from before it given once its time is over."""
    oracle = Oracle()
    recent = Recent(oracle.ask, lifetime=0.0)
    assert await recent.look() == 1
    oracle.broken = True
    for _ in range(2):
        with pytest.raises(LookupError):
            await recent.look()
    oracle.broken = False
    assert await recent.look() == 4


async def test_an_asker_that_goes_away_holds_nobody_up() -> None:
    oracle = Oracle()
    recent = Recent(oracle.ask, lifetime=60.0)
    first = asyncio.create_task(recent.look())
    waiting = asyncio.create_task(recent.look())
    await asyncio.sleep(0.01)
    first.cancel()
    assert await waiting == 2


async def test_each_question_has_an_answer_of_its_own() -> None:
    asked: list[str] = []

    async def ask(question: str) -> str:
        asked.append(question)
        return question.upper()

    recent = Recent(ask, 60.0, limit=2)
    assert [await recent.look(each) for each in "abab"] == ["A", "B", "A", "B"]
    assert asked == ["a", "b"]


async def test_the_question_that_was_wanted_least_recently_is_forgotten_first() -> None:
    asked: list[str] = []

    async def ask(question: str) -> str:
        asked.append(question)
        return question.upper()

    recent = Recent(ask, 60.0, limit=2)
    for each in "ab":
        await recent.look(each)
    assert recent.recall("a") == "A"
    assert recent.recall("z") is None
    await recent.look("c")
    assert [recent.recall(each) for each in "abc"] == ["A", None, "C"]


async def test_the_lifetime_may_depend_on_the_answer() -> None:
    oracle = Oracle()
    recent = Recent(oracle.ask, lambda answer: 60.0 if answer == 3 else 0.0)
    assert [await recent.look() for _ in range(5)] == [1, 2, 3, 3, 3]


async def test_questions_with_one_key_are_one_question() -> None:
    async def ask(number: int) -> int:
        return number

    recent = Recent(ask, 60.0, key=lambda number: number % 2, limit=2)
    assert [await recent.look(number) for number in (1, 2, 3, 4)] == [1, 2, 1, 2]


async def test_an_expired_answer_is_asked_for_again_and_recalled_until_then() -> None:
    oracle = Oracle()
    recent = Recent(oracle.ask, lifetime=60.0)
    recent.expire()
    assert recent.recall() is None
    assert await recent.look() == 1
    recent.expire()
    assert recent.recall() == 1
    oracle.broken = True
    with pytest.raises(LookupError):
        await recent.look()
    assert recent.recall() == 1
    oracle.broken = False
    assert await recent.look() == 3
