"""Which revision a reference means, from memory: a warm one costs neither a database nor a network.

Revisions never change, so those that were read are kept for as long as there is room. Where aliases lead is kept as
long as replicas tell each other of changes, and while PostgreSQL is away what was read last still holds.
"""

import math
from typing import Final, Protocol

from services.inference.prompts.model import LATEST, PRODUCTION, NamedPrompt, Revision, is_handle
from services.inference.prompts.reference import PromptReference
from services.inference.prompts.store import PromptStore
from services.mesh.cache import InvalidatingCache, LocalCache
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import MeshError, NotFound
from services.mesh.valkey import Client

PROMPTS_KEPT_MAX: Final = 10_000
"""~1 KB each."""
REVISIONS_KEPT_MAX: Final = 512
"""A few KB each, and ~200 KB at most."""
REMEMBERED_S: Final = 3_600.0
"""How long a prompt that was read once serves while PostgreSQL is away."""


class Revisions(Protocol):
    """Where references are looked up."""

    async def find(self, organization_id: str, reference: PromptReference) -> Revision:
        """The revision that a reference means.

        Raises:
            NotFound: prompt, alias or revision do not exist.
            Unavailable: it is not known, and PostgreSQL is away.
        """
        ...


class PromptBook:
    """Implements `Revisions`. `listen` must run as a background loop."""

    def __init__(self, store: PromptStore, client: Client, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._prompts: InvalidatingCache[NamedPrompt] = InvalidatingCache(
            "inference_prompts", client, entries_max=PROMPTS_KEPT_MAX, clock=clock
        )
        self._remembered: LocalCache[NamedPrompt] = LocalCache(
            entries_max=PROMPTS_KEPT_MAX, life_s=REMEMBERED_S, clock=clock
        )
        self._revisions: LocalCache[Revision] = LocalCache(entries_max=REVISIONS_KEPT_MAX, life_s=math.inf, clock=clock)

    async def find(self, organization_id: str, reference: PromptReference) -> Revision:
        """See `Revisions.find`."""
        prompt = await self._prompt(organization_id, reference.prompt)
        number = reference.revision or _led_to(prompt, reference.alias or PRODUCTION)
        return await self.revision(prompt, number)

    async def revision(self, prompt: NamedPrompt, number: int) -> Revision:
        """A revision of a prompt.

        Raises:
            NotFound: there is none of this number.
            Unavailable: it is not known, and PostgreSQL is away.
        """
        key = f"{prompt.id}/{number}"  # ids are unique across organizations, and the prompt is the caller's
        known = self._revisions.get(key)
        if known is not None:
            return known
        found = await self._store.revision(prompt.organization_id, prompt.id, number)
        if found is None:
            raise NotFound.of("prompt_revision")
        self._revisions.put(key, found)
        return found

    async def changed(self, prompt: NamedPrompt) -> None:
        """Tells every replica; never raises."""
        for handle in (prompt.id, prompt.name):
            key = _key(prompt.organization_id, handle)
            self._remembered.drop(key)
            await self._prompts.invalidate(key)

    @property
    def is_subscribed(self) -> bool:
        """Whether changes made by other replicas arrive now."""
        return self._prompts.is_subscribed

    async def listen(self) -> None:
        """Follows what other replicas change."""
        await self._prompts.listen()

    async def _prompt(self, organization_id: str, handle: str) -> NamedPrompt:
        if not is_handle(handle):
            raise NotFound.of("prompt")
        found = await self._prompts.get_or_load(
            _key(organization_id, handle), lambda: self._load(organization_id, handle)
        )
        if found is None or found.deleted_at is not None:
            raise NotFound.of("prompt")
        return found

    async def _load(self, organization_id: str, handle: str) -> NamedPrompt | None:
        key = _key(organization_id, handle)
        try:
            found = await self._store.find(organization_id, handle)
        except MeshError:
            remembered = self._remembered.get(key)
            if remembered is None:
                raise
            return remembered
        if found is None:
            self._remembered.drop(key)
        else:
            self._remembered.put(key, found)
        return found


def _key(organization_id: str, handle: str) -> str:
    return f"{organization_id}/{handle}"


def _led_to(prompt: NamedPrompt, alias: str) -> int:
    if alias == LATEST:
        return prompt.latest_revision
    number = prompt.aliases.get(alias)
    if number is None:
        raise NotFound(f"the prompt {prompt.name!r} has no alias {alias!r}", metadata={"resource": "prompt_alias"})
    return number
