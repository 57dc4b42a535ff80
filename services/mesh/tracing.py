"""Where spans go: to an OTLP/HTTP collector when the operator names one, else nowhere."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from services.mesh import spans
from services.mesh.settings import MeshSettings

QUEUE_MAX: Final = 2_048
"""Spans that wait for the collector; when it is away, newer ones are dropped rather than memory eaten."""
EXPORT_TIMEOUT_S: Final = 5.0
ATTRIBUTE_LENGTH_MAX: Final = 1_024


@contextmanager
def exporting(settings: MeshSettings, *, service: str) -> Iterator[None]:
    """Exports the spans of the body, and sends the last ones on leaving, within `EXPORT_TIMEOUT_S`."""
    if not settings.otlp_endpoint:
        yield
        return
    with _forgetting_forks():
        provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: f"parley-{service}"}),
            span_limits=SpanLimits(max_attribute_length=ATTRIBUTE_LENGTH_MAX),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(
            endpoint=settings.otlp_endpoint.rstrip("/") + "/v1/traces", timeout=int(EXPORT_TIMEOUT_S)
        )
        provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=QUEUE_MAX, export_timeout_millis=EXPORT_TIMEOUT_S * 1_000)
        )
    trace.set_tracer_provider(provider)
    spans.switch(is_on=True)
    try:
        yield
    finally:
        spans.switch(is_on=False)
        provider.shutdown()


@contextmanager
def _forgetting_forks() -> Iterator[None]:
    """What the library makes in the body does nothing in children.

    It would start its threads again in every child, between fork and exec: of 25 children in which retrieval wanted to
    read a document, 12 died of that. Children of ours become other programs, which send no spans.
    """
    register = os.register_at_fork

    def ignore(
        *,
        before: Callable[[], object] | None = None,
        after_in_parent: Callable[[], object] | None = None,
        after_in_child: Callable[[], object] | None = None,
    ) -> None:
        """Stands in for `os.register_at_fork`."""

    os.register_at_fork = ignore
    try:
        yield
    finally:
        os.register_at_fork = register
