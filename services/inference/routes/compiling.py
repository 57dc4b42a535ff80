"""From what `providers.toml` says to a Book: references are resolved, adapters made or taken over from the last one."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final, assert_never

from services.inference.catalog import Catalog, ModelCard, Prices
from services.inference.providers import names
from services.inference.providers.base import Limits, Provider
from services.inference.providers.batching import BatchTerms
from services.inference.routes.schema import (
    Address,
    CacheEntry,
    File,
    KeyEntry,
    LimitsEntry,
    ModelEntry,
    ProviderEntry,
    RouteEntry,
)
from services.inference.routes.source import RoutesError
from services.inference.routing import Book, Bounds, Caching, Choice, Key, Line, Source

SECRET_BYTES_MAX: Final = 64 * 1024
_MILLION: Final = 1_000_000
_UNNAMED: Final = "none"
"""The key of a server that wants none."""

Variables = Callable[[str], str]
"""The value of an environment variable, empty when it is not set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the environment says beside the file.

    Attributes:
        default: what an empty name means; empty leaves it to the file, or to whatever provider is on.
        fallback: replaces the file's, where given.
        defaults: models that are the default while their provider has a key, the first one first.
        limits: of an attempt where the file sets none.
        variables: values of variables that the file may name.
        built_in: adapters that no file can describe, by name.
    """

    default: str = ""
    fallback: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    variables: Variables
    built_in: Mapping[str, Provider]


def compiled(shipped: File, own: File | None, wishes: Wishes, made: Mapping[str, Line]) -> Book:
    """The book of both files, the operator's over the shipped one.

    Args:
        shipped: the file that comes with this package.
        own: the operator's.
        wishes: what the environment says.
        made: adapters by what they were made of; they are taken over where nothing changed.

    Raises:
        RoutesError: a reference leads nowhere.
    """
    own = own or File()
    sources = {
        name: Source(name=name, keys=(Key(id=f"{name}/{_UNNAMED}", line=Line(provider)),), is_listed=False)
        for name, provider in wishes.built_in.items()
    }
    for entry in ({one.name: one for one in (*shipped.provider, *own.provider)}).values():
        source = _source(entry, wishes.variables, made)
        if source is not None:
            sources[entry.name] = source
    return Book(
        sources=sources,
        catalog=Catalog({entry.name: _card(entry) for entry in (*shipped.model, *own.model)}),
        default=wishes.default or own.default or _default(sources, wishes.defaults),
        fallback=wishes.fallback or own.fallback,
        aliases=own.aliases,
        routes={route.name: _choices(route, own.aliases) for route in own.route},
        caching={route.name: _caching(route.cache) for route in own.route if route.cache is not None},
        limits=wishes.limits,
        allows_unpriced=own.unpriced == "allow",
    )


def _default(sources: Mapping[str, Source], models: tuple[str, ...]) -> str:
    """The first model whose provider has a key; a server without one is a local one, with models of its own."""
    return next(
        (name for name in models if (source := sources.get(name.partition("/")[0])) and source.is_listed),
        names.EXTRACTIVE,
    )


def _choices(route: RouteEntry, aliases: Mapping[str, str]) -> tuple[Choice, ...]:
    return tuple(
        Choice(
            model=aliases.get(target.model, target.model),
            order=index if target.order is None else target.order,
            weight=target.weight,
            bounds=_bounds(target),
            takes_prefix=target.assistant_prefix,
        )
        for index, target in enumerate(route.targets)
    )


def _caching(entry: CacheEntry) -> Caching:
    return Caching(
        exact_s=entry.exact_s,
        stale_if_error_s=entry.stale_if_error_s,
        similarity_min=None if entry.semantic is None else entry.semantic.similarity_min,
    )


def _source(entry: ProviderEntry, variables: Variables, made: Mapping[str, Line]) -> Source | None:
    """The provider, or None when it is off: it has neither a key nor an address of its own."""
    base_url = variables(entry.base_url.env) if isinstance(entry.base_url, Address) else entry.base_url or ""
    secrets = [(key, secret) for key in entry.keys if (secret := _secret(entry, key, variables))]
    is_keyless = entry.kind in {"openai", "openai-compatible"} and bool(base_url)
    if entry.kind != "extractive" and not secrets and not is_keyless:
        return None
    keys = [_key(entry, key, secret, base_url, made) for key, secret in secrets] or [
        _key(entry, None, "", base_url, made)
    ]
    is_local = entry.kind == "openai" and not secrets
    return Source(
        name=entry.name,
        keys=tuple(keys),
        bounds=_bounds(entry.limits),
        is_listed=not is_local,
        served_by=_digest(*_adapted(entry, base_url)),
    )


def _key(entry: ProviderEntry, key: KeyEntry | None, secret: str, base_url: str, made: Mapping[str, Line]) -> Key:
    terms = _terms(entry, secret)
    made_of = _digest(*_adapted(entry, base_url), secret, repr(terms))
    line = made.get(made_of) or _line(entry, secret, base_url, terms, made_of)
    if key is None:
        return Key(id=f"{entry.name}/{_UNNAMED}", line=line)
    name = key.name or (key.env or Path(key.file or "").name).lower()
    return Key(
        id=f"{entry.name}/{name}",
        line=line,
        weight=key.weight,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
    )


def _adapted(entry: ProviderEntry, base_url: str) -> tuple[str, ...]:
    """What makes an adapter what it is, but for its key."""
    return entry.name, entry.kind, base_url, entry.quirks.model_dump_json()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _terms(entry: ProviderEntry, secret: str) -> BatchTerms | None:
    """On what terms batches are taken: a local server that merely speaks OpenAI's format has none of the vendor's."""
    declared = entry.batches
    if declared is None or (entry.kind == "openai" and not secret):
        return None
    return BatchTerms(
        price_factor=Decimal(declared.price_factor),
        items_max=declared.items_max,
        bytes_max=declared.bytes_max,
        source=declared.source,
        date=declared.date,
    )


def _line(entry: ProviderEntry, secret: str, base_url: str, terms: BatchTerms | None, made_of: str) -> Line:
    """The adapters of one key; SDKs are loaded when they are first needed."""
    quirks = entry.quirks
    match entry.kind:
        case "openai" | "openai-compatible":
            from services.inference.providers import openai, openai_batches  # noqa: PLC0415 - spares most starts 0.5 s

            adapter = openai.OpenAIProvider(
                api_key=secret,
                base_url=base_url,
                name=entry.name,
                quirks=openai.Quirks(
                    stream_options=quirks.stream_options,
                    output_limit=quirks.output_limit,
                    assistant_prefix=quirks.assistant_prefix,
                ),
            )
            return Line(adapter, made_of, None if terms is None else openai_batches.OpenAIBatches(adapter, terms))
        case "anthropic":
            from services.inference.providers import anthropic, anthropic_batches  # noqa: PLC0415 - spares 1.2 s

            claude = anthropic.AnthropicProvider(
                api_key=secret, base_url=base_url, name=entry.name, takes_prefix=quirks.assistant_prefix
            )
            return Line(claude, made_of, None if terms is None else anthropic_batches.AnthropicBatches(claude, terms))
        case "extractive":
            from services.inference.providers import extractive  # noqa: PLC0415 - beside its neighbours

            return Line(extractive.ExtractiveProvider(), made_of)
        case _:
            assert_never(entry.kind)


def _secret(entry: ProviderEntry, key: KeyEntry, variables: Variables) -> str:
    """What the reference leads to, or nothing when it may lead nowhere.

    Raises:
        RoutesError: it leads nowhere.
    """
    secret = variables(key.env) if key.env is not None else _content(entry, key)
    if not secret and not key.optional:
        where = f"the variable {key.env}" if key.env is not None else f"the file {key.file}"
        raise RoutesError(f"provider {entry.name!r}: {where} holds no key")
    return secret


def _content(entry: ProviderEntry, key: KeyEntry) -> str:
    path = Path(key.file or "")
    try:
        raw = path.read_bytes()
    except OSError as error:
        if key.optional and isinstance(error, FileNotFoundError):
            return ""
        raise RoutesError(f"provider {entry.name!r}: the file {path} cannot be read: {error.strerror}") from None
    if len(raw) > SECRET_BYTES_MAX or not raw.isascii():
        raise RoutesError(f"provider {entry.name!r}: the file {path} holds no key")
    return raw.decode("ascii").strip()


def _bounds(entry: LimitsEntry) -> Bounds:
    return Bounds(
        connect_s=entry.connect_s, first_event_s=entry.first_event_s, stall_s=entry.stall_s, total_s=entry.total_s
    )


def _card(entry: ModelEntry) -> ModelCard:
    long_prices = None
    if entry.long_input_price is not None and entry.long_output_price is not None:
        long_prices = _prices(entry.long_input_price, entry.long_output_price, entry.long_cached_input_price)
    return ModelCard(
        name=entry.name,
        display_name=entry.display_name,
        context_tokens=entry.context_tokens,
        output_tokens_max=entry.output_tokens_max,
        prices=_prices(entry.input_price, entry.output_price, entry.cached_input_price),
        source=entry.source,
        date=entry.date,
        long_above_tokens=entry.long_above_tokens,
        long_prices=long_prices,
        takes_prefix=entry.assistant_prefix,
    )


def _prices(asked: str, written: str, cached: str | None) -> Prices:
    return Prices(
        input_micros=_micros(asked),
        output_micros=_micros(written),
        cached_input_micros=None if cached is None else _micros(cached),
    )


def _micros(dollars: str) -> int:
    return int(Decimal(dollars) * _MILLION)
