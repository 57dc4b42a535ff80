"""Small stand-ins for the four services, for tests of the edge: real contracts and gRPC, everything in memory."""

# ruff: noqa: N802 - gRPC names methods after RPCs.

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from parley.auth.v1 import token_service_pb2 as tokens_pb
from parley.auth.v1 import user_pb2, user_service_pb2, user_service_pb2_grpc
from parley.auth.v1.token_service_pb2_grpc import TokenServiceServicer
from parley.common.v1 import usage_pb2
from parley.conversation.v1 import conversation_pb2, conversation_service_pb2_grpc, message_pb2, turn_pb2
from parley.conversation.v1 import conversation_service_pb2 as conversations_pb
from parley.conversation.v1 import turn_service_pb2 as turns_pb
from parley.conversation.v1.turn_service_pb2_grpc import TurnServiceServicer
from parley.inference.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc
from parley.inference.v1 import model_service_pb2 as models_pb
from parley.inference.v1.model_service_pb2_grpc import ModelServiceServicer
from parley.retrieval.v1 import document_service_pb2 as documents_pb
from parley.retrieval.v1 import knowledge_base_pb2, knowledge_base_service_pb2_grpc
from parley.retrieval.v1 import knowledge_base_service_pb2 as bases_pb
from parley.retrieval.v1.document_service_pb2_grpc import DocumentServiceServicer
from services.mesh.errors import (
    CredentialsInvalid,
    DocumentTooLarge,
    DocumentUnsupported,
    MeshError,
    NotFound,
    Unimplemented,
    invalid_field,
)
from services.mesh.ids import new_id
from services.mesh.rpc import RpcContext
from tests.support.tokens import ORGANIZATION, USER, Issuer

EMAIL: Final = "ada@example.org"
PASSWORD: Final = "correct horse"
API_KEY: Final = "pk_test_key"
SCOPES: Final = frozenset(
    {
        *(
            "profile:read",
            "profile:write",
            "organization:write",
            "keys:read",
            "keys:write",
            "users:read",
            "users:write",
        ),
        *("conversations:read", "conversations:write", "turns:write", "feedback:write", "models:read"),
        *("knowledge:read", "knowledge:write", "inference:generate"),
    }
)
ANSWER: Final = "Ada **Lovelace** wrote it. [1]"
T = TypeVar("T")


def serving(contract: type) -> Callable[[type[T]], type[T]]:
    """Methods of the contract that a fake leaves out answer UNIMPLEMENTED."""

    async def missing(_self: object, _request: object, _context: RpcContext) -> Any:  # Any: never returns
        raise Unimplemented

    def complete(kind: type[T]) -> type[T]:
        for name, _ in inspect.getmembers(contract, inspect.isfunction):
            if name[0].isupper() and not hasattr(kind, name):
                setattr(kind, name, missing)
        return kind

    return complete


def now() -> Timestamp:
    instant = Timestamp()
    instant.FromDatetime(datetime(2026, 1, 31, 9, 30, tzinfo=UTC))
    return instant


@serving(TokenServiceServicer)
class FakeTokens:
    """Knows one user, her key and her sessions.

    Attributes:
        accepted: secrets that are good now; tests revoke by removing.
        exchanges: how often a credential was traded.
        gate: what an exchange waits for.
    """

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.accepted = {API_KEY}
        self.exchanges = 0
        self.gate: asyncio.Event | None = None

    async def Login(self, request: tokens_pb.LoginRequest, context: RpcContext) -> tokens_pb.LoginResponse:
        if (request.email, request.password) != (EMAIL, PASSWORD):
            raise CredentialsInvalid
        token = new_id("pst")
        self.accepted.add(token)
        assert request.session_kind == tokens_pb.SESSION_KIND_COOKIE
        return tokens_pb.LoginResponse(user=user(), session_token=token)

    async def Logout(self, request: tokens_pb.LogoutRequest, context: RpcContext) -> tokens_pb.LogoutResponse:
        self.accepted.discard(request.session_token)
        return tokens_pb.LogoutResponse()

    async def ExchangeToken(
        self, request: tokens_pb.ExchangeTokenRequest, context: RpcContext
    ) -> tokens_pb.ExchangeTokenResponse:
        self.exchanges += 1
        if self.gate is not None:
            await self.gate.wait()
        if getattr(request, request.WhichOneof("subject") or "api_key") not in self.accepted:
            raise CredentialsInvalid
        assert request.workload.name == "edge"
        return tokens_pb.ExchangeTokenResponse(
            tokens=[
                tokens_pb.InternalToken(
                    audience=audience, token=self._issuer.mint(audience=audience, scopes=SCOPES, caller="edge")
                )
                for audience in request.audiences
            ],
            organization_id=ORGANIZATION,
            user_id=USER,
            scopes=sorted(SCOPES),
            credential_id="key_01m81yxdt5er79mzf15ea65abm",
        )


@serving(user_service_pb2_grpc.UserServiceServicer)
class FakeUsers:
    """Knows one user."""

    async def GetMe(
        self, request: user_service_pb2.GetMeRequest, context: RpcContext
    ) -> user_service_pb2.GetMeResponse:
        return user_service_pb2.GetMeResponse(user=user())


@serving(conversation_service_pb2_grpc.ConversationServiceServicer)
class FakeConversations:
    """Conversations in a dictionary; `requests` keeps what arrived, `failure` is raised instead of an answer."""

    def __init__(self) -> None:
        self.stored: dict[str, conversation_pb2.Conversation] = {}
        self.requests: list[Any] = []  # Any: requests of all methods
        self.failure: MeshError | Exception | None = None

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
        if self.failure is not None:
            raise self.failure

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

    async def CreateTurn(self, request: turns_pb.CreateTurnRequest, context: RpcContext) -> turns_pb.CreateTurnResponse:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
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


@serving(knowledge_base_service_pb2_grpc.KnowledgeBaseServiceServicer)
class FakeKnowledgeBases:
    """Knowledge bases in a dictionary."""

    def __init__(self) -> None:
        self.stored: dict[str, knowledge_base_pb2.KnowledgeBase] = {}

    async def CreateKnowledgeBase(
        self, request: bases_pb.CreateKnowledgeBaseRequest, context: RpcContext
    ) -> bases_pb.CreateKnowledgeBaseResponse:
        base = knowledge_base_pb2.KnowledgeBase(id=new_id("kb"), display_name=request.display_name)
        self.stored[base.id] = base
        return bases_pb.CreateKnowledgeBaseResponse(knowledge_base=base)

    async def ListKnowledgeBases(
        self, request: bases_pb.ListKnowledgeBasesRequest, context: RpcContext
    ) -> bases_pb.ListKnowledgeBasesResponse:
        return bases_pb.ListKnowledgeBasesResponse(knowledge_bases=self.stored.values())


@serving(DocumentServiceServicer)
class FakeDocuments:
    """Keeps uploads; refuses what begins with `%BAD`, and more than `bytes_max` bytes.

    Attributes:
        files: bytes by file name, whole uploads only.
        broken: uploads that ended before their last byte.
        largest: size of the largest message.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.broken = 0
        self.largest = 0
        self.bytes_max = 25 * 1024 * 1024

    async def UploadDocument(
        self, request_iterator: AsyncIterator[documents_pb.UploadDocumentRequest], context: RpcContext
    ) -> documents_pb.UploadDocumentResponse:
        content, header = b"", documents_pb.UploadDocumentHeader()
        is_whole = False
        try:
            async for request in request_iterator:
                if request.HasField("header"):
                    header = request.header
                    continue
                self.largest = max(self.largest, len(request.data))
                content += request.data
                if content.startswith(b"%BAD"):
                    raise DocumentUnsupported("no supported type", metadata={"media_type": "application/x-bad"})
                if len(content) > self.bytes_max:
                    raise DocumentTooLarge(metadata={"limit": str(self.bytes_max)})
            is_whole = True
        finally:
            self.broken += not is_whole
        self.files[header.display_name] = content
        document = knowledge_base_pb2.Document(
            id=new_id("doc"),
            knowledge_base_id=header.knowledge_base_id,
            version=1,
            display_name=header.display_name,
            size_bytes=len(content),
            state=knowledge_base_pb2.DOCUMENT_STATE_QUEUED,
        )
        return documents_pb.UploadDocumentResponse(document=document)

    async def WatchDocument(
        self, request: documents_pb.WatchDocumentRequest, context: RpcContext
    ) -> AsyncIterator[documents_pb.WatchDocumentResponse]:
        if not request.document_id.startswith("doc_"):
            raise NotFound.of("document")
        states: Iterable[knowledge_base_pb2.DocumentState.ValueType] = (
            knowledge_base_pb2.DOCUMENT_STATE_PROCESSING,
            knowledge_base_pb2.DOCUMENT_STATE_READY,
        )
        for state in states:
            document = knowledge_base_pb2.Document(id=request.document_id, state=state)
            yield documents_pb.WatchDocumentResponse(document=document)
            if request.HasField("follow") and not request.follow:
                return


@serving(generation_service_pb2_grpc.GenerationServiceServicer)
class FakeGenerations:
    """Answers with the last message, in capitals, word by word.

    Attributes:
        failure: ends the stream after the first word.
        refusal: is the answer, before anything is said.
        counted: what tokens were counted of; there are always nine.
    """

    def __init__(self) -> None:
        self.requests: list[generation_service_pb2.StreamGenerateRequest] = []
        self.counted: list[generation_service_pb2.CountTokensRequest] = []
        self.failure: MeshError | None = None
        self.refusal: MeshError | None = None

    async def CountTokens(
        self, request: generation_service_pb2.CountTokensRequest, context: RpcContext
    ) -> generation_service_pb2.CountTokensResponse:
        self.counted.append(request)
        return generation_service_pb2.CountTokensResponse(input_tokens=9, estimated=True)

    async def StreamGenerate(
        self, request: generation_service_pb2.StreamGenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_service_pb2.StreamGenerateResponse]:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        text = request.prompt.messages[-1].text.upper()
        first, _, rest = text.partition(" ")
        yield _generated(generation_service_pb2.GenerateEvent(started=generation_service_pb2.Started(model="fake/one")))
        yield _generated(_text(0, first))
        if self.failure is not None:
            raise self.failure
        answer = generation_pb2.Answer(
            text=text,
            finish_reason=generation_pb2.FINISH_REASON_LENGTH,
            model="fake/one",
            usage=usage_pb2.Usage(input_tokens=3, output_tokens=2),
        )
        end = generation_service_pb2.GenerateEvent(finished=generation_service_pb2.Finished(answer=answer))
        yield _generated(_text(len(first), " " + rest), end)


def _text(offset: int, text: str) -> generation_service_pb2.GenerateEvent:
    return generation_service_pb2.GenerateEvent(text=generation_service_pb2.TextDelta(offset=offset, text=text))


def _generated(*events: generation_service_pb2.GenerateEvent) -> generation_service_pb2.StreamGenerateResponse:
    return generation_service_pb2.StreamGenerateResponse(events=events)


@serving(ModelServiceServicer)
class FakeModels:
    """Knows two models."""

    known: Final = (
        models_pb.Model(name="extractive", display_name="Extractive", context_tokens=8192, is_default=True),
        models_pb.Model(name="openai/gpt-test", display_name="GPT Test", input_price_micros=2),
    )

    async def ListModels(
        self, request: models_pb.ListModelsRequest, context: RpcContext
    ) -> models_pb.ListModelsResponse:
        return models_pb.ListModelsResponse(models=self.known)

    async def GetModel(self, request: models_pb.GetModelRequest, context: RpcContext) -> models_pb.GetModelResponse:
        for model in self.known:
            if model.name == request.model:
                return models_pb.GetModelResponse(model=model)
        raise NotFound.of("model")


def user() -> user_pb2.User:
    return user_pb2.User(
        id=USER, organization_id=ORGANIZATION, email=EMAIL, display_name="Ada", role=user_pb2.ROLE_OWNER
    )
