"""`python -m services.retrieval.evaluation.merging`: what it saves to encode the texts of several callers together.

Callers ask for one text after another, merged by the embedder or each by a call of its own; both in turns, so that they
meet the same machine. Processor time is that of the whole process.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from services.mesh.tasks import BoundedExecutor
from services.retrieval.embedding.cache import LocalVectors
from services.retrieval.embedding.encoder import Encoder, Vectors
from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from services.retrieval.embedding.service import open_embedder

CALLERS: Final = (1, 8, 64)
_SENTENCE: Final = (
    "how many days of paid vacation does an employee get per year when moving between offices in another country and "
    "which invoice of the travel budget is paid within fourteen days after it arrives at the desk of the team"
)
_WORDS: Final = _SENTENCE.split()
_KINDS: Final = {"questions": (6, 14), "passages": (60, 140)}
_SEED: Final = 20_261_122

Ask = Callable[[str], Awaitable[object]]


class Counted:
    """An encoder that counts its calls."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.calls = 0
        self.revision = encoder.revision
        self.dimension = encoder.dimension
        self.tokens_max = encoder.tokens_max

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`."""
        self.calls += 1
        return self._encoder.encode(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Encoder.count_tokens`."""
        return self._encoder.count_tokens(texts)


@dataclass(slots=True)
class Figures:
    """Of all rounds of one way of asking."""

    texts: int = 0
    calls: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def line(self) -> str:
        """As a row of the table."""
        return (
            f"{self.calls / self.texts:>14.3f}{self.cpu_s / self.texts * 1e3:>15.2f}{self.texts / self.wall_s:>14.0f}"
        )


async def measure(encoder: Counted, kind: str, *, callers: int, texts: int, rounds: int) -> tuple[Figures, Figures]:
    """Merged and unmerged, in turns."""
    merged, alone = Figures(), Figures()
    chance = random.Random(_SEED)  # noqa: S311 - texts for a measurement
    async with AsyncExitStack() as stack:
        embedder = await stack.enter_async_context(open_embedder(encoder, LocalVectors(0, None)))
        executor = await stack.enter_async_context(BoundedExecutor("alone", threads=1, queue_max=callers))
        embed = embedder.embed_questions if kind == "questions" else embedder.embed_passages

        async def together(text: str) -> object:
            return await embed([text])

        async def by_itself(text: str) -> object:
            return await executor.run(encoder.encode, [text])

        for _ in range(rounds):
            made = [_text(chance, *_KINDS[kind]) for _ in range(texts)]
            for ask, figures in ((together, merged), (by_itself, alone)):
                await _round(encoder, ask, made, callers=callers, figures=figures)
    return merged, alone


async def _round(encoder: Counted, ask: Ask, texts: Sequence[str], *, callers: int, figures: Figures) -> None:
    calls, cpu_s, wall_s = encoder.calls, time.process_time(), time.perf_counter()
    waiting = iter(texts)

    async def caller() -> None:
        for text in waiting:
            await ask(text)

    await asyncio.gather(*(caller() for _ in range(callers)))
    figures.texts += len(texts)
    figures.calls += encoder.calls - calls
    figures.cpu_s += time.process_time() - cpu_s
    figures.wall_s += time.perf_counter() - wall_s


def _text(chance: random.Random, least: int, most: int) -> str:
    return " ".join(chance.choice(_WORDS) for _ in range(chance.randint(least, most)))


async def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m services.retrieval.evaluation.merging", description=__doc__)
    parser.add_argument("--texts", type=int, default=192, help="texts of a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each way of asking")
    parser.add_argument("--threads", type=int, default=2, help="cores for the encoder")
    options = parser.parse_args()
    encoder = Counted(OnnxEncoder(ModelFiles.packaged(), threads=options.threads))
    encoder.encode([_SENTENCE])
    heads = ("encoder calls", "processor ms", "texts")
    _say(f"{'':<32}{heads[0]:>14}{heads[1]:>15}{heads[2]:>14}\n{'callers':<32}{'/text':>14}{'/text':>15}{'/s':>14}")
    for kind in _KINDS:
        for callers in CALLERS:
            size = {"callers": callers, "texts": options.texts, "rounds": options.rounds}
            for name, figures in zip(("merged", "alone"), await measure(encoder, kind, **size), strict=True):
                _say(f"{callers:>3} {kind:<10} {name:<17}{figures.line()}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
