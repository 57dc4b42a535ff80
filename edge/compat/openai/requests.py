"""The body of `POST /v1/chat/completions`: what is understood, what is harmless, and what is refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edge.compat.body import Body, at
from edge.compat.generations import DEFAULT_MODEL
from edge.compat.openai.content import read_messages
from edge.transcoding.scalars import Misfit
from parley.inference.v1 import generation_pb2

STOP_MAX: Final = 4

# They change nothing about the answer here, or are hints that a server may ignore.
_HARMLESS: Final = frozenset(
    {
        *("metadata", "moderation", "prediction", "prompt_cache_key", "prompt_cache_options"),
        *("prompt_cache_retention", "safety_identifier", "service_tier", "user"),
    }
)
# Refused unless they say what is so anyway; each with the values that do.
_UNSUPPORTED: Final[Mapping[str, tuple[object, ...]]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "presence_penalty": (None, 0, 0.0),
    "top_logprobs": (None, 0),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
_TOOL_MODES: Final = {
    "none": generation_pb2.TOOL_MODE_NONE,
    "auto": generation_pb2.TOOL_MODE_AUTO,
    "required": generation_pb2.TOOL_MODE_REQUIRED,
}
_EFFORTS: Final = frozenset({"minimal", "low", "medium", "high", "xhigh"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A request for an answer.

    Attributes:
        model: asked for; empty for the platform's default.
        prompt: what the model reads; the last message is the user's or holds results of tools.
        is_stored: whether it becomes a conversation.
    """

    model: str
    prompt: generation_pb2.Prompt
    parameters: generation_pb2.Parameters
    is_stream: bool
    includes_usage: bool
    is_stored: bool
    knowledge_base_id: str

    @property
    def model_name(self) -> str:
        """The model as the caller knows it."""
        return self.model or DEFAULT_MODEL


def read_chat(document: object) -> Chat:
    """The chat that a body asks for.

    Raises:
        Misfit: it cannot be served as it is; the parameter is named.
    """
    body = Body(document)
    body.refuse_unless(_UNSUPPORTED)
    prompt = read_messages(body)
    prompt.tools.extend(_tools(body))
    if not prompt.messages or prompt.messages[-1].role != generation_pb2.ROLE_USER:
        raise Misfit("must end with a message of the user or of a tool", "messages")
    parameters = _parameters(body, has_tools=bool(prompt.tools))
    model = body.text("model") or ""
    chat = Chat(
        model="" if model == DEFAULT_MODEL else model,
        prompt=prompt,
        parameters=parameters,
        is_stream=body.flag("stream") or False,
        includes_usage=_includes_usage(body),
        is_stored=_is_stored(prompt, parameters, wanted=body.flag("store")),
        knowledge_base_id=body.text("knowledge_base_id") or "",
    )
    body.refuse_unknown(_HARMLESS)
    return chat


def _is_stored(prompt: generation_pb2.Prompt, parameters: generation_pb2.Parameters, *, wanted: bool | None) -> bool:
    """Conversations hold text: a chat of more is answered and forgotten, unless it was to be stored."""
    richer = _richer(prompt, parameters)
    if richer and wanted:
        raise Misfit("must be false for a chat with images, tools, thoughts or a format", "store")
    return not richer if wanted is None else wanted


def _richer(prompt: generation_pb2.Prompt, parameters: generation_pb2.Parameters) -> bool:
    if prompt.tools or any(parameters.HasField(name) for name in ("tool_choice", "format", "reasoning")):
        return True
    kinds = {part.WhichOneof("kind") for message in prompt.messages for part in message.parts}
    return not kinds <= {"text", "refusal"}


def _parameters(body: Body, *, has_tools: bool) -> generation_pb2.Parameters:
    return generation_pb2.Parameters(
        temperature=body.number("temperature"),
        top_p=body.number("top_p"),
        output_tokens_max=_output_tokens_max(body),
        stop=_stop(body.take("stop")),
        seed=body.integer("seed"),
        tool_choice=_tool_choice(body, has_tools=has_tools),
        format=_format(body.inner("response_format")),
        reasoning=_reasoning(body.text("reasoning_effort")),
    )


def _output_tokens_max(body: Body) -> int | None:
    most, legacy = body.integer("max_completion_tokens"), body.integer("max_tokens")
    name = "max_tokens" if most is None else "max_completion_tokens"
    most = legacy if most is None else most
    if most is not None and not 0 < most < 1 << 31:
        raise Misfit("must be 1 or more", name)
    return most


def _stop(value: object) -> list[str]:
    texts = [value] if type(value) is str else value
    if texts is None:
        return []
    if type(texts) is not list or len(texts) > STOP_MAX or not all(type(text) is str for text in texts):
        raise Misfit(f"must be a string or a list of at most {STOP_MAX} strings", "stop")
    return texts


def _includes_usage(body: Body) -> bool:
    options = body.inner("stream_options")
    if options is None:
        return False
    with at("stream_options"):
        wanted = options.flag("include_usage")
        try:
            options.refuse_unknown(frozenset({"include_obfuscation"}))
        except Misfit:
            raise Misfit("must be an object with `include_usage`") from None
    return wanted or False


def _tools(body: Body) -> list[generation_pb2.Tool]:
    tools: list[generation_pb2.Tool] = []
    for index, item in enumerate(body.items("tools")):
        with at(index, "tools"):
            tools.append(_tool(Body(item)))
    return tools


def _tool(item: Body) -> generation_pb2.Tool:
    kind = item.text("type")
    if kind != "function":
        raise Misfit("is not supported here: tools are functions" if kind else "must be `function`", "type")
    function = item.inner("function")
    if function is None:
        raise Misfit("must be an object", "function")
    with at("function"):
        return generation_pb2.Tool(
            name=function.required_text("name"),
            description=function.text("description") or "",
            input_schema=function.json_text("parameters"),
            is_strict=function.flag("strict"),
        )


def _tool_choice(body: Body, *, has_tools: bool) -> generation_pb2.ToolChoice | None:
    wanted, is_parallel = body.take("tool_choice"), body.flag("parallel_tool_calls")
    choice = generation_pb2.ToolChoice(is_parallel=is_parallel)
    if type(wanted) is str and wanted in _TOOL_MODES:
        choice.mode = _TOOL_MODES[wanted]
    elif wanted is not None:
        with at("tool_choice"):
            choice.mode, choice.name = generation_pb2.TOOL_MODE_NAMED, _chosen(wanted)
    if not has_tools:
        if choice.mode in {generation_pb2.TOOL_MODE_REQUIRED, generation_pb2.TOOL_MODE_NAMED}:
            raise Misfit("must not demand a tool when there is none", "tool_choice")
        return None
    return choice if choice.mode or is_parallel is not None else None


def _chosen(wanted: object) -> str:
    choice = Body(wanted)
    function = choice.inner("function")
    if choice.text("type") != "function" or function is None:
        raise Misfit("must be `none`, `auto`, `required` or name a function")
    with at("function"):
        return function.required_text("name")


def _format(wanted: Body | None) -> generation_pb2.AnswerFormat | None:
    if wanted is None:
        return None
    with at("response_format"):
        match wanted.text("type"):
            case "text":
                return None
            case "json_object":
                return generation_pb2.AnswerFormat()
            case "json_schema":
                return _schema(wanted)
        raise Misfit("must be `text`, `json_object` or `json_schema`", "type")


def _schema(wanted: Body) -> generation_pb2.AnswerFormat:
    described = wanted.inner("json_schema")
    if described is None:
        raise Misfit("must be an object", "json_schema")
    with at("json_schema"):
        return generation_pb2.AnswerFormat(
            name=described.required_text("name"),
            description=described.text("description") or "",
            json_schema=described.json_text("schema") or "{}",
            is_strict=described.flag("strict"),
        )


def _reasoning(effort: str | None) -> generation_pb2.ReasoningWish | None:
    if effort is None:
        return None
    if effort == "none":
        return generation_pb2.ReasoningWish(mode=generation_pb2.REASONING_MODE_OFF)
    if effort not in _EFFORTS:
        raise Misfit("must be `none`, `minimal`, `low`, `medium`, `high` or `xhigh`", "reasoning_effort")
    return generation_pb2.ReasoningWish(effort=effort)
