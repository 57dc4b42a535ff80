"""What a prompt left out of what it was asked to show, and why."""

from dataclasses import dataclass
from enum import StrEnum


class ContextPart(StrEnum):
    """A kind of what a model is given to read."""

    MESSAGES = "messages"
    PASSAGES = "passages"
    SUMMARY = "summary"


class OmissionReason(StrEnum):
    """Why something was left out: no room, no words, or an answer whose question was left out."""

    BUDGET = "budget"
    EMPTY = "empty"
    DETACHED = "detached"


@dataclass(frozen=True, slots=True)
class Omission:
    """So many of one kind were left out for one reason."""

    part: ContextPart
    reason: OmissionReason
    count: int
