"""Path templates and their look-up."""

import pytest
from starlette.types import Receive, Scope, Send

from edge.transcoding.contracts import ContractError
from edge.transcoding.routes import PATH_LENGTH_MAX, RouteTable, Template


async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
    """Never called."""


def table(*routes: str) -> RouteTable:
    made = RouteTable()
    for route in routes:
        verb, _, template = route.partition(" ")
        made.add(verb, Template.parse(template), endpoint)
    return made


ROUTES = table(
    "GET /",
    "GET /users",
    "GET /users/me",
    "POST /users/me:change",
    "GET /users/{user_id}",
    "PATCH /users/{user_id}",
    "GET /users/{user_id}/keys/{key_id}",
    "GET /docs/{doc_id}",
    "GET /docs/{doc_id}:watch",
    "GET /models",
    "GET /models/{model=**}",
    "POST /tokens:count",
)


@pytest.mark.parametrize(
    ("verb", "path", "template", "values"),
    [
        ("GET", "/", "/", {}),
        ("GET", "/users", "/users", {}),
        ("GET", "/users/me", "/users/me", {}),
        ("POST", "/users/me:change", "/users/me:change", {}),
        ("GET", "/users/u1", "/users/{user_id}", {"user_id": "u1"}),
        ("PATCH", "/users/me", "/users/{user_id}", {"user_id": "me"}),
        ("GET", "/users/u1/keys/k1", "/users/{user_id}/keys/{key_id}", {"user_id": "u1", "key_id": "k1"}),
        ("GET", "/docs/d1:watch", "/docs/{doc_id}:watch", {"doc_id": "d1"}),
        ("GET", "/docs/d1:other", "/docs/{doc_id}", {"doc_id": "d1:other"}),
        ("GET", "/docs/a:b:watch", "/docs/{doc_id}:watch", {"doc_id": "a:b"}),
        ("GET", "/models", "/models", {}),
        ("GET", "/models/x", "/models/{model=**}", {"model": "x"}),
        ("GET", "/models/openai/gpt", "/models/{model=**}", {"model": "openai/gpt"}),
        ("GET", "/models/ollama/llama:8b", "/models/{model=**}", {"model": "ollama/llama:8b"}),
        ("POST", "/tokens:count", "/tokens:count", {}),
    ],
)
def test_paths_are_found(verb: str, path: str, template: str, values: dict[str, str]) -> None:
    found = ROUTES.find(verb, path)

    assert found is not None
    assert verb in found[0].endpoints
    assert (found[0].template.text, found[1]) == (template, values)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "users",
        "/nope",
        "/users/",
        "//users",
        "/users//keys/k1",
        "/users/u1/keys",
        "/models/",
        "/models//x",
        "/:watch",
        "/docs/:watch/",
        "/users/u1/keys/k1/",
        "/" + "x" * PATH_LENGTH_MAX,
    ],
)
def test_other_paths_are_not(path: str) -> None:
    assert ROUTES.find("GET", path) is None


def test_a_path_with_another_verb_tells_which_it_has() -> None:
    found = ROUTES.find("DELETE", "/users/u1")

    assert found is not None
    assert sorted(found[0].endpoints) == ["GET", "PATCH"]


@pytest.mark.parametrize(
    "text",
    ["", "users", "/users/{user_id", "/{a.b}", "/{a=shelves/*}", "/{a=**}/b", "/{a=**}:verb", "/a b", "/users/{ID}"],
)
def test_templates_that_cannot_be_served_are_refused(text: str) -> None:
    with pytest.raises(ContractError):
        Template.parse(text)


@pytest.mark.parametrize("again", ["GET /users/{user_id}", "GET /users/{other_id}"])
def test_two_routes_for_the_same_paths_are_refused(again: str) -> None:
    with pytest.raises(ContractError):
        table("GET /users/{user_id}", again)


def test_a_template_is_filled_and_shown_without_its_pattern() -> None:
    template = Template.parse("/models/{model=**}")

    assert template.fill({"model": "a/b"}) == "/models/a/b"
    assert template.path == "/models/{model}"
