"""What prompts need of a database. Two implementations pass one suite: PostgreSQL, and memory for tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from services.inference.prompts.model import ALIASES_MAX, Draft, NamedPrompt, Repeat, Revision, RevisionHead
from services.mesh.errors import AlreadyExists, EtagMismatch, FieldViolation, NotFound, QuotaExhausted, invalid_field


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """Where an alias shall lead to; None takes it away.

    Attributes:
        expected: where it has to lead to now, 0 for nowhere; None when that does not matter.
    """

    alias: str
    revision: int | None
    expected: int | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChange:
    """What shall change of a prompt itself; None for what stays."""

    name: str | None
    description: str | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much an organization may keep.

    Attributes:
        prompts: that live.
        revisions: of one prompt.
    """

    prompts: int = 1_000
    revisions: int = 10_000


class PromptStore(Protocol):
    """Prompts, their revisions, and vectors of their examples. Every call is about one organization."""

    async def create(self, prompt: NamedPrompt, draft: Draft, repeat: Repeat | None) -> NamedPrompt:
        """Keeps a prompt with its first revision, or gives the one that an earlier call with this request id made.

        Raises:
            AlreadyExists: a prompt that lives has the name.
            QuotaExhausted: the organization has as many prompts as it may.
            IdempotencyMismatch: the author used the request id for something else.
        """
        ...

    async def find(self, organization_id: str, handle: str) -> NamedPrompt | None:
        """A prompt by its id, or one that lives by its name."""
        ...

    async def page(self, organization_id: str, *, after: str, limit: int) -> list[NamedPrompt]:
        """Prompts that live, by name, from the first one behind `after`."""
        ...

    async def change(self, organization_id: str, prompt_id: str, change: PromptChange) -> NamedPrompt | None:
        """Changes name or description; None when the prompt does not live.

        Raises:
            InvalidArgument: the new name or description is malformed.
            AlreadyExists: another prompt that lives has the name.
        """
        ...

    async def delete(self, organization_id: str, prompt_id: str, at: datetime) -> bool:
        """Takes a prompt out of use; False when it does not live."""
        ...

    async def add_revision(
        self, organization_id: str, prompt_id: str, draft: Draft, repeat: Repeat | None
    ) -> Revision | None:
        """Keeps the next revision, or gives the one that an earlier call made; None when the prompt does not live.

        Numbers have no holes, whoever else adds one.

        Raises:
            QuotaExhausted: the prompt has as many revisions as it may.
            IdempotencyMismatch: the author used the request id for something else.
        """
        ...

    async def revision(self, organization_id: str, prompt_id: str, number: int) -> Revision | None:
        """A revision, of a deleted prompt too."""
        ...

    async def revisions(
        self, organization_id: str, prompt_id: str, *, before: int | None, limit: int
    ) -> list[RevisionHead]:
        """What is told of revisions, newest first, from the first one below `before`."""
        ...

    async def move_alias(self, organization_id: str, prompt_id: str, move: AliasMove) -> NamedPrompt | None:
        """Moves an alias or takes it away; None when the prompt does not live.

        Raises:
            EtagMismatch: it does not lead to where it was expected to.
            NotFound: there is no such revision, or no alias to take away.
            InvalidArgument: the prompt has as many aliases as it may.
        """
        ...

    async def vectors(self, organization_id: str, encoder: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Vectors of texts by the digests of the texts, as far as they are known."""
        ...

    async def keep_vectors(self, organization_id: str, encoder: str, vectors: Mapping[bytes, bytes]) -> None:
        """Keeps vectors; those that are known stay as they are."""
        ...


def check_prompts(count: int, bounds: Bounds) -> None:
    """Whether there is room for a prompt beside so many.

    Raises:
        QuotaExhausted: there is none.
    """
    if count >= bounds.prompts:
        raise QuotaExhausted(
            f"an organization has at most {bounds.prompts} prompts; delete one first",
            fields=[FieldViolation("prompts", f"{bounds.prompts} prompts")],
        )


def check_revisions(prompt: NamedPrompt, bounds: Bounds) -> None:
    """Whether there is room for a revision.

    Raises:
        QuotaExhausted: there is none.
    """
    if prompt.latest_revision >= bounds.revisions:
        raise QuotaExhausted(
            f"a prompt has at most {bounds.revisions} revisions; go on in another one",
            fields=[FieldViolation("revisions", f"{bounds.revisions} revisions")],
        )


def changed(prompt: NamedPrompt, change: PromptChange) -> NamedPrompt:
    """A prompt after a change: the rule that both stores keep.

    Raises:
        InvalidArgument: the new name or description is malformed.
    """
    return replace(
        prompt,
        name=prompt.name if change.name is None else change.name,
        description=prompt.description if change.description is None else change.description,
        updated_at=change.at,
    )


def taken(name: str) -> AlreadyExists:
    """What is said of a name that another prompt has."""
    return AlreadyExists(f"a prompt is called {name!r} already", metadata={"field": "name"})


def moved(prompt: NamedPrompt, move: AliasMove) -> dict[str, int]:
    """The aliases of a prompt after a move: the rule that both stores keep.

    Raises:
        EtagMismatch, NotFound, InvalidArgument: see `PromptStore.move_alias`.
    """
    present = prompt.aliases.get(move.alias, 0)
    if move.expected is not None and move.expected != present:
        raise EtagMismatch(
            f"the alias {move.alias!r} leads to {present or 'no revision'} now", metadata={"etag": str(present)}
        )
    aliases = {alias: number for alias, number in prompt.aliases.items() if alias != move.alias}
    if move.revision is None:
        if not present:
            raise NotFound.of("prompt_alias")
        return aliases
    if not 1 <= move.revision <= prompt.latest_revision:
        raise NotFound.of("prompt_revision")
    if len(aliases) >= ALIASES_MAX:
        raise invalid_field("alias", f"a prompt has at most {ALIASES_MAX} aliases; delete one first")
    return aliases | {move.alias: move.revision}
