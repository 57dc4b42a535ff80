"""An answer that breaks off goes on at the next target from where it stands, in one of three ways, or is an error."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from services.inference.catalog import Catalog
from services.inference.generating.continuation import ANCHOR_CHARS
from services.inference.model import (
    Event,
    Finished,
    FinishReason,
    Generation,
    Parameters,
    PassageCitation,
    Prompt,
    ProviderSwitched,
    Role,
    Started,
    TextDelta,
)
from services.inference.parts import AnswerFormat, PartDelta, Reasoning, TextPart, ToolCall
from services.inference.providers.base import Cited, Ended, TokenCounts
from services.inference.providers.failures import Failure, Kind
from services.inference.providers.scripted import Script, ScriptedProvider
from services.inference.standing.outages import State
from services.inference.standing.standings import CALLS_MIN, Standings
from services.mesh.errors import ContentFiltered, MeshError, ProviderUnavailable
from tests.support.inference import HASTY, SKY, FakeProvider, events_of, generator, prompt, router
from tests.support.money import CARD

STOP = Ended(FinishReason.STOP)
WHOLE = "The sky is blue [1]. It is red at dusk [1]."
HALF = "The sky is blue [1]. It is "


def wish(*models: str, **fields: object) -> Generation:
    asked = Generation(prompt=prompt(), model=models[0], fallback_models=models[1:])
    return replace(asked, **fields)  # type: ignore[arg-type] # fields by name, as the test says them


def text_of(events: Sequence[Event]) -> str:
    """What a reader who follows each step has in the end."""
    text = ""
    for event in events:
        match event:
            case TextDelta(offset, piece):
                assert offset == len(text)
                text += piece
            case ProviderSwitched():
                assert event.offset <= len(text)
                text = text[: event.offset]
            case _:
                pass
    return text


def switches(events: Sequence[Event]) -> list[ProviderSwitched]:
    return [event for event in events if isinstance(event, ProviderSwitched)]


def finished(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def cut(name: str = "a", text: str = HALF) -> FakeProvider:
    return FakeProvider(name, (text[:10], text[10:], ProviderUnavailable("gone")))


async def test_target_that_takes_a_prefix_writes_on() -> None:
    other = FakeProvider("b", (WHOLE[len(HALF) :], STOP), takes_prefix=True)

    events = await events_of(generator(router(cut(), other)), wish("a/x", "b/y"))

    assert other.tasks[0].prefix == HALF.rstrip()
    assert text_of(events) == finished(events).answer.text == WHOLE
    assert switches(events) == [
        ProviderSwitched(from_model="a/x", to_model="b/y", reason="PROVIDER_UNAVAILABLE", offset=len(HALF))
    ]
    assert isinstance(events[0], Started)
    assert events[0].model == "a/x"
    assert finished(events).answer.model == "b/y"


async def test_model_that_takes_a_prefix_writes_on_where_others_of_its_provider_do_not() -> None:
    other = FakeProvider("openai", (WHOLE[len(HALF) :], STOP))
    catalog = Catalog({CARD.name: replace(CARD, takes_prefix=True)})

    events = await events_of(generator(router(cut(), other, catalog=catalog)), wish("a/x", CARD.name))

    assert other.tasks[0].prefix == HALF.rstrip()
    assert text_of(events) == finished(events).answer.text == WHOLE


@pytest.mark.parametrize("repeated", [HALF[-ANCHOR_CHARS:], HALF[-12:], HALF[-12:].rstrip(), HALF])
async def test_other_target_is_told_to_go_on_and_what_it_repeats_is_taken_away(repeated: str) -> None:
    rest = WHOLE[len(HALF) :] if repeated.endswith(" ") else WHOLE[len(HALF.rstrip()) :]
    other = FakeProvider("b", (repeated[:5], repeated[5:], rest[:3], rest[3:], STOP))

    events = await events_of(generator(router(cut(), other)), wish("a/x", "b/y"))

    shown, told = other.tasks[0].turns[-2:]
    assert (shown.role, shown.text) == (Role.ASSISTANT, HALF)
    assert told.text.endswith(HALF)
    assert text_of(events) == finished(events).answer.text == WHOLE
    assert [switch.offset for switch in switches(events)] == [len(HALF)]


async def test_citations_of_both_writers_are_in_the_answer_once() -> None:
    other = FakeProvider("b", (WHOLE[len(HALF) :], STOP), takes_prefix=True)

    events = await events_of(generator(router(cut(), other)), wish("a/x", "b/y"))

    sent = [event for event in events if isinstance(event, PassageCitation)]
    answer = finished(events).answer
    assert sent == list(answer.citations)
    assert [answer.text[one.start : one.end] for one in sent] == ["The sky is blue", "It is red at dusk"]


async def test_target_that_answers_from_the_start_is_followed_as_far_as_it_says_the_same() -> None:
    quoting = FakeProvider("b", (WHOLE, STOP), cites=True)

    events = await events_of(generator(router(cut(), quoting)), wish("a/x", "b/y"))

    assert text_of(events) == WHOLE
    assert [switch.offset for switch in switches(events)] == [len(HALF)]


async def test_answer_begins_again_only_for_a_reader_who_can_take_it_back() -> None:
    cited = Cited(PassageCitation(passage=1, start=0, end=7, source_start=0, source_end=7))
    quoting = FakeProvider("b", ("The sky", cited, " turns red.", STOP), cites=True)

    events = await events_of(generator(router(cut(), quoting)), wish("a/x", "b/y", accepts_restart=True))

    assert text_of(events) == finished(events).answer.text == "The sky turns red."
    assert [switch.offset for switch in switches(events)] == [len("The sky ")]
    assert finished(events).answer.citations == (cited.citation,)

    with pytest.raises(ProviderUnavailable):
        await events_of(generator(router(cut(), quoting)), wish("a/x", "b/y"))


async def test_whole_answer_that_nobody_has_seen_may_begin_again() -> None:
    quoting = FakeProvider("b", ("Something else.", STOP), cites=True)

    answer = await generator(router(cut(), quoting)).answer(wish("a/x", "b/y"))

    assert answer.text == "Something else."


async def test_target_that_cannot_go_on_is_left_for_one_that_can() -> None:
    quoting = FakeProvider("b", ("Something else.", STOP), cites=True)
    third = FakeProvider("c", (WHOLE[len(HALF) :], STOP), takes_prefix=True)

    events = await events_of(generator(router(cut(), quoting, third)), wish("a/x", "b/y", "c/z"))

    assert text_of(events) == WHOLE


async def test_answer_in_a_format_begins_again_rather_than_being_gone_on_with() -> None:
    json = '{"colour": "blue"}'
    wanted = wish("a/x", "b/y", parameters=Parameters(format=AnswerFormat()))
    other = FakeProvider("b", (json[:9], json[9:], STOP))

    events = await events_of(generator(router(cut(text=json[:12]), other)), wanted)

    assert len(other.tasks[0].turns) == 1
    assert text_of(events) == json


async def test_call_of_a_tool_is_not_gone_on_with() -> None:
    call = PartDelta(0, ToolCall(id="call_1", name="look_up", arguments='{"na'))
    other = FakeProvider("b")

    with pytest.raises(ProviderUnavailable):
        await events_of(generator(router(FakeProvider("a", (call, ProviderUnavailable())), other)), wish("a/x", "b/y"))

    assert other.tasks == []


async def test_thoughts_do_not_keep_an_answer_from_being_gone_on_with() -> None:
    first = FakeProvider("a", (PartDelta(0, Reasoning(text="Hm.")), HALF, ProviderUnavailable()))
    rest = WHOLE[len(HALF) :]
    other = FakeProvider("b", (PartDelta(0, Reasoning(text="Well.")), HALF[-30:], rest, STOP))

    answer = finished(await events_of(generator(router(first, other)), wish("a/x", "b/y"))).answer

    assert answer.text == WHOLE
    assert answer.parts == (
        Reasoning(text="Hm."),
        TextPart(HALF),
        Reasoning(text="Well."),
        TextPart(rest),
    )


async def test_answer_may_break_off_more_than_once() -> None:
    second = FakeProvider("b", (WHOLE[len(HALF) : len(HALF) + 4], ProviderUnavailable()), takes_prefix=True)
    third = FakeProvider("c", (WHOLE[len(HALF) + 4 :], STOP), takes_prefix=True)

    events = await events_of(generator(router(cut(), second, third)), wish("a/x", "b/y", "c/z"))

    assert text_of(events) == WHOLE
    assert [switch.offset for switch in switches(events)] == [len(HALF), len(HALF) + 4]


@pytest.mark.parametrize(
    "script", [Script(deltas=("The sky ",), stall_after=1), Script(deltas=("The sky ",), cut_after=1)]
)
async def test_stalled_or_cut_stream_goes_on(script: Script) -> None:
    other = FakeProvider("b", ("is blue.", STOP), takes_prefix=True)
    answers = generator(router(ScriptedProvider({"m": script}), other, limits=HASTY))

    events = await events_of(answers, wish("scripted/m", "b/y"))

    assert text_of(events) == "The sky is blue."


async def test_answer_that_nobody_goes_on_with_is_an_error_and_no_answer() -> None:
    seen: list[Event] = []

    async def read() -> None:
        async for event in generator(router(cut(), cut("b", "The sky"))).stream(wish("a/x", "b/y")):
            seen.append(event)  # noqa: PERF401 - those before the error are wanted

    with pytest.raises(MeshError) as error:
        await read()

    assert text_of(seen) == HALF
    assert not any(isinstance(event, Finished) for event in seen)
    assert error.value.retry_after_s is not None


async def test_filter_that_stops_an_answer_ends_it() -> None:
    other = FakeProvider("b")

    with pytest.raises(ContentFiltered):
        await events_of(
            generator(router(FakeProvider("a", ("The sky ", ContentFiltered())), other)), wish("a/x", "b/y")
        )

    assert other.tasks == []


async def test_usage_is_that_of_all_attempts() -> None:
    settled = Ended(FinishReason.STOP, TokenCounts(input_tokens=100, output_tokens=10))
    other = FakeProvider("b", (WHOLE[len(HALF) :], settled), takes_prefix=True)

    answer = finished(await events_of(generator(router(cut(), other)), wish("a/x", "b/y"))).answer

    first = answer.context.input_tokens
    assert answer.usage.output_tokens == len(HALF) + 10
    assert answer.usage.input_tokens == first + 100
    assert answer.usage.estimated


async def test_length_that_is_left_is_asked_for() -> None:
    other = FakeProvider("b", (WHOLE[len(HALF) :], STOP), takes_prefix=True)

    await events_of(
        generator(router(cut(), other)), wish("a/x", "b/y", parameters=Parameters(output_tokens_max=len(HALF) + 7))
    )

    assert other.tasks[0].output_tokens_max == 7


async def test_prompt_that_leaves_no_room_for_what_stands_goes_elsewhere() -> None:
    long = "word " * 3_000
    other = FakeProvider("b")
    wanted = Generation(
        prompt=Prompt(messages=prompt().messages, passages=(SKY,)), model="a/x", fallback_models=("b/y",)
    )

    with pytest.raises(MeshError):
        await events_of(generator(router(cut(text=long), other), window=4_000), wanted)

    assert other.tasks == []


async def test_failure_of_every_kind_in_mid_answer_ends_in_the_whole_answer_or_an_error() -> None:
    for kind in Kind:
        broken = FakeProvider("a", (HALF, Failure(kind, ProviderUnavailable())))
        other = FakeProvider("b", (WHOLE[len(HALF) :], STOP), takes_prefix=True)
        answers = generator(router(broken, other))
        if kind in {Kind.CONTENT_FILTERED, Kind.OTHER}:
            with pytest.raises(ProviderUnavailable):
                await events_of(answers, wish("a/x", "b/y"))
        else:
            assert text_of(await events_of(answers, wish("a/x", "b/y"))) == WHOLE


async def test_target_is_not_blamed_for_a_caller_who_has_no_more_time() -> None:
    known = Standings()
    mute = ScriptedProvider({"m": Script(stall_after=0)})
    answers = generator(router(mute), standings=known, total_s=0.2)

    for _ in range(2 * CALLS_MIN):
        with pytest.raises(MeshError):
            await events_of(answers, wish("scripted/m"))

    (circuit,) = known.circuits()
    assert known.state(circuit)[0] is State.CLOSED
    assert circuit.averages.in_flight == 0


async def test_one_line_is_written_of_each_answer_without_a_word_of_it() -> None:
    other = FakeProvider("b", (WHOLE[len(HALF) :], STOP), takes_prefix=True)

    with capture_logs() as lines:
        await events_of(generator(router(cut(), other)), wish("a/x", "b/y"))

    (line,) = [one for one in lines if one["event"] == "generation"]
    assert line["gen_ai.request.model"] == "a/x"
    assert line["gen_ai.response.model"] == "b/y"
    assert (line["outcome"], line["attempts"], line["switches"]) == ("ok", 2, 1)
    assert line["gen_ai.usage.output_tokens"] == len(WHOLE)
    assert "sky" not in str(line)


async def test_line_tells_why_an_answer_did_not_come() -> None:
    with capture_logs() as lines, pytest.raises(ProviderUnavailable):
        await events_of(generator(router(cut())), wish("a/x"))

    (line,) = [one for one in lines if one["event"] == "generation"]
    assert line["outcome"] == "PROVIDER_UNAVAILABLE"
    assert line["gen_ai.usage.output_tokens"] == len(HALF)


async def test_reader_who_leaves_before_anybody_was_asked_consumed_nothing() -> None:
    provider = FakeProvider("a")
    with capture_logs() as lines:
        events = generator(router(provider)).stream(wish("a/x"))
        assert isinstance(await anext(events), Started)
        await events.aclose()

    (line,) = [one for one in lines if one["event"] == "generation"]
    assert (line["outcome"], line["gen_ai.usage.input_tokens"]) == ("abandoned", 0)
    assert provider.tasks == []
