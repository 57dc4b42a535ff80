"""What the vendors' formats have no word for, and what is said instead."""

import json
from typing import Any

import pytest

from services.inference.model import Message, Parameters, Role
from services.inference.parts import (
    AnswerFormat,
    Image,
    Part,
    PartDelta,
    Reasoning,
    ReasoningMode,
    ReasoningWish,
    Refusal,
    TextPart,
    Tool,
    ToolCall,
    ToolResult,
)
from services.inference.providers import anthropic_format, openai_format
from services.inference.providers.base import Task
from services.mesh.errors import InvalidArgument
from tests.support.inference import PATIENT

CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
URL = "https://example.org/a.png"


def task(*parts: Part, role: Role = Role.USER, parameters: Parameters | None = None) -> Task:
    turn = Message.of(role, parts)
    return Task(
        model="m",
        system="",
        turns=(turn,),
        messages=(turn,),
        passages=(),
        parameters=parameters or Parameters(),
        output_tokens_max=None,
        limits=PATIENT,
    )


def by_openai(*parts: Part, role: Role = Role.USER) -> list[dict[str, Any]]:  # Any: the vendor's JSON
    return list(openai_format.messages(task(*parts, role=role), takes_reasoning=True))


def by_anthropic(*parts: Part, role: Role = Role.USER) -> list[dict[str, Any]]:  # Any: the vendor's JSON
    return list(anthropic_format.messages(task(*parts, role=role)))


def test_pictures_of_a_tools_result_follow_it_at_openai() -> None:
    result = ToolResult(call_id="c", parts=(TextPart("seen"), Image(url=URL)), is_error=True)

    tool, user = by_openai(TextPart("And?"), result)

    assert tool == {"role": "tool", "tool_call_id": "c", "content": "Error: seen"}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]


def test_results_come_first_at_anthropic_and_errors_are_marked() -> None:
    result = ToolResult(call_id="c.1:2", parts=(TextPart("seen"),), is_error=True)

    [message] = by_anthropic(TextPart("And?"), result)

    assert [block["type"] for block in message["content"]] == ["tool_result", "text"]
    assert (message["content"][0]["tool_use_id"], message["content"][0]["is_error"]) == ("c_1_2", True)


@pytest.mark.parametrize("written", ["no json", "[1]", '{"a":'])
def test_arguments_that_are_no_object_are_wrapped_for_anthropic(written: str) -> None:
    [message] = by_anthropic(ToolCall(id="c", name="f", arguments=written), role=Role.ASSISTANT)

    assert message["content"][0]["input"] == {"unparsed": written}


def test_thoughts_of_other_vendors_are_not_shown_to_anthropic() -> None:
    said = (Reasoning(text="mine"), Reasoning(text="theirs", signature="s"), Refusal("No."), TextPart(""))

    [message] = by_anthropic(*said, role=Role.ASSISTANT)

    assert [block["type"] for block in message["content"]] == ["thinking", "text"]


def test_a_message_without_anything_to_say_is_left_out_or_empty() -> None:
    assert not by_anthropic(Reasoning(text="mine"), role=Role.ASSISTANT)
    assert by_openai(Reasoning(signature="s"), role=Role.ASSISTANT) == [{"role": "assistant", "content": ""}]


def test_what_a_role_cannot_say_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        by_openai(Image(url=URL), role=Role.ASSISTANT)
    with pytest.raises(InvalidArgument):
        by_openai(ToolCall(id="c", name="f", arguments="{}"))


@pytest.mark.parametrize(
    ("schema", "is_strict", "expected"),
    [
        (CLOSED, None, True),
        (CLOSED | {"additionalProperties": True}, None, False),
        (CLOSED | {"required": []}, None, False),
        ({"type": "object", "properties": {"a": {"type": "object"}}} | {"required": ["a"]}, None, False),
        (CLOSED | {"properties": {"a": {"type": "array", "items": [{"type": "object"}]}}}, None, False),
        (CLOSED, False, False),
        (CLOSED | {"required": []}, True, True),
    ],
)
def test_a_schema_is_strict_at_openai_where_that_is_allowed(
    schema: dict[str, Any], *, is_strict: bool | None, expected: bool
) -> None:
    wanted = Parameters(format=AnswerFormat(json_schema=json.dumps(schema), is_strict=is_strict))

    found = openai_format.options((), wanted)["response_format"]["json_schema"]

    assert (found["strict"], found["schema"], found["name"]) == (expected, schema, "answer")


def test_a_schema_without_end_in_sight_is_not_strict() -> None:
    schema = '{"items":' * 900 + "{}" + "}" * 900

    found = openai_format.options((), Parameters(format=AnswerFormat(json_schema=schema)))

    assert found["response_format"]["json_schema"]["strict"] is False


def test_any_json_object_is_an_instruction_at_anthropic() -> None:
    wanted = Parameters(format=AnswerFormat())

    assert openai_format.options((), wanted) == {"response_format": {"type": "json_object"}}
    assert anthropic_format.options((), wanted) == {}
    assert "JSON object" in anthropic_format.system(task(TextPart("?"), parameters=wanted))


@pytest.mark.parametrize(
    ("wish", "effort", "thinking", "output"),
    [
        (ReasoningWish(mode=ReasoningMode.OFF), "none", {"type": "disabled"}, None),
        (ReasoningWish(effort="minimal"), "minimal", {"type": "adaptive"}, {"effort": "low"}),
        (ReasoningWish(effort="max"), "xhigh", {"type": "adaptive"}, {"effort": "max"}),
        (ReasoningWish(mode=ReasoningMode.ADAPTIVE), None, {"type": "adaptive"}, None),
        (ReasoningWish(mode=ReasoningMode.BUDGET, tokens_max=2_048), "low", None, None),
        (ReasoningWish(mode=ReasoningMode.BUDGET, tokens_max=2_049), "medium", None, None),
        (ReasoningWish(mode=ReasoningMode.BUDGET, tokens_max=8_193), "high", None, None),
    ],
)
def test_thinking_is_said_in_each_vendors_measure(
    wish: ReasoningWish, effort: str | None, thinking: dict[str, object] | None, output: dict[str, str] | None
) -> None:
    found = anthropic_format.options((), Parameters(reasoning=wish))

    assert openai_format.options((), Parameters(reasoning=wish)).get("reasoning_effort") == effort
    assert found["thinking"] == (thinking or {"type": "enabled", "budget_tokens": wish.tokens_max})
    assert found.get("output_config") == output


def test_room_for_thoughts_is_added_to_an_answer_of_default_length() -> None:
    thoughtful = Parameters(reasoning=ReasoningWish(mode=ReasoningMode.BUDGET, tokens_max=5_000))

    assert anthropic_format.max_tokens(task(TextPart("?"), parameters=thoughtful)) == 13_192


def test_a_schema_that_is_no_json_object_is_refused() -> None:
    for options in (openai_format.options, anthropic_format.options):
        with pytest.raises(InvalidArgument):
            options((Tool(name="f", input_schema="[]"),), Parameters())


def test_a_call_without_id_gets_one() -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": ""}}
    reader = openai_format.PartReader()

    [begun] = reader.take({"choices": [{"delta": {"tool_calls": [call]}}]})
    [ended] = reader.end()

    assert isinstance(begun, PartDelta)
    assert isinstance(begun.piece, ToolCall)
    assert begun.piece.id.startswith("call_")
    assert ended.piece == ToolCall(id="", name="", arguments="{}")
    assert reader.end() == []
