"""The built-in model as a newcomer meets it."""

import pytest

from services.inference.extraction.drafting import NO_EVIDENCE, NO_PASSAGES, NO_QUESTION, NOTE, UNSURE
from services.inference.extraction.selection import SENTENCES_MAX
from services.inference.model import FinishReason, Message, Parameters, Passage, PassageCitation
from services.inference.providers.base import Cited, Ended, ProviderEvent, Task, Text
from services.inference.providers.extractive import ExtractiveProvider
from tests.support.inference import SEA, SKY, assistant, collect, said, task, user

RHINE = Passage(
    "Upper Rhine",
    "The Upper Rhine Plain is 300 km long and up to 40 km wide. It was formed during the Oligocene. "
    "The plain lies between the Vosges and the Black Forest.",
)
OIL = Passage(
    "1973 oil crisis",
    "The crisis began in October 1973, when members of OAPEC proclaimed an oil embargo. "
    "By the end of the embargo in March 1974, the price of oil had risen to nearly $12.",
)
INSTALL = Passage(
    "Setting up",
    "# Requirements\n\nYou need Python 3.11 or newer.\n\n# Start\n\nTo start the stack:\n\n"
    "- run `make run`\n- wait for the line that begins with ready\n\nStop it with Ctrl-C.",
)


def asked(*messages: Message, passages: tuple[Passage, ...]) -> Task:
    wanted = task(passages=passages)
    return Task(
        model="extractive",
        system="",
        turns=messages,
        messages=messages,
        passages=passages,
        parameters=wanted.parameters,
        output_tokens_max=None,
        limits=wanted.limits,
    )


async def answer(*messages: Message, passages: tuple[Passage, ...]) -> list[ProviderEvent]:
    provider = ExtractiveProvider()
    events = await collect(provider, asked(*messages, passages=passages))
    await provider.close()
    return events


def citations(events: list[ProviderEvent]) -> list[PassageCitation]:
    return [event.citation for event in events if isinstance(event, Cited)]


def finish_reason(events: list[ProviderEvent]) -> FinishReason:
    assert isinstance(events[-1], Ended)
    return events[-1].finish_reason


@pytest.mark.parametrize(
    ("question", "fact", "passage"),
    [
        ("How long is the Upper Rhine Plain?", "300 km", 1),
        ("When did the oil crisis begin?", "October 1973", 2),
        ("Why is the sky blue?", "air scatters short waves", 3),
        ("What lies between the Vosges and the Black Forest?", "plain", 1),
        ("Which version of Python do I need?", "Python 3.11", 4),
        ("How do I start the stack?", "make run", 4),
    ],
)
async def test_answer_quotes_the_sentence_that_holds_the_fact(question: str, fact: str, passage: int) -> None:
    events = await answer(user(question), passages=(RHINE, OIL, SKY, INSTALL))

    first = citations(events)[0]
    assert fact in said(events)[first.start : first.end]
    assert first.passage == passage
    assert finish_reason(events) is FinishReason.STOP


async def test_citation_ranges_are_the_quoted_sentences_exactly() -> None:
    passages = (RHINE, OIL, SKY, SEA, INSTALL)
    events = await answer(user("Explain how the oil crisis began and why the sky is blue"), passages=passages)

    text = said(events)
    found = citations(events)
    assert found
    for one in found:
        source = passages[one.passage - 1].text[one.source_start : one.source_end]
        assert text[one.start : one.end] == " ".join(source.split())
        assert text[one.end :].lstrip(".").startswith(f" [{one.passage}]")


async def test_answer_says_once_in_a_conversation_what_is_answering() -> None:
    first = await answer(user("When did the oil crisis begin?"), passages=(OIL,))
    second = await answer(
        user("When did the oil crisis begin?"), assistant(said(first)), user("When did it end?"), passages=(OIL,)
    )

    assert NOTE in said(first)
    assert NOTE not in said(second)
    assert citations(second)


async def test_follow_up_takes_its_topic_from_the_question_before() -> None:
    events = await answer(
        user("How long is the Upper Rhine Plain?"), assistant("300 km."), user("And how wide?"), passages=(OIL, RHINE)
    )

    assert "40 km wide" in said(events)


async def test_sentence_that_leans_on_the_one_before_brings_it_along() -> None:
    events = await answer(user("What was formed during the Oligocene?"), passages=(RHINE,))

    assert [one.source_start for one in citations(events)] == [0, RHINE.text.index("It was")]


@pytest.mark.parametrize(
    "question", ["Who won the chess championship of 1972?", "Write me a poem about love", "What is 17 times 23?"]
)
async def test_nothing_found_is_said_with_the_closest_titles(question: str) -> None:
    events = await answer(user(question), passages=(RHINE, SKY))

    assert said(events) == f"{NO_EVIDENCE} The closest passages are from “Upper Rhine” and “Colours of the sky”."
    assert citations(events) == []
    assert finish_reason(events) is FinishReason.NO_EVIDENCE


async def test_weak_evidence_is_called_so() -> None:
    events = await answer(user("How do red clouds form at sea?"), passages=(SKY, SEA))

    assert said(events).startswith(UNSURE)
    assert citations(events)


async def test_without_passages_it_says_what_it_is() -> None:
    events = await answer(user("Why is the sky blue?"), passages=())

    assert said(events) == NO_PASSAGES
    assert finish_reason(events) is FinishReason.NO_EVIDENCE


async def test_greeting_is_answered_with_what_it_can_do() -> None:
    assert said(await answer(user("Who are you?"), passages=(SKY,))) == NO_QUESTION


async def test_same_prompt_gives_the_same_answer() -> None:
    question = user("What do the passages say about the sky, the sea and oil?")

    assert await answer(question, passages=(SKY, SEA, OIL)) == await answer(question, passages=(SKY, SEA, OIL))


async def test_same_sentence_in_two_passages_is_quoted_once() -> None:
    events = await answer(user("Why is the sky blue?"), passages=(SKY, SKY, SKY))

    assert len({(one.source_start, one.source_end) for one in citations(events)}) == len(citations(events))


async def test_answer_quotes_no_more_than_its_bound() -> None:
    crowd = tuple(
        Passage(f"P{number}", f"The sky over city {number} is blue. Why it is blue differs.") for number in range(20)
    )

    assert len(citations(await answer(user("Why is the sky blue?"), passages=crowd))) <= SENTENCES_MAX


async def test_words_are_sent_one_by_one() -> None:
    events = await answer(user("Why is the sky blue?"), passages=(SKY,))

    assert all(len(event.text.split()) == 1 for event in events if isinstance(event, Text))


async def test_length_and_stop_texts_are_kept_to() -> None:
    provider = ExtractiveProvider()

    short = await collect(provider, task(output_tokens_max=5))
    stopped = await collect(provider, task(parameters=Parameters(stop=("because",))))

    assert len(said(short)) <= 5 * 4
    assert finish_reason(short) is FinishReason.LENGTH
    assert said(stopped) == "The sky is blue"
    assert citations(stopped) == []
    await provider.close()


async def test_definition_is_preferred_where_one_is_asked_for() -> None:
    uses = Passage("Uses", "Tea is drunk with milk. The price of a tea bush is high. What tea needs is water.")
    definition = Passage("Plants", "Many plants are grown for drinks. A tea is an infusion of leaves in hot water.")

    events = await answer(user("What is a tea?"), passages=(uses, definition, SEA))

    first = citations(events)[0]
    assert said(events)[first.start : first.end] == "A tea is an infusion of leaves in hot water."


async def test_best_passage_is_quoted_first() -> None:
    events = await answer(user("Describe when the oil crisis began"), passages=(RHINE, SKY, OIL))

    assert citations(events)[0].passage == 3


async def test_sentence_that_repeats_the_question_does_not_answer_it() -> None:
    faq = Passage("Questions", "Example: how long is the Upper Rhine Plain in kilometres? Ask it like that.")
    events = await answer(user("How long is the Upper Rhine Plain?"), passages=(faq, RHINE))
    assert "is 300 km long" in said(events)
    assert "Example" not in said(events)


@pytest.mark.parametrize("length", [1_999, 2_000])
async def test_short_talk_without_passages_is_answered_where_it_is_asked(length: int) -> None:
    provider = ExtractiveProvider()
    await provider.close()  # no thread takes work any more

    events = await collect(provider, asked(user("?" * length), passages=()))

    assert isinstance(events[-1], Ended)


@pytest.mark.parametrize(("length", "passages"), [(2_001, ()), (20, (SKY,))])
async def test_what_takes_longer_is_answered_in_a_thread(length: int, passages: tuple[Passage, ...]) -> None:
    provider = ExtractiveProvider()
    await provider.close()

    with pytest.raises(RuntimeError):
        await collect(provider, asked(user("?" * length), passages=passages))
