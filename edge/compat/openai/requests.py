"""The body of `POST /v1/chat/completions`: what is understood, what is harmless, and what is refused by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, cast

from google.protobuf.message import Message

from edge.transcoding.scalars import Misfit

DEFAULT_MODEL: Final = "default"
"""What SDKs send for the platform's own default: they insist on some name."""
MESSAGES_MAX: Final = 1_000
STOP_MAX: Final = 4

# They change nothing about the answer here, or are hints that a server may ignore.
_HARMLESS: Final = frozenset(
    {
        *("metadata", "moderation", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_options"),
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
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}


class Author(Enum):
    """Who wrote a message that is not the system's."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the chat so far."""

    author: Author
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How the answer shall be shaped; None is the provider's default."""

    temperature: float | None
    top_p: float | None
    output_tokens_max: int | None
    stop: tuple[str, ...]
    seed: int | None

    def write_to(self, message: Message) -> None:
        """Sets the fields of a contract's parameters, which have the same names."""
        for name in ("temperature", "top_p", "output_tokens_max", "seed"):
            value = getattr(self, name)
            if value is not None:
                setattr(message, name, value)
        message.stop.extend(self.stop)  # type: ignore[attr-defined]  # both contracts' parameters have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A request for an answer.

    Attributes:
        model: asked for; empty for the platform's default.
        system: text of all system and developer messages.
        earlier: messages before the last one.
        question: the last message, which must be the user's.
        is_stored: whether it becomes a conversation.
    """

    model: str
    system: str
    earlier: tuple[Said, ...]
    question: str
    parameters: Parameters
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
    if type(document) is not dict:
        raise Misfit("must be an object")
    body = _Body(document)
    body.refuse_unsupported()
    system, said = _messages(body)
    if not said or said[-1].author is not Author.USER:
        raise Misfit("must end with a message of the user", "messages")
    model = body.text("model") or ""
    chat = Chat(
        model="" if model == DEFAULT_MODEL else model,
        system=system,
        earlier=tuple(said[:-1]),
        question=said[-1].text,
        parameters=_parameters(body),
        is_stream=body.flag("stream", default=False),
        includes_usage=_includes_usage(body),
        is_stored=body.flag("store", default=True),
        knowledge_base_id=body.text("knowledge_base_id") or "",
    )
    body.refuse_unknown()
    return chat


class _Body:
    """Members of the body, each taken once and checked for its type."""

    def __init__(self, members: dict[str, object]) -> None:
        self._members = members
        self._taken: set[str] = set()

    def take(self, name: str) -> object:
        self._taken.add(name)
        return self._members.get(name)

    def text(self, name: str) -> str | None:
        return cast("str | None", self._typed(name, lambda value: type(value) is str, "must be a string"))

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._typed(name, lambda value: type(value) is bool, "must be true or false")
        return default if value is None else bool(value)

    def number(self, name: str) -> float | None:
        return cast("float | None", self._typed(name, lambda value: type(value) in {int, float}, "must be a number"))

    def integer(self, name: str) -> int | None:
        def fits(value: object) -> bool:
            return type(value) is int and -(1 << 63) <= value < 1 << 63

        return cast("int | None", self._typed(name, fits, "must be an integer of 64 bits"))

    def refuse_unsupported(self) -> None:
        for name, accepted in _UNSUPPORTED.items():
            value = self.take(name)
            if not any(value == same and type(value) is type(same) for same in accepted):
                raise Misfit("is not supported here", name)

    def refuse_unknown(self) -> None:
        for name in self._members:
            if name not in self._taken and name not in _HARMLESS:
                raise Misfit("is not known", name)

    def _typed(self, name: str, fits: Callable[[object], bool], description: str) -> object:
        value = self.take(name)
        if value is not None and not fits(value):
            raise Misfit(description, name)
        return value


def _parameters(body: _Body) -> Parameters:
    most, legacy = body.integer("max_completion_tokens"), body.integer("max_tokens")
    most = legacy if most is None else most
    if most is not None and not 0 < most < 1 << 31:
        raise Misfit("must be 1 or more", "max_tokens" if most == legacy else "max_completion_tokens")
    return Parameters(
        temperature=body.number("temperature"),
        top_p=body.number("top_p"),
        output_tokens_max=most,
        stop=_stop(body.take("stop")),
        seed=body.integer("seed"),
    )


def _stop(value: object) -> tuple[str, ...]:
    texts = [value] if type(value) is str else value
    if texts is None:
        return ()
    if type(texts) is not list or len(texts) > STOP_MAX or not all(type(text) is str for text in texts):
        raise Misfit(f"must be a string or a list of at most {STOP_MAX} strings", "stop")
    return tuple(texts)


def _includes_usage(body: _Body) -> bool:
    options = body.take("stream_options")
    if options is None:
        return False
    if type(options) is not dict or not options.keys() <= {"include_usage", "include_obfuscation"}:
        raise Misfit("must be an object with `include_usage`", "stream_options")
    value = options.get("include_usage", False)
    if type(value) is not bool:
        raise Misfit("must be true or false", "include_usage", "stream_options")
    return value


def _messages(body: _Body) -> tuple[str, list[Said]]:
    """The system text, and everything that user and assistant said."""
    messages = body.take("messages")
    if type(messages) is not list or not 0 < len(messages) <= MESSAGES_MAX:
        raise Misfit(f"must be a list of 1 to {MESSAGES_MAX} messages", "messages")
    system: list[str] = []
    said: list[Said] = []
    for index, message in enumerate(messages):
        try:
            role, text = _message(message)
        except Misfit as misfit:
            misfit.path += (index, "messages")
            raise
        if role in {"system", "developer"}:
            system.append(text)
        else:
            said.append(Said(Author(role), text))
    return "\n\n".join(system), said


def _message(message: object) -> tuple[str, str]:
    if type(message) is not dict:
        raise Misfit("must be an object")
    role = message.get("role")
    if role in {"tool", "function"} or message.get("tool_calls") or message.get("function_call"):
        raise Misfit(
            "is not supported here: there are no tools", "role" if role in {"tool", "function"} else "tool_calls"
        )
    if role not in {"system", "developer", "user", "assistant"}:
        raise Misfit("must be `system`, `developer`, `user` or `assistant`", "role")
    if message.get("audio"):
        raise Misfit("is not supported here", "audio")
    content = message.get("content")
    if type(content) is str:
        return role, _sound(content)
    if type(content) is not list or not content:
        raise Misfit("must be a string or a list of parts", "content")
    return role, "".join(_part(part, index) for index, part in enumerate(content))


def _part(part: object, index: int) -> str:
    kind = part.get("type") if type(part) is dict else None
    if type(part) is not dict or kind not in {"text", "refusal"}:
        raise Misfit("is not supported here: parts are text" if kind else "must have a type", "type", index, "content")
    text = part.get(str(kind))
    if type(text) is not str:
        raise Misfit("must be a string", str(kind), index, "content")
    return _sound(text)


def _sound(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Misfit("must not hold half of a surrogate pair", "content") from None
    return text
