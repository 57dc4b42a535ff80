"""Runs a small ASGI application as a process of its own: it tells its port, and ends with its parent."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

import uvicorn
import uvloop

from tests.support.waiting import until

_STOP_S_MAX: Final = 60.0
_KEEP_ALIVE_S: Final = 3_600
"""Longer than any run: a connection that its server closes just when it is used again would be an error."""


@dataclass(frozen=True, slots=True)
class Served:
    """A process that serves on a loopback port, and listens to lines of text."""

    pid: int
    port: int
    input: IO[bytes]

    @property
    def url(self) -> str:
        """Of the server."""
        return f"http://127.0.0.1:{self.port}"

    def say(self, line: str) -> None:
        """Gives it a line."""
        self.input.write(f"{line}\n".encode())
        self.input.flush()


@contextmanager
def served(module: str, *arguments: str) -> Iterator[Served]:
    """`python -m module` while the body runs."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Served(process.pid, int(process.stdout.readline()), process.stdin)
    finally:
        process.stdin.close()
        process.wait(_STOP_S_MAX)
        process.stdout.close()


def serve(application: Any) -> None:  # Any: an ASGI application, as uvicorn takes it
    """Serves on a free port, which the first line of the output names, until the input is closed."""
    config = uvicorn.Config(
        application,
        port=0,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    uvloop.run(_serve(uvicorn.Server(config)))


async def _serve(server: uvicorn.Server) -> None:
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve())
        await until(lambda: server.started)
        sys.stdout.write(f"{server.servers[0].sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        server.should_exit = True
        await serving
