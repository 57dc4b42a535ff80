"""A stand-in for conversation, for tests of the edge: turns that follow a script."""

# ruff: noqa: N802 - gRPC names methods after RPCs.

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from parley.common.v1 import usage_pb2
from parley.conversation.v1 import conversation_pb2, conversation_service_pb2_grpc, message_pb2, turn_pb2
from parley.conversation.v1 import conversation_service_pb2 as conversations_pb
from parley.conversation.v1 import turn_service_pb2 as turns_pb
from parley.conversation.v1.turn_service_pb2_grpc import TurnServiceServicer
from services.mesh import positions
from services.mesh.errors import MeshError, NotFound, invalid_field
from services.mesh.ids import new_id
from services.mesh.rpc import Position, RpcContext
from tests.support.fakes.serving import now, serving

ANSWER: Final = "Ada **Lovelace** wrote it. [1]"
PLACE: Final = "conversation.main"


@serving(conversation_service_pb2_grpc.ConversationServiceServicer)
class FakeConversations:
    """Conversations in a dictionary; `requests` keeps what arrived, `failure` is raised instead of an answer.

    Attributes:
        position: where its database stands, for callers that want to know; what they had seen is in `seen`.
    """

    def __init__(self) -> None:
        self.stored: dict[str, conversation_pb2.Conversation] = {}
        self.requests: list[Any] = []  # Any: requests of all methods
        self.failure: MeshError | Exception | None = None
        self.position: Position | None = None
        self.seen: list[Position | None] = []

    async def CreateConversation(
        self, request: conversations_pb.CreateConversationRequest, context: RpcContext
    ) -> conversations_pb.CreateConversationResponse:
        self._note(request)
        conversation = conversation_pb2.Conversation(
            id=new_id("conv"),
            title=request.title,
            model=request.model,
            system_prompt=request.system_prompt,
            knowledge_base_id=request.knowledge_base_id,
            create_time=now(),
            etag="e1",
        )
        self.stored[conversation.id] = conversation
        return conversations_pb.CreateConversationResponse(conversation=conversation)

    async def GetConversation(
        self, request: conversations_pb.GetConversationRequest, context: RpcContext
    ) -> conversations_pb.GetConversationResponse:
        self._note(request)
        return conversations_pb.GetConversationResponse(conversation=self._find(request.conversation_id))

    async def ListConversations(
        self, request: conversations_pb.ListConversationsRequest, context: RpcContext
    ) -> conversations_pb.ListConversationsResponse:
        self._note(request)
        return conversations_pb.ListConversationsResponse(conversations=reversed(self.stored.values()))

    async def UpdateConversation(
        self, request: conversations_pb.UpdateConversationRequest, context: RpcContext
    ) -> conversations_pb.UpdateConversationResponse:
        self._note(request)
        conversation = self._find(request.conversation_id)
        request.update_mask.MergeMessage(request.conversation, conversation)
        return conversations_pb.UpdateConversationResponse(conversation=conversation)

    async def DeleteConversation(
        self, request: conversations_pb.DeleteConversationRequest, context: RpcContext
    ) -> conversations_pb.DeleteConversationResponse:
        self._note(request)
        self.stored.pop(self._find(request.conversation_id).id)
        return conversations_pb.DeleteConversationResponse()

    def _note(self, request: object) -> None:
        self.requests.append(request)
        self.seen.append(positions.seen(PLACE))
        if self.failure is not None:
            raise self.failure
        if self.position is not None and positions.are_wanted():
            positions.tell(PLACE, self.position)

    def _find(self, identity: str) -> conversation_pb2.Conversation:
        if identity not in self.stored:
            raise NotFound.of("conversation")
        return self.stored[identity]


@dataclass(slots=True)
class Told:
    """A turn of `FakeTurns`: events that grow until the turn is finished, for any number of watchers."""

    turn: turn_pb2.Turn
    question: str
    events: list[turn_pb2.TurnEvent] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    is_ended: bool = False

    def has_more_than(self, count: int) -> bool:
        return len(self.events) > count

    async def tell(self, *payloads: turn_pb2.TurnEvent) -> None:
        """Append events; their sequences are set here."""
        async with self.changed:
            for event in payloads:
                event.sequence, event.attempt = len(self.events) + 1, event.attempt or 1
                self.events.append(event)
                self.is_ended = self.is_ended or event.HasField("turn_finished")
            self.changed.notify_all()


Script = Callable[[Told], Awaitable[None]]


@serving(TurnServiceServicer)
class FakeTurns:
    """Turns that follow a script; the default answers `ANSWER` at once.

    Attributes:
        script: what happens to a turn after it was accepted.
        told: all turns by id.
        watchers: how many event streams are open.
        watched: `after_sequence` of all event streams there were.
        breaks: failures that the next streams end with, each after what it has sent.
        refusal: failure that every stream ends with at once, if it begins behind `refused_from`.
        position: as that of `FakeConversations`.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self.script: Script = answer_at_once
        self.told: dict[str, Told] = {}
        self.by_request: dict[str, Told] = {}
        self.requests: list[turns_pb.CreateTurnRequest] = []
        self.failure: MeshError | None = None
        self.watchers = 0
        self.watched: list[int] = []
        self.breaks: list[MeshError] = []
        self.refusal: MeshError | None = None
        self.refused_from = 0
        self.position: Position | None = None

    async def CreateTurn(self, request: turns_pb.CreateTurnRequest, context: RpcContext) -> turns_pb.CreateTurnResponse:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        if self.position is not None and positions.are_wanted():
            positions.tell(PLACE, self.position)
        known = self.by_request.get(request.request_id)
        if known is not None:
            return turns_pb.CreateTurnResponse(turn=known.turn)
        turn = turn_pb2.Turn(
            id=new_id("turn"),
            conversation_id=request.conversation_id,
            state=turn_pb2.TURN_STATE_QUEUED,
            user_message_id=new_id("msg"),
            assistant_message_id=new_id("msg"),
            create_time=now(),
        )
        told = Told(turn, request.new.text)
        self.told[turn.id] = self.by_request[request.request_id] = told
        self._group.create_task(self._run(told))
        return turns_pb.CreateTurnResponse(turn=turn)

    async def GetTurn(self, request: turns_pb.GetTurnRequest, context: RpcContext) -> turns_pb.GetTurnResponse:
        return turns_pb.GetTurnResponse(turn=self._find(request.turn_id).turn)

    async def StreamTurnEvents(
        self, request: turns_pb.StreamTurnEventsRequest, context: RpcContext
    ) -> AsyncIterator[turns_pb.StreamTurnEventsResponse]:
        told, sent = self._find(request.turn_id), request.after_sequence
        if sent > len(told.events):
            raise invalid_field("after_sequence", "is beyond the turn's latest event")
        self.watched.append(sent)
        if self.refusal is not None and sent >= self.refused_from:
            raise self.refusal
        self.watchers += 1
        try:
            while True:
                fresh = told.events[sent:]
                if fresh:
                    yield turns_pb.StreamTurnEventsResponse(events=fresh)
                    sent += len(fresh)
                    if self.breaks:
                        raise self.breaks.pop(0)
                if told.is_ended or (request.HasField("follow") and not request.follow):
                    return
                async with told.changed:
                    await told.changed.wait_for(partial(told.has_more_than, sent))
        finally:
            self.watchers -= 1

    async def _run(self, told: Told) -> None:
        await self.script(told)

    def _find(self, identity: str) -> Told:
        if identity not in self.told:
            raise NotFound.of("turn")
        return self.told[identity]


def started(told: Told) -> turn_pb2.TurnEvent:
    return turn_pb2.TurnEvent(
        turn_started=turn_pb2.TurnStarted(turn_id=told.turn.id, conversation_id=told.turn.conversation_id)
    )


def delta(offset: int, text: str) -> turn_pb2.TurnEvent:
    return turn_pb2.TurnEvent(text_delta=turn_pb2.TextDelta(part_id="p1", offset=offset, text=text))


def message(told: Told, text: str) -> message_pb2.Message:
    return message_pb2.Message(
        id=told.turn.assistant_message_id,
        conversation_id=told.turn.conversation_id,
        role=message_pb2.ROLE_ASSISTANT,
        parts=[message_pb2.Part(id="p1", text=message_pb2.Text(text=text))],
        citations=[citation()] if "[1]" in text else [],
        state=message_pb2.MESSAGE_STATE_COMPLETE,
        finish_reason=message_pb2.FINISH_REASON_STOP,
        usage=usage_pb2.Usage(input_tokens=20, cached_input_tokens=4, output_tokens=7, cost_micros=12),
        turn_id=told.turn.id,
        model="extractive",
    )


def citation() -> message_pb2.Citation:
    return message_pb2.Citation(
        document_id="doc_01m81yxdt5er79mzf15ea65abm",
        document_name="notes.md",
        part_id="p1",
        start=0,
        end=26,
        source_start=6,
        source_end=30,
        quote="Ada Lovelace wrote notes",
        score=0.9,
        number=1,
    )


def finished(
    told: Told, text: str, state: turn_pb2.TurnState.ValueType = turn_pb2.TURN_STATE_COMPLETED
) -> turn_pb2.TurnEvent:
    return turn_pb2.TurnEvent(turn_finished=turn_pb2.TurnFinished(state=state, message=message(told, text)))


async def answer_at_once(told: Told) -> None:
    """The default script: four events, the text in two pieces."""
    await told.tell(started(told))
    await told.tell(delta(0, ANSWER[:10]), delta(10, ANSWER[10:]))
    await told.tell(finished(told, ANSWER))
