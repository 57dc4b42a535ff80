"""What a template may hold, and what is said of one that cannot be read."""

import pytest

from services.inference.prompts.templates import Place, TemplateError, fill, parse

VALUES = {"name": "Ada", "a": "{{name}}", "b": "\\{{"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ('plain { } }} {"a": {"b": 1}}', 'plain { } }} {"a": {"b": 1}}'),
        ("Hello {{name}}!", "Hello Ada!"),
        ("{{ name }}{{\tname\t}}", "AdaAda"),
        ("{{name}}}", "Ada}"),
        (r"\{{name}}", "{{name}}"),
        (r"\\{{name}}", r"\Ada"),
        (r"\\\{{name}}", r"\{{name}}"),
        (r"C:\dir \n {{name}}", r"C:\dir \n Ada"),
        ("{{a}} and {{b}}", "{{name}} and \\{{"),
    ],
)
def test_template_becomes_its_text(template: str, text: str) -> None:
    assert fill(parse(template), VALUES) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("one\ntwo {{name", "line 2, column 5: the braces that open here are never closed"),
        ("{{}}", "line 1, column 1: '' is no name of a variable"),
        ("a {{name.__class__}}", "line 1, column 3: 'name.__class__' is no name"),
        ("{{ {{name}} }}", "line 1, column 1: '{{name' is no name"),
        ("{{{name}}}", "'{name' is no name of a variable; write \\{{ where two braces are meant"),
        ("{{na me}}", "'na me' is no name"),
        ("{{name\n}}", "is no name"),
        ("{{" + "n" * 64 + "}}", "is no name"),
        ("{{é}}", "is no name"),
    ],
)
def test_template_that_cannot_be_read_is_told_where(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as refused:
        parse(template)
    assert message in str(refused.value)


def test_place_without_a_value_stays_as_it_was_written() -> None:
    assert fill(parse("{{ name }} {{other}}"), {"name": "Ada"}) == "Ada {{other}}"


def test_places_know_where_they_are() -> None:
    assert parse("ab{{name}}") == ("ab", Place("name", "{{name}}", 2))
