"""Asks over a fixed number of kept connections, each one request after the other, and checks every answer.

On bare sockets: a client library would cost more than what is measured, and take its CPU from it.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Final

import orjson

from tests.load.double import text

ANSWER_S_MAX: Final = 60.0
_SYSTEM: Final = " ".join(["You answer briefly, in plain words, and say what you do not know."] * 8)
_HEAD_END: Final = b"\r\n\r\n"


class Surface(Enum):
    """In whose words is asked, by path."""

    CHAT = "/v1/chat/completions"
    MESSAGES = "/anthropic/v1/messages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A kind of request.

    Attributes:
        tokens: of each answer.
        is_stream: whether it is sent as it is written.
        surface: in whose words it is asked; those of messages are streamed.
        is_repeated: whether it is the same request again and again, for an answer that is stored.
    """

    name: str
    tokens: int
    is_stream: bool
    surface: Surface = Surface.CHAT
    is_repeated: bool = False

    def body(self, model: str, number: int) -> bytes:
        """A request that no other one equals, so that none is answered with the answer of another one."""
        question = {"role": "user", "content": "Question?" if self.is_repeated else f"Question {number}?"}
        wish = {"model": model, "max_tokens": self.tokens, "stream": self.is_stream}
        if self.surface is Surface.MESSAGES:
            return orjson.dumps({**wish, "system": _SYSTEM, "messages": [question]})
        more = {"stream_options": {"include_usage": True}} if self.is_stream else {}
        messages = [{"role": "system", "content": _SYSTEM}, question]
        return orjson.dumps({**wish, "messages": messages, "store": False, **more})

    def check(self, body: bytes) -> None:
        """Asserts that an answer is whole."""
        found = "".join(_texts(body)) if self.is_stream else orjson.loads(body)["choices"][0]["message"]["content"]
        assert found == text(self.tokens), body


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, and with which credential.

    Attributes:
        cached_model: a model whose answers are stored; empty where there is none.
        has_messages: whether it understands `Surface.MESSAGES`.
    """

    port: int
    key: str
    model: str
    cached_model: str = ""
    has_messages: bool = False

    def answers(self, work: Work) -> bool:
        """Whether it knows what `work` asks for."""
        knows_words = work.surface is Surface.CHAT or self.has_messages
        return knows_words and (not work.is_repeated or bool(self.cached_model))


@dataclass(slots=True)
class Load:
    """Clients of an endpoint.

    Args:
        endpoint: what is asked.
        connections: that are open at the same time.
    """

    endpoint: Endpoint
    connections: int
    _numbers: Iterator[int] = field(default_factory=count)

    async def run(self, work: Work, requests: int) -> None:
        """Asks so many times, over all connections together."""
        left = iter(range(requests))
        async with asyncio.TaskGroup() as group:
            for _ in range(self.connections):
                group.create_task(self._ask(work, left))

    async def _ask(self, work: Work, left: Iterator[int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.endpoint.port)
        try:
            for _ in left:
                async with asyncio.timeout(ANSWER_S_MAX):
                    work.check(await self._answer(work, reader, writer))
        finally:
            writer.close()

    async def _answer(self, work: Work, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        model = self.endpoint.cached_model if work.is_repeated else self.endpoint.model
        body = work.body(model, next(self._numbers))
        head = (
            f"POST {work.surface.value} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self.endpoint.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        found = await reader.readuntil(_HEAD_END)
        assert found.startswith(b"HTTP/1.1 200 "), found + await reader.read(10_000)
        if b"transfer-encoding: chunked" not in found.lower():
            return await reader.readexactly(_length(found))
        pieces = []
        while size := int((await reader.readuntil(b"\r\n")), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        return b"".join(pieces)


def _length(head: bytes) -> int:
    (line,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(line.partition(b":")[2])


def _texts(body: bytes) -> Iterator[str]:
    for event in body.split(b"\n\n"):
        _, is_event, data = event.rpartition(b"data: ")
        if is_event and data != b"[DONE]":  # a comment keeps the connection alive until a late first word
            found = orjson.loads(data)
            for choice in found.get("choices", ()):
                yield choice["delta"].get("content") or ""
            if found.get("type") == "content_block_delta":
                yield found["delta"].get("text") or ""
