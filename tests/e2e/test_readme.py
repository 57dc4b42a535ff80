"""The examples of README.md, run as printed, give one and the same answer."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from dev.tools.tidiness import ROOT
from tests.support.readme import examples
from tests.support.rest import Rest, text_of
from tests.support.stack import Stack

LIMIT_S: Final = 60.0


@pytest.fixture(scope="module")
def checkout(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the paths of the examples lead to the running stack."""
    folder = tmp_path_factory.mktemp("read me")
    (folder / ".dev").symlink_to(stack.folder)
    return folder


@pytest.fixture(scope="module")
def environment(stack: Stack, checkout: Path) -> Mapping[str, str]:
    with Rest(stack.url, stack.api_key) as rest:
        docs = rest.post("/api/v1/knowledge_bases", {"display_name": "Parley docs"})["id"]
        page = ROOT / "docs" / "architecture.md"
        assert rest.ready(rest.upload(docs, page.name, page.read_bytes())["id"])["state"] == "ready"
    script = examples()["environment"] + "env -0\n"
    printed = bash(script, checkout, dict(os.environ))
    known = dict(line.split("=", 1) for line in printed.split("\0") if "=" in line)
    assert known["PARLEY_URL"] == stack.url
    assert known["PARLEY_KNOWLEDGE_BASE"].startswith("kb_")
    # The examples take the first knowledge base there is; beside other tests that need not be the one made here.
    return {**known, "PARLEY_KNOWLEDGE_BASE": docs}


def test_every_example_gives_the_same_answer(stack: Stack, checkout: Path, environment: Mapping[str, str]) -> None:
    streamed = bash(examples()["curl"], checkout, environment)
    printed = {name: python(examples()[name], checkout, environment) for name in ("openai", "grpc")}
    with Rest(stack.url, stack.api_key) as rest:
        conversation = rest.get("/api/v1/conversations", page_size="1")["conversations"][0]
        stored = rest.get(f"/api/v1/messages/{conversation['leaf_message_id']}")
    assert stored["citations"]
    assert set(printed.values()) == {text_of(stored)}
    last = json.loads(streamed.rpartition("data: ")[2])
    assert text_of(last["turn_finished"]["message"]) == text_of(stored)


def bash(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    return run(["bash", "-euc", script], folder, environment)


def python(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    return run([sys.executable, "-c", script], folder, environment)


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
