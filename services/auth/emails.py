"""E-mail addresses as login names: one spelling per account, because limits and uniqueness count spellings."""

import re
from typing import Final

from services.auth.model import EMAIL_LENGTH_MAX
from services.mesh.errors import invalid_field

# Deliberately loose (WHATWG's rule refuses addresses that exist): something, one @, something, nothing invisible.
_FORM: Final = re.compile(r"[^\s@\x00-\x1f\x7f]+@[^\s@\x00-\x1f\x7f]+")


def canonical_email(email: str) -> str:
    """The spelling under which an account is stored, found and counted."""
    return email.lower()


def checked_email(field: str, email: str) -> str:
    """The canonical spelling of a new account's address.

    Raises:
        InvalidArgument: it is no e-mail address, or longer than 254 characters.
    """
    if len(email) > EMAIL_LENGTH_MAX or _FORM.fullmatch(email) is None:
        raise invalid_field(field, f"must be an e-mail address of at most {EMAIL_LENGTH_MAX} characters")
    return canonical_email(email)
