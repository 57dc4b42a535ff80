"""Statements of SQLAlchemy as a lane takes them: built once, and sent past SQLAlchemy."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.dialects.postgresql import asyncpg

from services.mesh.postgres.lane import Lane

_DIALECT: Final = asyncpg.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy left it untyped


class Prepared:
    """A query, its parameters by name.

    Args:
        statement: of which every parameter without a value of its own is given with each use.
    """

    def __init__(self, statement: Select[Any]) -> None:  # Any: rows of any columns
        compiled = statement.compile(dialect=_DIALECT)
        self._text = str(compiled)
        self._names = tuple(compiled.positiontup or ())
        self._fixed = dict(compiled.params)

    # Any: columns hold anything.
    async def fetch(self, lane: Lane, given: Mapping[str, object]) -> Sequence[Mapping[str, Any]]:
        """Rows. Raises as `Lane.fetch` does."""
        values = {**self._fixed, **given}
        return await lane.fetch(self._text, *(values[name] for name in self._names))
