"""Fits a prompt into a budget: system text, examples and question always, all else as far as it goes.

Of the rest the newest exchange comes first, for a question may lean on it; then the summary of what was said earlier,
then passages, then older messages. What follows the question, calls of tools and their results, belongs to it: a result
without its call is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from services.inference.model import ContextReport, Example, Message, Passage, Prompt, Role
from services.inference.omissions import ContextPart, Omission, OmissionReason
from services.inference.parts import TextPart
from services.inference.prompts.tokens import TokenEstimate
from services.inference.prompts.wording import (
    GROUNDING,
    SUMMARISED,
    passage_text,
    question_text,
    summary_text,
    system_text,
)
from services.mesh.errors import ContextLengthExceeded

# The frame around all passages.
_FRAME_TOKENS: Final = 12
# The newest exchange goes before passages where it takes at most this part of the room: a long one would leave nothing
# to answer from.
_EXCHANGE_SHARE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A prompt that fits.

    Attributes:
        system: instructions, with those on passages where the model needs them.
        turns: examples, history and question for a chat model; the question carries the passages.
        messages: history and question as asked.
        passages: evidence that was kept, best first.
    """

    system: str
    turns: tuple[Message, ...]
    messages: tuple[Message, ...]
    passages: tuple[Passage, ...]
    report: ContextReport


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Tokens of the parts; histories and passages one by one, `exchange` those of the newest of the history."""

    system: int
    examples: int
    question: int
    summary: int
    exchange: int
    history: tuple[int, ...]
    passages: tuple[int, ...]

    @property
    def fixed(self) -> int:
        return self.system + self.examples + self.question


@dataclass(frozen=True, slots=True)
class _Kept:
    """What fits: whether the summary does, how many passages, and how many of the newest messages."""

    summary: bool
    passages: int
    messages: int


def assemble(prompt: Prompt, *, tokens: TokenEstimate, budget: int, is_grounded: bool) -> Assembled:
    """The prompt within `budget` tokens: the oldest messages go first, then the weakest passages, then the summary.

    Args:
        prompt: what was asked.
        tokens: how the model's tokens are estimated.
        budget: input tokens that the model may read.
        is_grounded: the model needs to be told about passages.

    Raises:
        ContextLengthExceeded: system text, examples and question alone do not fit.
    """
    at = prompt.question_at
    before, asked, tools_used = prompt.messages[:at], prompt.messages[at], prompt.messages[at + 1 :]
    history = _spoken(before)
    sizes = _measure(prompt, history, tokens, is_grounded=is_grounded)
    if sizes.fixed > budget:
        raise ContextLengthExceeded(
            "system text, examples and question alone do not fit the model",
            metadata={"input_tokens": str(sizes.fixed), "input_tokens_max": str(budget)},
        )
    kept = _keep(sizes, budget - sizes.fixed)
    recent = _opening_with_user(history[len(history) - kept.messages :])
    passages = prompt.passages[: kept.passages]
    shown = (*recent, _with_passages(asked, passages), *tools_used)
    is_summarised = bool(sizes.summary) and kept.summary
    return Assembled(
        system=system_text(prompt.system, is_grounded=is_grounded and bool(passages), is_summarised=is_summarised),
        turns=(*_turns(prompt.examples), *(_after(prompt.summary, shown) if is_summarised else shown)),
        messages=(*recent, asked, *tools_used),
        passages=passages,
        report=ContextReport(
            system_tokens=sizes.system,
            example_tokens=sizes.examples,
            history_tokens=sizes.question + sum(sizes.history[len(history) - len(recent) :]),
            passage_tokens=sum(sizes.passages[: kept.passages]),
            summary_tokens=sizes.summary if kept.summary else 0,
            messages_dropped=len(history) - len(recent),
            passages_dropped=len(prompt.passages) - kept.passages,
            omissions=_omissions(
                (ContextPart.MESSAGES, OmissionReason.EMPTY, len(before) - len(history)),
                (ContextPart.MESSAGES, OmissionReason.BUDGET, len(history) - kept.messages),
                (ContextPart.MESSAGES, OmissionReason.DETACHED, kept.messages - len(recent)),
                (ContextPart.PASSAGES, OmissionReason.BUDGET, len(prompt.passages) - kept.passages),
                (ContextPart.SUMMARY, OmissionReason.BUDGET, int(not kept.summary)),
            ),
        ),
    )


def measure(prompt: Prompt, *, tokens: TokenEstimate, is_grounded: bool) -> int:
    """Tokens of the whole prompt, nothing dropped."""
    sizes = _measure(prompt, _spoken(prompt.messages[: prompt.question_at]), tokens, is_grounded=is_grounded)
    return sizes.fixed + sizes.summary + sum(sizes.history) + sum(sizes.passages)


def _keep(sizes: _Sizes, room: int) -> _Kept:
    """What goes into the room that system text, examples and question leave, the most important first."""
    reserved = sizes.exchange if sizes.exchange <= room // _EXCHANGE_SHARE else 0
    has_summary = sizes.summary <= room - reserved
    room -= sizes.summary if has_summary else 0
    passages = _fitting(sizes.passages, room - reserved)
    room -= sum(sizes.passages[:passages])
    return _Kept(has_summary, passages, _fitting(tuple(reversed(sizes.history)), room))


def _omissions(*counted: tuple[ContextPart, OmissionReason, int]) -> tuple[Omission, ...]:
    return tuple(Omission(part, reason, count) for part, reason, count in counted if count)


def _measure(prompt: Prompt, history: Sequence[Message], tokens: TokenEstimate, *, is_grounded: bool) -> _Sizes:
    system = system_text(prompt.system, is_grounded=False)
    shown = [passage_text(number, passage) for number, passage in enumerate(prompt.passages, start=1)]
    sizes = [tokens.of(text) for text in shown]
    if sizes:  # the frame and the rules go with the last passage that goes
        sizes[0] += _FRAME_TOKENS + (tokens.of_message(GROUNDING) if is_grounded else 0)
    spoken = tuple(_message_tokens(message, tokens) for message in history)
    summary = f"{SUMMARISED}\n\n{summary_text(prompt.summary)}\n\n" if prompt.summary else ""
    return _Sizes(
        system=(tokens.of_message(system) if system else 0) + tokens.of_tools(prompt.tools),
        examples=sum(tokens.of_message(turn.text) for turn in _turns(prompt.examples)),
        question=sum(_message_tokens(message, tokens) for message in prompt.messages[prompt.question_at :]),
        summary=tokens.of_message(summary) if summary else 0,
        exchange=sum(spoken[_newest_exchange(history) :]),
        history=spoken,
        passages=tuple(sizes),
    )


def _message_tokens(message: Message, tokens: TokenEstimate) -> int:
    if not message.parts:
        return tokens.of_message(message.text)
    return tokens.of_message("") + tokens.of_parts(message.parts)


def _with_passages(question: Message, passages: Sequence[Passage]) -> Message:
    """The question as the model reads it: behind the passages."""
    if not question.parts:
        return Message(Role.USER, question_text(question.text, passages))
    if not passages:
        return question
    return replace(question, parts=(TextPart(question_text("", passages)), *question.parts))


def _after(summary: str, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages with what was said before them, in the first one: not all models take two of one author in a row."""
    first, shown = messages[0], summary_text(summary)
    if first.parts:
        opened = replace(first, parts=(TextPart(f"{shown}\n\n"), *first.parts))
    else:
        opened = Message(first.role, f"{shown}\n\n{first.text}")
    return (opened, *messages[1:])


def _newest_exchange(history: Sequence[Message]) -> int:
    """Where the last question before the one asked stands, what was answered included."""
    for index in range(len(history) - 1, -1, -1):
        if history[index].role is Role.USER and not history[index].answers_tools:
            return index
    return len(history)


def _fitting(sizes: Sequence[int], room: int) -> int:
    """How many of the first sizes fit together."""
    return sum(total <= room for total in accumulate(sizes))


def _spoken(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages with text; an answer that failed before its first word has none, and providers refuse empty ones."""
    return tuple(message for message in messages if not message.is_empty)


def _opening_with_user(messages: Sequence[Message]) -> tuple[Message, ...]:
    """An answer whose question was dropped would stand there as if the model had begun the talk."""
    for index, message in enumerate(messages):
        if message.role is Role.USER and not message.answers_tools:
            return tuple(messages[index:])
    return ()


def _turns(examples: Sequence[Example]) -> tuple[Message, ...]:
    return tuple(
        turn
        for example in examples
        for turn in (Message(Role.USER, example.user), Message(Role.ASSISTANT, example.assistant))
    )
