"""A whole answer says the same as the stream that the vendor would have sent of it."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final

import pytest

from services.inference.model import FinishReason
from services.inference.parts import Part, PartDelta, PartsRead, ToolCall
from services.inference.providers import anthropic, openai
from services.inference.providers.base import Ended, ProviderEvent, Text, TokenCounts
from services.inference.providers.failures import Failure, Kind
from services.inference.providers.sse import MalformedStream
from tests.support import provider_parts
from tests.support.provider_parts import Call, Declined, Json, Said, Stopped, Thought, Words

SUNNY: Final = Call("call_1", "weather", '{"city": "K\\u00f6ln"}')
IDLE: Final = Call("call_2", "clock", "{}")
COUNTS: Final = TokenCounts(input_tokens=120, output_tokens=30, cached_input_tokens=20, reasoning_tokens=5)
ANSWERS: Final[dict[str, tuple[Said, ...]]] = {
    "text": (Words("The sky is blue [1]."),),
    "nothing": (),
    "calls": (SUNNY, IDLE),
    "text and a call": (Words("Let me look."), SUNNY),
    "signed thoughts": (Thought("They ask about Köln.", "c2lnbmVk"), Thought(encrypted="ZW5j"), Words("Fine."), SUNNY),
    "a thought": (Thought("They ask."), Words("Fine.")),
    "a refusal": (Declined("I will not.", "cyber"),),
    "a stop text": (Words("One, two"), Stopped("three")),
}
VENDORS: Final[dict[str, Callable[[Sequence[Said]], tuple[Json, Iterator[bytes]]]]] = {
    "openai": lambda said: (provider_parts.openai_whole(said, "m"), provider_parts.openai_events(said, "m")),
    "anthropic": lambda said: (provider_parts.anthropic_whole(said, "m"), provider_parts.anthropic_events(said, "m")),
}
WHOLE: Final[dict[str, Callable[[object, str], tuple[ProviderEvent, ...]]]] = {
    "openai": openai.answer_of,
    "anthropic": anthropic.answer_of,
}
STREAMED: Final[dict[str, Callable[[AsyncIterator[bytes], str], AsyncIterator[ProviderEvent]]]] = {
    "openai": openai._read,
    "anthropic": anthropic._read,
}


async def body(events: Iterator[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event


def gathered(events: Sequence[ProviderEvent]) -> tuple[str, list[Part], ProviderEvent]:
    """Text, parts with their arguments in one spelling, and the end."""
    parts = PartsRead()
    text = ""
    for event in events[:-1]:
        match event:
            case Text():
                text += event.text
                parts.add_text(event.text, is_refusal=event.is_refusal)
            case PartDelta():
                parts.add(event)
            case _:
                raise AssertionError(event)
    return text, [same(part) for part in parts.parts()], events[-1]


def same(part: Part) -> Part:
    if not isinstance(part, ToolCall):
        return part
    return ToolCall(id=part.id, name=part.name, arguments=json.dumps(json.loads(part.arguments)))


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("said", ANSWERS.values(), ids=ANSWERS)
async def test_a_whole_answer_is_what_its_stream_says(vendor: str, said: tuple[Said, ...]) -> None:
    whole, events = VENDORS[vendor](said)
    streamed = [event async for event in STREAMED[vendor](body(events), "v/m")]

    found = WHOLE[vendor](whole, "v/m")

    assert gathered(found) == gathered(streamed)
    assert isinstance(found[-1], Ended)
    assert found[-1].counts == COUNTS


@pytest.mark.parametrize(
    ("vendor", "said", "end"),
    [
        ("openai", "a refusal", Ended(FinishReason.CONTENT_FILTER, COUNTS)),
        ("anthropic", "a refusal", Ended(FinishReason.CONTENT_FILTER, COUNTS, refusal_category="cyber")),
        ("openai", "calls", Ended(FinishReason.TOOL_CALLS, COUNTS)),
        ("anthropic", "calls", Ended(FinishReason.TOOL_CALLS, COUNTS)),
        ("openai", "a stop text", Ended(FinishReason.STOP, COUNTS, "three")),
        ("anthropic", "a stop text", Ended(FinishReason.STOP, COUNTS, "three")),
    ],
)
def test_the_end_of_a_whole_answer_says_why(vendor: str, said: str, end: Ended) -> None:
    whole, _ = VENDORS[vendor](ANSWERS[said])

    assert WHOLE[vendor](whole, "v/m")[-1] == end


def test_thoughts_without_numbers_are_parts_of_their_own() -> None:
    whole = provider_parts.openai_whole(ANSWERS["signed thoughts"], "m")
    for detail in whole["choices"][0]["message"]["reasoning_details"]:
        del detail["index"]

    deltas = [event for event in openai.answer_of(whole, "v/m") if isinstance(event, PartDelta)]

    assert [delta.number for delta in deltas] == [0, 1, 2]


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("found", [None, [], {}, "an answer", {"choices": [], "content": []}, {"choices": [7]}])
def test_what_has_no_end_is_no_answer(vendor: str, found: object) -> None:
    with pytest.raises(MalformedStream):
        WHOLE[vendor](found, "v/m")


def test_an_error_in_the_place_of_an_answer_is_a_failure() -> None:
    with pytest.raises(Failure) as caught:
        openai.answer_of({"error": {"code": "context_length_exceeded", "message": "too long"}}, "v/m")

    assert caught.value.kind is Kind.CONTEXT_LENGTH
