"""A worker dies in the middle of an answer; another one has inference go on with it, over gRPC and as it is served."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from parley.inference.v1 import generation_service_pb2_grpc
from services.conversation import clients
from services.conversation.events import AttemptStarted
from services.conversation.model import Turn, TurnState
from services.conversation.store_memory import MemoryStore
from services.inference.model import FinishReason
from services.inference.providers.base import Ended, ProviderEvent, Task, Text
from services.inference.servicers import GenerationServicer
from services.inference.settings import Settings
from services.mesh import server, tokens
from services.mesh.client import open_channel
from services.mesh.clock import ManualClock
from services.mesh.tokens import WorkloadTokens
from tests.support.conversation import ADA, kinds, text_of
from tests.support.conversation_peers import Peers
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.inference import FakeProvider, generator, router
from tests.support.waiting import until

LEASE_S = 30.0
HALF, REST = "Ada Lovelace wrote notes [1]. The ", "end came later 🧮 [1]."


@dataclass
class Model(FakeProvider):
    """Falls silent in the middle of its first answer; the rest comes when it is asked again."""

    is_silent: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        self.tasks.append(task)
        if len(self.tasks) == 1:
            yield Text(HALF)
            self.is_silent.set()
            await asyncio.Event().wait()
        yield Text(REST if task.prefix else f"{HALF}{REST}")
        yield Ended(FinishReason.STOP)


@dataclass(frozen=True, slots=True)
class Stage:
    rig: Rig
    clock: ManualClock
    model: Model

    async def dead_in_the_middle(self) -> Turn:
        async with asyncio.timeout(60.0), running(self.rig):
            turn = await self.rig.ask(knowledge_base_id="kb_1")
            await self.model.is_silent.wait()
            watched = self.rig.watching.watch(ADA, turn.id, after_sequence=0, follow=True)
            async for events in watched:
                if any(getattr(event.payload, "text", "") for event in events):
                    break
        return turn

    async def taken_over(self) -> None:
        store = self.rig.store
        assert isinstance(store, MemoryStore)
        self.clock.advance(LEASE_S + 1.0)
        await self.rig.reaper.reap()
        async with running(self.rig):
            await until(lambda: all(row.turn.state.has_ended for row in store.tables.turns.values()), within_s=60.0)


@pytest.fixture
async def stage(peers: Peers, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    model = Model("a", takes_prefix=request.param)
    settings = Settings(auth_target="127.0.0.1:1", not_serving_pause_s=0)
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(
            server.running(
                settings,
                servicers=[
                    lambda grpc_server: generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
                        GenerationServicer(generator(router(model))), grpc_server
                    )
                ],
                verifier=peers.issuer.verifier("inference"),
            )
        )
        auth = await stack.enter_async_context(open_channel(peers.target, [tokens.CONTRACT]))
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{served.port}", [clients.INFERENCE]))
        workload = WorkloadTokens(auth, workload="conversation", secret="a-secret-of-sixteen")
        clock = ManualClock()
        rig = memory_rig(MemoryStore(clock), lease_s=LEASE_S)
        rig.inference = clients.InferenceClient(channel, workload, silence_s_max=60.0)  # type: ignore[assignment] # the rig is made for the fake
        yield Stage(rig, clock, model)


@pytest.mark.parametrize("stage", [True], indirect=True)
async def test_a_model_that_takes_a_prefix_goes_on_at_the_offset(stage: Stage) -> None:
    turn = await stage.dead_in_the_middle()
    seen = await stage.rig.look(turn)

    await stage.taken_over()
    rest = await stage.rig.watch(turn, seen[-1].sequence)

    stored = await stage.rig.store.answer(ADA, turn.id)
    assert [task.prefix for task in stage.model.tasks] == ["", HALF.rstrip()]
    assert rest[0].payload == AttemptStarted(2, len(HALF))
    assert text_of([*seen, *rest]) == stored.message.text == HALF + REST
    assert [stored.message.text[one.start : one.end] for one in stored.message.citations] == [
        "Ada Lovelace wrote notes",
        "The end came later 🧮",
    ]
    assert (stored.turn.state, stored.turn.attempt) == (TurnState.COMPLETED, 2)


@pytest.mark.parametrize("stage", [False], indirect=True)
async def test_another_model_answers_from_the_start_and_is_followed(stage: Stage) -> None:
    turn = await stage.dead_in_the_middle()
    seen = await stage.rig.look(turn)

    await stage.taken_over()
    rest = await stage.rig.watch(turn, seen[-1].sequence)

    assert rest[0].payload == AttemptStarted(2, len(HALF))
    assert text_of([*seen, *rest]) == HALF + REST
    assert kinds([*seen, *rest]).count("CitationAdded") == 2
