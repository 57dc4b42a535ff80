"""Names of wishes: equal names mean that an answer to one is an answer to the other.

Everything that an answer depends on is in a name by its content: the organization, who answers to the asked names,
all parameters, and the whole prompt. So another revision of a prompt, another example, or a passage of a document that
was changed makes another name by itself, and nobody has to be told of it. What only says how an answer is delivered
(whether it may begin again, what the cache may do) is not in it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Final

from services.inference.model import Generation, Message, Prompt, Role

QUESTION_CHARS_MAX: Final = 400
"""Of a question that may be answered by its meaning: the encoder reads 256 tokens, and must have read it all."""

_FORMAT: Final = "parley-wish-1"
_DELIVERY: Final = frozenset({"model", "accepts_restart", "cache"})
"""Fields of a wish that its answer does not depend on; the model is in the lineages."""

Lineages = tuple[tuple[str, ...], ...]


def exact_name(organization_id: str, lineages: Lineages, wish: Generation) -> str:
    """The name of a wish; takes some 30 µs, and 2 ms for each megabyte of the prompt."""
    return _named("exact", organization_id, lineages, wish)


def scope_name(organization_id: str, lineages: Lineages, wish: Generation) -> str | None:
    """The name of all wishes that differ in nothing but the question; None when that is more than a short text."""
    question = question_of(wish.prompt)
    if question is None:
        return None
    blank = Message(Role.USER, "?")
    prompt = replace(wish.prompt, messages=(*wish.prompt.messages[:-1], blank))
    return _named("scope", organization_id, lineages, replace(wish, prompt=prompt))


def question_of(prompt: Prompt) -> str | None:
    """The question, when meaning can be compared by it: a short text, and the last thing that was said."""
    last = prompt.messages[-1]
    text = last.text.strip()
    return None if last.parts or len(text) > QUESTION_CHARS_MAX else text


def _named(kind: str, organization_id: str, lineages: Lineages, wish: Generation) -> str:
    hashed = hashlib.sha256()
    _put(hashed.update, (_FORMAT, kind, organization_id, lineages))
    for field in fields(wish):
        if field.name not in _DELIVERY:
            _put(hashed.update, (field.name, getattr(wish, field.name)))
    return hashed.hexdigest()


def _put(take: Callable[[bytes], object], value: object) -> None:
    """Hands on `value` so that no two different ones are handed on alike: with kind and length of each piece."""
    match value:
        case None:
            take(b"0;")
        case str():
            text = value.encode("utf-8", "surrogatepass")
            take(b"s%d;" % len(text))
            take(text)
        case bytes():
            take(b"b%d;" % len(value))
            take(value)
        case bool() | int() | float():
            take(f"n{value!r};".encode())
        case tuple():
            take(b"t%d;" % len(value))
            for item in value:
                _put(take, item)
        case _ if is_dataclass(value):
            take(f"d{type(value).__name__};".encode())
            for field in fields(value):
                _put(take, getattr(value, field.name))
        case _:
            raise TypeError(f"{type(value).__name__} has no place in the name of a wish")
