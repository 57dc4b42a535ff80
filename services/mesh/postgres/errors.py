"""What PostgreSQL and its driver say, in our words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from services.mesh.errors import DeadlineExceeded, InvalidArgument, MeshError, Overloaded, Unavailable

_RETRIABLE: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_QUERY_CANCELLED: Final = "57014"
_CHARACTER_NOT_IN_REPERTOIRE: Final = "22021"
SHARD_ELSEWHERE: Final = "PS001"
"""Raised by our own trigger, see `shards.schema`."""
# Classes of PostgreSQL's Appendix A that mean "not now, and not by the caller's fault": connection, authorization of
# our own login, missing database, resources, locks and states, operator intervention, system error.
_UNAVAILABLE_CLASSES: Final = frozenset({"08", "28", "3D", "53", "55", "57", "58"})


class Conflict(Unavailable):
    """PostgreSQL chose this transaction to lose against another one; a repeat usually succeeds."""


class ShardElsewhere(Unavailable):
    """The organization's data is on the move or on another instance, and this one has changed nothing."""


def constraint_of(error: IntegrityError) -> str:
    """Name of the constraint that refused a change, as `tables.py` names it."""
    cause = getattr(error.orig, "__cause__", None)
    return str(getattr(cause, "constraint_name", None) or "")


@contextmanager
def translated() -> Iterator[None]:
    """What the driver says, in our words; its own text goes to the log as the cause.

    Constraint violations pass unchanged, because only the store knows what they mean; so do errors of our SQL.

    Raises:
        Conflict: serialization failure or deadlock.
        DeadlineExceeded: the statement took longer than it may.
        InvalidArgument: a text holds a NUL character, the one that PostgreSQL has no place for.
        Overloaded: no connection of the pool came free.
        ShardElsewhere: the data is not on this instance now.
        Unavailable: PostgreSQL is away, starting, stopping, full or out of disk, or refuses our login.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        meaning = _meaning(_sqlstate(error), is_disconnect=error.connection_invalidated)
        if meaning is None:
            raise
        raise meaning from error
    except asyncpg.PostgresError as error:  # from a lane; constraint violations have no meaning here either
        meaning = _meaning(error.sqlstate or "", is_disconnect=False)
        if meaning is None:
            raise
        raise meaning from error
    except asyncpg.InterfaceError as error:  # the same: the connection is gone
        raise _unavailable() from error
    except PoolTimeoutError as error:
        raise Overloaded("too many transactions wait for a database connection", retry_after_s=1.0) from error
    except OSError as error:  # TimeoutError and ConnectionError of the driver's connect are among these
        raise _unavailable() from error


def _meaning(sqlstate: str, *, is_disconnect: bool) -> MeshError | None:
    if sqlstate in _RETRIABLE:
        return Conflict("another change was faster; try again")
    if sqlstate == SHARD_ELSEWHERE:
        return ShardElsewhere("the organization's data is on the move", retry_after_s=1.0)
    if sqlstate == _CHARACTER_NOT_IN_REPERTOIRE:
        return InvalidArgument("a text holds a NUL character")
    if sqlstate == _QUERY_CANCELLED:
        return DeadlineExceeded("the database did not answer in time")
    if is_disconnect or sqlstate[:2] in _UNAVAILABLE_CLASSES:
        return _unavailable()
    return None


def _unavailable() -> Unavailable:
    return Unavailable("the database cannot be reached now", retry_after_s=1.0)


def _sqlstate(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")
