"""Writes answers, whole and event by event."""

from collections.abc import Iterable, Mapping
from typing import Final, assert_never

from parley.common.v1 import usage_pb2
from parley.inference.v1 import generation_pb2, generation_service_pb2
from services.inference.model import (
    Answer,
    ContextReport,
    Event,
    Finished,
    FinishReason,
    PassageCitation,
    ProviderSwitched,
    Started,
    TextDelta,
    Usage,
)
from services.inference.omissions import ContextPart, Omission, OmissionReason
from services.inference.parts import PartDelta
from services.inference.wire import caching
from services.inference.wire import parts as wire_parts

_FINISH_REASONS: Final[Mapping[FinishReason, generation_pb2.FinishReason.ValueType]] = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CONTENT_FILTER: generation_pb2.FINISH_REASON_CONTENT_FILTER,
    FinishReason.NO_EVIDENCE: generation_pb2.FINISH_REASON_NO_EVIDENCE,
    FinishReason.TOOL_CALLS: generation_pb2.FINISH_REASON_TOOL_CALLS,
}
_CONTEXT_PARTS: Final[Mapping[ContextPart, generation_pb2.ContextPart.ValueType]] = {
    ContextPart.MESSAGES: generation_pb2.CONTEXT_PART_MESSAGES,
    ContextPart.PASSAGES: generation_pb2.CONTEXT_PART_PASSAGES,
    ContextPart.SUMMARY: generation_pb2.CONTEXT_PART_SUMMARY,
}
_OMISSION_REASONS: Final[Mapping[OmissionReason, generation_pb2.OmissionReason.ValueType]] = {
    OmissionReason.BUDGET: generation_pb2.OMISSION_REASON_BUDGET,
    OmissionReason.EMPTY: generation_pb2.OMISSION_REASON_EMPTY,
    OmissionReason.DETACHED: generation_pb2.OMISSION_REASON_DETACHED,
}


def to_events(events: Iterable[Event]) -> generation_service_pb2.StreamGenerateResponse:
    """Events that travel together."""
    return generation_service_pb2.StreamGenerateResponse(events=[_to_event(event) for event in events])


def to_answer(answer: Answer) -> generation_pb2.Answer:
    """A whole answer."""
    return generation_pb2.Answer(
        text=answer.text,
        citations=[_to_citation(citation) for citation in answer.citations],
        finish_reason=_FINISH_REASONS[answer.finish_reason],
        model=answer.model,
        usage=_to_usage(answer.usage),
        context=_to_context(answer.context),
        parts=[wire_parts.to_part(part) for part in answer.parts],
        stop_text=answer.stop_text,
        refusal_category=answer.refusal_category,
        cache=caching.to_hit(answer.cache),
        prompt_revision=answer.prompt_revision,
    )


def _to_event(event: Event) -> generation_service_pb2.GenerateEvent:
    match event:
        case TextDelta(offset, text, is_refusal):
            delta = generation_service_pb2.TextDelta(offset=offset, text=text, is_refusal=is_refusal)
            return generation_service_pb2.GenerateEvent(text=delta)
        case PartDelta(number=number, piece=piece):
            part = generation_service_pb2.PartDelta(number=number, piece=wire_parts.to_part(piece))
            return generation_service_pb2.GenerateEvent(part=part)
        case PassageCitation():
            return generation_service_pb2.GenerateEvent(citation=_to_citation(event))
        case Started():
            return generation_service_pb2.GenerateEvent(
                started=generation_service_pb2.Started(
                    model=event.model,
                    context=_to_context(event.context),
                    cache=caching.to_hit(event.cache),
                    offset=event.offset,
                    prompt_revision=event.prompt_revision,
                )
            )
        case ProviderSwitched():
            return generation_service_pb2.GenerateEvent(
                provider_switched=generation_service_pb2.ProviderSwitched(
                    from_model=event.from_model, to_model=event.to_model, reason=event.reason, offset=event.offset
                )
            )
        case Finished(answer):
            return generation_service_pb2.GenerateEvent(
                finished=generation_service_pb2.Finished(answer=to_answer(answer))
            )
        case _:
            assert_never(event)


def _to_citation(citation: PassageCitation) -> generation_pb2.PassageCitation:
    return generation_pb2.PassageCitation(
        passage=citation.passage,
        start=citation.start,
        end=citation.end,
        source_start=citation.source_start,
        source_end=citation.source_end,
    )


def _to_usage(usage: Usage) -> usage_pb2.Usage:
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_micros=usage.cost_micros,
        estimated=usage.estimated,
    )


def _to_context(report: ContextReport) -> generation_pb2.ContextReport:
    return generation_pb2.ContextReport(
        system_tokens=report.system_tokens,
        example_tokens=report.example_tokens,
        history_tokens=report.history_tokens,
        passage_tokens=report.passage_tokens,
        messages_dropped=report.messages_dropped,
        passages_dropped=report.passages_dropped,
        summary_tokens=report.summary_tokens,
        omissions=[_to_omission(omission) for omission in report.omissions],
        examples_unranked=report.examples_unranked,
    )


def _to_omission(omission: Omission) -> generation_pb2.ContextOmission:
    return generation_pb2.ContextOmission(
        part=_CONTEXT_PARTS[omission.part], reason=_OMISSION_REASONS[omission.reason], count=omission.count
    )
