"""Parts in Anthropic's form: what a request says with them, and what the events of an answer say of them.

Source: the types of anthropic 2.12.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from services.inference.model import Message, Parameters, Role
from services.inference.parts import (
    Image,
    Part,
    PartDelta,
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
from services.inference.providers.base import Task, Text
from services.inference.providers.openai_format import parsed
from services.inference.providers.sse import at, count_at, text_at

# The API wants a length; callers that name none get this much, which every model since Claude 3.5 can write.
OUTPUT_TOKENS_DEFAULT: Final = 8_192

_MODES: Final = {ToolMode.AUTO: "auto", ToolMode.NONE: "none", ToolMode.REQUIRED: "any", ToolMode.NAMED: "tool"}
_JSON_WANTED: Final = "Answer with one JSON object and nothing else: no words around it, and no fence."
_NO_ARGUMENTS: Final = {"type": "object", "properties": {}}
# What the API takes as the id of a tool call; other vendors' ids have dots and colons too.
_FOREIGN: Final = re.compile(r"[^a-zA-Z0-9_-]")

Json = dict[str, Any]  # Any: the vendor's JSON


def system(task: Task) -> str:
    """Instructions, with the wish for JSON that no schema describes: the API binds answers to schemas only."""
    wanted = task.parameters.format
    if wanted is None or wanted.json_schema:
        return task.system
    return f"{task.system}\n\n{_JSON_WANTED}".strip()


def messages(task: Task) -> Iterator[Json]:
    """The conversation."""
    for turn in task.turns:
        role = "user" if turn.role is Role.USER else "assistant"
        if not turn.parts:
            yield {"role": role, "content": turn.text}
        elif blocks := list(_blocks(turn)):
            yield {"role": role, "content": blocks}
    if task.prefix:
        yield {"role": "assistant", "content": task.prefix}


def options(tools: Sequence[Tool], wanted: Parameters) -> Json:
    """Members of a request for tools, JSON and thinking; only what is asked for."""
    found: Json = {}
    if tools:
        found["tools"] = [_tool(tool) for tool in tools]
        choice = _tool_choice(wanted.tool_choice or ToolChoice())
        found |= {"tool_choice": choice} if choice else {}
    output: Json = {}
    if wanted.format is not None and wanted.format.json_schema:
        schema = parsed(wanted.format.json_schema, "parameters.format.json_schema")
        output["format"] = {"type": "json_schema", "schema": schema}
    wish = wanted.reasoning or ReasoningWish()
    if wish.effort:
        output["effort"] = "low" if wish.effort == "minimal" else wish.effort
    thinking = _thinking(wish)
    return found | ({"output_config": output} if output else {}) | ({"thinking": thinking} if thinking else {})


def max_tokens(task: Task) -> int:
    """Length of the answer, thoughts included."""
    wish = task.parameters.reasoning
    return task.output_tokens_max or OUTPUT_TOKENS_DEFAULT + (0 if wish is None else wish.tokens_max)


class PartReader:
    """Reads text, thoughts and tool calls out of the events of content blocks."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._without_arguments: set[int] = set()

    def start(self, body: object) -> list[Text | PartDelta]:
        """A block begins."""
        index, block = count_at(body, "index") or 0, at(body, "content_block")
        match text_at(block, "type"):
            case "text":
                return _text(text_at(block, "text"))
            case "thinking":
                piece = Reasoning(text=text_at(block, "thinking"), signature=text_at(block, "signature"))
                return [PartDelta(self._number(index), piece)]
            case "redacted_thinking":
                return [PartDelta(self._number(index), Reasoning(encrypted=text_at(block, "data")))]
            case "tool_use":
                given = at(block, "input")
                arguments = orjson.dumps(given).decode() if given else ""
                if not arguments:
                    self._without_arguments.add(index)
                call = ToolCall(id=text_at(block, "id"), name=text_at(block, "name"), arguments=arguments)
                return [PartDelta(self._number(index), call)]
        return []  # what the vendor's own tools do, for which nobody asked

    def delta(self, body: object) -> list[Text | PartDelta]:
        """A block goes on."""
        delta = at(body, "delta")
        text = text_at(delta, "text")
        if text:
            return [Text(text)]
        index = count_at(body, "index") or 0
        number = self._numbers.get(index)
        piece = _piece(delta)
        if number is None or piece is None:
            return []
        if isinstance(piece, ToolCall):
            self._without_arguments.discard(index)
        return [PartDelta(number, piece)]

    def stop(self, body: object) -> list[Text | PartDelta]:
        """A block ends; a call without arguments has an empty object of them."""
        index = count_at(body, "index") or 0
        if index not in self._without_arguments:
            return []
        self._without_arguments.discard(index)
        return [PartDelta(self._numbers[index], ToolCall(id="", name="", arguments="{}"))]

    def _number(self, index: int) -> int:
        return self._numbers.setdefault(index, len(self._numbers))


def _piece(delta: object) -> ToolCall | Reasoning | None:
    match text_at(delta, "type"):
        case "input_json_delta" if text_at(delta, "partial_json"):
            return ToolCall(id="", name="", arguments=text_at(delta, "partial_json"))
        case "thinking_delta":
            return Reasoning(text=text_at(delta, "thinking"))
        case "signature_delta":
            return Reasoning(signature=text_at(delta, "signature"))
    return None


def _text(text: str) -> list[Text | PartDelta]:
    return [Text(text)] if text else []


def _blocks(turn: Message) -> Iterator[Json]:
    """Results of tools come first: the API wants them there."""
    for part in sorted(turn.parts, key=lambda part: not isinstance(part, ToolResult)):
        block = _block(part)
        if block is not None:
            yield block


def _block(part: Part) -> Json | None:
    match part:
        case TextPart(text) | Refusal(text):
            return {"type": "text", "text": text} if text else None  # the API refuses empty ones
        case Image():
            return _image(part)
        case ToolCall():
            return {"type": "tool_use", "id": _id(part.id), "name": part.name, "input": _input(part.arguments)}
        case ToolResult():
            content = [block for piece in part.parts if (block := _block(piece)) is not None]
            result: Json = {"type": "tool_result", "tool_use_id": _id(part.call_id), "content": content}
            return result | ({"is_error": True} if part.is_error else {})
        case Reasoning():
            return _thought(part)


def _thought(part: Reasoning) -> Json | None:
    if part.encrypted:
        return {"type": "redacted_thinking", "data": part.encrypted}
    if part.signature:
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    return None  # another vendor's thoughts: unsigned ones are refused


def _image(part: Image) -> Json:
    if part.url:
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    data = base64.b64encode(part.data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": data}}


def _id(identity: str) -> str:
    return _FOREIGN.sub("_", identity)


def _input(arguments: str) -> Json:
    """Arguments as the object that the API wants, also when a model wrote something else."""
    try:
        found = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {"unparsed": arguments}


def _tool(tool: Tool) -> Json:
    found: Json = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    found["input_schema"] = parsed(tool.input_schema, "prompt.tools") if tool.input_schema else _NO_ARGUMENTS
    if tool.is_strict is not None:
        found["strict"] = tool.is_strict
    return found


def _tool_choice(choice: ToolChoice) -> Json:
    if choice.mode is None and choice.is_parallel is None:
        return {}
    mode = choice.mode or ToolMode.AUTO
    found: Json = {"type": _MODES[mode]}
    if choice.name:
        found["name"] = choice.name
    if choice.is_parallel is not None and mode is not ToolMode.NONE:
        found["disable_parallel_tool_use"] = not choice.is_parallel
    return found


def _thinking(wish: ReasoningWish) -> Json:
    shown = {"display": wish.display} if wish.display else {}
    match wish.mode:
        case ReasoningMode.OFF:
            return {"type": "disabled"}
        case ReasoningMode.BUDGET:
            return {"type": "enabled", "budget_tokens": wish.tokens_max} | shown
        case ReasoningMode.ADAPTIVE:
            return {"type": "adaptive"} | shown
    # Another vendor's effort means thinking; here it is a wish of its own.
    return {"type": "adaptive"} | shown if wish.effort else {}
