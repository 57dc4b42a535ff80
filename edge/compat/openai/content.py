"""The messages of a chat: OpenAI's roles and parts, as the messages that a model reads."""

from collections.abc import Iterable
from typing import Final

from edge.compat.body import Body, at, decoded
from edge.transcoding.scalars import Misfit
from parley.inference.v1 import generation_pb2
from parley.inference.v1.generation_pb2 import Part

MESSAGES_MAX: Final = 1_000

_SYSTEM: Final = frozenset({"system", "developer"})
_DATA: Final = "data:"


def read_messages(body: Body) -> generation_pb2.Prompt:
    """What was said: system text apart, results of tools in one message each time.

    Raises:
        Misfit: a message cannot be served; its part is named.
    """
    given = body.items("messages")
    if not 0 < len(given) <= MESSAGES_MAX:
        raise Misfit(f"must be a list of 1 to {MESSAGES_MAX} messages", "messages")
    system: list[str] = []
    prompt = generation_pb2.Prompt()
    is_after_tool = False
    for index, item in enumerate(given):
        with at(index, "messages"):
            message = Body(item)
            role = message.text("role")
            if role in _SYSTEM:
                system.append("".join(part.text for part in _content(message, {"text"})))
            elif role == "tool":
                if not is_after_tool:
                    prompt.messages.add(role=generation_pb2.ROLE_USER)
                prompt.messages[-1].parts.append(_result(message))
            else:
                prompt.messages.append(_said(message, role))
            is_after_tool = role == "tool"
    prompt.system = "\n\n".join(system)
    return prompt


def _said(message: Body, role: str | None) -> generation_pb2.PromptMessage:
    match role:
        case "user":
            return _message(generation_pb2.ROLE_USER, _content(message, {"text", "image_url"}))
        case "assistant":
            return _message(generation_pb2.ROLE_ASSISTANT, _assistant(message))
        case "function":
            raise Misfit("is not supported here: results of tools have the role `tool`", "role")
    raise Misfit("must be `system`, `developer`, `user`, `assistant` or `tool`", "role")


def _message(role: generation_pb2.Role.ValueType, parts: list[Part]) -> generation_pb2.PromptMessage:
    if all(part.HasField("text") for part in parts):
        return generation_pb2.PromptMessage(role=role, text="".join(part.text for part in parts))
    return generation_pb2.PromptMessage(role=role, parts=parts)


def _assistant(message: Body) -> list[Part]:
    for name in ("audio", "function_call"):
        if message.take(name):
            raise Misfit("is not supported here", name)
    parts = list(_thoughts(message))
    refusal, calls = message.text("refusal"), message.items("tool_calls")
    if message.take("content") is not None or not (refusal or calls):
        parts += _content(message, {"text", "refusal"})
    if refusal:
        parts.append(Part(refusal=refusal))
    for index, item in enumerate(calls):
        with at(index, "tool_calls"):
            parts.append(_call(Body(item)))
    return [part for part in parts if part.WhichOneof("kind") != "text" or part.text]


def _thoughts(message: Body) -> Iterable[Part]:
    """Thoughts as OpenRouter and DeepSeek write them; OpenAI's own format has none."""
    details, text = message.items("reasoning_details"), message.text("reasoning_content")
    for index, item in enumerate(details):
        with at(index, "reasoning_details"):
            detail = Body(item)
            thought = generation_pb2.Reasoning(
                text=detail.text("text") or detail.text("summary") or "",
                signature=detail.text("signature") or "",
                encrypted=detail.text("data") or "",
            )
        yield Part(reasoning=thought)
    if text and not details:
        yield Part(reasoning=generation_pb2.Reasoning(text=text))


def _call(item: Body) -> Part:
    function = item.inner("function")
    if item.text("type") not in {None, "function"} or function is None:
        raise Misfit("is not supported here: tools are functions", "type")
    identity = item.required_text("id")
    with at("function"):
        call = generation_pb2.ToolCall(
            id=identity, name=function.required_text("name"), arguments=function.required_text("arguments")
        )
    return Part(tool_call=call)


def _result(message: Body) -> Part:
    texts = [generation_pb2.ToolResultPart(text=part.text) for part in _content(message, {"text"})]
    result = generation_pb2.ToolResult(call_id=message.required_text("tool_call_id"), parts=texts)
    return Part(tool_result=result)


def _content(message: Body, kinds: set[str]) -> list[Part]:
    content = message.take("content")
    if type(content) is str:
        return [Part(text=message.text("content") or "")]
    if type(content) is not list or not content:
        raise Misfit("must be a string or a list of parts", "content")
    parts: list[Part] = []
    for index, item in enumerate(content):
        with at(index, "content"):
            parts.append(_part(Body(item), kinds))
    return parts


def _part(item: Body, kinds: set[str]) -> Part:
    kind = item.text("type")
    if kind is None:
        raise Misfit("must have a type", "type")
    if kind not in kinds:
        raise Misfit(f"is not supported here: parts are {' or '.join(sorted(kinds))}", "type")
    match kind:
        case "text":
            return Part(text=item.required_text("text"))
        case "refusal":
            return Part(refusal=item.required_text("refusal"))
    image = item.inner("image_url")
    if image is None:
        raise Misfit("must be an object", "image_url")
    with at("image_url"):
        return Part(image=_image(image.required_text("url"), image.text("detail") or ""))


def _image(url: str, detail: str) -> generation_pb2.Image:
    if not url.startswith(_DATA):
        if not url.startswith("https://"):
            raise Misfit("must be an https or data URL", "url")
        return generation_pb2.Image(url=url, detail=detail)
    head, separator, data = url.removeprefix(_DATA).partition(",")
    media_type, _, coding = head.partition(";")
    if not separator or coding != "base64" or not media_type.startswith("image/"):
        raise Misfit("must be `data:image/<type>;base64,` and the data", "url")
    return generation_pb2.Image(media_type=media_type, data=decoded(data, "url"), detail=detail)
