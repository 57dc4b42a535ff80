"""What a model was given to read for an answer, what was left out, and which prompt of the organization it was."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from services.conversation.bounds import check_text
from services.mesh.errors import invalid_field

PROMPT_NAME_LENGTH_MAX: Final = 200
"""Of a prompt's id or name, of an alias and of a variable; inference judges their form."""
VARIABLES_MAX: Final = 64
VARIABLE_LENGTH_MAX: Final = 10_000
REVISION_MAX: Final = 2**31 - 1


class ContextPart(StrEnum):
    """A kind of what a model is given to read."""

    MESSAGES = "messages"
    PASSAGES = "passages"
    SUMMARY = "summary"


class OmissionReason(StrEnum):
    """Why something was left out; see `parley.conversation.v1.OmissionReason`."""

    BUDGET = "budget"
    EMPTY = "empty"
    DETACHED = "detached"
    SUMMARISED = "summarised"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Omission:
    """So many of one kind were left out for one reason."""

    part: ContextPart
    reason: OmissionReason
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextReport:
    """What a model was given to read; see `parley.conversation.v1.ContextReport`."""

    system_tokens: int = 0
    example_tokens: int = 0
    history_tokens: int = 0
    passage_tokens: int = 0
    summary_tokens: int = 0
    summary_id: str = ""
    messages_summarised: int = 0
    omissions: tuple[Omission, ...] = ()
    prompt_revision: str = ""
    examples_unranked: bool = False

    @property
    def input_tokens(self) -> int:
        """All that the model reads."""
        given = self.system_tokens + self.example_tokens + self.history_tokens + self.passage_tokens
        return given + self.summary_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReference:
    """Names a revision of a prompt of the organization, and fills its variables.

    Attributes:
        alias: leads to a revision; empty for the usual one, or where `revision` is given.
        revision: its number; 0 where an alias leads to it.
        variables: values by name, in the order of the names.
    """

    prompt: str
    alias: str = ""
    revision: int = 0
    variables: tuple[tuple[str, str], ...] = ()

    def at(self, told: str) -> "PromptReference":
        """The same at the revision that an answer tells, `<prompt id>/<number>`: it leads there for ever."""
        prompt, _, number = told.rpartition("/")
        return replace(self, prompt=prompt, alias="", revision=int(number))

    def __post_init__(self) -> None:
        check_text("prompt.prompt", self.prompt, PROMPT_NAME_LENGTH_MAX, length_min=1)
        check_text("prompt.alias", self.alias, PROMPT_NAME_LENGTH_MAX)
        if not 0 <= self.revision <= REVISION_MAX:
            raise invalid_field("prompt.revision", "1 or more")
        if len(self.variables) > VARIABLES_MAX:
            raise invalid_field("prompt.variables", f"at most {VARIABLES_MAX} variables")
        for name, value in self.variables:
            check_text("prompt.variables", name, PROMPT_NAME_LENGTH_MAX, length_min=1)
            check_text(f"prompt.variables[{name!r}]", value, VARIABLE_LENGTH_MAX)
