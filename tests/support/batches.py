"""Batches for tests: a vendor in memory, runners that can be killed between any two awaits, and what they share."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar, cast

from parley.inference.v1 import generation_pb2, generation_service_pb2
from services.inference.batches.making import Batches, Entry
from services.inference.batches.model import Batch, BatchState, Item, Owner
from services.inference.batches.ordinary import Ordinary
from services.inference.batches.pacing import Pace
from services.inference.batches.paying import Till
from services.inference.batches.planning import Planner
from services.inference.batches.reading import ItemReader
from services.inference.batches.runner import Runner, Steps
from services.inference.batches.store_memory import MemoryBatches
from services.inference.batches.vendors import Vendors
from services.inference.catalog import Catalog
from services.inference.generating.course import Tactics
from services.inference.generating.generator import Generator
from services.inference.generating.retries import IMPATIENT
from services.inference.model import FinishReason, Generation
from services.inference.money.books import Books
from services.inference.money.model import Limits
from services.inference.money.purse import Payer
from services.inference.money.rates import LocalRates
from services.inference.prompts.examples import Choice
from services.inference.providers.base import Ended, Text, TokenCounts
from services.inference.providers.batching import (
    LANDING_S,
    Answered,
    BatchEndpoint,
    BatchItem,
    BatchTerms,
    Fate,
    Found,
    ItemOutcome,
    ItemResult,
    Progress,
    State,
    Submission,
    Unrun,
)
from services.inference.providers.failures import Failure
from services.inference.routing import Book, Key, Line, Router, Source
from services.inference.store_memory import MemoryStore
from services.inference.wire.batches import RequestCodec
from services.mesh.clock import ManualClock
from tests.support.inference import FakeProvider
from tests.support.money import CARD, ORGANIZATION, PAYER, USER

OWNER: Final = Owner(ORGANIZATION, USER)
KEY_ID: Final = "openai/operator"
TERMS: Final = BatchTerms(
    price_factor=Decimal("0.5"), items_max=100, bytes_max=1_000_000, source="test", date=date(2026, 11, 23)
)
COUNTS: Final = TokenCounts(input_tokens=10, output_tokens=4)
COST_NANOS: Final = 9_000
"""Of such an answer: 10 tokens at 500 nanos and 4 at 1,000, which is half of what `CARD` says."""
STEPS_MAX: Final = 400

T = TypeVar("T")


class Killed(BaseException):
    """The process died here."""


@dataclass
class Fuse:
    """A process dies when it has made so many steps; None lets it live."""

    steps: int | None = None

    def burn(self) -> None:
        if self.steps is None:
            return
        if self.steps <= 0:
            raise Killed
        self.steps -= 1


class _Mortal:
    """Dies before or after each call of what it stands for."""

    def __init__(self, target: Any, fuse: Fuse) -> None:  # Any: it stands for anything
        self._target = target
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:  # Any: as above
        found = getattr(self._target, name)
        if not callable(found) or name == "size_of":
            return found
        return self._stream(found) if name == "results" and hasattr(self._target, "terms") else self._call(found)

    def _call(self, method: Any) -> Any:  # Any: as above
        async def called(*args: Any, **kwargs: Any) -> Any:  # Any: as above
            self._fuse.burn()
            found = await method(*args, **kwargs)
            self._fuse.burn()
            return found

        return called

    def _stream(self, method: Any) -> Any:  # Any: as above
        async def streamed(*args: Any) -> AsyncGenerator[Any, None]:  # Any: as above
            async for one in method(*args):
                self._fuse.burn()
                yield one

        return streamed


def mortal(target: T, fuse: Fuse) -> T:
    return cast("T", _Mortal(target, fuse))  # it has every method that the target has


@dataclass
class Sent:
    """A batch that the vendor has."""

    submission: Submission
    items: Sequence[BatchItem]
    state: State = State.RUNNING
    is_cancelled: bool = False
    is_discarded: bool = False


@dataclass
class FakeVendor:
    """Implements `BatchEndpoint`; it is shared by all processes, and outlives each.

    Attributes:
        refusals: what the next submissions fail with.
        loses_reply: those that fail are taken all the same.
        outcomes: what becomes of items, by the words of their question; the others are answered.
        silent: such items have no result.
        looks: times that a batch is still running when it is looked at.
        gate: while it is closed, submissions wait; `waits` is how many have.
    """

    clock: ManualClock
    terms: BatchTerms = TERMS
    sent: dict[str, Sent] = field(default_factory=dict)
    refusals: list[Failure] = field(default_factory=list)
    loses_reply: bool = False
    outcomes: dict[str, ItemOutcome] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    looks: int = 1
    failure: Failure | None = None
    final_state: State = State.ENDED
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waits: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def size_of(self, item: BatchItem) -> int:
        return 100

    async def submit(self, submission: Submission, items: Sequence[BatchItem]) -> str:
        self.waits += not self.gate.is_set()
        await self.gate.wait()
        failure = self.refusals.pop(0) if self.refusals else None
        if failure is not None and not self.loses_reply:
            raise failure
        batch_id = f"batch_{len(self.sent) + 1}"
        self.sent[batch_id] = Sent(submission, items)
        if failure is not None:
            raise failure
        return batch_id

    async def find(self, submission: Submission, *, others: Collection[str] = ()) -> Found:
        for batch_id, sent in self.sent.items():
            if sent.submission.marker == submission.marker:
                assert batch_id not in others
                return Found(Fate.TAKEN, batch_id)
        has_landed = self.clock.now() >= submission.submitted_at + timedelta(seconds=LANDING_S)
        return Found(Fate.NOT_TAKEN if has_landed else Fate.UNKNOWN)

    async def progress(self, batch_id: str) -> Progress:
        if self.failure is not None and self.final_state is not State.REFUSED:
            raise self.failure
        sent = self.sent.get(batch_id)
        if sent is None:
            return Progress(state=State.GONE)
        if sent.state is State.RUNNING and (self.looks <= 0 or sent.is_cancelled):
            sent.state = self.final_state
        self.looks -= 1
        return Progress(state=sent.state, failure=self.failure)

    async def results(self, batch_id: str, submission: Submission) -> AsyncGenerator[ItemResult, None]:
        sent = self.sent[batch_id]
        assert sent.submission.marker == submission.marker
        for item in reversed(sent.items):
            question = item.task.messages[-1].text
            if question not in self.silent:
                yield ItemResult(item.id, self._outcome(sent, question))

    async def cancel(self, batch_id: str) -> None:
        if self.sent[batch_id].state is State.RUNNING:
            self.sent[batch_id].is_cancelled = True

    async def discard(self, batch_id: str) -> None:
        self.sent[batch_id].is_discarded = True

    def asked(self) -> list[str]:
        """Questions that it has taken, as often as it has."""
        return sorted(item.task.messages[-1].text for sent in self.sent.values() for item in sent.items)

    def _outcome(self, sent: Sent, question: str) -> ItemOutcome:
        if sent.is_cancelled:
            return Unrun.CANCELLED
        default = Answered((Text(f"Answer to {question}"), Ended(FinishReason.STOP, COUNTS)))
        return self.outcomes.get(question, default)


class DirectLimits:
    """Implements `limits.KnownLimits` without a memory."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def of(self, organization_id: str) -> Mapping[str, Limits]:
        return await self._store.limits(organization_id)

    async def changed(self, organization_id: str) -> None:
        return None


class NoPrompts:
    """Implements `planning.Resolves` where no prompt is named."""

    async def resolve(self, wish: Generation, payer: Payer) -> tuple[Generation, Choice]:
        return wish, Choice(())


@dataclass
class World:
    """What outlives processes: stores, vendor, clock; and the processes that work on them.

    Attributes:
        plain: a provider without batches, model `plain/m`; that with batches is `openai/m`.
        endpoint: takes the place of the vendor in memory.
    """

    clock: ManualClock = field(default_factory=ManualClock)
    store: MemoryBatches = field(default_factory=MemoryBatches)
    ledger: MemoryStore = field(default_factory=MemoryStore)
    plain: FakeProvider = field(default_factory=lambda: FakeProvider("plain"))
    ordinary: FakeProvider = field(default_factory=lambda: FakeProvider("openai"))
    offers_batches: bool = True
    endpoint: BatchEndpoint | None = None

    def __post_init__(self) -> None:
        self.vendor = FakeVendor(self.clock)

    def router(self, fuse: Fuse) -> Router:
        endpoint: BatchEndpoint = self.endpoint or mortal(self.vendor, fuse)
        offered = endpoint if self.offers_batches else None
        keys = {
            "openai": Key(id=KEY_ID, line=Line(self.ordinary, batches=offered)),
            "plain": Key(id="plain/key", line=Line(self.plain)),
        }
        sources = {name: Source(name=name, keys=(key,)) for name, key in keys.items()}
        return Router(Book(sources=sources, catalog=Catalog({"openai/m": CARD}), default="openai/m"))

    def till(self, fuse: Fuse, books: Books | None = None) -> Till:
        books = books or self.books(fuse)
        return Till(books, DirectLimits(self.ledger), allows_unpriced=lambda: False, clock=self.clock)

    def books(self, fuse: Fuse) -> Books:
        return Books(mortal(self.ledger, fuse), LocalRates(self.clock), clock=self.clock)

    def batches(
        self, fuse: Fuse | None = None, *, window_s: float = 48 * 3_600.0, books: Books | None = None
    ) -> Batches:
        fuse = fuse or Fuse()
        planner = Planner(self.router(fuse), NoPrompts(), RequestCodec(), context_tokens_assumed=10_000)
        till, store = self.till(fuse, books), mortal(self.store, fuse)
        return Batches(store, planner, till, RequestCodec(), window_s=window_s, clock=self.clock)

    def runner(self, fuse: Fuse | None = None, **changes: Any) -> Runner:  # Any: fields of a pace by name
        fuse = fuse or Fuse()
        router, till, store = self.router(fuse), self.till(fuse), mortal(self.store, fuse)
        pace = replace(Pace(chance=lambda: 0.5), **changes)
        planner = Planner(router, NoPrompts(), RequestCodec(), context_tokens_assumed=10_000)
        answers = Generator(
            router, total_s=20.0, context_tokens_assumed=10_000, tactics=Tactics(patience=IMPATIENT), clock=self.clock
        )
        reader = ItemReader(planner, RequestCodec(), self.clock)
        vendors = Vendors(store, planner, reader, till, pace=pace, clock=self.clock)
        ordinary = Ordinary(store, answers, till, RequestCodec(), pace=pace, clock=self.clock)
        return Runner(store, Steps(store, vendors, ordinary, till, clock=self.clock), pace=pace, clock=self.clock)

    async def create(self, *questions: str, model: str = "openai/m", **changes: Any) -> Batch:
        """A batch of questions; Any: what `batches` takes by name."""
        return await self.batches(**changes).create(PAYER, entries(*questions, model=model), None)

    async def finish(self, batch: Batch, runner: Runner | None = None) -> list[Item]:
        """Lets runners work until the batch has ended, however long that takes; gives its results."""
        runner = runner or self.runner()
        for _ in range(STEPS_MAX):
            if not await runner.step():
                self.clock.advance(60.0)
            found = await self.store.find(batch.owner, batch.id)
            if found is None or found.state is BatchState.ENDED:
                return await self.results(batch)
        raise AssertionError("the batch does not end")

    async def results(self, batch: Batch) -> list[Item]:
        return await self.store.results(batch.owner, batch.id, after=-1, limit=1_000)

    def paid(self) -> list[int | None]:
        """Costs in the ledger."""
        return [line.consumed.cost_nanos for line in self.ledger.lines.values()]


def entry(custom_id: str, question: str, *, model: str = "openai/m", **fields: Any) -> Entry:
    """An item that is right; Any: fields of its request by name."""
    message = generation_pb2.PromptMessage(role=generation_pb2.ROLE_USER, text=question)
    request = generation_service_pb2.GenerateRequest(
        model=model, prompt=generation_pb2.Prompt(messages=[message]), **fields
    )
    return Entry(custom_id, request.SerializeToString())


def entries(*questions: str, model: str = "openai/m") -> list[Entry]:
    return [entry(f"item-{number}", question, model=model) for number, question in enumerate(questions)]


def text_of(item: Item) -> str:
    return generation_pb2.Answer.FromString(item.answer).text


async def until_killed(work: Callable[[], Any]) -> bool:
    """Whether `work` was killed; Any: a coroutine of anything."""
    with suppress(Killed, BaseExceptionGroup):
        await work()
        return False
    return True
