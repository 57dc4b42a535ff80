"""Stored answers told again, as the events of an answer that is not made but remembered."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from services.inference.cache.archive import Entry
from services.inference.model import (
    Answer,
    CacheHit,
    Event,
    Finished,
    FinishReason,
    HitKind,
    Started,
    TextDelta,
    Usage,
)
from services.inference.parts import PartDelta, Reasoning, TextPart

NOTHING: Final = Usage(input_tokens=0, output_tokens=0, cost_micros=0)
"""What an answer consumes that is not made."""


def replayed(entry: Entry, hit: CacheHit) -> Iterator[Event]:
    """All events of a stored answer."""
    yield Started(model=entry.model, context=entry.context, cache=hit)
    yield from told(entry, hit)


def told(entry: Entry, hit: CacheHit) -> Iterator[Event]:
    """The events after the first one."""
    offset = 0
    number = 0
    for part in entry.parts or (TextPart(entry.text),):
        match part:
            case TextPart(text):
                yield TextDelta(offset, text)
                offset += len(text)
            case Reasoning():
                yield PartDelta(number, part)
                number += 1
    yield from entry.citations
    yield Finished(_answer(entry, hit))


def shared(event: Event) -> Event:
    """An event of an answer that is made for somebody else, who pays for it."""
    match event:
        case Started(cache=None):
            return replace(event, cache=_SHARED)
        case Finished(answer) if answer.cache is None:
            return Finished(replace(answer, usage=NOTHING, cache=_SHARED))
        case _:
            return event


_SHARED: Final = CacheHit(HitKind.SHARED)


def _answer(entry: Entry, hit: CacheHit) -> Answer:
    return Answer(
        text=entry.text,
        citations=entry.citations,
        finish_reason=FinishReason.STOP,
        model=entry.model,
        usage=NOTHING,
        context=entry.context,
        parts=entry.parts,
        stop_text=entry.stop_text,
        cache=hit,
    )
