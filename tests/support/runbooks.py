"""What docs/runbooks tells people to type, taken out of its pages, so that tests try it before somebody has to."""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from dev.observe.promql import selectors
from dev.tools.tidiness import ROOT

PAGES: Final = tuple(sorted((ROOT / "docs" / "runbooks").glob("*.md")))
_FENCE: Final = re.compile(r"```sh\n(.*?)```\n", re.DOTALL)
_SPAN: Final = re.compile(r"`([^`]+)`")
_METRIC: Final = re.compile(r"\b(?:parley|process)_\w+")
_PROGRAMS: Final = ("kubectl ", "helm ", "curl ", "make ", "python -m ", "promtool ", "valkey-cli ", "ls ", "cmctl ")
_REQUEST: Final = re.compile(r"(GET|PUT|POST|DELETE) /api/\S+")


class Kind(Enum):
    """How a command is tried."""

    SHELL = auto()
    QUERY = auto()
    SQL = auto()
    REQUEST = auto()
    SETTING = auto()
    WORD = auto()


@dataclass(frozen=True, slots=True)
class Written:
    """Something in a page that is set as code.

    Attributes:
        page: its name without suffix.
        kind: what it is.
        text: on one line.
    """

    page: str
    kind: Kind
    text: str


def written() -> list[Written]:
    """All that the pages set as code, in their order, each once per page."""
    found: dict[Written, None] = {}
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        lines = [line for fence in _FENCE.findall(text) for line in fence.splitlines() if line.strip()]
        spans = [" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text))]
        for each in [*lines, *spans]:
            found[Written(path.stem, _kind(each), each)] = None
    return list(found)


def of(kind: Kind) -> list[Written]:
    """Those of one kind."""
    return [each for each in written() if each.kind is kind]


def metrics(query: str) -> set[str]:
    """Names of the metrics that a query asks for."""
    return {each.name for each in selectors(query)}


def _kind(text: str) -> Kind:
    if text.startswith(_PROGRAMS):
        return Kind.SHELL
    if text.startswith("SELECT "):
        return Kind.SQL
    if _REQUEST.fullmatch(text):
        return Kind.REQUEST
    if text.startswith("PARLEY_"):
        return Kind.SETTING
    return Kind.QUERY if _METRIC.search(text) else Kind.WORD
