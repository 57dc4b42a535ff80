"""Members of a vendor's JSON: each taken once, checked for its type, refused by name when it cannot be served."""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, cast

import orjson

from edge.transcoding.scalars import Misfit

INTEGER_MAX: Final = (1 << 63) - 1


class Body:
    """An object of the body.

    Args:
        document: the parsed JSON.

    Raises:
        Misfit: it is no object.
    """

    def __init__(self, document: object) -> None:
        if type(document) is not dict:
            raise Misfit("must be an object")
        self._members: dict[str, object] = document
        self._taken: set[str] = set()

    def take(self, name: str) -> object:
        """A member of any type; None when it is absent or null."""
        self._taken.add(name)
        return self._members.get(name)

    def text(self, name: str) -> str | None:
        """A member that is a string without halves of surrogate pairs."""
        text = cast("str | None", self._typed(name, lambda value: type(value) is str, "must be a string"))
        return None if text is None else _sound(text, name)

    def required_text(self, name: str) -> str:
        """A string that must be there."""
        text = self.text(name)
        if text is None:
            raise Misfit("must be a string", name)
        return text

    def flag(self, name: str) -> bool | None:
        """A member that is true or false."""
        return cast("bool | None", self._typed(name, lambda value: type(value) is bool, "must be true or false"))

    def number(self, name: str) -> float | None:
        """A member that is a number."""
        return cast("float | None", self._typed(name, lambda value: type(value) in {int, float}, "must be a number"))

    def integer(self, name: str) -> int | None:
        """A member that is an integer of 64 bits."""

        def fits(value: object) -> bool:
            return type(value) is int and -INTEGER_MAX - 1 <= value <= INTEGER_MAX

        return cast("int | None", self._typed(name, fits, "must be an integer of 64 bits"))

    def items(self, name: str) -> list[object]:
        """A member that is a list; empty when it is absent."""
        found = self._typed(name, lambda value: type(value) is list, "must be a list")
        return cast("list[object]", found or [])

    def inner(self, name: str) -> "Body | None":
        """A member that is an object."""
        value = self.take(name)
        if value is None:
            return None
        with at(name):
            return Body(value)

    def json_text(self, name: str) -> str:
        """A member that is an object, as JSON text; empty when it is absent."""
        value = self._typed(name, lambda value: type(value) is dict, "must be an object")
        if value is None:
            return ""
        try:
            return orjson.dumps(value).decode()
        except TypeError:
            raise Misfit("must hold sound texts, integers of 64 bits and at most 254 levels", name) from None

    def refuse_unless(self, supported: Mapping[str, tuple[object, ...]]) -> None:
        """Refuses members that say something else than what is so anyway; absent means null."""
        for name, accepted in supported.items():
            value = self.take(name)
            if not any(value == same and type(value) is type(same) for same in accepted):
                raise Misfit("is not supported here", name)

    def refuse_unknown(self, harmless: frozenset[str] = frozenset()) -> None:
        """Refuses members that nobody has taken; `harmless` ones may stay unread."""
        for name in self._members:
            if name not in self._taken and name not in harmless:
                raise Misfit("is not known", name)

    def _typed(self, name: str, fits: Callable[[object], bool], description: str) -> object:
        value = self.take(name)
        if value is not None and not fits(value):
            raise Misfit(description, name)
        return value


@contextmanager
def at(*path: str | int) -> Iterator[None]:
    """Misfits inside are misfits of what stands at `path`, innermost step first."""
    try:
        yield
    except Misfit as misfit:
        misfit.path += path
        raise


def decoded(text: str, name: str) -> bytes:
    """Bytes that a string holds in base64.

    Raises:
        Misfit: it holds something else, or nothing.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise Misfit("must be data in base64", name)
    return data


def _sound(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Misfit("must not hold half of a surrogate pair", name) from None
    return text
