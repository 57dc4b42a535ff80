"""Bounds that texts of a request keep to."""

from services.mesh.errors import invalid_field


def check_text(field: str, text: str, length_max: int, *, length_min: int = 0) -> None:
    """Refuses text that is too short, too long, or that PostgreSQL cannot store.

    Raises:
        InvalidArgument: naming `field`.
    """
    if not length_min <= len(text) <= length_max:
        raise invalid_field(field, f"{length_min} to {length_max} characters")
    if "\0" in text:
        raise invalid_field(field, "no NUL character")
