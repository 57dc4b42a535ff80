"""Who is to answer an item, what it will be asked, and what that may cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.inference.batches.model import ITEM_PREFIX, Batch, Item
from services.inference.catalog import ModelCard
from services.inference.generating.attempts import Fitted, first_fitted
from services.inference.model import Answer, Generation
from services.inference.money.purse import Estimate, Payer, Purpose
from services.inference.prompts.examples import Choice
from services.inference.providers.base import Task
from services.inference.providers.batching import BatchEndpoint, BatchItem
from services.inference.routing import Key, Router, Target
from services.mesh.errors import ContextLengthExceeded, ModelUnknown


class Codec(Protocol):
    """Wishes and answers as bytes, in the words of the contract."""

    def decode(self, request: bytes) -> tuple[Generation, Purpose]:
        """The wish in a request, and what it is for.

        Raises:
            InvalidArgument: it does not keep to the contract.
        """
        ...

    def pin(self, request: bytes, prompt_revision: str) -> bytes:
        """The request with the revision of its prompt fixed: what is asked must not change while it waits."""
        ...

    def encode(self, answer: Answer) -> bytes:
        """An answer."""
        ...


class Resolves(Protocol):
    """Knows what wishes stand for that name a prompt."""

    async def resolve(self, wish: Generation, payer: Payer) -> tuple[Generation, Choice]:
        """The wish with all that its prompt stands for, and the examples that were chosen.

        Raises:
            NotFound, InvalidArgument: there is no such prompt, or its variables do not fit.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An item as its target can take it.

    Attributes:
        wish: with all that its prompt stands for.
        choice: examples that were chosen for it.
        card: with the prices that hold for it; None when nobody knows them.
        is_batched: it is meant for the vendor's batch endpoint.
    """

    wish: Generation
    choice: Choice
    target: Target
    fit: Fitted
    card: ModelCard | None
    is_batched: bool

    @property
    def estimate(self) -> Estimate:
        """What it will consume at most, as far as one can tell."""
        return Estimate(
            model=self.target.name,
            card=self.card,
            input_tokens=self.fit.assembled.report.input_tokens,
            output_tokens=self.fit.output_tokens_kept,
            time_s=self.target.limits.total_s,
        )

    def task(self, output_tokens_max: int | None) -> Task:
        """What the provider gets; `output_tokens_max` is the length of answer that is paid for."""
        return self.fit.task(self.target, self.wish, self.target.limits, output_tokens_max)


class Planner:
    """Plans items.

    Args:
        router: which provider serves which model.
        prompts: what named prompts stand for.
        codec: reads requests.
        context_tokens_assumed: window of a model that the catalog does not know.
        is_usable: whether a key may be used now, by its id.
    """

    def __init__(
        self,
        router: Router,
        prompts: Resolves,
        codec: Codec,
        *,
        context_tokens_assumed: int,
        is_usable: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._router = router
        self._prompts = prompts
        self._codec = codec
        self._window_assumed = context_tokens_assumed
        self._is_usable = is_usable

    async def plan(self, wish: Generation, payer: Payer) -> Plan:
        """For the first target of its route whose window takes it.

        Raises:
            InvalidArgument: the vendor's format has no words for it, or the variables of its prompt do not fit.
            NotFound: there is no such prompt.
            ModelUnknown: no configured provider serves a model that it names.
            ContextLengthExceeded: no window takes it.
        """
        resolved, choice = await self._prompts.resolve(wish, payer)
        return self._first(resolved, choice, self._router.targets(resolved.model, resolved.fallback_models))

    async def again(self, batch: Batch, item: Item) -> Plan:
        """For the target that it was planned for.

        Raises:
            MeshError: as `plan`; what was right may not be so any more.
        """
        wish, _ = self._codec.decode(item.request)
        resolved, choice = await self._prompts.resolve(wish, batch.payer(item))
        return self._first(resolved, choice, [self._router.target(item.model)])

    def card(self, model: str, endpoint: BatchEndpoint) -> ModelCard | None:
        """A model with the prices of a batch; None where nobody knows them."""
        target = self._target(model)
        return None if target is None else _batch_card(target, endpoint)

    def offered(self, model: str) -> Key | None:
        """A key with which batches for a model may be submitted now; None where none are taken."""
        target = self._target(model)
        return None if target is None else self._offered(target)

    def key(self, model: str, key_id: str) -> Key | None:
        """This very key of a model's provider; None when it is no longer configured, or no longer for batches."""
        target = self._target(model)
        keys = () if target is None else target.keys
        return next((key for key in keys if key.id == key_id and key.line.batches is not None), None)

    def _target(self, model: str) -> Target | None:
        try:
            return self._router.target(model)
        except ModelUnknown:
            return None

    def _offered(self, target: Target) -> Key | None:
        able = (key for key in target.keys if key.line.batches is not None)
        return next((key for key in able if self._is_usable(key.id)), None)

    def _first(self, wish: Generation, choice: Choice, targets: Sequence[Target]) -> Plan:
        refused: ContextLengthExceeded | None = None
        for target in targets:
            try:
                fit = first_fitted(target, wish, window_assumed=self._window_assumed)
            except ContextLengthExceeded as error:
                refused = refused or error
                continue
            plan = Plan(wish=wish, choice=choice, target=target, fit=fit, card=target.card, is_batched=False)
            key = self._offered(target)
            if key is None or key.line.batches is None:
                return plan
            # A request that the vendor's format has no words for is refused now, and not when nobody looks any more.
            key.line.batches.size_of(BatchItem(id=ITEM_PREFIX, task=plan.task(None)))
            return replace(plan, card=_batch_card(target, key.line.batches), is_batched=True)
        assert refused is not None  # a name stands for one target at least
        raise refused


def _batch_card(target: Target, endpoint: BatchEndpoint) -> ModelCard | None:
    """The model with the prices of a batch."""
    return None if target.card is None else target.card.at_factor(endpoint.terms.price_factor)
