"""Real processes: killed, stopped and watched."""

import os
import signal
from dataclasses import dataclass

import grpc.aio
import pytest

from dev.ports import free_ports
from parley.conversation.v1 import conversation_service_pb2 as conversations
from parley.conversation.v1 import conversation_service_pb2_grpc, turn_pb2, turn_service_pb2_grpc
from parley.conversation.v1 import turn_service_pb2 as turns
from services.conversation.events import Draft
from services.conversation.wire.events import event_of
from tests.integration.conversation.conftest import Processes
from tests.support.conversation_peers import WORDS, Peers
from tests.support.valkey import emptied

CALL_S = 60.0
"""The first call waits for a process to start, which takes that long on a machine with other things to do."""
TEXT = "".join(WORDS)


@dataclass(slots=True)
class Client:
    """A user of the API, from the stubs."""

    channel: grpc.aio.Channel
    peers: Peers

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return self.peers.metadata("org_acme", "usr_ada")

    async def ask(self, request_id: str = "r1") -> turn_pb2.Turn:
        stub = conversation_service_pb2_grpc.ConversationServiceStub(self.channel)
        request = conversations.CreateConversationRequest(knowledge_base_id="kb_1")
        created = await stub.CreateConversation(request, metadata=self.metadata, timeout=CALL_S, wait_for_ready=True)
        ask = turns.CreateTurnRequest(
            conversation_id=created.conversation.id, request_id=request_id, new=turns.NewMessage(text="?")
        )
        stub_of_turns = turn_service_pb2_grpc.TurnServiceStub(self.channel)
        return (await stub_of_turns.CreateTurn(ask, metadata=self.metadata, timeout=CALL_S)).turn

    async def watch(self, turn_id: str, after: int = 0, *, enough: int = 1_000_000) -> list[turn_pb2.TurnEvent]:
        """Events to the end of the turn, or until there are `enough` of them."""
        stub = turn_service_pb2_grpc.TurnServiceStub(self.channel)
        request = turns.StreamTurnEventsRequest(turn_id=turn_id, after_sequence=after)
        call = stub.StreamTurnEvents(request, metadata=self.metadata, timeout=60.0, wait_for_ready=True)
        events: list[turn_pb2.TurnEvent] = []
        try:
            async for response in call:
                events += response.events
                if len(events) >= enough:
                    break
        finally:
            call.cancel()
        return events


def text_of(events: list[turn_pb2.TurnEvent]) -> str:
    """What a client makes of events: the model's own rules, on what came over the wire."""
    draft = Draft()
    for event in events:
        match event.WhichOneof("payload"):
            case "turn_finished":
                assert event.sequence == draft.last_sequence + 1
                draft.last_sequence = event.sequence
                assert event.turn_finished.message.parts[0].text.text == draft.text
            case "snapshot":
                text = "".join(part.text.text for part in event.snapshot.message.parts)
                draft.reset(0)
                draft._pieces, draft.length = [text], len(text)
                draft.last_sequence = event.sequence
            case _:
                draft.apply(event_of(event))
    return draft.text


@pytest.fixture
def client(api: grpc.aio.Channel, peers: Peers) -> Client:
    return Client(api, peers)


async def test_a_killed_worker_costs_no_word(processes: Processes, client: Client) -> None:
    client.peers.generation.hold_before = 10
    worker = processes.start("worker")
    turn = await client.ask()
    await client.peers.generation.held.wait()
    seen = await client.watch(turn.id, enough=3)

    worker.kill()
    processes.start("worker")
    rest = await client.watch(turn.id, seen[-1].sequence)

    assert text_of([*seen, *rest]) == TEXT
    assert rest[-1].turn_finished.state == turn_pb2.TURN_STATE_COMPLETED
    assert [event.WhichOneof("payload") for event in rest].count("attempt_started") == 1
    assert {event.attempt for event in [*seen, *rest]} == {1, 2}
    assert not [event for event in rest if event.WhichOneof("payload") == "snapshot"]


async def test_a_stopped_worker_hands_over_without_spending_an_attempt(processes: Processes, client: Client) -> None:
    client.peers.generation.hold_before = 10
    worker = processes.start("worker")
    turn = await client.ask()
    await client.peers.generation.held.wait()

    worker.terminate()
    processes.start("worker")
    events = await client.watch(turn.id)

    assert text_of(events) == TEXT
    assert {event.attempt for event in events} == {1}
    assert worker.wait(timeout=CALL_S) == 0


async def test_a_paused_worker_that_wakes_up_changes_nothing(processes: Processes, client: Client) -> None:
    client.peers.generation.hold_before = 10
    worker = processes.start("worker")
    turn = await client.ask()
    await client.peers.generation.held.wait()

    worker.send_signal(signal.SIGSTOP)
    processes.start("worker")
    events = await client.watch(turn.id)
    worker.send_signal(signal.SIGCONT)
    client.peers.generation.go_on.set()
    worker.terminate()
    worker.wait(timeout=CALL_S)

    assert text_of(events) == TEXT
    assert await client.watch(turn.id) == events


async def test_a_wiped_valkey_loses_no_turn(processes: Processes, client: Client, valkey_server: object) -> None:
    client.peers.generation.hold_before = 10
    processes.start("worker")
    running = await client.ask("r1")
    await client.peers.generation.held.wait()
    waiting = await client.ask("r2")

    emptied(valkey_server)  # type: ignore[arg-type] # the fixture's server
    client.peers.generation.go_on.set()

    for turn in (running, waiting):
        assert text_of(await client.watch(turn.id)) == TEXT


async def test_the_answer_is_finished_when_nobody_watches(processes: Processes, client: Client) -> None:
    client.peers.generation.hold_before = 10
    processes.start("worker")
    turn = await client.ask()
    await client.peers.generation.held.wait()
    await client.watch(turn.id, enough=1)

    client.peers.generation.go_on.set()

    stub = turn_service_pb2_grpc.TurnServiceStub(client.channel)
    states: list[turn_pb2.TurnState.ValueType] = []
    while turn_pb2.TURN_STATE_COMPLETED not in states:
        request = turns.GetTurnRequest(turn_id=turn.id)
        states.append((await stub.GetTurn(request, metadata=client.metadata, timeout=CALL_S)).turn.state)
        assert len(states) < 2_000
    assert text_of(await client.watch(turn.id)) == TEXT


async def test_a_stream_goes_on_on_another_replica(processes: Processes, client: Client) -> None:
    client.peers.generation.hold_before = 10
    processes.start("worker")
    turn = await client.ask()
    await client.peers.generation.held.wait()
    seen = await client.watch(turn.id, enough=2)
    target = f"127.0.0.1:{next(iter(free_ports(os.getpid() + 47)))}"
    processes.start("serve", PARLEY_GRPC_LISTEN=target)

    processes.running[0].kill()
    client.peers.generation.go_on.set()
    async with grpc.aio.insecure_channel(target) as channel:
        rest = await Client(channel, client.peers).watch(turn.id, seen[-1].sequence)

    assert text_of([*seen, *rest]) == TEXT
