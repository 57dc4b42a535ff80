"""The service over real gRPC: answers, streams and refusals."""

import pytest

from parley.inference.v1 import generation_pb2, generation_service_pb2, model_service_pb2
from services.mesh.client import streaming, unary
from services.mesh.errors import ERROR_BY_REASON, Reason
from tests.support.inference import SKY
from tests.support.inference_service import Client, prompt, refused


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


@pytest.mark.parametrize(
    ("model", "defers_started", "is_alone"),
    [("scripted/long", False, True), ("scripted/long", True, False), ("extractive", False, False)],
)
async def test_start_travels_alone_unless_nobody_shows_it_or_text_is_there_soon(
    client: Client, model: str, *, defers_started: bool, is_alone: bool
) -> None:
    responses = await client.stream(model=model, defers_started=defers_started)

    assert responses[0].events[0].HasField("started")
    assert (len(responses[0].events) == 1) == is_alone


async def test_start_that_is_deferred_comes_before_an_error(client: Client) -> None:
    found: list[generation_service_pb2.StreamGenerateResponse] = []
    request = generation_service_pb2.StreamGenerateRequest(
        prompt=prompt(), model="scripted/broken", defers_started=True
    )

    async def read() -> None:
        async with streaming(client.generation.StreamGenerate(request, metadata=client.metadata)) as responses:
            async for response in responses:
                found.append(response)  # noqa: PERF401 - those before the error are wanted

    error = await refused(read())

    assert error.reason is Reason.RATE_LIMITED
    assert [event.WhichOneof("event") for event in events(found)] == ["started"]


async def test_cost_of_an_unknown_model_is_absent(client: Client) -> None:
    answer = await client.generate(model="scripted/burst")

    assert answer.usage.output_tokens == 200
    assert not answer.usage.HasField("cost_micros")


async def test_whole_answer_of_a_stream_is_its_only_event(client: Client) -> None:
    whole = await client.generate()

    found = events(await client.stream(is_whole=True))

    assert [event.WhichOneof("event") for event in found] == ["finished"]
    assert found[0].finished.answer.text == whole.text


async def test_whole_answer_of_a_stream_begins_again_where_it_broke_off(client: Client) -> None:
    found = events(await client.stream(model="scripted/half", fallback_models=["extractive"], is_whole=True))

    assert [event.WhichOneof("event") for event in found] == ["finished"]
    assert found[0].finished.answer.model == "extractive"


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
