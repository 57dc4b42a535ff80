"""Clients that stream: a refusal reaches them whole, however much they still send."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from services.mesh.client import unary
from services.mesh.errors import InvalidArgument
from services.mesh.interceptors import errors
from services.mesh.rpc import RpcContext
from tests.support.echo import echo_stub

PIECE = StringValue(value="x" * 65_536)
PIECES = 64


async def refuse(requests: AsyncIterator[StringValue], _context: RpcContext) -> StringValue:
    await anext(aiter(requests))
    raise InvalidArgument("as it begins")


async def test_what_follows_a_refusal_is_read_before_the_refusal_is_told() -> None:
    sent = 0

    async def pieces() -> AsyncIterator[StringValue]:
        nonlocal sent
        for _ in range(PIECES):
            yield PIECE
            sent += 1

    async with echo_stub(Join=refuse) as stub:
        with pytest.raises(InvalidArgument, match="as it begins"):
            await unary(stub.join(pieces()))

    assert sent == PIECES


async def test_a_client_without_end_is_refused_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "READ_OUT_S_MAX", 0.05)

    async def silence() -> AsyncIterator[StringValue]:
        yield PIECE
        await asyncio.Event().wait()

    async with echo_stub(Join=refuse) as stub:
        with pytest.raises(InvalidArgument, match="as it begins"):
            await unary(stub.join(silence()))
