"""What is known of models: windows, prices and where they were read. `routes` reads them from `providers.toml`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Final, Self

from services.inference.model import Usage

_MILLION: Final = 1_000_000
_THOUSAND: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of a million tokens in millionths of a US dollar; None where no source gives one."""

    input_micros: int
    output_micros: int
    cached_input_micros: int | None = None

    def cost_micros(self, usage: Usage) -> int:
        """Cost of a call, rounded to the nearest millionth of a dollar."""
        return (self._picos(usage) + _MILLION // 2) // _MILLION

    def cost_nanos(self, usage: Usage) -> int:
        """Cost of a call, rounded to the nearest billionth of a dollar."""
        return (self._picos(usage) + _THOUSAND // 2) // _THOUSAND

    def at_factor(self, factor: Decimal) -> Self:
        """These prices times `factor`, never less than they would be exactly."""

        def times(micros: int) -> int:
            return int((micros * factor).to_integral_value(ROUND_CEILING))

        cached = self.cached_input_micros
        return replace(
            self,
            input_micros=times(self.input_micros),
            output_micros=times(self.output_micros),
            cached_input_micros=None if cached is None else times(cached),
        )

    def _picos(self, usage: Usage) -> int:
        """The exact cost: a micro per million tokens is a pico per token. Unpriced cached tokens cost as others do."""
        cached_price = self.input_micros if self.cached_input_micros is None else self.cached_input_micros
        fresh = usage.input_tokens - usage.cached_input_tokens
        return (
            fresh * self.input_micros
            + usage.cached_input_tokens * cached_price
            + usage.output_tokens * self.output_micros
        )


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
        takes_prefix: it goes on with an answer that has begun; None for what its provider says of all its models.
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
    takes_prefix: bool | None = None

    @property
    def provider(self) -> str:
        """First part of the name."""
        return self.name.partition("/")[0]

    def cost_micros(self, usage: Usage) -> int:
        """Cost of a call in millionths of a US dollar."""
        return self._prices_at(usage.input_tokens).cost_micros(usage)

    def cost_nanos(self, usage: Usage) -> int:
        """Cost of a call in billionths of a US dollar."""
        return self._prices_at(usage.input_tokens).cost_nanos(usage)

    def output_tokens_for(self, nanos: int, *, input_tokens: int) -> int:
        """How many tokens of an answer so much money pays for; no more than the longest answer."""
        picos = self._prices_at(input_tokens).output_micros
        return min(self.output_tokens_max, nanos * _THOUSAND // picos) if picos else self.output_tokens_max

    def at_factor(self, factor: Decimal) -> Self:
        """The model at a part of its prices, as for batches: `BatchTerms.price_factor`."""
        long_prices = None if self.long_prices is None else self.long_prices.at_factor(factor)
        return replace(self, prices=self.prices.at_factor(factor), long_prices=long_prices)

    def _prices_at(self, input_tokens: int) -> Prices:
        is_long = self.long_above_tokens is not None and input_tokens > self.long_above_tokens
        return self.long_prices if is_long and self.long_prices else self.prices


class Catalog:
    """All known models by name, in the order of the file."""

    def __init__(self, cards: Mapping[str, ModelCard]) -> None:
        self._cards = dict(cards)

    def get(self, name: str) -> ModelCard | None:
        """The model, or None when it is not known, which does not keep anybody from asking it."""
        return self._cards.get(name)

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self._cards.values())
