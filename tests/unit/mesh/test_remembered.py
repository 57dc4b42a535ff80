import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.mesh.clock import ManualClock
from services.mesh.errors import Unavailable
from services.mesh.remembered import Remembered


class Oracle:
    """Answers with how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None

    def about(self, _wanted: str = "") -> Callable[[], Awaitable[int]]:
        async def ask() -> int:
            self.asked += 1
            await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
            return self.asked

        return ask


def remembered(clock: ManualClock | None = None, *, answers_max: int = 3) -> Remembered[str, int]:
    return Remembered(life_s=2.0, answers_max=answers_max, clock=clock or ManualClock())


async def test_answer_holds_for_its_life() -> None:
    clock, oracle = ManualClock(), Oracle()
    known = remembered(clock)

    found = []
    for step in (0.0, 1.999, 0.001):
        clock.advance(step)
        found.append(await known.get("a", oracle.about("a")))

    assert found == [1, 1, 2]


async def test_life_of_an_answer_begins_before_its_question() -> None:
    clock, oracle = ManualClock(), Oracle()
    known = remembered(clock)

    async def slow() -> int:
        clock.advance(1.5)
        return await oracle.about()()

    assert await known.get("a", slow) == 1
    clock.advance(0.5)

    assert await known.get("a", oracle.about()) == 2


async def test_those_who_want_the_same_at_once_share_one_question() -> None:
    oracle, known = Oracle(), remembered()

    found = await asyncio.gather(*(known.get("a", oracle.about()) for _ in range(20)))

    assert found == [1] * 20
    assert known._asking == {}


async def test_failure_is_not_remembered() -> None:
    oracle, known = Oracle(), remembered()
    oracle.error = Unavailable()
    with pytest.raises(Unavailable):
        await known.get("a", oracle.about())
    oracle.error = None

    assert await known.get("a", oracle.about()) == 2
    assert known._asking == {}


@pytest.mark.parametrize(("others", "is_kept"), [(1, True), (2, True), (3, False)])
async def test_answer_used_longest_ago_goes_first(others: int, *, is_kept: bool) -> None:
    oracle, known = Oracle(), remembered(answers_max=3)
    first = await known.get("a", oracle.about())
    for number in range(others):
        await known.get(f"other {number}", oracle.about())

    assert (await known.get("a", oracle.about()) == first) == is_kept


async def test_answer_that_is_forgotten_is_asked_for_again() -> None:
    oracle, known = Oracle(), remembered()
    await known.get("a", oracle.about())
    known.forget("a")
    known.forget("never asked")

    assert await known.get("a", oracle.about()) == 2
