"""The gRPC API in one process, on a real PostgreSQL and Valkey: translation, refusals, pages, tenancy."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
from google.protobuf import duration_pb2, field_mask_pb2
from pydantic import SecretStr

from parley.conversation.v1 import conversation_pb2, conversation_service_pb2_grpc, message_pb2, turn_pb2
from parley.conversation.v1 import conversation_service_pb2 as pb
from parley.conversation.v1 import turn_service_pb2 as turns_pb
from parley.conversation.v1.turn_service_pb2_grpc import TurnServiceStub
from services.conversation import app
from services.conversation.reaper import Reaper
from services.conversation.settings import ApiSettings
from services.mesh import server
from services.mesh.client import unary
from services.mesh.errors import (
    CredentialsInvalid,
    EtagMismatch,
    IdempotencyMismatch,
    InvalidArgument,
    MeshError,
    ScopeMissing,
    TurnAlreadyRunning,
)
from services.mesh.ids import new_id
from services.mesh.status import from_rpc_error
from tests.support.conversation import FakeKnowledgeBases
from tests.support.tokens import Issuer

SCOPES = ("conversations:read", "conversations:write", "turns:write", "feedback:write")


@dataclass(slots=True)
class User:
    """Calls the API with tokens of one user."""

    channel: grpc.aio.Channel
    issuer: Issuer
    reaper: Reaper
    organization_id: str = "org_acme"
    user_id: str = "usr_ada"
    scopes: tuple[str, ...] = SCOPES

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        token = self.issuer.mint(
            audience="conversation",
            scopes=self.scopes,
            organization_id=self.organization_id,
            subject_id=self.user_id,
        )
        return (("authorization", f"Bearer {token}"),)

    async def call(self, name: str, request: Any) -> Any:  # Any: methods and messages of all services
        for stub in (
            conversation_service_pb2_grpc.ConversationServiceStub(self.channel),
            conversation_service_pb2_grpc.MessageServiceStub(self.channel),
            conversation_service_pb2_grpc.FeedbackServiceStub(self.channel),
            TurnServiceStub(self.channel),
        ):
            if hasattr(stub, name):
                return await unary(getattr(stub, name)(request, metadata=self.metadata, timeout=20.0))
        raise AssertionError(name)

    async def create(self, **fields: Any) -> conversation_pb2.Conversation:  # Any: fields of the request
        response = await self.call("CreateConversation", pb.CreateConversationRequest(**fields))
        conversation: conversation_pb2.Conversation = response.conversation
        return conversation

    async def ask(self, conversation_id: str, text: str = "?", **fields: Any) -> Any:  # Any: as above
        request = turns_pb.CreateTurnRequest(
            conversation_id=conversation_id, new=turns_pb.NewMessage(text=text), **fields
        )
        return (await self.call("CreateTurn", request)).turn

    async def look(self, turn_id: str, after: int = 0) -> list[Any]:  # Any: events
        request = turns_pb.StreamTurnEventsRequest(turn_id=turn_id, after_sequence=after, follow=False)
        call = TurnServiceStub(self.channel).StreamTurnEvents(request, metadata=self.metadata, timeout=20.0)
        try:
            return [event async for response in call for event in response.events]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


@pytest.fixture
async def ada(migrated_database_url: Callable[..., str], valkey_url: str) -> AsyncIterator[User]:
    config = ApiSettings(
        database_url=SecretStr(migrated_database_url("conversation")),
        valkey_url=SecretStr(valkey_url),
        auth_target="127.0.0.1:1",
        retrieval_target="127.0.0.1:1",
        workload_secret=SecretStr("a-secret-of-sixteen"),
        reap_every_s=60.0,
    )
    issuer = Issuer()
    async with app.opened(config) as core:
        registers, loops = app.api(config, core, FakeKnowledgeBases("kb_1"))
        verifier = issuer.verifier("conversation")
        async with (
            server.running(config, servicers=registers, verifier=verifier, loops=loops) as running,
            grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
        ):
            yield User(channel, issuer, core.reaper)


def other(user: User, **changes: Any) -> User:  # Any: fields of User
    fields = {"organization_id": user.organization_id, "user_id": user.user_id, "scopes": user.scopes, **changes}
    return User(user.channel, user.issuer, user.reaper, **fields)


async def test_a_conversation_goes_over_the_wire_and_back(ada: User) -> None:
    created = await ada.create(
        title="T",
        model="openai/x",
        system_prompt="Be brief",
        examples=[conversation_pb2.Example(user="q", assistant="a")],
        knowledge_base_id="kb_1",
        messages=[pb.ImportedMessage(role=message_pb2.ROLE_USER, text="hello 🙂")],
    )

    request = pb.GetConversationRequest(conversation_id=created.id)
    assert (await ada.call("GetConversation", request)).conversation == created
    assert created.retrieval_mode == conversation_pb2.RETRIEVAL_MODE_SELECTIVE
    listed = await ada.call("ListMessages", pb.ListMessagesRequest(conversation_id=created.id))
    assert [message.parts[0].text.text for message in listed.messages] == ["hello 🙂"]
    assert listed.messages[0].id == created.leaf_message_id


async def test_an_update_changes_what_the_mask_names(ada: User) -> None:
    created = await ada.create(title="old", model="a/b")
    body = conversation_pb2.Conversation(title="new", etag=created.etag)

    by_mask = pb.UpdateConversationRequest(
        conversation_id=created.id, conversation=body, update_mask=field_mask_pb2.FieldMask(paths=["title", "model"])
    )
    updated = (await ada.call("UpdateConversation", by_mask)).conversation
    by_body = pb.UpdateConversationRequest(
        conversation_id=created.id, conversation=conversation_pb2.Conversation(system_prompt="Be brief")
    )
    again = (await ada.call("UpdateConversation", by_body)).conversation

    assert (updated.title, updated.model) == ("new", "")
    assert (again.title, again.system_prompt) == ("new", "Be brief")
    with pytest.raises(EtagMismatch):
        await ada.call("UpdateConversation", by_mask)


async def test_pages_hold_everything_once(ada: User) -> None:
    created = [(await ada.create(title=str(number))).id for number in range(3)]

    first = await ada.call("ListConversations", pb.ListConversationsRequest(page_size=2))
    rest = await ada.call(
        "ListConversations", pb.ListConversationsRequest(page_size=2, page_token=first.next_page_token)
    )

    assert [conversation.id for conversation in [*first.conversations, *rest.conversations]] == created[::-1]
    assert rest.next_page_token == ""


@pytest.mark.parametrize("tree", [False, True])
async def test_pages_of_messages_hold_everything_once(ada: User, *, tree: bool) -> None:
    roles = [message_pb2.ROLE_USER, message_pb2.ROLE_ASSISTANT]
    messages = [pb.ImportedMessage(role=roles[number % 2], text=str(number)) for number in range(5)]
    created = await ada.create(messages=messages)

    found: list[str] = []
    token = ""
    while not found or token:
        request = pb.ListMessagesRequest(conversation_id=created.id, tree=tree, page_size=2, page_token=token)
        page = await ada.call("ListMessages", request)
        found += [message.parts[0].text.text for message in page.messages]
        token = page.next_page_token

    assert found == ["0", "1", "2", "3", "4"]


async def test_feedback_goes_over_the_wire_and_back(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id)
    request = pb.SetFeedbackRequest(message_id=turn.assistant_message_id, rating=message_pb2.RATING_BAD, comment="no")

    told = (await ada.call("SetFeedback", request)).feedback

    found = await ada.call("GetFeedback", pb.GetFeedbackRequest(message_id=turn.assistant_message_id))
    assert found.feedback == told
    assert (told.rating, told.comment) == (message_pb2.RATING_BAD, "no")


async def test_a_repeated_question_is_one_turn(ada: User) -> None:
    conversation = await ada.create()

    turns = await asyncio.gather(*(ada.ask(conversation.id, request_id="r1") for _ in range(20)))

    assert len({turn.id for turn in turns}) == 1
    with pytest.raises(IdempotencyMismatch):
        await ada.ask(conversation.id, "another", request_id="r1")
    with pytest.raises(TurnAlreadyRunning) as refused:
        await ada.ask(conversation.id, request_id="r2")
    assert refused.value.metadata["turn_id"] == turns[0].id


async def test_a_waiting_turn_is_cancelled_and_its_end_is_watched(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id)

    cancelled = await ada.call("CancelTurn", turns_pb.CancelTurnRequest(turn_id=turn.id))

    (event,) = await ada.look(turn.id)
    assert cancelled.turn.state == event.turn_finished.state
    assert await ada.look(turn.id, after=1) == []


async def test_a_position_beyond_the_latest_event_is_refused(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id)
    assert await ada.look(turn.id) == []
    for after in (1, -1):
        with pytest.raises(InvalidArgument) as refused:
            await ada.look(turn.id, after=after)
        assert refused.value.fields[0].field == "after_sequence"


def _message(text: str, role: message_pb2.Role.ValueType = message_pb2.ROLE_USER) -> pb.ImportedMessage:
    return pb.ImportedMessage(role=role, text=text)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"title": "x" * 201}, "title"),
        ({"system_prompt": "x" * 32_001}, "system_prompt"),
        ({"system_prompt": "a\0b"}, "system_prompt"),
        ({"model": "x" * 201}, "model"),
        ({"knowledge_base_id": "x" * 201}, "knowledge_base_id"),
        ({"examples": [conversation_pb2.Example(user="q", assistant="a")] * 33}, "examples"),
        ({"examples": [conversation_pb2.Example(user="q")]}, "examples[0].assistant"),
        ({"retrieval_mode": 9}, "retrieval_mode"),
        ({"messages": [_message("x")] * 1_001}, "messages"),
        ({"messages": [_message("x", message_pb2.ROLE_UNSPECIFIED)]}, "messages[0].role"),
        ({"messages": [_message("")]}, "messages[0].text"),
        ({"messages": [_message("x" * 100_001)]}, "messages[0].text"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"request_id": "ä"}, "request_id"),
    ],
)
async def test_a_conversation_out_of_bounds_is_refused(ada: User, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await ada.create(**fields)

    assert refused.value.fields[0].field == field


async def test_a_conversation_at_its_bounds_is_accepted(ada: User) -> None:
    await ada.create(
        title="x" * 200,
        system_prompt="x" * 32_000,
        examples=[conversation_pb2.Example(user="q", assistant="a")] * 32,
        messages=[_message("x")] * 999 + [_message("🙂" * 100_000)],
        request_id="x" * 128,
    )


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"temperature": 2.1}, "parameters.temperature"),
        ({"temperature": float("nan")}, "parameters.temperature"),
        ({"top_p": -0.1}, "parameters.top_p"),
        ({"output_tokens_max": 0}, "parameters.output_tokens_max"),
        ({"stop": ["x"] * 5}, "parameters.stop"),
        ({"stop": [""]}, "parameters.stop[0]"),
    ],
)
async def test_parameters_out_of_bounds_are_refused(ada: User, parameters: dict[str, Any], field: str) -> None:
    conversation = await ada.create()
    with pytest.raises(InvalidArgument) as refused:
        await ada.ask(conversation.id, parameters=turns_pb.GenerationParameters(**parameters))

    assert refused.value.fields[0].field == field


@pytest.mark.parametrize("text", ["", "x" * 100_001, "a\0b"])
async def test_a_question_out_of_bounds_is_refused(ada: User, text: str) -> None:
    conversation = await ada.create()
    with pytest.raises(InvalidArgument) as refused:
        await ada.ask(conversation.id, text)

    assert refused.value.fields[0].field == "new.text"


async def test_every_action_goes_over_the_wire(ada: User) -> None:
    first = await ada.ask((await ada.create()).id)
    actions: list[dict[str, Any]] = [  # Any: messages of three types
        {"edit_of": turns_pb.EditMessage(message_id=first.user_message_id, text="Who?")},
        {"regenerate_of": turns_pb.RegenerateMessage(message_id=first.assistant_message_id)},
        {"continue_of": turns_pb.ContinueMessage(message_id=first.assistant_message_id)},
    ]
    turns: list[Any] = []  # Any: as above
    for action in actions:
        await ada.call("CancelTurn", turns_pb.CancelTurnRequest(turn_id=(turns or [first])[-1].id))
        request = turns_pb.CreateTurnRequest(conversation_id=first.conversation_id, **action)
        turns.append((await ada.call("CreateTurn", request)).turn)

    messages = [
        (await ada.call("GetMessage", pb.GetMessageRequest(message_id=message_id))).message
        for message_id in (turns[0].user_message_id, turns[1].assistant_message_id, turns[2].assistant_message_id)
    ]
    assert [message.revision_of for message in messages] == [
        first.user_message_id,
        first.assistant_message_id,
        first.assistant_message_id,
    ]
    assert messages[0].parts[0].text.text == "Who?"
    assert {turn.user_message_id for turn in turns[1:]} == {first.user_message_id}


async def test_a_turn_is_accepted_with_a_time_of_its_own_and_refused_beyond_the_limit(ada: User) -> None:
    conversation_id = (await ada.create()).id
    fields = set()
    for seconds, nanos in ((600, 1_000), (0, 0), (-1, 0), (2**62, 0)):
        with pytest.raises(InvalidArgument) as refused:
            await ada.ask(conversation_id, time_max=duration_pb2.Duration(seconds=seconds, nanos=nanos))
        fields.add(refused.value.fields[0].field)

    turn = await ada.ask(conversation_id, time_max=duration_pb2.Duration(seconds=600))

    assert fields == {"time_max"}
    assert turn.state == turn_pb2.TURN_STATE_QUEUED


async def test_only_a_failed_turn_is_retried(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id)

    with pytest.raises(InvalidArgument) as refused:
        await ada.call("RetryTurn", turns_pb.RetryTurnRequest(turn_id=turn.id))

    assert refused.value.fields[0].field == "turn_id"


async def test_a_turn_past_its_time_is_retried_over_the_wire(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id, time_max=duration_pb2.Duration(nanos=1_000))
    await ada.reaper.reap()

    request = turns_pb.RetryTurnRequest(turn_id=turn.id, request_id="r1")
    again = [(await ada.call("RetryTurn", request)).turn for _ in range(2)]

    assert again[0] == again[1]
    assert (again[0].user_message_id, again[0].state) == (turn.user_message_id, turn_pb2.TURN_STATE_QUEUED)
    assert (
        await ada.call("GetTurn", turns_pb.GetTurnRequest(turn_id=turn.id))
    ).turn.error.reason == "DEADLINE_EXCEEDED"


async def test_a_turn_that_queues_or_cancels_is_accepted_where_another_one_is_refused(ada: User) -> None:
    conversation_id = (await ada.create()).id
    await ada.ask(conversation_id)
    for unspecific in (turns_pb.ON_CONFLICT_UNSPECIFIED, turns_pb.ON_CONFLICT_REJECT):
        with pytest.raises(TurnAlreadyRunning):
            await ada.ask(conversation_id, on_conflict=unspecific)

    waits = await ada.ask(conversation_id, on_conflict=turns_pb.ON_CONFLICT_QUEUE)
    runs = await ada.ask(conversation_id, on_conflict=turns_pb.ON_CONFLICT_CANCEL_RUNNING)

    listed = await ada.call("ListTurns", turns_pb.ListTurnsRequest(conversation_id=conversation_id))
    states = [turn.state for turn in sorted(listed.turns, key=lambda turn: turn.create_time.ToNanoseconds())]
    assert (waits.state, runs.state) == (turn_pb2.TURN_STATE_QUEUED, turn_pb2.TURN_STATE_QUEUED)
    assert states == [turn_pb2.TURN_STATE_CANCELLED, turn_pb2.TURN_STATE_CANCELLED, turn_pb2.TURN_STATE_QUEUED]


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("CreateTurn", turns_pb.CreateTurnRequest(conversation_id="c")),
        (
            "CreateTurn",
            turns_pb.CreateTurnRequest(
                conversation_id="c",
                new=turns_pb.NewMessage(text="?"),
                on_conflict=99,  # type: ignore[arg-type] # a value of a later contract
            ),
        ),
        ("ListConversations", pb.ListConversationsRequest(page_size=201)),
        ("ListConversations", pb.ListConversationsRequest(page_token="x")),
        ("ListMessages", pb.ListMessagesRequest(conversation_id="c", tree=True, leaf_message_id="m")),
        ("SetFeedback", pb.SetFeedbackRequest(message_id="m")),
        ("SetFeedback", pb.SetFeedbackRequest(message_id="m", rating=message_pb2.RATING_BAD, comment="x" * 2_001)),
        (
            "UpdateConversation",
            pb.UpdateConversationRequest(
                conversation_id="c", update_mask=field_mask_pb2.FieldMask(paths=["leaf_message_id"])
            ),
        ),
    ],
)
async def test_a_malformed_request_is_refused(ada: User, name: str, request_: Any) -> None:  # Any: any request
    with pytest.raises(InvalidArgument):
        await ada.call(name, request_)


async def test_without_a_token_or_a_scope_nothing_answers(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id)
    reader = other(ada, scopes=("conversations:read",))

    with pytest.raises(ScopeMissing):
        await reader.call("CancelTurn", turns_pb.CancelTurnRequest(turn_id=turn.id))
    stub = TurnServiceStub(ada.channel)
    with pytest.raises(CredentialsInvalid):
        await unary(stub.GetTurn(turns_pb.GetTurnRequest(turn_id=turn.id), timeout=20.0))


Refusal = tuple[str, str, dict[str, str]]


async def refusal(attempt: Awaitable[Any]) -> Refusal:  # Any: whatever it would give
    with pytest.raises(MeshError) as refused:
        await attempt
    return refused.value.reason, refused.value.message, dict(refused.value.metadata)


@pytest.mark.parametrize("changes", [{"organization_id": "org_globex"}, {"user_id": "usr_bob"}], ids=["other", "bob"])
async def test_somebody_elses_id_and_a_random_one_are_refused_alike(ada: User, changes: dict[str, str]) -> None:
    turn = await ada.ask((await ada.create()).id)
    stranger = other(ada, **changes)

    async def refusals(conversation_id: str, message_id: str, turn_id: str) -> list[Refusal]:
        body = conversation_pb2.Conversation(title="mine")
        requests: list[tuple[str, Any]] = [  # Any: requests of all methods
            ("GetConversation", pb.GetConversationRequest(conversation_id=conversation_id)),
            ("UpdateConversation", pb.UpdateConversationRequest(conversation_id=conversation_id, conversation=body)),
            ("DeleteConversation", pb.DeleteConversationRequest(conversation_id=conversation_id)),
            ("ListMessages", pb.ListMessagesRequest(conversation_id=conversation_id)),
            ("ListMessages", pb.ListMessagesRequest(conversation_id=conversation_id, leaf_message_id=message_id)),
            ("ListMessages", pb.ListMessagesRequest(conversation_id=conversation_id, tree=True)),
            ("GetMessage", pb.GetMessageRequest(message_id=message_id)),
            ("SetFeedback", pb.SetFeedbackRequest(message_id=message_id, rating=message_pb2.RATING_BAD)),
            ("GetFeedback", pb.GetFeedbackRequest(message_id=message_id)),
            ("ListTurns", turns_pb.ListTurnsRequest(conversation_id=conversation_id)),
            ("GetTurn", turns_pb.GetTurnRequest(turn_id=turn_id)),
            ("CancelTurn", turns_pb.CancelTurnRequest(turn_id=turn_id)),
            ("RetryTurn", turns_pb.RetryTurnRequest(turn_id=turn_id)),
        ]
        refused = [await refusal(stranger.call(name, request)) for name, request in requests]
        refused.append(await refusal(stranger.ask(conversation_id)))
        refused.append(await refusal(stranger.look(turn_id)))
        return refused

    foreign = await refusals(turn.conversation_id, turn.assistant_message_id, turn.id)
    random = await refusals(new_id("conv"), new_id("msg"), new_id("turn"))

    assert foreign == random
    assert {reason for reason, _, _ in foreign} == {"NOT_FOUND"}
    assert (await ada.call("GetTurn", turns_pb.GetTurnRequest(turn_id=turn.id))).turn == turn


async def test_a_deleted_conversation_is_gone_at_once(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id)

    await ada.call("DeleteConversation", pb.DeleteConversationRequest(conversation_id=turn.conversation_id))

    for attempt in (
        ada.call("GetTurn", turns_pb.GetTurnRequest(turn_id=turn.id)),
        ada.call("GetMessage", pb.GetMessageRequest(message_id=turn.user_message_id)),
        ada.look(turn.id),
    ):
        assert (await refusal(attempt))[0] == "NOT_FOUND"
