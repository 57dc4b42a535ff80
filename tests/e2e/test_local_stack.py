"""The two commands of the README, `make run` and `make demo`, and what a person expects of them the day after."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dev.demo import QUESTION
from dev.home import ROOT
from tests.support.rest import Rest
from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack that may be stopped."""
    with running_stack() as started:
        yield started


def _demo(stack: Stack) -> str:
    environment = {**os.environ, "PARLEY_DEV_DIR": str(stack.folder)}
    done = subprocess.run(
        [sys.executable, "-m", "dev", "demo"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo_ends_with_an_answer_that_cites_the_documentation(own_stack: Stack) -> None:
    printed = _demo(own_stack)
    assert QUESTION in printed
    assert "[1] " in printed
    assert ".md" in printed.rpartition("[1] ")[2]


def test_demo_can_be_repeated(own_stack: Stack) -> None:
    _demo(own_stack)
    assert "knowledge base 'Parley docs' is there" in _demo(own_stack)


def test_stack_started_again_keeps_data_and_credentials(own_stack: Stack) -> None:
    with Rest(own_stack.url, own_stack.api_key) as rest:
        conversation = rest.post("/api/v1/conversations", {"title": "Kept"})
    own_stack.stop()
    own_stack.start()
    with Rest(own_stack.url, own_stack.api_key) as rest:
        assert rest.get(f"/api/v1/conversations/{conversation['id']}")["title"] == "Kept"


def test_first_user_can_sign_in(own_stack: Stack) -> None:
    with Rest(own_stack.url) as rest:
        login = rest.post("/api/v1/auth/login", {"email": own_stack.email, "password": own_stack.password})
    assert login["tokens"]["access_token"]


def test_secrets_of_the_stack_can_be_read_by_their_owner_only(own_stack: Stack) -> None:
    files = [own_stack.folder / "credentials.env", own_stack.folder / "bootstrap.env"]
    files += [*(own_stack.folder / "secrets").iterdir(), own_stack.folder / "postgres" / "password"]
    files += [own_stack.folder / "valkey" / "password", own_stack.folder / "state.json"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
