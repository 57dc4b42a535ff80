"""Stand-ins for what inference does for conversation beside answers: prompts by name, and texts that nobody watches."""

from collections.abc import Awaitable, Callable

from services.conversation.context import PromptReference
from services.conversation.model import FinishReason, Owner, Usage
from services.conversation.ports import GenerationRequest, WholeText


class FakePrompts:
    """Knows every prompt; `failure` is what it says instead."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.asked: list[tuple[Owner, PromptReference]] = []

    async def require(self, owner: Owner, reference: PromptReference) -> None:
        self.asked.append((owner, reference))
        if self.failure is not None:
            raise self.failure


class FakeWriter:
    """Writes `text`, or raises `failure`; `gate` is awaited before."""

    def __init__(self, text: str = "They spoke.") -> None:
        self.text = text
        self.finish_reason = FinishReason.STOP
        self.failure: Exception | None = None
        self.gate: Callable[[], Awaitable[None]] | None = None
        self.requests: list[tuple[Owner, GenerationRequest]] = []

    async def write(self, owner: Owner, request: GenerationRequest, *, time_s: float) -> WholeText:
        self.requests.append((owner, request))
        if self.gate is not None:
            await self.gate()
        if self.failure is not None:
            raise self.failure
        return WholeText(
            text=self.text,
            finish_reason=self.finish_reason,
            model="cheap/one",
            usage=Usage(input_tokens=9, output_tokens=2),
        )
