import pytest
from google.protobuf.wrappers_pb2 import StringValue

from services.mesh.client import unary
from services.mesh.telemetry import REGISTRY
from tests.support.echo import SERVICE, echo_stub
from tests.support.tokens import Issuer


@pytest.mark.parametrize(("caller", "label"), [("edge", "edge"), (None, "none")])
async def test_calls_are_counted_by_the_workload_that_makes_them(caller: str | None, label: str) -> None:
    labels = {"caller": label, "service": SERVICE, "code": "OK"}
    before = REGISTRY.get_sample_value("parley_mesh_rpc_calls_total", labels) or 0.0
    issuer = Issuer()
    async with echo_stub(verifier=issuer.verifier()) as stub:
        metadata = issuer.metadata(scopes=["echo:read"], caller=caller)
        await unary(stub.unary("Echo")(StringValue(value="hello"), metadata=metadata))

    assert REGISTRY.get_sample_value("parley_mesh_rpc_calls_total", labels) == before + 1
