"""Which provider serves which model: names are `<provider>/<model>`, and `extractive` is the built-in one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inference.catalog import Catalog, ModelCard
from services.inference.providers.base import Provider
from services.mesh.errors import ModelUnknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model that can be asked.

    Attributes:
        name: as callers write it.
        model: the provider's own name of it.
        card: what the catalog knows; None for a model that is passed through.
    """

    name: str
    provider: Provider
    model: str
    card: ModelCard | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A model as it is listed; without a card only its name is known."""

    name: str
    card: ModelCard | None
    is_default: bool


class Router:
    """Turns names of models into targets.

    Args:
        providers: configured ones by name.
        catalog: known models.
        default_model: what an empty name means.
        fallback_models: tried after the asked model when the caller names none.
        listed_providers: those whose catalogued models are offered in lists; a local server that merely speaks a
            vendor's format does not serve the vendor's models.

    Raises:
        ModelUnknown: the default or a fallback model has no configured provider.
    """

    def __init__(
        self,
        *,
        providers: Mapping[str, Provider],
        catalog: Catalog,
        default_model: str,
        fallback_models: Sequence[str] = (),
        listed_providers: frozenset[str] | None = None,
    ) -> None:
        self._providers = dict(providers)
        self._catalog = catalog
        self._default = default_model
        self._fallbacks = tuple(fallback_models)
        self._listed = frozenset(providers) if listed_providers is None else listed_providers
        for name in (default_model, *fallback_models):
            self.target(name)

    def targets(self, model: str, fallback_models: Sequence[str]) -> list[Target]:
        """The asked model and those after it, each once.

        Raises:
            ModelUnknown: one of them has no configured provider.
        """
        names = dict.fromkeys((model or self._default, *(fallback_models or self._fallbacks)))
        return [self.target(name) for name in names]

    def target(self, name: str) -> Target:
        """One model; the empty name means the default.

        Raises:
            ModelUnknown: its provider is not configured.
        """
        name = name or self._default
        provider_name, slash, model = name.partition("/")
        provider = self._providers.get(provider_name)
        card = self._catalog.get(name)
        if provider is None or (not model and (slash or card is None)):
            raise ModelUnknown(f"no configured provider serves {name!r}", metadata={"model": name})
        return Target(name=name, provider=provider, model=model or provider_name, card=card)

    def listings(self) -> list[Listing]:
        """Every catalogued model of the offered providers, the default first."""
        known = [card for card in self._catalog if card.provider in self._listed & self._providers.keys()]
        rest = [self._listing(card.name) for card in known if card.name != self._default]
        return [self._listing(self._default), *rest]

    def listing(self, name: str) -> Listing:
        """One model, catalogued or not.

        Raises:
            ModelUnknown: its provider is not configured.
        """
        return self._listing(self.target(name).name)

    def _listing(self, name: str) -> Listing:
        return Listing(name=name, card=self._catalog.get(name), is_default=name == self._default)
