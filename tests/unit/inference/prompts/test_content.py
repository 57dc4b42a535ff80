"""What a revision may say, and names that prompts and aliases may have."""

from typing import Any

import pytest

from services.inference.model import EXAMPLES_MAX, Example, Parameters
from services.inference.prompts.model import (
    CONTENT_CHARS_MAX,
    EXAMPLES_STORED_MAX,
    LATEST,
    VARIABLES_MAX,
    Content,
    Defaults,
    Draft,
    Selection,
    check_alias,
    is_handle,
)
from services.inference.prompts.variables import Variable, VariableType
from services.mesh.errors import FieldViolation, InvalidArgument
from tests.support.prompts import AUTHOR, NOON, prompt

EXAMPLE = Example("q", "a")


def texts(count: int) -> tuple[Variable, ...]:
    return tuple(Variable(name=f"v{number}", type=VariableType.STRING) for number in range(count))


def using(count: int) -> str:
    return "".join(f"{{{{v{number}}}}}" for number in range(count))


def padded(chars: int) -> dict[str, Any]:
    """Content of so many characters, all texts of its variable included."""
    texts_of_it: dict[str, Any] = {"name": "v0", "description": "what", "default": "this", "choices": ("this", "that")}
    template = using(1)
    padding = chars - len(template) - sum(len("".join(text)) for text in texts_of_it.values())
    variable = Variable(**texts_of_it, type=VariableType.ENUM)
    return {"template": template + "x" * padding, "variables": (variable,)}


def fault(**fields: Any) -> FieldViolation:
    """What is said of content that is refused; Any: fields by name."""
    with pytest.raises(InvalidArgument) as refused:
        Content(**fields)
    return refused.value.fields[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"template": "x" * CONTENT_CHARS_MAX},
        {"examples": (EXAMPLE,) * EXAMPLES_MAX},
        {"examples": (EXAMPLE,) * EXAMPLES_STORED_MAX, "selection": Selection.NEAREST, "nearest_count": EXAMPLES_MAX},
        {"template": using(VARIABLES_MAX), "variables": texts(VARIABLES_MAX)},
        padded(CONTENT_CHARS_MAX),
    ],
)
def test_content_is_as_large_as_it_may_be(fields: dict[str, Any]) -> None:
    Content(**fields)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "content"),
        ({"template": "x" * (CONTENT_CHARS_MAX + 1)}, "content.template"),
        ({"template": "x" * CONTENT_CHARS_MAX, "examples": (EXAMPLE,)}, "content"),
        (padded(CONTENT_CHARS_MAX + 1), "content"),
        ({"template": "\0"}, "content.template"),
        ({"examples": (EXAMPLE,) * (EXAMPLES_MAX + 1)}, "content.examples"),
        (
            {
                "examples": (EXAMPLE,) * (EXAMPLES_STORED_MAX + 1),
                "selection": Selection.NEAREST,
                "nearest_count": 1,
            },
            "content.examples",
        ),
        ({"examples": (EXAMPLE,), "selection": Selection.NEAREST}, "content.nearest_count"),
        (
            {"examples": (EXAMPLE,), "selection": Selection.NEAREST, "nearest_count": EXAMPLES_MAX + 1},
            "content.nearest_count",
        ),
        ({"examples": (EXAMPLE,), "nearest_count": 1}, "content.nearest_count"),
        ({"examples": (EXAMPLE, Example("q", " "))}, "content.examples[1].assistant"),
        ({"examples": (Example("", "a"),)}, "content.examples[0].user"),
        ({"template": using(VARIABLES_MAX + 1), "variables": texts(VARIABLES_MAX + 1)}, "content.variables"),
        ({"template": "{{v0}}", "variables": texts(1) * 2}, "content.variables[1].name"),
    ],
)
def test_content_beyond_a_bound_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    assert fault(**fields).field == field


def test_variable_that_is_not_declared_is_told_with_its_place() -> None:
    found = fault(template="a\nb {{v0}} {{other}}", variables=texts(1))
    assert (found.field, found.description) == (
        "content.template",
        "line 2, column 10: 'other' is not among the variables",
    )


def test_variable_that_is_not_used_is_told_by_its_index() -> None:
    found = fault(template="{{v0}}", variables=texts(2))
    assert (found.field, found.description) == ("content.variables[1].name", "the template does not use 'v1'")


def test_braces_that_stay_open_are_told_with_their_place() -> None:
    assert fault(template="a {{v0", variables=texts(1)).description.startswith("line 1, column 3: ")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"output_tokens_max": 0}, "output_tokens_max"),
        ({"model": "m" * 201}, "model"),
    ],
)
def test_defaults_keep_to_the_bounds_of_parameters(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Defaults(**fields)
    assert refused.value.fields[0].field == f"content.defaults.{field}"


def test_defaults_hold_where_a_request_says_nothing() -> None:
    given = Defaults(temperature=0.5, output_tokens_max=9).parameters(Parameters(temperature=0.0, top_p=0.9))
    assert given == Parameters(temperature=0.0, top_p=0.9, output_tokens_max=9)


@pytest.mark.parametrize("name", ["a", "support-bot_2", "a" * 63])
def test_name_may_be_that(name: str) -> None:
    assert prompt(name).name == name
    assert is_handle(name)


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a b", "a/b", "ä", "a" * 64, "prm_1", "a:b"])
def test_name_may_not_be_that(name: str) -> None:
    with pytest.raises(InvalidArgument):
        prompt(name)
    assert not is_handle(name)


def test_id_is_a_handle() -> None:
    assert is_handle(prompt().id)


def test_texts_for_people_are_bounded() -> None:
    prompt(description="x" * 1_000)
    with pytest.raises(InvalidArgument):
        prompt(description="x" * 1_001)
    with pytest.raises(InvalidArgument):
        Draft(content=Content(template="x"), author_id=AUTHOR, at=NOON, note="x" * 1_001)


@pytest.mark.parametrize("alias", ["", LATEST, "Production", "a b", "a" * 64])
def test_alias_may_not_be_that(alias: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_alias(alias)
    assert refused.value.fields[0].field == "alias"
