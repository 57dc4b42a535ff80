"""Names that people give to things."""

from typing import Final

from services.auth.model import DISPLAY_NAME_LENGTH_MAX
from services.mesh.errors import invalid_field

_DEMAND: Final = f"must have 1 to {DISPLAY_NAME_LENGTH_MAX} characters, none of them a control character"


def checked_name(field: str, name: str) -> str:
    """A display name without the white space around it.

    Raises:
        InvalidArgument: nothing is left, or it is too long, or it holds a control character.
    """
    trimmed = name.strip()
    if not 1 <= len(trimmed) <= DISPLAY_NAME_LENGTH_MAX or not trimmed.isprintable():
        raise invalid_field(field, _DEMAND)
    return trimmed
