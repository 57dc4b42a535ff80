"""Fits a prompt into a budget: system text, examples and question always, passages and history as far as they go.

What follows the question, calls of tools and their results, belongs to it: a result without its call is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from services.inference.model import ContextReport, Example, Message, Passage, Prompt, Role
from services.inference.parts import TextPart
from services.inference.prompts.tokens import TokenEstimate
from services.inference.prompts.wording import GROUNDING, passage_text, question_text, system_text
from services.mesh.errors import ContextLengthExceeded

# The frame around all passages.
_FRAME_TOKENS: Final = 12


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
    """Tokens of the parts; histories and passages one by one."""

    system: int
    examples: int
    question: int
    history: tuple[int, ...]
    passages: tuple[int, ...]

    @property
    def fixed(self) -> int:
        return self.system + self.examples + self.question


def assemble(prompt: Prompt, *, tokens: TokenEstimate, budget: int, is_grounded: bool) -> Assembled:
    """The prompt within `budget` tokens: the oldest messages go first, then the weakest passages.

    Args:
        prompt: what was asked.
        tokens: how the model's tokens are estimated.
        budget: input tokens that the model may read.
        is_grounded: the model needs to be told about passages.

    Raises:
        ContextLengthExceeded: system text, examples and question alone do not fit.
    """
    at = prompt.question_at
    history, asked, tools_used = _spoken(prompt.messages[:at]), prompt.messages[at], prompt.messages[at + 1 :]
    sizes = _measure(prompt, history, tokens, is_grounded=is_grounded)
    if sizes.fixed > budget:
        raise ContextLengthExceeded(
            "system text, examples and question alone do not fit the model",
            metadata={"input_tokens": str(sizes.fixed), "input_tokens_max": str(budget)},
        )
    passages_kept = _fitting(sizes.passages, budget - sizes.fixed)
    room = budget - sizes.fixed - sum(sizes.passages[:passages_kept])
    recent = _opening_with_user(history[len(history) - _fitting(tuple(reversed(sizes.history)), room) :])
    kept = prompt.passages[:passages_kept]
    history_tokens = sizes.question + sum(sizes.history[len(history) - len(recent) :])
    return Assembled(
        system=system_text(prompt.system, is_grounded=is_grounded and bool(kept)),
        turns=(*_turns(prompt.examples), *recent, _with_passages(asked, kept), *tools_used),
        messages=(*recent, asked, *tools_used),
        passages=kept,
        report=ContextReport(
            system_tokens=sizes.system,
            example_tokens=sizes.examples,
            history_tokens=history_tokens,
            passage_tokens=sum(sizes.passages[:passages_kept]),
            messages_dropped=len(history) - len(recent),
            passages_dropped=len(prompt.passages) - passages_kept,
        ),
    )


def measure(prompt: Prompt, *, tokens: TokenEstimate, is_grounded: bool) -> int:
    """Tokens of the whole prompt, nothing dropped."""
    sizes = _measure(prompt, _spoken(prompt.messages[: prompt.question_at]), tokens, is_grounded=is_grounded)
    return sizes.fixed + sum(sizes.history) + sum(sizes.passages)


def _measure(prompt: Prompt, history: Sequence[Message], tokens: TokenEstimate, *, is_grounded: bool) -> _Sizes:
    system = system_text(prompt.system, is_grounded=False)
    shown = [passage_text(number, passage) for number, passage in enumerate(prompt.passages, start=1)]
    sizes = [tokens.of(text) for text in shown]
    if sizes:  # the frame and the rules go with the last passage that goes
        sizes[0] += _FRAME_TOKENS + (tokens.of_message(GROUNDING) if is_grounded else 0)
    return _Sizes(
        system=(tokens.of_message(system) if system else 0) + tokens.of_tools(prompt.tools),
        examples=sum(tokens.of_message(turn.text) for turn in _turns(prompt.examples)),
        question=sum(_message_tokens(message, tokens) for message in prompt.messages[prompt.question_at :]),
        history=tuple(_message_tokens(message, tokens) for message in history),
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
