"""Parts: their bounds, how they grow from pieces, what they are estimated to cost; and calls keep their results."""

from collections.abc import Callable

import pytest

from services.inference.model import Message, Prompt, Role
from services.inference.parts import (
    PARTS_MAX,
    TOOL_NAME_CHARS_MAX,
    TOOLS_MAX,
    Image,
    PartDelta,
    PartsRead,
    Reasoning,
    ReasoningMode,
    ReasoningWish,
    Refusal,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
)
from services.inference.prompts.assembly import assemble
from services.inference.prompts.tokens import IMAGE_TOKENS, TokenEstimate
from services.mesh.errors import InvalidArgument

TOKENS = TokenEstimate(ascii_chars_per_token=1)
CALL = ToolCall(id="c1", name="look", arguments="{}")
RESULT = ToolResult(call_id="c1", parts=(TextPart("blue"),))


def user(text: str) -> Message:
    return Message(Role.USER, text)


def using_tools() -> tuple[Message, Message]:
    return Message.of(Role.ASSISTANT, (CALL,)), Message.of(Role.USER, (RESULT,))


@pytest.mark.parametrize(
    "make",
    [
        Image,
        lambda: Image(data=b"x", url="https://example.org/a.png"),
        lambda: Image(data=b"x", media_type="text/html"),
        lambda: Image(url="http://example.org/a.png"),
        lambda: Tool(name=""),
        lambda: Tool(name="x" * (TOOL_NAME_CHARS_MAX + 1)),
        lambda: ToolChoice(mode=ToolMode.NAMED),
        lambda: ToolChoice(mode=ToolMode.AUTO, name="look"),
        lambda: ReasoningWish(effort="endless"),
        lambda: ReasoningWish(display="loud"),
        lambda: ReasoningWish(mode=ReasoningMode.BUDGET),
        lambda: ReasoningWish(tokens_max=5),
    ],
)
def test_what_the_contract_does_not_allow_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgument):
        make()


@pytest.mark.parametrize("count", [TOOLS_MAX - 1, TOOLS_MAX])
def test_as_many_tools_as_the_contract_allows(count: int) -> None:
    assert len(Prompt(messages=(user("?"),), tools=(Tool(name="t"),) * count).tools) == count


def test_one_tool_more_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        Prompt(messages=(user("?"),), tools=(Tool(name="t"),) * (TOOLS_MAX + 1))


@pytest.mark.parametrize("count", [PARTS_MAX - 1, PARTS_MAX])
def test_as_many_parts_as_the_contract_allows(count: int) -> None:
    assert len(Message.of(Role.USER, (TextPart("a"),) * count).parts) == count


def test_one_part_more_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        Message.of(Role.USER, (TextPart("a"),) * (PARTS_MAX + 1))


def test_a_name_of_full_length_is_taken() -> None:
    assert Tool(name="x" * TOOL_NAME_CHARS_MAX).name


def test_parts_grow_from_alternating_pieces_in_the_order_in_which_they_began() -> None:
    read = PartsRead()
    read.add(PartDelta(0, Reasoning(text="Hm")))
    read.add(PartDelta(0, Reasoning(text="m.", signature="s")))
    read.add_text("Let ", is_refusal=False)
    read.add_text("me.", is_refusal=False)
    read.add(PartDelta(1, ToolCall(id="a", name="look", arguments="")))
    read.add(PartDelta(2, ToolCall(id="b", name="look", arguments='{"n"')))
    read.add(PartDelta(1, ToolCall(id="", name="", arguments="{}")))
    read.add(PartDelta(2, ToolCall(id="", name="", arguments=":1}")))
    read.add_text("No.", is_refusal=True)

    assert read.parts() == (
        Reasoning(text="Hmm.", signature="s"),
        TextPart("Let me."),
        ToolCall(id="a", name="look", arguments="{}"),
        ToolCall(id="b", name="look", arguments='{"n":1}'),
        Refusal("No."),
    )


def test_nothing_but_text_has_no_parts() -> None:
    read = PartsRead()
    read.add_text("Only words.", is_refusal=False)

    assert read.parts() == ()


def test_the_question_is_the_last_thing_that_a_person_said() -> None:
    prompt = Prompt(messages=(user("first"), Message(Role.ASSISTANT, "yes"), user("second"), *using_tools()))

    assert (prompt.question_at, prompt.question) == (2, "second")


def test_history_is_dropped_but_never_a_call_without_its_result() -> None:
    old = (user("old " * 40), *using_tools(), Message(Role.ASSISTANT, "done"))
    prompt = Prompt(messages=(*old, user("now"), *using_tools()))
    whole = assemble(prompt, tokens=TOKENS, budget=10_000, is_grounded=False)
    tight = assemble(prompt, tokens=TOKENS, budget=120, is_grounded=False)

    assert whole.messages == prompt.messages
    assert tight.messages == prompt.messages[4:]
    assert tight.report.messages_dropped == len(old)


def test_pictures_and_tools_are_part_of_what_is_read() -> None:
    plain = Prompt(messages=(user("what is this?"),))
    shown = Message.of(Role.USER, (TextPart("what is this?"), Image(url="https://example.org/a.png")))
    rich = Prompt(messages=(shown,), tools=(Tool(name="look", description="x" * 100),))
    sizes = [assemble(one, tokens=TOKENS, budget=10_000, is_grounded=False).report for one in (plain, rich)]

    assert sizes[1].history_tokens == sizes[0].history_tokens + IMAGE_TOKENS
    assert sizes[1].system_tokens > sizes[0].system_tokens + 100
