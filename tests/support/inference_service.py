"""Inference over real gRPC, served for a test with identity, policy and errors as they are in production."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from parley.inference.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    provider_service_pb2,
    provider_service_pb2_grpc,
)
from services.inference.app import open_shelf, wire_up
from services.inference.generating.course import Tactics
from services.inference.routes.shelf import Shelf
from services.inference.settings import Settings
from services.mesh.client import open_channel, streaming, unary
from services.mesh.errors import MeshError
from services.mesh.server import running
from tests.support.inference import QUESTION, SEA, SKY
from tests.support.tokens import Issuer

SCOPES = ("inference:generate", "models:read", "providers:read")
SCRIPTS = """{
  "long": {"tokens": 200, "delay_ms": 1},
  "burst": {"tokens": 200, "input_tokens": 9, "output_tokens": 200},
  "mute": {"stall_after": 0},
  "broken": {"fail_after": 0, "reason": "RATE_LIMITED", "retry_after_s": 7},
  "half": {"tokens": 4, "fail_after": 2}
}"""


@dataclass(frozen=True, slots=True)
class Client:
    """Any in its methods: fields of a request by name, which the message itself checks."""

    generation: generation_service_pb2_grpc.GenerationServiceStub
    models: model_service_pb2_grpc.ModelServiceStub
    providers: provider_service_pb2_grpc.ProviderServiceStub
    shelf: Shelf
    issuer: Issuer
    metadata: tuple[tuple[str, str], ...]

    async def generate(self, **fields: Any) -> generation_pb2.Answer:
        request = generation_service_pb2.GenerateRequest(prompt=prompt(), **fields)
        return (await unary(self.generation.Generate(request, metadata=self.metadata, timeout=20))).answer

    async def stream(self, **fields: Any) -> list[generation_service_pb2.StreamGenerateResponse]:
        request = generation_service_pb2.StreamGenerateRequest(prompt=prompt(), **fields)
        async with streaming(self.generation.StreamGenerate(request, metadata=self.metadata)) as responses:
            return [response async for response in responses]


def prompt(question: str = QUESTION) -> generation_pb2.Prompt:
    return generation_pb2.Prompt(
        messages=[generation_pb2.PromptMessage(role=generation_pb2.ROLE_USER, text=question)],
        passages=[generation_pb2.PromptPassage(title=one.title, text=one.text) for one in (SKY, SEA)],
    )


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[Client]:
    issuer = Issuer()
    configured = Settings(auth_target="127.0.0.1:1", scripted=SCRIPTS, not_serving_pause_s=0, **settings)
    async with AsyncExitStack() as stack:
        shelf = open_shelf(configured, stack)
        servicers = wire_up(configured, shelf.router, Tactics())
        server = await stack.enter_async_context(
            running(configured, servicers=servicers, verifier=issuer.verifier("inference"))
        )
        channel = await stack.enter_async_context(
            open_channel(
                f"127.0.0.1:{server.port}",
                [generation_service_pb2.DESCRIPTOR, model_service_pb2.DESCRIPTOR, provider_service_pb2.DESCRIPTOR],
            )
        )
        yield Client(
            generation_service_pb2_grpc.GenerationServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
            provider_service_pb2_grpc.ProviderServiceStub(channel),
            shelf,
            issuer,
            issuer.metadata(audience="inference", scopes=SCOPES),
        )


async def refused(call: Awaitable[object]) -> MeshError:
    with pytest.raises(MeshError) as error:
        await call
    return error.value
