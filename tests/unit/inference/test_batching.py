"""Terms of batches, how items are split by them, and how lines of results are read."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from services.inference.catalog import ModelCard, Prices
from services.inference.model import Usage
from services.inference.providers import submissions
from services.inference.providers.anthropic_batches import AnthropicBatches
from services.inference.providers.batching import (
    BATCH_BYTES_MAX,
    ID_CHARS_MAX,
    LANDING_S,
    SUBMIT_S,
    BatchItem,
    BatchTerms,
    Submission,
    split,
)
from services.inference.providers.openai import OpenAIProvider
from services.inference.providers.openai_batches import OpenAIBatches
from services.inference.routes.compiling import Wishes, compiled
from services.inference.routes.source import SHIPPED, RoutesError, parse, read
from services.inference.routing import Book
from services.mesh.ids import new_id
from tests.support.inference import task

TERMS = BatchTerms(price_factor=Decimal("0.5"), items_max=3, bytes_max=10_000, source="a test", date=date(2026, 11, 23))
SUBMISSION = Submission(marker="btv_1", model="v/m", submitted_at=datetime(2026, 11, 23, tzinfo=UTC), items_count=1)
RACK = """
[[provider]]
name = "rack"
kind = "openai-compatible"
base_url = "http://127.0.0.1:8000/v1"
"""
DECLARED = """
[provider.batches]
price_factor = "0.75"
items_max = 10
bytes_max = 1000
source = "our own rack"
date = 2026-11-23
"""


def endpoint(terms: BatchTerms = TERMS) -> OpenAIBatches:
    return OpenAIBatches(OpenAIProvider(api_key="sk-test"), terms)


def items(count: int) -> list[BatchItem]:
    return [BatchItem(id=f"bti_{number}", task=task()) for number in range(count)]


def sizes(found: Sequence[Sequence[BatchItem]]) -> list[int]:
    return [len(batch) for batch in found]


def book_of(text: str, variables: dict[str, str]) -> Book:
    wishes = Wishes(variables=lambda name: variables.get(name, ""), built_in={})
    return compiled(read(SHIPPED), parse(text, name="providers.toml"), wishes, {})


def terms_of(text: str, name: str, **variables: str) -> BatchTerms | None:
    batches = book_of(text, variables).sources[name].keys[0].line.batches
    return None if batches is None else batches.terms


@pytest.mark.parametrize(("count", "expected"), [(0, []), (2, [2]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])])
def test_a_batch_holds_as_many_items_as_its_provider_takes(count: int, expected: list[int]) -> None:
    assert sizes(list(split(endpoint(), items(count)))) == expected


@pytest.mark.parametrize(("missing_bytes", "expected"), [(0, [2, 1]), (1, [1, 1, 1]), (-1, [2, 1])])
def test_a_batch_is_as_large_as_its_provider_takes(missing_bytes: int, expected: list[int]) -> None:
    size = endpoint().size_of(items(1)[0])
    terms = BatchTerms(
        price_factor=TERMS.price_factor,
        items_max=100,
        bytes_max=2 * size - missing_bytes,
        source=TERMS.source,
        date=TERMS.date,
    )

    assert sizes(list(split(endpoint(terms), items(3)))) == expected


def test_an_item_that_is_too_large_is_a_batch_of_its_own() -> None:
    terms = BatchTerms(price_factor=TERMS.price_factor, items_max=9, bytes_max=1, source="a test", date=TERMS.date)

    assert sizes(list(split(endpoint(terms), items(2)))) == [1, 1]


def test_items_keep_their_order() -> None:
    found = [item.id for batch in split(endpoint(), items(7)) for item in batch]

    assert found == [item.id for item in items(7)]


def test_ids_of_ours_fit_the_vendors() -> None:
    marker, item = new_id("btv"), new_id("bti")

    assert max(len(marker), len(item)) <= ID_CHARS_MAX
    assert 2 * ID_CHARS_MAX + 1 <= submissions.CUSTOM_ID_CHARS_MAX


def test_a_submission_has_landed_only_after_all_its_requests_were_given_up() -> None:
    assert LANDING_S > 2 * SUBMIT_S


def test_an_id_of_another_submission_means_nothing() -> None:
    item = items(1)[0]
    mine = submissions.custom_id(SUBMISSION, item)

    assert submissions.item_id(SUBMISSION, mine) == item.id
    assert submissions.item_id(SUBMISSION, mine.replace("btv_1", "btv_2")) == ""
    assert submissions.item_id(SUBMISSION, "btv_1") == ""


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], []),
        ([b"one\ntwo\n"], [b"one", b"two"]),
        ([b"o", b"ne", b"\nt", b"wo"], [b"one", b"two"]),
        ([b"\n\none\n\n"], [b"one"]),
        ([b"x" * submissions.LINE_BYTES_MAX, b"\ntwo\n"], [b"x" * submissions.LINE_BYTES_MAX, b"two"]),
        ([b"x" * submissions.LINE_BYTES_MAX, b"x\ntwo\n"], [b"two"]),
        ([b"one\n", b"x" * (submissions.LINE_BYTES_MAX + 1), b"tail"], [b"one"]),
    ],
    ids=["none", "whole", "pieces", "empty", "longest", "too long", "too long at the end"],
)
async def test_lines(chunks: list[bytes], expected: list[bytes]) -> None:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    assert [line async for line in submissions.lines(body())] == expected


def test_a_part_of_the_price_is_never_less_than_it_is() -> None:
    card = ModelCard(
        name="v/m",
        display_name="M",
        context_tokens=10,
        output_tokens_max=5,
        prices=Prices(input_micros=101, output_micros=1_000, cached_input_micros=11),
        source="a test",
        date=date(2026, 11, 23),
        long_above_tokens=500,
        long_prices=Prices(input_micros=200, output_micros=2_000),
    )

    half = card.at_factor(Decimal("0.5"))

    assert half.prices == Prices(input_micros=51, output_micros=500, cached_input_micros=6)
    assert half.long_prices == Prices(input_micros=100, output_micros=1_000)
    assert half.cost_nanos(Usage(input_tokens=1_000_000, output_tokens=0)) == 100_000
    assert card.prices.input_micros == 101


def test_the_vendors_take_batches_at_half_the_price() -> None:
    openai = terms_of("", "openai", OPENAI_API_KEY="sk-a")
    anthropic = terms_of("", "anthropic", ANTHROPIC_API_KEY="sk-b")

    assert openai is not None
    assert anthropic is not None
    assert (openai.price_factor, openai.items_max, openai.bytes_max) == (Decimal("0.5"), 50_000, 200_000_000)
    assert (anthropic.price_factor, anthropic.items_max, anthropic.bytes_max) == (Decimal("0.5"), 100_000, 256_000_000)
    assert min(openai.bytes_max, anthropic.bytes_max) >= BATCH_BYTES_MAX


def test_each_vendors_endpoint_is_its_own() -> None:
    book = book_of("", {"OPENAI_API_KEY": "sk-a", "ANTHROPIC_API_KEY": "sk-b"})

    assert isinstance(book.sources["openai"].keys[0].line.batches, OpenAIBatches)
    assert isinstance(book.sources["anthropic"].keys[0].line.batches, AnthropicBatches)


def test_a_compatible_server_takes_batches_only_where_that_is_declared() -> None:
    assert terms_of(RACK, "rack") is None
    declared = terms_of(RACK + DECLARED, "rack")
    assert declared is not None
    assert declared.price_factor == Decimal("0.75")


def test_a_local_server_in_the_place_of_openai_takes_none() -> None:
    assert terms_of("", "openai", OPENAI_BASE_URL="http://127.0.0.1:11434/v1") is None


def test_other_terms_make_another_adapter() -> None:
    before, after = (book_of(RACK + text, {}).sources["rack"].keys[0].line.made_of for text in ("", DECLARED))

    assert before != after


@pytest.mark.parametrize(
    "wrong",
    [
        DECLARED.replace('"0.75"', '"1.5"'),
        DECLARED.replace('"0.75"', '"-0.5"'),
        DECLARED.replace("items_max = 10", "items_max = 0"),
        DECLARED.replace("bytes_max = 1000", ""),
        DECLARED.replace('source = "our own rack"', ""),
    ],
)
def test_terms_that_make_no_sense_are_refused(wrong: str) -> None:
    with pytest.raises(RoutesError):
        book_of(RACK + wrong, {})


def test_the_built_in_model_takes_no_batches() -> None:
    with pytest.raises(RoutesError, match="no batches"):
        book_of('[[provider]]\nname = "mine"\nkind = "extractive"' + DECLARED, {})
