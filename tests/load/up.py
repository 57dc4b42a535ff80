"""Runs of a stack only what a stateless call touches: `python -P up.py`, in the checkout that is measured.

It is a script and not a module, because an older checkout has no `tests.load`; what it imports is that checkout's own.
"""

import asyncio
import socket
from dataclasses import replace

from dev import up
from dev.home import Home
from dev.ports import LOOPBACK
from dev.process import Process
from dev.table import plan

_KEPT = frozenset({"postgres", "valkey", "migrate-auth", "migrate-inference", "auth", "bootstrap", "inference", "edge"})


def main() -> None:
    """Run it until Ctrl-C."""
    home = Home.from_environment()
    home.lock()
    whole = plan(home, port=up._http_port())
    kept = [_alone(process) for process in whole.table if process.name in _KEPT]
    asyncio.run(up._run(home, replace(whole, table=kept)))


def _alone(process: Process) -> Process:
    """The process, which does not wait for those that are left out."""
    after = tuple(name for name in process.after if name in _KEPT)
    # The edge is ready when all services are; it answers stateless calls without two of them.
    is_ready = (lambda _: _is_open(process.ports["http"])) if process.name == "edge" else process.is_ready
    return replace(process, after=after, is_ready=is_ready)


def _is_open(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
