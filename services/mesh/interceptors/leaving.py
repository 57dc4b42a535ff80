"""Ends streams that can be resumed when the process leaves, so that their callers go on elsewhere at once.

Left alone, each would hold up the drain to its very end, and be cut there all the same.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.mesh.errors import Unavailable
from services.mesh.rpc import Call, Proceed


class Leaving:
    """Whether the process is about to end, and what has to end before it does."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    def begin(self) -> None:
        """Ends what is watched; from now on it is refused."""
        self._begun.set()
        for task in self._tasks:
            task.cancel()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Work of the present task that ends when the process leaves.

        Raises:
            Unavailable: the process leaves, or is about to.
        """
        task = asyncio.current_task()
        assert task is not None
        if self._begun.is_set():
            raise _leaving()
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # The caller may have left as well, and that counts: there is nobody to tell.
            if not self._begun.is_set() or task.uncancel() > 0:
                raise
            raise _leaving() from None
        finally:
            self._tasks.discard(task)


class LeavingStage:
    """See the module."""

    def __init__(self, leaving: Leaving) -> None:
        self._leaving = leaving

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Watches over streams that can be resumed.

        Raises:
            Unavailable: the process leaves, or is about to.
        """
        if not call.policy.is_resumable:
            await proceed(call)
            return
        with self._leaving.watched():
            await proceed(call)


def _leaving() -> Unavailable:
    return Unavailable("this process is about to end; another one goes on with the stream")
