"""The messages of a talk: Anthropic's content blocks, as the parts that a model reads."""

from typing import Final

from edge.compat.body import Body, at, decoded
from edge.transcoding.scalars import Misfit
from parley.inference.v1 import generation_pb2
from parley.inference.v1.generation_pb2 import Part

MESSAGES_MAX: Final = 1_000

_ROLES: Final = {"user": generation_pb2.ROLE_USER, "assistant": generation_pb2.ROLE_ASSISTANT}
_KINDS: Final = {
    "user": frozenset({"text", "image", "tool_result"}),
    "assistant": frozenset({"text", "tool_use", "thinking", "redacted_thinking"}),
}
_TEXT: Final = frozenset({"text"})
_RESULT: Final = frozenset({"text", "image"})


def read_messages(body: Body) -> generation_pb2.Prompt:
    """What was said, system text apart.

    Raises:
        Misfit: a message cannot be served; its block is named.
    """
    given = body.items("messages")
    if not 0 < len(given) <= MESSAGES_MAX:
        raise Misfit(f"must be a list of 1 to {MESSAGES_MAX} messages", "messages")
    system = [_text(_content(body, "system", _TEXT))] if body.take("system") is not None else []
    prompt = generation_pb2.Prompt()
    for index, item in enumerate(given):
        with at(index, "messages"):
            message = Body(item)
            role = message.text("role") or ""
            if role == "system":
                system.append(_text(_content(message, "content", _TEXT)))
            elif role in _ROLES:
                prompt.messages.append(_message(_ROLES[role], _content(message, "content", _KINDS[role])))
            else:
                raise Misfit("must be `user` or `assistant`", "role")
    if not prompt.messages:
        raise Misfit("must hold a message of the user", "messages")
    prompt.system = "\n\n".join(text for text in system if text)
    return prompt


def _message(role: generation_pb2.Role.ValueType, parts: list[Part]) -> generation_pb2.PromptMessage:
    if len(parts) == 1 and parts[0].HasField("text"):
        return generation_pb2.PromptMessage(role=role, text=parts[0].text)
    return generation_pb2.PromptMessage(role=role, parts=parts)


def _text(parts: list[Part]) -> str:
    return "\n\n".join(part.text for part in parts)


def _content(owner: Body, name: str, kinds: frozenset[str]) -> list[Part]:
    content = owner.take(name)
    if type(content) is str:
        return [Part(text=owner.required_text(name))]
    if type(content) is not list or not content:
        raise Misfit("must be a string or a list of blocks", name)
    parts: list[Part] = []
    for index, item in enumerate(content):
        with at(index, name):
            parts.append(_block(Body(item), kinds))
    return parts


def _block(block: Body, kinds: frozenset[str]) -> Part:
    kind = block.text("type")
    if kind is None:
        raise Misfit("must have a type", "type")
    if kind not in kinds:
        raise Misfit(f"is not supported here: blocks are {' or '.join(sorted(kinds))}", "type")
    match kind:
        case "text":
            return Part(text=block.required_text("text"))
        case "image":
            return Part(image=_image(block.inner("source")))
        case "tool_result":
            return Part(tool_result=_result(block))
        case "tool_use":
            return Part(tool_call=_call(block))
    return Part(reasoning=_thought(block, kind))


def _call(block: Body) -> generation_pb2.ToolCall:
    return generation_pb2.ToolCall(
        id=block.required_text("id"), name=block.required_text("name"), arguments=block.json_text("input") or "{}"
    )


def _thought(block: Body, kind: str) -> generation_pb2.Reasoning:
    if kind == "thinking":
        return generation_pb2.Reasoning(
            text=block.required_text("thinking"), signature=block.required_text("signature")
        )
    return generation_pb2.Reasoning(encrypted=block.required_text("data"))


def _result(block: Body) -> generation_pb2.ToolResult:
    given = block.take("content")
    parts = _content(block, "content", _RESULT) if given is not None and given != [] else []
    return generation_pb2.ToolResult(
        call_id=block.required_text("tool_use_id"),
        parts=[_shown(part) for part in parts],
        is_error=block.flag("is_error") or False,
    )


def _shown(part: Part) -> generation_pb2.ToolResultPart:
    if part.HasField("image"):
        return generation_pb2.ToolResultPart(image=part.image)
    return generation_pb2.ToolResultPart(text=part.text)


def _image(source: Body | None) -> generation_pb2.Image:
    if source is None:
        raise Misfit("must be an object", "source")
    with at("source"):
        match source.text("type"):
            case "base64":
                media_type, data = source.required_text("media_type"), source.required_text("data")
                return generation_pb2.Image(media_type=media_type, data=decoded(data, "data"))
            case "url":
                return generation_pb2.Image(url=source.required_text("url"))
        raise Misfit("must be `base64` or `url`", "type")
