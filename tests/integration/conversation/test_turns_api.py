"""Turns over the gRPC API in one process, on a real PostgreSQL and Valkey."""

import asyncio
from typing import Any

import pytest
from google.protobuf import duration_pb2

from parley.conversation.v1 import conversation_service_pb2 as pb
from parley.conversation.v1 import turn_pb2
from parley.conversation.v1 import turn_service_pb2 as turns_pb
from services.mesh.errors import IdempotencyMismatch, InvalidArgument, TurnAlreadyRunning
from tests.support.conversation_api import User


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
