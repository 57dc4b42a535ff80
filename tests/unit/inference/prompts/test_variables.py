"""What values of variables have to be, and which declarations make no sense."""

from typing import Any

import pytest

from services.inference.prompts.variables import (
    CHOICES_MAX,
    NAME_SHOWN_CHARS,
    UNKNOWN_SHOWN_MAX,
    VALUE_CHARS_MAX,
    Problem,
    Variable,
    VariableType,
    values_of,
)
from services.mesh.errors import InvalidArgument
from tests.support.prompts import FULL, TONE


def variable(kind: VariableType, **fields: Any) -> Variable:
    """Any: fields by name."""
    return Variable(name="v", type=kind, **fields)


STRING, INTEGER, NUMBER, BOOLEAN, ENUM = VariableType
BOUNDED = variable(INTEGER, minimum=-2, maximum=2)
CLOSE = variable(NUMBER, minimum=0.5, maximum=1.5)


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (variable(STRING), "x" * VALUE_CHARS_MAX),
        (variable(STRING, length_max=3), "äöü"),
        (variable(STRING), ""),
        (variable(INTEGER), "-9223372036854775808"),
        (variable(INTEGER), "0"),
        (BOUNDED, "-2"),
        (BOUNDED, "2"),
        (variable(NUMBER), "-1.5e-300"),
        (CLOSE, "0.5"),
        (CLOSE, "1.5"),
        (variable(BOOLEAN), "true"),
        (variable(BOOLEAN), "false"),
        (TONE, "brisk"),
    ],
)
def test_value_fits(declared: Variable, value: str) -> None:
    assert declared.problem_of(value) == ""


@pytest.mark.parametrize(
    ("declared", "value", "problem"),
    [
        (variable(STRING), "x" * (VALUE_CHARS_MAX + 1), f"at most {VALUE_CHARS_MAX} characters"),
        (variable(STRING, length_max=3), "four", "at most 3 characters"),
        *((variable(INTEGER), value, "whole number") for value in ("", "1.0", "01", "+1", "-0", " 1", "\u0661", "1_0")),
        (variable(INTEGER), "9223372036854775808", "whole number"),
        (BOUNDED, "-3", "-2 or more"),
        (BOUNDED, "3", "2 or less"),
        *((variable(NUMBER), value, "a number") for value in ("", ".5", "1.", "nan", "inf", "1e999", "0x1", "1" * 65)),
        (CLOSE, "0.49", "0.5 or more"),
        (CLOSE, "1.51", "1.5 or less"),
        *((variable(BOOLEAN), value, "true or false") for value in ("", "True", "1")),
        (TONE, "loud", "'calm', 'brisk'"),
    ],
)
def test_value_that_does_not_fit_is_told_what_would(declared: Variable, value: str, problem: str) -> None:
    assert problem in declared.problem_of(value)


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        (Variable(name="1st", type=STRING), "name"),
        (Variable(name="", type=STRING), "name"),
        (variable(STRING, description="x" * 1_001), "description"),
        (variable(STRING, description="\0"), "description"),
        (variable(STRING, minimum=1.0), "minimum"),
        (variable(NUMBER, minimum=2.0, maximum=1.0), "minimum"),
        (variable(NUMBER, maximum=float("inf")), "minimum"),
        (variable(STRING, length_max=VALUE_CHARS_MAX + 1), "length_max"),
        (variable(STRING, length_max=-1), "length_max"),
        (variable(INTEGER, length_max=5), "length_max"),
        (variable(ENUM), "choices"),
        (variable(ENUM, choices=("a", "a")), "choices"),
        (variable(ENUM, choices=tuple(map(str, range(CHOICES_MAX + 1)))), "choices"),
        (variable(ENUM, choices=("x" * 1_001,)), "choices"),
        (variable(STRING, choices=("a",)), "choices"),
        (variable(INTEGER, default="one"), "default_value"),
        (variable(STRING, default="\0"), "default_value"),
    ],
)
def test_declaration_that_makes_no_sense_is_refused_by_field(declared: Variable, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        declared.check("here")
    assert refused.value.fields[0].field == f"here.{field}"


def test_choices_are_as_many_as_they_may_be() -> None:
    variable(ENUM, choices=tuple(map(str, range(CHOICES_MAX))), default="7").check("here")


def test_values_are_filled_up_and_problems_told_together() -> None:
    values, problems = values_of(FULL.variables, {"words": "0", "extra": "x"})
    assert values == {"tone": "calm"}
    assert problems == [
        Problem("name", "must be given", is_missing=True),
        Problem("words", "must be 1 or more"),
        Problem("extra", "is not a variable of this revision"),
    ]


def test_many_choices_are_counted_and_not_listed() -> None:
    few, many = (tuple(f"choice {number}" for number in range(count)) for count in (5, 90))
    assert "'choice 4'" in variable(ENUM, choices=few).problem_of("x")
    assert variable(ENUM, choices=many).problem_of("x") == "must be one of its 90 choices"


@pytest.mark.parametrize("count", [UNKNOWN_SHOWN_MAX - 1, UNKNOWN_SHOWN_MAX, UNKNOWN_SHOWN_MAX + 1])
def test_of_unknown_variables_the_first_few_are_told(count: int) -> None:
    _, problems = values_of((), {f"{number:02}" + "x" * 99: "" for number in range(count)})
    assert len(problems) == min(count, UNKNOWN_SHOWN_MAX)
    assert {len(problem.variable) for problem in problems} == {NAME_SHOWN_CHARS}
