"""Instants on the wire: aware datetimes to and from protobuf's Timestamp."""

from datetime import UTC, datetime
from typing import overload

from google.protobuf.timestamp_pb2 import Timestamp

from services.mesh.errors import invalid_field


@overload
def timestamp(instant: datetime) -> Timestamp: ...


@overload
def timestamp(instant: datetime | None) -> Timestamp | None: ...


def timestamp(instant: datetime | None) -> Timestamp | None:
    """The message of an instant, or nothing for none."""
    if instant is None:
        return None
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def instant_of(field: str, message: Timestamp) -> datetime:
    """The instant of a timestamp that a caller sent in `field`.

    Raises:
        InvalidArgument: it is outside of years 1 to 9999.
    """
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid_field(field, "must lie within the years 1 to 9999") from None
