"""From a wish to an answer: fallback before the first text and never after it, usage, cost, limits."""

from datetime import date

import pytest
from prometheus_client import Counter

from services.inference import metrics
from services.inference.catalog import Catalog, ModelCard, Prices
from services.inference.model import (
    Example,
    Finished,
    FinishReason,
    Generation,
    Parameters,
    PassageCitation,
    Prompt,
    ProviderSwitched,
    Started,
    TextDelta,
    Usage,
)
from services.inference.providers.base import Ended, TokenCounts
from services.inference.providers.scripted import Script, ScriptedProvider
from services.mesh import deadline
from services.mesh.errors import (
    ERROR_BY_REASON,
    ContentFiltered,
    DeadlineExceeded,
    ProviderUnavailable,
    Reason,
)
from tests.support.inference import HASTY, SKY, FakeProvider, events_of, generator, prompt, router, user

STOP = Ended(FinishReason.STOP)
SWITCHABLE = {
    Reason.PROVIDER_UNAVAILABLE,
    Reason.PROVIDER_TIMEOUT,
    Reason.PROVIDER_REJECTED,
    Reason.PROVIDER_MISCONFIGURED,
    Reason.MODEL_UNPRICED,
    Reason.RATE_LIMITED,
    Reason.MODEL_UNKNOWN,
    Reason.CONTEXT_LENGTH_EXCEEDED,
}


def wish(
    model: str = "", *fallbacks: str, text: str = "Why is the sky blue?", output_tokens_max: int | None = None
) -> Generation:
    return Generation(
        prompt=prompt(text),
        model=model,
        fallback_models=fallbacks,
        parameters=Parameters(output_tokens_max=output_tokens_max),
    )


def card(name: str, *, window: int = 1_000, longest: int = 100) -> ModelCard:
    return ModelCard(
        name=name,
        display_name=name,
        context_tokens=window,
        output_tokens_max=longest,
        prices=Prices(input_micros=1_000_000, output_micros=2_000_000),
        source="a test",
        date=date(2026, 1, 2),
    )


def value(counter: Counter, *labels: str) -> float:
    return float(counter.labels(*labels)._value.get())


async def test_answer_begins_with_started_and_ends_with_finished() -> None:
    provider = FakeProvider(
        "a", ("The sky is blue", " [1].", Ended(FinishReason.LENGTH, TokenCounts(input_tokens=7, output_tokens=3)))
    )

    events = await events_of(generator(router(provider)), wish("a/x"))

    started, first, second, citation, finished = events
    assert isinstance(started, Started)
    assert started.model == "a/x"
    assert [first, second] == [TextDelta(0, "The sky is blue"), TextDelta(15, " [1].")]
    assert citation == PassageCitation(
        passage=1, start=0, end=15, source_start=0, source_end=SKY.text.index(" At dusk")
    )
    assert isinstance(finished, Finished)
    assert finished.answer.text == "The sky is blue [1]."
    assert finished.answer.citations == (citation,)
    assert finished.answer.finish_reason is FinishReason.LENGTH
    assert finished.answer.model == "a/x"
    assert finished.answer.usage == Usage(input_tokens=7, output_tokens=3)
    assert finished.answer.context == started.context


@pytest.mark.parametrize("reason", Reason)
async def test_which_errors_lead_to_the_next_model(reason: Reason) -> None:
    broken = FakeProvider("a", (ERROR_BY_REASON[reason](),))
    healthy = FakeProvider("b")
    answers = generator(router(broken, healthy))

    if reason in SWITCHABLE:
        events = await events_of(answers, wish("a/x", "b/y"))
        assert events[1] == ProviderSwitched(from_model="a/x", to_model="b/y", reason=reason.value, offset=0)
        assert isinstance(events[-1], Finished)
        assert events[-1].answer.model == "b/y"
    else:
        with pytest.raises(ERROR_BY_REASON[reason]):
            await events_of(answers, wish("a/x", "b/y"))
        assert healthy.tasks == []


async def test_started_comes_once_and_names_the_model_that_began() -> None:
    providers = [FakeProvider(name, (ProviderUnavailable(),)) for name in "ab"]

    events = await events_of(generator(router(*providers, FakeProvider("c"))), wish("a/x", "b/x", "c/x"))

    assert [type(event) for event in events] == [Started, ProviderSwitched, ProviderSwitched, TextDelta, Finished]
    assert isinstance(events[0], Started)
    assert events[0].model == "a/x"


async def test_same_error_of_all_models_is_the_error() -> None:
    providers = [FakeProvider(name, (ERROR_BY_REASON[Reason.RATE_LIMITED](retry_after_s=3),)) for name in "ab"]

    with pytest.raises(ERROR_BY_REASON[Reason.RATE_LIMITED]):
        await events_of(generator(router(*providers)), wish("a/x", "b/x"))


async def test_different_errors_of_all_models_say_that_none_could_answer() -> None:
    limited = FakeProvider("a", (ERROR_BY_REASON[Reason.RATE_LIMITED](retry_after_s=3),))
    down = FakeProvider("b", (ProviderUnavailable(retry_after_s=9),))

    with pytest.raises(ProviderUnavailable) as error:
        await events_of(generator(router(limited, down)), wish("a/x", "b/x"))

    assert error.value.metadata == {"model": "a/x"}
    assert error.value.retry_after_s == 3


async def test_prompt_that_does_not_fit_one_model_goes_to_a_larger_one() -> None:
    small, large = FakeProvider("small"), FakeProvider("large")
    catalog = Catalog({"small/m": card("small/m", window=120), "large/m": card("large/m", window=100_000)})
    answers = generator(router(small, large, catalog=catalog))

    events = await events_of(answers, wish("small/m", "large/m", text="x" * 500))

    assert [type(event) for event in events[:2]] == [Started, ProviderSwitched]
    assert isinstance(events[1], ProviderSwitched)
    assert events[1].reason == "CONTEXT_LENGTH_EXCEEDED"
    assert small.tasks == []


async def test_prompt_that_fits_no_model_is_refused_with_the_model_and_both_figures() -> None:
    with pytest.raises(ERROR_BY_REASON[Reason.CONTEXT_LENGTH_EXCEEDED]) as error:
        await events_of(generator(router(FakeProvider("a")), window=1_024), wish("a/x", text="x" * 2_000))

    assert error.value.metadata["model"] == "a/x"
    assert int(error.value.metadata["input_tokens"]) > int(error.value.metadata["input_tokens_max"])


async def test_callers_budget_holds_where_it_is_smaller_than_the_window() -> None:
    provider = FakeProvider("a")
    wanted = Generation(
        prompt=Prompt(messages=(user("old"), user("q?")), passages=(SKY,), input_tokens_max=20), model="a/x"
    )

    answer = await generator(router(provider)).answer(wanted)

    assert answer.context.messages_dropped + answer.context.passages_dropped > 0
    assert answer.context.input_tokens <= 20


async def test_answer_is_no_longer_than_the_model_can_write() -> None:
    provider = FakeProvider("a")
    answers = generator(router(provider, catalog=Catalog({"a/x": card("a/x", longest=100)})))

    await answers.answer(wish("a/x", output_tokens_max=5_000))
    await answers.answer(wish("a/x", output_tokens_max=50))
    await answers.answer(wish("a/x"))

    assert [task.output_tokens_max for task in provider.tasks] == [100, 50, None]


async def test_usage_that_the_provider_does_not_report_is_estimated() -> None:
    answer = await generator(router(FakeProvider("a", ("12345", STOP)))).answer(wish("a/x"))

    assert answer.usage == Usage(
        input_tokens=answer.context.input_tokens, output_tokens=5, cost_micros=None, estimated=True
    )


async def test_cost_is_known_for_a_catalogued_model_and_absent_for_another() -> None:
    settled = Ended(FinishReason.STOP, TokenCounts(input_tokens=100, output_tokens=10))
    answers = generator(router(FakeProvider("a", ("x", settled)), catalog=Catalog({"a/known": card("a/known")})))

    assert (await answers.answer(wish("a/known"))).usage.cost_micros == 120
    assert (await answers.answer(wish("a/unknown"))).usage.cost_micros is None


async def test_platforms_fallbacks_are_used_when_the_caller_names_none() -> None:
    broken, healthy = FakeProvider("a", (ProviderUnavailable(),)), FakeProvider("b")

    answer = await generator(router(broken, healthy, fallbacks=["b/m"])).answer(wish())

    assert answer.model == "b/m"


async def test_unknown_model_is_refused_before_anything_is_asked() -> None:
    provider = FakeProvider("a")

    with pytest.raises(ERROR_BY_REASON[Reason.MODEL_UNKNOWN]):
        await events_of(generator(router(provider)), wish("a/x", "nobody/y"))

    assert provider.tasks == []


async def test_model_that_says_nothing_is_left_for_the_next_one() -> None:
    mute = ScriptedProvider({"mute": Script(stall_after=0)})
    answers = generator(router(mute, FakeProvider("b"), limits=HASTY))

    events = await events_of(answers, wish("scripted/mute", "b/y"))

    assert events[1] == ProviderSwitched(
        from_model="scripted/mute", to_model="b/y", reason="PROVIDER_TIMEOUT", offset=0
    )


async def test_call_without_time_is_refused_before_anything_is_asked() -> None:
    provider = FakeProvider("a")

    with deadline.within(0.001), pytest.raises(DeadlineExceeded):
        await events_of(generator(router(provider)), wish("a/x"))

    assert provider.tasks == []


async def test_callers_deadline_bounds_the_provider() -> None:
    provider = FakeProvider("a")

    with deadline.within(5.0):
        await events_of(generator(router(provider)), wish("a/x"))

    assert 0 < provider.tasks[0].limits.total_s < 5.0


async def test_stream_that_breaks_off_is_an_error() -> None:
    with pytest.raises(ProviderUnavailable):
        await generator(router(FakeProvider("a", ("Half",)))).answer(wish("a/x"))


async def test_leaving_early_closes_the_provider_and_counts_what_was_written() -> None:
    provider = FakeProvider("abandoned", ("12345", "678", STOP))
    events = generator(router(provider)).stream(wish("abandoned/x"))
    while not isinstance(await anext(events), TextDelta):
        pass

    await events.aclose()

    assert provider.closed == 1
    assert value(metrics._ABANDONED, "abandoned", "other") == 1
    assert value(metrics._TOKENS, "abandoned", "other", "output") == 5


async def test_metrics_tell_errors_switches_tokens_and_cost() -> None:
    settled = Ended(FinishReason.STOP, TokenCounts(input_tokens=100, output_tokens=10, cached_input_tokens=4))
    healthy = FakeProvider("metered", ("x", settled))
    broken = FakeProvider("flaky", (ProviderUnavailable(),))
    answers = generator(router(broken, healthy, catalog=Catalog({"metered/m": card("metered/m")})))

    await answers.answer(wish("flaky/m", "metered/m"))

    assert value(metrics._ERRORS, "flaky", "other", "server_error") == 1
    assert value(metrics._SWITCHES, "flaky", "metered", "PROVIDER_UNAVAILABLE") == 1
    assert value(metrics._ANSWERS, "metered", "metered/m", "stop") == 1
    assert value(metrics._TOKENS, "metered", "metered/m", "input") == 100
    assert value(metrics._TOKENS, "metered", "metered/m", "cached_input") == 4
    assert value(metrics._COST, "metered", "metered/m") == 120


async def test_examples_stand_before_the_conversation() -> None:
    provider = FakeProvider("a")
    wanted = Generation(prompt=Prompt(messages=(user("q?"),), examples=(Example("eu", "ea"),)), model="a/x")

    await generator(router(provider)).answer(wanted)

    assert [turn.text for turn in provider.tasks[0].turns] == ["eu", "ea", "q?"]


async def test_filtered_prompt_is_shown_to_no_other_provider() -> None:
    other = FakeProvider("b")

    with pytest.raises(ContentFiltered):
        await events_of(generator(router(FakeProvider("a", (ContentFiltered(),)), other)), wish("a/x", "b/y"))

    assert other.tasks == []


async def test_tokens_are_counted_by_estimate() -> None:
    answers = generator(router(FakeProvider("a"), FakeProvider("self", cites=True)))

    grounded = await answers.count_tokens(wish("a/x"))
    plain = await answers.count_tokens(wish("self/x"))

    assert grounded.is_estimated
    assert grounded.input_tokens > plain.input_tokens > len(SKY.text)
