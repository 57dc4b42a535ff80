"""What `providers.toml` may hold. Keys are never in it: they are named by environment variable or secret file."""

from datetime import date
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TARGETS_MAX: Final = 32
KEYS_MAX: Final = 64
ENTRIES_MAX: Final = 1_000
CACHE_S_MAX: Final = 2_592_000
"""Thirty days, for each of the two times of a cache."""
SIMILARITY_MIN: Final = 0.9

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
"""Of a provider, a key, an alias or a route: no slash, so that it is never taken for a model."""
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(gt=0.0, le=3_600.0)]
Price = Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,6})?$")]
"""US dollars for a million tokens, as text: prices are decimal figures."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Secret(_Entry):
    """Where a secret stands: exactly one of both."""

    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = None
    file: Annotated[str, Field(min_length=1, max_length=1_024)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("needs either env, the name of a variable, or file, the path of a secret")
        return self


class KeyEntry(Secret):
    """A key of a provider.

    Attributes:
        name: in metrics and states; by default the variable or the file's name.
        weight: its share of calls among the keys of the provider.
        requests_per_minute, tokens_per_minute: what it may ask; the vendor's headers only ever lower it.
        optional: the provider may do without it; otherwise a reference that leads nowhere is an error.
    """

    name: Name | None = None
    weight: Annotated[float, Field(gt=0.0, le=1_000.0)] = 1.0
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    optional: bool = False


class Address(_Entry):
    """A base URL by the name of a variable; the provider's own where it is not set."""

    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class LimitsEntry(_Entry):
    """Time limits in seconds; what is not named stays as it is further out."""

    connect_s: Seconds | None = None
    first_event_s: Seconds | None = None
    stall_s: Seconds | None = None
    total_s: Seconds | None = None


class QuirksEntry(_Entry):
    """In what a compatible server differs from the vendor whose format it speaks."""

    stream_options: bool = True
    output_limit: Literal["max_tokens", "max_completion_tokens"] | None = None
    assistant_prefix: bool = False


class BatchesEntry(_Entry):
    """A provider takes batches; see `batching.BatchTerms`."""

    price_factor: Annotated[str, Field(pattern=r"^(0\.\d{1,4}|1|1\.0{1,4})$")]
    items_max: Annotated[int, Field(ge=1)]
    bytes_max: Annotated[int, Field(ge=1)]
    source: Annotated[str, Field(min_length=1)]
    date: date


class ProviderEntry(_Entry):
    """A provider.

    Attributes:
        name: first part of its models' names.
        kind: whose format it speaks.
        base_url: of its API; the vendor's own when absent.
        keys: its pool; a server that needs none has none.
        batches: absent, it has no batch endpoint.
    """

    name: Name
    kind: Literal["openai", "anthropic", "openai-compatible", "extractive"]
    base_url: Annotated[str, Field(pattern=r"^https?://\S+$")] | Address | None = None
    keys: Annotated[tuple[KeyEntry, ...], Field(max_length=KEYS_MAX)] = ()
    limits: LimitsEntry = LimitsEntry()
    quirks: QuirksEntry = QuirksEntry()
    batches: BatchesEntry | None = None

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.kind == "openai-compatible" and self.base_url is None:
            raise ValueError("a compatible server needs its base_url")
        if self.kind == "anthropic" and not self.keys:
            raise ValueError("Anthropic's format needs at least one key")
        if self.kind == "extractive" and (self.keys or self.base_url is not None):
            raise ValueError("the built-in model has neither keys nor a base_url")
        if self.kind == "extractive" and self.batches is not None:
            raise ValueError("the built-in model takes no batches")
        return self


class ModelEntry(_Entry):
    """What is known of a model; see `catalog.ModelCard`."""

    name: ModelName
    display_name: Annotated[str, Field(min_length=1, max_length=200)]
    context_tokens: Annotated[int, Field(ge=2)]
    output_tokens_max: Annotated[int, Field(ge=1)]
    input_price: Price
    output_price: Price
    cached_input_price: Price | None = None
    long_above_tokens: Annotated[int, Field(ge=1)] | None = None
    long_input_price: Price | None = None
    long_output_price: Price | None = None
    long_cached_input_price: Price | None = None
    source: Annotated[str, Field(min_length=1)]
    date: date
    assistant_prefix: bool | None = None

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.output_tokens_max >= self.context_tokens:
            raise ValueError("the answer must leave room for a question")
        if self.long_above_tokens is not None and (self.long_input_price is None or self.long_output_price is None):
            raise ValueError("long_above_tokens needs long_input_price and long_output_price")
        return self


class TargetEntry(LimitsEntry):
    """A model that a route may ask.

    Attributes:
        model: `<provider>/<model>` or an alias.
        order: targets of a lower order are asked first; by default each stands in the order of the file.
        weight: its share among targets of the same order.
        assistant_prefix: as its provider's quirk of this name, for this target alone; absent, what its model says.
    """

    model: ModelName
    assistant_prefix: bool | None = None
    order: Annotated[int, Field(ge=0, le=1_000)] | None = None
    weight: Annotated[float, Field(gt=0.0, le=1_000.0)] = 1.0


class SemanticEntry(_Entry):
    """Stored answers may serve other questions of the same meaning.

    Attributes:
        similarity_min: cosine of the questions' vectors from which they may mean the same; docs/caching.md tells how
            the default was measured.
    """

    similarity_min: Annotated[float, Field(gt=0.0, le=1.0)] = SIMILARITY_MIN


class CacheEntry(_Entry):
    """Answers of a route are kept, and equal requests that run at the same time share one call; see `routing.Caching`.

    Attributes:
        exact_s: 0 shares running calls only.
        semantic: absent, only the very same request is served.
    """

    exact_s: Annotated[float, Field(ge=0.0, le=CACHE_S_MAX)] = 0.0
    stale_if_error_s: Annotated[float, Field(ge=0.0, le=CACHE_S_MAX)] = 0.0
    semantic: SemanticEntry | None = None

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.semantic is not None and not self.exact_s:
            raise ValueError("semantic needs exact_s, for which an answer serves other questions too")
        return self


class RouteEntry(_Entry):
    """A name that stands for several targets.

    Attributes:
        cache: absent, nothing is kept and nothing is shared.
    """

    name: Name
    targets: Annotated[tuple[TargetEntry, ...], Field(min_length=1, max_length=TARGETS_MAX)]
    cache: CacheEntry | None = None


_Named: TypeAlias = ProviderEntry | ModelEntry | RouteEntry


class File(_Entry):
    """The whole file.

    Attributes:
        default: model, alias or route that an empty name means.
        fallback: asked after a plain model when the caller names nothing else.
        aliases: other names of models.
        unpriced: whether who has a budget of money may use a model without a price, which it cannot hold.
    """

    default: ModelName | None = None
    unpriced: Literal["refuse", "allow"] = "refuse"
    fallback: Annotated[tuple[ModelName, ...], Field(max_length=8)] = ()
    aliases: Annotated[dict[Name, ModelName], Field(max_length=ENTRIES_MAX)] = {}
    provider: Annotated[tuple[ProviderEntry, ...], Field(max_length=ENTRIES_MAX)] = ()
    model: Annotated[tuple[ModelEntry, ...], Field(max_length=ENTRIES_MAX)] = ()
    route: Annotated[tuple[RouteEntry, ...], Field(max_length=ENTRIES_MAX)] = ()

    @field_validator("provider", "model", "route")
    @classmethod
    def _once(cls, entries: tuple[_Named, ...]) -> tuple[_Named, ...]:
        names = [entry.name for entry in entries]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is listed twice")
        return entries
