"""The store in memory, for tests: one process, one event loop, gone with it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from services.inference.prompts.model import Draft, NamedPrompt, Repeat, Revision, RevisionHead
from services.inference.prompts.store import (
    AliasMove,
    Bounds,
    PromptChange,
    changed,
    check_prompts,
    check_revisions,
    moved,
    taken,
)
from services.mesh.idempotency import check_repeat


class MemoryPrompts:
    """Implements `store.PromptStore`."""

    def __init__(self, bounds: Bounds = Bounds()) -> None:  # noqa: B008 - frozen
        self._bounds = bounds
        self._prompts: dict[tuple[str, str], NamedPrompt] = {}
        self._revisions: dict[tuple[str, str], list[Revision]] = {}
        self._requests: dict[tuple[str, str, str], tuple[bytes, Revision]] = {}
        self._vectors: dict[tuple[str, str, bytes], bytes] = {}

    async def create(self, prompt: NamedPrompt, draft: Draft, repeat: Repeat | None) -> NamedPrompt:
        """See `store.PromptStore.create`."""
        organization_id = prompt.organization_id
        earlier = self._made(organization_id, draft, repeat)
        if earlier is not None:
            return self._prompts[organization_id, earlier.prompt_id]
        if await self.find(organization_id, prompt.name) is not None:
            raise taken(prompt.name)
        check_prompts(len(self._living(organization_id)), self._bounds)
        self._prompts[organization_id, prompt.id] = prompt
        self._revisions[organization_id, prompt.id] = []
        self._add(prompt, draft, repeat)
        return prompt

    async def find(self, organization_id: str, handle: str) -> NamedPrompt | None:
        """See `store.PromptStore.find`."""
        found = self._prompts.get((organization_id, handle))
        if found is not None:
            return found
        living = (one for one in self._living(organization_id) if one.name == handle)
        return next(living, None)

    async def page(self, organization_id: str, *, after: str, limit: int) -> list[NamedPrompt]:
        """See `store.PromptStore.page`."""
        found = sorted(self._living(organization_id), key=lambda one: one.name)
        return [one for one in found if one.name > after][:limit]

    async def change(self, organization_id: str, prompt_id: str, change: PromptChange) -> NamedPrompt | None:
        """See `store.PromptStore.change`."""
        prompt = self._alive(organization_id, prompt_id)
        if prompt is None:
            return None
        newer = changed(prompt, change)
        if newer.name in {one.name for one in self._living(organization_id) if one.id != prompt_id}:
            raise taken(newer.name)
        self._prompts[organization_id, prompt_id] = newer
        return newer

    async def delete(self, organization_id: str, prompt_id: str, at: datetime) -> bool:
        """See `store.PromptStore.delete`."""
        prompt = self._alive(organization_id, prompt_id)
        if prompt is None:
            return False
        self._prompts[organization_id, prompt_id] = replace(prompt, deleted_at=at)
        return True

    async def add_revision(
        self, organization_id: str, prompt_id: str, draft: Draft, repeat: Repeat | None
    ) -> Revision | None:
        """See `store.PromptStore.add_revision`."""
        prompt = self._alive(organization_id, prompt_id)
        if prompt is None:
            return None
        earlier = self._made(organization_id, draft, repeat)
        if earlier is not None:
            return earlier
        check_revisions(prompt, self._bounds)
        newer = replace(prompt, latest_revision=prompt.latest_revision + 1, updated_at=draft.at)
        self._prompts[organization_id, prompt_id] = newer
        return self._add(newer, draft, repeat)

    async def revision(self, organization_id: str, prompt_id: str, number: int) -> Revision | None:
        """See `store.PromptStore.revision`."""
        known = self._revisions.get((organization_id, prompt_id), [])
        return known[number - 1] if 1 <= number <= len(known) else None

    async def revisions(
        self, organization_id: str, prompt_id: str, *, before: int | None, limit: int
    ) -> list[RevisionHead]:
        """See `store.PromptStore.revisions`."""
        known = self._revisions.get((organization_id, prompt_id), [])
        return [_head(one) for one in reversed(known) if before is None or one.number < before][:limit]

    async def move_alias(self, organization_id: str, prompt_id: str, move: AliasMove) -> NamedPrompt | None:
        """See `store.PromptStore.move_alias`."""
        prompt = self._alive(organization_id, prompt_id)
        if prompt is None:
            return None
        newer = replace(prompt, aliases=moved(prompt, move), updated_at=move.at)
        self._prompts[organization_id, prompt_id] = newer
        return newer

    async def vectors(self, organization_id: str, encoder: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `store.PromptStore.vectors`."""
        found = {digest: self._vectors.get((organization_id, encoder, digest)) for digest in digests}
        return {digest: vector for digest, vector in found.items() if vector is not None}

    async def keep_vectors(self, organization_id: str, encoder: str, vectors: Mapping[bytes, bytes]) -> None:
        """See `store.PromptStore.keep_vectors`."""
        for digest, vector in vectors.items():
            self._vectors.setdefault((organization_id, encoder, digest), vector)

    def _living(self, organization_id: str) -> list[NamedPrompt]:
        return [one for (owner, _), one in self._prompts.items() if owner == organization_id and one.deleted_at is None]

    def _alive(self, organization_id: str, prompt_id: str) -> NamedPrompt | None:
        prompt = self._prompts.get((organization_id, prompt_id))
        return None if prompt is None or prompt.deleted_at is not None else prompt

    def _made(self, organization_id: str, draft: Draft, repeat: Repeat | None) -> Revision | None:
        known = None if repeat is None else self._requests.get((organization_id, draft.author_id, repeat.request_id))
        if known is None or repeat is None:
            return None
        check_repeat(known[0], repeat.body_hash)
        return known[1]

    def _add(self, prompt: NamedPrompt, draft: Draft, repeat: Repeat | None) -> Revision:
        revision = Revision.of(prompt, draft)
        self._revisions[prompt.organization_id, prompt.id].append(revision)
        if repeat is not None:
            key = (prompt.organization_id, draft.author_id, repeat.request_id)
            self._requests[key] = (repeat.body_hash, revision)
        return revision


def _head(revision: Revision) -> RevisionHead:
    return RevisionHead(
        prompt_id=revision.prompt_id,
        number=revision.number,
        author_id=revision.author_id,
        created_at=revision.created_at,
        note=revision.note,
    )
