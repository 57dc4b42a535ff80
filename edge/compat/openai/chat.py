"""`POST /v1/chat/completions`: chats that are stored as turns, or answered and forgotten."""

import asyncio
import dataclasses
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, Protocol, cast

from starlette.types import Receive, Scope, Send

from edge.compat.openai.answers import Ending, Step, Style
from edge.compat.openai.errors import error_members
from edge.compat.openai.generations import Generations
from edge.compat.openai.requests import Chat, read_chat
from edge.compat.openai.turns import Turns
from edge.http import Exchange, HeaderList
from edge.identity import Metadata
from edge.middleware import ROUTE_KEY
from edge.sse import EventStream, EventStreams, event
from edge.transcoding.encoding import dump
from edge.transcoding.requests import idempotency_key, read_json, refusal
from edge.transcoding.scalars import Misfit
from services.mesh.errors import MeshError, Unavailable

CONVERSATION_HEADER: Final = "x-parley-conversation"
KNOWLEDGE_BASE_HEADER: Final = "x-parley-knowledge-base"
TURN_HEADER: Final = "x-parley-turn"


class Callers(Protocol):
    """What this surface needs of identity."""

    async def metadata_for(self, exchange: Exchange, service: str) -> Metadata:
        """Metadata of calls to a service on behalf of the request's caller; raises without one."""
        ...


class ChatCompletions:
    """The endpoint."""

    def __init__(self, callers: Callers, turns: Turns, generations: Generations, streams: EventStreams) -> None:
        self._callers = callers
        self._turns = turns
        self._generations = generations
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "openai.chat.completions"
        await self._callers.metadata_for(exchange, "conversation")  # before the body is read: nobody, no work
        try:
            chat = _with_knowledge_base(read_chat(await read_json(exchange)), exchange)
            key = idempotency_key(exchange)
        except Misfit as misfit:
            raise refusal(misfit) from None
        if chat.is_stored:
            await self._converse(exchange, chat, key)
        else:
            await self._generate(exchange, chat)

    async def _converse(self, exchange: Exchange, chat: Chat, key: str | None) -> None:
        async def renew() -> Metadata:
            return await self._callers.metadata_for(exchange, "conversation")

        conversation_id = exchange.header(CONVERSATION_HEADER)
        turn = await self._turns.ask(chat, renew, conversation_id=conversation_id, key=key)
        style = Style(id=f"chatcmpl-{turn.id}", created=turn.create_time.seconds, model=chat.model_name)
        headers = ((CONVERSATION_HEADER, turn.conversation_id), (TURN_HEADER, turn.id))
        await self._answer(exchange, chat, style, self._turns.steps(turn.id, renew), headers)

    async def _generate(self, exchange: Exchange, chat: Chat) -> None:
        metadata = await self._callers.metadata_for(exchange, "inference")
        style = Style(id=f"chatcmpl-{secrets.token_hex(12)}", created=int(time.time()), model=chat.model_name)
        await self._answer(exchange, chat, style, self._generations.steps(chat, metadata), ())

    async def _answer(
        self, exchange: Exchange, chat: Chat, style: Style, steps: AsyncIterator[Step], headers: HeaderList
    ) -> None:
        # Both are async generators; leaving one early must end its call at once, not when it is collected.
        async with aclosing(cast("AsyncGenerator[Step, None]", steps)):
            if not chat.is_stream:
                text, ending = await _whole(steps)
                await exchange.respond(200, dump(style.completion(text, ending)), headers=headers)
                return
            with self._streams.opened(exchange, headers=headers, is_resumable=False) as stream:
                await _stream(stream, steps, style, includes_usage=chat.includes_usage)
                await stream.finish()


async def _whole(steps: AsyncIterator[Step]) -> tuple[str, Ending]:
    pieces: list[str] = []
    async for step in steps:
        pieces.append(step.text)
        if step.ending is not None:
            return "".join(pieces), step.ending
    raise Unavailable("the answer broke off")


async def _stream(stream: EventStream, steps: AsyncIterator[Step], style: Style, *, includes_usage: bool) -> None:
    """Writes the chunks; an error before the first of them is an ordinary answer, later it is the last event."""
    task = asyncio.current_task()
    assert task is not None
    stream.attach(task.cancel)
    try:
        await _write_chunks(stream, steps, style, includes_usage=includes_usage)
    except MeshError as error:
        if not stream.is_begun:
            raise
        await stream.write(event(error_members(error)))
    except asyncio.CancelledError:
        if not stream.is_ended or task.uncancel():
            raise  # the client left
        # OpenAI's protocol has no way to go on elsewhere, and an end without a word reads like a whole answer.
        await stream.write(event(error_members(Unavailable("the server is restarting: ask again"))))


async def _write_chunks(stream: EventStream, steps: AsyncIterator[Step], style: Style, *, includes_usage: bool) -> None:
    is_first = True
    async for step in steps:
        chunks = b""
        if step.text:
            chunks = style.text_chunk(step.text, is_first=is_first)
            is_first = False
        if step.ending is not None:
            chunks += style.last_chunks(step.ending, is_first=is_first, includes_usage=includes_usage)
        if chunks:
            await stream.write(chunks)
        if step.ending is not None:
            return
    raise Unavailable("the answer broke off")


def _with_knowledge_base(chat: Chat, exchange: Exchange) -> Chat:
    """The chat with the knowledge base that header or body names."""
    named = exchange.header(KNOWLEDGE_BASE_HEADER)
    if named and chat.knowledge_base_id not in {"", named}:
        raise Misfit(f"differs from the header {KNOWLEDGE_BASE_HEADER}", "knowledge_base_id")
    chosen = named or chat.knowledge_base_id
    if not chat.is_stored and (chosen or exchange.header(CONVERSATION_HEADER)):
        raise Misfit("must be true for an answer from a knowledge base or in a conversation", "store")
    return dataclasses.replace(chat, knowledge_base_id=chosen)
