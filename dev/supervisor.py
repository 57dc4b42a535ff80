"""Runs a process table: starts in order, restarts what dies, stops in reverse."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dev.console import Console, LogFile
from dev.errors import DevError
from dev.process import Child, Process, described, in_order

_POLL_S = 0.05
_PATIENCE_S = 10.0
"""After as long a person is told what is being waited for, and again and again."""
_BACKOFF_S_FIRST = 0.5
_BACKOFF_S_MAX = 10.0
_STABLE_S = 30.0
"""A process that ran for as long has recovered: its next death is a first one again."""
_OUTPUT_S_MAX = 1.0
"""Last output of a process that has ended; a grandchild could hold the pipe open for ever."""


class _Stopped(Exception):  # noqa: N818 - an event, not an error
    """Somebody asked the stack to stop."""


class _Life:
    """What is known of one process of the table while the stack runs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.child: Child | None = None
        self.state = "waiting"
        self.restarts = 0
        self.last_status: int | None = None
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()


class Supervisor:
    """Runs the processes of a table until it is asked to stop.

    Args:
        table: the processes; dependencies may stand in any order.
        folder: working directory of all processes.
        logs: folder of the log files.
        console: where people read along.
        changed: is told whenever the state of a process changes.
    """

    def __init__(
        self, table: list[Process], *, folder: Path, logs: Path, console: Console, changed: Callable[[], None]
    ) -> None:
        self._lives = {process.name: _Life(process) for process in in_order(table)}
        self._folder = folder
        self._console = console
        self._changed = changed
        self._logs = {name: LogFile(logs / f"{name}.log") for name in self._lives}
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()
        self._readers: asyncio.TaskGroup | None = None
        self._reading: set[asyncio.Task[None]] = set()
        self._ready_count = 0

    def states(self) -> Mapping[str, Mapping[str, object]]:
        """Each process by name: its state, process id, ports, how often it was started again and how it last ended."""
        return {
            name: {
                "state": life.state,
                "pid": life.child.pid if life.child is not None and life.child.status is None else None,
                "ports": dict(life.process.ports),
                "restarts": life.restarts,
                "last_status": life.last_status,
            }
            for name, life in self._lives.items()
        }

    def stop(self) -> None:
        """Begin to stop; asked a second time, kill what is left."""
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Start everything, call `ready` once, keep everything running; returns when stopped and drained.

        Raises:
            DevError: a process could not be started; all others have been stopped by then.
        """
        try:
            async with asyncio.TaskGroup() as self._readers:
                try:
                    failure = await self._keep(ready)
                finally:
                    await self._drain()
                    await self._hear_out()
        finally:
            for log in self._logs.values():
                log.close()
        if failure is not None:
            raise failure

    async def _keep(self, ready: Callable[[], None]) -> DevError | None:
        """Run until asked to stop, or until a process cannot be started; raised, that would come out wrapped."""
        failure: DevError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for life in self._lives.values():
                    group.create_task(self._tend(life), name=life.process.name)
                group.create_task(self._announce(ready), name="announce")
                await self._until_stopped()
        except* _Stopped:
            pass
        except* DevError as failures:
            failure = _first(failures)
        return failure

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        raise _Stopped

    async def _announce(self, ready: Callable[[], None]) -> None:
        for life in self._lives.values():
            await life.ready.wait()
        ready()

    async def _tend(self, life: _Life) -> None:
        for name in life.process.after:
            await self._lives[name].ready.wait()
        begun = time.monotonic()
        child = await self._start(life)
        await self._until_ready(life, child)
        self._set(life, "done" if life.process.one_shot else "ready")
        self._ready_count += 1
        verb = "done" if life.process.one_shot else "ready"
        progress = f"[{self._ready_count:>2}/{len(self._lives)}]"
        self._console.say(f"{progress} {life.process.name} {verb} ({time.monotonic() - begun:.1f} s)")
        life.ready.set()
        if not life.process.one_shot:
            await self._revive(life, child)

    async def _revive(self, life: _Life, child: Child) -> None:
        """Wait for the death of the process and start it again, for ever, with growing pauses."""
        pause = _BACKOFF_S_FIRST
        since = time.monotonic()
        name = life.process.name
        while True:
            life.last_status = status = await child.ended()
            child.sweep()
            if time.monotonic() - since > _STABLE_S:
                pause = _BACKOFF_S_FIRST
            self._set(life, "restarting")
            self._console.say(f"{name} {described(status)}; starting it again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _BACKOFF_S_MAX)
            life.restarts += 1
            since = time.monotonic()
            try:
                child = await self._start(life)
                await self._until_ready(life, child)
            except DevError as failure:
                self._console.say(f"{name} is not back: {failure}")
                child.send(signal.SIGKILL)
                continue
            self._set(life, "ready")
            self._console.say(f"{name} is back ({time.monotonic() - since:.1f} s)")

    async def _start(self, life: _Life) -> Child:
        process = life.process
        command = await asyncio.to_thread(process.command)
        life.child = child = await Child.start(
            command, environment=process.environment, folder=self._folder, relay=self._relay(process.name)
        )
        assert self._readers is not None
        reader = self._readers.create_task(child.read(), name=f"{process.name} output")
        self._reading.add(reader)
        reader.add_done_callback(self._reading.discard)
        self._set(life, "starting")
        return child

    async def _until_ready(self, life: _Life, child: Child) -> None:
        process = life.process
        begun = told = time.monotonic()
        while True:
            if child.status is not None:
                if process.one_shot and child.status == 0:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.silent.wait(), _OUTPUT_S_MAX)
                raise DevError(self._failure(process, child, described(child.status)))
            if not process.one_shot and await asyncio.to_thread(process.is_ready, child.pid):
                return
            now = time.monotonic()
            if now - begun > process.start_s_max:
                raise DevError(self._failure(process, child, f"was not ready after {process.start_s_max:.0f} s"))
            if now - told > _PATIENCE_S:
                told = now
                self._console.say(f"still waiting for {process.name} ({now - begun:.0f} s)")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.ended(), _POLL_S)

    async def _drain(self) -> None:
        running = [life for life in self._lives.values() if life.child is not None and life.child.status is None]
        if running:
            self._console.say(f"stopping {len(running)} processes (Ctrl-C again kills them)")
        async with asyncio.TaskGroup() as group:
            for life in self._lives.values():
                group.create_task(self._end(life), name=f"stop {life.process.name}")
            killer = group.create_task(self._kill_when_told(), name="kill")
            for life in self._lives.values():
                await life.gone.wait()
            killer.cancel()

    async def _end(self, life: _Life) -> None:
        """Stop the process once those that need it are gone."""
        process, child = life.process, life.child
        for other in self._lives.values():
            if process.name in other.process.after:
                await other.gone.wait()
        if child is not None and child.status is None:
            child.send(process.stop_signal)
            try:
                await asyncio.wait_for(child.ended(), process.stop_s_max)
            except TimeoutError:
                self._console.say(f"warning: {process.name} did not stop within {process.stop_s_max:.0f} s; killing it")
                child.send(signal.SIGKILL)
                await child.ended()
        if child is not None:
            child.sweep()
            self._set(life, "done" if process.one_shot and child.status == 0 else "stopped")
        life.gone.set()

    async def _hear_out(self) -> None:
        if self._reading:
            _, pending = await asyncio.wait(self._reading, timeout=_OUTPUT_S_MAX)
            for reader in pending:
                reader.cancel()

    async def _kill_when_told(self) -> None:
        await self._kill.wait()
        for life in self._lives.values():
            if life.child is not None:
                life.child.send(signal.SIGKILL)

    def _relay(self, name: str) -> Callable[[str], None]:
        def relay(line: str) -> None:
            self._logs[name].write(line)
            self._console.relay(name, line)

        return relay

    def _set(self, life: _Life, state: str) -> None:
        life.state = state
        self._changed()

    def _failure(self, process: Process, child: Child, what: str) -> str:
        lines = "\n".join(f"    {line}" for line in child.tail) or "    (it printed nothing)"
        advice = _advice("\n".join(child.tail))
        return (
            f"{process.name} {what}. Its last lines:\n{lines}\n{advice}The whole log: {self._logs[process.name].path}"
        )


def _advice(tail: str) -> str:
    """What to do next, where the last lines of a process tell it."""
    if "ModuleNotFoundError" in tail:
        return "A module is missing: run `make setup`, then start again. "
    if "ddress already in use" in tail:
        return "Another program took its port: start again, other ports will be chosen. "
    return ""


def _first(failures: BaseExceptionGroup[DevError]) -> DevError:
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, DevError)
    return found
