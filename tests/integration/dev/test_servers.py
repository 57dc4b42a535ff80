"""The embedded servers as a stack uses them: in awkward folders, after crashes, against strangers."""

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev import accounts, postgres, valkey
from dev.errors import DevError
from dev.ports import LOOPBACK, free_ports, is_free
from dev.spawning import Account
from tests.support.waiting import wait_until

_ROOT = Path(__file__).parents[3]
_AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has an account to give up")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a space in its name that only its owner can enter."""
    home = Path(tempfile.mkdtemp(prefix="parley test "))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def port() -> int:
    return next(free_ports(os.getpid() + 1))


@pytest.fixture
def started(folder: Path, port: int) -> Iterator[Callable[[], postgres.Server]]:
    """Starts a server on the folder; every server is stopped."""
    servers: list[postgres.Server] = []

    def start(*, durable: bool = False) -> postgres.Server:
        server = postgres.Server(postgres.Cluster(folder / "postgres", durable=durable), port, folder / "log")
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


def _rows(server: postgres.Server) -> str:
    return server.prepared.run("SELECT n FROM kept ORDER BY n", port=server.port, database="parley")


def _keep(server: postgres.Server, number: int) -> None:
    statement = f"CREATE TABLE IF NOT EXISTS kept AS SELECT {number} AS n"
    server.prepared.run(statement, port=server.port, database="parley")


class TestPostgres:
    def test_data_outlive_a_stop(self, started: Callable[..., postgres.Server]) -> None:
        server = started()
        _keep(server, 1)
        server.stop()
        assert _rows(started()) == "1"

    def test_committed_data_outlive_kill_minus_nine(self, started: Callable[..., postgres.Server]) -> None:
        server = started(durable=True)
        _keep(server, 1)
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        assert _rows(started(durable=True)) == "1"

    def test_lock_file_that_names_a_living_stranger_does_not_prevent_the_start(
        self, started: Callable[..., postgres.Server]
    ) -> None:
        server = started()
        _keep(server, 1)
        pid_file = server.prepared.cluster.data / "postmaster.pid"
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        lines = pid_file.read_text().splitlines()
        stranger = subprocess.Popen(["sleep", "60"])
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        try:
            assert _rows(started()) == "1"
        finally:
            stranger.kill()
            stranger.wait()

    def test_second_server_on_the_same_data_is_refused(self, started: Callable[..., postgres.Server]) -> None:
        server = started()
        line = server.prepared.command(server.port)
        impatient = [*line[: line.index("--")], "--claim-s", "0", *line[line.index("--") :]]
        second = subprocess.run(impatient, capture_output=True, text=True, check=False)
        assert "processes of an earlier start still use" in second.stderr
        server.prepared.run("SELECT 1", port=server.port)

    def test_wrong_password_is_refused(self, started: Callable[..., postgres.Server]) -> None:
        server = started()
        (server.prepared.cluster.folder / "password").write_text("guess")
        with pytest.raises(DevError, match="password authentication failed"):
            server.prepared.run("SELECT 1", port=server.port)

    def test_services_role_is_no_superuser(self, started: Callable[..., postgres.Server]) -> None:
        server = started()
        assert server.prepared.run("SELECT rolsuper FROM pg_roles WHERE rolname = 'parley'", port=server.port) == "f"

    def test_passwords_can_be_read_by_their_owner_only(
        self, started: Callable[..., postgres.Server], folder: Path
    ) -> None:
        started()
        modes = {
            stat.S_IMODE((folder / "postgres" / name).stat().st_mode) for name in ("password", "superuser-password")
        }
        assert modes == {0o600}

    def test_port_in_use_is_told(self, folder: Path, port: int) -> None:
        server = postgres.Server(postgres.Cluster(folder / "postgres", durable=False), port, folder / "log")
        with socket.create_server((LOOPBACK, port)), pytest.raises(DevError, match="Address already in use"):
            server.start()

    def test_interrupted_initialisation_begins_anew(
        self, started: Callable[..., postgres.Server], folder: Path
    ) -> None:
        cluster = postgres.Cluster(folder / "postgres", durable=False)
        cluster.folder.mkdir(mode=0o711)
        accounts.settle(cluster.server_folder, postgres.installed_programs())
        (cluster.server_folder / "data.new").mkdir()
        (cluster.server_folder / "data.new" / "half").touch()
        _keep(started(), 1)

    def test_server_ends_with_the_process_that_started_it(self, folder: Path, port: int) -> None:
        program = f"""
import time
from pathlib import Path
from dev.postgres import Cluster, Server
folder = Path({str(folder)!r})
server = Server(Cluster(folder / "postgres", durable=False), {port}, folder / "log")
server.start()
print("started", flush=True)
time.sleep(60)
"""
        with subprocess.Popen([sys.executable, "-c", program], cwd=_ROOT, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"started\n"
            parent.kill()
        wait_until(lambda: is_free(port))


@_AS_ROOT
class TestAccounts:
    def test_unprivileged_account_runs_the_server_where_it_can(
        self, started: Callable[..., postgres.Server], folder: Path
    ) -> None:
        folder.chmod(0o711)
        assert started().prepared.account == Account(65534, 65534)

    def test_root_is_renamed_below_a_folder_that_nobody_else_can_enter(
        self, started: Callable[..., postgres.Server], folder: Path
    ) -> None:
        server = started()
        assert server.prepared.account == Account(65534, 65534, namespace=True)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_data_go_outside_where_namespaces_are_refused(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        def refuses_namespaces(account: Account, place: Path, programs: Path) -> bool:
            return not account.namespace and accounts.can_run(account, place, programs)

        outside = Path(tempfile.mkdtemp())
        outside.chmod(0o711)
        try:
            server = folder / "server"
            account, programs = accounts.settle(
                server, postgres.installed_programs(), outside=outside, probe=refuses_namespaces
            )
            assert account == Account(65534, 65534)
            assert server.is_symlink()
            assert server.resolve().parent == outside
            again = accounts.settle(server, postgres.installed_programs(), outside=outside, probe=refuses_namespaces)
            assert again == (account, programs)
        finally:
            shutil.rmtree(outside)

    def test_choice_stays_when_the_folder_opens_later(
        self, started: Callable[..., postgres.Server], folder: Path
    ) -> None:
        started().stop()
        folder.chmod(0o711)
        assert started().prepared.account == Account(65534, 65534, namespace=True)

    def test_folder_that_closed_since_is_told(self, started: Callable[..., postgres.Server], folder: Path) -> None:
        folder.chmod(0o711)
        started().stop()
        folder.chmod(0o700)
        with pytest.raises(DevError, match="can no longer reach it"):
            started()


class TestValkey:
    @pytest.fixture
    def store(self, folder: Path) -> valkey.Store:
        return valkey.Store(folder / "valkey")

    def test_data_outlive_kill_minus_nine(self, store: valkey.Store, port: int, folder: Path) -> None:
        server = valkey.Server(store, port, folder / "log")
        server.start()
        store.ask(port, "XADD", "queue", "*", "turn", "1")
        # The log is synced each second, but a written line outlives the process at once.
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        server.start()
        length = store.ask(port, "XLEN", "queue")
        server.stop()
        assert length == "1"

    def test_wrong_password_is_refused(self, store: valkey.Store, port: int, folder: Path) -> None:
        server = valkey.Server(store, port, folder / "log")
        server.start()
        (store.folder / "password").write_text(secrets.token_hex())
        with pytest.raises(DevError, match="WRONGPASS"):
            store.ask(port, "PING")
        server.stop()

    def test_administration_is_refused(self, store: valkey.Store, port: int, folder: Path) -> None:
        server = valkey.Server(store, port, folder / "log")
        server.start()
        with pytest.raises(DevError, match="NOPERM"):
            store.ask(port, "CONFIG", "SET", "dir", "/")
        server.stop()

    def test_foreign_server_on_the_port_is_not_taken_for_ours(
        self, store: valkey.Store, port: int, folder: Path
    ) -> None:
        foreign = valkey.Server(valkey.Store(folder / "foreign"), port, folder / "foreign-log")
        foreign.start()
        try:
            with pytest.raises(DevError, match="did not start"):
                valkey.Server(store, port, folder / "log").start()
        finally:
            foreign.stop()

    def test_password_is_not_in_the_configuration(self, store: valkey.Store, port: int) -> None:
        store.prepare(port)
        assert store.password() not in (store.folder / "valkey.conf").read_text()
