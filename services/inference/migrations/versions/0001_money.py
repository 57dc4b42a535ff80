"""Budgets, reservations, the ledger, and usage by day.

`reserve` and `settle` are functions because each is one decision over many rows: a call waits for one round trip, locks
are held for as long as the function runs and not for as long as a replica thinks, and the rule that no budget is passed
stands in one place for all replicas.

Locks are taken in one order everywhere: the organization's advisory lock, reservations, counters, usage.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA: Final = "inference"
_TABLES: Final = ("budgets", "budget_counters", "budget_alerts", "reservations", "ledger", "usage_days")

# Which counters calls fall under: made where they are missing, locked in the order of their keys. The shared lock keeps
# out whoever sums up the past for a new budget: it takes the exclusive one.
_LOCK_COUNTERS: Final = """
CREATE FUNCTION inference.lock_counters(calls jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1836019321, organization)
  FROM (SELECT DISTINCT hashtext(organization_id) AS organization
        FROM jsonb_to_recordset(calls) AS call(organization_id text) ORDER BY 1) AS organizations;

  INSERT INTO inference.budget_counters (organization_id, subject_id, period, starts_on, spent_nanos, reserved_nanos)
  SELECT DISTINCT budget.organization_id, budget.subject_id, paying.period, paying.starts_on, 0, 0
  FROM jsonb_to_recordset(calls) AS call(organization_id text, user_id text, api_key_id text, at timestamptz)
  JOIN inference.budgets AS budget
    ON budget.organization_id = call.organization_id
   AND budget.subject_id IN (call.organization_id, call.user_id, call.api_key_id)
  CROSS JOIN LATERAL inference.paying_periods(call.at) AS paying
  ORDER BY 1, 2, 3, 4
  ON CONFLICT DO NOTHING;

  PERFORM 1
  FROM inference.budget_counters AS counter
  WHERE (counter.organization_id, counter.subject_id, counter.period, counter.starts_on) IN (
    SELECT budget.organization_id, budget.subject_id, paying.period, paying.starts_on
    FROM jsonb_to_recordset(calls) AS call(organization_id text, user_id text, api_key_id text, at timestamptz)
    JOIN inference.budgets AS budget
      ON budget.organization_id = call.organization_id
     AND budget.subject_id IN (call.organization_id, call.user_id, call.api_key_id)
    CROSS JOIN LATERAL inference.paying_periods(call.at) AS paying)
  ORDER BY counter.organization_id, counter.subject_id, counter.period, counter.starts_on
  FOR UPDATE;
END $$
"""

_PAYING_PERIODS: Final = """
CREATE FUNCTION inference.paying_periods(at timestamptz) RETURNS TABLE (period text, starts_on date)
LANGUAGE sql IMMUTABLE AS $$
  VALUES ('day', (at AT TIME ZONE 'UTC')::date), ('month', date_trunc('month', at AT TIME ZONE 'UTC')::date)
$$
"""

# Refused: the budget that is full for longest. Granted: the one with the least room. A call whose budgets were deleted
# a moment ago finds none, and holds nothing.
_RESERVE: Final = """
CREATE FUNCTION inference.reserve(calls jsonb)
RETURNS TABLE (number int, is_granted boolean, subject_id text, period text, limit_nanos bigint, spent_nanos bigint,
               reserved_nanos bigint, room_nanos bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  call record;
  tightest record;
BEGIN
  PERFORM inference.lock_counters(calls);
  FOR call IN
    SELECT * FROM jsonb_to_recordset(calls) AS given(
      number int, id text, organization_id text, user_id text, api_key_id text, model text, purpose text,
      at timestamptz, expires_at timestamptz, input_tokens bigint, output_tokens bigint, cost_nanos bigint)
    ORDER BY number
  LOOP
    SELECT counter.subject_id, counter.period, budget_limit.nanos AS limit_nanos, counter.spent_nanos,
           counter.reserved_nanos, left_over.nanos AS room_nanos
    INTO tightest
    FROM inference.paying_periods(call.at) AS paying
    JOIN inference.budget_counters AS counter
      ON counter.organization_id = call.organization_id
     AND counter.subject_id IN (call.organization_id, call.user_id, call.api_key_id)
     AND counter.period = paying.period AND counter.starts_on = paying.starts_on
    JOIN inference.budgets AS budget
      ON budget.organization_id = counter.organization_id AND budget.subject_id = counter.subject_id
    CROSS JOIN LATERAL (SELECT CASE counter.period WHEN 'day' THEN budget.cost_nanos_per_day
                                                   ELSE budget.cost_nanos_per_month END) AS budget_limit(nanos)
    CROSS JOIN LATERAL (SELECT budget_limit.nanos - counter.spent_nanos - counter.reserved_nanos - call.cost_nanos)
      AS left_over(nanos)
    WHERE budget_limit.nanos IS NOT NULL
    ORDER BY left_over.nanos < 0 DESC,
             CASE WHEN left_over.nanos < 0 AND counter.period = 'month' THEN 0 ELSE 1 END,
             left_over.nanos, counter.subject_id
    LIMIT 1;

    IF FOUND AND tightest.room_nanos >= 0 THEN
      UPDATE inference.budget_counters AS counter
      SET reserved_nanos = counter.reserved_nanos + call.cost_nanos
      FROM inference.paying_periods(call.at) AS paying
      WHERE counter.organization_id = call.organization_id
        AND counter.subject_id IN (call.organization_id, call.user_id, call.api_key_id)
        AND counter.period = paying.period AND counter.starts_on = paying.starts_on;
      INSERT INTO inference.reservations (
        organization_id, id, user_id, api_key_id, model, purpose, at, expires_at, input_tokens, output_tokens,
        cost_nanos)
      VALUES (
        call.organization_id, call.id, call.user_id, call.api_key_id, call.model, call.purpose, call.at,
        call.expires_at, call.input_tokens, call.output_tokens, call.cost_nanos);
    END IF;

    number := call.number;
    is_granted := tightest.room_nanos IS NULL OR tightest.room_nanos >= 0;
    subject_id := tightest.subject_id;
    period := tightest.period;
    limit_nanos := tightest.limit_nanos;
    spent_nanos := tightest.spent_nanos;
    reserved_nanos := tightest.reserved_nanos;
    room_nanos := tightest.room_nanos;
    RETURN NEXT;
  END LOOP;
END $$
"""

# A posting that is repeated meets its own line and does nothing. One whose reservation had lapsed meets the line of the
# lapse and adds the difference as a line of its own. A lapse counts only while its reservation is still there.
_SETTLE: Final = """
CREATE FUNCTION inference.settle(postings jsonb, posted_at timestamptz)
RETURNS TABLE (organization_id text, subject_id text, period text, starts_on date, percent int, limit_nanos bigint,
               spent_nanos bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1836019321, organization)
  FROM (SELECT DISTINCT hashtext(organization_id) AS organization
        FROM jsonb_to_recordset(postings) AS posting(organization_id text) ORDER BY 1) AS organizations;
  PERFORM 1
  FROM inference.reservations AS reservation
  WHERE (reservation.organization_id, reservation.id) IN (
    SELECT posting.organization_id, posting.id
    FROM jsonb_to_recordset(postings) AS posting(organization_id text, id text))
  ORDER BY reservation.organization_id, reservation.id
  FOR UPDATE;
  PERFORM inference.lock_counters(postings);

  RETURN QUERY
  WITH posting AS (
    SELECT * FROM jsonb_to_recordset(postings) AS given(
      id text, organization_id text, user_id text, api_key_id text, model text, purpose text, at timestamptz,
      is_consumed boolean, is_lapse boolean, input_tokens bigint, cached_input_tokens bigint, output_tokens bigint,
      reasoning_tokens bigint, cost_nanos bigint, is_estimated boolean)
  ), ended AS (
    DELETE FROM inference.reservations AS reservation
    USING posting
    WHERE reservation.organization_id = posting.organization_id AND reservation.id = posting.id
    RETURNING reservation.organization_id, reservation.id, reservation.user_id, reservation.api_key_id,
              reservation.at, reservation.cost_nanos
  ), posted AS (
    INSERT INTO inference.ledger (
      organization_id, id, number, user_id, api_key_id, model, purpose, at, calls, input_tokens, cached_input_tokens,
      output_tokens, reasoning_tokens, cost_nanos, is_estimated, is_lapsed)
    SELECT posting.organization_id, posting.id,
           CASE WHEN lapsed.id IS NULL THEN 0 ELSE 1 END,
           posting.user_id, posting.api_key_id, posting.model, posting.purpose, posting.at,
           posting.is_consumed::int - coalesce(lapsed.calls, 0),
           posting.input_tokens - coalesce(lapsed.input_tokens, 0),
           posting.cached_input_tokens - coalesce(lapsed.cached_input_tokens, 0),
           posting.output_tokens - coalesce(lapsed.output_tokens, 0),
           posting.reasoning_tokens - coalesce(lapsed.reasoning_tokens, 0),
           CASE WHEN lapsed.id IS NULL THEN posting.cost_nanos
                ELSE coalesce(posting.cost_nanos, 0) - coalesce(lapsed.cost_nanos, 0) END,
           posting.is_estimated, posting.is_lapse
    FROM posting
    LEFT JOIN inference.ledger AS lapsed
      ON lapsed.organization_id = posting.organization_id AND lapsed.id = posting.id
     AND lapsed.number = 0 AND lapsed.is_lapsed
    WHERE (posting.is_consumed OR lapsed.id IS NOT NULL)
      AND (NOT posting.is_lapse OR EXISTS (
        SELECT FROM ended WHERE ended.organization_id = posting.organization_id AND ended.id = posting.id))
    ON CONFLICT DO NOTHING
    RETURNING *
  ), summed AS (
    INSERT INTO inference.usage_days AS usage (
      organization_id, day, user_id, api_key_id, model, purpose, calls, input_tokens, cached_input_tokens,
      output_tokens, reasoning_tokens, cost_nanos, unpriced_calls, estimated_calls)
    SELECT posted.organization_id, (posted.at AT TIME ZONE 'UTC')::date, posted.user_id, posted.api_key_id,
           posted.model, posted.purpose, sum(posted.calls), sum(posted.input_tokens), sum(posted.cached_input_tokens),
           sum(posted.output_tokens), sum(posted.reasoning_tokens), coalesce(sum(posted.cost_nanos), 0),
           count(*) FILTER (WHERE posted.cost_nanos IS NULL),
           sum(CASE WHEN NOT posted.is_estimated THEN posted.number * -1 ELSE posted.calls END)
    FROM posted
    GROUP BY 1, 2, 3, 4, 5, 6
    ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (organization_id, day, user_id, api_key_id, model, purpose) DO UPDATE SET
      calls = usage.calls + excluded.calls,
      input_tokens = usage.input_tokens + excluded.input_tokens,
      cached_input_tokens = usage.cached_input_tokens + excluded.cached_input_tokens,
      output_tokens = usage.output_tokens + excluded.output_tokens,
      reasoning_tokens = usage.reasoning_tokens + excluded.reasoning_tokens,
      cost_nanos = usage.cost_nanos + excluded.cost_nanos,
      unpriced_calls = usage.unpriced_calls + excluded.unpriced_calls,
      estimated_calls = usage.estimated_calls + excluded.estimated_calls
  ), change AS (
    SELECT organization_id, user_id, api_key_id, at, coalesce(cost_nanos, 0) AS spent_nanos, 0 AS released_nanos
    FROM posted
    UNION ALL
    SELECT organization_id, user_id, api_key_id, at, 0, cost_nanos FROM ended
  ), moved AS (
    SELECT change.organization_id, subject.id AS subject_id, paying.period, paying.starts_on,
           sum(change.spent_nanos)::bigint AS spent_nanos, sum(change.released_nanos)::bigint AS released_nanos
    FROM change
    CROSS JOIN LATERAL (VALUES (change.organization_id), (change.user_id), (change.api_key_id)) AS subject(id)
    CROSS JOIN LATERAL inference.paying_periods(change.at) AS paying
    GROUP BY 1, 2, 3, 4
  ), counted AS (
    UPDATE inference.budget_counters AS counter
    SET spent_nanos = counter.spent_nanos + moved.spent_nanos,
        reserved_nanos = counter.reserved_nanos - moved.released_nanos
    FROM moved
    WHERE counter.organization_id = moved.organization_id AND counter.subject_id = moved.subject_id
      AND counter.period = moved.period AND counter.starts_on = moved.starts_on
    RETURNING counter.*
  )
  INSERT INTO inference.budget_alerts AS alert (
    organization_id, subject_id, period, starts_on, percent, limit_nanos, spent_nanos, at)
  SELECT counted.organization_id, counted.subject_id, counted.period, counted.starts_on, threshold.percent,
         budget_limit.nanos, counted.spent_nanos, posted_at
  FROM counted
  JOIN inference.budgets AS budget
    ON budget.organization_id = counted.organization_id AND budget.subject_id = counted.subject_id
  CROSS JOIN LATERAL (SELECT CASE counted.period WHEN 'day' THEN budget.cost_nanos_per_day
                                                 ELSE budget.cost_nanos_per_month END) AS budget_limit(nanos)
  CROSS JOIN (VALUES (50), (80), (100)) AS threshold(percent)
  WHERE counted.spent_nanos > 0
    AND counted.spent_nanos::numeric * 100 >= budget_limit.nanos::numeric * threshold.percent
  ON CONFLICT DO NOTHING
  RETURNING alert.organization_id, alert.subject_id, alert.period, alert.starts_on, alert.percent,
            alert.limit_nanos, alert.spent_nanos;
END $$
"""


def upgrade() -> None:
    _create_budgets()
    _create_reservations()
    _create_ledger()
    for statement in (_PAYING_PERIODS, _LOCK_COUNTERS, _RESERVE, _SETTLE):
        op.execute(statement)


def downgrade() -> None:
    for signature in ("settle(jsonb, timestamptz)", "reserve(jsonb)", "lock_counters(jsonb)"):
        op.execute(f"DROP FUNCTION {SCHEMA}.{signature}")
    op.execute(f"DROP FUNCTION {SCHEMA}.paying_periods(timestamptz)")
    for name in _TABLES:
        op.drop_table(name, schema=SCHEMA)


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _amount(*names: str, nullable: bool = False) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger(), nullable=nullable) for name in names]


def _instant(*names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in names]


def _create_budgets() -> None:
    op.create_table(
        "budgets",
        *_text("organization_id", "subject_id"),
        *_amount("requests_per_minute", "tokens_per_minute", nullable=True),
        *_amount("cost_nanos_per_day", "cost_nanos_per_month", nullable=True),
        *_instant("created_at", "updated_at"),
        sa.PrimaryKeyConstraint("organization_id", "subject_id", name="budgets_pkey"),
        schema=SCHEMA,
    )
    period = ("organization_id", "subject_id", "period", "starts_on")
    op.create_table(
        "budget_counters",
        *_text("organization_id", "subject_id", "period"),
        sa.Column("starts_on", sa.Date(), nullable=False),
        *_amount("spent_nanos", "reserved_nanos"),
        sa.PrimaryKeyConstraint(*period, name="budget_counters_pkey"),
        schema=SCHEMA,
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "budget_alerts",
        *_text("organization_id", "subject_id", "period"),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        *_amount("limit_nanos", "spent_nanos"),
        *_instant("at"),
        sa.PrimaryKeyConstraint(*period, "percent", name="budget_alerts_pkey"),
        schema=SCHEMA,
    )
    page = ["organization_id", "at", "subject_id", "period", "percent"]
    op.create_index("budget_alerts_page", "budget_alerts", page, schema=SCHEMA)


def _create_reservations() -> None:
    op.create_table(
        "reservations",
        *_text("organization_id", "id", "user_id", "api_key_id", "model", "purpose"),
        *_instant("at", "expires_at"),
        *_amount("input_tokens", "output_tokens", "cost_nanos"),
        sa.PrimaryKeyConstraint("organization_id", "id", name="reservations_pkey"),
        schema=SCHEMA,
    )
    op.create_index("reservations_expired", "reservations", ["expires_at"], schema=SCHEMA)


def _create_ledger() -> None:
    op.create_table(
        "ledger",
        *_text("organization_id", "id"),
        sa.Column("number", sa.Integer(), nullable=False),
        *_text("user_id", "api_key_id", "model", "purpose"),
        *_instant("at"),
        sa.Column("calls", sa.Integer(), nullable=False),
        *_amount("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"),
        *_amount("cost_nanos", nullable=True),
        sa.Column("is_estimated", sa.Boolean(), nullable=False),
        sa.Column("is_lapsed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "id", "number", name="ledger_pkey"),
        schema=SCHEMA,
    )
    op.create_index("ledger_by_time", "ledger", ["organization_id", "at"], schema=SCHEMA)
    key = ("organization_id", "day", "user_id", "api_key_id", "model", "purpose")
    op.create_table(
        "usage_days",
        *_text("organization_id"),
        sa.Column("day", sa.Date(), nullable=False),
        *_text(*key[2:]),
        *_amount("calls", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nanos"),
        *_amount("unpriced_calls", "estimated_calls"),
        sa.PrimaryKeyConstraint(*key, name="usage_days_pkey"),
        schema=SCHEMA,
        postgresql_with={"fillfactor": 50},
    )
    for name in ("user", "api_key"):
        columns = ["organization_id", f"{name}_id", "day"]
        op.create_index(f"usage_days_of_{name}", "usage_days", columns, schema=SCHEMA)
