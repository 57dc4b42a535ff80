"""Prompts by name, summaries and what models were given to read, over the contract of inference."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from parley.inference.v1 import budget_pb2, generation_pb2, generation_service_pb2, prompt_service_pb2
from services.conversation import clients
from services.conversation.context import ContextPart, ContextReport, Omission, OmissionReason, PromptReference
from services.conversation.model import FinishReason, GenerationParameters, Role, Usage
from services.conversation.ports import (
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    PromptMessage,
    Purpose,
    WholeText,
)
from services.mesh import tokens
from services.mesh.client import open_channel
from services.mesh.errors import InvalidArgument, NotFound
from services.mesh.tokens import WorkloadTokens
from tests.support.conversation import ADA
from tests.support.conversation_peers import Peers

REFERENCE = PromptReference(prompt="support", variables=(("name", "Ada"),))
REQUEST = GenerationRequest(
    model="a/b",
    system="Be brief",
    examples=(),
    messages=(PromptMessage(Role.USER, "q"),),
    passages=(),
    parameters=GenerationParameters(output_tokens_max=7),
    prompt=REFERENCE,
    summary="They spoke.",
    input_tokens_max=9_000,
    credential_id="key_1",
)


@dataclass(slots=True)
class Adapters:
    inference: clients.InferenceClient
    prompts: clients.PromptClient


@pytest.fixture
async def adapters(peers: Peers) -> AsyncIterator[Adapters]:
    async with AsyncExitStack() as stack:
        contracts = [tokens.CONTRACT, clients.INFERENCE, clients.PROMPTS]
        channel = await stack.enter_async_context(open_channel(peers.target, contracts))
        workload = WorkloadTokens(channel, workload="conversation", secret="a-secret-of-sixteen")
        yield Adapters(
            clients.InferenceClient(channel, workload, silence_s_max=20.0), clients.PromptClient(channel, workload)
        )


async def test_an_answer_names_prompt_and_purpose_and_tells_what_was_read(adapters: Adapters, peers: Peers) -> None:
    context = generation_pb2.ContextReport(
        system_tokens=1,
        history_tokens=2,
        summary_tokens=3,
        omissions=[
            generation_pb2.ContextOmission(
                part=generation_pb2.CONTEXT_PART_SUMMARY, reason=generation_pb2.OMISSION_REASON_BUDGET, count=1
            ),
            generation_pb2.ContextOmission(count=1),
        ],
    )
    peers.generation.told = generation_service_pb2.Started(model="m", context=context, prompt_revision="prm_1/2")

    async with adapters.inference.generate(ADA, REQUEST) as batches:
        found = [step async for batch in batches for step in batch]

    report = ContextReport(
        system_tokens=1,
        history_tokens=2,
        summary_tokens=3,
        omissions=(Omission(ContextPart.SUMMARY, OmissionReason.BUDGET, 1),),
        prompt_revision="prm_1/2",
    )
    assert found[0] == GenerationStarted("m", 6, context=report)
    last = found[-1]
    assert isinstance(last, GenerationFinished)
    assert last.context == report
    (asked,) = peers.generation.requests
    assert (asked.purpose, asked.prompt.summary) == (budget_pb2.PURPOSE_ANSWER, "They spoke.")
    assert asked.prompt.input_tokens_max == 9_000
    assert (asked.prompt_ref.prompt, dict(asked.prompt_ref.variables)) == ("support", {"name": "Ada"})
    assert asked.prompt_ref.WhichOneof("version") is None


async def test_a_text_that_nobody_watches_comes_whole(adapters: Adapters, peers: Peers) -> None:
    request = GenerationRequest(
        model="cheap/one",
        system="Sum up",
        examples=(),
        messages=(PromptMessage(Role.USER, "q"),),
        passages=(),
        parameters=GenerationParameters(output_tokens_max=7),
        credential_id="key_1",
        purpose=Purpose.SUMMARY,
    )

    written = await adapters.inference.write(ADA, request, time_s=20.0)

    assert written == WholeText(
        text="They spoke.",
        finish_reason=FinishReason.STOP,
        model="cheap/one",
        usage=Usage(input_tokens=9, output_tokens=2),
    )
    (asked,) = peers.generation.wholes
    assert (asked.purpose, asked.parameters.output_tokens_max) == (budget_pb2.PURPOSE_SUMMARY, 7)
    assert not asked.HasField("prompt_ref")
    assert peers.auth.credentials == ["key_1"]


@pytest.mark.parametrize(
    ("reference", "version", "value"),
    [
        (PromptReference(prompt="p", alias="staging"), "alias", "staging"),
        (PromptReference(prompt="p", revision=3), "revision", 3),
        (PromptReference(prompt="p"), None, ""),
    ],
)
async def test_a_prompt_is_looked_up_with_its_version(
    adapters: Adapters, peers: Peers, reference: PromptReference, version: str | None, value: str | int
) -> None:
    await adapters.prompts.require(ADA, reference)

    (asked,) = peers.prompts.requests
    assert asked.WhichOneof("version") == version
    assert version is None or getattr(asked, version) == value


async def test_a_prompt_that_is_not_there_or_cannot_be_filled_is_refused(adapters: Adapters, peers: Peers) -> None:
    peers.prompts.problems = [
        prompt_service_pb2.VariableProblem(variable="name", is_missing=True, description="a text")
    ]
    with pytest.raises(InvalidArgument) as refused:
        await adapters.prompts.require(ADA, REFERENCE)
    assert refused.value.fields[0].field == "prompt.variables['name']"

    peers.prompts.failure = NotFound.of("prompt")
    with pytest.raises(NotFound):
        await adapters.prompts.require(ADA, REFERENCE)
