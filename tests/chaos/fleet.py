"""The stack under attack: start, find, signal and wipe its processes. It knows nothing of turns."""

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx

from dev.postgres import Cluster
from dev.spawning import launched
from tests.chaos.links import LINKS, Link
from tests.chaos.proxy import Proxy
from tests.support.stack import Stack
from tests.support.waiting import until

START_S_MAX: Final = 180.0
_STARTS: Final = 4
"""A port that was free when the stack chose it can be taken when it uses it; every start chooses anew."""
_STOP_S_MAX: Final = 90.0
_GONE_S_MAX: Final = 5.0
_LOOKS: Final = 15
UNKNOWN: Final = -1
"""What a queue holds that does not tell."""
_DEPTH: Final = re.compile(r"^parley_conversation_queue_depth_messages (\S+)$", re.MULTILINE)
_FOREIGN: Final = ("PARLEY_", "OPENAI_", "ANTHROPIC_", "CHAOS_")


class Fleet(Stack):
    """A stack whose links lead over proxies.

    Args:
        folder: its data.
        environment: settings of its processes.
        tree: the checkout that is run; a mutated copy, or this one.

    Attributes:
        proxies: by link.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, tree: Path) -> None:
        super().__init__(folder, environment)
        self._tree = tree
        self.proxies = {link: Proxy(lambda link=link: self._upstream(link)) for link in LINKS}  # type: ignore[misc]  # mypy cannot infer a default's type in a lambda
        self._ports_behind: dict[str, int] = {}
        self._stopped: set[str] = set()

    async def launch(self) -> None:
        """Starts it; returns when every process is ready."""
        for proxy in self.proxies.values():
            await proxy.open()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        environment |= {
            "PARLEY_DEV_DIR": str(self.folder),
            "CHAOS_LINKS": json.dumps({str(link): proxy.port for link, proxy in self.proxies.items()}),
            "PYTHONPATH": f"{self._tree}{os.pathsep}{self._tree / 'generated'}",
            **self.environment,
        }
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        for _ in range(_STARTS):
            process = self._begin(environment)
            await until(lambda running=process: running.poll() is not None or self._is_ready(), within_s=START_S_MAX)  # type: ignore[misc]  # as above
            if process.poll() is None:
                return
        raise AssertionError(f"the stack did not start:\n{self.report()}")

    def _begin(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        self._ports_behind = {}
        command = launched([sys.executable, "-m", "tests.chaos.up"], death_signal=signal.SIGINT)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, cwd=self._tree, env=environment, stdout=output, stderr=output)
        return self._process

    async def halt(self) -> None:
        """Ends it, gently if it can."""
        self.wake_all()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                await until(lambda: process.poll() is not None, within_s=_STOP_S_MAX)
            except AssertionError:
                process.kill()
                process.wait()
        for proxy in self.proxies.values():
            await proxy.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the long-running processes."""
        return tuple(name for name, state in self.states().items() if state["state"] != "done")

    def states(self) -> Mapping[str, Mapping[str, object]]:
        """What the supervisor knows, by process."""
        found = json.loads(self._home.state.read_text(encoding="utf-8"))["processes"]
        assert isinstance(found, dict)
        return found

    def is_up(self) -> bool:
        """Whether every process is ready."""
        return all(state["state"] in {"ready", "done"} for state in self.states().values())

    def send(self, name: str, number: signal.Signals) -> bool:
        """Sends a signal to a process; False when there is none at the moment."""
        pid = self.states()[name]["pid"]
        if pid is None:
            return False
        try:
            os.kill(int(str(pid)), number)
        except ProcessLookupError:
            return False
        return True

    def stop_clock(self, name: str) -> bool:
        """Freezes a process with all its children, as a paused virtual machine; False when there is none."""
        if not self._signal_group(name, signal.SIGSTOP):
            return False
        self._stopped.add(name)
        return True

    def wake(self, name: str) -> None:
        """Ends the freeze."""
        self._stopped.discard(name)
        self._signal_group(name, signal.SIGCONT)

    def wake_all(self) -> None:
        """Ends every freeze."""
        for name in tuple(self._stopped):
            self.wake(name)

    async def wipe(self, name: str) -> bool:
        """Kills Valkey or Kafka and removes everything that it stored, before the supervisor starts it again."""
        pid = self.states()[name]["pid"]
        if pid is None or not self.send(name, signal.SIGKILL):
            return False
        await until(lambda: not Path(f"/proc/{pid}").exists(), within_s=_GONE_S_MAX)
        shutil.rmtree(self.folder / name / "data", ignore_errors=True)
        return True

    async def queued(self) -> int:
        """Turns that the queue holds, as a worker tells its operator; once it has looked again."""
        url = f"http://127.0.0.1:{self.ports('conversation-worker')['debug']}/metrics"
        depth = float("nan")
        async with httpx.AsyncClient(trust_env=False) as http:
            for _ in range(_LOOKS):
                with contextlib.suppress(httpx.HTTPError):
                    found = _DEPTH.search((await http.get(url)).text)
                    depth = float(found[1]) if found else depth
                if depth == 0:
                    break
                await asyncio.sleep(1.0)
        return UNKNOWN if math.isnan(depth) else int(depth)

    def database_url(self) -> str:
        """Straight to PostgreSQL, around the proxies."""
        return Cluster(self.folder / "postgres").url(self.ports("postgres")["postgres"])

    def _signal_group(self, name: str, number: signal.Signals) -> bool:
        pid = self.states()[name]["pid"]
        if pid is None:
            return False
        try:
            os.killpg(int(str(pid)), number)
        except ProcessLookupError:
            return False
        return True

    def _upstream(self, link: Link) -> int:
        if not self._ports_behind:
            self._ports_behind = json.loads((self.folder / "links.json").read_text(encoding="utf-8"))
        return self._ports_behind[str(link)]


@asynccontextmanager
async def running_fleet(folder: Path, environment: Mapping[str, str], *, tree: Path) -> AsyncIterator[Fleet]:
    """A fleet while the body runs."""
    fleet = Fleet(folder, environment, tree=tree)
    try:
        await fleet.launch()
        yield fleet
    finally:
        await asyncio.shield(fleet.halt())
