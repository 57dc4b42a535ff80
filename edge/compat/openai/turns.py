"""Stored chats: a conversation, a turn, and its events until the answer is there."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from edge.compat.generations import Step
from edge.compat.openai.answers import Ending, Endings
from edge.compat.openai.requests import Chat
from edge.compat.openai.transcript import Transcript
from edge.identity import Metadata
from parley.conversation.v1 import (
    conversation_service_pb2,
    conversation_service_pb2_grpc,
    message_pb2,
    turn_pb2,
    turn_service_pb2,
    turn_service_pb2_grpc,
)
from parley.inference.v1 import generation_pb2, generation_service_pb2
from services.mesh import telemetry
from services.mesh.client import streaming, unary
from services.mesh.errors import ERROR_BY_REASON, Internal, MeshError, Reason, Unavailable

RESUMES_MAX: Final = 5
"""How often in a row a broken stream is resumed without a new event: a replica that restarts breaks it once."""
RESUME_PAUSE_S: Final = 0.2
CLEAN_UP_TIMEOUT_S: Final = 2.0

_AUTHORS: Final = {
    generation_pb2.ROLE_USER: message_pb2.ROLE_USER,
    generation_pb2.ROLE_ASSISTANT: message_pb2.ROLE_ASSISTANT,
}
_PARAMETERS: Final = ("temperature", "top_p", "output_tokens_max", "seed")
"""Those that a turn takes, besides `stop`; both contracts call them the same."""
_log = telemetry.logger("edge.openai")

Renew = Callable[[], Awaitable[Metadata]]
"""Metadata of a call that begins now: internal tokens live for a minute only."""
Asked = tuple[turn_pb2.Turn, Any]
"""Any: grpc.aio's own generic call."""


class Turns:
    """Asks questions and follows their answers."""

    def __init__(
        self,
        conversations: conversation_service_pb2_grpc.ConversationServiceStub,
        turns: turn_service_pb2_grpc.TurnServiceStub,
        endings: Endings,
    ) -> None:
        self._conversations = conversations
        self._turns = turns
        self._endings = endings

    async def ask(self, chat: Chat, renew: Renew, *, conversation_id: str | None, key: str | None) -> Asked:
        """The durable turn of a chat, and the call that began it; of a new conversation unless one is named.

        Args:
            chat: what is asked.
            renew: the caller's metadata.
            conversation_id: conversation to go on with; its last message is the one before the question.
            key: the caller's idempotency key; None for none.

        Raises:
            MeshError: what conversation says.
        """
        if conversation_id is not None:
            return await self._ask(chat, await renew(), conversation_id, key or secrets.token_hex(16))
        metadata = await renew()
        request = _conversation(chat, key or secrets.token_hex(16))
        created = await unary(self._conversations.CreateConversation(request, metadata=metadata))
        identity = created.conversation.id
        try:
            return await self._ask(chat, metadata, identity, key or secrets.token_hex(16))
        except MeshError:
            if key is None:  # with a key, the caller's repeat goes on with this very conversation
                await self._clean_up(identity, metadata)
            raise

    async def steps(self, turn_id: str, renew: Renew) -> AsyncIterator[Step[Ending]]:
        """The answer of a turn as it is written.

        Raises:
            MeshError: the turn failed, or cannot be followed to its end.
        """
        transcript = Transcript()
        async with aclosing(self._events(turn_id, renew)) as batches:
            async for events in batches:
                text = "".join([transcript.take(event) for event in events])
                last = events[-1]
                ending = self._endings.of_message(_finished(last)) if last.HasField("turn_finished") else None
                yield Step([generation_service_pb2.TextDelta(text=text)] if text else [], ending)

    async def _events(self, turn_id: str, renew: Renew) -> AsyncGenerator[list[turn_pb2.TurnEvent], None]:
        """The events of a turn until it ends; broken streams are resumed."""
        sequence, failures = 0, 0
        while True:
            request = turn_service_pb2.StreamTurnEventsRequest(turn_id=turn_id, after_sequence=sequence)
            try:
                async with streaming(self._turns.StreamTurnEvents(request, metadata=await renew())) as responses:
                    async for response in responses:
                        failures, sequence = 0, response.events[-1].sequence
                        yield list(response.events)
                        if response.events[-1].HasField("turn_finished"):
                            return
            except Unavailable:
                if failures >= RESUMES_MAX:
                    raise
            if failures >= RESUMES_MAX:
                raise Unavailable("the events of the turn break off again and again")
            failures += 1
            await asyncio.sleep(RESUME_PAUSE_S)

    async def _ask(self, chat: Chat, metadata: Metadata, conversation_id: str, request_id: str) -> Asked:
        request = turn_service_pb2.CreateTurnRequest(
            conversation_id=conversation_id,
            request_id=request_id,
            new=turn_service_pb2.NewMessage(text=_text(chat.prompt.messages[-1])),
            model=chat.model,
            knowledge_base_id=chat.knowledge_base_id,
        )
        for name in _PARAMETERS:
            if chat.parameters.HasField(name):
                setattr(request.parameters, name, getattr(chat.parameters, name))
        request.parameters.stop.extend(chat.parameters.stop)
        call = self._turns.CreateTurn(request, metadata=metadata)
        response = await unary(call)
        return response.turn, call

    async def _clean_up(self, conversation_id: str, metadata: Metadata) -> None:
        """Removes a conversation in which no turn could begin; failing that leaves an empty one, which harms nobody."""
        request = conversation_service_pb2.DeleteConversationRequest(conversation_id=conversation_id)
        try:
            await unary(self._conversations.DeleteConversation(request, metadata=metadata, timeout=CLEAN_UP_TIMEOUT_S))
        except MeshError as error:
            _log.warning("conversation_left_empty", conversation_id=conversation_id, reason=error.reason.value)


def _finished(event: turn_pb2.TurnEvent) -> message_pb2.Message:
    """The stored answer of a turn that has ended.

    Raises:
        MeshError: the turn failed.
    """
    message = event.turn_finished.message
    if event.turn_finished.state != turn_pb2.TURN_STATE_FAILED:
        return message
    try:
        kind = ERROR_BY_REASON[Reason(message.error.reason)]
    except ValueError:  # a newer server's reason
        kind = Internal
    raise kind(message.error.message or None)


def _conversation(chat: Chat, key: str) -> conversation_service_pb2.CreateConversationRequest:
    return conversation_service_pb2.CreateConversationRequest(
        # Two calls of one key must not share a request id.
        request_id="chat-" + hashlib.sha256(key.encode()).hexdigest()[:32],
        model=chat.model,
        system_prompt=chat.prompt.system,
        knowledge_base_id=chat.knowledge_base_id,
        messages=[
            conversation_service_pb2.ImportedMessage(role=_AUTHORS[said.role], text=_text(said))
            for said in chat.prompt.messages[:-1]
        ],
    )


def _text(said: generation_pb2.PromptMessage) -> str:
    """A message that is stored holds words only, those of a refusal included."""
    return said.text or "".join(part.text or part.refusal for part in said.parts)
