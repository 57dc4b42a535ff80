"""Spans as a collector gets them. In a process of its own: OpenTelemetry has one tracer provider per process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.collector import Collector, collecting

ROOT = Path(__file__).parents[3]
SCRIPT = f"""
import asyncio, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "generated")!r}]
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry import trace
from services.mesh.client import unary
from services.mesh.settings import MeshSettings
from services.mesh.tracing import exporting
from tests.support.echo import echo_stub

async def broken(request, call):
    raise RuntimeError("hunter2")

async def main():
    async with echo_stub(Shout=broken) as stub:
        with trace.get_tracer("test").start_as_current_span("caller"):
            await unary(stub.unary("Hello")(StringValue(value="what the user wrote")))
            try:
                await unary(stub.unary("Shout")(StringValue(value="what the user wrote")))
            except Exception:
                pass

with exporting(MeshSettings(otlp_endpoint=sys.argv[1]), service="echo"):
    asyncio.run(main())
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def run_against(url: str) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, url], check=True, capture_output=True, timeout=60)


def test_span_of_a_call_is_a_child_of_the_callers_and_holds_no_content(collector: Collector) -> None:
    run_against(collector.url)
    by_name = {span.name: span for _, span in collector.spans()}
    caller = by_name["caller"]
    served = by_name["parley.testing.v1.EchoService/Hello"]
    assert (served.trace_id, served.parent_span_id) == (caller.trace_id, caller.span_id)
    failed = by_name["parley.testing.v1.EchoService/Shout"]
    codes = [item.value.string_value for item in failed.attributes if item.key == "rpc.grpc.status_code_name"]
    assert codes == ["INTERNAL"]
    assert b"hunter2" not in b"".join(collector.requests)
    assert b"what the user wrote" not in b"".join(collector.requests)


def test_collector_that_is_away_disturbs_nobody() -> None:
    run_against("http://127.0.0.1:1")
