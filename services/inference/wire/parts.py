"""Translates parts, tools and formats between the contract and the model."""

from collections.abc import Mapping
from typing import Final, assert_never

from parley.inference.v1 import generation_pb2
from services.inference.parts import (
    AnswerFormat,
    Image,
    Part,
    Reasoning,
    ReasoningMode,
    ReasoningWish,
    Refusal,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
)
from services.mesh.errors import invalid_field

_TOOL_MODES: Final[Mapping[generation_pb2.ToolMode.ValueType, ToolMode]] = {
    generation_pb2.TOOL_MODE_AUTO: ToolMode.AUTO,
    generation_pb2.TOOL_MODE_NONE: ToolMode.NONE,
    generation_pb2.TOOL_MODE_REQUIRED: ToolMode.REQUIRED,
    generation_pb2.TOOL_MODE_NAMED: ToolMode.NAMED,
}
_REASONING_MODES: Final[Mapping[generation_pb2.ReasoningMode.ValueType, ReasoningMode]] = {
    generation_pb2.REASONING_MODE_OFF: ReasoningMode.OFF,
    generation_pb2.REASONING_MODE_ADAPTIVE: ReasoningMode.ADAPTIVE,
    generation_pb2.REASONING_MODE_BUDGET: ReasoningMode.BUDGET,
}


def part(message: generation_pb2.Part) -> Part:
    """A part of a message.

    Raises:
        InvalidArgument: it is of no kind, or does not keep to the contract.
    """
    match message.WhichOneof("kind"):
        case "text":
            return TextPart(message.text)
        case "image":
            return _image(message.image)
        case "tool_call":
            call = message.tool_call
            return ToolCall(id=call.id, name=call.name, arguments=call.arguments)
        case "tool_result":
            result = message.tool_result
            return ToolResult(
                call_id=result.call_id,
                parts=tuple(_shown(piece) for piece in result.parts),
                is_error=result.is_error,
            )
        case "reasoning":
            thought = message.reasoning
            return Reasoning(text=thought.text, signature=thought.signature, encrypted=thought.encrypted)
        case "refusal":
            return Refusal(message.refusal)
    raise invalid_field("prompt.messages", "must not hold a part without content")


def to_part(part: Part) -> generation_pb2.Part:
    """A part of an answer, or a piece of one."""
    match part:
        case TextPart(text):
            return generation_pb2.Part(text=text)
        case Refusal(text):
            return generation_pb2.Part(refusal=text)
        case Image():
            return generation_pb2.Part(image=_to_image(part))
        case ToolCall():
            call = generation_pb2.ToolCall(id=part.id, name=part.name, arguments=part.arguments)
            return generation_pb2.Part(tool_call=call)
        case ToolResult():
            pieces = [_to_shown(piece) for piece in part.parts]
            result = generation_pb2.ToolResult(call_id=part.call_id, parts=pieces, is_error=part.is_error)
            return generation_pb2.Part(tool_result=result)
        case Reasoning():
            thought = generation_pb2.Reasoning(text=part.text, signature=part.signature, encrypted=part.encrypted)
            return generation_pb2.Part(reasoning=thought)
        case _:
            assert_never(part)


def tool(message: generation_pb2.Tool) -> Tool:
    """A tool.

    Raises:
        InvalidArgument: its name is empty or too long.
    """
    return Tool(
        name=message.name,
        description=message.description,
        input_schema=message.input_schema,
        is_strict=message.is_strict if message.HasField("is_strict") else None,
    )


def tool_choice(message: generation_pb2.ToolChoice) -> ToolChoice:
    """Whether tools must be called.

    Raises:
        InvalidArgument: mode and name do not go together.
    """
    return ToolChoice(
        mode=_TOOL_MODES.get(message.mode),
        name=message.name,
        is_parallel=message.is_parallel if message.HasField("is_parallel") else None,
    )


def answer_format(message: generation_pb2.AnswerFormat) -> AnswerFormat:
    """What the answer is bound to."""
    return AnswerFormat(
        json_schema=message.json_schema,
        name=message.name,
        description=message.description,
        is_strict=message.is_strict if message.HasField("is_strict") else None,
    )


def reasoning_wish(message: generation_pb2.ReasoningWish) -> ReasoningWish:
    """How much the model shall think.

    Raises:
        InvalidArgument: a value is none of the contract's.
    """
    return ReasoningWish(
        mode=_REASONING_MODES.get(message.mode),
        effort=message.effort,
        tokens_max=message.tokens_max,
        display=message.display,
    )


def _shown(message: generation_pb2.ToolResultPart) -> TextPart | Image:
    match message.WhichOneof("kind"):
        case "text":
            return TextPart(message.text)
        case "image":
            return _image(message.image)
    raise invalid_field("prompt.messages", "must not hold a part without content")


def _to_shown(piece: TextPart | Image) -> generation_pb2.ToolResultPart:
    if isinstance(piece, TextPart):
        return generation_pb2.ToolResultPart(text=piece.text)
    return generation_pb2.ToolResultPart(image=_to_image(piece))


def _image(image: generation_pb2.Image) -> Image:
    return Image(media_type=image.media_type, data=image.data, url=image.url, detail=image.detail)


def _to_image(image: Image) -> generation_pb2.Image:
    return generation_pb2.Image(media_type=image.media_type, data=image.data, url=image.url, detail=image.detail)
