"""The body of `POST /v1/messages`: what is understood, what is harmless, and what is refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edge.compat.anthropic.content import read_messages
from edge.compat.body import Body, at
from edge.compat.generations import DEFAULT_MODEL
from edge.transcoding.scalars import Misfit
from parley.inference.v1 import generation_pb2

STOP_MAX: Final = 4

# They change nothing about the answer here, or are hints that a server may ignore.
_HARMLESS: Final = frozenset({"cache_control", "diagnostics", "metadata", "service_tier", "speed"})
# Refused unless they say what is so anyway; each with the values that do.
_UNSUPPORTED: Final[Mapping[str, tuple[object, ...]]] = {
    "container": (None,),
    "context_management": (None,),
    "inference_geo": (None,),
    "mcp_servers": (None, []),
    "top_k": (None,),
}
_TOOL_MODES: Final = {
    "auto": generation_pb2.TOOL_MODE_AUTO,
    "any": generation_pb2.TOOL_MODE_REQUIRED,
    "none": generation_pb2.TOOL_MODE_NONE,
    "tool": generation_pb2.TOOL_MODE_NAMED,
}
_THINKING: Final = {
    "adaptive": generation_pb2.REASONING_MODE_ADAPTIVE,
    "disabled": generation_pb2.REASONING_MODE_OFF,
    "enabled": generation_pb2.REASONING_MODE_BUDGET,
}
_EFFORTS: Final = frozenset({"low", "medium", "high", "xhigh", "max"})
_DISPLAYS: Final = frozenset({"summarized", "omitted"})
# Hints about a tool's place in a cache or in a search; they change nothing about what it is.
_TOOL_HINTS: Final = frozenset({"cache_control", "defer_loading", "eager_input_streaming", "input_examples"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A request for an answer, or for a count of tokens.

    Attributes:
        model: asked for; empty for the platform's default.
        prompt: what the model reads; the last message is the user's.
    """

    model: str
    prompt: generation_pb2.Prompt
    parameters: generation_pb2.Parameters
    is_stream: bool

    @property
    def model_name(self) -> str:
        """The model as the caller knows it."""
        return self.model or DEFAULT_MODEL


def read_wish(document: object, *, is_count: bool = False) -> Wish:
    """The answer that a body asks for; with `is_count` nothing is to be written, so no length is needed.

    Raises:
        Misfit: it cannot be served as it is; the parameter is named.
    """
    body = Body(document)
    body.refuse_unless(_UNSUPPORTED)
    model = body.required_text("model")
    prompt = read_messages(body)
    prompt.tools.extend(_tools(body))
    if prompt.messages[-1].role != generation_pb2.ROLE_USER:
        raise Misfit("must end with a message of the user: answers cannot be begun here", "messages")
    wish = Wish(
        model="" if model == DEFAULT_MODEL else model,
        prompt=prompt,
        parameters=_parameters(body, has_tools=bool(prompt.tools), is_count=is_count),
        is_stream=body.flag("stream") or False,
    )
    body.refuse_unknown(_HARMLESS)
    return wish


def _parameters(body: Body, *, has_tools: bool, is_count: bool) -> generation_pb2.Parameters:
    most = body.integer("max_tokens")
    if (most is None and not is_count) or (most is not None and not 0 < most < 1 << 31):
        raise Misfit("must be 1 or more", "max_tokens")
    output = body.inner("output_config")
    return generation_pb2.Parameters(
        temperature=body.number("temperature"),
        top_p=body.number("top_p"),
        output_tokens_max=most,
        stop=_stop(body),
        tool_choice=_tool_choice(body.inner("tool_choice"), has_tools=has_tools),
        format=_format(output),
        reasoning=_reasoning(body.inner("thinking"), output),
    )


def _stop(body: Body) -> list[str]:
    texts = body.items("stop_sequences")
    if len(texts) > STOP_MAX or not all(type(text) is str for text in texts):
        raise Misfit(f"must be a list of at most {STOP_MAX} strings", "stop_sequences")
    return [text for text in texts if isinstance(text, str)]


def _tools(body: Body) -> list[generation_pb2.Tool]:
    tools: list[generation_pb2.Tool] = []
    for index, item in enumerate(body.items("tools")):
        with at(index, "tools"):
            tools.append(_tool(Body(item)))
    return tools


def _tool(item: Body) -> generation_pb2.Tool:
    if item.text("type") not in {None, "custom"}:
        raise Misfit("is not supported here: tools are the caller's own", "type")
    if item.take("allowed_callers") not in (None, ["direct"]):
        raise Misfit("is not supported here", "allowed_callers")
    tool = generation_pb2.Tool(
        name=item.required_text("name"),
        description=item.text("description") or "",
        input_schema=item.json_text("input_schema"),
        is_strict=item.flag("strict"),
    )
    if not tool.input_schema:
        raise Misfit("must be an object", "input_schema")
    item.refuse_unknown(_TOOL_HINTS)
    return tool


def _tool_choice(wanted: Body | None, *, has_tools: bool) -> generation_pb2.ToolChoice | None:
    if wanted is None:
        return None
    with at("tool_choice"):
        mode = _TOOL_MODES.get(wanted.text("type") or "")
        if mode is None:
            raise Misfit("must be `auto`, `any`, `tool` or `none`", "type")
        is_serial = wanted.flag("disable_parallel_tool_use")
        choice = generation_pb2.ToolChoice(
            mode=mode,
            name=wanted.required_text("name") if mode == generation_pb2.TOOL_MODE_NAMED else "",
            is_parallel=None if is_serial is None else not is_serial,
        )
        if not has_tools and mode in {generation_pb2.TOOL_MODE_REQUIRED, generation_pb2.TOOL_MODE_NAMED}:
            raise Misfit("must not demand a tool when there is none", "type")
    return choice if has_tools else None


def _format(output: Body | None) -> generation_pb2.AnswerFormat | None:
    if output is None:
        return None
    with at("output_config"):
        wanted = output.inner("format")
        if wanted is None:
            return None
        with at("format"):
            schema = wanted.json_text("schema")
            if wanted.text("type") != "json_schema" or not schema:
                raise Misfit("must be `json_schema` with a schema", "type")
            return generation_pb2.AnswerFormat(json_schema=schema)


def _reasoning(thinking: Body | None, output: Body | None) -> generation_pb2.ReasoningWish | None:
    wish = generation_pb2.ReasoningWish()
    if output is not None:
        with at("output_config"):
            wish.effort = output.text("effort") or ""
            if wish.effort and wish.effort not in _EFFORTS:
                raise Misfit("must be `low`, `medium`, `high`, `xhigh` or `max`", "effort")
            output.refuse_unknown()
    if thinking is not None:
        with at("thinking"):
            _read_thinking(thinking, wish)
    return wish if wish.effort or wish.mode else None


def _read_thinking(thinking: Body, wish: generation_pb2.ReasoningWish) -> None:
    mode = _THINKING.get(thinking.text("type") or "")
    if mode is None:
        raise Misfit("must be `adaptive`, `enabled` or `disabled`", "type")
    wish.mode = mode
    if mode == generation_pb2.REASONING_MODE_BUDGET:
        budget = thinking.integer("budget_tokens")
        if budget is None or not 0 < budget < 1 << 31:
            raise Misfit("must be 1 or more", "budget_tokens")
        wish.tokens_max = budget
    wish.display = thinking.text("display") or ""
    if wish.display and wish.display not in _DISPLAYS:
        raise Misfit("must be `summarized` or `omitted`", "display")
