"""Backups of the stack's PostgreSQL, and its restore to any instant since one of them: PostgreSQL's own tools.

`archive` keeps the server's log as it is written, `backup` copies the data, `restore` makes a new folder of both. What
Valkey holds is not kept: everything in it is made of what PostgreSQL holds, so a restore begins with none of it.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from dev.accounts import settle
from dev.errors import DevError
from dev.home import Home
from dev.keyfile import write_private
from dev.ports import LOOPBACK, free_ports
from dev.postgres import SUPERUSER, Cluster, Server, checked, installed_programs, without_libpq_settings
from dev.spawning import Account, CommandLine, launched

_SLOT = "parley_archive"
"""Makes the server keep what the archive has not received yet."""
_KEPT = "SELECT slot_name FROM pg_replication_slots WHERE active"
_NAME = "%Y%m%dT%H%M%S.%fZ"
"""Of a backup: the instant from which on it can be restored."""
_BACKUP_S_MAX = 3_600.0
_OWN_FILES = ("password", "superuser-password")
"""Beside the data, which know their users by them."""


def archive() -> None:
    """Keep the log of the running stack's PostgreSQL until Ctrl-C.

    Raises:
        DevError: no stack runs here, or it has a database of its own.
    """
    stack = _Stack(Home.from_environment())
    folder = stack.home.archive / "wal"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    stack.tool("pg_receivewal", "--slot", _SLOT, "--create-slot", "--if-not-exists")
    line = stack.line("pg_receivewal", "--slot", _SLOT, "--directory", folder, "--synchronous")
    with subprocess.Popen(launched(line), env=stack.environment, start_new_session=True) as running:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: running.send_signal(signal.SIGINT))
        print(f"keeping the log in {folder}; Ctrl-C here stops that", flush=True)
        if running.wait() != 0:
            raise DevError("pg_receivewal ended by itself: see above")


def backup() -> None:
    """Copy the running stack's data.

    Raises:
        DevError: nobody keeps the log, without which the copy could only be restored as it is; or copying failed.
    """
    stack = _Stack(Home.from_environment())
    if _SLOT not in stack.prepared.run(_KEPT, port=stack.port).splitlines():
        raise DevError("nobody keeps the log: run `make archive` in another terminal, and leave it running")
    folder = stack.home.archive / "base"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / "new"
    shutil.rmtree(draft, ignore_errors=True)
    stack.tool("pg_basebackup", "--pgdata", draft, "--wal-method", "stream", "--checkpoint", "fast")
    done = draft.rename(folder / datetime.now(UTC).strftime(_NAME))
    print(f"{done}: can be restored to any instant from now on")


def restore(*, to: str | None, into: Path) -> None:
    """Make a folder with a stack as it was at an instant; the present one is left as it is.

    Args:
        to: the instant, in ISO 8601 with its offset from UTC; None is the last one that the archive knows.
        into: the folder, which must not exist.

    Raises:
        DevError: there is no backup from before the instant, the archive does not reach it, or a file is damaged.
    """
    home, instant = Home.from_environment(), _instant(to)
    base = _base(home, instant)
    restored = Home(into.absolute())
    if restored.folder.exists():
        raise DevError(f"{restored.folder} exists: name a folder that does not")
    restored.lock()
    try:
        cluster = _copied(home, base, restored)
        _recover(cluster, instant, restored)
    except BaseException:
        shutil.rmtree(Cluster(restored.folder / "postgres").server_folder, ignore_errors=True)
        shutil.rmtree(restored.folder)
        raise
    restored.unseen.touch(mode=0o600)
    print(f"restored into {restored.folder}: `PARLEY_DEV_DIR={shlex.quote(str(restored.folder))} make run` starts it")


class _Stack:
    """The running stack's database, for the tools of its superuser."""

    def __init__(self, home: Home) -> None:
        self.home = home
        cluster = Cluster(home.folder / "postgres")
        try:
            processes = json.loads(home.state.read_text(encoding="utf-8"))["processes"]
            self.port = int(processes["postgres"]["ports"]["postgres"])
        except (FileNotFoundError, KeyError):
            raise DevError(
                f"no stack with a PostgreSQL of its own runs in {home.folder}; "
                "a server of yours has tools of its own: see docs/backup.md"
            ) from None
        self.prepared = cluster.prepare()
        self.environment = without_libpq_settings() | {"PGPASSWORD": cluster.superuser_password()}

    def line(self, program: str, *arguments: str | Path) -> CommandLine:
        """The command line of a tool."""
        place = ["--host", LOOPBACK, "--port", str(self.port), "--username", SUPERUSER, "--no-password"]
        return [self.prepared.programs / program, *place, *arguments]

    def tool(self, program: str, *arguments: str | Path) -> None:
        """Run a tool to its end; raises DevError."""
        checked(self.line(program, *arguments), environment=self.environment, within_s=_BACKUP_S_MAX)


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    instant = None
    with contextlib.suppress(ValueError):
        instant = datetime.fromisoformat(text)
    if instant is None or instant.tzinfo is None:
        raise DevError(f"{text!r} is no instant: write it as {datetime.now(UTC).isoformat(timespec='seconds')}")
    if instant > datetime.now(UTC):
        raise DevError(f"{text} is in the future")
    return instant.astimezone(UTC)


def _base(home: Home, instant: datetime | None) -> Path:
    """The latest backup from before the instant."""
    folder = home.archive / "base"
    found = sorted(each for each in folder.glob("*Z")) if folder.exists() else []
    early = [each for each in found if instant is None or each.name <= instant.strftime(_NAME)]
    if not early:
        oldest = f"the oldest is {found[0].name}" if found else "there is none: run `make backup`"
        raise DevError(f"{folder} has no backup from before that instant; {oldest}")
    return early[-1]


def _copied(home: Home, base: Path, restored: Home) -> Cluster:
    """The data of the backup, the log since then, and the secrets that they are sealed with, in the new folder."""
    cluster = Cluster(restored.folder / "postgres")
    cluster.folder.mkdir(mode=0o711)
    account, programs = settle(cluster.folder / "server", installed_programs())
    checked([programs / "pginstall" / "bin" / "pg_verifybackup", "--quiet", base], within_s=_BACKUP_S_MAX)
    for name in _OWN_FILES:
        write_private(cluster.folder / name, (home.folder / "postgres" / name).read_text(encoding="utf-8"))
    shutil.copytree(home.folder / "secrets", restored.folder / "secrets")
    if home.bootstrap.exists():
        write_private(restored.bootstrap, home.bootstrap.read_text(encoding="utf-8"))
    shutil.copytree(base, cluster.data)
    shutil.copytree(home.archive / "wal", _log_of(cluster))
    cluster.data.chmod(0o700)
    _hand_over(cluster.server_folder, account)
    return cluster


def _recover(cluster: Cluster, instant: datetime | None, restored: Home) -> None:
    """Let PostgreSQL read the log up to the instant, and begin a history of its own there."""
    written = cluster.data / "postgresql.auto.conf"
    before = written.read_text(encoding="utf-8")
    log = shlex.quote(str(_log_of(cluster)))
    # The last piece of the log was still being written.
    fetch = f"cp {log}/%f %p 2>/dev/null || cp {log}/%f.partial %p 2>/dev/null"
    # With nobody to read meanwhile it is ready when it is done, and not before.
    settings = {"restore_command": fetch, "recovery_target_action": "promote", "hot_standby": "off"}
    if instant is not None:
        settings["recovery_target_time"] = instant.isoformat(sep=" ")
    quoted = {name: value.replace("'", "''") for name, value in settings.items()}
    lines = [f"{name} = '{value}'\n" for name, value in quoted.items()]
    written.write_text(before + "".join(lines), encoding="utf-8")
    signal_file = cluster.data / "recovery.signal"
    signal_file.touch()
    prepared = cluster.prepare()
    for each in (written, signal_file):
        _hand_over(each, prepared.account)
    server = Server(cluster, next(free_ports(os.getpid())), restored.folder / "restore.log")
    try:
        server.start()
    finally:
        server.stop()
    written.write_text(before, encoding="utf-8")
    _hand_over(written, prepared.account)
    shutil.rmtree(_log_of(cluster))


def _log_of(cluster: Cluster) -> Path:
    return cluster.server_folder / "wal"


def _hand_over(path: Path, account: Account | None) -> None:
    """Give the path and all below to the account that the server runs as."""
    if account is None or account.namespace:
        return
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        os.chown(each, account.uid, account.gid)
