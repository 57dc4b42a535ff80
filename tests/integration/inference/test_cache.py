"""The cache over real gRPC, between replicas that share a Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr

from parley.inference.v1 import (
    cache_service_pb2,
    cache_service_pb2_grpc,
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
)
from services.inference.app import open_cache, open_shelf, wire_up
from services.inference.generating.course import Tactics
from services.inference.settings import Settings
from services.mesh.client import open_channel, streaming, unary
from services.mesh.errors import InvalidArgument, ModelUnknown, ScopeMissing, Unavailable
from services.mesh.ids import new_id
from services.mesh.interceptors.identity import AUTHORIZATION_KEY
from services.mesh.server import running
from services.mesh.settings import ValkeySettings
from services.mesh.valkey import open_valkey
from tests.support.inference_service import prompt
from tests.support.tokens import Issuer

ROUTES: Final = """
[[route]]
name = "kept"
targets = [{ model = "scripted/count" }]
cache = { exact_s = 600 }
"""
SCRIPTS: Final = '{"count": {"tokens": 20}}'
SCOPES: Final = ("inference:generate", "cache:write")


@dataclass(frozen=True, slots=True)
class Replica:
    generation: generation_service_pb2_grpc.GenerationServiceStub
    cache: cache_service_pb2_grpc.CacheServiceStub
    issuer: Issuer

    async def ask(
        self,
        organization_id: str,
        model: str = "kept",
        cache: generation_pb2.CacheUse.ValueType = generation_pb2.CACHE_USE_UNSPECIFIED,
    ) -> generation_pb2.Answer:
        request = generation_service_pb2.GenerateRequest(prompt=prompt(), model=model, cache=cache)
        call = self.generation.Generate(request, metadata=self.metadata(organization_id), timeout=60)
        return (await unary(call)).answer

    async def purge(self, organization_id: str, model: str = "", scopes: tuple[str, ...] = SCOPES) -> None:
        request = cache_service_pb2.PurgeCacheRequest(model=model)
        await unary(self.cache.PurgeCache(request, metadata=self.metadata(organization_id, scopes), timeout=60))

    def metadata(self, organization_id: str, scopes: tuple[str, ...] = SCOPES) -> tuple[tuple[str, str], ...]:
        token = self.issuer.mint(audience="inference", scopes=scopes, organization_id=organization_id)
        return ((AUTHORIZATION_KEY, f"Bearer {token}"),)


@asynccontextmanager
async def replica(folder: Path, valkey_url: str) -> AsyncIterator[Replica]:
    routes = folder / "providers.toml"
    routes.write_text(ROUTES, encoding="utf-8")
    issuer = Issuer()
    settings = Settings(auth_target="127.0.0.1:1", scripted=SCRIPTS, not_serving_pause_s=0, providers_file=str(routes))
    async with AsyncExitStack() as stack:
        shelf = open_shelf(settings, stack)
        valkey = await stack.enter_async_context(
            open_valkey(ValkeySettings(valkey_url=SecretStr(valkey_url), valkey_timeout_s=60), application="test")
        )
        cache = await open_cache(valkey, None, stack)
        servicers = wire_up(settings, shelf.router, Tactics(), cache=cache)
        server = await stack.enter_async_context(
            running(settings, servicers=servicers, verifier=issuer.verifier("inference"))
        )
        contracts = [generation_service_pb2.DESCRIPTOR, cache_service_pb2.DESCRIPTOR]
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{server.port}", contracts))
        yield Replica(
            generation_service_pb2_grpc.GenerationServiceStub(channel),
            cache_service_pb2_grpc.CacheServiceStub(channel),
            issuer,
        )


@pytest.fixture
async def replicas(tmp_path: Path, valkey_url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    async with replica(tmp_path, valkey_url) as here, replica(tmp_path, valkey_url) as there:
        yield here, there


async def test_replicas_share_what_is_stored_and_what_is_void(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    organization_id, other = new_id("org"), new_id("org")

    made = await here.ask(organization_id)
    told = await until_kept(there, organization_id)
    assert not made.HasField("cache")
    assert told.cache.kind == generation_pb2.CACHE_HIT_KIND_EXACT
    assert told.text == made.text
    assert (told.usage.input_tokens, told.usage.output_tokens, told.usage.cost_micros) == (0, 0, 0)
    assert told.usage.HasField("cost_micros")

    await here.purge(other)
    assert (await there.ask(organization_id)).HasField("cache")
    await here.purge(organization_id, "kept")
    assert not (await there.ask(organization_id)).HasField("cache")
    await until_kept(here, organization_id)
    await there.purge(organization_id)
    assert not (await here.ask(organization_id, cache=generation_pb2.CACHE_USE_OFF)).HasField("cache")
    assert not (await here.ask(organization_id)).HasField("cache")


async def until_kept(asked: Replica, organization_id: str) -> generation_pb2.Answer:
    """The stored answer: it is put away after its reader has got it."""
    async with asyncio.timeout(60):
        while True:
            answer = await asked.ask(organization_id)
            if answer.cache.kind == generation_pb2.CACHE_HIT_KIND_EXACT:
                return answer


async def test_stream_tells_with_its_first_event_that_it_was_stored(replicas: tuple[Replica, Replica]) -> None:
    here, _ = replicas
    organization_id = new_id("org")
    await until_kept(here, organization_id)

    request = generation_service_pb2.StreamGenerateRequest(prompt=prompt(), model="kept")
    call = here.generation.StreamGenerate(request, metadata=here.metadata(organization_id), timeout=60)
    async with streaming(call) as responses:
        events = [event async for response in responses for event in response.events]

    assert events[0].started.cache.kind == generation_pb2.CACHE_HIT_KIND_EXACT
    assert events[-1].finished.answer.cache == events[0].started.cache


async def test_purging_needs_its_scope_and_a_name_that_exists(replicas: tuple[Replica, Replica]) -> None:
    here, _ = replicas
    with pytest.raises(ScopeMissing):
        await here.purge(new_id("org"), scopes=("inference:generate",))
    with pytest.raises(ModelUnknown):
        await here.purge(new_id("org"), "nobody/nothing")


async def test_use_that_the_contract_does_not_have_is_refused(replicas: tuple[Replica, Replica]) -> None:
    here, _ = replicas
    with pytest.raises(InvalidArgument):
        await here.ask(new_id("org"), cache=generation_pb2.CacheUse.ValueType(9))


async def test_without_valkey_answers_are_made_and_purging_says_so(tmp_path: Path) -> None:
    async with replica(tmp_path, "redis://127.0.0.1:9") as alone:
        organization_id = new_id("org")
        for _ in range(2):
            assert (await alone.ask(organization_id)).text
        with pytest.raises(Unavailable):
            await alone.purge(organization_id)
