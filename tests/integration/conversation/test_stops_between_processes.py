"""An API and a worker, each wired as a process of its own is: what one is told stops what the other writes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc.aio
import pytest
from pydantic import SecretStr

from parley.conversation.v1 import conversation_service_pb2 as pb
from parley.conversation.v1 import turn_pb2
from parley.conversation.v1 import turn_service_pb2 as turns_pb
from services.conversation import app
from services.conversation.history.branches import History
from services.conversation.running.generation import Sources
from services.conversation.settings import WorkerSettings
from services.mesh import server
from tests.support.conversation_api import User
from tests.support.conversation_fakes import (
    FakeInference,
    FakeKnowledgeBases,
    FakePrompts,
    FakeRetrieval,
    MemoryHistoryCache,
    Stop,
)
from tests.support.tokens import Issuer
from tests.support.waiting import until

NEVER_S = 600.0


@dataclass(slots=True)
class Apart:
    """The API as Ada calls it, and the model that the worker asks."""

    ada: User
    inference: FakeInference
    stop: Stop

    async def answering(self) -> turn_pb2.Turn:
        """A turn whose worker is in the middle of its answer."""
        turn = await self.ada.ask((await self.ada.create()).id)
        async with asyncio.timeout(60.0):
            await self.stop.reached.wait()
        assert isinstance(turn, turn_pb2.Turn)
        return turn


@pytest.fixture
async def apart(migrated_database_url: Callable[..., str], valkey_url: str) -> AsyncIterator[Apart]:
    config = WorkerSettings(
        database_url=SecretStr(migrated_database_url("conversation")),
        valkey_url=SecretStr(valkey_url),
        auth_target="127.0.0.1:1",
        retrieval_target="127.0.0.1:1",
        inference_target="127.0.0.1:1",
        workload_secret=SecretStr("a-secret-of-sixteen"),
    )
    # The worker looks when it is told, and only then.
    deaf = config.model_copy(update={"cancel_poll_s": NEVER_S, "heartbeat_s": NEVER_S, "lease_s": NEVER_S})
    stop, issuer = Stop(before=2), Issuer()
    inference = FakeInference(gate=stop)
    async with app.opened(config) as of_api, app.opened(deaf) as of_worker, asyncio.TaskGroup() as group:
        sources = Sources(
            history=History(of_worker.store, MemoryHistoryCache(), messages_max=100),
            retrieval=FakeRetrieval(),
            inference=inference,
            passages_max=8,
        )
        relay = app.relays_of(config, of_worker)
        work = group.create_task(app.worker_of(deaf, of_worker, sources, relay).run())
        registers, loops = app.api(config, of_api, FakeKnowledgeBases(), FakePrompts())
        async with (
            server.running(
                config, servicers=registers, verifier=issuer.verifier("conversation"), loops=loops
            ) as served,
            grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel,
        ):
            yield Apart(User(channel, issuer, of_api.reapers[0]), inference, stop)
        work.cancel()


async def _cancel(apart: Apart, turn: turn_pb2.Turn) -> None:
    await apart.ada.call("CancelTurn", turns_pb.CancelTurnRequest(turn_id=turn.id))


async def _ask_instead(apart: Apart, turn: turn_pb2.Turn) -> None:
    await apart.ada.ask(turn.conversation_id, on_conflict=turns_pb.ON_CONFLICT_CANCEL_RUNNING)


async def _delete(apart: Apart, turn: turn_pb2.Turn) -> None:
    await apart.ada.call("DeleteConversation", pb.DeleteConversationRequest(conversation_id=turn.conversation_id))


@pytest.mark.parametrize("act", [_cancel, _ask_instead, _delete])
async def test_what_the_api_is_told_stops_the_answer_in_the_worker(
    apart: Apart, act: Callable[[Apart, turn_pb2.Turn], Awaitable[None]]
) -> None:
    turn = await apart.answering()
    apart.inference.gate = None
    assert apart.inference.starts == 1

    await act(apart, turn)

    # The first answer never goes on by itself: its gate stays shut.
    await until(lambda: apart.inference.open == 0 or apart.inference.starts > 1, within_s=60.0)
    assert not apart.stop.opened.is_set()
