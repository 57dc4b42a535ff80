"""Which examples of a revision an answer gets: all of a fixed set, or those whose questions are nearest to its own.

Vectors of examples are kept in the store by what was embedded, and in memory by revision, so that a warm choice embeds
the question and nothing else. Nearness is worth no answer: when nothing can be embedded, the first examples will do.
"""

import asyncio
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from services.inference.embedding import TEXT_CHARS_MAX, Embeds, Vector
from services.inference.model import Example
from services.inference.money.purse import Payer
from services.inference.prompts import metrics
from services.inference.prompts.model import Revision, Selection
from services.inference.prompts.store import PromptStore
from services.mesh import telemetry
from services.mesh.cache import LocalCache
from services.mesh.errors import MeshError, RetrievalUnavailable

REVISIONS_KEPT_MAX: Final = 256
"""Matrices of 200 vectors of 384 numbers are 300 KB at most."""
TEXTS_AT_ONCE: Final = 16
"""Of examples in one call to the encoder, ~60 ms of its time, so that nobody's question waits for long behind them."""
CHOICE_S_MAX: Final = 2.0
"""An answer waits for its examples no longer; vectors that were made meanwhile are kept for the next one."""
PREPARATION_S_MAX: Final = 3.0
"""A new revision waits for its vectors no longer; what is missing is embedded when it is first asked for."""

_FLOATS: Final = np.dtype("<f4")
_Matrix: TypeAlias = npt.NDArray[np.float32]

_log = telemetry.logger("inference.prompts")


@dataclass(frozen=True, slots=True)
class Chosen:
    """An example for an answer.

    Attributes:
        number: in its revision, from 1.
        similarity: of its question to the one asked, -1 to 1; None when it was not chosen by that.
    """

    number: int
    example: Example
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The examples of an answer, in the order in which a model reads them; `is_unranked` when nothing was embedded."""

    chosen: tuple[Chosen, ...]
    is_unranked: bool = False


class Examples:
    """Chooses examples.

    Args:
        store: keeps vectors.
        embeds: makes vectors; None where there is nobody who could.
        choice_s: bounds a choice.
        preparation_s: bounds the preparation of a revision.
    """

    def __init__(
        self,
        store: PromptStore,
        embeds: Embeds | None,
        *,
        choice_s: float = CHOICE_S_MAX,
        preparation_s: float = PREPARATION_S_MAX,
    ) -> None:
        self._store = store
        self._embeds = embeds
        self._choice_s = choice_s
        self._preparation_s = preparation_s
        self._matrices: LocalCache[_Matrix] = LocalCache(entries_max=REVISIONS_KEPT_MAX, life_s=math.inf)

    async def choose(self, revision: Revision, question: str, payer: Payer) -> Choice:
        """The examples of a revision for a question. Never fails."""
        content = revision.content
        if content.selection is Selection.FIXED:
            metrics.SELECTIONS.labels("fixed").inc()
            return Choice(_first(content.examples, len(content.examples)))
        count = min(content.nearest_count, len(content.examples))
        if count == 0:
            return Choice(())
        if not question.strip():  # that of a picture alone, or a preview that has none
            return Choice(_first(content.examples, count), is_unranked=True)
        try:
            async with asyncio.timeout(self._choice_s):
                similarities = await self._similarities(revision, question, payer)
        except (MeshError, TimeoutError) as error:
            _log.warning("prompt_examples_unranked", revision=revision.name, error=repr(error))
            metrics.SELECTIONS.labels("unranked").inc()
            return Choice(_first(content.examples, count), is_unranked=True)
        metrics.SELECTIONS.labels("nearest").inc()
        # Of equals the earlier one; the nearest last, next to the question.
        order = sorted(range(len(similarities)), key=lambda index: (-similarities[index], index))[:count]
        nearest = (Chosen(index + 1, content.examples[index], similarities[index]) for index in reversed(order))
        return Choice(tuple(nearest))

    async def prepare(self, revision: Revision, payer: Payer) -> None:
        """Has the vectors of a new revision made and kept, as far as that goes quickly. Never fails."""
        if revision.content.selection is not Selection.NEAREST or not revision.content.examples:
            return
        try:
            async with asyncio.timeout(self._preparation_s):
                await self._similarities(revision, revision.content.examples[0].user, payer)
        except (MeshError, TimeoutError) as error:
            _log.warning("prompt_examples_not_prepared", revision=revision.name, error=repr(error))

    async def _similarities(self, revision: Revision, question: str, payer: Payer) -> list[float]:
        """Cosine of each example's question and the one asked.

        Raises:
            MeshError: something could not be embedded, or looked up.
        """
        if self._embeds is None:
            raise RetrievalUnavailable("nobody can embed here")
        embedded = await self._embeds.embed(payer, [question])
        key = f"{revision.name} {embedded.encoder}"
        matrix = self._matrices.get(key)
        if matrix is None:
            matrix = await self._matrix(self._embeds, revision, embedded.encoder, payer)
            self._matrices.put(key, matrix)
        similarities: list[float] = (matrix @ np.asarray(embedded.vectors[0], _FLOATS)).tolist()
        return similarities

    async def _matrix(self, embeds: Embeds, revision: Revision, encoder: str, payer: Payer) -> _Matrix:
        """Vectors of all examples, one per row; those that are not known are made and kept."""
        texts = {_digest(example.user): example.user for example in revision.content.examples}
        known = await self._store.vectors(payer.organization_id, encoder, list(texts))
        missing = [digest for digest in texts if digest not in known]
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            digests = missing[start : start + TEXTS_AT_ONCE]
            made = await embeds.embed(payer, [texts[digest] for digest in digests])
            if made.encoder != encoder:  # it was exchanged this moment
                raise RetrievalUnavailable("the encoder has changed meanwhile")
            fresh = dict(zip(digests, map(_packed, made.vectors), strict=True))
            await self._store.keep_vectors(payer.organization_id, encoder, fresh)
            known |= fresh
        rows = [np.frombuffer(known[_digest(example.user)], _FLOATS) for example in revision.content.examples]
        return np.vstack(rows)


def _first(examples: Sequence[Example], count: int) -> tuple[Chosen, ...]:
    return tuple(Chosen(number, example) for number, example in enumerate(examples[:count], start=1))


def _digest(text: str) -> bytes:
    """Of what the encoder is given of a text."""
    return hashlib.sha256(text[:TEXT_CHARS_MAX].encode()).digest()


def _packed(vector: Vector) -> bytes:
    return np.asarray(vector, _FLOATS).tobytes()
