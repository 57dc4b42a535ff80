import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from services.mesh.client import open_channel, streaming, unary
from services.mesh.rpc import RpcContext, told
from services.mesh.settings import MeshSettings
from services.mesh.telemetry import REGISTRY
from tests.support.echo import CONTRACT, SERVICE, EchoStub, echo_server, echo_stub
from tests.support.tokens import Issuer
from tests.support.waiting import until


@pytest.mark.parametrize(("caller", "label"), [("edge", "edge"), (None, "none")])
async def test_calls_are_counted_by_the_workload_that_makes_them(caller: str | None, label: str) -> None:
    labels = {"caller": label, "service": SERVICE, "code": "OK"}
    before = REGISTRY.get_sample_value("parley_mesh_rpc_calls_total", labels) or 0.0
    issuer = Issuer()
    async with echo_stub(verifier=issuer.verifier()) as stub:
        metadata = issuer.metadata(scopes=["echo:read"], caller=caller)
        await unary(stub.unary("Echo")(StringValue(value="hello"), metadata=metadata))

    assert REGISTRY.get_sample_value("parley_mesh_rpc_calls_total", labels) == before + 1


@pytest.mark.parametrize(("is_last", "code"), [(True, "OK"), (False, "CANCELLED")])
@pytest.mark.parametrize("transport", ["grpc", "tunnel"])
async def test_call_whose_caller_leaves_has_succeeded_once_it_said_its_last_word(
    transport: Literal["grpc", "tunnel"],
    code: str,
    *,
    is_last: bool,
) -> None:
    async def split(request: StringValue, _context: RpcContext) -> AsyncIterator[StringValue]:
        if is_last:
            told()
        yield request
        await asyncio.Event().wait()

    def counted() -> float:
        labels = {"caller": "none", "service": SERVICE, "code": code}
        return REGISTRY.get_sample_value("parley_mesh_rpc_calls_total", labels) or 0.0

    before = counted()
    settings = MeshSettings(mesh_transport=transport)
    async with (
        echo_server(Split=split) as server,
        open_channel(f"127.0.0.1:{server.port}", [CONTRACT], settings) as channel,
    ):
        async with streaming(EchoStub(channel).split(StringValue(value="hello"))) as messages:
            await anext(aiter(messages))

        await until(lambda: counted() == before + 1, within_s=60)
