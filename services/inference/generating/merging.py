"""Lets what is ready together travel together: a source runs ahead while its reader is busy, within a bound.

No timers: an idle reader gets each item at once. `mesh.groupcommit` serves many writers that wait for their send; this
serves one reader of one source, which must not wait for the send of its last item to make the next.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

# Items that a source may be ahead; beyond it the source waits, and so does the provider behind it.
AHEAD_MAX: Final = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End:
    """The source is done, or failed with `error`."""

    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


@asynccontextmanager
async def merging(
    source: AsyncGenerator[T, None], *, ahead_max: int = AHEAD_MAX
) -> AsyncIterator[AsyncIterator[list[T]]]:
    """Items of `source` in lists: all that are ready whenever the reader asks, never an empty list.

    Leaving closes the source and waits until it is closed. The iterator raises what the source raised, after the items
    that came before.
    """
    queue: asyncio.Queue[_Item[T] | _End] = asyncio.Queue(ahead_max)

    async def run_ahead() -> None:
        end = _End()
        try:
            async with aclosing(source) as items:
                async for item in items:
                    await queue.put(_Item(item))
        except Exception as error:  # noqa: BLE001 - handed to the reader, who handles it
            end = _End(error)
        await queue.put(end)

    owner = asyncio.TaskGroup()
    await owner.__aenter__()
    task = owner.create_task(run_ahead(), name="merging")
    try:
        yield _batches(queue)
    finally:
        task.cancel()
        # Not handed the reader's error: the group would wrap it, and whoever catches it would no longer know it.
        await owner.__aexit__(None, None, None)


async def _batches(queue: "asyncio.Queue[_Item[T] | _End]") -> AsyncIterator[list[T]]:
    while True:
        batch: list[T] = []
        entry = await queue.get()
        while isinstance(entry, _Item):
            batch.append(entry.value)
            if queue.empty():
                break
            entry = queue.get_nowait()
        if batch:
            yield batch
        if isinstance(entry, _End):
            if entry.error is not None:
                raise entry.error
            return
