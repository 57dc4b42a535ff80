"""A stack is put back to an instant: what was there is there, and nothing that came after it, in no cache either."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from dev.home import ROOT
from dev.postgres import Cluster
from tests.support.rest import Rest
from tests.support.stack import Stack, running_stack
from tests.support.valkey import running_valkey
from tests.support.waiting import wait_until

Json = Mapping[str, Any]  # Any: JSON of whatever the contract says.

TOLD: Final = "The lighthouse of Skerry was built in 1843 by the engineer Alan Stevenson."
ROUTE: Final = """\
[[route]]
name = "recalled"
targets = [{ model = "extractive" }]
cache = { exact_s = 3600 }
"""
ASKED: Final = "Who built the lighthouse of Skerry?"
AGAIN: Final = "When was it built?"
ROWS: Final = "SELECT {} FROM {} ORDER BY 1"
KEPT: Final = {"conversation.messages": "id", "conversation.turns": "id, state", "retrieval.documents": "id, state"}
COMMAND_S_MAX: Final = 200.0


def dev(folder: Path, *arguments: str) -> str:
    """What a command of the stack printed."""
    line = [sys.executable, "-m", "dev", *arguments]
    environment = {**os.environ, "PARLEY_DEV_DIR": str(folder)}
    done = subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def archived(folder: Path) -> Iterator[None]:
    """The log of the stack is kept meanwhile."""
    environment = {**os.environ, "PARLEY_DEV_DIR": str(folder)}
    with subprocess.Popen([sys.executable, "-m", "dev", "archive"], cwd=ROOT, env=environment) as running:
        try:
            wait_until(lambda: list((folder / "archive" / "wal").glob("*.partial")), within_s=COMMAND_S_MAX)
            yield
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(COMMAND_S_MAX)
    assert running.returncode == 0


def rows(stack: Stack) -> dict[str, str]:
    """What PostgreSQL holds of turns and documents."""
    prepared, port = Cluster(stack.folder / "postgres").prepare(), stack.ports("postgres")["postgres"]
    return {
        table: prepared.run(ROWS.format(columns, table), port=port, database="parley")
        for table, columns in KEPT.items()
    }


def recalled(rest: Rest) -> str | None:
    """How the cache took part in the answer to the same request, and whether it did."""
    prompt = {"messages": [{"role": "user", "text": ASKED}], "passages": [{"title": "Skerry", "text": TOLD}]}
    answer: Json = rest.post("/api/v1/generations", {"model": "recalled", "prompt": prompt})
    return (answer.get("cache") or {}).get("kind")


@dataclass(frozen=True, slots=True)
class Past:
    """What a stack held at an instant; what it was asked afterwards is in `lost` and in Valkey."""

    instant: datetime
    rows: Mapping[str, str]
    document: str
    conversation: str
    messages: Json
    answer: str
    lost: str


def lived(stack: Stack) -> Past:
    """A stack that answers, is backed up, answers on, and loses a document after the instant."""
    with archived(stack.folder), Rest(stack.url, stack.api_key) as rest:
        base = rest.post("/api/v1/knowledge_bases", {"display_name": "Lighthouses"})["id"]
        document = rest.upload(base, "skerry.txt", TOLD.encode())["id"]
        assert rest.ready(document)["state"] == "ready"
        begun = rest.post("/api/v1/conversations", {"knowledge_base_id": base})["id"]
        rest.ask(begun, ASKED)
        dev(stack.folder, "backup")
        answer = rest.ask(begun, AGAIN).text
        before, messages = rows(stack), rest.get(f"/api/v1/conversations/{begun}/messages")

        instant = datetime.now(UTC)

        lost = rest.post("/api/v1/conversations", {"knowledge_base_id": base})["id"]
        rest.ask(lost, ASKED)
        rest.ask(begun, "And where is it?")
        rest.delete(f"/api/v1/documents/{document}")
        assert recalled(rest) is None
        wait_until(lambda: recalled(rest) == "exact", within_s=COMMAND_S_MAX)
        assert rows(stack) != before
        stack.stop()  # which waits until the archive has everything
    return Past(instant, before, document, begun, messages, answer, lost)


@pytest.mark.timeout(900)
def test_stack_goes_back_to_an_instant_and_forgets_what_came_after(tmp_path: Path) -> None:
    routes = tmp_path / "providers.toml"
    routes.write_text(ROUTE)
    with running_valkey(durable=True) as valkey:
        url = valkey.store.url(valkey.port)
        environment = {"PARLEY_VALKEY_URL": url, "PARLEY_INFERENCE_PROVIDERS_FILE": str(routes)}
        environment["PARLEY_DEV_SHARDS"] = "1"  # the commands keep one server, also where other tests have two
        with running_stack(environment) as stack:
            past = lived(stack)
            into = stack.folder.with_name("restored")
            dev(stack.folder, "restore", "--to", past.instant.isoformat(), "--into", str(into))
            restored = Stack(into, environment)
            try:
                restored.start()
                assert rows(restored) == past.rows
                with Rest(restored.url, restored.api_key) as rest:
                    remembers_the_past_alone(rest, past)
            finally:
                restored.stop()
            assert not (into / "restored").exists()


def remembers_the_past_alone(rest: Rest, past: Past) -> None:
    """Holds the restored stack to it; Valkey is the one that served the future."""
    assert rest.get(f"/api/v1/conversations/{past.conversation}/messages") == past.messages
    assert recalled(rest) is None
    with pytest.raises(AssertionError, match="404"):
        rest.get(f"/api/v1/conversations/{past.lost}")
    assert rest.get(f"/api/v1/documents/{past.document}")["state"] == "ready"
    again = rest.ask(past.conversation, AGAIN)
    assert again.text == past.answer
    assert {each["document_id"] for each in again.citations} == {past.document}
