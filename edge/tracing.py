"""A span per request, the root of its trace.

A client's own `traceparent` becomes a link, not the parent: who is outside must decide neither what is sent to the
collector nor under which id.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from services.mesh import spans

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACER: Final = trace.get_tracer("parley.edge")
_KEY: Final = b"traceparent"
_SERVER_ERROR: Final = 500


@contextmanager
def traced(scope: Scope, request_id: str, method: str) -> Iterator[trace.Span | None]:
    """The request's span while the body runs; None where this process sends none."""
    if not spans.are_sent():
        yield None
        return
    with _TRACER.start_as_current_span(
        method,
        context.Context(),
        kind=trace.SpanKind.SERVER,
        attributes={"http.request.method": method, "parley.request_id": request_id},
        links=_links(scope),
        record_exception=False,  # its text may hold what must not leave the process
        set_status_on_exception=False,
    ) as span:
        yield span


def answered(span: trace.Span | None, *, method: str, route: str, status: int, reason: str) -> None:
    """Names the span by what answered; its names follow OpenTelemetry's conventions for HTTP."""
    if span is None:
        return
    span.update_name(f"{method} {route}")
    span.set_attributes({"http.route": route, "http.response.status_code": status})
    if reason:
        span.set_attribute("error.type", reason)
    if status >= _SERVER_ERROR:
        span.set_status(trace.StatusCode.ERROR, reason)


def _links(scope: Scope) -> list[trace.Link]:
    carrier = dict(_decoded(scope))
    theirs = trace.get_current_span(_PROPAGATOR.extract(carrier, context.Context())).get_span_context()
    return [trace.Link(theirs)] if theirs.is_valid else []


def _decoded(scope: Scope) -> Iterator[tuple[str, str]]:
    for name, value in scope["headers"]:
        if name == _KEY:
            yield name.decode(), value.decode("latin-1")
