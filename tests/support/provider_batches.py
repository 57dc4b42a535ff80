"""A server that speaks both vendors' batch endpoints over real HTTP; batches end when the test says so.

The formats are those of the SDKs (openai 3.54, anthropic 2.12). Whatever is no batch is left to the provider double.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from io import BytesIO
from itertools import count
from typing import Final
from urllib.parse import parse_qs

import python_multipart
from python_multipart.multipart import Field, File

from services.mesh.clock import SYSTEM_CLOCK, Clock
from tests.support.asgi import Receive, Scope, Send, body_of, listening
from tests.support.provider_batch_bodies import ERRORS, Kept, Outcome, error_of, lines_of, shown
from tests.support.provider_double import ProviderDouble
from tests.support.provider_parts import Json

PIECE_BYTES: Final = 700
"""Of results at a time, so that lines are cut anywhere."""


class Trouble(StrEnum):
    """What goes wrong with requests; nothing of a submission is kept but of one whose reply is lost."""

    NONE = "none"
    RATE_LIMITED = "429"
    REFUSED = "400"
    KEY_REFUSED = "401"
    SERVER_ERROR = "500"
    HTML = "html"
    LOST_REPLY = "the reply is lost"


@dataclass(slots=True)
class BatchDouble:
    """What the double keeps, and what goes wrong with it.

    Attributes:
        batches: by id, the oldest first.
        files: OpenAI's, by id.
        trouble: meets submissions of batches; files are taken.
        trouble_everywhere: meets every request instead.
        retry_after: the header on errors; empty for none.
        results_cut_at: so many bytes of results come, and then the connection breaks.
        page_max: batches on a page.
        asked: methods and paths of requests.
        calls: answers ordinary requests.
    """

    port: int = 0
    clock: Clock = SYSTEM_CLOCK
    batches: dict[str, Kept] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    trouble: Trouble = Trouble.NONE
    trouble_everywhere: Trouble = Trouble.NONE
    retry_after: dict[str, str] = field(default_factory=dict)
    results_cut_at: int | None = None
    page_max: int = 100
    asked: list[str] = field(default_factory=list)
    calls: ProviderDouble = field(default_factory=ProviderDouble)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def openai_url(self) -> str:
        """What OPENAI_BASE_URL would be."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def anthropic_url(self) -> str:
        """What ANTHROPIC_BASE_URL would be."""
        return f"http://127.0.0.1:{self.port}"

    def finish(
        self, outcomes: Mapping[str, Outcome] | None = None, default: Outcome | None = None, batch_id: str = ""
    ) -> None:
        """All batches that are under way, or the one of this id, come to their end."""
        for kept in self.batches.values():
            if not kept.is_ended and batch_id in {"", kept.id}:
                kept.finish(outcomes or {}, default, self.clock.now())

    def refuse(self, code: str) -> None:
        """OpenAI finds that it runs none of the batches that are under way."""
        for kept in self.batches.values():
            if not kept.is_ended:
                kept.state, kept.refusal, kept.ended_at = "failed", code, self.clock.now()

    def add(self, *names: str, is_openai: bool, created_at: datetime) -> Kept:
        """A batch that somebody else has submitted."""
        kept = Kept(self._new("batch"), is_openai, {name: {"model": "m"} for name in names}, created_at)
        self.batches[kept.id] = kept
        return kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        path, method = scope["path"], scope["method"]
        if "/batches" not in path and "/files" not in path:
            await self.calls(scope, receive, send)
            return
        body = await body_of(receive)
        self.asked.append(f"{method} {path}")
        is_openai = "/messages/" not in path
        headers = {name.decode(): value for name, value in scope["headers"]}
        if "authorization" not in headers and "x-api-key" not in headers:
            await self._refuse("401", send, is_openai=is_openai)
            return
        is_submission = method == "POST" and path.endswith("/batches")
        trouble = self.trouble_everywhere
        if is_submission and trouble is Trouble.NONE:
            trouble = self.trouble
        if trouble.value in ERRORS:
            await self._refuse(trouble.value, send, is_openai=is_openai)
        elif trouble is Trouble.HTML:
            await _say(send, 200, b"<html>a proxy is in the way</html>", "text/html")
        else:
            reply = self._reply(method, path, parse_qs(scope["query_string"].decode()), headers, body)
            await self._answer(reply, send, is_openai=is_openai, is_lost=trouble is Trouble.LOST_REPLY)

    async def _answer(self, reply: Json | bytes | str, send: Send, *, is_openai: bool, is_lost: bool) -> None:
        if isinstance(reply, str):
            await self._refuse(reply, send, is_openai=is_openai)
        elif isinstance(reply, bytes):
            await self._stream(reply, send)
        elif is_lost:
            await _begin(send, 200, {"content-type": "application/json", "content-length": "1000"})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            raise ConnectionResetError
        else:
            await _say(send, 200, json.dumps(reply).encode(), "application/json")

    async def _stream(self, content: bytes, send: Send) -> None:
        await _begin(send, 200, {"content-type": "application/binary", "content-length": str(len(content))})
        sent = content if self.results_cut_at is None else content[: self.results_cut_at]
        size = max(PIECE_BYTES, len(sent) // 100)
        for start in range(0, len(sent), size):
            piece = sent[start : start + size]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self.results_cut_at is not None:
            raise ConnectionResetError
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _reply(
        self, method: str, path: str, query: dict[str, list[str]], headers: dict[str, bytes], body: bytes
    ) -> Json | bytes | str:
        """What is answered: JSON, the content of a file, or the name of an error."""
        is_openai = "/messages/" not in path
        steps = path.split("/batches" if "/batches" in path else "/files", 1)[1].strip("/").split("/")
        if "/files" in path:
            return self._file(method, steps, headers, body)
        match method, steps:
            case "POST", [""]:
                kept = self._openai_batch(json.loads(body)) if is_openai else self._anthropic_batch(body)
                return kept if isinstance(kept, str) else shown(kept)
            case "GET", [""]:
                return self._page(query, is_openai=is_openai)
        found = self.batches.get(steps[0])
        if found is None or found.is_openai != is_openai:
            return "404"
        return self._about(found, method, steps[1:])

    def _about(self, kept: Kept, method: str, steps: list[str]) -> Json | bytes | str:
        match method, steps:
            case "GET", ["results"] if kept.is_ended and not kept.is_archived:
                return lines_of(kept)
            case "POST", ["cancel"]:
                if kept.is_ended:
                    return "409"
                kept.state = "cancelling"
            case "DELETE", []:
                if not kept.is_ended:
                    return "400"
                del self.batches[kept.id]
                return {"id": kept.id, "type": "message_batch_deleted"}
            case "GET", []:
                pass
            case _:
                return "404"
        return shown(kept)

    def _file(self, method: str, steps: list[str], headers: dict[str, bytes], body: bytes) -> Json | bytes | str:
        if method == "POST":
            file_id = self._new("file")
            self.files[file_id] = _uploaded(headers, body)
            return {"id": file_id, "object": "file", "purpose": "batch"}
        kind, _, of = steps[0].partition("_of_")
        if method == "GET" and of in self.batches:
            return lines_of(self.batches[of], is_error=kind == "errors")
        if method == "DELETE" and (steps[0] in self.files or of in self.batches):
            self.files.pop(steps[0], None)
            return {"id": steps[0], "deleted": True}
        return "404"

    def _openai_batch(self, wanted: Json) -> Kept | str:
        content = self.files.get(wanted["input_file_id"])
        if content is None or wanted["endpoint"] != "/v1/chat/completions" or wanted["completion_window"] != "24h":
            return "400"
        lines = [json.loads(line) for line in content.splitlines()]
        requests = {line["custom_id"]: line["body"] for line in lines}
        kept = Kept(self._new("batch"), is_openai=True, requests=requests, created_at=self.clock.now())
        kept.metadata, kept.file_id, kept.size_bytes = wanted["metadata"], wanted["input_file_id"], len(content)
        return self.batches.setdefault(kept.id, kept)

    def _anthropic_batch(self, body: bytes) -> Kept:
        requests = {request["custom_id"]: request["params"] for request in json.loads(body)["requests"]}
        kept = Kept(self._new("msgbatch"), is_openai=False, requests=requests, created_at=self.clock.now())
        kept.size_bytes = len(body)
        return self.batches.setdefault(kept.id, kept)

    def _page(self, query: dict[str, list[str]], *, is_openai: bool) -> Json:
        known = [kept for kept in reversed(self.batches.values()) if kept.is_openai == is_openai]
        after = query.get("after", query.get("after_id", [""]))[0]
        start = next((number + 1 for number, kept in enumerate(known) if kept.id == after), 0)
        found = known[start : start + min(self.page_max, int(query["limit"][0]))]
        has_more = start + len(found) < len(known)
        return {"object": "list", "data": [shown(kept) for kept in found], "has_more": has_more}

    def _new(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers)}"

    async def _refuse(self, name: str, send: Send, *, is_openai: bool) -> None:
        status, error = error_of(name, is_openai=is_openai)
        await _say(send, status, json.dumps(error).encode(), "application/json", self.retry_after)


def _uploaded(headers: Mapping[str, bytes], body: bytes) -> bytes:
    """The file in a form; what the batch endpoint asks of the other fields is checked."""
    fields: dict[bytes | None, bytes | None] = {}
    files: list[bytes] = []

    def take_field(part: Field) -> None:
        fields[part.field_name] = part.value

    def take_file(part: File) -> None:
        part.file_object.seek(0)
        files.append(part.file_object.read())

    python_multipart.parse_form({"Content-Type": headers["content-type"]}, BytesIO(body), take_field, take_file)
    assert fields[b"purpose"] == b"batch"
    assert fields[b"expires_after[anchor]"] == b"created_at"
    return files[0]


@asynccontextmanager
async def running_batches(clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[BatchDouble]:
    """A double on a free port while the body runs."""
    double = BatchDouble(clock=clock)
    async with listening(double, "batch double") as double.port:
        yield double


async def _begin(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _say(send: Send, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
    await _begin(send, status, {"content-type": kind, **(headers or {})})
    await send({"type": "http.response.body", "body": body, "more_body": False})
