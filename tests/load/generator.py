"""A plan carried out by a process of its own, and what came of it."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import orjson

from tests.load.asking import Plan, Progress
from tests.load.tally import Tally, unpacked


class Generator:
    """One run of `tests.load.asking`.

    Args:
        plan: what is asked.
        folder: for the plan and its result.

    Attributes:
        progress: the latest that it told.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.progress = Progress()
        self._plan = plan
        self._given, self._result = folder / "plan.json", folder / "result.json"
        self._process: asyncio.subprocess.Process | None = None
        self._told = asyncio.Condition()
        self._is_over = False

    async def run(self) -> Tally:
        """Returns when every answer has ended."""
        self._given.write_bytes(self._plan.text())
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.load.asking", self._given, self._result), stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                async with self._told:
                    self.progress = Progress(**orjson.loads(line))
                    self._told.notify_all()
            assert await self._process.wait() == 0, "the generator has failed"
        finally:
            async with self._told:
                self._is_over = True
                self._told.notify_all()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
        return unpacked(orjson.loads(self._result.read_bytes()))

    async def until(self, is_reached: Callable[[Progress], bool]) -> Progress:
        """Waits until it is as far, or over."""
        async with self._told:
            await self._told.wait_for(lambda: self._is_over or is_reached(self.progress))
            return self.progress
