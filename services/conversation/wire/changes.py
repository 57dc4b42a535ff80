"""Settings of conversations from requests that create or change them."""

from typing import Final

from parley.conversation.v1 import conversation_pb2, conversation_service_pb2
from services.conversation.context import PromptReference
from services.conversation.model import ConversationSettings, Example, RetrievalMode
from services.conversation.wire.context import reference_of
from services.conversation.wire.resources import example_of, mode_of
from services.mesh.errors import invalid_field

_SETTINGS: Final = ("title", "model", "system_prompt", "examples", "knowledge_base_id", "retrieval_mode", "prompt")


def settings_of(request: conversation_service_pb2.CreateConversationRequest) -> ConversationSettings:
    """The settings of a new conversation. Raises InvalidArgument."""
    return ConversationSettings(
        title=request.title,
        model=request.model,
        system_prompt=request.system_prompt,
        examples=tuple(example_of(example) for example in request.examples),
        knowledge_base_id=request.knowledge_base_id,
        retrieval_mode=mode_of(request.retrieval_mode, "retrieval_mode") or RetrievalMode.SELECTIVE,
        prompt=reference_of(request.prompt) if request.HasField("prompt") else None,
    )


def changes_of(request: conversation_service_pb2.UpdateConversationRequest) -> dict[str, object]:
    """New values by the names of the settings: those of the mask, or those that the body holds.

    Raises:
        InvalidArgument: the mask names something that cannot be changed.
    """
    body = request.conversation
    if not request.HasField("update_mask"):
        held = {field.name for field, _ in body.ListFields()}
        return {name: _value(body, name) for name in _SETTINGS if name in held}
    for index, path in enumerate(request.update_mask.paths):
        if path not in _SETTINGS:
            raise invalid_field(f"update_mask.paths[{index}]", "one of " + ", ".join(_SETTINGS))
    return {name: _value(body, name) for name in request.update_mask.paths}


def _value(
    body: conversation_pb2.Conversation, name: str
) -> str | RetrievalMode | tuple[Example, ...] | PromptReference | None:
    if name == "examples":
        return tuple(example_of(example) for example in body.examples)
    if name == "retrieval_mode":
        return mode_of(body.retrieval_mode, "conversation.retrieval_mode") or RetrievalMode.SELECTIVE
    if name == "prompt":
        return reference_of(body.prompt) if body.HasField("prompt") else None
    return str(getattr(body, name))
