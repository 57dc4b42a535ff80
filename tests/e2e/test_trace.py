"""One question, one trace: from the edge over the outbox, the queue and a worker to the provider's call."""

from collections.abc import Iterator, Mapping

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.collector import Collector
from tests.support.rest import Rest
from tests.support.stack import Stack
from tests.support.tenants import QUESTION, Tenant, registered_tenant
from tests.support.waiting import wait_until

CREATE = "POST parley.conversation.v1.TurnService.CreateTurn"
THEIRS = "0af7651916cd43dd8448eb211c80319c"
WANTED = {
    ("parley-edge", CREATE),
    ("parley-conversation", "parley.conversation.v1.TurnService/CreateTurn"),
    ("parley-conversation", "turn waits"),
    ("parley-conversation", "turn"),
    ("parley-retrieval", "parley.retrieval.v1.SearchService/Search"),
    ("parley-inference", "parley.inference.v1.GenerationService/StreamGenerate"),
    ("parley-inference", "chat quick"),
}


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> Iterator[Tenant]:
    with registered_tenant(stack, "traced") as made:
        yield made


@pytest.fixture(scope="module")
def trace(collector: Collector, tenant: Tenant) -> Mapping[tuple[str, str], Span]:
    """The spans of a turn's trace by service and name."""
    with Rest(tenant.url, tenant.api_key) as rest:
        settings = {"model": "scripted/quick", "knowledge_base_id": tenant.ids["knowledge_base_id"]}
        settings["retrieval_mode"] = "always"
        conversation = rest.post("/api/v1/conversations", settings)
        headers = {"traceparent": f"00-{THEIRS}-b7ad6b7169203331-01"}
        path = f"/api/v1/conversations/{conversation['id']}/turns"
        turn = rest.post(path, {"new": {"text": QUESTION}}, **headers)
    found: dict[tuple[str, str], Span] = {}

    def is_whole() -> bool:
        sent = collector.spans()
        ours = {span.trace_id for _, span in sent if _attributes(span).get("parley.turn.id") == turn["id"]}
        found.update({(service, span.name): span for service, span in sent if span.trace_id in ours})
        return found.keys() >= WANTED

    wait_until(is_whole, within_s=90)
    return found


def _attributes(span: Span) -> Mapping[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}


def test_one_trace_leads_from_the_edge_to_the_provider(trace: Mapping[tuple[str, str], Span]) -> None:
    spans = {name: span for (_, name), span in trace.items()}
    by_id = {span.span_id: span for span in trace.values()}
    assert len({span.trace_id for span in trace.values()}) == 1
    assert spans[CREATE].parent_span_id == b""
    for _, name in WANTED:
        above, names = spans[name], [name]
        while above.parent_span_id:
            above = by_id[above.parent_span_id]
            names.append(above.name)
        assert names[-1] == CREATE, names


def test_provider_is_asked_in_the_words_of_the_conventions(trace: Mapping[tuple[str, str], Span]) -> None:
    told = _attributes(trace["parley-inference", "chat quick"])

    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "scripted"
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (5, 2)


def test_trace_of_the_client_is_a_link_and_not_the_parent(trace: Mapping[tuple[str, str], Span]) -> None:
    span = trace["parley-edge", CREATE]

    assert [link.trace_id.hex() for link in span.links] == [THEIRS]
    assert span.trace_id.hex() != THEIRS


@pytest.mark.usefixtures("trace")
def test_nothing_is_sent_below_the_trace_of_a_client(collector: Collector) -> None:
    assert THEIRS not in {span.trace_id.hex() for _, span in collector.spans()}


@pytest.mark.usefixtures("trace")
def test_spans_hold_nothing_of_what_was_said(collector: Collector) -> None:
    everything = b"".join(collector.requests)

    assert QUESTION.encode() not in everything
    assert b"Hello world." not in everything
