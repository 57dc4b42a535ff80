"""What fakes of services share: methods that are left out, and an instant."""

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from services.mesh.errors import Unimplemented
from services.mesh.instants import timestamp
from services.mesh.rpc import RpcContext

T = TypeVar("T")


def serving(contract: type) -> Callable[[type[T]], type[T]]:
    """Methods of the contract that a fake leaves out answer UNIMPLEMENTED."""

    async def missing(_self: object, _request: object, _context: RpcContext) -> Any:  # Any: never returns
        raise Unimplemented

    def complete(kind: type[T]) -> type[T]:
        for name, _ in inspect.getmembers(contract, inspect.isfunction):
            if name[0].isupper() and not hasattr(kind, name):
                setattr(kind, name, missing)
        return kind

    return complete


def now() -> Timestamp:
    return timestamp(datetime(2026, 1, 31, 9, 30, tzinfo=UTC))
