"""What models were given to read, and prompts that conversations name, to the wire and from it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from parley.conversation.v1 import conversation_pb2, message_pb2
from parley.inference.v1 import generation_pb2, prompt_pb2
from services.conversation.context import ContextPart, ContextReport, Omission, OmissionReason, PromptReference
from services.mesh.errors import invalid_field

PARTS: Final[Mapping[ContextPart, "message_pb2.ContextPart.ValueType"]] = MappingProxyType(
    {
        ContextPart.MESSAGES: message_pb2.CONTEXT_PART_MESSAGES,
        ContextPart.PASSAGES: message_pb2.CONTEXT_PART_PASSAGES,
        ContextPart.SUMMARY: message_pb2.CONTEXT_PART_SUMMARY,
    }
)
REASONS: Final[Mapping[OmissionReason, "message_pb2.OmissionReason.ValueType"]] = MappingProxyType(
    {
        OmissionReason.BUDGET: message_pb2.OMISSION_REASON_BUDGET,
        OmissionReason.EMPTY: message_pb2.OMISSION_REASON_EMPTY,
        OmissionReason.DETACHED: message_pb2.OMISSION_REASON_DETACHED,
        OmissionReason.SUMMARISED: message_pb2.OMISSION_REASON_SUMMARISED,
        OmissionReason.LIMIT: message_pb2.OMISSION_REASON_LIMIT,
    }
)
_PARTS_TOLD: Final[Mapping["generation_pb2.ContextPart.ValueType", ContextPart]] = MappingProxyType(
    {
        generation_pb2.CONTEXT_PART_MESSAGES: ContextPart.MESSAGES,
        generation_pb2.CONTEXT_PART_PASSAGES: ContextPart.PASSAGES,
        generation_pb2.CONTEXT_PART_SUMMARY: ContextPart.SUMMARY,
    }
)
_REASONS_TOLD: Final[Mapping["generation_pb2.OmissionReason.ValueType", OmissionReason]] = MappingProxyType(
    {
        generation_pb2.OMISSION_REASON_BUDGET: OmissionReason.BUDGET,
        generation_pb2.OMISSION_REASON_EMPTY: OmissionReason.EMPTY,
        generation_pb2.OMISSION_REASON_DETACHED: OmissionReason.DETACHED,
    }
)


def context_to_wire(context: ContextReport) -> message_pb2.ContextReport:
    """What a model was given to read."""
    return message_pb2.ContextReport(
        system_tokens=context.system_tokens,
        example_tokens=context.example_tokens,
        history_tokens=context.history_tokens,
        passage_tokens=context.passage_tokens,
        summary_tokens=context.summary_tokens,
        summary_id=context.summary_id,
        messages_summarised=context.messages_summarised,
        omissions=[
            message_pb2.ContextOmission(part=PARTS[one.part], reason=REASONS[one.reason], count=one.count)
            for one in context.omissions
        ],
        prompt_revision=context.prompt_revision,
        examples_unranked=context.examples_unranked,
    )


def context_told(given: generation_pb2.ContextReport, *, prompt_revision: str) -> ContextReport:
    """Inference's word on what it gave a model; of what a newer inference leaves out, this one knows no name."""
    return ContextReport(
        system_tokens=given.system_tokens,
        example_tokens=given.example_tokens,
        history_tokens=given.history_tokens,
        passage_tokens=given.passage_tokens,
        summary_tokens=given.summary_tokens,
        omissions=tuple(
            Omission(_PARTS_TOLD[one.part], _REASONS_TOLD[one.reason], one.count)
            for one in given.omissions
            if one.part in _PARTS_TOLD and one.reason in _REASONS_TOLD
        ),
        prompt_revision=prompt_revision,
        examples_unranked=given.examples_unranked,
    )


def reference_of(reference: conversation_pb2.PromptReference) -> PromptReference:
    """A prompt that a conversation names. Raises InvalidArgument when it keeps to no bound."""
    has_revision = reference.WhichOneof("version") == "revision"
    if has_revision and reference.revision < 1:
        raise invalid_field("prompt.revision", "1 or more")
    return PromptReference(
        prompt=reference.prompt,
        alias=reference.alias,
        revision=reference.revision,
        variables=tuple(sorted(reference.variables.items())),
    )


def reference_to_wire(reference: PromptReference) -> conversation_pb2.PromptReference:
    """A prompt that a conversation names."""
    shown = conversation_pb2.PromptReference(prompt=reference.prompt, variables=dict(reference.variables))
    if reference.revision:
        shown.revision = reference.revision
    elif reference.alias:
        shown.alias = reference.alias
    return shown


def reference_to_inference(reference: PromptReference) -> prompt_pb2.PromptReference:
    """The same, in the words of inference."""
    wanted = prompt_pb2.PromptReference(prompt=reference.prompt, variables=dict(reference.variables))
    if reference.revision:
        wanted.revision = reference.revision
    elif reference.alias:
        wanted.alias = reference.alias
    return wanted
