"""The built-in model: quotes the sentences of the given passages that answer the question, and says when none does.

It needs no key, no network and no weights, and gives the same answer for the same prompt.
"""

import re
from collections.abc import AsyncGenerator
from typing import Final

from services.inference.extraction.drafting import Draft, draft
from services.inference.extraction.selection import Strength, ask, select
from services.inference.model import FinishReason
from services.inference.prompts.tokens import TokenEstimate
from services.inference.providers import names
from services.inference.providers.base import Cited, Ended, Profile, ProviderEvent, Task, Text
from services.mesh.tasks import BoundedExecutor

# It reads words, not tokens; the usual size of an English word keeps its figures comparable with those of others.
TOKENS: Final = TokenEstimate(ascii_chars_per_token=4.0)

# Eight paragraphs take about 5 ms of one core, fifty about 25 ms: too long for the event loop.
_THREADS: Final = 1
_QUEUE_MAX: Final = 256
# Of a talk without passages that is answered where it is asked: half a millisecond at most, a greeting 17 us. By way of
# a thread that is 110 us more, and on a busy event loop the thread waits 5 ms for its turn, twice.
_AT_ONCE_CHARS_MAX: Final = 2_000

_PIECE: Final = re.compile(r"\s*\S+")


class ExtractiveProvider:
    """Answers from passages. Of the parameters it knows stop texts and length, which it keeps to by whole words."""

    def __init__(self) -> None:
        self.profile: Final = Profile(name=names.EXTRACTIVE, tokens=TOKENS, cites=True)
        self._executor = BoundedExecutor("inference_extraction", threads=_THREADS, queue_max=_QUEUE_MAX)

    async def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        """See `Provider.generate`."""
        answer, finish_reason = _answer(task) if _is_small(task) else await self._executor.run(_answer, task)
        sent = 0
        waiting = list(answer.citations)
        for piece in _PIECE.findall(answer.text):
            sent += len(piece)
            yield Text(piece)
            while waiting and waiting[0].end <= sent:
                yield Cited(waiting.pop(0))
        yield Ended(finish_reason)

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._executor.__aexit__(None, None, None)


def _is_small(task: Task) -> bool:
    return not task.passages and sum(len(message.text) for message in task.messages) <= _AT_ONCE_CHARS_MAX


def _answer(task: Task) -> tuple[Draft, FinishReason]:
    selection = select(ask(task.messages), task.passages)
    whole = draft(selection, task.messages, task.passages)
    cut, is_cut_short = _cut(whole.text, task)
    if is_cut_short:
        return _shortened(whole, cut), FinishReason.LENGTH
    has_evidence = selection.strength is not Strength.NONE
    return _shortened(whole, cut), FinishReason.STOP if has_evidence else FinishReason.NO_EVIDENCE


def _cut(text: str, task: Task) -> tuple[str, bool]:
    """The text up to the first stop text, and whether the length cut it at a word."""
    ends = [at for stop in task.parameters.stop if (at := text.find(stop)) >= 0]
    text = text[: min(ends, default=len(text))].rstrip()
    longest = None if task.output_tokens_max is None else int(task.output_tokens_max * TOKENS.ascii_chars_per_token)
    if longest is None or len(text) <= longest:
        return text, False
    return (text[:longest].rsplit(maxsplit=1) or [""])[0], True


def _shortened(whole: Draft, text: str) -> Draft:
    return Draft(text, tuple(citation for citation in whole.citations if citation.end <= len(text)))
