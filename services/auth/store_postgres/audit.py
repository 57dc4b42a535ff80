"""The security log in PostgreSQL; a trigger refuses to change or delete its rows."""

from collections.abc import Mapping, Sequence

from sqlalchemy import insert, select

from services.auth.model import Action, AuditEvent, OrganizationId
from services.auth.tables import AUDIT_EVENTS
from services.mesh.postgres.database import Database, ReadWrite


class PostgresAudit:
    """Implements `store.AuditStore`; the base of the other nouns, whose changes it records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """See `store.AuditStore.record`."""
        async with self._database.write() as write:
            await record(write, *events)

    async def list_events(self, organization_id: OrganizationId, *, limit: int) -> list[AuditEvent]:
        """See `store.AuditStore.list_events`."""
        query = (
            select(AUDIT_EVENTS)
            .where(AUDIT_EVENTS.c.organization_id == organization_id)
            .order_by(AUDIT_EVENTS.c.id.desc())
            .limit(limit)
        )
        async with self._database.read() as read:
            rows = (await read.execute(query)).mappings().all()
        return [
            AuditEvent(
                organization_id=OrganizationId(row["organization_id"]),
                actor_id=row["actor_id"],
                action=Action(row["action"]),
                target_id=row["target_id"],
                at=row["at"],
                request_id=row["request_id"],
            )
            for row in rows
        ]


async def record(write: ReadWrite, *events: AuditEvent) -> None:
    """Adds events to the transaction of the change that they tell of."""
    if events:
        await write.execute(insert(AUDIT_EVENTS), [_row(event) for event in events])


def _row(event: AuditEvent) -> Mapping[str, object]:
    return {
        "organization_id": event.organization_id,
        "actor_id": event.actor_id,
        "action": event.action,
        "target_id": event.target_id,
        "request_id": event.request_id,
        "at": event.at,
    }
