"""Parts in OpenAI's form: what a request says with them, and what the chunks of an answer say of them.

Source: the types of openai 3.54; `reasoning_content` and `reasoning_details` are what DeepSeek, vLLM and OpenRouter
added for thoughts, of which OpenAI's own chat completions show none.
"""

import base64
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from services.inference.model import Message, Parameters, Role
from services.inference.parts import (
    AnswerFormat,
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
from services.inference.providers.sse import at, count_at, text_at
from services.mesh.errors import invalid_field

# Budgets of thinking in tokens, each with the effort that it stands for; more than the last is `high`.
_BUDGETS: Final = ((2_048, "low"), (8_192, "medium"))
_FORMAT_NAME: Final = "answer"
# OpenAI refuses strict schemas of more than ten levels; this is far beyond, and far from the depth of a stack.
_LEVELS_MAX: Final = 100
_PLAIN: Final = frozenset({"role", "content"})

Json = dict[str, Any]  # Any: the vendor's JSON


def messages(task: Task, *, takes_reasoning: bool) -> Iterator[Json]:
    """The conversation; `takes_reasoning` when the server wants thoughts back."""
    if task.system:
        yield {"role": "system", "content": task.system}
    for turn in task.turns:
        if not turn.parts:
            yield {"role": "user" if turn.role is Role.USER else "assistant", "content": turn.text}
        elif turn.role is Role.USER:
            yield from _user(turn)
        else:
            yield _assistant(turn, takes_reasoning=takes_reasoning)
    if task.prefix:
        yield {"role": "assistant", "content": task.prefix}


def options(tools: Sequence[Tool], wanted: Parameters) -> Json:
    """Members of a request for tools, JSON and thinking; only what is asked for."""
    found: Json = {}
    if tools:
        found["tools"] = [_tool(tool) for tool in tools]
        found |= _tool_choice(wanted.tool_choice or ToolChoice())
    if wanted.format is not None:
        found["response_format"] = _format(wanted.format)
    effort = _effort(wanted.reasoning or ReasoningWish())
    return found | {"reasoning_effort": effort} if effort else found


class PartReader:
    """Reads thoughts and tool calls out of chunks."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int], int] = {}
        self._without_arguments: set[int] = set()

    @property
    def has_calls(self) -> bool:
        """Whether a tool was called."""
        return any(kind == "call" for kind, _ in self._numbers)

    def take(self, chunk: object) -> list[Text | PartDelta]:
        """What a chunk says, in the order in which a model writes it."""
        delta = at(chunk, "choices", 0, "delta")
        if not isinstance(delta, dict):
            return []
        if delta.keys() <= _PLAIN:  # nearly every chunk
            text = text_at(delta, "content")
            return [Text(text)] if text else []
        found: list[Text | PartDelta] = [*self._thoughts(delta)]
        text, refusal = text_at(delta, "content"), text_at(delta, "refusal")
        if text:
            found.append(Text(text))
        if refusal:
            found.append(Text(refusal, is_refusal=True))
        calls = at(delta, "tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            found.append(self._call(call, place))
        return found

    def end(self) -> list[PartDelta]:
        """What completes the calls: one without arguments has an empty object of them."""
        left, self._without_arguments = sorted(self._without_arguments), set()
        return [PartDelta(number, ToolCall(id="", name="", arguments="{}")) for number in left]

    def _thoughts(self, delta: object) -> Iterator[PartDelta]:
        details = at(delta, "reasoning_details")
        if not isinstance(details, list) or not details:
            text = text_at(delta, "reasoning_content") or text_at(delta, "reasoning")
            if text:
                yield PartDelta(self._number("thought", 0), Reasoning(text=text))
            return
        for place, detail in enumerate(details):
            index = count_at(detail, "index")
            piece = Reasoning(
                text=text_at(detail, "text") or text_at(detail, "summary"),
                signature=text_at(detail, "signature"),
                encrypted=text_at(detail, "data"),
            )
            yield PartDelta(self._number("thought", place if index is None else index), piece)

    def _call(self, call: object, place: int) -> PartDelta:
        index = count_at(call, "index")
        key = ("call", place if index is None else index)
        is_new = key not in self._numbers
        number = self._number(*key)
        arguments = text_at(call, "function", "arguments")
        if arguments:
            self._without_arguments.discard(number)
        elif is_new:
            self._without_arguments.add(number)
        if not is_new:
            return PartDelta(number, ToolCall(id="", name="", arguments=arguments))
        identity = text_at(call, "id") or f"call_{secrets.token_hex(12)}"  # some servers give none
        return PartDelta(number, ToolCall(id=identity, name=text_at(call, "function", "name"), arguments=arguments))

    def _number(self, kind: str, index: int) -> int:
        return self._numbers.setdefault((kind, index), len(self._numbers))


def _user(turn: Message) -> Iterator[Json]:
    """Results of tools are messages of their own, and hold text only: their pictures follow as the user's."""
    shown: list[Part] = []
    for part in turn.parts:
        if isinstance(part, ToolResult):
            texts = [piece.text for piece in part.parts if isinstance(piece, TextPart)]
            if part.is_error:
                texts.insert(0, "Error: ")
            yield {"role": "tool", "tool_call_id": part.call_id, "content": "".join(texts)}
            images = [piece for piece in part.parts if isinstance(piece, Image)]
            if images:
                shown += (TextPart(f"Pictures of the result of {part.call_id}:"), *images)
    shown += (part for part in turn.parts if not isinstance(part, ToolResult))
    if shown:
        yield {"role": "user", "content": [_shown(part) for part in shown]}


def _shown(part: Part) -> Json:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case Image():
            url = part.url or f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
            return {"type": "image_url", "image_url": {"url": url} | ({"detail": part.detail} if part.detail else {})}
        case _:
            raise invalid_field("prompt.messages", "must hold texts, images and results of tools from the user")


def _assistant(turn: Message, *, takes_reasoning: bool) -> Json:
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for part in turn.parts:
        match part:
            case TextPart(text):
                texts.append(text)
            case Refusal(text):
                refusals.append(text)
            case Reasoning():
                thoughts.append(part.text)
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments or "{}"}
                calls.append({"id": part.id, "type": "function", "function": function})
            case _:
                raise invalid_field("prompt.messages", "must hold no images and no results from the assistant")
    message: Json = {"role": "assistant", "content": "".join(texts) or None}
    if refusals:
        message["refusal"] = "".join(refusals)
    if calls:
        message["tool_calls"] = calls
    if takes_reasoning and any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if message["content"] is None and not calls and not refusals:
        message["content"] = ""
    return message


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.input_schema:
        function["parameters"] = parsed(tool.input_schema, "prompt.tools")
    if tool.is_strict is not None:
        function["strict"] = tool.is_strict
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> Json:
    found: Json = {}
    if choice.mode is ToolMode.NAMED:
        found["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.mode is not None:
        found["tool_choice"] = choice.mode.value
    if choice.is_parallel is not None:
        found["parallel_tool_calls"] = choice.is_parallel
    return found


def _format(wanted: AnswerFormat) -> Json:
    if not wanted.json_schema:
        return {"type": "json_object"}
    schema = parsed(wanted.json_schema, "parameters.format.json_schema")
    described = {"description": wanted.description} if wanted.description else {}
    strict = _is_strict(schema) if wanted.is_strict is None else wanted.is_strict
    named = {"name": wanted.name or _FORMAT_NAME, "schema": schema, "strict": strict}
    return {"type": "json_schema", "json_schema": named | described}


def _is_strict(schema: object, level: int = 0) -> bool:
    """Whether OpenAI binds an answer to the schema: objects must be closed, and all their members required."""
    if level > _LEVELS_MAX:
        return False
    if isinstance(schema, list):
        return all(_is_strict(item, level + 1) for item in schema)
    if not isinstance(schema, dict):
        return True
    members = schema.get("properties")
    if isinstance(members, dict) or schema.get("type") == "object":
        names = members if isinstance(members, dict) else {}
        required = schema.get("required", [])
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if set(required) != set(names):
            return False
    return all(_is_strict(value, level + 1) for value in schema.values())


def _effort(wish: ReasoningWish) -> str:
    if wish.mode is ReasoningMode.OFF:
        return "none"
    if wish.effort:
        return "xhigh" if wish.effort == "max" else wish.effort
    if wish.mode is ReasoningMode.BUDGET:
        return next((effort for most, effort in _BUDGETS if wish.tokens_max <= most), "high")
    return ""


def parsed(text: str, field: str) -> Json:
    """JSON text of the caller as an object.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise invalid_field(field, "must be the text of a JSON object")
    return found
