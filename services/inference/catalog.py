"""What is known of models: windows, prices and where they were read. Loaded once from `catalog.toml`."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from services.inference.model import Usage

_PATH: Final = Path(__file__).with_name("catalog.toml")
_MILLION: Final = 1_000_000


class CatalogError(Exception):
    """The catalog is not what its format says; the message names the model and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of a million tokens in millionths of a US dollar; None where no source gives one."""

    input_micros: int
    output_micros: int
    cached_input_micros: int | None = None

    def cost_micros(self, usage: Usage) -> int:
        """Cost of a call, rounded to the nearest millionth; cached tokens without a price cost as others do."""
        cached_price = self.input_micros if self.cached_input_micros is None else self.cached_input_micros
        fresh = usage.input_tokens - usage.cached_input_tokens
        total = (
            fresh * self.input_micros
            + usage.cached_input_tokens * cached_price
            + usage.output_tokens * self.output_micros
        )
        return (total + _MILLION // 2) // _MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model that the catalog knows.

    Attributes:
        name: `<provider>/<model>` or `extractive`.
        context_tokens: window, question and answer together.
        output_tokens_max: the longest answer.
        prices: of a call of ordinary length.
        long_above_tokens: input beyond which `long_prices` hold for the whole call; None when there is one price.
        source: where the figures were read.
        date: day of the source.
    """

    name: str
    display_name: str
    context_tokens: int
    output_tokens_max: int
    prices: Prices
    source: str
    date: date
    long_above_tokens: int | None = None
    long_prices: Prices | None = None

    @property
    def provider(self) -> str:
        """First part of the name."""
        return self.name.partition("/")[0]

    def cost_micros(self, usage: Usage) -> int:
        """Cost of a call in millionths of a US dollar."""
        is_long = self.long_above_tokens is not None and usage.input_tokens > self.long_above_tokens
        return (self.long_prices if is_long and self.long_prices else self.prices).cost_micros(usage)


class Catalog:
    """All known models by name, in the order of the file."""

    def __init__(self, cards: Mapping[str, ModelCard]) -> None:
        self._cards = dict(cards)

    def get(self, name: str) -> ModelCard | None:
        """The model, or None when it is not known, which does not keep anybody from asking it."""
        return self._cards.get(name)

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self._cards.values())


def load(text: str | None = None) -> Catalog:
    """The catalog in `text`, or the one that is shipped.

    Raises:
        CatalogError: a field is missing or malformed, or a model is listed twice.
    """
    cards: dict[str, ModelCard] = {}
    for entry in tomllib.loads(_PATH.read_text(encoding="utf-8") if text is None else text).get("model", []):
        card = _card(entry)
        if card.name in cards:
            raise CatalogError(f"model {card.name!r} is listed twice")
        cards[card.name] = card
    return Catalog(cards)


def _card(entry: Mapping[str, Any]) -> ModelCard:  # Any: what TOML may hold; every value is checked by its use here
    name = entry.get("name", "without a name")
    try:
        long_above = entry.get("long_above_tokens")
        card = ModelCard(
            name=str(entry["name"]),
            display_name=str(entry["display_name"]),
            context_tokens=int(entry["context_tokens"]),
            output_tokens_max=int(entry["output_tokens_max"]),
            prices=_prices(entry, ""),
            source=str(entry["source"]),
            date=date.fromisoformat(str(entry["date"])),
            long_above_tokens=None if long_above is None else int(long_above),
            long_prices=None if long_above is None else _prices(entry, "long_"),
        )
    except (KeyError, ValueError, ArithmeticError) as error:
        raise CatalogError(f"model {name!r}: {error!r}") from error
    if card.output_tokens_max >= card.context_tokens:
        raise CatalogError(f"model {name!r}: the answer must leave room for a question")
    return card


def _prices(entry: Mapping[str, Any], prefix: str) -> Prices:  # Any: as above
    cached = entry.get(f"{prefix}cached_input_price")
    return Prices(
        input_micros=_micros(entry[f"{prefix}input_price"]),
        output_micros=_micros(entry[f"{prefix}output_price"]),
        cached_input_micros=None if cached is None else _micros(cached),
    )


def _micros(dollars: str) -> int:
    return int(Decimal(dollars) * _MILLION)
