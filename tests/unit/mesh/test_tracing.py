"""Spans as a collector gets them. In a process of its own: OpenTelemetry has one tracer provider per process."""

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

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


class Collector:
    def __init__(self) -> None:
        self.requests: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.requests.append(
                    gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                )
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def run_against(url: str) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, url], check=True, capture_output=True, timeout=60)


def test_span_of_a_call_is_a_child_of_the_callers_and_holds_no_content(collector: Collector) -> None:
    run_against(collector.url)
    spans = [
        span
        for body in collector.requests
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    by_name = {span.name: span for span in spans}
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
