"""What the store in memory holds, and the security log that every noun writes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.auth.model import (
    Account,
    ApiKey,
    ApiKeyId,
    AuditEvent,
    Organization,
    OrganizationId,
    RefreshToken,
    RequestKey,
    Session,
    SessionId,
    SigningKeyRecord,
    User,
    UserId,
)


@dataclass(slots=True)
class Rows:
    """Tables, each by its key."""

    organizations: dict[OrganizationId, Organization] = field(default_factory=dict)
    first: OrganizationId | None = None
    accounts: dict[UserId, Account] = field(default_factory=dict)
    requests: dict[tuple[OrganizationId, UserId, str], tuple[RequestKey, UserId]] = field(default_factory=dict)
    sessions: dict[SessionId, Session] = field(default_factory=dict)
    refresh_tokens: dict[SessionId, list[RefreshToken]] = field(default_factory=dict)
    api_keys: dict[ApiKeyId, ApiKey] = field(default_factory=dict)
    signing_keys: list[SigningKeyRecord] = field(default_factory=list)
    events: list[AuditEvent] = field(default_factory=list)

    def end_sessions_of(self, user: User, *, at: datetime, keep: SessionId | None = None) -> list[Session]:
        """Ends all live sessions of a user but `keep`."""
        ended = [
            replace(session, ended_at=at)
            for session in self.sessions.values()
            if session.user_id == user.id and session.ended_at is None and session.id != keep
        ]
        self.sessions.update({session.id: session for session in ended})
        return ended


class MemoryAudit:
    """Implements `store.AuditStore`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """See `store.AuditStore.record`."""
        self._rows.events.extend(events)

    async def list_events(self, organization_id: OrganizationId, *, limit: int) -> list[AuditEvent]:
        """See `store.AuditStore.list_events`."""
        own = [event for event in reversed(self._rows.events) if event.organization_id == organization_id]
        return own[:limit]
