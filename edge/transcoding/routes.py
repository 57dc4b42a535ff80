"""Paths to endpoints: a trie of path segments, so that a look-up costs the same however many RPCs there are.

Literal segments win over variables, `:verb` endings over values that hold a colon, and `{name=**}` takes the rest.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.transcoding.contracts import ContractError
from services.mesh.errors import MethodNotAllowed

PATH_LENGTH_MAX: Final = 2_048
PARAMETERS_KEY: Final = "path_params"
"""Where an endpoint finds the values of its path variables in the scope."""

_TEMPLATE: Final = re.compile(r"/|(?:/(?:[A-Za-z0-9_.-]+|\{[a-z_]+(?:=\*\*?)?\}))+(?::(?P<verb>[A-Za-z]+))?", re.ASCII)
_VARIABLE: Final = re.compile(r"\{(?P<name>[a-z_]+)(?P<rest>=\*\*)?(?:=\*)?\}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed path template of `google.api.http`.

    Attributes:
        text: the template itself.
        segments: literal texts, and None for each variable.
        variables: names of the variables in their order.
        verb: what follows the last colon; empty for none.
        takes_rest: whether the last variable takes all remaining segments.
    """

    text: str
    segments: tuple[str | None, ...]
    variables: tuple[str, ...]
    verb: str
    takes_rest: bool

    @classmethod
    def parse(cls, text: str) -> "Template":
        """The parsed form of `text`.

        Raises:
            ContractError: not a template that the edge can serve: variables span one segment, or at the end the rest.
        """
        match = _TEMPLATE.fullmatch(text)
        if match is None:
            raise ContractError(f"{text!r} is not a path template that the edge can serve")
        verb = match["verb"] or ""
        segments: list[str | None] = []
        variables: list[str] = []
        takes_rest = False
        for part in text.removesuffix(f":{verb}" if verb else "").removeprefix("/").split("/"):
            variable = _VARIABLE.fullmatch(part)
            if takes_rest:
                raise ContractError(f"{text!r}: nothing can follow a variable that takes the rest")
            segments.append(None if variable else part)
            if variable:
                variables.append(variable["name"])
                takes_rest = variable["rest"] is not None
        if verb and takes_rest:
            raise ContractError(f"{text!r}: a variable that takes the rest leaves nothing for {verb!r}")
        return cls(text, tuple(segments), tuple(variables), verb, takes_rest)

    @property
    def path(self) -> str:
        """The template as OpenAPI writes it, without `=**`."""
        return _VARIABLE.sub(lambda match: "{" + match["name"] + "}", self.text)

    def fill(self, values: Mapping[str, str]) -> str:
        """The path with its variables replaced; values are ids, which need no escaping."""
        return _VARIABLE.sub(lambda match: values[match["name"]], self.text)


@dataclass(slots=True)
class Target:
    """What one template offers: an endpoint by HTTP method."""

    template: Template
    endpoints: dict[str, ASGIApp] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    """One segment of the trie."""

    literals: dict[str, "_Node"] = field(default_factory=dict)
    variable: "_Node | None" = None
    rest: Target | None = None
    verbs: dict[str, Target] = field(default_factory=dict)


class RouteTable:
    """All templates, by path."""

    def __init__(self) -> None:
        self._root = _Node()
        self._targets: dict[str, Target] = {}

    def add(self, verb: str, template: Template, endpoint: ASGIApp) -> None:
        """Serve `verb` on `template`.

        Raises:
            ContractError: two endpoints for one method of one path, or two names for one variable.
        """
        target = self._place(template)
        if target.template.text != template.text:
            raise ContractError(f"{template.text!r} and {target.template.text!r} match the same paths")
        if verb in target.endpoints:
            raise ContractError(f"{verb} {template.text!r} is bound twice")
        target.endpoints[verb] = endpoint

    def find(self, verb: str, path: str) -> tuple[Target, dict[str, str]] | None:
        """The target of a path with the values of its variables; one that offers `verb`, if there is one."""
        if len(path) > PATH_LENGTH_MAX or not path.startswith("/"):
            return None
        first: tuple[Target, dict[str, str]] | None = None
        for target, values in self._matches(self._root, path[1:].split("/"), 0, ()):
            found = target, dict(zip(target.template.variables, values, strict=True))
            if verb in target.endpoints:
                return found
            first = first or found
        return first

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def _place(self, template: Template) -> Target:
        node = self._root
        target = Target(template)
        for segment in template.segments[: len(template.segments) - template.takes_rest]:
            if segment is None:
                node.variable = node.variable or _Node()
                node = node.variable
            else:
                node = node.literals.setdefault(segment, _Node())
        if template.takes_rest:
            node.rest = node.rest or target
            target = node.rest
        else:
            target = node.verbs.setdefault(template.verb, target)
        self._targets[target.template.text] = target
        return target

    def _matches(
        self, node: _Node, segments: list[str], depth: int, values: tuple[str, ...]
    ) -> Iterator[tuple[Target, tuple[str, ...]]]:
        segment = segments[depth]
        if depth + 1 == len(segments):
            yield from _last(node, segment, values)
        else:
            child = node.literals.get(segment)
            if child is not None:
                yield from self._matches(child, segments, depth + 1, values)
            if node.variable is not None and segment:
                yield from self._matches(node.variable, segments, depth + 1, (*values, segment))
        if node.rest is not None and all(segments[depth:]):
            yield node.rest, (*values, "/".join(segments[depth:]))


def _last(node: _Node, segment: str, values: tuple[str, ...]) -> Iterator[tuple[Target, tuple[str, ...]]]:
    """Targets of the last segment: with its `:verb` first, then as a whole."""
    bare, _, verb = segment.rpartition(":")
    for text, wanted in ((bare, verb), (segment, "")) if bare else ((segment, ""),):
        child = node.literals.get(text)
        if child is not None and wanted in child.verbs:
            yield child.verbs[wanted], values
        if node.variable is not None and text and wanted in node.variable.verbs:
            yield node.variable.verbs[wanted], (*values, text)


class DerivedRoutes(BaseRoute):
    """The route table as one route of the application."""

    def __init__(self, table: RouteTable) -> None:
        self.table = table

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See the base class; a path whose method is missing is matched too, and answered with 405."""
        if scope["type"] != "http":
            return Match.NONE, {}
        found = self.table.find(scope["method"], scope["path"])
        if found is None:
            return Match.NONE, {}
        target, values = found
        return Match.FULL, {"endpoint": target.endpoints.get(scope["method"]), PARAMETERS_KEY: values, "target": target}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the base class."""
        endpoint: ASGIApp | None = scope["endpoint"]
        if endpoint is None:
            target: Target = scope["target"]
            raise MethodNotAllowed(
                f"{scope['method']} is not offered here", metadata={"allow": ", ".join(sorted(target.endpoints))}
            )
        await endpoint(scope, receive, send)
