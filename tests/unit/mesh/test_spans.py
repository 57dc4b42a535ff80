"""Spans of stored work. In memory: what a collector gets is the concern of test_tracing."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.mesh import spans

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What is sent while the process sends spans."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_TRACER", provider.get_tracer("test"))
    spans.switch(is_on=True)
    yield exporter
    spans.switch(is_on=False)
    provider.shutdown()


def _trace_of(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    assert span.parent is not None
    return f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}"


def test_nothing_is_known_of_a_trace_outside_of_one() -> None:
    assert spans.traceparent() == ""


def test_work_that_sends_no_spans_hands_its_trace_on() -> None:
    with spans.resumed(PARENT, "turn", {}):
        assert spans.traceparent() == PARENT
    assert spans.traceparent() == ""


@pytest.mark.parametrize("stored", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_work_without_a_trace_has_none(stored: str) -> None:
    with spans.resumed(stored, "turn", {}):
        assert spans.traceparent() == ""


def test_stored_work_is_a_part_of_the_trace_that_it_was_asked_for_in(sent: InMemorySpanExporter) -> None:
    with spans.resumed(PARENT, "turn", {"parley.turn.attempt": 2}, waited_s=1.5):
        assert spans.traceparent().split("-")[1] == PARENT.split("-")[1]
        spans.note({"parley.turn.state": "failed"}, error="INTERNAL")
    wait, turn = sent.get_finished_spans()

    assert (wait.name, turn.name) == ("turn waits", "turn")
    assert _trace_of(wait) == _trace_of(turn) == tuple(PARENT.split("-")[1:3])
    assert turn.attributes == {"parley.turn.attempt": 2, "parley.turn.state": "failed"}
    assert turn.status.status_code is trace.StatusCode.ERROR
    assert wait.start_time is not None
    assert wait.end_time is not None
    assert wait.end_time - wait.start_time == 1_500_000_000


def test_question_ends_once(sent: InMemorySpanExporter) -> None:
    with spans.resumed(PARENT, "turn", {}):
        question = spans.Asked("chat m", {"a": "b"})
    question.ended({"c": 1}, error="cut")
    question.ended({"c": 2})
    turn, asked = sent.get_finished_spans()

    assert asked.attributes == {"a": "b", "c": 1}
    assert asked.status.description == "cut"
    assert turn.context is not None
    assert _trace_of(asked)[1] == f"{turn.context.span_id:016x}"


def test_question_of_a_process_that_sends_no_spans_is_none() -> None:
    spans.Asked("chat m", {}).ended({"c": 1}, error="cut")
    spans.note({"c": 1}, error="cut")
