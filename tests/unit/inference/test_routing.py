from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from services.inference.providers.base import Limits
from services.inference.routes.compiling import Wishes, compiled
from services.inference.routes.source import SHIPPED, read
from services.inference.routing import Book, Bounds, Choice, Key, Line, Router, Source
from services.mesh.errors import ModelUnknown
from tests.support.inference import FakeProvider


def make(
    default: str = "extractive",
    *,
    listed: frozenset[str] = frozenset({"extractive", "openai"}),
    fallbacks: tuple[str, ...] = (),
    routes: dict[str, tuple[Choice, ...]] | None = None,
    chance: Callable[[], float] = lambda: 0.5,
) -> Router:
    shipped = compiled(read(SHIPPED), None, Wishes(variables=lambda _name: "", built_in={}), {})
    openai = Source(name="openai", keys=(Key(id="openai/k", line=Line(FakeProvider("openai"))),))
    sources = {"extractive": shipped.sources["extractive"], "openai": openai}
    return Router(
        Book(
            sources={name: replace(source, is_listed=name in listed) for name, source in sources.items()},
            catalog=shipped.catalog,
            default=default,
            fallback=fallbacks,
            aliases={"quick": "openai/gpt-6-luna"},
            routes=routes or {},
        ),
        chance=chance,
    )


def test_empty_name_means_the_default() -> None:
    assert [target.name for target in make("openai/gpt-6-luna").targets("", ())] == ["openai/gpt-6-luna"]


def test_name_of_a_model_may_hold_slashes() -> None:
    assert make().target("openai/meta/llama-4").model == "meta/llama-4"


def test_model_that_the_catalog_does_not_know_is_passed_through() -> None:
    target = make().target("openai/gpt-next")

    assert target.model == "gpt-next"
    assert target.card is None


@pytest.mark.parametrize(
    "name", ["anthropic/claude-opus-5-5", "gpt-6-luna", "openai", "openai/", "extractive/", "/x", "OPENAI/gpt-6-luna"]
)
def test_model_without_a_configured_provider_is_unknown(name: str) -> None:
    with pytest.raises(ModelUnknown) as error:
        make().target(name)

    assert error.value.metadata == {"model": name}


def test_each_model_is_tried_once() -> None:
    targets = make().targets("openai/a", ("openai/b", "openai/a", "extractive"))

    assert [target.name for target in targets] == ["openai/a", "openai/b", "extractive"]


def test_callers_fallbacks_replace_the_platforms() -> None:
    router = make(fallbacks=("extractive",))

    assert [target.name for target in router.targets("openai/a", ())] == ["openai/a", "extractive"]
    assert [target.name for target in router.targets("openai/a", ("openai/b",))] == ["openai/a", "openai/b"]


@pytest.mark.parametrize(("default", "fallbacks"), [("nobody/x", ()), ("extractive", ("nobody/x",))])
def test_router_refuses_to_start_with_a_model_that_nobody_serves(default: str, fallbacks: tuple[str, ...]) -> None:
    with pytest.raises(ModelUnknown):
        make(default, fallbacks=fallbacks)


def test_list_begins_with_the_default_and_holds_configured_providers_only() -> None:
    listings = make("openai/gpt-6-luna").listings()

    names = [listing.name for listing in listings]
    assert names[:2] == ["openai/gpt-6-luna", "quick"]
    assert "extractive" in names
    assert len(names) == len(set(names))
    assert not any(name.startswith("anthropic/") for name in names)
    assert [listing.is_default for listing in listings] == [True] + [False] * (len(listings) - 1)


def test_local_server_does_not_list_the_vendors_models() -> None:
    listings = make("openai/llama", listed=frozenset({"extractive"})).listings()

    assert [listing.name for listing in listings] == ["openai/llama", "quick", "extractive"]
    assert listings[0].card is None


ROUTE = (
    Choice(model="openai/a", order=0, weight=3.0),
    Choice(model="openai/b", order=0, weight=1.0, bounds=Bounds(stall_s=1.5)),
    Choice(model="extractive", order=1),
)


def test_alias_is_the_model_that_it_stands_for() -> None:
    assert make().target("quick").name == "openai/gpt-6-luna"


def test_targets_of_a_lower_order_come_first() -> None:
    router = make(routes={"smart": ROUTE})

    assert [target.name for target in router.targets("smart", ())][-1] == "extractive"


def test_targets_of_one_order_are_drawn_by_weight() -> None:
    router = make(routes={"smart": ROUTE}, chance=Random(7).random)

    first = Counter(router.targets("smart", ())[0].name for _ in range(4_000))

    assert 0.72 < first["openai/a"] / 4_000 < 0.78


def test_route_bounds_the_time_of_its_targets() -> None:
    targets = {target.name: target.limits for target in make(routes={"smart": ROUTE}).targets("smart", ())}

    assert targets["openai/a"] == Limits()
    assert targets["openai/b"] == replace(Limits(), stall_s=1.5)


def test_route_says_itself_who_comes_after_whom() -> None:
    router = make(routes={"smart": ROUTE[2:]}, fallbacks=("openai/a",))

    assert [target.name for target in router.targets("smart", ())] == ["extractive"]
    assert [target.name for target in router.targets("smart", ("quick",))] == ["extractive", "openai/gpt-6-luna"]


def test_replaced_book_holds_for_the_next_call_and_a_broken_one_does_not() -> None:
    router = make()
    changed = replace(router.book, aliases={"quick": "extractive"})

    router.replace(changed)
    with pytest.raises(ModelUnknown):
        router.replace(replace(changed, default="nobody/x"))

    assert router.target("quick").name == "extractive"
    assert router.book is changed
