"""What a route may say of its cache, and what makes another request of a request."""

from dataclasses import replace

import pytest

from services.inference.cache.key import exact_name
from services.inference.model import CacheUse, Example, Generation, Parameters, Passage
from services.inference.parts import Tool
from services.inference.routes.schema import CACHE_S_MAX, SIMILARITY_MIN, File
from services.inference.routes.source import RoutesError, parse
from tests.support.caching import wish
from tests.support.inference import prompt, user

LINEAGES = (("kept", "a/m"),)


def route(cache: str) -> str:
    return f'[[route]]\nname = "kept"\ntargets = [{{ model = "extractive" }}]\ncache = {cache}\n'


def read(cache: str) -> File:
    return parse(route(cache), name="providers.toml")


def test_semantic_is_off_unless_it_is_named_and_has_a_measured_default() -> None:
    assert read("{ exact_s = 5 }").route[0].cache is not None
    plain, named = read("{ exact_s = 5 }").route[0].cache, read("{ exact_s = 5, semantic = {} }").route[0].cache
    assert plain is not None
    assert plain.semantic is None
    assert named is not None
    assert named.semantic is not None
    assert named.semantic.similarity_min == SIMILARITY_MIN


@pytest.mark.parametrize("name", ["exact_s", "stale_if_error_s"])
@pytest.mark.parametrize("seconds", [0, CACHE_S_MAX - 1, CACHE_S_MAX])
def test_times_within_their_bounds_are_taken(name: str, seconds: int) -> None:
    assert read(f"{{ {name} = {seconds} }}").route[0].cache is not None


@pytest.mark.parametrize(
    "cache",
    [
        f"{{ exact_s = {CACHE_S_MAX + 1} }}",
        f"{{ stale_if_error_s = {CACHE_S_MAX + 1} }}",
        "{ exact_s = -1 }",
        "{ semantic = {} }",
        "{ exact_s = 5, semantic = { similarity_min = 0 } }",
        "{ exact_s = 5, semantic = { similarity_min = 1.1 } }",
        "{ exact_s = 5, semantics = {} }",
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(cache: str) -> None:
    with pytest.raises(RoutesError, match=r"providers\.toml:4: "):
        read(cache)


OTHERS: list[Generation] = [
    wish("Why is the sky red?"),
    replace(wish(), fallback_models=("b/m",)),
    replace(wish(), parameters=Parameters(seed=1)),
    replace(wish(), prompt=replace(prompt(), system="Be brief.")),
    replace(wish(), prompt=replace(prompt(), examples=(Example("a", "b"),))),
    replace(wish(), prompt=replace(prompt(), tools=(Tool(name="f"),))),
    replace(wish(), prompt=replace(prompt(), passages=(Passage("t", "x"),))),
    replace(wish(), prompt=replace(prompt(), messages=(user("a"), user("Why is the sky blue?")))),
    replace(wish(), prompt=replace(prompt(), input_tokens_max=9)),
    replace(wish(), prompt_revision="prm_a/2"),
]


def test_everything_that_an_answer_depends_on_makes_another_name() -> None:
    names = [exact_name("org_a", LINEAGES, one) for one in (wish(), *OTHERS)]
    names += [exact_name("org_b", LINEAGES, wish()), exact_name("org_a", (("kept", "b/m"),), wish())]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("other", [replace(wish(), accepts_restart=True), replace(wish(), cache=CacheUse.REFRESH)])
def test_how_an_answer_is_delivered_makes_no_other_name(other: Generation) -> None:
    assert exact_name("org_a", LINEAGES, other) == exact_name("org_a", LINEAGES, wish())


def test_pieces_do_not_run_into_one_another() -> None:
    one = replace(prompt(), passages=(Passage("ab", "c"),))
    other = replace(prompt(), passages=(Passage("a", "bc"),))

    assert exact_name("o", LINEAGES, replace(wish(), prompt=one)) != exact_name(
        "o", LINEAGES, replace(wish(), prompt=other)
    )
