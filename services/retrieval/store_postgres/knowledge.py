"""Knowledge bases in PostgreSQL."""

from datetime import datetime

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from services.mesh.errors import AlreadyExists, IdempotencyMismatch, NotFound
from services.mesh.postgres.database import ReadOnly, constraint_of
from services.retrieval.model import KnowledgeBase, KnowledgeBaseId, OrganizationId
from services.retrieval.store import Page
from services.retrieval.store_postgres.statements import (
    PostgresPart,
    counted_knowledge_bases,
    knowledge_base_from,
    visible,
)
from services.retrieval.tables import KNOWLEDGE_BASES


class PostgresKnowledgeBases(PostgresPart):
    """See `KnowledgeBaseStore`."""

    async def create_knowledge_base(
        self, made: KnowledgeBase, *, request_id: str, request_digest: str
    ) -> KnowledgeBase:
        """See `KnowledgeBaseStore`."""
        statement = insert(KNOWLEDGE_BASES).values(
            id=made.id,
            organization_id=made.organization_id,
            display_name=made.display_name,
            description=made.description,
            encoder=made.encoder,
            sequence=made.sequence,
            request_id=request_id,
            request_digest=request_digest,
            created_at=made.create_time,
            updated_at=made.update_time,
        )
        before = await self._made_by(made.organization_id, request_id, request_digest)
        if before is not None:
            return before
        try:
            async with self._places.of(made.organization_id).write() as write:
                await write.execute(statement)
        except IntegrityError as err:
            if constraint_of(err) == "knowledge_bases_request":  # the same request, at the same time
                before = await self._made_by(made.organization_id, request_id, request_digest)
                assert before is not None
                return before
            raise _translated(err, made.display_name) from err
        return made

    async def knowledge_base(self, organization: OrganizationId, id_: KnowledgeBaseId) -> KnowledgeBase:
        """See `KnowledgeBaseStore`."""
        async with self._places.of(organization).read() as read:
            return await _one(read, organization, id_)

    async def knowledge_bases(self, organization: OrganizationId, page: Page) -> list[KnowledgeBase]:
        """See `KnowledgeBaseStore`."""
        query = counted_knowledge_bases(organization).order_by(KNOWLEDGE_BASES.c.id.desc()).limit(page.limit)
        if page.before is not None:
            query = query.where(KNOWLEDGE_BASES.c.id < page.before)
        async with self._places.of(organization).read() as read:
            return [knowledge_base_from(row) for row in (await read.execute(query)).mappings()]

    async def update_knowledge_base(
        self,
        organization: OrganizationId,
        id_: KnowledgeBaseId,
        *,
        display_name: str | None,
        description: str | None,
        now: datetime,
    ) -> KnowledgeBase:
        """See `KnowledgeBaseStore`."""
        given = {"display_name": display_name, "description": description}
        values = {name: value for name, value in given.items() if value is not None}
        try:
            async with self._places.of(organization).write() as write:
                changed = update(KNOWLEDGE_BASES).where(visible(organization, id_)).values(**values, updated_at=now)
                await write.execute(changed)
                return await _one(write, organization, id_)
        except IntegrityError as err:
            raise _translated(err, display_name or "") from err

    async def delete_knowledge_base(self, organization: OrganizationId, id_: KnowledgeBaseId, *, now: datetime) -> None:
        """See `KnowledgeBaseStore`."""
        async with self._places.of(organization).write() as write:
            hidden = await write.execute(
                update(KNOWLEDGE_BASES)
                .where(visible(organization, id_))
                .values(deleted_at=now)
                .returning(KNOWLEDGE_BASES.c.id)
            )
            if hidden.first() is None:
                raise NotFound.of("knowledge_base")

    async def _made_by(self, organization: OrganizationId, request_id: str, digest: str) -> KnowledgeBase | None:
        query = select(KNOWLEDGE_BASES.c.id, KNOWLEDGE_BASES.c.request_digest).where(
            KNOWLEDGE_BASES.c.organization_id == organization, KNOWLEDGE_BASES.c.request_id == request_id
        )
        async with self._places.of(organization).read() as read:
            found = (await read.execute(query)).one_or_none()
            if found is None:
                return None
            if found.request_digest != digest:
                raise IdempotencyMismatch
            return await _one(read, organization, KnowledgeBaseId(found.id))


async def _one(read: ReadOnly, organization: OrganizationId, id_: KnowledgeBaseId) -> KnowledgeBase:
    query = counted_knowledge_bases(organization).where(KNOWLEDGE_BASES.c.id == id_)
    row = (await read.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound.of("knowledge_base")
    return knowledge_base_from(row)


def _translated(error: IntegrityError, display_name: str) -> Exception:
    if constraint_of(error) != "knowledge_bases_display_name":
        return error
    return AlreadyExists(f"there is a knowledge base named {display_name!r}", metadata={"field": "display_name"})
