"""The service over real gRPC, before a provider double: what is switched on, left, told and read again."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from parley.inference.v1 import generation_service_pb2, model_service_pb2, provider_service_pb2
from services.mesh.client import streaming, unary
from services.mesh.settings import SettingsError
from tests.support.inference import QUESTION
from tests.support.inference_service import prompt, served
from tests.support.provider_double import Fault, ProviderDouble
from tests.support.waiting import until


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
