"""Knowledge bases: make, read, rename, delete."""

from services.mesh.clock import Clock
from services.mesh.errors import invalid_field
from services.mesh.ids import new_id
from services.retrieval.model import (
    DESCRIPTION_CHARACTERS_MAX,
    DISPLAY_NAME_CHARACTERS_MAX,
    KnowledgeBase,
    KnowledgeBaseId,
    OrganizationId,
)
from services.retrieval.store import KnowledgeBaseStore, Page


class KnowledgeBases:
    """The knowledge bases of an organization.

    Args:
        store: where they are kept.
        clock: the time.
        encoder: revision of the encoder that new ones are embedded by.
    """

    def __init__(self, store: KnowledgeBaseStore, clock: Clock, *, encoder: str) -> None:
        self._store = store
        self._clock = clock
        self._encoder = encoder

    async def create(
        self, organization: OrganizationId, *, display_name: str, description: str, request_id: str, digest: str
    ) -> KnowledgeBase:
        """An empty knowledge base; the same request again gives the same one. Without a request id, each is new.

        Raises:
            InvalidArgument: a field is out of bounds.
            AlreadyExists: the name is taken.
            IdempotencyMismatch: the request id came before with other content.
        """
        now = self._clock.now()
        made = KnowledgeBase(
            id=KnowledgeBaseId(new_id("kb")),
            organization_id=organization,
            display_name=_display_name(display_name),
            description=_description(description),
            encoder=self._encoder,
            create_time=now,
            update_time=now,
        )
        return await self._store.create_knowledge_base(made, request_id=request_id or made.id, request_digest=digest)

    async def get(self, organization: OrganizationId, id_: KnowledgeBaseId) -> KnowledgeBase:
        """See `KnowledgeBaseStore.knowledge_base`."""
        return await self._store.knowledge_base(organization, id_)

    async def list(self, organization: OrganizationId, page: Page) -> list[KnowledgeBase]:
        """See `KnowledgeBaseStore.knowledge_bases`."""
        return await self._store.knowledge_bases(organization, page)

    async def update(
        self,
        organization: OrganizationId,
        id_: KnowledgeBaseId,
        *,
        display_name: str | None,
        description: str | None,
    ) -> KnowledgeBase:
        """Changes what is not None.

        Raises:
            InvalidArgument: a field is out of bounds.
            NotFound: there is none.
            AlreadyExists: the name is taken.
        """
        return await self._store.update_knowledge_base(
            organization,
            id_,
            display_name=None if display_name is None else _display_name(display_name),
            description=None if description is None else _description(description),
            now=self._clock.now(),
        )

    async def delete(self, organization: OrganizationId, id_: KnowledgeBaseId) -> None:
        """See `KnowledgeBaseStore.delete_knowledge_base`."""
        await self._store.delete_knowledge_base(organization, id_, now=self._clock.now())


def _display_name(text: str) -> str:
    if not 1 <= len(text) <= DISPLAY_NAME_CHARACTERS_MAX or not text.strip() or "\x00" in text:
        raise invalid_field("display_name", f"must be 1 to {DISPLAY_NAME_CHARACTERS_MAX} characters, not only spaces")
    return text


def _description(text: str) -> str:
    if len(text) > DESCRIPTION_CHARACTERS_MAX or "\x00" in text:
        raise invalid_field("description", f"must be at most {DESCRIPTION_CHARACTERS_MAX} characters")
    return text
