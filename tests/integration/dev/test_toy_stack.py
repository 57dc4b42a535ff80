"""`python -m dev up` from start to stop, in a checkout whose services are toys: the stack knows none from inside."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.home import ROOT, Home, shell_values
from tests.support.waiting import wait_until

_TOY = '''
"""Answers /readyz as a service does, and keeps a journal of what happened to it."""
import http.server, json, os, signal, sys
from pathlib import Path

name, command = (__spec__.parent, sys.argv[1])
journal = Path(os.environ["TOY_JOURNAL"])
def note(what):
    with journal.open("a") as file:
        print(name, command, what, file=file)

if command == "bootstrap":
    output = Path(sys.argv[sys.argv.index("--output") + 1])
    if not output.exists():
        output.write_text("PARLEY_EMAIL=me@example.com\\nPARLEY_PASSWORD='a b'\\nPARLEY_API_KEY=key-1\\n")
elif command == "migrate":
    if (journal.parent / "no-migration").exists():
        sys.exit("the schema is newer than this program")
else:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/readyz" else 404)
            self.end_headers()
        def log_message(self, *_): pass
    def stop(*_):
        note("stopped")
        os._exit(0)
    signal.signal(signal.SIGTERM, stop)
    host, port = os.environ["PARLEY_DEBUG_LISTEN"].split(":")
    server = http.server.HTTPServer((host, int(port)), Handler)
    note("started")
    print("hello from", name, command)
    server.serve_forever()
'''


class Checkout:
    """A copy of the stack's own code beside toy services."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.home = Home(folder / "my stack")
        self.output = folder / "output"
        shutil.copytree(ROOT / "dev", folder / "dev", ignore=shutil.ignore_patterns("tools", "__pycache__"))
        for package in ("services/auth", "services/conversation", "services/retrieval", "services/inference", "edge"):
            (folder / package).mkdir(parents=True)
            (folder / package / "__main__.py").write_text(_TOY)
        for package in ("services", "edge"):
            # Without it they would give way to the real ones, which the environment has installed.
            (folder / package / "__init__.py").touch()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Start, and wait until it is ready or has ended; returns the process id."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
        own = {"PARLEY_DEV_DIR": str(self.home.folder), "PARLEY_DEV_PORT": "0", "TOY_JOURNAL": str(self.journal)}
        self.journal.write_text("")
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "dev", "up"], cwd=self.folder, env=kept | own, stdout=output, stderr=output
            )
        self._process = process
        wait_until(lambda: process.poll() is not None or "\nready http" in self.said, within_s=60)
        return process.pid

    @property
    def said(self) -> str:
        return self.output.read_text()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int | None:
        if self._process is None:
            return None
        self._process.send_signal(number)
        return self._process.wait(30)

    def state(self, name: str) -> dict[str, object]:
        found = json.loads(self.home.state.read_text())["processes"][name]
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a checkout")


@pytest.fixture(scope="module")
def checkout(folder: Path) -> Iterator[Checkout]:
    made = Checkout(folder)
    made.start()
    yield made
    made.stop()


def test_ready_line_holds_the_url_of_the_edge(checkout: Checkout) -> None:
    line = next(line for line in checkout.said.splitlines() if line.startswith("ready"))
    port = checkout.state("edge")["ports"]["http"]  # type: ignore[index] # a dictionary from JSON
    assert line.startswith(f"ready http://127.0.0.1:{port} ")


def test_credentials_are_written_for_their_owner_only(checkout: Checkout) -> None:
    values = shell_values(checkout.home.credentials)
    services = ("AUTH", "CONVERSATION", "RETRIEVAL", "INFERENCE")
    names = {"PARLEY_URL", "PARLEY_EMAIL", "PARLEY_PASSWORD", "PARLEY_API_KEY"}
    assert set(values) == names | {f"PARLEY_{service}_TARGET" for service in services}
    assert values["PARLEY_PASSWORD"] == "a b"
    assert stat.S_IMODE(checkout.home.credentials.stat().st_mode) == 0o600


def test_credentials_can_be_read_by_a_shell(checkout: Checkout) -> None:
    script = f'. "{checkout.home.credentials}" && printf %s "$PARLEY_PASSWORD"'
    assert subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout == "a b"


def test_every_process_tells_its_lines_under_its_name(checkout: Checkout) -> None:
    assert "conversation-worker  | hello from services.conversation worker\n" in checkout.said
    assert (checkout.home.logs / "edge.log").read_text().endswith("hello from edge serve\n")


def test_dead_process_comes_back_on_its_port(checkout: Checkout) -> None:
    before = checkout.state("retrieval")
    os.kill(int(str(before["pid"])), signal.SIGKILL)
    wait_until(lambda: checkout.state("retrieval")["restarts"] == 1 and checkout.state("retrieval")["state"] == "ready")
    after = checkout.state("retrieval")
    assert after["ports"] == before["ports"]
    assert after["pid"] != before["pid"]
    assert "retrieval was killed by SIGKILL; starting it again" in checkout.said


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_dead_server_comes_back(checkout: Checkout, name: str) -> None:
    os.kill(int(str(checkout.state(name)["pid"])), signal.SIGKILL)
    wait_until(lambda: checkout.state(name)["restarts"] == 1 and checkout.state(name)["state"] == "ready")


def test_stack_stops_in_reverse_and_keeps_its_credentials(checkout: Checkout) -> None:
    before = shell_values(checkout.home.credentials)["PARLEY_API_KEY"]
    status = checkout.stop(signal.SIGTERM)
    stopped = [line for line in checkout.journal.read_text().splitlines() if line.endswith("stopped")]
    checkout.start()
    assert status == 0
    assert stopped.index("edge serve stopped") < stopped.index("services.conversation serve stopped")
    assert stopped[-1] == "services.auth serve stopped"
    assert len(stopped) == 7
    assert shell_values(checkout.home.credentials)["PARLEY_API_KEY"] == before


def test_nothing_is_left_of_a_stack_that_was_killed_and_the_next_one_starts(checkout: Checkout) -> None:
    names = ("postgres", "valkey", "auth", "edge")
    pids = {int(str(checkout.state(name)["pid"])) for name in names}
    checkout.stop(signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    checkout.start()
    assert "\nready http" in checkout.said


def test_failed_migration_is_told_and_nothing_is_left_running(folder: Path, checkout: Checkout) -> None:
    checkout.stop()
    (folder / "no-migration").touch()
    checkout.start()
    assert re.search(r"error: migrate-\w+ ended with status 1\.", checkout.said)
    assert "the schema is newer than this program" in checkout.said
    assert not checkout.home.credentials.exists()
    assert {process["pid"] for process in json.loads(checkout.home.state.read_text())["processes"].values()} == {None}
