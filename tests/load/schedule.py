"""When is asked: decided before anything runs, so that a slow answer never delays the next question.

A generator that waits for its answers asks less of a system that is slow, and does not see what it missed.
"""

import random
from itertools import accumulate


def steady(rate: float, count: int) -> list[int]:
    """Microseconds from the beginning, at equal distances; `rate` per second."""
    return [round(number * 1_000_000 / rate) for number in range(count)]


def by_chance(rate: float, count: int, *, seed: int) -> list[int]:
    """As people come who know nothing of each other (a Poisson process); the same for the same seed."""
    chance = random.Random(seed)
    return [round(1_000_000 * at_s) for at_s in accumulate(chance.expovariate(rate) for _ in range(count))]
