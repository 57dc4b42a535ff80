"""Bounds many waits of one task, one after the other, with one timer.

`asyncio.timeout` makes and drops a timer for each: 5 µs for every token of every answer, where this takes 0.3.
"""

import asyncio
from collections.abc import Awaitable
from time import monotonic
from types import TracebackType
from typing import Final, Self, TypeVar

T = TypeVar("T")

_EARLY_S: Final = 0.002
"""The loop's clock may be that much ahead: it counts milliseconds."""


class Watch:
    """A context of the task that waits; leaving it drops the timer."""

    def __init__(self) -> None:
        self._loop: Final = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task: Final = task
        self._until = 0.0
        self._rings_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_waiting = False
        self._is_late = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._drop()

    async def wait(self, awaited: Awaitable[T], *, until: float) -> T:
        """What `awaited` gives, by `until` on `time.monotonic`.

        Raises:
            TimeoutError: it gave nothing until then, and was cancelled.
        """
        self._until = until
        if self._timer is None or until < self._rings_at:
            self._drop()
            self._ring()
        cancelled = self._task.cancelling()
        self._is_waiting = True
        try:
            return await awaited
        except asyncio.CancelledError:
            # The caller may have left as well, and that counts: there is nobody to tell.
            if self._is_late and self._task.cancelling() - 1 <= cancelled:
                raise TimeoutError from None
            raise
        finally:
            self._is_waiting = False
            if self._is_late:
                self._is_late = False
                self._task.uncancel()

    def _ring(self) -> None:
        self._rings_at = self._until
        self._timer = self._loop.call_later(max(0.0, self._until - monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._is_waiting:  # the next wait sets it anew
            return
        if monotonic() < self._until - _EARLY_S:
            self._ring()
        else:
            self._is_late = True
            self._task.cancel()

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
