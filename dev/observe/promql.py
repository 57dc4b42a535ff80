"""Finds the selectors in a PromQL expression: enough of its grammar to name every metric and every label asked for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<range>\[[^\]]*\])
    |(?P<grouping>\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\))
    |(?P<number>(?<![A-Za-z_:])\d[\w.]*)
    |(?P<name>[A-Za-z_:][\w:]*)
    |(?P<open>\{)
    """,
    re.VERBOSE,
)
_MATCHER: Final = re.compile(r'\s*([A-Za-z_]\w*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")\s*(?:,|$)')
_WORDS: Final = frozenset({"and", "or", "unless", "offset", "bool", "inf", "nan", "atan2", "group_left", "group_right"})
_AGGREGATIONS: Final = frozenset(
    {"sum", "min", "max", "avg", "count", "topk", "bottomk", "group", "stddev", "quantile"}
)


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label."""

    label: str
    sign: str
    value: str

    def fits(self, actual: str) -> bool:
        """Whether a label's value meets it; absent labels are empty."""
        if self.sign in ("=", "!="):
            return (actual == self.value) == (self.sign == "=")
        return (re.fullmatch(self.value, actual) is not None) == (self.sign == "=~")


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric with conditions."""

    name: str
    matchers: tuple[Matcher, ...] = ()

    def fits(self, name: str, labels: dict[str, str]) -> bool:
        """Whether a series is selected."""
        return name == self.name and all(each.fits(labels.get(each.label, "")) for each in self.matchers)


def selectors(expression: str) -> Iterator[Selector]:
    """Every selector of the expression, in its order.

    Raises:
        ValueError: braces are not closed, or hold what is no matcher.
    """
    for name, start, end in _places(expression):
        yield Selector(name, tuple(_matchers(expression[start + 1 : end - 1])))


def narrowed(expression: str, matcher: str) -> str:
    """The expression with a further matcher in each of its selectors."""
    made, last = "", 0
    for _, start, end in _places(expression):
        inside = expression[start + 1 : end - 1]
        made += expression[last:start] + "{" + ",".join(filter(None, [inside, matcher])) + "}"
        last = end
    return made + expression[last:]


def _places(expression: str) -> Iterator[tuple[str, int, int]]:
    """Name of each selector, and from where to where its braces are; nothing lies between where it has none."""
    position = 0
    while token := _TOKEN.search(expression, position):
        position = token.end()
        name = token.group("name")
        if name is None or name in _WORDS:
            continue
        rest = expression[position:].lstrip()
        if rest.startswith("("):
            continue  # a function
        if name in _AGGREGATIONS:
            continue  # its labels stand before its body: sum by (job) (…)
        start = position
        if rest.startswith("{"):
            start = expression.index("{", position)
            position = _closing(expression, start) + 1
        yield name, start, position


def _closing(expression: str, start: int) -> int:
    is_quoted = False
    for index in range(start, len(expression)):
        character = expression[index]
        if character == '"' and expression[index - 1] != "\\":
            is_quoted = not is_quoted
        elif character == "}" and not is_quoted:
            return index
    raise ValueError(f"a brace is not closed in {expression!r}")


def _matchers(text: str) -> Iterator[Matcher]:
    position = 0
    while position < len(text):
        match = _MATCHER.match(text, position)
        if match is None:
            raise ValueError(f"{text[position:]!r} is no matcher")
        yield Matcher(match[1], match[2], match[3][1:-1].replace("\\\\", "\\"))
        position = match.end()
