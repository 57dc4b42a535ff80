"""Which provider serves which model: names are `<provider>/<model>`, `extractive`, an alias or a route.

A Book is what one reading of `providers.toml` says and never changes; the Router holds the present one. A call keeps
the targets that it was given, whatever is read meanwhile.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from services.inference.catalog import Catalog, ModelCard
from services.inference.providers.base import Limits, Profile, Provider
from services.inference.providers.batching import BatchEndpoint
from services.mesh.errors import ModelUnknown

Chance = Callable[[], float]
"""A figure from 0 to 1, each as likely as the other."""


@dataclass(slots=True, eq=False)
class Line:
    """An adapter with one key of its own, and who uses it.

    Attributes:
        provider: asks with the key.
        made_of: what it was made of, as a digest: one that would be made of the same is taken over.
        batches: the vendor's batch endpoint with the same key; None where its provider offers none.
        in_use: attempts under way, which keep its connections open when the file no longer names it.
    """

    provider: Provider
    made_of: str = ""
    batches: BatchEndpoint | None = None
    in_use: int = 0

    @contextmanager
    def used(self) -> Iterator[Provider]:
        """The adapter, held open while the body runs."""
        self.in_use += 1
        try:
            yield self.provider
        finally:
            self.in_use -= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of a provider.

    Attributes:
        id: `<provider>/<name of the key>`; holds nothing of the key itself.
        line: the adapter that uses it.
        weight: its share of calls.
        requests_per_minute, tokens_per_minute: what it may ask; None for no limit of ours.
    """

    id: str
    line: Line
    weight: float = 1.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Time limits that a provider or a route sets; None leaves the wider ones."""

    connect_s: float | None = None
    first_event_s: float | None = None
    stall_s: float | None = None
    total_s: float | None = None

    def over(self, limits: Limits) -> Limits:
        """`limits` with what is set here."""
        named = {name: getattr(self, name) for name in ("connect_s", "first_event_s", "stall_s", "total_s")}
        return replace(limits, **{name: value for name, value in named.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A provider that is switched on.

    Attributes:
        name: first part of its models' names.
        keys: its pool, never empty.
        bounds: its time limits.
        is_listed: the catalogued models are its own; a local server that merely speaks a vendor's format does not serve
            the vendor's models.
        served_by: whose format it speaks, where and how, as a digest; its keys are not in it.
    """

    name: str
    keys: tuple[Key, ...]
    bounds: Bounds = Bounds()
    is_listed: bool = True
    served_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model that can be asked.

    Attributes:
        name: as callers write it.
        model: the provider's own name of it.
        card: what the catalog knows; None for a model that is passed through.
        keys: of its provider.
        limits: of one attempt.
        takes_prefix: it goes on with an answer that has begun; None for what its provider says of all its models.
    """

    name: str
    model: str
    card: ModelCard | None
    keys: tuple[Key, ...]
    limits: Limits
    takes_prefix: bool | None = None

    @property
    def profile(self) -> Profile:
        """What it can."""
        profile = self.keys[0].line.provider.profile
        return profile if self.takes_prefix is None else replace(profile, takes_prefix=self.takes_prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A target of a route.

    Attributes:
        model: `<provider>/<model>` or an alias.
        order: lower ones are asked first.
        weight: its share among those of its order.
        bounds: its time limits on this route.
        takes_prefix: see `Target`; None for what the model says.
    """

    model: str
    order: int
    weight: float = 1.0
    bounds: Bounds = Bounds()
    takes_prefix: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """Which answers of a route are kept, and whom they may serve.

    Attributes:
        exact_s: seconds for which an answer serves the very same request.
        stale_if_error_s: seconds after those for which it serves when nobody can answer anew.
        similarity_min: cosine from which another question may mean the same; None for never.
    """

    exact_s: float = 0.0
    stale_if_error_s: float = 0.0
    similarity_min: float | None = None

    @property
    def keep_s(self) -> float:
        """How long an answer is of use."""
        return self.exact_s + self.stale_if_error_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What one reading of the configuration says.

    Attributes:
        sources: providers by name.
        catalog: known models.
        default: what an empty name means.
        fallback: asked after a plain model when the caller names nothing else.
        aliases: other names of models.
        routes: several targets behind a name.
        caching: of the routes that have a cache.
        limits: of an attempt where neither provider nor route sets others.
        allows_unpriced: a budget of money lets a model without a price pass.
    """

    sources: Mapping[str, Source]
    catalog: Catalog
    default: str
    fallback: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    routes: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)
    caching: Mapping[str, Caching] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    allows_unpriced: bool = False

    def target(self, name: str, bounds: Bounds = Bounds(), *, takes_prefix: bool | None = None) -> Target:
        """One model, by its own name or an alias.

        Raises:
            ModelUnknown: its provider is not configured.
        """
        asked, name = name, self.aliases.get(name, name)
        source_name, slash, model = name.partition("/")
        source = self.sources.get(source_name)
        card = self.catalog.get(name)
        if source is None or (not model and (slash or card is None)):
            raise ModelUnknown(f"no configured provider serves {asked!r}", metadata={"model": asked})
        return Target(
            name=name,
            model=model or source_name,
            card=card,
            keys=source.keys,
            limits=bounds.over(source.bounds.over(self.limits)),
            takes_prefix=card.takes_prefix if takes_prefix is None and card is not None else takes_prefix,
        )

    def targets(self, name: str, chance: Chance) -> list[Target]:
        """What a name stands for, in the order in which it is asked; weights are drawn anew for each call.

        Raises:
            ModelUnknown: no configured provider serves it.
        """
        route = self.routes.get(name)
        if route is None:
            return [self.target(name)]
        # Efraimidis and Spirakis 2006: sorted by u^(1/w), the first is drawn by weight, then the next of the rest.
        drawn = sorted(route, key=lambda one: (one.order, -(chance() ** (1.0 / one.weight))))
        return [self.target(one.model, one.bounds, takes_prefix=one.takes_prefix) for one in drawn]

    def lineage(self, name: str) -> tuple[str, ...]:
        """Who answers to a name, in which order, and what they are: the same for as long as the file means the same.

        Time limits and keys are not in it, because answers do not depend on them.

        Raises:
            ModelUnknown: no configured provider serves it.
        """
        choices = self.routes.get(name) or (Choice(model=name, order=0),)
        found: list[str] = []
        for choice in choices:
            target = self.target(choice.model)
            window = "" if target.card is None else str(target.card.context_tokens)
            served_by = self.sources[target.name.partition("/")[0]].served_by
            found += [target.name, str(choice.order), str(choice.weight), window, served_by]
        return tuple(found)

    def check(self) -> None:
        """Refuses a book in which a name leads nowhere.

        Raises:
            ModelUnknown: the default, a fallback, an alias or a route's target has no configured provider.
        """
        for name in (self.default, *self.fallback, *self.aliases):
            self.targets(name, lambda: 0.5)
        for route in self.routes.values():
            for choice in route:
                self.target(choice.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A model as it is listed; without a card only its name is known."""

    name: str
    card: ModelCard | None
    is_default: bool


class Router:
    """Turns names into targets, by the present book.

    Args:
        book: the first one.
        chance: draws among targets of the same order.

    Raises:
        ModelUnknown: a name in the book leads nowhere.
    """

    def __init__(self, book: Book, *, chance: Chance = random.random) -> None:
        book.check()
        self._book = book
        self._chance: Final = chance

    @property
    def book(self) -> Book:
        """The present book."""
        return self._book

    def replace(self, book: Book) -> None:
        """From now on `book` holds.

        Raises:
            ModelUnknown: a name in it leads nowhere; the present one stays.
        """
        book.check()
        self._book = book

    def targets(self, model: str, fallback_models: Sequence[str]) -> list[Target]:
        """The asked model, or those of the asked route, and those after it, each once.

        Raises:
            ModelUnknown: one of them has no configured provider.
        """
        book = self._book
        name = model or book.default
        # A route says itself who comes after whom.
        others = fallback_models or (() if name in book.routes else book.fallback)
        return list(_first_of_each(target for one in (name, *others) for target in book.targets(one, self._chance)))

    def caching(self, model: str) -> Caching | None:
        """The cache of the asked route; None for one without, which is the usual case and costs two look-ups."""
        book = self._book
        return book.caching.get(model or book.default)

    def lineages(self, model: str, fallback_models: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Who answers to the asked names: see `Book.lineage`. A name of a model is a name of its own.

        Raises:
            ModelUnknown: one of them has no configured provider.
        """
        book = self._book
        return tuple((name, *book.lineage(name)) for name in (model or book.default, *fallback_models))

    def target(self, name: str) -> Target:
        """One model, or the first of a route; the empty name means the default.

        Raises:
            ModelUnknown: its provider is not configured.
        """
        return self._book.targets(name or self._book.default, lambda: 0.5)[0]

    def listings(self) -> list[Listing]:
        """The default, then aliases and routes, then every catalogued model of the offered providers."""
        book = self._book
        offered = {source.name for source in book.sources.values() if source.is_listed}
        names = [book.default, *book.aliases, *book.routes]
        names += [card.name for card in book.catalog if card.provider in offered]
        return [self._listing(name) for name in dict.fromkeys(names)]

    def listing(self, name: str) -> Listing:
        """One model, catalogued or not, an alias or a route.

        Raises:
            ModelUnknown: its provider is not configured.
        """
        self._book.targets(name or self._book.default, lambda: 0.5)
        return self._listing(name or self._book.default)

    def _listing(self, name: str) -> Listing:
        book = self._book
        card = book.catalog.get(book.aliases.get(name, name))
        return Listing(name=name, card=card, is_default=name == book.default)


def _first_of_each(targets: Iterable[Target]) -> Iterator[Target]:
    seen: set[str] = set()
    for target in targets:
        if target.name not in seen:
            seen.add(target.name)
            yield target
