"""Which examples an answer gets, and what it costs to find the nearest."""

import asyncio
from collections.abc import Sequence

import pytest

from services.inference.embedding import Embedded
from services.inference.model import Example
from services.inference.money.purse import Payer
from services.inference.prompts.examples import TEXTS_AT_ONCE, Choice, Examples
from services.inference.prompts.model import Content, Revision, Selection
from services.inference.prompts.store_memory import MemoryPrompts
from services.mesh.errors import Unavailable
from tests.support.prompts import AUTHOR, NOON, PAYER, FakeEncoder, prompt

SET = (
    Example("What is red?", "A colour."),
    Example("What is a note in a song?", "A tone."),
    Example("What is green and red?", "Brown."),
    Example("What is a song?", "Music."),
)


def revision(count: int = 2, examples: tuple[Example, ...] = SET) -> Revision:
    content = Content(template="Be kind.", examples=examples, selection=Selection.NEAREST, nearest_count=count)
    return Revision(prompt_id=prompt().id, number=1, content=content, author_id=AUTHOR, created_at=NOON)


def numbers(choice: Choice) -> list[int]:
    return [one.number for one in choice.chosen]


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def store() -> MemoryPrompts:
    return MemoryPrompts()


async def test_fixed_examples_are_all_given_in_their_order(store: MemoryPrompts, encoder: FakeEncoder) -> None:
    fixed = Revision(prompt_id="p", number=1, content=Content(examples=SET), author_id=AUTHOR, created_at=NOON)
    choice = await Examples(store, encoder).choose(fixed, "red?", PAYER)
    assert numbers(choice) == [1, 2, 3, 4]
    assert {one.similarity for one in choice.chosen} == {None}
    assert encoder.asked == []


async def test_nearest_examples_are_given_with_the_nearest_last(store: MemoryPrompts, encoder: FakeEncoder) -> None:
    choice = await Examples(store, encoder).choose(revision(), "Why is it red?", PAYER)
    assert numbers(choice) == [3, 1]
    assert [one.similarity for one in choice.chosen] == [pytest.approx(0.5**0.5), pytest.approx(1.0)]
    assert not choice.is_unranked


async def test_of_equally_near_examples_the_earlier_are_taken(store: MemoryPrompts, encoder: FakeEncoder) -> None:
    choice = await Examples(store, encoder).choose(revision(3), "Why?", PAYER)
    assert numbers(choice) == [3, 2, 1]


async def test_warm_choice_embeds_the_question_only(store: MemoryPrompts, encoder: FakeEncoder) -> None:
    examples, wanted = Examples(store, encoder), revision()
    await examples.choose(wanted, "red?", PAYER)
    await examples.choose(wanted, "song?", PAYER)
    assert encoder.asked == [["red?"], [example.user for example in SET], ["song?"]]


async def test_vectors_are_made_once_for_all_replicas(store: MemoryPrompts, encoder: FakeEncoder) -> None:
    wanted = revision()
    await Examples(store, encoder).prepare(wanted, PAYER)
    encoder.asked.clear()
    choice = await Examples(store, encoder).choose(wanted, "Why is it red?", PAYER)
    assert encoder.asked == [["Why is it red?"]]
    assert numbers(choice) == [3, 1]


async def test_vectors_of_another_encoder_are_not_compared(store: MemoryPrompts, encoder: FakeEncoder) -> None:
    examples, wanted = Examples(store, encoder), revision()
    await examples.choose(wanted, "red?", PAYER)
    encoder.encoder = "fake@2"
    encoder.asked.clear()
    await examples.choose(wanted, "red?", PAYER)
    assert encoder.asked == [["red?"], [example.user for example in SET]]


@pytest.mark.parametrize("count", [TEXTS_AT_ONCE - 1, TEXTS_AT_ONCE, TEXTS_AT_ONCE + 1])
async def test_examples_are_embedded_a_few_at_a_time(store: MemoryPrompts, encoder: FakeEncoder, count: int) -> None:
    many = tuple(Example(f"q{number}", "a") for number in range(count))
    await Examples(store, encoder).prepare(revision(1, many), PAYER)
    sizes = [len(texts) for texts in encoder.asked[1:]]
    assert sum(sizes) == count
    assert max(sizes) <= TEXTS_AT_ONCE


async def test_first_examples_are_given_without_a_question(store: MemoryPrompts, encoder: FakeEncoder) -> None:
    choice = await Examples(store, encoder).choose(revision(), " ", PAYER)
    assert (numbers(choice), choice.is_unranked, encoder.asked) == ([1, 2], True, [])


async def test_first_examples_are_given_when_nothing_can_be_embedded(
    store: MemoryPrompts, encoder: FakeEncoder
) -> None:
    encoder.is_away = True
    choice = await Examples(store, encoder).choose(revision(), "red?", PAYER)
    assert (numbers(choice), choice.is_unranked) == ([1, 2], True)
    assert {one.similarity for one in choice.chosen} == {None}


async def test_first_examples_are_given_where_nobody_can_embed(store: MemoryPrompts) -> None:
    choice = await Examples(store, None).choose(revision(), "red?", PAYER)
    assert (numbers(choice), choice.is_unranked) == ([1, 2], True)


async def test_first_examples_are_given_while_the_database_is_away(encoder: FakeEncoder) -> None:
    class Away(MemoryPrompts):
        async def vectors(self, *_arguments: object) -> dict[bytes, bytes]:
            raise Unavailable

    choice = await Examples(Away(), encoder).choose(revision(), "red?", PAYER)
    assert (numbers(choice), choice.is_unranked) == ([1, 2], True)


async def test_hung_encoder_holds_nobody_up(store: MemoryPrompts) -> None:
    class Hung(FakeEncoder):
        async def embed(self, payer: Payer, texts: Sequence[str]) -> Embedded:
            self.asked.append(list(texts))
            await asyncio.Event().wait()
            raise AssertionError

    encoder = Hung()
    examples = Examples(store, encoder, choice_s=0.01, preparation_s=0.01)
    await examples.prepare(revision(), PAYER)
    choice = await examples.choose(revision(), "red?", PAYER)
    assert (numbers(choice), choice.is_unranked) == ([1, 2], True)
    assert encoder.asked == [["What is red?"], ["red?"]]


async def test_revision_is_kept_though_its_examples_cannot_be_embedded(
    store: MemoryPrompts, encoder: FakeEncoder
) -> None:
    encoder.is_away = True
    await Examples(store, encoder).prepare(revision(), PAYER)
    assert encoder.asked == [["What is red?"]]


async def test_set_without_examples_needs_no_encoder(store: MemoryPrompts, encoder: FakeEncoder) -> None:
    examples = Examples(store, encoder)
    await examples.prepare(revision(1, ()), PAYER)
    choice = await examples.choose(revision(1, ()), "red?", PAYER)
    assert (choice.chosen, choice.is_unranked, encoder.asked) == ((), False, [])
