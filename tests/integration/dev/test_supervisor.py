"""The supervisor with real processes that are shell scripts."""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dev.console import Console
from dev.errors import DevError
from dev.process import Process
from dev.spawning import launched
from dev.supervisor import Supervisor
from tests.support.waiting import until, wait_until

_ROOT = Path(__file__).parents[3]


class Stack:
    """A supervisor on a table of shell scripts, and everything it says."""

    def __init__(self, folder: Path, table: list[Process]) -> None:
        self.output = io.StringIO()
        self.is_ready = False
        self.supervisor = Supervisor(
            table,
            folder=folder,
            logs=folder / "logs",
            console=Console(self.output, [process.name for process in table]),
            changed=lambda: None,
        )

    async def run(self) -> None:
        await self.supervisor.run(self._ready)

    def _ready(self) -> None:
        self.is_ready = True

    def pid(self, name: str) -> int:
        return int(str(self.supervisor.states()[name]["pid"]))


@contextlib.asynccontextmanager
async def running(folder: Path, table: list[Process]) -> AsyncIterator[Stack]:
    stack = Stack(folder, table)
    task = asyncio.ensure_future(stack.run())
    try:
        await until(lambda: stack.is_ready or task.done())
        yield stack
    finally:
        stack.supervisor.stop()
        await task


def script(name: str, text: str, *after: str, **settings: object) -> Process:
    def command() -> list[str]:
        return launched(["/bin/sh", "-c", text])

    return Process(name, command, after=after, **settings)  # type: ignore[arg-type] # keywords of the dataclass


def server(name: str, *after: str, journal: Path, ready: Callable[[int], bool] = lambda _: True) -> Process:
    """Writes its start and its SIGTERM into the journal."""
    text = f"""
        trap 'echo stop {name} >> "{journal}"; exit 0' TERM
        echo start {name} >> "{journal}"
        while :; do sleep 0.05 & wait $!; done
    """

    def has_started(pid: int) -> bool:
        return f"start {name}\n" in journal.read_text() and ready(pid)

    journal.touch()
    return script(name, text, *after, is_ready=has_started)


async def test_processes_start_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    table = [server("edge", "auth", journal=journal), server("auth", "store", journal=journal)]
    table += [server("store", journal=journal)]
    async with running(tmp_path, table):
        pass
    words = journal.read_text().splitlines()
    assert words == ["start store", "start auth", "start edge", "stop edge", "stop auth", "stop store"]


async def test_process_waits_until_what_it_needs_is_ready(tmp_path: Path) -> None:
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    table = [
        server("first", journal=journal, ready=lambda _: gate.exists()),
        server("second", "first", journal=journal),
    ]
    stack = Stack(tmp_path, table)
    task = asyncio.ensure_future(stack.run())
    await until(lambda: "start first" in journal.read_text())
    before = journal.read_text()
    gate.touch()
    await until(lambda: stack.is_ready)
    stack.supervisor.stop()
    await task
    assert "second" not in before


async def test_progress_and_log_lines_bear_the_name_of_the_process(tmp_path: Path) -> None:
    async with running(tmp_path, [script("greeter", "echo hello", one_shot=True)]) as stack:
        pass
    assert "greeter | hello\n" in stack.output.getvalue()
    assert "[ 1/1] greeter done (" in stack.output.getvalue()
    assert (tmp_path / "logs" / "greeter.log").read_text() == "hello\n"


async def test_dead_process_is_named_and_started_again(tmp_path: Path) -> None:
    async with running(tmp_path, [server("worker", journal=tmp_path / "journal")]) as stack:
        killed = stack.pid("worker")
        os.kill(killed, signal.SIGKILL)
        await until(lambda: "worker is back" in stack.output.getvalue())
        state = stack.supervisor.states()["worker"]
    assert "worker was killed by SIGKILL; starting it again in 0.5 s" in stack.output.getvalue()
    assert state["pid"] != killed
    assert (state["state"], state["restarts"], state["last_status"]) == ("ready", 1, -signal.SIGKILL)


async def test_process_that_ends_before_it_is_ready_stops_the_start_with_its_last_words(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    table = [
        server("store", journal=journal),
        script("migrate", "echo 'no such table'; exit 3", "store", one_shot=True),
    ]
    with pytest.raises(
        DevError, match=r"(?s)migrate ended with status 3.*no such table.*The whole log: .*migrate\.log"
    ):
        await Stack(tmp_path, table).run()
    assert journal.read_text().splitlines() == ["start store", "stop store"]


async def test_process_that_does_not_get_ready_is_named(tmp_path: Path) -> None:
    sleeper = script("sleeper", "sleep 60", is_ready=lambda _: False, start_s_max=0.2)
    with pytest.raises(DevError, match="sleeper was not ready after 0 s"):
        await Stack(tmp_path, [sleeper]).run()


async def test_missing_module_is_answered_with_what_to_do(tmp_path: Path) -> None:
    broken = Process("broken", lambda: launched([sys.executable, "-c", "import no_such_module"]), one_shot=True)
    with pytest.raises(DevError, match="run `make setup`"):
        await Stack(tmp_path, [broken]).run()


async def test_process_that_ignores_the_signal_is_killed_and_named(tmp_path: Path) -> None:
    deaf = script("deaf", "trap '' TERM; touch deaf; while :; do sleep 0.05; done", stop_s_max=0.2)
    async with running(tmp_path, [deaf]) as stack:
        await until((tmp_path / "deaf").exists)
    assert "warning: deaf did not stop within 0 s; killing it" in stack.output.getvalue()


async def test_what_a_dead_process_left_behind_is_ended_too(tmp_path: Path) -> None:
    parent = script("parent", "sleep 60 & echo $! > child; exit 0", is_ready=lambda _: False)
    with pytest.raises(DevError, match="parent ended with status 0"):
        await Stack(tmp_path, [parent]).run()
    child = int((tmp_path / "child").read_text())
    await until(lambda: not _is_alive(child))


async def test_second_stop_kills_at_once(tmp_path: Path) -> None:
    deaf = script("deaf", "trap '' TERM; touch deaf; while :; do sleep 0.05; done", stop_s_max=3600.0)
    async with running(tmp_path, [deaf]) as stack:
        await until((tmp_path / "deaf").exists)
        stack.supervisor.stop()
    assert stack.supervisor.states()["deaf"]["state"] == "stopped"


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from dev.console import Console
from dev.process import Process
from dev.spawning import launched
from dev.supervisor import Supervisor
folder = Path({str(tmp_path)!r})
table = [Process("child", lambda: launched(["/bin/sh", "-c", "echo $$ > pid; exec sleep 60"]))]
asyncio.run(Supervisor(
    table, folder=folder, logs=folder / "logs", console=Console(sys.stdout, []), changed=lambda: None
).run(lambda: None))
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=_ROOT, stdout=subprocess.DEVNULL) as supervisor:
        pid_file = tmp_path / "pid"
        wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
        supervisor.kill()
    child = int(pid_file.read_text())
    wait_until(lambda: not _is_alive(child))


def _is_alive(pid: int) -> bool:
    """A zombie that nobody has collected yet is dead."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
