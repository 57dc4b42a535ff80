"""Accounts, sessions, API keys, signing keys, and the security log, which nobody can change.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "auth"


def upgrade() -> None:
    _accounts()
    _sessions()
    _keys()
    _audit()


def downgrade() -> None:
    op.execute("DROP FUNCTION auth.refuse_change() CASCADE")
    for table in (
        "audit_events",
        "requests",
        "signing_keys",
        "api_keys",
        "refresh_tokens",
        "sessions",
        "users",
        "organizations",
    ):
        op.drop_table(table, schema=SCHEMA)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, primary_key=primary_key)


def _of_user() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id", "user_id"], [f"{SCHEMA}.users.organization_id", f"{SCHEMA}.users.id"]
    )


def _accounts() -> None:
    op.create_table(
        "organizations",
        _text("id", primary_key=True),
        _text("display_name"),
        sa.Column("is_first", sa.Boolean, nullable=False),
        _instant("created_at"),
        schema=SCHEMA,
    )
    op.create_index(
        "organizations_first",
        "organizations",
        ["is_first"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("is_first"),
    )
    op.create_table(
        "users",
        _text("id", primary_key=True),
        sa.Column("organization_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.organizations.id"), nullable=False),
        _text("email"),
        _text("display_name"),
        _text("role"),
        sa.Column("disabled", sa.Boolean, nullable=False),
        _text("password_hash"),
        _instant("created_at"),
        sa.UniqueConstraint("email", name="users_email"),
        sa.UniqueConstraint("organization_id", "id", name="users_of_organization"),
        schema=SCHEMA,
    )
    op.create_index("users_page", "users", ["organization_id", "created_at", "id"], schema=SCHEMA)
    op.create_table(
        "requests",
        _text("organization_id", primary_key=True),
        _text("user_id", primary_key=True),
        _text("request_id", primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        _text("resource_id"),
        _instant("created_at"),
        _of_user(),
        schema=SCHEMA,
    )


def _sessions() -> None:
    op.create_table(
        "sessions",
        _text("id", primary_key=True),
        _text("organization_id"),
        _text("user_id"),
        _text("kind"),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        _instant("created_at"),
        _instant("rotated_at"),
        _instant("idle_expires_at"),
        _instant("expires_at"),
        _instant("ended_at", nullable=True),
        _of_user(),
        schema=SCHEMA,
    )
    op.create_index(
        "sessions_live",
        "sessions",
        ["user_id", "created_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "sessions_over",
        "sessions",
        [sa.text("least(coalesce(ended_at, expires_at), idle_expires_at)")],
        schema=SCHEMA,
    )
    op.create_table(
        "refresh_tokens",
        sa.Column("session_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        _instant("issued_at"),
        _instant("used_at", nullable=True),
        sa.UniqueConstraint("session_id", "secret_hash", name="refresh_tokens_secret"),
        schema=SCHEMA,
    )


def _keys() -> None:
    op.create_table(
        "api_keys",
        _text("id", primary_key=True),
        _text("organization_id"),
        _text("user_id"),
        _text("display_name"),
        _text("hint"),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("scopes", ARRAY(sa.Text), nullable=False),
        _instant("created_at"),
        _instant("expires_at", nullable=True),
        _instant("revoked_at", nullable=True),
        _instant("last_used_at", nullable=True),
        _of_user(),
        schema=SCHEMA,
    )
    op.create_index("api_keys_page", "api_keys", ["organization_id", "user_id", "created_at", "id"], schema=SCHEMA)
    op.create_table(
        "signing_keys",
        _text("id", primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        _instant("created_at"),
        _instant("activates_at"),
        schema=SCHEMA,
    )


def _audit() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("organization_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.organizations.id"), nullable=False),
        _text("actor_id"),
        _text("action"),
        _text("target_id"),
        _text("request_id"),
        _instant("at"),
        schema=SCHEMA,
    )
    op.create_index("audit_events_page", "audit_events", ["organization_id", "id"], schema=SCHEMA)
    op.execute(
        """
        CREATE FUNCTION auth.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME USING ERRCODE = 'check_violation';
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER audit_events_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON auth.audit_events"
        " FOR EACH STATEMENT EXECUTE FUNCTION auth.refuse_change()"
    )
