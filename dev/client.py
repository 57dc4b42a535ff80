"""A small client of Parley's REST interface, from the standard library alone."""

import http.client
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from dev.errors import DevError

_ANSWER_S_MAX = 120.0
"""Between two pieces of an answer; the server sends a heartbeat long before."""
_ERROR_STATUS = 400

Json = dict[str, Any]  # JSON is what the server says it is; its shape is the contract's, not this module's.


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    id: str
    kind: str
    data: Json


class Client:
    """Calls a server with an API key.

    Args:
        url: `http://host:port`.
        api_key: of a user.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url
        self._host = urlsplit(url).netloc
        self._authorization = {"Authorization": f"Bearer {api_key}"}

    def get(self, path: str, **query: str) -> Json:
        """Read a resource."""
        with self._answer("GET", f"{path}?{urlencode(query)}" if query else path) as answer:
            return _object(answer.read())

    def post(self, path: str, body: Json) -> Json:
        """Create something, once."""
        with self._answer("POST", path, *_json(body)) as answer:
            return _object(answer.read())

    def upload(self, path: str, file: Path) -> Json:
        """Send a file as the part `file` of a multipart form."""
        boundary = secrets.token_hex(16)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n\r\n'
        content = head.encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode("ascii")
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        with self._answer("POST", path, content, headers) as answer:
            return _object(answer.read())

    def stream(self, path: str, body: Json) -> Iterator[Event]:
        """Create something and follow its events to their end."""
        content, headers = _json(body)
        with self._answer("POST", path, content, headers | {"Accept": "text/event-stream"}) as answer:
            yield from events(line.decode("utf-8") for line in answer)

    @contextmanager
    def _answer(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._host, timeout=_ANSWER_S_MAX)
        try:
            connection.request(method, path, body, self._authorization | dict(headers or {}))
            answer = connection.getresponse()
            if answer.status >= _ERROR_STATUS:
                raise DevError(f"{method} {path} answered {answer.status}: {_problem(answer.read())}")
            yield answer
        except ConnectionRefusedError:
            raise DevError(f"nothing answers at {self._url}: start the stack with `make run` first") from None
        except (OSError, http.client.HTTPException) as failure:
            raise DevError(f"{method} {path} at {self._url} broke off: {failure!r}") from failure
        finally:
            connection.close()


def events(lines: Iterator[str]) -> Iterator[Event]:
    """The events in the lines of a `text/event-stream` (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    identifier, kind, data = "", "message", list[str]()
    for line in lines:
        text = line.rstrip("\r\n")
        if not text:
            if data:
                yield Event(identifier, kind, _object("\n".join(data)))
            kind, data = "message", []
            continue
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            identifier = value


def _json(body: Json) -> tuple[bytes, dict[str, str]]:
    # The key makes a repeat of the same request harmless.
    headers = {"Content-Type": "application/json", "Idempotency-Key": secrets.token_hex(16)}
    return json.dumps(body).encode(), headers


def _object(text: bytes | str) -> Json:
    found = json.loads(text) if text else {}
    assert isinstance(found, dict)
    return found


def _problem(body: bytes) -> str:
    """What an `application/problem+json` tells a person."""
    try:
        problem = _object(body)
    except (ValueError, AssertionError):
        return body[:300].decode("utf-8", "replace")
    words = [str(problem[name]) for name in ("reason", "title", "detail") if problem.get(name)]
    return ", ".join(words) or "no reason given"
