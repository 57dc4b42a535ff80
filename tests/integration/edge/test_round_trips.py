"""What both vendors' formats can say passes through either surface, from and to either provider, streamed and whole.

The official SDKs ask, the edge and inference are real, and the provider double speaks the vendors' wire formats.
"""

import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.support.dialects import Dialects, Fields, Heard, heard_by_anthropic, heard_by_openai, running_dialects
from tests.support.provider_parts import USAGE, Call, Declined, Said, Stopped, Thought, Words

PIXEL: Final = base64.b64encode(b"\x89PNG\r\n\x1a\n not quite").decode()
PLACE: Final[Fields] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
SUNNY: Final = Call("call_1", "weather", '{"city": "K\\u00f6ln"}')
RAINY: Final = Call("call_2", "weather", '{"city": "Bergen"}')
IDLE: Final = Call("call_3", "clock", "{}")
SIGNED: Final = Thought("They ask about Köln.", "c2lnbmVk")
HIDDEN: Final = Thought(encrypted="ZW5jcnlwdGVk")
OPENAI_IMAGES: Final = [
    {"type": "text", "text": "What are these?"},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
]
ANTHROPIC_IMAGES: Final = [
    {"type": "text", "text": "What are these?"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
]
OPENAI_TOOLS: Final = [
    {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": PLACE, "strict": True}},
    {"type": "function", "function": {"name": "clock"}},
]
ANTHROPIC_TOOLS: Final = [
    {"name": "weather", "description": "Now", "input_schema": PLACE, "strict": True},
    {"name": "clock", "input_schema": {"type": "object", "properties": {}}},
]

Check = Callable[[Fields], None]
"""Looks at the body that reached the provider."""


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of content.

    Attributes:
        openai: what a chat says, besides its model.
        anthropic: the same for Anthropic's messages.
        said: what the model answers.
        upstream: what must have reached the provider, by its format.
        finish: how the answer ends, by surface.
        lost: what a surface cannot tell.
    """

    openai: Fields
    anthropic: Fields
    upstream: dict[str, Check]
    said: tuple[Said, ...] = (Words("Fine, thanks: 21 °C."),)
    finish: dict[str, str] = field(default_factory=lambda: {"openai": "stop", "anthropic": "end_turn"})
    lost: dict[str, tuple[type, ...]] = field(default_factory=dict)


def question(content: object = "How is Köln?") -> list[Fields]:
    return [{"role": "user", "content": content}]


def holds(*path: str | int, **expected: object) -> Check:
    """The body has these members at a path."""

    def check(body: Fields) -> None:
        found: Any = body
        for step in path:
            found = found[step]
        assert {name: found.get(name) for name in expected} == expected

    return check


def all_of(*checks: Check) -> Check:
    def check(body: Fields) -> None:
        for one in checks:
            one(body)

    return check


TOOL_USE: Final = {"openai": "tool_calls", "anthropic": "tool_use"}
TEXT: Final = Case(
    openai={"messages": [{"role": "system", "content": "Be brief."}, *question()]},
    anthropic={"system": "Be brief.", "messages": question()},
    upstream={
        "openai": holds(messages=[{"role": "system", "content": "Be brief."}, *question()]),
        "anthropic": holds(system="Be brief.", messages=question()),
    },
)
CALLED: Final[list[Fields]] = [
    {
        "role": "assistant",
        "content": "Let me look.",
        "reasoning_details": [{"type": "reasoning.text", "text": SIGNED.text, "signature": SIGNED.signature}],
        "tool_calls": [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in (SUNNY, IDLE)
        ],
    },
    {"role": "tool", "tool_call_id": SUNNY.id, "content": "21 °C"},
    {"role": "tool", "tool_call_id": IDLE.id, "content": "noon"},
]
USED: Final[list[Fields]] = [
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": SIGNED.text, "signature": SIGNED.signature},
            {"type": "text", "text": "Let me look."},
            *(
                {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
                for call in (SUNNY, IDLE)
            ),
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": SUNNY.id, "content": [{"type": "text", "text": "21 °C"}]},
            {"type": "tool_result", "tool_use_id": IDLE.id, "content": [{"type": "text", "text": "noon"}]},
        ],
    },
]


def results_reached_openai(body: Fields) -> None:
    called, *results = body["messages"][1:]
    assert results == CALLED[1:]
    assert (called["content"], called["reasoning_content"]) == ("Let me look.", SIGNED.text)
    names = [(call["id"], call["function"]["name"]) for call in called["tool_calls"]]
    assert names == [(SUNNY.id, SUNNY.name), (IDLE.id, IDLE.name)]
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == json.loads(SUNNY.arguments)


CASES: Final = {
    "text": TEXT,
    "stop text": Case(
        openai={"messages": question(), "stop": ["END"]},
        anthropic={"messages": question(), "stop_sequences": ["END"]},
        said=(Words("So far."), Stopped("END")),
        upstream={"openai": holds(stop=["END"]), "anthropic": holds(stop_sequences=["END"])},
        finish={"openai": "stop", "anthropic": "stop_sequence"},
        lost={"openai": (Stopped,)},
    ),
    "image": Case(
        openai={"messages": question(OPENAI_IMAGES)},
        anthropic={"messages": question(ANTHROPIC_IMAGES)},
        upstream={
            "openai": holds(messages=question(OPENAI_IMAGES)),
            "anthropic": holds(messages=question(ANTHROPIC_IMAGES)),
        },
    ),
    "tool calls": Case(
        openai={"messages": question(), "tools": OPENAI_TOOLS, "tool_choice": "required", "parallel_tool_calls": True},
        anthropic={
            "messages": question(),
            "tools": ANTHROPIC_TOOLS,
            "tool_choice": {"type": "any", "disable_parallel_tool_use": False},
        },
        said=(Words("Let me look."), SUNNY, RAINY, IDLE),
        upstream={
            "openai": all_of(
                holds("tools", 0, "function", name="weather", description="Now", parameters=PLACE, strict=True),
                holds(tool_choice="required", parallel_tool_calls=True),
            ),
            "anthropic": all_of(
                holds("tools", 0, name="weather", description="Now", input_schema=PLACE, strict=True),
                holds("tools", 1, name="clock", input_schema={"type": "object", "properties": {}}),
                holds("tool_choice", type="any", disable_parallel_tool_use=False),
            ),
        },
        finish=TOOL_USE,
    ),
    "one named tool": Case(
        openai={
            "messages": question(),
            "tools": OPENAI_TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "clock"}},
        },
        anthropic={
            "messages": question(),
            "tools": ANTHROPIC_TOOLS,
            "tool_choice": {"type": "tool", "name": "clock"},
        },
        said=(IDLE,),
        upstream={
            "openai": holds("tool_choice", "function", name="clock"),
            "anthropic": holds("tool_choice", type="tool", name="clock"),
        },
        finish=TOOL_USE,
    ),
    "tool results": Case(
        openai={"messages": [*question(), *CALLED], "tools": OPENAI_TOOLS},
        anthropic={"messages": [*question(), *USED], "tools": ANTHROPIC_TOOLS},
        upstream={
            "openai": results_reached_openai,
            "anthropic": holds(messages=[*question(), *USED]),
        },
    ),
    "JSON schema": Case(
        openai={
            "messages": question(),
            "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}},
        },
        anthropic={
            "messages": question(),
            "output_config": {"format": {"type": "json_schema", "schema": PLACE}},
        },
        said=(Words('{"city": "Köln"}'),),
        upstream={
            "openai": holds("response_format", "json_schema", schema=PLACE, strict=True),
            "anthropic": holds("output_config", "format", type="json_schema", schema=PLACE),
        },
    ),
    "thoughts": Case(
        openai={"messages": question(), "reasoning_effort": "high"},
        anthropic={
            "messages": question(),
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "high"},
        },
        said=(SIGNED, HIDDEN, Words("Sunny.")),
        upstream={
            "openai": holds(reasoning_effort="high"),
            "anthropic": all_of(holds(thinking={"type": "adaptive"}), holds("output_config", effort="high")),
        },
    ),
    "unsigned thoughts": Case(
        openai={"messages": question(), "reasoning_effort": "none"},
        anthropic={"messages": question(), "thinking": {"type": "disabled"}},
        said=(Thought("Only a thought."), Words("Sunny.")),
        upstream={"openai": holds(reasoning_effort="none"), "anthropic": holds(thinking={"type": "disabled"})},
    ),
    "refusal": Case(
        openai={"messages": question()},
        anthropic={"messages": question()},
        said=(Declined("I cannot help with that."),),
        upstream={"openai": holds(), "anthropic": holds()},
        finish={"openai": "stop", "anthropic": "refusal"},
    ),
}


@pytest.fixture
async def dialects() -> AsyncIterator[Dialects]:
    async with running_dialects() as running:
        yield running


async def ask(dialects: Dialects, surface: str, case: Case, model: str, *, streams: bool) -> Heard:
    if surface == "openai":
        fields = {"model": model, "store": False, **case.openai}
        return await heard_by_openai(dialects.openai, fields, streams=streams)
    fields = {"model": model, "max_tokens": 1_000, **case.anthropic}
    return await heard_by_anthropic(dialects.anthropic, fields, streams=streams)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("surface", ["openai", "anthropic"])
@pytest.mark.parametrize("name", CASES)
async def test_content_passes_without_loss_whole_and_streamed(
    name: str, surface: str, provider: str, dialects: Dialects
) -> None:
    case = CASES[name]
    dialects.double.said = case.said
    expected = [spelled(part) for part in case.said if not isinstance(part, case.lost.get(surface, ()))]
    consumed = (USAGE["input"], USAGE["cached"], USAGE["output"], USAGE["reasoning"])

    for streams in (False, True):
        heard = await ask(dialects, surface, case, f"{provider}/some-model", streams=streams)
        case.upstream[provider](dialects.double.seen[-1].body)
        assert heard == Heard(tuple(expected), case.finish[surface], consumed)


@pytest.mark.parametrize("surface", ["openai", "anthropic"])
async def test_why_a_provider_refused_is_told(surface: str, dialects: Dialects) -> None:
    refusal = Declined("I cannot help with that.", "cyber")
    dialects.double.said = (refusal,)

    for streams in (False, True):
        heard = await ask(dialects, surface, CASES["refusal"], "anthropic/some-model", streams=streams)
        assert heard.said == (refusal,)


def spelled(part: Said) -> Said:
    """Calls in the one spelling of their arguments that SDKs agree on."""
    if isinstance(part, Call):
        return Call(part.id, part.name, json.dumps(json.loads(part.arguments), sort_keys=True))
    return part
