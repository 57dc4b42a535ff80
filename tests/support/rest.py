"""A REST client for tests: what a browser, curl or a phone would send, and a reader of event streams."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx

from tests.support.positions import Seen

TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event of a stream; `data` is its decoded JSON."""

    id: str
    event: str
    # Any: JSON of whatever the contract says.
    data: Any


@dataclass(slots=True)
class Watcher:
    """What a client of a turn holds: it checks each event against the promises of the contract.

    Attributes:
        text: the answer so far.
        sequence: the last sequence seen.
        citations: citations so far.
        message: the stored answer, once the turn has finished.
    """

    text: str = ""
    sequence: int = 0
    citations: list[Mapping[str, Any]] = field(default_factory=list)
    message: Mapping[str, Any] | None = None
    kinds: list[str] = field(default_factory=list)

    def see(self, event: ServerSentEvent) -> None:
        """Takes the next event in.

        Raises:
            AssertionError: a sequence is missing or repeated, or a piece of text does not continue the text so far.
            StreamBrokenError: the event is the stream's own problem.
        """
        if event.event == "error":
            raise StreamBrokenError(event.data)
        kind, payload = event.event, event.data[event.event]
        self.kinds.append(kind)
        sequence = int(event.id)
        assert event.data["sequence"] == sequence
        if kind == "snapshot":
            assert sequence > self.sequence
            self.text = text_of(payload["message"])
        else:
            assert sequence == self.sequence + 1, f"after {self.sequence} came {sequence}"
        self.sequence = sequence
        if kind == "text_delta":
            assert payload.get("offset", 0) == len(self.text)
            self.text += payload["text"]
        elif kind == "citation_added":
            self.citations.append(payload["citation"])
        elif kind == "attempt_started":
            self.text = self.text[: payload.get("resume_offset", 0)]
        elif kind == "turn_finished":
            self.message = payload["message"]


class StreamBrokenError(Exception):
    """The stream ended with the problem of its server, as an `error` event; a client comes back for the rest."""


class Rest:
    """A client with one credential; every method returns the decoded body of a success.

    Replicas answer it where there are some: it keeps what it has seen.
    """

    def __init__(self, url: str, credential: str | None = None) -> None:
        headers = {"authorization": f"Bearer {credential}"} if credential else {}
        self.seen = Seen()
        self.http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, event_hooks=self.seen.hooks())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def get(self, path: str, **params: str | int) -> Any:
        """The resource at `path`."""
        return _body(self.http.get(path, params=params))

    def post(self, path: str, body: Mapping[str, Any], **headers: str) -> Any:
        """What the server made of `body`."""
        return _body(self.http.post(path, json=dict(body), headers=headers))

    def delete(self, path: str) -> None:
        """Deletes what is at `path`."""
        _body(self.http.delete(path))

    def upload(self, knowledge_base_id: str, name: str, content: bytes) -> Any:
        """The document that the server made of `content`."""
        path = f"/api/v1/knowledge_bases/{knowledge_base_id}/documents"
        return _body(self.http.post(path, files={"file": (name, content)}))

    def ready(self, document_id: str) -> Any:
        """The document, once it is searchable or has failed: the server's own event stream tells when."""
        document = None
        with self.events("GET", f"/api/v1/documents/{document_id}:watch") as events:
            for event in events:
                document = event.data["document"]
        assert document is not None
        return document

    @contextmanager
    def events(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **headers: str
    ) -> Iterator[Iterator[ServerSentEvent]]:
        """The event stream at `path`."""
        accept = {"accept": "text/event-stream", **headers}
        with self.http.stream(method, path, json=body, headers=accept) as response:
            if response.is_error:
                response.read()
            response.raise_for_status()
            yield parse(response.iter_lines())

    def ask(self, conversation_id: str, question: str, **settings: str) -> Watcher:
        """The whole answer to a question, watched to its end."""
        watcher = Watcher()
        body = {"new": {"text": question}, **settings}
        with self.events("POST", f"/api/v1/conversations/{conversation_id}/turns", body) as events:
            for event in events:
                watcher.see(event)
        return watcher


class Parser:
    """Makes events of the lines of a stream (WHATWG HTML, server-sent events); comments are dropped."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def take(self, line: str) -> Iterator[ServerSentEvent]:
        """The event that `line` completes, if it does."""
        fields = self._fields
        if line == "":
            if "data" in fields:
                yield ServerSentEvent(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
            fields.clear()
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


def parse(lines: Iterator[str]) -> Iterator[ServerSentEvent]:
    """The events in the lines of a stream."""
    parser = Parser()
    for line in lines:
        yield from parser.take(line)


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[ServerSentEvent]:
    """As `parse`, for an asynchronous client."""
    parser = Parser()
    async for line in lines:
        for event in parser.take(line):
            yield event


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message's parts."""
    return "".join(part["text"]["text"] for part in message.get("parts", ()) if part["text"].get("text"))


def _body(response: httpx.Response) -> Any:
    assert response.is_success, f"{response.status_code} {response.text}"
    return response.json() if response.content else None
