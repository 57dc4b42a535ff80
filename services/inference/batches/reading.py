"""A vendor's whole answer to an item, as any other answer is told."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from services.inference import genai
from services.inference import metrics as inference_metrics
from services.inference.batches.model import Batch, Item
from services.inference.batches.outcomes import failed, succeeded
from services.inference.batches.paying import consumed_of
from services.inference.batches.planning import Codec, Plan, Planner
from services.inference.catalog import ModelCard
from services.inference.generating.continuation import Placed
from services.inference.generating.writing import Writing
from services.inference.model import Answer, Usage
from services.inference.money.model import Consumed
from services.inference.parts import PartDelta
from services.inference.prompts.resolving import told
from services.inference.providers.base import Accepted, Cited, Ended, ProviderEvent, Text
from services.mesh.clock import Clock
from services.mesh.errors import MeshError

Events = tuple[ProviderEvent, ...]


def _nothing_to_tell() -> None:
    """An item that was not answered."""


@dataclass(frozen=True, slots=True)
class Read:
    """An item after an attempt.

    Attributes:
        consumed: what the vendor settled; None for nothing.
        tell: writes the line and counts the tokens of an answer, once all of it is kept.
    """

    item: Item
    consumed: Consumed | None = None
    tell: Callable[[], None] = _nothing_to_tell


class ItemReader:
    """Reads answers to items.

    Args:
        planner: says what was asked.
        codec: keeps answers.
        clock: says how long it took.
    """

    def __init__(self, planner: Planner, codec: Codec, clock: Clock) -> None:
        self._planner = planner
        self._codec = codec
        self._clock = clock

    async def read(self, batch: Batch, item: Item, events: Events, card: ModelCard | None) -> Read:
        """An item that a vendor answered; `card` has the prices of a batch."""
        usage = _settled(events, card)
        try:
            plan = replace(await self._planner.again(batch, item), card=card) if item.request else None
        except MeshError as error:
            # What was asked cannot be told any more, as when its prompt was deleted meanwhile: it is paid all the same.
            consumed = None if usage is None else consumed_of(usage, card)
            return Read(failed(item if usage else replace(item, call_id=""), error), consumed)
        if plan is None:  # the batch was deleted, and all that is left to do is to settle it
            if usage is None:
                return Read(succeeded(replace(item, call_id=""), b"", is_batched=True))
            return Read(succeeded(item, b"", is_batched=True), consumed_of(usage, card))
        answer = answer_of(plan, events, usage)
        kept = succeeded(item, self._codec.encode(answer), is_batched=True)
        return Read(kept, consumed_of(answer.usage, card), lambda: self._tell(batch, item, plan, answer))

    def _tell(self, batch: Batch, item: Item, plan: Plan, answer: Answer) -> None:
        inference_metrics.collected(plan.target, answer.finish_reason, answer.usage)
        history = genai.History(
            asked=plan.wish.model,
            outcome="ok",
            attempts=item.attempts,
            switches=0,
            seconds=(self._clock.now() - batch.created_at).total_seconds(),
        )
        genai.tell(history, answer, answer.usage)


def answer_of(plan: Plan, events: Events, usage: Usage | None) -> Answer:
    """The answer; `usage` is None where the vendor told none, and it is counted here."""
    writing = Writing()
    assembled, profile = plan.fit.assembled, plan.target.profile
    writing.read_marks(None if profile.cites else assembled.passages)
    ended: Ended | None = None
    for event in events:
        match event:
            case Text(text, is_refusal):
                writing.put(Placed(writing.length, text), is_refusal=is_refusal)
            case PartDelta():
                writing.add_part(event)
            case Cited(citation):
                writing.cite(citation)
            case Ended():
                ended = event
            case Accepted():
                pass
    assert ended is not None  # the port gives no answer without its end
    answer = Answer(
        text=writing.text,
        citations=writing.citations,
        finish_reason=ended.finish_reason,
        model=plan.target.name,
        usage=usage or _counted(plan, writing),
        context=assembled.report,
        parts=writing.parts,
        stop_text=ended.stop_text,
        refusal_category=ended.refusal_category,
    )
    return told(answer, plan.wish, plan.choice)


def _settled(events: Events, card: ModelCard | None) -> Usage | None:
    """What the vendor says that an answer consumed, with its cost; None when it does not say."""
    counts = next((event.counts for event in events if isinstance(event, Ended)), None)
    if counts is None:
        return None
    usage = Usage(
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        cached_input_tokens=min(counts.cached_input_tokens, counts.input_tokens),
        reasoning_tokens=counts.reasoning_tokens,
    )
    return _priced(usage, card)


def _counted(plan: Plan, writing: Writing) -> Usage:
    tokens, parts = plan.target.profile.tokens, writing.parts
    usage = Usage(
        input_tokens=plan.fit.assembled.report.input_tokens,
        output_tokens=tokens.of_parts(parts) if parts else tokens.of(writing.text),
        estimated=True,
    )
    return _priced(usage, plan.card)


def _priced(usage: Usage, card: ModelCard | None) -> Usage:
    return usage if card is None else replace(usage, cost_micros=card.cost_micros(usage))
