"""`python -m dev demo`: the main job of Parley, done over HTTP against the running stack."""

import sys
import textwrap
import time
from pathlib import Path

from dev.client import Client, Json
from dev.errors import DevError
from dev.home import ROOT, Home, shell_values

KNOWLEDGE_BASE = "Parley docs"
QUESTION = "What happens when a worker dies in the middle of an answer?"

_READY_S_MAX = 300.0
_POLL_S = 0.2
_WIDTH = 100
_QUOTE_MAX = 300


def demo(question: str = QUESTION) -> None:
    """Load the project's documentation into a knowledge base and ask it a question.

    Raises:
        DevError: no stack runs, a document could not be read, or the answer failed or cites nothing.
    """
    credentials = Home.from_environment().credentials
    known = shell_values(credentials)
    if not {"PARLEY_URL", "PARLEY_API_KEY"} <= known.keys():
        raise DevError(f"{credentials} names no running stack with an API key: start one with `make run` first")
    client = Client(known["PARLEY_URL"], known["PARLEY_API_KEY"])
    knowledge_base = _knowledge_base(client)
    _load(client, knowledge_base, [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    _ask(client, knowledge_base, question)


def _knowledge_base(client: Client) -> str:
    token = ""
    while True:
        page = client.get("/api/v1/knowledge_bases", page_size="200", page_token=token)
        for found in page.get("knowledge_bases", []):
            if found["display_name"] == KNOWLEDGE_BASE:
                print(f"knowledge base {KNOWLEDGE_BASE!r} is there: {found['id']}")
                return str(found["id"])
        token = page.get("next_page_token", "")
        if not token:
            break
    made = client.post("/api/v1/knowledge_bases", {"display_name": KNOWLEDGE_BASE})
    print(f"made knowledge base {KNOWLEDGE_BASE!r}: {made['id']}")
    return str(made["id"])


def _load(client: Client, knowledge_base: str, files: list[Path]) -> None:
    documents = [client.upload(f"/api/v1/knowledge_bases/{knowledge_base}/documents", file) for file in files]
    print(f"uploaded {len(documents)} documents: {', '.join(file.name for file in files)}")
    deadline = time.monotonic() + _READY_S_MAX
    while True:
        for document in documents:
            if document["state"] == "failed":
                raise DevError(f"{document['display_name']} could not be read: {document['failure']['message']}")
        waiting = [document for document in documents if document["state"] != "ready"]
        _progress(len(documents) - len(waiting), len(documents))
        if not waiting:
            break
        if time.monotonic() > deadline:
            names = ", ".join(document["display_name"] for document in waiting)
            raise DevError(f"not indexed after {_READY_S_MAX:.0f} s: {names}; see the log of retrieval-worker")
        time.sleep(_POLL_S)
        documents = [client.get(f"/api/v1/documents/{document['id']}") for document in documents]
    chunks = sum(document.get("chunk_count", 0) for document in documents)
    print(f"{'' if sys.stdout.isatty() else 'indexed '}{len(documents)} documents, {chunks} passages can be searched")


def _progress(done: int, total: int) -> None:
    """A line that overwrites itself, on a terminal only."""
    if sys.stdout.isatty():
        print(f"\rindexed {done}/{total} ", end="\n" if done == total else "", flush=True)


def _ask(client: Client, knowledge_base: str, question: str) -> None:
    conversation = client.post("/api/v1/conversations", {"knowledge_base_id": knowledge_base})
    print(f"\n> {question}\n")
    begun = time.monotonic()
    first_s: float | None = None
    shown = 0
    finished: Json = {}
    for event in client.stream(f"/api/v1/conversations/{conversation['id']}/turns", {"new": {"text": question}}):
        payload = event.data.get(event.kind, {})
        if event.kind == "text_delta":
            first_s = first_s or time.monotonic() - begun
            shown += _show(payload["text"][max(0, shown - payload.get("offset", 0)) :])
        elif event.kind == "snapshot":
            shown += _show(_text(payload["message"])[shown:])
        elif event.kind == "turn_finished":
            finished = payload
    _close(finished, shown, first_s, time.monotonic() - begun)


def _show(text: str) -> int:
    """Print a piece of the answer as it arrives; returns its length."""
    print(text, end="", flush=True)
    return len(text)


def _close(finished: Json, shown: int, first_s: float | None, whole_s: float) -> None:
    if not finished:
        raise DevError("the stream ended before the turn did; see the logs of edge and conversation")
    message = finished["message"]
    _show(_text(message)[shown:])
    if finished["state"] != "completed":
        raise DevError(f"the turn {finished['state']}: {message.get('error', {}).get('message', 'no reason given')}")
    citations = message.get("citations", [])
    for citation in citations:
        quote = textwrap.shorten(citation["quote"], _QUOTE_MAX, placeholder=" …")
        place = f"{citation['document_name']} {citation.get('locator', '')}".strip()
        print(f"\n[{citation['number']}] {place}")
        print(textwrap.indent(textwrap.fill(f"“{quote}”", _WIDTH - 4), "    "))
    timing = f"first words after {first_s:.2f} s, " if first_s is not None else ""
    print(f"\n{message.get('model', 'an unnamed model')}: {timing}all after {whole_s:.2f} s")
    if not citations:
        raise DevError("the answer cites nothing")


def _text(message: Json) -> str:
    return "".join(part.get("text", {}).get("text", "") for part in message.get("parts", []))
