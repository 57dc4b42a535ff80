"""Prompts that organizations keep: named, made of revisions that never change, with aliases that lead to them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from services.inference.model import EXAMPLES_MAX, MODEL_NAME_CHARS_MAX, Example, Parameters
from services.inference.prompts import templates
from services.inference.prompts.variables import DESCRIPTION_CHARS_MAX, Variable, check_text
from services.mesh.errors import InvalidArgument, invalid_field
from services.mesh.ids import is_id

ID_PREFIX: Final = "prm"
PRODUCTION: Final = "production"
"""The alias that a reference means when it names none."""
LATEST: Final = "latest"
"""The alias that always leads to the newest revision."""
ALIASES_MAX: Final = 20
VARIABLES_MAX: Final = 64
EXAMPLES_STORED_MAX: Final = 200
"""Of a set from which the nearest are taken; all of it is compared with each question."""
CONTENT_CHARS_MAX: Final = 200_000
"""Of a revision altogether: replicas keep hundreds of them in memory."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
_NAME_RULE: Final = "must be 1 to 63 lower-case letters, digits, - and _, with a letter first"


class Selection(StrEnum):
    """Which of the examples an answer gets."""

    FIXED = "fixed"
    NEAREST = "nearest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds where a request says nothing."""

    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    output_tokens_max: int | None = None

    def __post_init__(self) -> None:
        check_text("content.defaults.model", self.model, MODEL_NAME_CHARS_MAX)
        try:
            self.parameters(Parameters())
        except InvalidArgument as error:
            (fault,) = error.fields
            name = fault.field.replace("parameters.", "content.defaults.", 1)
            raise invalid_field(name, fault.description) from None

    def parameters(self, given: Parameters) -> Parameters:
        """Parameters of a request, with these where it has none."""
        return replace(
            given,
            temperature=self.temperature if given.temperature is None else given.temperature,
            top_p=self.top_p if given.top_p is None else given.top_p,
            output_tokens_max=self.output_tokens_max if given.output_tokens_max is None else given.output_tokens_max,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a revision says.

    Attributes:
        template: of the system text.
        variables: all that the template uses, and no others.
        examples: few-shot pairs; no templates.
        nearest_count: how many of them a question gets with `Selection.NEAREST`; 0 otherwise.
        pieces: the template, cut.

    Raises:
        InvalidArgument: a bound of the contract is passed, or template and variables do not fit each other.
    """

    template: str = ""
    variables: tuple[Variable, ...] = ()
    examples: tuple[Example, ...] = ()
    selection: Selection = Selection.FIXED
    nearest_count: int = 0
    defaults: Defaults = field(default_factory=Defaults)
    pieces: tuple[templates.Piece, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_text("content.template", self.template, CONTENT_CHARS_MAX)
        if not self.template and not self.examples:
            raise invalid_field("content", "must have a template or examples")
        if self._chars() > CONTENT_CHARS_MAX:
            raise invalid_field("content", f"must hold at most {CONTENT_CHARS_MAX} characters")
        self._check_examples()
        try:
            object.__setattr__(self, "pieces", templates.parse(self.template))
        except templates.TemplateError as error:
            raise invalid_field("content.template", str(error)) from None
        self._check_variables()

    def _chars(self) -> int:
        examples = sum(len(example.user) + len(example.assistant) for example in self.examples)
        return len(self.template) + examples + sum(variable.chars for variable in self.variables)

    def _check_examples(self) -> None:
        is_nearest = self.selection is Selection.NEAREST
        examples_max = EXAMPLES_STORED_MAX if is_nearest else EXAMPLES_MAX
        if len(self.examples) > examples_max:
            raise invalid_field("content.examples", f"must hold at most {examples_max} examples")
        if is_nearest and not 1 <= self.nearest_count <= EXAMPLES_MAX:
            raise invalid_field("content.nearest_count", f"must be from 1 to {EXAMPLES_MAX}")
        if not is_nearest and self.nearest_count:
            raise invalid_field("content.nearest_count", "is for the nearest examples only")
        for index, example in enumerate(self.examples):
            for name in ("user", "assistant"):
                text: str = getattr(example, name)
                check_text(f"content.examples[{index}].{name}", text, CONTENT_CHARS_MAX)
                if not text.strip():
                    raise invalid_field(f"content.examples[{index}].{name}", "must not be empty")

    def _check_variables(self) -> None:
        if len(self.variables) > VARIABLES_MAX:
            raise invalid_field("content.variables", f"must hold at most {VARIABLES_MAX} variables")
        used = {piece.name: piece for piece in self.pieces if isinstance(piece, templates.Place)}
        declared: set[str] = set()
        for index, variable in enumerate(self.variables):
            variable.check(f"content.variables[{index}]")
            if variable.name in declared:
                raise invalid_field(f"content.variables[{index}].name", f"{variable.name!r} is there twice")
            if variable.name not in used:
                raise invalid_field(f"content.variables[{index}].name", f"the template does not use {variable.name!r}")
            declared.add(variable.name)
        for name, place in used.items():
            if name not in declared:
                where = templates.position(self.template, place.offset)
                raise invalid_field("content.template", f"{where}: {name!r} is not among the variables")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPrompt:
    """A prompt of an organization.

    Attributes:
        latest_revision: number of the newest; 1 and more.
        aliases: numbers of revisions by alias.
        deleted_at: None while it lives.

    Raises:
        InvalidArgument: name or description are malformed.
    """

    id: str
    organization_id: str
    name: str
    created_at: datetime
    updated_at: datetime
    description: str = ""
    latest_revision: int = 1
    aliases: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    deleted_at: datetime | None = None

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise invalid_field("name", f"{_NAME_RULE}; it does not begin with {ID_PREFIX}_")
        check_text("description", self.description, DESCRIPTION_CHARS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A revision before it has a number.

    Raises:
        InvalidArgument: the note is malformed.
    """

    content: Content
    author_id: str
    at: datetime
    note: str = ""

    def __post_init__(self) -> None:
        check_text("note", self.note, DESCRIPTION_CHARS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionHead:
    """A revision as it is listed: who made it, and when."""

    prompt_id: str
    number: int
    author_id: str
    created_at: datetime
    note: str = ""

    @property
    def name(self) -> str:
        """As answers tell it."""
        return f"{self.prompt_id}/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision(RevisionHead):
    """One state of a prompt; it never changes."""

    content: Content

    @classmethod
    def of(cls, prompt: NamedPrompt, draft: Draft) -> "Revision":
        """The newest revision of `prompt`, made from `draft`."""
        return cls(
            prompt_id=prompt.id,
            number=prompt.latest_revision,
            content=draft.content,
            author_id=draft.author_id,
            created_at=draft.at,
            note=draft.note,
        )


@dataclass(frozen=True, slots=True)
class Repeat:
    """What makes a call safe to repeat; kept with the revision that the call made."""

    request_id: str
    body_hash: bytes


def is_name(text: str) -> bool:
    """Whether a prompt can be called that."""
    return _NAME.fullmatch(text) is not None and not text.startswith(f"{ID_PREFIX}_")


def is_handle(text: str) -> bool:
    """Whether a prompt can be found by that: a name or an id."""
    return is_name(text) or is_id(ID_PREFIX, text)


def check_alias(alias: str) -> None:
    """Whether an alias can be set.

    Raises:
        InvalidArgument: it cannot.
    """
    if _NAME.fullmatch(alias) is None:
        raise invalid_field("alias", _NAME_RULE)
    if alias == LATEST:
        raise invalid_field("alias", f"{LATEST!r} is always the newest revision and cannot be set")
