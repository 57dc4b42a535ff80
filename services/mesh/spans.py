"""Spans of work that calls do not cover: what was stored and is done later, and what is asked of other systems.

Where no collector is named nothing is made, and a trace that began elsewhere is handed on all the same. What is costly
to load stands in `tracing.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import time_ns
from typing import Final

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_KEY: Final = "traceparent"
_TRACER: Final = trace.get_tracer("parley.mesh")


class _Switch:
    """Whether this process sends spans; asked on every call, so it is one attribute and not a look at the library."""

    is_on = False


def switch(*, is_on: bool) -> None:
    """Said by `tracing.exporting`."""
    _Switch.is_on = is_on


def are_sent() -> bool:
    """Whether this process sends spans."""
    return _Switch.is_on


def traceparent() -> str:
    """The trace that the work at hand belongs to, as W3C writes it; empty where it belongs to none."""
    if not trace.get_current_span().get_span_context().is_valid:
        return ""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(_KEY, "")


@contextmanager
def resumed(stored: str, name: str, attributes: Attributes, *, waited_s: float | None = None) -> Iterator[None]:
    """Does work that was stored with a `traceparent`, as a part of that trace.

    Args:
        stored: what `traceparent` gave; empty for work that belongs to no trace.
        name: of the span.
        attributes: of the span.
        waited_s: for how long the work has waited: shown as a span of its own, which ends now.
    """
    if not stored and not _Switch.is_on:
        yield
        return
    parent = _PROPAGATOR.extract({_KEY: stored}) if stored else context.Context()
    if not _Switch.is_on:
        token = context.attach(parent)
        try:
            yield
        finally:
            context.detach(token)
        return
    if waited_s is not None:
        now = time_ns()
        _TRACER.start_span(f"{name} waits", parent, start_time=now - int(waited_s * 1e9)).end(now)
    with _TRACER.start_as_current_span(
        name,
        parent,
        kind=trace.SpanKind.CONSUMER,
        attributes=attributes,
        record_exception=False,  # its text may hold what must not leave the process
        set_status_on_exception=False,
    ):
        yield


def note(attributes: Attributes, *, error: str = "") -> None:
    """Says something of the work at hand, and that it failed; costs nothing where no span is made."""
    if not _Switch.is_on:
        return
    span = trace.get_current_span()
    span.set_attributes(attributes)
    if error:
        span.set_status(trace.StatusCode.ERROR, error)


class Asked:
    """A question to another system, from its sending to its end.

    Never the current span: it may be asked in a generator, whose caller's context is not its own.
    """

    __slots__ = ("_span",)

    def __init__(self, name: str, attributes: Attributes) -> None:
        self._span: trace.Span | None = None
        if _Switch.is_on:
            self._span = _TRACER.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)

    def ended(self, attributes: Attributes, *, error: str = "") -> None:
        """It has ended; what comes later is not heard."""
        if self._span is None:
            return
        self._span.set_attributes(attributes)
        if error:
            self._span.set_status(trace.StatusCode.ERROR, error)
        self._span.end()
        self._span = None
