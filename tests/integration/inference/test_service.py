"""The service over real gRPC, with identity, policy and errors as they are in production."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

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
from services.inference.course import Tactics
from services.inference.routes.shelf import Shelf
from services.inference.settings import Settings
from services.mesh.client import open_channel, streaming, unary
from services.mesh.errors import ERROR_BY_REASON, MeshError, Reason
from services.mesh.server import running
from services.mesh.settings import SettingsError
from tests.support.inference import QUESTION, SEA, SKY
from tests.support.provider_double import Fault, ProviderDouble, running_double
from tests.support.tokens import Issuer
from tests.support.waiting import until

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


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with served() as opened:
        yield opened


async def refused(call: Awaitable[object]) -> MeshError:
    with pytest.raises(MeshError) as error:
        await call
    return error.value


def events(
    responses: list[generation_service_pb2.StreamGenerateResponse],
) -> list[generation_service_pb2.GenerateEvent]:
    return [event for response in responses for event in response.events]


async def test_default_model_answers_with_citations_and_costs_nothing(client: Client) -> None:
    answer = await client.generate()

    assert answer.model == "extractive"
    assert answer.finish_reason == generation_pb2.FINISH_REASON_STOP
    cited = answer.citations[0]
    assert (
        answer.text[cited.start : cited.end]
        == SKY.text[cited.source_start : cited.source_end]
        == "The sky is blue because air scatters short waves most."
    )
    assert answer.usage.HasField("cost_micros")
    assert answer.usage.cost_micros == 0
    assert answer.context.passage_tokens > 0


async def test_stream_and_whole_answer_are_the_same(client: Client) -> None:
    whole = await client.generate()

    found = events(await client.stream())

    assert found[0].WhichOneof("event") == "started"
    assert found[-1].WhichOneof("event") == "finished"
    assert found[-1].finished.answer == whole
    assert "".join(event.text.text for event in found) == whole.text
    assert [event.citation for event in found if event.WhichOneof("event") == "citation"] == list(whole.citations)


async def test_offsets_of_deltas_leave_no_gap(client: Client) -> None:
    offset = 0
    for event in events(await client.stream(model="scripted/long")):
        if event.WhichOneof("event") == "text":
            assert event.text.offset == offset
            offset += len(event.text.text)

    assert offset > 0


async def test_events_that_are_ready_together_travel_together(client: Client) -> None:
    responses = await client.stream(model="scripted/burst")

    assert len(events(responses)) == 202
    assert len(responses) < 20


async def test_cost_of_an_unknown_model_is_absent(client: Client) -> None:
    answer = await client.generate(model="scripted/burst")

    assert answer.usage.output_tokens == 200
    assert not answer.usage.HasField("cost_micros")


async def test_fallback_is_an_event(client: Client) -> None:
    found = events(await client.stream(model="scripted/broken", fallback_models=["extractive"]))

    switched = found[1].provider_switched
    assert (switched.from_model, switched.to_model, switched.reason, switched.offset) == (
        "scripted/broken",
        "extractive",
        "RATE_LIMITED",
        0,
    )
    assert found[-1].finished.answer.model == "extractive"


async def test_error_after_the_start_ends_the_stream_with_a_status(client: Client) -> None:
    request = generation_service_pb2.StreamGenerateRequest(prompt=prompt(), model="scripted/half")
    text = ""

    async def read() -> None:
        nonlocal text
        async with streaming(client.generation.StreamGenerate(request, metadata=client.metadata)) as responses:
            async for response in responses:
                text += "".join(event.text.text for event in response.events)

    error = await refused(read())

    assert error.reason is Reason.PROVIDER_UNAVAILABLE
    assert text == "word1 word2 "


@pytest.mark.parametrize(
    ("fields", "reason", "metadata"),
    [
        ({"model": "nobody/x"}, Reason.MODEL_UNKNOWN, {"model": "nobody/x"}),
        ({"model": "scripted/none"}, Reason.MODEL_UNKNOWN, {"model": "scripted/none"}),
        ({"fallback_models": ["nobody/x"]}, Reason.MODEL_UNKNOWN, {"model": "nobody/x"}),
        ({"model": "scripted/broken"}, Reason.RATE_LIMITED, {"model": "scripted/broken"}),
        ({"fallback_models": ["extractive"] * 9}, Reason.INVALID_ARGUMENT, {}),
        ({"parameters": generation_pb2.Parameters(temperature=3)}, Reason.INVALID_ARGUMENT, {}),
    ],
)
async def test_refusals(client: Client, fields: dict[str, object], reason: Reason, metadata: dict[str, str]) -> None:
    error = await refused(client.generate(**fields))

    assert isinstance(error, ERROR_BY_REASON[reason])
    assert dict(error.metadata) == metadata


async def test_retry_after_reaches_the_caller(client: Client) -> None:
    assert (await refused(client.generate(model="scripted/broken"))).retry_after_s == 7


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (generation_service_pb2.GenerateRequest(), "prompt.messages"),
        (
            generation_service_pb2.GenerateRequest(
                prompt=generation_pb2.Prompt(messages=[generation_pb2.PromptMessage(text="x")])
            ),
            "prompt.messages[0].role",
        ),
    ],
)
async def test_malformed_prompt_names_the_field(
    client: Client, request_: generation_service_pb2.GenerateRequest, field: str
) -> None:
    error = await refused(unary(client.generation.Generate(request_, metadata=client.metadata)))

    assert [violation.field for violation in error.fields] == [field]


async def test_prompt_that_does_not_fit_is_refused(client: Client) -> None:
    request = generation_service_pb2.GenerateRequest(prompt=prompt("x" * 600_000))

    error = await refused(unary(client.generation.Generate(request, metadata=client.metadata)))

    assert error.reason is Reason.CONTEXT_LENGTH_EXCEEDED
    assert error.metadata.keys() >= {"input_tokens", "input_tokens_max"}


async def test_tokens_are_counted_and_called_estimated(client: Client) -> None:
    request = generation_service_pb2.CountTokensRequest(prompt=prompt())

    response = await unary(client.generation.CountTokens(request, metadata=client.metadata))

    assert response.input_tokens > 20
    assert response.estimated


async def test_models_are_listed_with_prices(client: Client) -> None:
    response = await unary(client.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=client.metadata))

    assert [(model.name, model.is_default) for model in response.models] == [("extractive", True)]
    assert response.models[0].HasField("input_price_micros")


async def test_model_that_the_catalog_does_not_know_is_found_without_a_price(client: Client) -> None:
    request = model_service_pb2.GetModelRequest(model="scripted/anything")

    response = await unary(client.models.GetModel(request, metadata=client.metadata))

    assert response.model.name == "scripted/anything"
    assert not response.model.HasField("input_price_micros")
    assert response.model.context_tokens == 0


async def test_model_of_a_provider_that_is_off_is_unknown(client: Client) -> None:
    request = model_service_pb2.GetModelRequest(model="openai/gpt-6-luna")

    error = await refused(unary(client.models.GetModel(request, metadata=client.metadata)))

    assert error.reason is Reason.MODEL_UNKNOWN


async def test_call_without_its_scope_is_refused(client: Client) -> None:
    metadata = client.issuer.metadata(audience="inference", scopes=["models:read"])
    request = generation_service_pb2.GenerateRequest(prompt=prompt())

    error = await refused(unary(client.generation.Generate(request, metadata=metadata)))

    assert error.reason is Reason.SCOPE_MISSING


async def test_deadline_of_the_caller_ends_the_call(client: Client) -> None:
    request = generation_service_pb2.GenerateRequest(prompt=prompt(), model="scripted/mute")

    error = await refused(unary(client.generation.Generate(request, metadata=client.metadata, timeout=0.3)))

    assert error.reason in {Reason.DEADLINE_EXCEEDED, Reason.PROVIDER_TIMEOUT}


@pytest.fixture
async def double() -> AsyncIterator[ProviderDouble]:
    async with running_double() as running_:
        yield running_


async def test_keys_switch_providers_on_and_choose_the_default(double: ProviderDouble) -> None:
    double.pieces = ("The sky is blue [1].",)
    async with served(openai_api_key=SecretStr("sk-test"), openai_base_url=double.openai_url) as client:
        answer = await client.generate()
        listed = await unary(client.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=client.metadata))

    assert answer.model == "openai/gpt-6.2-sol"
    assert answer.text == "The sky is blue [1]."
    assert answer.usage.cost_micros == (100 * 2 + 20 * 2 + 30 * 10)
    assert [cited.passage for cited in answer.citations] == [1]
    assert double.seen[0].body["messages"][-1]["content"].endswith(QUESTION)
    assert "openai/gpt-6-luna" in [model.name for model in listed.models]


async def test_local_server_needs_no_key(double: ProviderDouble) -> None:
    async with served(openai_base_url=double.openai_url) as client:
        answer = await client.generate(model="openai/llama-4")
        default = await client.generate()

    assert answer.model == "openai/llama-4"
    assert not answer.usage.HasField("cost_micros")
    assert default.model == "extractive"


async def test_caller_that_leaves_frees_the_upstream_connection(double: ProviderDouble) -> None:
    double.fault = Fault.STALL
    async with served(anthropic_api_key=SecretStr("sk-test"), anthropic_base_url=double.anthropic_url) as client:
        request = generation_service_pb2.StreamGenerateRequest(prompt=prompt())
        async with streaming(client.generation.StreamGenerate(request, metadata=client.metadata)) as responses:
            await anext(responses)
            await until(lambda: double.open_requests == 1)

        await until(lambda: double.open_requests == 0)


async def test_unary_caller_that_leaves_frees_the_upstream_connection(double: ProviderDouble) -> None:
    double.fault = Fault.SILENCE
    async with served(anthropic_api_key=SecretStr("sk-test"), anthropic_base_url=double.anthropic_url) as client:
        call = asyncio.create_task(client.generate())
        await until(lambda: double.open_requests == 1)
        call.cancel()

        await until(lambda: double.open_requests == 0)


async def test_providers_tell_how_they_stand(double: ProviderDouble) -> None:
    double.fault, double.retry_after = Fault.RATE_LIMITED, {"retry-after": "40"}
    async with served(openai_api_key=SecretStr("sk-test"), openai_base_url=double.openai_url) as client:
        await client.generate(fallback_models=["extractive"])
        request = provider_service_pb2.ListProvidersRequest()
        response = await unary(client.providers.ListProviders(request, metadata=client.metadata))

    found = {provider.name: provider for provider in response.providers}
    assert list(found) == ["extractive", "openai", "scripted"]
    assert [key.name for key in found["openai"].keys] == ["openai/operator"]
    target = found["openai"].targets[0]
    assert (target.model, target.key, target.calls, target.in_flight) == (
        "openai/gpt-6.2-sol",
        "openai/operator",
        1,
        0,
    )
    assert dict(target.failures) == {"rate_limited": 1}
    assert target.state == provider_service_pb2.CIRCUIT_STATE_CLOSED
    assert 0 < target.cooling.seconds <= 40
    assert not target.HasField("latency")
    assert found["extractive"].targets[0].HasField("latency")
    assert "sk-test" not in str(response)


async def test_open_restart_is_an_event_with_its_offset(client: Client) -> None:
    request = generation_service_pb2.StreamGenerateRequest(
        prompt=prompt(), model="scripted/half", fallback_models=["extractive"], accepts_restart=True
    )
    text = ""
    async with streaming(client.generation.StreamGenerate(request, metadata=client.metadata)) as responses:
        found = [event async for response in responses for event in response.events]
    for event in found:
        match event.WhichOneof("event"):
            case "text":
                assert event.text.offset == len(text)
                text += event.text.text
            case "provider_switched":
                text = text[: event.provider_switched.offset]

    assert text == found[-1].finished.answer.text
    assert found[-1].finished.answer.model == "extractive"


async def test_changed_file_of_providers_holds_without_a_restart(double: ProviderDouble, tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text('[aliases]\nquick = "extractive"\n')
    entry = (
        f'[[provider]]\nname = "rack"\nkind = "openai-compatible"\nbase_url = "{double.openai_url}"\n'
        '[[route]]\nname = "quick"\ntargets = [{ model = "rack/llama" }]\n'
    )
    async with served(providers_file=str(path)) as client:
        before = await client.generate(model="quick")
        path.write_text(entry)
        await client.shelf.refresh()
        after = await client.generate(model="quick")
        listed = await unary(client.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=client.metadata))

    assert (before.model, after.model) == ("extractive", "rack/llama")
    assert "quick" in [model.name for model in listed.models]


async def test_file_of_providers_that_does_not_fit_keeps_the_service_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text("default = 7\n")

    with pytest.raises(SettingsError, match=r"providers\.toml:1: default: "):
        async with served(providers_file=str(path)):
            pass
