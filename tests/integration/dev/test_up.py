"""`python -m dev` as a person types it, in the cases that end before anything is started."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dev.home import ROOT, Home
from dev.ports import LOOPBACK, free_ports


def _dev(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    line = [sys.executable, "-m", "dev", command]
    return subprocess.run(
        line, cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def free_port() -> int:
    return next(free_ports(os.getpid() + 2))


def test_port_in_use_is_told_with_a_free_one(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        done = _dev("up", PARLEY_DEV_DIR=str(tmp_path), PARLEY_DEV_PORT=str(port))
    assert done.returncode == 1
    assert f"error: port {port} on 127.0.0.1 is in use by another program" in done.stderr
    assert "PARLEY_DEV_PORT=" in done.stderr


@pytest.mark.parametrize("port", ["http", "-1", "65536", "8080.5"])
def test_port_that_is_none_is_refused(tmp_path: Path, port: str) -> None:
    done = _dev("up", PARLEY_DEV_DIR=str(tmp_path), PARLEY_DEV_PORT=port)
    assert (done.returncode, "is no port" in done.stderr) == (1, True)


def test_folder_of_a_running_stack_is_refused(tmp_path: Path) -> None:
    Home(tmp_path).lock()
    done = _dev("up", PARLEY_DEV_DIR=str(tmp_path), PARLEY_DEV_PORT="0")
    assert (done.returncode, f"(process {os.getpid()})" in done.stderr) == (1, True)


@pytest.mark.parametrize("name", ["PARLEY_DATABASE_URL", "PARLEY_VALKEY_URL"])
def test_own_server_that_does_not_answer_is_named(tmp_path: Path, name: str, free_port: int) -> None:
    given = {name: f"scheme://user:secret@{LOOPBACK}:{free_port}/0"}
    done = _dev("up", PARLEY_DEV_DIR=str(tmp_path), PARLEY_DEV_PORT="0", **given)
    assert done.returncode == 1
    assert f"{name} names {LOOPBACK}:{free_port}, where nothing answers" in done.stderr
    assert "secret" not in done.stderr


def test_own_server_without_an_address_is_refused(tmp_path: Path) -> None:
    done = _dev("up", PARLEY_DEV_DIR=str(tmp_path), PARLEY_DEV_PORT="0", PARLEY_DATABASE_URL="mydatabase")
    assert (done.returncode, "expected scheme://" in done.stderr) == (1, True)


def test_demo_without_a_stack_says_what_to_do(tmp_path: Path) -> None:
    done = _dev("demo", PARLEY_DEV_DIR=str(tmp_path))
    assert (done.returncode, "start one with `make run` first" in done.stderr) == (1, True)


def test_demo_after_the_stack_has_stopped_says_what_to_do(tmp_path: Path, free_port: int) -> None:
    home = Home(tmp_path)
    home.write_credentials({"PARLEY_URL": f"http://{LOOPBACK}:{free_port}", "PARLEY_API_KEY": "k"})
    done = _dev("demo", PARLEY_DEV_DIR=str(tmp_path))
    assert (done.returncode, "nothing answers at" in done.stderr) == (1, True)
