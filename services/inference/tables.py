"""Tables of the schema `inference`; the migrations make them, a test holds the two against each other.

Amounts are in billionths of a US dollar; days are those of UTC. What has to be decided and written in one step stands
in functions of the schema, see the migrations.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA: Final = "inference"
METADATA: Final = MetaData(schema=SCHEMA)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _amount(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _instant(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False)


BUDGETS: Final = Table(
    "budgets",
    METADATA,
    _text("organization_id"),
    # An organization, a user or an API key: the prefix tells.
    _text("subject_id"),
    _amount("requests_per_minute", nullable=True),
    _amount("tokens_per_minute", nullable=True),
    _amount("cost_nanos_per_day", nullable=True),
    _amount("cost_nanos_per_month", nullable=True),
    _instant("created_at"),
    _instant("updated_at"),
    PrimaryKeyConstraint("organization_id", "subject_id", name="budgets_pkey"),
)

BUDGET_COUNTERS: Final = Table(
    "budget_counters",
    METADATA,
    _text("organization_id"),
    _text("subject_id"),
    _text("period"),
    Column("starts_on", Date, nullable=False),
    _amount("spent_nanos"),
    _amount("reserved_nanos"),
    PrimaryKeyConstraint("organization_id", "subject_id", "period", "starts_on", name="budget_counters_pkey"),
)

BUDGET_ALERTS: Final = Table(
    "budget_alerts",
    METADATA,
    _text("organization_id"),
    _text("subject_id"),
    _text("period"),
    Column("starts_on", Date, nullable=False),
    Column("percent", Integer, nullable=False),
    _amount("limit_nanos"),
    _amount("spent_nanos"),
    _instant("at"),
    PrimaryKeyConstraint("organization_id", "subject_id", "period", "starts_on", "percent", name="budget_alerts_pkey"),
    Index("budget_alerts_page", "organization_id", "at", "subject_id", "period", "percent"),
)

RESERVATIONS: Final = Table(
    "reservations",
    METADATA,
    _text("organization_id"),
    _text("id"),
    _text("user_id"),
    _text("api_key_id"),
    _text("model"),
    _text("purpose"),
    _instant("at"),
    _instant("expires_at"),
    _amount("input_tokens"),
    _amount("output_tokens"),
    _amount("cost_nanos"),
    PrimaryKeyConstraint("organization_id", "id", name="reservations_pkey"),
    Index("reservations_expired", "expires_at"),
)

LEDGER: Final = Table(
    "ledger",
    METADATA,
    _text("organization_id"),
    _text("id"),
    # 0 is the call, 1 the correction of a call that had lapsed: lines are never changed.
    Column("number", Integer, nullable=False),
    _text("user_id"),
    _text("api_key_id"),
    _text("model"),
    _text("purpose"),
    _instant("at"),
    Column("calls", Integer, nullable=False),
    _amount("input_tokens"),
    _amount("cached_input_tokens"),
    _amount("output_tokens"),
    _amount("reasoning_tokens"),
    _amount("cost_nanos", nullable=True),
    Column("is_estimated", Boolean, nullable=False),
    Column("is_lapsed", Boolean, nullable=False),
    PrimaryKeyConstraint("organization_id", "id", "number", name="ledger_pkey"),
    Index("ledger_by_time", "organization_id", "at"),
)

USAGE_DAYS: Final = Table(
    "usage_days",
    METADATA,
    _text("organization_id"),
    Column("day", Date, nullable=False),
    _text("user_id"),
    _text("api_key_id"),
    _text("model"),
    _text("purpose"),
    _amount("calls"),
    _amount("input_tokens"),
    _amount("cached_input_tokens"),
    _amount("output_tokens"),
    _amount("reasoning_tokens"),
    _amount("cost_nanos"),
    _amount("unpriced_calls"),
    _amount("estimated_calls"),
    PrimaryKeyConstraint("organization_id", "day", "user_id", "api_key_id", "model", "purpose", name="usage_days_pkey"),
    Index("usage_days_of_user", "organization_id", "user_id", "day"),
    Index("usage_days_of_api_key", "organization_id", "api_key_id", "day"),
)

PROMPTS: Final = Table(
    "prompts",
    METADATA,
    _text("organization_id"),
    _text("id"),
    _text("name"),
    _text("description"),
    Column("latest_revision", Integer, nullable=False),
    # Numbers of revisions by alias: changed under the lock of the row that says which numbers there are.
    Column("aliases", JSONB, nullable=False),
    _instant("created_at"),
    _instant("updated_at"),
    Column("deleted_at", DateTime(timezone=True), nullable=True),
    PrimaryKeyConstraint("organization_id", "id", name="prompts_pkey"),
    Index("prompts_by_name", "organization_id", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
)

# A trigger refuses every UPDATE.
PROMPT_REVISIONS: Final = Table(
    "prompt_revisions",
    METADATA,
    _text("organization_id"),
    _text("prompt_id"),
    Column("number", Integer, nullable=False),
    Column("content", JSONB, nullable=False),
    _text("note"),
    _text("author_id"),
    _instant("created_at"),
    # Of the call that made it: a repeat of that call is given the same revision.
    Column("request_id", Text, nullable=True),
    Column("body_hash", LargeBinary, nullable=True),
    PrimaryKeyConstraint("organization_id", "prompt_id", "number", name="prompt_revisions_pkey"),
    ForeignKeyConstraint(
        ["organization_id", "prompt_id"], [PROMPTS.c.organization_id, PROMPTS.c.id], name="prompt_revisions_of_prompt"
    ),
    Index(
        "prompt_revisions_by_request",
        "organization_id",
        "author_id",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
)

PROMPT_VECTORS: Final = Table(
    "prompt_vectors",
    METADATA,
    _text("organization_id"),
    _text("encoder"),
    # SHA-256 of the text.
    Column("digest", LargeBinary, nullable=False),
    # 32-bit floats, little-endian.
    Column("vector", LargeBinary, nullable=False),
    PrimaryKeyConstraint("organization_id", "encoder", "digest", name="prompt_vectors_pkey"),
)

BATCHES: Final = Table(
    "batches",
    METADATA,
    _text("organization_id"),
    _text("id"),
    _text("user_id"),
    _text("credential_id"),
    _text("state"),
    _instant("created_at"),
    _instant("due_at"),
    Column("ended_at", DateTime(timezone=True), nullable=True),
    Column("deleted_at", DateTime(timezone=True), nullable=True),
    # Of the runner that works on it; every write of a runner has to match.
    Column("lease", Text, nullable=True),
    _instant("claimable_at"),
    # Of the call that made it: a repeat of that call is given the same batch.
    Column("request_id", Text, nullable=True),
    Column("body_hash", LargeBinary, nullable=True),
    PrimaryKeyConstraint("organization_id", "id", name="batches_pkey"),
    Index("batches_of_user", "organization_id", "user_id", "id"),
    Index("batches_claimable", "claimable_at", postgresql_where=text("ended_at IS NULL")),
    Index("batches_ended", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    Index(
        "batches_by_request",
        "organization_id",
        "user_id",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
)

BATCH_ITEMS: Final = Table(
    "batch_items",
    METADATA,
    _text("organization_id"),
    _text("batch_id"),
    Column("number", Integer, nullable=False),
    _text("id"),
    _text("custom_id"),
    # The wish as it came; empty once there is a result.
    Column("request", LargeBinary, nullable=False),
    _text("model"),
    _text("purpose"),
    _text("call_id"),
    Column("output_tokens_max", Integer, nullable=True),
    Column("is_batched", Boolean, nullable=False),
    _text("state"),
    Column("attempts", Integer, nullable=False),
    _instant("ready_at"),
    _text("handover_id"),
    Column("answer", LargeBinary, nullable=False),
    _text("reason"),
    _text("message"),
    PrimaryKeyConstraint("organization_id", "batch_id", "number", name="batch_items_pkey"),
    ForeignKeyConstraint(
        ["organization_id", "batch_id"],
        [BATCHES.c.organization_id, BATCHES.c.id],
        name="batch_items_of_batch",
        ondelete="CASCADE",
    ),
)

BATCH_HANDOVERS: Final = Table(
    "batch_handovers",
    METADATA,
    _text("organization_id"),
    _text("batch_id"),
    _text("id"),
    _text("model"),
    _text("key_id"),
    Column("items_count", Integer, nullable=False),
    _instant("submitted_at"),
    _text("vendor_id"),
    Column("cancelled_at", DateTime(timezone=True), nullable=True),
    Column("closed_at", DateTime(timezone=True), nullable=True),
    PrimaryKeyConstraint("organization_id", "batch_id", "id", name="batch_handovers_pkey"),
    ForeignKeyConstraint(
        ["organization_id", "batch_id"],
        [BATCHES.c.organization_id, BATCHES.c.id],
        name="batch_handovers_of_batch",
        ondelete="CASCADE",
    ),
    Index("batch_handovers_of_key", "key_id", "submitted_at"),
)
