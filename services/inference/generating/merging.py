"""Lets what is ready together travel together: a source runs ahead while its reader is busy, within a bound.

No timers: an idle reader gets each item at once. `mesh.groupcommit` serves many writers that wait for their send; this
serves one reader of one source, which must not wait for the send of its last item to make the next.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

# Items that a source may be ahead; beyond it the source waits, and so does the provider behind it.
AHEAD_MAX: Final = 256

T = TypeVar("T")


class Merging(Generic[T]):
    """Items of `source` in lists: all that are ready whenever the reader asks, never an empty list.

    An asynchronous context, and within it an iterator for one reader; it raises what the source raised, after the items
    that came before. Leaving closes the source and waits until it is closed.

    Neither a queue nor a group of tasks: a queue takes a lock of threads for each item, and a group lets the event loop
    turn once more for a task that has ended already. With that turn, the last word of an answer and the status behind
    it were two messages, and a reader who knows the last word left before the second: its call counted as cancelled.

    Args:
        source: makes the items.
        waits: whether an item does not travel before another one, or the end, has come; None where each is wanted now.
        ahead_max: items that may be ready and not read.
    """

    def __init__(
        self,
        source: AsyncGenerator[T, None],
        *,
        waits: Callable[[T], bool] | None = None,
        ahead_max: int = AHEAD_MAX,
    ) -> None:
        self._source = source
        self._waits = waits
        self._ahead_max = ahead_max
        self._ready: list[T] = []
        self._is_due = False
        self._error: Exception | None = None
        self._is_over = False
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.get_running_loop().create_task(self._run_ahead(), name="merging")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running.cancel()
        cancelled: asyncio.CancelledError | None = None
        while not self._running.done():
            try:
                await asyncio.wait((self._running,))
            except asyncio.CancelledError as again:  # whoever closes us in haste still leaves nothing behind
                cancelled = again
        if cancelled is not None:
            raise cancelled

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[T]:
        while not self._is_due and not self._is_over:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if not self._ready:
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        batch, self._ready, self._is_due = self._ready, [], False
        _wake(self._room)
        return batch

    async def _run_ahead(self) -> None:
        try:
            async with aclosing(self._source) as items:
                async for item in items:
                    while len(self._ready) >= self._ahead_max:
                        self._tell()
                        self._room = asyncio.get_running_loop().create_future()
                        await self._room
                    self._ready.append(item)
                    if self._waits is None or not self._waits(item):
                        self._tell()
        except Exception as error:  # noqa: BLE001 - handed to the reader, who handles it
            self._error = error
        finally:
            self._is_over = True
            _wake(self._news)

    def _tell(self) -> None:
        """What is ready may travel."""
        self._is_due = True
        _wake(self._news)


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
