import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dev.client import Client, Event, events
from dev.errors import DevError
from dev.ports import free_ports


class _Answer:
    """What the server says to every request, and what it was asked."""

    def __init__(self, status: int, content_type: str, body: bytes) -> None:
        self.status, self.content_type, self.body = status, content_type, body
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []


@contextmanager
def _serving(answer: _Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer.requests.append((self.command, self.path, headers, body))
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_GET  # noqa: N815 - the base class calls methods by this name

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_events_of_a_stream_are_told_apart() -> None:
    lines = ": heartbeat\n\nid: 1\nevent: text_delta\ndata: {\ndata: }\n\nid: 2\nevent: turn_finished\ndata: {}\n\n"
    found = list(events(iter(lines.splitlines(keepends=True))))
    assert found == [Event("1", "text_delta", {}), Event("2", "turn_finished", {})]


def test_event_that_was_cut_off_is_none() -> None:
    assert list(events(iter(["id: 1\n", 'data: {"a": 1}\n']))) == []


def test_request_bears_the_key_and_can_be_repeated() -> None:
    answer = _Answer(201, "application/json", b'{"id": "kb_1"}')
    with _serving(answer) as url:
        assert Client(url, "secret").post("/api/v1/knowledge_bases", {"display_name": "x"}) == {"id": "kb_1"}
    _, path, headers, body = answer.requests[0]
    assert (path, headers["authorization"]) == ("/api/v1/knowledge_bases", "Bearer secret")
    assert headers["idempotency-key"]
    assert json.loads(body) == {"display_name": "x"}


def test_query_is_encoded() -> None:
    answer = _Answer(200, "application/json", b"{}")
    with _serving(answer) as url:
        Client(url, "secret").get("/api/v1/knowledge_bases", page_token="a&b")
    assert answer.requests[0][1] == "/api/v1/knowledge_bases?page_token=a%26b"


def test_upload_is_a_multipart_form_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_bytes(b"# Notes\n")
    answer = _Answer(201, "application/json", b"{}")
    with _serving(answer) as url:
        Client(url, "secret").upload("/documents", file)
    _, _, headers, body = answer.requests[0]
    boundary = headers["content-type"].removeprefix("multipart/form-data; boundary=").encode()
    assert body.startswith(b"--" + boundary + b"\r\n")
    assert b'name="file"; filename="notes.md"\r\n\r\n# Notes\n\r\n--' + boundary + b"--" in body


def test_problem_is_shown_with_its_reason() -> None:
    body = json.dumps({"title": "Too large", "reason": "DOCUMENT_TOO_LARGE", "detail": "at most 25 MiB"}).encode()
    with (
        _serving(_Answer(413, "application/problem+json", body)) as url,
        pytest.raises(DevError, match="GET /x answered 413: DOCUMENT_TOO_LARGE, Too large, at most 25 MiB"),
    ):
        Client(url, "secret").get("/x")


def test_answer_that_is_no_problem_document_is_shown_as_it_is() -> None:
    with _serving(_Answer(502, "text/html", b"<h1>Bad gateway")) as url, pytest.raises(DevError, match="502: <h1>Bad"):
        Client(url, "secret").get("/x")


def test_server_that_is_not_there_is_answered_with_what_to_do() -> None:
    with pytest.raises(DevError, match="start the stack with `make run` first"):
        Client(f"http://127.0.0.1:{next(free_ports(1))}", "secret").get("/x")
