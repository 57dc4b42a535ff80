"""What answers a wish, whoever does it: the generator itself, or what stands before it and hands on what it cannot do.

The order is prompts, cache, generator: what a wish stands for is known before anybody looks whether it was answered.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from services.inference.generating.generator import TokenCount
from services.inference.model import Answer, Event, Generation
from services.inference.money.purse import Payer


class Answers(Protocol):
    """Answers wishes."""

    def stream(self, wish: Generation, payer: Payer) -> AsyncGenerator[Event, None]:
        """The answer as it is written: Started first, Finished last. Closing it ends what nobody else waits for.

        Raises:
            MeshError: nobody could answer, or the payer may not.
        """
        ...

    async def answer(self, wish: Generation, payer: Payer) -> Answer:
        """The whole answer. Nobody has seen any of it before, so it may begin again.

        Raises:
            MeshError: as `stream`.
        """
        ...

    async def count_tokens(self, wish: Generation, payer: Payer) -> TokenCount:
        """What the prompt of a wish would cost to read, nothing dropped.

        Raises:
            ModelUnknown: no configured provider serves the model.
            NotFound, InvalidArgument: the prompt that it names cannot be used.
        """
        ...
