"""The edge on fake services: real gRPC behind it, and real HTTP in front where a test asks for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from edge.app import Edge, build
from edge.clients import open_channels
from edge.server import listening
from edge.settings import EdgeSettings
from parley.auth.v1 import token_service_pb2_grpc, user_service_pb2_grpc
from parley.conversation.v1 import conversation_service_pb2_grpc, turn_service_pb2_grpc
from parley.inference.v1 import generation_service_pb2_grpc, model_service_pb2_grpc
from parley.retrieval.v1 import (
    document_service_pb2_grpc,
    knowledge_base_service_pb2_grpc,
    search_service_pb2_grpc,
)
from services.mesh.clock import ManualClock
from services.mesh.debug_http import Health
from services.mesh.server import Register, running
from services.mesh.settings import ServerSettings
from tests.support.fakes.auth import API_KEY, FakeTokens, FakeUsers
from tests.support.fakes.conversation import FakeConversations, FakeTurns
from tests.support.fakes.embedding import FakeEmbedding
from tests.support.fakes.inference import FakeGenerations, FakeModels
from tests.support.fakes.retrieval import FakeDocuments, FakeKnowledgeBases
from tests.support.tokens import Issuer

KEY_HEADERS: Final = {"authorization": f"Bearer {API_KEY}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fakes:
    """The services behind an edge under test."""

    tokens: FakeTokens
    conversations: FakeConversations
    turns: FakeTurns
    bases: FakeKnowledgeBases
    documents: FakeDocuments
    embedding: FakeEmbedding
    generations: FakeGenerations


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeUnderTest:
    """An edge with its fakes.

    Attributes:
        client: speaks to the application, without a socket unless the edge listens.
        url: where it listens; empty when it does not.
    """

    edge: Edge
    fakes: Fakes
    client: httpx.AsyncClient
    clock: ManualClock
    url: str = ""


@asynccontextmanager
async def running_edge(
    *,
    listens: bool = False,
    inference: Sequence[Register] = (),
    **overrides: Any,  # Any: any setting
) -> AsyncIterator[EdgeUnderTest]:
    """An edge on fresh fakes, or with the real `inference`; `overrides` are its settings."""
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        fakes, targets = await _start_fakes(stack, group, inference)
        given: dict[str, Any] = {  # Any: settings of all types
            **targets,
            "workload_secret": "0123456789abcdef",
            "http_listen": "127.0.0.1:0",
            "drain_s": 5.0,
            "not_serving_pause_s": 0.0,
            **overrides,
        }
        settings = EdgeSettings(**given)
        channels = await stack.enter_async_context(open_channels(settings))
        clock, health = ManualClock(), Health()
        edge = build(settings, channels, health, clock=clock)
        transport: httpx.AsyncBaseTransport | None = None
        url = "http://edge.test"
        if listens:
            port = await stack.enter_async_context(listening(settings, edge, health))
            url = f"http://127.0.0.1:{port}"
        else:
            transport = httpx.ASGITransport(edge.app)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=url, timeout=20))
        yield EdgeUnderTest(edge=edge, fakes=fakes, client=client, clock=clock, url=url if listens else "")


async def _start_fakes(
    stack: AsyncExitStack, group: asyncio.TaskGroup, inference: Sequence[Register]
) -> tuple[Fakes, dict[str, str]]:
    issuer = Issuer()
    fakes = Fakes(
        tokens=FakeTokens(issuer),
        conversations=FakeConversations(),
        turns=FakeTurns(group),
        bases=FakeKnowledgeBases(),
        documents=FakeDocuments(),
        embedding=FakeEmbedding(),
        generations=FakeGenerations(),
    )
    served: dict[str, list[Register]] = {
        "auth": [
            _register(token_service_pb2_grpc.add_TokenServiceServicer_to_server, fakes.tokens),
            _register(user_service_pb2_grpc.add_UserServiceServicer_to_server, FakeUsers()),
        ],
        "conversation": [
            _register(conversation_service_pb2_grpc.add_ConversationServiceServicer_to_server, fakes.conversations),
            _register(turn_service_pb2_grpc.add_TurnServiceServicer_to_server, fakes.turns),
        ],
        "retrieval": [
            _register(knowledge_base_service_pb2_grpc.add_KnowledgeBaseServiceServicer_to_server, fakes.bases),
            _register(document_service_pb2_grpc.add_DocumentServiceServicer_to_server, fakes.documents),
            _register(search_service_pb2_grpc.add_EmbeddingServiceServicer_to_server, fakes.embedding),
        ],
        "inference": list(inference)
        or [
            _register(generation_service_pb2_grpc.add_GenerationServiceServicer_to_server, fakes.generations),
            _register(model_service_pb2_grpc.add_ModelServiceServicer_to_server, FakeModels()),
        ],
    }
    targets = {}
    for service, servicers in served.items():
        settings = ServerSettings(drain_s=1.0, not_serving_pause_s=0.0)
        server = await stack.enter_async_context(
            running(settings, servicers=servicers, verifier=issuer.verifier(service))
        )
        targets[f"{service}_target"] = f"127.0.0.1:{server.port}"
    return fakes, targets


def _register(add: Callable[[Any, Any], object], servicer: object) -> Register:
    """Any: the fakes have the methods of their contracts, but not their abstract base classes."""
    return lambda server: add(servicer, server)
