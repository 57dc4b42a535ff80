"""Tables of the schema `auth`; the migrations make them, a test holds the two against each other."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

SCHEMA: Final = "auth"
METADATA: Final = MetaData(schema=SCHEMA)


def _instant(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


ORGANIZATIONS: Final = Table(
    "organizations",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("is_first", Boolean, nullable=False),
    _instant("created_at"),
    Index("organizations_first", "is_first", unique=True, postgresql_where=text("is_first")),
)

USERS: Final = Table(
    "users",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("organization_id", Text, ForeignKey(ORGANIZATIONS.c.id), nullable=False),
    Column("email", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("password_hash", Text, nullable=False),
    _instant("created_at"),
    UniqueConstraint("email", name="users_email"),
    # What other tables refer to, so that no row can name a user of another organization.
    UniqueConstraint("organization_id", "id", name="users_of_organization"),
    Index("users_page", "organization_id", "created_at", "id"),
)

SESSIONS: Final = Table(
    "sessions",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("organization_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("generation", Integer, nullable=False),
    _instant("created_at"),
    _instant("rotated_at"),
    _instant("idle_expires_at"),
    _instant("expires_at"),
    _instant("ended_at", nullable=True),
    ForeignKeyConstraint(["organization_id", "user_id"], [USERS.c.organization_id, USERS.c.id]),
    Index("sessions_live", "user_id", "created_at", postgresql_where=text("ended_at IS NULL")),
    Index("sessions_over", text("least(coalesce(ended_at, expires_at), idle_expires_at)")),
)

REFRESH_TOKENS: Final = Table(
    "refresh_tokens",
    METADATA,
    Column("session_id", Text, ForeignKey(SESSIONS.c.id, ondelete="CASCADE"), primary_key=True),
    # The parent of generation n is generation n-1 of the same session: the key is the pedigree.
    Column("generation", Integer, primary_key=True),
    Column("secret_hash", LargeBinary, nullable=False),
    _instant("issued_at"),
    _instant("used_at", nullable=True),
    UniqueConstraint("session_id", "secret_hash", name="refresh_tokens_secret"),
)

API_KEYS: Final = Table(
    "api_keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("organization_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    _instant("created_at"),
    _instant("expires_at", nullable=True),
    _instant("revoked_at", nullable=True),
    _instant("last_used_at", nullable=True),
    ForeignKeyConstraint(["organization_id", "user_id"], [USERS.c.organization_id, USERS.c.id]),
    Index("api_keys_page", "organization_id", "user_id", "created_at", "id"),
)

SIGNING_KEYS: Final = Table(
    "signing_keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    _instant("created_at"),
    _instant("activates_at"),
)

REQUESTS: Final = Table(
    "requests",
    METADATA,
    Column("organization_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("resource_id", Text, nullable=False),
    _instant("created_at"),
    ForeignKeyConstraint(["organization_id", "user_id"], [USERS.c.organization_id, USERS.c.id]),
)

AUDIT_EVENTS: Final = Table(
    "audit_events",
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("organization_id", Text, ForeignKey(ORGANIZATIONS.c.id), nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    _instant("at"),
    Index("audit_events_page", "organization_id", "id"),
)
