"""What makes two requests the same request: a hash over the content of a protobuf message.

Stored beside the request id, it tells a repeat (same hash: answer as before) from a mistake (another hash:
IDEMPOTENCY_MISMATCH).
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from google.protobuf.message import Message

from services.mesh.errors import IdempotencyMismatch, invalid_field

KEY_LENGTH_MAX: Final = 128


def request_hash(request: Message, *, ignored: Iterable[str] = ("request_id",)) -> bytes:
    """SHA-256 over the type and content of `request`, without the fields in `ignored`.

    Deterministic serialization is stable for one schema, maps included; a field that a newer client adds changes the
    hash, which is right: it is another request.
    """
    content = type(request)()
    content.CopyFrom(request)
    for name in ignored:
        if name in content.DESCRIPTOR.fields_by_name:
            content.ClearField(name)
    digest = hashlib.sha256(content.DESCRIPTOR.full_name.encode() + b"\0")
    digest.update(content.SerializeToString(deterministic=True))
    return digest.digest()


def check_key(request_id: str) -> str:
    """A sound request id as it came.

    Raises:
        InvalidArgument: it is longer than 128 characters, or not printable ASCII.
    """
    if len(request_id) > KEY_LENGTH_MAX or not (request_id.isascii() and request_id.isprintable()):
        raise invalid_field("request_id", f"must be at most {KEY_LENGTH_MAX} printable ASCII characters")
    return request_id


def check_repeat(stored: bytes, repeated: bytes) -> None:
    """Whether a request that came under a known request id is the same as the first one.

    Raises:
        IdempotencyMismatch: it is another one.
    """
    if stored != repeated:
        raise IdempotencyMismatch("this request id was used before for another request")
