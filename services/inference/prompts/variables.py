"""Variables of templates: what their values have to be. Values are texts, and are put in as they were given."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.inference.prompts.templates import NAME
from services.mesh.errors import invalid_field

DESCRIPTION_CHARS_MAX: Final = 1_000
VALUE_CHARS_MAX: Final = 10_000
CHOICES_MAX: Final = 100
CHOICE_CHARS_MAX: Final = 1_000
NUMBER_CHARS_MAX: Final = 64
"""No number that a person means is longer."""
UNKNOWN_SHOWN_MAX: Final = 8
NAME_SHOWN_CHARS: Final = 64
CHOICES_SHOWN_CHARS: Final = 200
"""What is told of values that do not fit travels in the trailers of a call, which hold 8 KiB."""
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1

_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_NUL: Final = "\0"


class VariableType(StrEnum):
    """What values of a variable have to be."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    ENUM = "enum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A place that each request fills.

    Attributes:
        default: taken when a request gives none; None makes the variable required.
        minimum, maximum: of an integer or a number.
        length_max: of a string; 0 means the most, `VALUE_CHARS_MAX`.
        choices: of an enum.
    """

    name: str
    type: VariableType
    description: str = ""
    default: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    length_max: int = 0
    choices: tuple[str, ...] = ()

    @property
    def chars(self) -> int:
        """Characters of all its texts."""
        return len(self.name) + len(self.description) + len(self.default or "") + sum(map(len, self.choices))

    def check(self, field: str) -> None:
        """Whether the declaration makes sense; `field` is where it stands.

        Raises:
            InvalidArgument: it does not.
        """
        if NAME.fullmatch(self.name) is None:
            raise invalid_field(f"{field}.name", "must be 1 to 63 letters, digits and _, with a letter first")
        check_text(f"{field}.description", self.description, DESCRIPTION_CHARS_MAX)
        self._check_bounds(field)
        self._check_choices(field)
        if self.default is not None:
            problem = self.problem_of(self.default)
            if problem or _NUL in self.default:
                raise invalid_field(f"{field}.default_value", problem or "must not hold a NUL character")

    def problem_of(self, value: str) -> str:
        """What a value would have to be; empty when it is that."""
        match self.type:
            case VariableType.STRING:
                length_max = self.length_max or VALUE_CHARS_MAX
                return "" if len(value) <= length_max else f"must hold at most {length_max} characters"
            case VariableType.BOOLEAN:
                return "" if value in {"true", "false"} else "must be true or false"
            case VariableType.ENUM:
                return "" if value in self.choices else self._choices_shown()
            case VariableType.INTEGER:
                is_integer = _INTEGER.fullmatch(value) is not None and INTEGER_MIN <= int(value) <= INTEGER_MAX
                return self._out_of_bounds(int(value)) if is_integer else "must be a whole number such as -12"
            case VariableType.NUMBER:
                is_number = len(value) <= NUMBER_CHARS_MAX and _NUMBER.fullmatch(value) is not None
                is_number = is_number and math.isfinite(float(value))
                return self._out_of_bounds(float(value)) if is_number else "must be a number such as 0.5"

    def _choices_shown(self) -> str:
        shown = ", ".join(map(repr, self.choices))
        return f"must be one of {shown if len(shown) <= CHOICES_SHOWN_CHARS else f'its {len(self.choices)} choices'}"

    def _out_of_bounds(self, number: float) -> str:
        if self.minimum is not None and number < self.minimum:
            return f"must be {self.minimum:g} or more"
        if self.maximum is not None and number > self.maximum:
            return f"must be {self.maximum:g} or less"
        return ""

    def _check_bounds(self, field: str) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and self.type not in {VariableType.INTEGER, VariableType.NUMBER}:
            raise invalid_field(f"{field}.minimum", "and maximum are for integers and numbers")
        if not all(map(math.isfinite, bounds)) or bounds != sorted(bounds):
            raise invalid_field(f"{field}.minimum", "must be a finite number, and not above maximum")
        if not 0 <= self.length_max <= VALUE_CHARS_MAX or (self.length_max and self.type is not VariableType.STRING):
            raise invalid_field(f"{field}.length_max", f"must be from 1 to {VALUE_CHARS_MAX}, and is for strings only")

    def _check_choices(self, field: str) -> None:
        if self.type is not VariableType.ENUM:
            if self.choices:
                raise invalid_field(f"{field}.choices", "are for enums only")
            return
        if not 1 <= len(self.choices) <= CHOICES_MAX or len(set(self.choices)) != len(self.choices):
            raise invalid_field(f"{field}.choices", f"must be 1 to {CHOICES_MAX} different texts")
        for choice in self.choices:
            check_text(f"{field}.choices", choice, CHOICE_CHARS_MAX)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a variable cannot be filled; `is_missing` when it is required and was not given."""

    variable: str
    description: str
    is_missing: bool = False


def values_of(variables: Sequence[Variable], given: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """The values that fit, defaults included, and what is wrong with the others; of unknown ones, the first few."""
    values: dict[str, str] = {}
    problems: list[Problem] = []
    for variable in variables:
        value = given.get(variable.name, variable.default)
        if value is None:
            problems.append(Problem(variable.name, "must be given", is_missing=True))
        elif problem := variable.problem_of(value):
            problems.append(Problem(variable.name, problem))
        else:
            values[variable.name] = value
    known = {variable.name for variable in variables}
    unknown = sorted(name for name in given if name not in known)[:UNKNOWN_SHOWN_MAX]
    problems += [Problem(name[:NAME_SHOWN_CHARS], "is not a variable of this revision") for name in unknown]
    return values, problems


def check_text(field: str, text: str, chars_max: int) -> None:
    """Whether a text can be kept.

    Raises:
        InvalidArgument: it is too long, or holds a NUL character.
    """
    if len(text) > chars_max:
        raise invalid_field(field, f"must hold at most {chars_max} characters")
    if _NUL in text:
        raise invalid_field(field, "must not hold a NUL character")
