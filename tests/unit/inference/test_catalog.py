import pytest

from services.inference.catalog import Catalog
from services.inference.model import Usage
from services.inference.routes.compiling import Wishes, compiled
from services.inference.routes.schema import File
from services.inference.routes.source import SHIPPED, parse, read

ENTRY = """
[[model]]
name = "v/m"
display_name = "M"
context_tokens = 1000
output_tokens_max = 100
input_price = "2"
output_price = "10"
source = "somewhere"
date = 2026-01-02
"""
LONG = """long_above_tokens = 500
long_input_price = "4"
long_output_price = "20"
"""


def load(text: str | None = None) -> Catalog:
    file = read(SHIPPED) if text is None else parse(text, name="providers.toml")
    return compiled(file, File(), Wishes(variables=lambda _name: "", built_in={}), {}).catalog


def cost(text: str, input_tokens: int, output_tokens: int, cached: int = 0) -> int:
    known = load(text).get("v/m")
    assert known is not None
    return known.cost_micros(Usage(input_tokens=input_tokens, output_tokens=output_tokens, cached_input_tokens=cached))


def test_shipped_catalog_names_a_source_and_a_date_for_every_model() -> None:
    cards = list(load())

    assert len(cards) > 10
    assert all(card.source and card.date.year >= 2026 for card in cards)
    assert {card.provider for card in cards} == {"extractive", "openai", "anthropic"}


def test_shipped_prices_are_plausible() -> None:
    for card in load():
        for prices in filter(None, (card.prices, card.long_prices)):
            assert 0 <= prices.input_micros <= prices.output_micros <= 200_000_000
            assert prices.cached_input_micros is None or prices.cached_input_micros <= prices.input_micros


def test_built_in_model_is_free_which_is_not_unknown() -> None:
    card = load().get("extractive")

    assert card is not None
    assert card.cost_micros(Usage(input_tokens=1000, output_tokens=1000)) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENTRY, 100 * 2 + 10 * 10),
        (ENTRY + 'cached_input_price = "0.5"\n', 60 * 2 + 40 * 0.5 + 10 * 10),
    ],
)
def test_cached_tokens_cost_their_price_or_that_of_others(text: str, expected: float) -> None:
    assert cost(text, 100, 10, cached=40) == expected


@pytest.mark.parametrize(("input_tokens", "micros"), [(499, 998), (500, 1000), (501, 2004)])
def test_long_price_holds_for_the_whole_call_above_its_border(input_tokens: int, micros: int) -> None:
    assert cost(ENTRY + LONG, input_tokens, 0) == micros


def test_cost_is_rounded_to_the_nearest_millionth() -> None:
    cheap = ENTRY.replace('"2"', '"0.01"')

    assert [cost(cheap, tokens, 0) for tokens in (49, 50, 149, 150)] == [0, 1, 1, 2]
