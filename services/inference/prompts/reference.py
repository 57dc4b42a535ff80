"""How a wish names a prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReference:
    """A prompt that the organization keeps, and what fills its variables.

    Attributes:
        prompt: its id or name.
        alias: leads to the revision; with neither alias nor revision it is `production`.
        revision: number of the revision; 0 when an alias leads to it.
        variables: values by name, as texts.
    """

    prompt: str
    alias: str = ""
    revision: int = 0
    variables: Mapping[str, str] = field(default_factory=dict)
