"""Who writes summaries, and what must hold of those that are kept and shown."""

import asyncio
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from services.conversation.history.summaries import Measure
from services.conversation.history.summary_wording import record
from services.conversation.model import FinishReason, Message, Owner, Usage
from services.conversation.ports import GenerationRequest, PromptMessage, WholeText
from services.conversation.store.summaries import Summary
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import DeadlineExceeded, Unavailable
from tests.simulation.history import History, Prompt, Written
from tests.simulation.sources import Mood

MESSAGES_MAX: Final = 100
MESSAGE_TOKENS_MAX: Final = 1_000
"""More than any message here has, so that each is quoted whole."""
MEASURE: Final = Measure(
    model="scripted/cheap",
    above_tokens=30,
    keep_tokens=10,
    tokens_max=20,
    input_tokens_max=4 * MESSAGE_TOKENS_MAX,
    time_s=3.0,
    messages_max=MESSAGES_MAX,
)
"""So that the second or third exchange of a conversation is summarised."""
FAILS: Final = 0.3
"""Share of summaries that fail while models break or stall."""
_LENGTHY: Final = frozenset({"pause", "away", "cut", "wire"})
"""Faults under which a claim may lapse while its holder still works."""
_QUESTION: Final = re.compile(r"\bq\d+\.\d+")


class Scribe:
    """See `Writer`: a summary is a number, by which it is known again."""

    def __init__(self, chance: random.Random, mood: Mood, history: History) -> None:
        self._chance = chance
        self._mood = mood
        self._history = history

    async def write(self, owner: Owner, request: GenerationRequest, *, time_s: float) -> WholeText:
        chance, mood, history = self._chance, self._mood, self._history
        text = f"S{len(history.written)}."
        began_s = history.clock()
        history.written[text] = Written(request.messages[0].text, began_s, began_s + time_s)
        try:
            if mood.stalls and chance.random() < FAILS:
                await asyncio.sleep(time_s)
                raise DeadlineExceeded("nobody wrote")
            await asyncio.sleep(chance.uniform(0.1, 0.9 * time_s))
        finally:
            history.written[text] = replace(history.written[text], until_s=history.clock())
        if mood.breaks and chance.random() < FAILS:
            raise Unavailable("the model hung up")
        return WholeText(text=text, finish_reason=FinishReason.STOP, model=MEASURE.model, usage=Usage(input_tokens=9))


def judge_summaries(history: History, store: MemoryStore) -> Iterator[str]:
    """Each stands for all of its branch up to a message, was made of that alone, and was paid for once."""
    kept = {summary.id: summary for _, summary in store.tables.summaries.values()}
    for summary in kept.values():
        if summary.conversation_id in history.deleted:
            yield f"deleted: {summary.id} is still there"
        else:
            yield from _of_summary(summary, kept.get(summary.made_from), history, store)
    if not history.faults.keys() & _LENGTHY:
        yield from _of_payment(history)


def judge_prompt(question: str, prompt: Prompt, path: Sequence[tuple[str, str]], store: MemoryStore) -> Iterator[str]:
    """A prompt is the whole branch before its question, or a summary of it up to some message, and the rest.

    Args:
        question: that was asked.
        prompt: that was shown.
        path: ids and texts of the branch before the question.
        store: what is kept.
    """
    shown = path
    if prompt.summary:
        kept = {summary.text: summary for _, summary in store.tables.summaries.values()}
        ids = [message_id for message_id, _ in path]
        summary = kept.get(prompt.summary)
        if summary is None or summary.through_message_id not in ids:
            yield f"summary: {question} was asked after {prompt.summary}, which does not stand on its branch"
            return
        shown = path[ids.index(summary.through_message_id) + 1 :]
    expected = tuple(text for _, text in shown if text)
    if prompt.before != expected:
        yield f"order: {question} was asked after {prompt.summary}{prompt.before}, not {expected}"


def _of_summary(summary: Summary, before: Summary | None, history: History, store: MemoryStore) -> Iterator[str]:
    path = _path(summary.through_message_id, store)
    if summary.made_from and before is None:
        yield f"summary: {summary.id} was made from {summary.made_from}, which is not kept"
    if summary.messages_covered != len(path):
        yield f"summary: {summary.id} stands for {summary.messages_covered} messages, and has {len(path)} on its branch"
    since = path
    if before is not None:
        ids: list[str] = [message.id for message in path]
        if before.through_message_id not in ids:
            yield f"summary: {summary.id} was made from {before.id}, which is of another branch"
            return
        since = path[ids.index(before.through_message_id) + 1 :]
    told = [PromptMessage(message.role, message.text) for message in since if message.text]
    expected = record("" if before is None else before.text, told, message_tokens_max=MESSAGE_TOKENS_MAX)
    if history.written[summary.text].record != expected:
        yield f"summary: {summary.id} was made of something else than its part of the branch"


def _path(message_id: str, store: MemoryStore) -> list[Message]:
    path: list[Message] = []
    while message_id:
        path.append(store.tables.messages[message_id][1])
        message_id = path[-1].parent_id
    return path[::-1]


def _of_payment(history: History) -> Iterator[str]:
    """Nobody begins a summary of a conversation while another one is being written."""
    until_s: dict[str, float] = {}
    for text, written in history.written.items():
        found = _QUESTION.search(written.record)
        if found is None:
            continue
        talk_id = history.asked[found[0]].talk.id
        if written.began_s < until_s.get(talk_id, 0.0):
            yield f"summary: {text} was paid for while another one of {talk_id} was being written"
        until_s[talk_id] = max(written.until_s, until_s.get(talk_id, 0.0))
