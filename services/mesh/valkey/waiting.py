"""Connections for commands that wait for something: each has one to itself, and leaves it to the next."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from services.mesh.errors import Overloaded
from services.mesh.valkey.line import Line

_RETRY_AFTER_S: Final = 1.0


class WaitingLines:
    """Lines that one command uses at a time.

    Args:
        make: a line.
        lines_max: that are used at the same time.
        wait_s: seconds that a command waits for one of them.
    """

    def __init__(self, make: Callable[[], Line], *, lines_max: int, wait_s: float) -> None:
        self._make = make
        self._wait_s = wait_s
        self._room = asyncio.Semaphore(lines_max)
        self._free: list[Line] = []
        self._used: set[Line] = set()

    async def ask(self, command: Sequence[Any]) -> Any:  # Any: what commands take and return
        """Sends a command; an error that the server answers with is the answer.

        Who is cancelled ends the connection, so that the server gives it nothing that nobody hears.

        Raises:
            Overloaded: no line came free.
            Exception: see `Line.ask`.
        """
        await self._enter()
        line = self._free.pop() if self._free else self._make()
        self._used.add(line)
        try:
            (answer,) = await line.ask((command,))
        except BaseException:
            line.close()
            raise
        else:
            self._free.append(line)
        finally:
            self._used.discard(line)
            self._room.release()
        return answer

    def close(self) -> None:
        """Ends all connections, and fails what waits."""
        for line in (*self._free, *self._used):
            line.close()

    async def _enter(self) -> None:
        if not self._room.locked():
            await self._room.acquire()
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._room.acquire()
        except TimeoutError:
            raise Overloaded("too many commands wait in Valkey", retry_after_s=_RETRY_AFTER_S) from None
