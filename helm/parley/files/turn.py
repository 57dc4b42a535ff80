# noqa: INP001 - a script in a ConfigMap, part of no package
"""Asks one question over REST as a client would, and reads the streamed answer: what `helm test` runs.

From the standard library alone. Exits with 0 when the answer was streamed to its end as it is stored; the conversation
is deleted again.
"""

import http.client
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

READY_S_MAX = 120.0
"""Right after an upgrade the first pods may still be on their way."""
ANSWER_S_MAX = 60.0
"""For the head of an answer, and between two pieces of it."""
_OK = 200
_ERROR = 400

Json = dict[str, Any]  # JSON is what the server says it is


def main() -> int:
    """Run the test; returns the exit status."""
    client = Client(os.environ["PARLEY_URL"], os.environ["PARLEY_API_KEY"])
    if not client.gets_ready():
        return _fail(f"{client.url}/readyz does not say that every service is connected")
    conversation = json.loads(client.call("POST", "/api/v1/conversations", {"model": os.environ["PARLEY_MODEL"]}))["id"]
    try:
        return _judge(*client.ask(conversation, "Does the installation answer?"))
    finally:
        client.call("DELETE", f"/api/v1/conversations/{conversation}")


class Client:
    """Speaks REST with an API key.

    Args:
        url: `http://host:port`.
        api_key: of a user.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url
        self._host = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {api_key}"}

    def gets_ready(self) -> bool:
        """Whether the edge is connected to every service, now or in a while."""
        deadline = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline:
            try:
                if self._send("GET", "/readyz").status == _OK:
                    return True
            except (OSError, http.client.HTTPException):
                pass  # no pod of the edge is there yet
            time.sleep(1.0)
        return False

    def call(self, verb: str, path: str, body: Json | None = None) -> bytes:
        """One request; ends the program with the server's words where it is refused."""
        return self._answered(verb, path, body).read()

    def ask(self, conversation: str, text: str) -> tuple[str, Json]:
        """Ask a question; gives the text as it was streamed, and the event that ended the turn."""
        streamed = ""
        answer = self._answered(
            "POST", f"/api/v1/conversations/{conversation}/turns", {"new": {"text": text}}, "text/event-stream"
        )
        for kind, data in events(line.decode("utf-8") for line in answer):
            if kind == "text_delta":
                streamed += data[kind]["text"]
            elif kind == "turn_finished":
                return streamed, data[kind]
        return streamed, {}

    def _answered(
        self, verb: str, path: str, body: Json | None, accept: str = "application/json"
    ) -> http.client.HTTPResponse:
        answer = self._send(verb, path, body, {"Accept": accept})
        if answer.status >= _ERROR:
            sys.exit(f"{verb} {path} answered {answer.status}: {answer.read(2000).decode('utf-8', 'replace')}")
        return answer

    def _send(
        self, verb: str, path: str, body: Json | None = None, headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        sent = self._headers | dict(headers or {})
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            sent |= {"Content-Type": "application/json", "Idempotency-Key": os.urandom(16).hex()}
        connection = http.client.HTTPConnection(self._host, timeout=ANSWER_S_MAX)
        connection.request(verb, path, content, sent)
        return connection.getresponse()


def events(lines: Iterable[str]) -> Iterator[tuple[str, Json]]:
    """The events of a `text/event-stream`, by kind."""
    kind, data = "message", ""
    for line in lines:
        name, _, value = line.rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data += value
        elif not name and not value:
            if data:
                yield kind, json.loads(data)
            kind, data = "message", ""


def _judge(streamed: str, finished: Json) -> int:
    if not finished:
        return _fail("the stream ended before the turn did")
    if finished["state"] != "completed":
        return _fail(f"the turn {finished['state']}: {finished}")
    message = finished["message"]
    stored = "".join(part.get("text", {}).get("text", "") for part in message.get("parts", []))
    if not stored:
        return _fail("the answer has no text")
    if streamed not in ("", stored):  # an answer that was there before the stream began comes as a snapshot
        return _fail(f"streamed {streamed!r}, but stored {stored!r}")
    sys.stdout.write(f"{message.get('model')} answered {len(stored)} characters\n")
    return 0


def _fail(message: str) -> int:
    sys.stderr.write(message + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
