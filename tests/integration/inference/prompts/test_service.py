"""Prompts over real gRPC: made, moved, rendered, and used by an answer."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from parley.inference.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    prompt_pb2,
    prompt_service_pb2,
    prompt_service_pb2_grpc,
)
from services.mesh.client import open_channel, streaming, unary
from services.mesh.errors import MeshError, Reason
from services.mesh.server import running
from tests.integration.inference.prompts.conftest import Served
from tests.support.inference_service import refused
from tests.support.prompts import OTHER_ORGANIZATION
from tests.support.tokens import Issuer

SCOPES = ("inference:generate", "prompts:read", "prompts:write")
STYLE = prompt_pb2.PromptVariable(
    name="style", type=prompt_pb2.VARIABLE_TYPE_ENUM, choices=["brief", "long"], default_value="brief"
)
TEAM = prompt_pb2.PromptVariable(name="team", type=prompt_pb2.VARIABLE_TYPE_STRING, description="Who answers.")
CONTENT = prompt_pb2.PromptContent(
    template="You are {{team}}. Be {{style}}.",
    variables=[STYLE, TEAM],
    examples=[
        generation_pb2.Example(user="What is red?", assistant="A colour."),
        generation_pb2.Example(user="What is a song?", assistant="Music."),
    ],
    selection=prompt_pb2.EXAMPLE_SELECTION_NEAREST,
    nearest_count=1,
    defaults=prompt_pb2.PromptDefaults(temperature=0.5),
)


@dataclass(frozen=True, slots=True)
class Client:
    """Calls by name; Any: fields of a request by name, which the message itself checks."""

    prompts: prompt_service_pb2_grpc.PromptServiceStub
    generation: generation_service_pb2_grpc.GenerationServiceStub
    issuer: Issuer
    metadata: tuple[tuple[str, str], ...]

    async def call(self, method: str, **fields: Any) -> Any:
        request = getattr(prompt_service_pb2, f"{method}Request")(**fields)
        return await unary(getattr(self.prompts, method)(request, metadata=self.metadata, timeout=60))

    async def refused(self, method: str, **fields: Any) -> MeshError:
        return await refused(self.call(method, **fields))

    async def made(self, content: prompt_pb2.PromptContent = CONTENT, **fields: Any) -> prompt_pb2.NamedPrompt:
        """A prompt whose first revision is in production."""
        response = await self.call("CreatePrompt", **({"name": "support", "content": content} | fields))
        response = await self.call("SetPromptAlias", prompt=response.prompt.id, alias="production", revision=1)
        prompt: prompt_pb2.NamedPrompt = response.prompt
        return prompt

    async def generate(self, **reference: Any) -> generation_pb2.Answer:
        request = generation_service_pb2.GenerateRequest(prompt=asked(), prompt_ref=named(**reference))
        return (await unary(self.generation.Generate(request, metadata=self.metadata, timeout=60))).answer

    async def count(self, **fields: Any) -> int:
        request = generation_service_pb2.CountTokensRequest(**({"prompt": asked(), "prompt_ref": named()} | fields))
        return (await unary(self.generation.CountTokens(request, metadata=self.metadata, timeout=60))).input_tokens


def asked() -> generation_pb2.Prompt:
    question = generation_pb2.PromptMessage(role=generation_pb2.ROLE_USER, text="Which song?")
    return generation_pb2.Prompt(messages=[question], system="Sign with your name.")


def named(**fields: Any) -> prompt_pb2.PromptReference:
    """Any: fields by name."""
    return prompt_pb2.PromptReference(**({"prompt": "support", "variables": {"team": "Ada"}} | fields))


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Client]:
    issuer = Issuer()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running(served.settings, servicers=served.servicers, verifier=issuer.verifier("inference"))
        )
        contracts = [prompt_service_pb2.DESCRIPTOR, generation_service_pb2.DESCRIPTOR]
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{server.port}", contracts))
        yield Client(
            prompt_service_pb2_grpc.PromptServiceStub(channel),
            generation_service_pb2_grpc.GenerationServiceStub(channel),
            issuer,
            issuer.metadata(audience="inference", scopes=SCOPES),
        )


async def test_prompt_is_kept_as_it_was_sent(client: Client) -> None:
    made = await client.made(description="For people.", note="the first")
    revision = (await client.call("GetPromptRevision", prompt="support", revision=1)).revision
    assert (await client.call("GetPrompt", prompt=made.id)).prompt == made
    assert (made.name, made.description, made.latest_revision, dict(made.aliases)) == (
        *("support", "For people.", 1),
        {"production": 1},
    )
    assert revision.content == CONTENT
    assert (revision.name, revision.note) == (f"{made.id}/1", "the first")


async def test_prompts_and_revisions_are_listed_in_pages(client: Client) -> None:
    for name in ("c", "a", "b"):
        await client.call("CreatePrompt", name=name, content={"template": "x"})
    await client.call("CreatePromptRevision", prompt="a", content={"template": "y"}, note="second")
    first = await client.call("ListPrompts", page_size=2)
    rest = await client.call("ListPrompts", page_size=2, page_token=first.next_page_token)
    newest = await client.call("ListPromptRevisions", prompt="a", page_size=1)
    oldest = await client.call("ListPromptRevisions", prompt="a", page_size=1, page_token=newest.next_page_token)
    assert [one.name for one in (*first.prompts, *rest.prompts)] == ["a", "b", "c"]
    assert [(one.number, one.note) for one in (*newest.revisions, *oldest.revisions)] == [(2, "second"), (1, "")]
    assert not newest.revisions[0].HasField("content")
    assert (rest.next_page_token, oldest.next_page_token) == ("", "")


async def test_repeated_call_changes_nothing_more(client: Client) -> None:
    fields = {"request_id": "r1", "name": "support", "content": {"template": "x"}}
    made = (await client.call("CreatePrompt", **fields)).prompt
    again = (await client.call("CreatePrompt", **fields)).prompt
    other = await client.refused("CreatePrompt", **(fields | {"name": "other"}))
    added = {"request_id": "r2", "prompt": "support", "content": {"template": "y"}}
    numbers = [(await client.call("CreatePromptRevision", **added)).revision.number for _ in range(2)]
    assert (made == again, other.reason, numbers) == (True, Reason.IDEMPOTENCY_MISMATCH, [2, 2])


async def test_alias_moves_under_what_it_is_expected_to_lead_to(client: Client) -> None:
    await client.made()
    await client.call("CreatePromptRevision", prompt="support", content={"template": "New."})
    moved = await client.call("SetPromptAlias", prompt="support", alias="production", revision=2, expected_revision=1)
    stale = await client.refused(
        "SetPromptAlias", prompt="support", alias="production", revision=1, expected_revision=1
    )
    await client.call("DeletePromptAlias", prompt="support", alias="production", expected_revision=2)
    gone = await refused(client.generate())
    assert dict(moved.prompt.aliases) == {"production": 2}
    assert (stale.reason, stale.metadata["etag"]) == (Reason.ETAG_MISMATCH, "2")
    assert (gone.reason, gone.metadata) == (Reason.NOT_FOUND, {"resource": "prompt_alias"})


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (prompt_pb2.PromptContent(template="{{x}}"), "content.template"),
        (prompt_pb2.PromptContent(template="{{x"), "content.template"),
        (prompt_pb2.PromptContent(template="x", variables=[TEAM]), "content.variables[0].name"),
        (
            prompt_pb2.PromptContent(template="{{x}}", variables=[prompt_pb2.PromptVariable(name="x")]),
            "content.variables[0].type",
        ),
    ],
)
async def test_template_that_does_not_hold_is_refused_by_field(
    client: Client, content: prompt_pb2.PromptContent, field: str
) -> None:
    error = await client.refused("CreatePrompt", name="support", content=content)
    assert (error.reason, error.fields[0].field) == (Reason.INVALID_ARGUMENT, field)


async def test_name_that_is_taken_is_refused(client: Client) -> None:
    await client.made()
    await client.call("CreatePrompt", name="other", content={"template": "x"})
    for error in (
        await client.refused("CreatePrompt", name="support", content={"template": "x"}),
        await client.refused("UpdatePrompt", prompt="other", named_prompt={"name": "support"}),
    ):
        assert (error.reason, error.metadata) == (Reason.ALREADY_EXISTS, {"field": "name"})


async def test_prompt_is_given_another_name_and_description(client: Client) -> None:
    made = await client.made(description="For people.")
    renamed = (await client.call("UpdatePrompt", prompt="support", named_prompt={"name": "helpdesk"})).prompt
    mask = {"paths": ["description"]}
    bare = (await client.call("UpdatePrompt", prompt="helpdesk", named_prompt={"name": "x"}, update_mask=mask)).prompt
    gone = await refused(client.generate())
    answers = [await client.generate(prompt=handle) for handle in ("helpdesk", made.id)]
    assert (renamed.id, renamed.name, renamed.description) == (made.id, "helpdesk", "For people.")
    assert (bare.name, bare.description, dict(bare.aliases)) == ("helpdesk", "", {"production": 1})
    assert (gone.reason, gone.metadata) == (Reason.NOT_FOUND, {"resource": "prompt"})
    assert {answer.prompt_revision for answer in answers} == {f"{made.id}/1"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"named_prompt": {"name": "No Name"}}, "name"),
        ({"named_prompt": {"description": "a\0b"}}, "description"),
        ({"named_prompt": {"name": "helpdesk"}, "update_mask": {"paths": ["name", "aliases"]}}, "update_mask"),
        ({"update_mask": {"paths": ["name"]}}, "name"),
    ],
)
async def test_change_that_does_not_hold_is_refused_by_field(
    client: Client, change: dict[str, Any], field: str
) -> None:
    made = await client.made()
    error = await client.refused("UpdatePrompt", prompt="support", **change)
    assert (error.reason, error.fields[0].field) == (Reason.INVALID_ARGUMENT, field)
    assert (await client.call("GetPrompt", prompt="support")).prompt == made


async def test_answer_is_given_the_prompt_and_tells_its_revision(client: Client, served: Served) -> None:
    made = await client.made()
    answer = await client.generate(variables={"team": "{{style}}", "style": "long"})
    (task,) = served.provider.tasks
    assert answer.prompt_revision == f"{made.id}/1"
    assert task.system == "You are {{style}}. Be long.\n\nSign with your name."
    assert [turn.text for turn in task.turns] == ["What is a song?", "Music.", "Which song?"]
    assert task.parameters.temperature == 0.5
    assert not answer.context.examples_unranked


async def test_streamed_answer_tells_the_revision_at_both_ends(client: Client) -> None:
    made = await client.made()
    request = generation_service_pb2.StreamGenerateRequest(prompt=asked(), prompt_ref=named())
    async with streaming(client.generation.StreamGenerate(request, metadata=client.metadata)) as responses:
        events = [event async for response in responses for event in response.events]
    ends = {events[0].started.prompt_revision, events[-1].finished.answer.prompt_revision}
    assert ends == {f"{made.id}/1"}


async def test_answer_comes_without_the_encoder(client: Client, served: Served) -> None:
    await client.made()
    served.encoder.is_away = True
    answer = await client.generate()
    assert answer.context.examples_unranked
    assert [turn.text for turn in served.provider.tasks[0].turns][:2] == ["What is red?", "A colour."]


@pytest.mark.parametrize(
    ("reference", "fields"),
    [
        ({"variables": {}}, ["prompt_ref.variables.team"]),
        ({"variables": {"team": "x", "style": "loud"}}, ["prompt_ref.variables.style"]),
        ({"variables": {"team": "x", "other": "y"}}, ["prompt_ref.variables.other"]),
        ({"revision": -1}, ["prompt_ref.revision"]),
    ],
)
async def test_reference_that_does_not_fit_is_refused_by_field(
    client: Client, served: Served, reference: dict[str, Any], fields: list[str]
) -> None:
    await client.made()
    error = await refused(client.generate(**reference))
    assert (error.reason, [one.field for one in error.fields]) == (Reason.INVALID_ARGUMENT, fields)
    assert served.provider.tasks == []


async def test_count_is_what_an_answer_is_given(client: Client) -> None:
    await client.made()
    context = (await client.generate()).context
    alone = await client.count(prompt_ref=None)
    assert await client.count() == context.system_tokens + context.example_tokens + context.history_tokens
    assert await client.count() > alone


async def test_model_of_the_prompt_is_that_whose_tokens_are_counted(client: Client) -> None:
    await client.made(prompt_pb2.PromptContent(template="x", defaults=prompt_pb2.PromptDefaults(model="nobody/knows")))
    error = await refused(client.count(prompt_ref={"prompt": "support"}))
    assert error.reason is Reason.MODEL_UNKNOWN
    assert await client.count(prompt_ref={"prompt": "support"}, model="fake/m") > 0


async def test_preview_shows_what_a_model_would_be_given_and_what_is_missing(client: Client, served: Served) -> None:
    made = await client.made()
    shown = await client.call("RenderPrompt", prompt="support", variables={"style": "loud"}, question="A red thing?")
    assert shown.revision == f"{made.id}/1"
    assert shown.system == "You are {{team}}. Be {{style}}."
    assert [(one.number, one.example.user) for one in shown.examples] == [(1, "What is red?")]
    assert shown.examples[0].similarity == pytest.approx(1.0)
    assert [(one.variable, one.is_missing) for one in shown.problems] == [("style", False), ("team", True)]
    assert shown.system_tokens > len(shown.system)
    assert (shown.example_tokens > 0, shown.model, served.provider.tasks) == (True, "fake/m", [])


async def test_preview_of_a_question_that_is_too_long_is_refused(client: Client) -> None:
    await client.made()
    fits = await client.call("RenderPrompt", prompt="support", variables={"team": "x"}, question="x" * 10_000)
    error = await client.refused("RenderPrompt", prompt="support", question="x" * 10_001)
    assert list(fits.problems) == []
    assert (error.reason, error.fields[0].field) == (Reason.INVALID_ARGUMENT, "question")


async def test_deleted_prompt_stays_explained_by_its_id(client: Client) -> None:
    made = await client.made()
    await client.call("DeletePrompt", prompt="support")
    assert (await client.call("GetPrompt", prompt=made.id)).prompt.HasField("delete_time")
    assert (await client.call("GetPromptRevision", prompt=made.id, revision=1)).revision.content == CONTENT
    for error in (
        await client.refused("GetPrompt", prompt="support"),
        await client.refused("UpdatePrompt", prompt=made.id, named_prompt={"name": "helpdesk"}),
        await client.refused("DeletePrompt", prompt=made.id),
        await client.refused("CreatePromptRevision", prompt=made.id, content={"template": "x"}),
        await client.refused("SetPromptAlias", prompt=made.id, alias="staging", revision=1),
        await client.refused("RenderPrompt", prompt=made.id),
        await refused(client.generate(prompt=made.id, revision=1)),
    ):
        assert (error.reason, error.metadata) == (Reason.NOT_FOUND, {"resource": "prompt"})


async def test_another_organization_finds_nothing(client: Client) -> None:
    made = await client.made()
    token = client.issuer.mint(audience="inference", scopes=SCOPES, organization_id=OTHER_ORGANIZATION)
    theirs = Client(client.prompts, client.generation, client.issuer, (("authorization", f"Bearer {token}"),))
    for error in (
        await theirs.refused("GetPrompt", prompt=made.id),
        await theirs.refused("GetPromptRevision", prompt=made.id, revision=1),
        await theirs.refused("ListPromptRevisions", prompt="support"),
        await theirs.refused("UpdatePrompt", prompt=made.id, named_prompt={"name": "theirs"}),
        await theirs.refused("DeletePrompt", prompt=made.id),
        await refused(theirs.generate(prompt=made.id)),
        await refused(theirs.count(prompt_ref={"prompt": made.id})),
    ):
        assert (error.reason, error.metadata) == (Reason.NOT_FOUND, {"resource": "prompt"})
    assert list((await theirs.call("ListPrompts")).prompts) == []


@pytest.mark.parametrize("method", ["CreatePrompt", "UpdatePrompt", "SetPromptAlias", "DeletePrompt"])
async def test_readers_change_nothing(client: Client, method: str) -> None:
    await client.made()
    metadata = client.issuer.metadata(audience="inference", scopes=("prompts:read",))
    reader = Client(client.prompts, client.generation, client.issuer, metadata)
    error = await reader.refused(method)
    assert (error.reason, error.metadata) == (Reason.SCOPE_MISSING, {"scope": "prompts:write"})
    assert (await reader.call("GetPrompt", prompt="support")).prompt.latest_revision == 1
