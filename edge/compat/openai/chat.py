"""`POST /v1/chat/completions`: chats that are stored as turns, or answered and forgotten."""

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from typing import Final

from starlette.types import Receive, Scope, Send

from edge import positions
from edge.compat.answering import respond
from edge.compat.caching import cache_use
from edge.compat.generations import Callers, Generations, Step
from edge.compat.openai.answers import Completion, Ending
from edge.compat.openai.requests import Chat, read_chat
from edge.compat.openai.turns import Turns
from edge.http import Exchange, HeaderList
from edge.identity import Metadata
from edge.middleware import ROUTE_KEY
from edge.sse import EventStreams
from edge.transcoding.requests import idempotency_key, read_json, refusal
from edge.transcoding.scalars import Misfit
from parley.inference.v1 import generation_service_pb2

CONVERSATION_HEADER: Final = "x-parley-conversation"
KNOWLEDGE_BASE_HEADER: Final = "x-parley-knowledge-base"
TURN_HEADER: Final = "x-parley-turn"


class ChatCompletions:
    """The endpoint."""

    def __init__(self, callers: Callers, turns: Turns, generations: Generations[Ending], streams: EventStreams) -> None:
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
            return (*await self._callers.metadata_for(exchange, "conversation"), *positions.sent(exchange))

        conversation_id = exchange.header(CONVERSATION_HEADER)
        turn, call = await self._turns.ask(chat, renew, conversation_id=conversation_id, key=key)
        seen = await positions.told(exchange, call)
        headers = ((CONVERSATION_HEADER, turn.conversation_id), (TURN_HEADER, turn.id), *seen)
        form = _form(chat, turn.id, turn.create_time.seconds)
        await self._answer(exchange, chat, form, self._turns.steps(turn.id, renew), headers)

    async def _generate(self, exchange: Exchange, chat: Chat) -> None:
        metadata = await self._callers.metadata_for(exchange, "inference")
        request = generation_service_pb2.StreamGenerateRequest(
            model=chat.model,
            prompt=chat.prompt,
            parameters=chat.parameters,
            # An inference of before `is_whole` sends all of it, of which nobody has seen any.
            is_whole=not chat.is_stream,
            accepts_restart=not chat.is_stream,
            cache=cache_use(exchange),
            defers_started=True,
        )
        form = _form(chat, secrets.token_hex(12), int(time.time()))
        await self._answer(exchange, chat, form, self._generations.steps(request, metadata), ())

    async def _answer(
        self, exchange: Exchange, chat: Chat, form: Completion, steps: AsyncIterator[Step[Ending]], headers: HeaderList
    ) -> None:
        await respond(exchange, steps, form, streams=self._streams if chat.is_stream else None, headers=headers)


def _form(chat: Chat, identity: str, created: int) -> Completion:
    return Completion(
        identity=f"chatcmpl-{identity}", created=created, model=chat.model_name, includes_usage=chat.includes_usage
    )


def _with_knowledge_base(chat: Chat, exchange: Exchange) -> Chat:
    """The chat with the knowledge base that header or body names."""
    named = exchange.header(KNOWLEDGE_BASE_HEADER)
    if named and chat.knowledge_base_id not in {"", named}:
        raise Misfit(f"differs from the header {KNOWLEDGE_BASE_HEADER}", "knowledge_base_id")
    chosen = named or chat.knowledge_base_id
    if not chat.is_stored and (chosen or exchange.header(CONVERSATION_HEADER)):
        raise Misfit("must be true for an answer from a knowledge base or in a conversation", "store")
    return dataclasses.replace(chat, knowledge_base_id=chosen)
