"""What parsers say when they refuse, and the limits that they hold. Imports nothing: the child starts with it."""

from dataclasses import dataclass

PAGES_MAX_DEFAULT = 2_000
# About 10,000 chunks, which take an encoder on two cores some five minutes.
CHARACTERS_MAX_DEFAULT = 5_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a document may hold at most."""

    pages_max: int = PAGES_MAX_DEFAULT
    characters_max: int = CHARACTERS_MAX_DEFAULT


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """The file cannot be read.

    Args:
        reason: an ErrorReason without its prefix.
        message: for people.
        metadata: the keys that the reason's contract names.
    """

    def __init__(self, reason: str, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata


def unreadable(message: str) -> Refusal:
    """The file is damaged, hostile or holds no text."""
    return Refusal("DOCUMENT_UNREADABLE", message)


def too_large(message: str, limit: int) -> Refusal:
    """The document passes a limit."""
    return Refusal("DOCUMENT_TOO_LARGE", message, limit=str(limit))


def unsupported(media_type: str) -> Refusal:
    """The content is of a type that nobody here reads."""
    return Refusal(
        "DOCUMENT_UNSUPPORTED",
        f"the content is {media_type}; text, Markdown, HTML and PDF can be read",
        media_type=media_type,
    )
