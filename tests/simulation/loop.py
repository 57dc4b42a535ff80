"""An event loop without a clock or sockets: time jumps to the next timer, and a seed decides which process runs next.

Within a process callbacks keep their order, as asyncio promises; between processes there is none. Every task belongs to
the process that started it, so that a process can be paused, and killed between any two of its steps.
"""

import asyncio
import heapq
import random
from asyncio import Future, Handle, Task, TimerHandle
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any, Final, TypeVar

STEPS_MAX: Final = 2_000_000
"""Of a run; beyond it something spins without time passing."""
BURIALS_MAX: Final = 20
"""Cancellations until the last task has ended; each gets one await further."""

T = TypeVar("T")


class Stuck(Exception):  # noqa: N818 - what it says of the run
    """The run does not end."""


class Process:
    """What dies as one.

    Attributes:
        fuse: steps until `burnt` is called; None while nobody lit it.
        burnt: what happens to it then.
        off_stage: tells the loop that nothing of it runs for now.
        on_death: called once when it is killed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.is_paused = False
        self.fuse: int | None = None
        self.burnt: Callable[[], None] = self.kill
        self.lane: deque[Handle] = deque()
        self.tasks: list[Task[Any]] = []
        self.off_stage: Callable[[], None] = lambda: None
        self.on_death: dict[int, Callable[[], None]] = {}
        self._keys = count()

    def __repr__(self) -> str:
        return self.name

    def light(self, steps: int, burnt: Callable[[], None]) -> None:
        """Has something happen to it between two of its steps."""
        self.fuse, self.burnt = steps, burnt

    def kill(self) -> None:
        """No callback of it runs any more: no `finally`, no goodbye."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.off_stage()
        for call in list(self.on_death.values()):
            call()

    def when_killed(self, call: Callable[[], None]) -> Callable[[], None]:
        """Has `call` called at its death; gives what takes that back."""
        key = next(self._keys)
        self.on_death[key] = call
        return lambda: self.on_death.pop(key, None) and None

    def spawn(self, work: Coroutine[Any, Any, T]) -> Task[T]:
        """Starts a task of this process."""
        context = ROOT.copy()
        context.run(PROCESS.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)


PROCESS: Final[ContextVar[Process | None]] = ContextVar("process", default=None)
"""Whose code runs; None for what is never killed: servers of databases, people, and who plays fate."""
ROOT: Final = Context()


class _Task(Task[T]):
    """A task whose hash does not depend on where it lies in memory, so that sets of tasks have one order."""

    def __init__(self, serial: int, *args: Any, **options: Any) -> None:  # Any: what asyncio.Task takes
        self._serial = serial
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._serial


class _Future(Future[T]):
    """As `_Task`."""

    def __init__(self, serial: int, loop: asyncio.AbstractEventLoop) -> None:
        self._serial = serial
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._serial


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module."""

    def __init__(self, chance: random.Random) -> None:
        self._now = 0.0
        super().__init__()
        self._chance = chance
        self._serials = count(1)
        self._world = Process("world")
        self._busy: dict[Process, None] = {}
        self._is_over = False
        self._ready: deque[Handle]
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self.steps = 0
        self.problems: list[str] = []
        self.set_task_factory(self._new_task)  # type: ignore[arg-type] # the stub knows no `context`, which asyncio passes
        self.set_exception_handler(self._note)

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def create_future(self) -> Future[Any]:
        """See `AbstractEventLoop.create_future`."""
        return _Future(next(self._serials), self)

    def pause(self, process: Process) -> None:
        """Lets nothing of a process run, as SIGSTOP does."""
        process.is_paused = True
        self._busy.pop(process, None)

    def resume(self, process: Process) -> None:
        """Lets a paused process go on; what came meanwhile comes at once."""
        process.is_paused = False
        if process.lane and process.is_alive:
            self._busy[process] = None

    def bury(self, processes: Sequence[Process]) -> None:
        """Cancels all that is left of a run that is over, so that nothing warns of it. No time passes any more.

        What was killed stands still in the middle of a step; a cancellation lets it come to its end.
        """
        self._is_over = True
        everybody = [*processes, self._world]
        for _ in range(BURIALS_MAX):
            pending = [task for process in everybody for task in process.tasks if not task.done()]
            if not pending:
                return
            for process in everybody:
                process.is_alive, process.fuse = True, None
                self.resume(process)
            for task in pending:
                task.cancel()
            self.run_forever()
        raise Stuck("some tasks cannot be cancelled")

    def call_at(  # type: ignore[override] # the same but for the types of what the callback takes
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        """See `AbstractEventLoop.call_at`; what is due at one instant comes in the order of its asking."""
        timer = TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._serials), timer))
        return timer

    def _run_once(self) -> None:
        """All that happens at this instant, then a jump of the clock; named and called by asyncio."""
        ready, busy, pick = self._ready, self._busy, self._chance.random
        while True:
            while ready:
                self._put_into_lane(ready.popleft())
            if not busy:
                break
            process = next(iter(busy)) if len(busy) == 1 else list(busy)[int(pick() * len(busy))]
            handle = process.lane.popleft()
            if not process.lane:
                del busy[process]
            if not handle._cancelled:
                self._step(process, handle)
        if self._is_over:
            self.stop()
        elif not self._stopping:  # type: ignore[attr-defined] # set by BaseEventLoop.stop
            self._jump()

    def _put_into_lane(self, handle: Handle) -> None:
        context: Context = handle._context  # type: ignore[attr-defined] # asyncio offers no public way to it
        process = context.get(PROCESS) or self._world
        process.lane.append(handle)
        if process.is_alive and not process.is_paused:
            self._busy[process] = None

    def _step(self, process: Process, handle: Handle) -> None:
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stuck(f"{STEPS_MAX} steps by second {self._now:.1f}")
        handle._run()
        if process.fuse is not None:
            process.fuse -= 1
            if process.fuse <= 0:
                process.fuse = None
                process.burnt()

    def _jump(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Stuck(f"nothing happens any more after second {self._now:.1f}")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, body: Coroutine[Any, Any, Any], context: Context | None = None
    ) -> Task[Any]:
        context = context or copy_context()
        task: Task[Any] = _Task(next(self._serials), body, loop=loop, context=context)
        process = context.get(PROCESS) or self._world
        process.tasks.append(task)
        return task

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Closes a generator that is dropped."""
        if self.is_running():
            self.call_soon(self.create_task, agen.aclose())

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Cancelled timers are skipped when their time comes."""

    def _process_events(self, event_list: object) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """There are no other threads."""
