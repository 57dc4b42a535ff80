"""A server that speaks the wire formats of OpenAI's chat completions and Anthropic's messages, with faults on demand.

The formats are those that the vendors' SDKs (openai 3.54, anthropic 2.12) parse: real HTTP, real server-sent events.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count
from typing import Any, Final

from tests.support import provider_parts
from tests.support.asgi import Receive, Scope, Send, body_of, listening

SECRET_WORDS: Final = "key sk-upstream-secret of organization org-upstream"
"""In every error body: nothing of it may reach a client."""
REPEATED_CHARS: Final = 24
"""Of the end of its answer that the double repeats when it is told to go on."""
USAGE: Final = {"input": 120, "cached": 20, "output": 30, "reasoning": 5}


class Fault(StrEnum):
    """What goes wrong; those after `after` pieces happen inside the stream."""

    NONE = "none"
    UNAUTHORIZED = "401"
    NO_CREDIT = "402"
    FORBIDDEN = "403"
    NOT_FOUND = "404"
    TIMEOUT = "408"
    TOO_LARGE = "413"
    UNPROCESSABLE = "422"
    RATE_LIMITED = "429"
    QUOTA_SPENT = "429 quota"
    SERVER_ERROR = "500"
    UNAVAILABLE = "503"
    OVERLOADED = "529"
    CONTEXT_LENGTH = "400 context"
    CONTENT_FILTER = "400 filter"
    BAD_TEMPERATURE = "400 temperature"
    NO_STREAM_OPTIONS = "400 stream_options"
    RESET = "reset before headers"
    SILENCE = "no answer"
    RESET_AFTER_HEADERS = "reset after headers"
    SLOW_START = "slow first token"
    CUT = "cut"
    CUT_MID_EVENT = "cut mid-event"
    DUPLICATED = "duplicated chunks"
    REORDERED = "reordered chunks"
    STALL = "stall"
    NO_END = "no end"
    GARBAGE = "garbage"
    INVALID_UTF8 = "invalid utf-8"
    HUGE_EVENT = "huge event"
    ERROR_EVENT = "error event"
    HTML = "html"
    NO_END_MARK = "no end mark"
    NO_USAGE = "no usage"
    FILTERED_END = "filtered"
    LENGTH_END = "length"


_OPENAI_ERRORS: Final[dict[Fault, tuple[int, str, str]]] = {
    Fault.UNAUTHORIZED: (401, "invalid_request_error", "invalid_api_key"),
    Fault.NO_CREDIT: (402, "billing_error", "billing_hard_limit_reached"),
    Fault.FORBIDDEN: (403, "permission_error", "forbidden"),
    Fault.NOT_FOUND: (404, "invalid_request_error", "model_not_found"),
    Fault.TIMEOUT: (408, "timeout_error", "timeout"),
    Fault.TOO_LARGE: (413, "invalid_request_error", "request_too_large"),
    Fault.UNPROCESSABLE: (422, "invalid_request_error", "unprocessable"),
    Fault.RATE_LIMITED: (429, "requests", "rate_limit_exceeded"),
    Fault.QUOTA_SPENT: (429, "insufficient_quota", "insufficient_quota"),
    Fault.SERVER_ERROR: (500, "server_error", "internal"),
    Fault.UNAVAILABLE: (503, "server_error", "service_unavailable"),
    Fault.OVERLOADED: (529, "overloaded_error", "overloaded"),
    Fault.CONTEXT_LENGTH: (400, "invalid_request_error", "context_length_exceeded"),
    Fault.CONTENT_FILTER: (400, "invalid_request_error", "content_filter"),
    Fault.BAD_TEMPERATURE: (400, "invalid_request_error", "unsupported_value: temperature"),
    Fault.NO_STREAM_OPTIONS: (400, "invalid_request_error", "unknown field stream_options"),
}
_ANTHROPIC_ERRORS: Final[dict[Fault, tuple[int, str, str]]] = {
    Fault.UNAUTHORIZED: (401, "authentication_error", "invalid x-api-key"),
    Fault.NO_CREDIT: (402, "billing_error", "payment required"),
    Fault.FORBIDDEN: (403, "permission_error", "not allowed"),
    Fault.NOT_FOUND: (404, "not_found_error", "model: no-such-model"),
    Fault.TIMEOUT: (408, "timeout_error", "timed out"),
    Fault.TOO_LARGE: (413, "request_too_large", "request exceeds the maximum size"),
    Fault.UNPROCESSABLE: (422, "invalid_request_error", "unprocessable"),
    Fault.RATE_LIMITED: (429, "rate_limit_error", "slow down"),
    Fault.QUOTA_SPENT: (400, "invalid_request_error", "your credit balance is too low"),
    Fault.SERVER_ERROR: (500, "api_error", "internal"),
    Fault.UNAVAILABLE: (503, "api_error", "unavailable"),
    Fault.OVERLOADED: (529, "overloaded_error", "overloaded"),
    Fault.CONTEXT_LENGTH: (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
    Fault.CONTENT_FILTER: (400, "invalid_request_error", "blocked by content_policy"),
    Fault.BAD_TEMPERATURE: (400, "invalid_request_error", "temperature: not supported"),
    # It has no such field, so it cannot refuse it.
    Fault.NO_STREAM_OPTIONS: (400, "invalid_request_error", "unknown field stream_options"),
}


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]  # Any: the vendors' JSON
    client_port: int


@dataclass(slots=True)
class ProviderDouble:
    """What the double says and what it saw.

    Attributes:
        pieces: of the answer.
        said: the answer when it is more than text; it takes the place of the pieces.
        fault: what goes wrong.
        after: number of pieces after which it goes wrong.
        retry_after: the header on errors; empty for none.
        goes_on: whether it goes on with an answer that a request holds, as a model would.
        only_key: the fault meets only requests with this key.
        flaps: the fault meets every other request, beginning with the first.
        open_requests: requests whose connection is still there.
    """

    port: int = 0
    pieces: tuple[str, ...] = ("The sky ", "is blue [1]", ".")
    said: tuple[provider_parts.Said, ...] = ()
    fault: Fault = Fault.NONE
    after: int = 1
    retry_after: dict[str, str] = field(default_factory=dict)
    goes_on: bool = False
    only_key: str = ""
    flaps: bool = False
    seen: list[SeenRequest] = field(default_factory=list)
    open_requests: int = 0

    @property
    def openai_url(self) -> str:
        """What OPENAI_BASE_URL would be."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def anthropic_url(self) -> str:
        """What ANTHROPIC_BASE_URL would be."""
        return f"http://127.0.0.1:{self.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        body = await body_of(receive)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append(SeenRequest(scope["path"], headers, json.loads(body), scope["client"][1]))
        self.open_requests += 1
        try:
            await self._says(self.seen[-1])(scope["path"], self.seen[-1].body, receive, send)
        finally:
            self.open_requests -= 1

    def _says(self, request: SeenRequest) -> Callable[[str, dict[str, Any], Receive, Send], Awaitable[None]]:
        """How this request is answered: by a double of its own that is well, where the fault does not meet it."""
        is_met = self.only_key in request.headers.get("authorization", "") and not (
            self.flaps and len(self.seen) % 2 == 0
        )
        pieces = _rest(self.pieces, request.body) if self.goes_on else self.pieces
        return replace(self, pieces=pieces, fault=self.fault if is_met else Fault.NONE)._answer

    async def _answer(self, path: str, body: dict[str, Any], receive: Receive, send: Send) -> None:
        is_openai = path.endswith("/chat/completions")
        errors = _OPENAI_ERRORS if is_openai else _ANTHROPIC_ERRORS
        if self.fault is Fault.RESET:
            raise ConnectionResetError
        if self.fault is Fault.SILENCE:
            await _disconnected(receive)
            return
        refuses = self.fault is not Fault.NO_STREAM_OPTIONS or "stream_options" in body
        if self.fault in errors and refuses:
            await self._refuse(*errors[self.fault], is_openai=is_openai, send=send)
            return
        if self.fault is Fault.HTML:
            await _start(send, 200, {"content-type": "text/html"})
            await _send(send, b"<html>a proxy is in the way</html>", is_last=True)
            return
        await _start(send, 200, {"content-type": "text/event-stream"})
        if self.fault is Fault.RESET_AFTER_HEADERS:
            await _send(send, b"\n")  # headers leave with the first byte
            raise ConnectionResetError
        if self.fault is Fault.SLOW_START:
            await _send(send, b"\n")
            await _disconnected(receive)
            return
        if self.said:
            speak = provider_parts.openai_events if is_openai else provider_parts.anthropic_events
            events = speak(self.said, body["model"])
        else:
            events = self._openai(body) if is_openai else self._anthropic()
        await self._stream(events, receive, send, is_openai=is_openai)

    async def _stream(self, events: Iterator[bytes], receive: Receive, send: Send, *, is_openai: bool) -> None:
        # The first event of Anthropic's is message_start; the pieces come after it.
        goes_wrong_at = self.after + (0 if is_openai else 1)
        if self.fault is Fault.REORDERED:
            events = _with_the_last_text_late(list(events), is_openai=is_openai)
        for number, event in enumerate(events):
            if number == goes_wrong_at and await self._go_wrong(receive, send, is_openai=is_openai):
                return
            await _send(send, event)
            if self.fault is Fault.DUPLICATED:
                await _send(send, event)
        await _send(send, b"", is_last=True)

    async def _go_wrong(self, receive: Receive, send: Send, *, is_openai: bool) -> bool:
        match self.fault:
            case Fault.CUT:
                raise ConnectionResetError
            case Fault.CUT_MID_EVENT:
                await _send(
                    send, b'event: content_block_delta\ndata: {"type": "content_block_delta", "choices": [{"del'
                )
                raise ConnectionResetError
            case Fault.STALL:
                await _disconnected(receive)
            case Fault.NO_END:
                await _send(send, b"", is_last=True)
            case Fault.GARBAGE:
                await _send(send, b'event: content_block_delta\ndata: {"choices": [{"delta"\n\n', is_last=True)
            case Fault.INVALID_UTF8:
                await _send(send, b'event: content_block_delta\ndata: {"a": "\xff\xfe"}\n\n', is_last=True)
            case Fault.HUGE_EVENT:
                await _send(send, b"data: " + b"x" * 10_000_000 + b"\n\n", is_last=True)
            case Fault.ERROR_EVENT:
                kind = "rate_limit_exceeded" if is_openai else "rate_limit_error"
                error = {"type": "error", "error": {"type": kind, "code": kind, "message": SECRET_WORDS}}
                await _send(send, _event("error", error), is_last=True)
            case _:
                return False
        return True

    def _openai(self, body: dict[str, Any]) -> Iterator[bytes]:
        marks = count()

        def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
            head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
            # The vendor makes chunks of different length by random letters; here they are only different.
            head["obfuscation"] = f"x{next(marks)}"
            return b"data: " + json.dumps({**head, "choices": [choice], "usage": None}).encode() + b"\n\n"

        for piece in self.pieces:
            yield chunk({"role": "assistant", "content": piece})
        yield chunk({}, {Fault.FILTERED_END: "content_filter", Fault.LENGTH_END: "length"}.get(self.fault, "stop"))
        if "stream_options" in body and self.fault is not Fault.NO_USAGE:
            usage = {
                "prompt_tokens": USAGE["input"],
                "completion_tokens": USAGE["output"],
                "total_tokens": USAGE["input"] + USAGE["output"],
                "prompt_tokens_details": {"cached_tokens": USAGE["cached"]},
                "completion_tokens_details": {"reasoning_tokens": USAGE["reasoning"]},
            }
            head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
            yield b"data: " + json.dumps({**head, "choices": [], "usage": usage}).encode() + b"\n\n"
        if self.fault is not Fault.NO_END_MARK:
            yield b"data: [DONE]\n\n"

    def _anthropic(self) -> Iterator[bytes]:
        has_usage = self.fault is not Fault.NO_USAGE
        fresh = USAGE["input"] - USAGE["cached"]
        begun = {"input_tokens": fresh, "cache_read_input_tokens": USAGE["cached"], "output_tokens": 1}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": begun}
        yield _event("message_start", {"type": "message_start", "message": message if has_usage else {}})
        for piece in self.pieces:
            delta = {"type": "text_delta", "text": piece}
            yield _event("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta})
        yield _event("ping", {"type": "ping"})
        yield _event("content_block_stop", {"type": "content_block_stop", "index": 0})
        reasons = {Fault.FILTERED_END: "refusal", Fault.LENGTH_END: "max_tokens"}
        settled = {"output_tokens": USAGE["output"], "output_tokens_details": {"thinking_tokens": USAGE["reasoning"]}}
        ending = {"type": "message_delta", "delta": {"stop_reason": reasons.get(self.fault, "end_turn")}}
        yield _event("message_delta", {**ending, "usage": settled} if has_usage else ending)
        if self.fault is not Fault.NO_END_MARK:
            yield _event("message_stop", {"type": "message_stop"})

    async def _refuse(self, status: int, kind: str, code: str, *, is_openai: bool, send: Send) -> None:
        error = {"type": kind, "message": f"{code}: {SECRET_WORDS}"}
        body = {"error": {**error, "code": code, "param": None}} if is_openai else {"type": "error", "error": error}
        await _start(send, status, {"content-type": "application/json", **self.retry_after})
        await _send(send, json.dumps(body).encode(), is_last=True)


def _rest(pieces: tuple[str, ...], body: dict[str, Any]) -> tuple[str, ...]:
    """What is left to say after the answer that the request holds; told to go on, it first repeats its last words."""
    whole = "".join(pieces)
    said = [str(message["content"]) for message in body["messages"] if message["role"] == "assistant"]
    standing = said[-1] if said and whole.startswith(said[-1]) else ""
    if not standing:
        return pieces
    is_prefix = body["messages"][-1]["role"] == "assistant"
    rest = whole[len(standing) if is_prefix else max(0, len(standing) - REPEATED_CHARS) :]
    return tuple(rest[start : start + 8] for start in range(0, len(rest), 8))


def _with_the_last_text_late(events: list[bytes], *, is_openai: bool) -> Iterator[bytes]:
    """The last piece of text comes after the event that says why the answer ended."""
    ends = next(
        number
        for number, event in enumerate(events)
        if (b'"finish_reason": "' in event if is_openai else event.startswith(b"event: message_delta"))
    )
    late = max(number for number in range(ends) if b'"content": ' in events[number] or b"text_delta" in events[number])
    return iter([*events[:late], *events[late + 1 : ends + 1], events[late], *events[ends + 1 :]])


@asynccontextmanager
async def running_double() -> AsyncIterator[ProviderDouble]:
    """A double on a free port while the body runs."""
    double = ProviderDouble()
    async with listening(double, "provider double") as double.port:
        yield double


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _send(send: Send, body: bytes, *, is_last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + json.dumps(data).encode() + b"\n\n"
