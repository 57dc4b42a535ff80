"""Ends streams that can be resumed when the process leaves, so that their callers go on elsewhere at once.

Left alone, each would hold up the drain to its very end, and be cut there all the same. Other calls may end by
themselves until then; those that have not are ended by words, for a call that is merely cut tells its caller nothing.
"""

import asyncio

from services.mesh.errors import LEAVING, Unavailable
from services.mesh.rpc import Call, Proceed


class Leaving:
    """Whether the process is about to end, and what has to end before it does."""

    def __init__(self) -> None:
        self._resumable = _Watched()
        self._others = _Watched()

    def begin(self) -> None:
        """Ends what can be resumed; from now on it is refused."""
        self._resumable.end()

    def end(self) -> None:
        """Ends the rest: its time is over."""
        self._others.end()

    async def watch(self, call: Call, proceed: Proceed) -> None:
        """Goes on with a call, which ends when the process leaves.

        Raises:
            Unavailable: the process leaves, or is about to.
        """
        await (self._resumable if call.policy.is_resumable else self._others).watch(call, proceed)


class _Watched:
    """Tasks that end together."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        self._ended.set()
        for task in self._tasks:
            task.cancel()

    async def watch(self, call: Call, proceed: Proceed) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(self._loop)  # to find the loop out for each call would be a system call for each
        assert task is not None
        if self._ended.is_set():
            raise _leaving()
        self._tasks.add(task)
        try:
            await proceed(call)
        except asyncio.CancelledError:
            # The caller may have left as well, and that counts: there is nobody to tell.
            if not self._ended.is_set() or task.uncancel() > 0:
                raise
            raise _leaving() from None
        finally:
            self._tasks.discard(task)


class LeavingStage:
    """See the module."""

    def __init__(self, leaving: Leaving) -> None:
        self._leaving = leaving

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Watches over a call.

        Raises:
            Unavailable: the process leaves, or is about to.
        """
        await self._leaving.watch(call, proceed)


def _leaving() -> Unavailable:
    return Unavailable("this process is about to end; another one answers", metadata={LEAVING: "true"})
