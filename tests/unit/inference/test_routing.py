import pytest

from services.inference.catalog import load
from services.inference.providers.extractive import ExtractiveProvider
from services.inference.routing import Router
from services.mesh.errors import ModelUnknown
from tests.support.inference import FakeProvider


def make(
    default: str = "extractive", *, listed: frozenset[str] | None = None, fallbacks: tuple[str, ...] = ()
) -> Router:
    return Router(
        providers={"extractive": ExtractiveProvider(), "openai": FakeProvider("openai")},
        catalog=load(),
        default_model=default,
        fallback_models=fallbacks,
        listed_providers=listed,
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
    assert names[0] == "openai/gpt-6-luna"
    assert "extractive" in names
    assert len(names) == len(set(names))
    assert not any(name.startswith("anthropic/") for name in names)
    assert [listing.is_default for listing in listings] == [True] + [False] * (len(listings) - 1)


def test_local_server_does_not_list_the_vendors_models() -> None:
    listings = make("openai/llama", listed=frozenset({"extractive"})).listings()

    assert [listing.name for listing in listings] == ["openai/llama", "extractive"]
    assert listings[0].card is None
