"""Search and a model that answer as real ones do: not twice the same, not always to the end."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from services.conversation.model import FinishReason, Owner, RetrievalDecision, Usage
from services.conversation.ports import (
    Evidence,
    Generated,
    GeneratedCitation,
    GeneratedText,
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    Question,
)
from services.mesh.errors import Unavailable
from tests.simulation.history import History, Prompt
from tests.simulation.wire import Wire
from tests.support.conversation_fakes import PASSAGE

WORDS: Final = ("Ada", " wrote", " the", " first", " notes", ", \U0001f9ee", " été", " programs", ".", "\n")
CITED: Final = 3
CUT_SHORT: Final = 0.1
"""Share of answers that are as long as they may be."""
GOES_ON: Final = 0.5
"""Share of continued answers that the model goes on with; the others it gives again, from the start."""
TAKES_PREFIX: Final = 0.5
"""Share of attempts that go on with the beginning of the answer that they are given."""
THINKS: Final = 0.04
"""Share of answers before which the model is silent for longer than a lease."""


@dataclass(slots=True)
class Mood:
    """How the model is now; probabilities.

    Attributes:
        breaks: per word, that the stream ends with an error, or without an end.
        differs: per answer, that it is another text than the usual one.
        stalls: per word, that nothing comes for a long while.
    """

    breaks: float = 0.0
    differs: float = 0.0
    stalls: float = 0.0

    def clear(self) -> None:
        self.breaks = self.differs = self.stalls = 0.0


class Search:
    """See `Retrieval`: finds a passage, or another one, or none."""

    def __init__(self, chance: random.Random, mood: Mood, wire: Wire) -> None:
        self._chance = chance
        self._mood = mood
        self._wire = wire

    async def search(self, owner: Owner, question: Question) -> Evidence:
        await asyncio.sleep(self._wire.delay_s())
        if self._chance.random() < self._mood.differs / 4:
            return Evidence(decision=RetrievalDecision.SKIPPED, probability=0.1)
        return Evidence(decision=RetrievalDecision.RETRIEVED, probability=0.9, passages=(PASSAGE,))


class Model:
    """See `Inference`."""

    def __init__(self, chance: random.Random, mood: Mood, history: History) -> None:
        self._chance = chance
        self._mood = mood
        self._history = history

    @asynccontextmanager
    async def generate(
        self, owner: Owner, request: GenerationRequest
    ) -> AsyncIterator[AsyncIterator[Sequence[Generated]]]:
        question = request.messages[-1].text
        before = tuple(message.text for message in request.messages[:-1])
        self._history.prompts.setdefault(question, []).append(Prompt(self._history.clock(), before, request.summary))
        goes_on = bool(request.system) and self._chance.random() < GOES_ON
        given = request.continue_from
        if given and self._chance.random() >= TAKES_PREFIX:
            given = ""
        words = self._answer(question, goes_on=goes_on)
        yield self._steps(question, given, _after(words, given), has_passages=bool(request.passages))

    def is_away(self) -> bool:
        return False

    async def _steps(
        self, question: str, given: str, words: list[str], *, has_passages: bool
    ) -> AsyncIterator[Sequence[Generated]]:
        chance, mood = self._chance, self._mood
        await asyncio.sleep(chance.uniform(7.0, 9.0) if chance.random() < THINKS else chance.uniform(0.01, 0.5))
        yield [GenerationStarted("scripted/one", offset=len(given))]
        offset, pace_s = len(given), chance.choice((0.02, 0.1, 0.5))
        for word in words:
            await asyncio.sleep(chance.uniform(0.0, pace_s))
            if mood.breaks and chance.random() < mood.breaks:
                if chance.random() < 0.5:
                    return
                raise Unavailable("the model hung up")
            if mood.stalls and chance.random() < mood.stalls:
                await asyncio.sleep(chance.uniform(1.0, 10.0))
            yield [GeneratedText(offset, word)]
            offset += len(word)
        cited = GeneratedCitation(passage=1, start=0, end=CITED, source_start=0, source_end=12)
        self._history.generated.setdefault(question, []).append(given + "".join(words))
        reason = FinishReason.LENGTH if chance.random() < CUT_SHORT else FinishReason.STOP
        finished = GenerationFinished(reason, "scripted/one", Usage(input_tokens=5, output_tokens=len(words)))
        yield [*([cited] if has_passages else []), finished]

    def _answer(self, question: str, *, goes_on: bool) -> list[str]:
        usual = random.Random(question)
        beginning = "," if goes_on else f"{question}:"
        words = [beginning, *(usual.choice(WORDS) for _ in range(usual.randint(1, 40)))]
        if self._chance.random() < self._mood.differs:
            cut = self._chance.randint(1, len(words))
            words = words[:cut] + [self._chance.choice(WORDS) for _ in range(self._chance.randint(0, 20))]
        return words


def _after(words: list[str], given: str) -> list[str]:
    """What is left to write behind the beginning of an answer; where it is another answer's, these words follow it."""
    whole = "".join(words)
    if not given or not whole.startswith(given):
        return words
    left = whole[len(given) :]
    return [left] if left else []
