"""An answer that an earlier call began is gone on with where the model takes its beginning, else it begins anew."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest

from services.inference.catalog import Catalog, ModelCard, Prices
from services.inference.model import (
    CONTINUE_FROM_CHARS_MAX,
    Event,
    Finished,
    FinishReason,
    Generation,
    PassageCitation,
    Started,
    TextDelta,
)
from services.inference.parts import Tool
from services.inference.providers.base import Ended, TokenCounts
from services.mesh.errors import ContextLengthExceeded, InvalidArgument, ProviderUnavailable
from tests.support.inference import FakeProvider, events_of, generator, prompt, router

STOP = Ended(FinishReason.STOP)
WHOLE = "The sky is blue [1]. It is red at dusk [1]."
HALF = "The sky is blue [1]. It is "
REST = WHOLE[len(HALF) :]


def wish(*models: str, continue_from: str = HALF, **fields: object) -> Generation:
    asked = Generation(
        prompt=prompt(), model=models[0], fallback_models=models[1:], continue_from=continue_from, accepts_restart=True
    )
    return replace(asked, **fields)  # type: ignore[arg-type] # fields by name, as the test says them


def read(events: Sequence[Event]) -> tuple[int, str]:
    """The offset at which the stream goes on, and the answer of a reader who has what stands before it."""
    started = events[0]
    assert isinstance(started, Started)
    text = HALF[: started.offset]
    for event in events:
        if isinstance(event, TextDelta):
            assert event.offset <= len(text)
            text = text[: event.offset] + event.text
    return started.offset, text


def finished(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


async def test_model_that_takes_a_prefix_goes_on_from_the_given_text() -> None:
    provider = FakeProvider("a", (REST, STOP), takes_prefix=True)

    events = await events_of(generator(router(provider)), wish("a/x"))

    assert provider.tasks[0].prefix == HALF.rstrip()
    assert read(events) == (len(HALF), WHOLE)
    assert [event.text for event in events if isinstance(event, TextDelta)] == [REST]
    assert finished(events).answer.text == WHOLE


async def test_other_model_answers_anew_and_is_not_shown_what_stands() -> None:
    provider = FakeProvider("a", (WHOLE, STOP))

    events = await events_of(generator(router(provider)), wish("a/x"))

    assert len(provider.tasks[0].turns) == 1
    assert read(events) == (0, WHOLE)
    assert [event.text for event in events if isinstance(event, TextDelta)] == [WHOLE]


async def test_answer_that_may_call_tools_begins_anew() -> None:
    provider = FakeProvider("a", (WHOLE, STOP), takes_prefix=True)
    asked = replace(prompt(), tools=(Tool(name="look_up"),))

    events = await events_of(generator(router(provider)), wish("a/x", prompt=asked))

    assert provider.tasks[0].prefix == ""
    assert read(events) == (0, WHOLE)


async def test_citations_of_what_stands_are_told_again() -> None:
    provider = FakeProvider("a", (REST, STOP), takes_prefix=True)

    events = await events_of(generator(router(provider)), wish("a/x"))

    cited = [event for event in events if isinstance(event, PassageCitation)]
    assert [WHOLE[one.start : one.end] for one in cited] == ["The sky is blue", "It is red at dusk"]
    assert finished(events).answer.citations == tuple(cited)
    assert [type(event).__name__ for event in events[:3]] == ["Started", "PassageCitation", "TextDelta"]


async def test_only_what_is_written_now_is_counted() -> None:
    provider = FakeProvider("a", (REST, STOP), takes_prefix=True)

    answer = finished(await events_of(generator(router(provider)), wish("a/x"))).answer

    assert answer.usage.output_tokens == len(REST)

    settled = Ended(FinishReason.STOP, TokenCounts(input_tokens=9, output_tokens=4))
    provider = FakeProvider("a", (REST, settled), takes_prefix=True)

    assert finished(await events_of(generator(router(provider)), wish("a/x"))).answer.usage.output_tokens == 4


async def test_model_that_breaks_off_again_is_followed_by_one_that_goes_on_with_all_of_it() -> None:
    broken = FakeProvider("a", (REST[:4], ProviderUnavailable("gone")), takes_prefix=True)
    other = FakeProvider("b", (HALF[-20:] + REST[:4] + REST[4:], STOP))

    events = await events_of(generator(router(broken, other)), wish("a/x", "b/y"))

    assert read(events) == (len(HALF), WHOLE)


async def test_model_that_cannot_be_had_is_followed_by_one_that_goes_on_with_what_stands() -> None:
    broken = FakeProvider("a", (ProviderUnavailable("gone"),), takes_prefix=True)
    other = FakeProvider("b", (HALF[-20:] + REST, STOP))

    events = await events_of(generator(router(broken, other)), wish("a/x", "b/y"))

    assert read(events) == (len(HALF), WHOLE)


async def test_text_of_a_model_that_can_only_begin_again_takes_the_place_of_what_stands() -> None:
    broken = FakeProvider("a", (ProviderUnavailable("gone"),), takes_prefix=True)
    quoting = FakeProvider("b", ("The sky turns red.", STOP), cites=True)

    events = await events_of(generator(router(broken, quoting)), wish("a/x", "b/y"))

    assert read(events) == (len(HALF), "The sky turns red.")
    assert finished(events).answer.text == "The sky turns red."


async def test_text_that_leaves_no_room_for_an_answer_is_let_go() -> None:
    card = ModelCard(
        name="a/x",
        display_name="X",
        context_tokens=1_400,
        output_tokens_max=100,
        prices=Prices(input_micros=1, output_micros=1),
        source="a test",
        date=date(2026, 1, 2),
    )
    provider = FakeProvider("a", (WHOLE, STOP), takes_prefix=True)
    asked = router(provider, catalog=Catalog({"a/x": card}))

    events = await events_of(generator(asked), wish("a/x", continue_from="word " * 300))

    assert provider.tasks[0].prefix == ""
    assert finished(events).answer.text == WHOLE

    long = replace(prompt(), messages=(replace(prompt().messages[0], text="word " * 300),))
    with pytest.raises(ContextLengthExceeded):
        await events_of(generator(asked), wish("a/x", prompt=long))


def test_length_of_what_stands_is_bounded() -> None:
    wish("a/x", continue_from="a" * CONTINUE_FROM_CHARS_MAX)

    with pytest.raises(InvalidArgument):
        wish("a/x", continue_from="a" * (CONTINUE_FROM_CHARS_MAX + 1))
