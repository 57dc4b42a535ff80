"""`python -m dev up`: the whole of Parley on this machine, in the foreground, until Ctrl-C."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from dev import certificates
from dev.console import Console
from dev.errors import DevError
from dev.home import ROOT, Home, shell_values
from dev.ports import LOOPBACK, free_ports, is_free
from dev.supervisor import Supervisor
from dev.table import Plan, plan

_PORT = 8080
_PORT_S_MAX = 3.0
"""A stack that was just killed may take as long to let go of the port."""
_CONNECT_S_MAX = 5.0
_POLL_S = 0.05
_DEFAULT_PORTS = {
    **dict.fromkeys(("postgresql", "postgres"), 5432),
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys", "valkey+cluster", "valkeys+cluster"), 6379),
    **dict.fromkeys(("valkey+sentinel", "valkeys+sentinel"), 26379),
}


def up() -> None:
    """Start the stack, keep it running, stop it on SIGINT, SIGTERM or SIGHUP.

    Raises:
        DevError: it cannot start; the message says what to do.
    """
    home = Home.from_environment()
    home.lock()
    for name in ("PARLEY_DATABASE_URL", "PARLEY_VALKEY_URL"):
        _require_reachable(name)
    started = plan(home, port=_http_port())
    if not (home.folder / "postgres" / "server").exists() and "PARLEY_DATABASE_URL" not in os.environ:
        # The database is gone, and with it the users that these credentials name.
        home.bootstrap.unlink(missing_ok=True)
    home.credentials.unlink(missing_ok=True)
    asyncio.run(_run(home, started))


async def _run(home: Home, started: Plan) -> None:
    console = Console(sys.stdout, [process.name for process in started.table])
    supervisor = Supervisor(
        started.table,
        folder=ROOT,
        logs=home.logs,
        console=console,
        changed=lambda: home.write_state({"pid": os.getpid(), "url": started.url, "processes": supervisor.states()}),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    begun = time.monotonic()

    def ready() -> None:
        home.unseen.unlink(missing_ok=True)
        knows_user = _write_credentials(home, started)
        console.say(f"ready {started.url} (after {time.monotonic() - begun:.1f} s)")
        console.say(f"  credentials  {_shown(home.credentials)}")
        if not knows_user:
            console.say(
                "               without a user: this database was begun by another stack, which has its password;"
            )
            console.say("               `python -m services.auth bootstrap --reset --output FILE` makes a new one")
        console.say(f"  logs         {_shown(home.logs)}/")
        console.say("  next         `make demo` in a second terminal; Ctrl-C here stops everything")

    console.say(f"starting {len(started.table)} processes; data in {_shown(home.folder)}")
    await supervisor.run(ready)
    console.say("stopped")


def _write_credentials(home: Home, started: Plan) -> bool:
    """Write the credentials file; returns whether the first user is known."""
    user = shell_values(home.bootstrap)
    targets = {f"PARLEY_{service.upper()}_TARGET": target for service, target in started.targets.items()}
    # Whoever calls by gRPC needs a certificate where the processes have some.
    own = certificates.settings(home.certificates, certificates.CONSUMER) if started.has_tls else {}
    home.write_credentials({"PARLEY_URL": started.url} | user | targets | own)
    return bool(user)


def _http_port() -> int:
    """The edge's port from `PARLEY_DEV_PORT`; 0 chooses a free one.

    Raises:
        DevError: it is no port, or it is taken.
    """
    given = os.environ.get("PARLEY_DEV_PORT") or str(_PORT)
    if not given.isdecimal() or int(given) > 65535:  # noqa: PLR2004 - the highest port there is
        raise DevError(f"PARLEY_DEV_PORT is {given!r}, which is no port: choose one from 1024 to 65535, or 0 for any")
    port = int(given) or next(free_ports(os.getpid()))
    deadline = time.monotonic() + _PORT_S_MAX
    while not is_free(port):
        if time.monotonic() > deadline:
            raise DevError(
                f"port {port} on {LOOPBACK} is in use by another program: "
                f"stop it, or choose another port, for example `PARLEY_DEV_PORT={next(free_ports(port))} make run`"
            )
        time.sleep(_POLL_S)
    return port


def _require_reachable(name: str) -> None:
    """An own database or store has to answer before anything is started against it."""
    url = os.environ.get(name)
    if not url:
        return
    # Of a cluster, or of sentinels, the first one; the services themselves do without it.
    parts = urlsplit(re.sub(r",[^/?]*", "", url))
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    if port is None or not parts.hostname:
        raise DevError(f"{name} is no address of a server: expected scheme://user:password@host:port/name")
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_S_MAX).close()
    except OSError as refusal:
        raise DevError(
            f"{name} names {parts.hostname}:{port}, where nothing answers ({refusal}): "
            "start that server, or unset the variable to use the embedded one"
        ) from refusal


def _shown(path: Path) -> str:
    """The path as a person standing in the checkout would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
