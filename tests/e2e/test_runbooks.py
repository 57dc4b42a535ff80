"""What runbooks tell to type, typed at a running stack. What is typed at a cluster is tried by `make test-deploy`."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from redis import Redis

from tests.support.rest import Rest
from tests.support.runbooks import Kind, Written, of
from tests.support.stack import Stack

LIMIT_S: Final = 60.0
PROCESS: Final = "conversation-worker"
"""Whose environment commands are run in: it has both stores."""
_CLIENT: Final = "valkey-cli -u URL "
"""No package of ours has this client; what it is told to send is sent by another."""
_LOGS: Final = "kubectl -n parley logs "
_ELSEWHERE: Final = ("kubectl ", "helm ", "make ", "promtool ", "cmctl ", _CLIENT)
"""The last but one is cert-manager's own, and needs one that runs: nobody tries it."""

here = [each for each in of(Kind.SHELL) if not each.text.startswith(_ELSEWHERE)]
read = [each for each in of(Kind.SHELL) if each.text.startswith(_LOGS)]
sent = [each for each in of(Kind.SHELL) if each.text.startswith(_CLIENT)]


@pytest.fixture(scope="module")
def environment(stack: Stack) -> Mapping[str, str]:
    """Of the process, as somebody has it who runs a command in its pod."""
    printed = Path(f"/proc/{stack.pid(PROCESS)}/environ").read_text(encoding="utf-8")
    return dict(each.split("=", 1) for each in printed.split("\0") if "=" in each)


@pytest.mark.parametrize("each", of(Kind.SQL), ids=lambda each: each.page)
async def test_statement_runs(each: Written, environment: Mapping[str, str]) -> None:
    url = re.sub(r"^postgresql\+\w+:", "postgresql:", environment["PARLEY_DATABASE_URL"])
    connection = await asyncpg.connect(url, timeout=LIMIT_S)
    try:
        await connection.fetch(each.text.rstrip(";"), timeout=LIMIT_S)
    finally:
        await connection.close(timeout=LIMIT_S)


@pytest.mark.parametrize("each", here, ids=lambda each: f"{each.page}: {each.text}")
def test_command_succeeds(each: Written, stack: Stack, environment: Mapping[str, str]) -> None:
    debug = f"127.0.0.1:{stack.ports(PROCESS)['debug']}"
    places = {
        "https://HOST": stack.url,
        "INSTANCE": debug,
        "/PID/": f"/{stack.pid(PROCESS)}/",
    }
    text = each.text
    for place, value in places.items():
        text = text.replace(place, value)
    words = shlex.split(text)
    if words[0] == "python":
        words[0] = sys.executable
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("each", sent, ids=lambda each: each.page)
def test_valkey_takes_the_command(each: Written, environment: Mapping[str, str]) -> None:
    with Redis.from_url(environment["PARLEY_VALKEY_URL"], socket_timeout=LIMIT_S) as valkey:
        assert valkey.execute_command(each.text.removeprefix(_CLIENT))


@pytest.mark.parametrize("each", read, ids=lambda each: each.page)
def test_what_is_made_of_logs_leaves_what_is_no_mere_information(each: Written, stack: Stack) -> None:
    # A cluster would collect them from its pods; the lines are the same.
    _, pipe, rest = each.text.partition(" | ")
    lines = "\n".join(stack.log(name) for name in stack.names)
    assert pipe
    done = subprocess.run(["bash", "-c", rest], input=lines, capture_output=True, text=True, check=False)
    assert "info" in lines
    assert '"info"' not in done.stdout


def test_everything_that_is_read_over_rest_is_there(stack: Stack) -> None:
    with Rest(stack.url, stack.api_key) as rest:
        for each in of(Kind.REQUEST):
            verb, _, path = each.text.partition(" ")
            if verb == "GET":
                assert rest.get(path) is not None, each
