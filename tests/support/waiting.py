"""Waiting for a condition with a bound, instead of sleeping for a time that is always too long or too short."""

import asyncio
import time
from collections.abc import Callable

_POLL_S = 0.02


def wait_until(condition: Callable[[], object], *, within_s: float = 20.0) -> None:
    """Return as soon as the condition holds; an AssertionError after `within_s` seconds names it."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {condition}"
        time.sleep(_POLL_S)


async def until(condition: Callable[[], object], *, within_s: float = 20.0, every_s: float = _POLL_S) -> None:
    """As `wait_until`, for tests that share their event loop with what they wait for."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {condition}"
        await asyncio.sleep(every_s)
