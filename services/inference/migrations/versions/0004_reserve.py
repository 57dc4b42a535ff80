"""Reserving with fewer statements: it is what a call waits for, and most of what it costs PostgreSQL.

One call at a time of an organization decides, under the organization's advisory lock, so that no row has to be locked
before it is changed; counters are made only where one is missing. Calls of an organization with a budget waited for one
another before as well, for the row of its counter.
"""

from typing import Final

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Refused: the budget that is full for longest. Granted: the one with the least room. A call whose budgets were deleted
# a moment ago finds none, and holds nothing.
_RESERVE: Final = """
CREATE OR REPLACE FUNCTION inference.reserve(calls jsonb)
RETURNS TABLE (number int, is_granted boolean, subject_id text, period text, limit_nanos bigint, spent_nanos bigint,
               reserved_nanos bigint, room_nanos bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  call record;
  tightest record;
  on_day date;
  in_month date;
BEGIN
  PERFORM pg_advisory_xact_lock(1836019321, organization)
  FROM (SELECT DISTINCT hashtext(organization_id) AS organization
        FROM jsonb_to_recordset(calls) AS call(organization_id text) ORDER BY 1) AS organizations;
  FOR call IN
    SELECT * FROM jsonb_to_recordset(calls) AS given(
      number int, id text, organization_id text, user_id text, api_key_id text, model text, purpose text,
      at timestamptz, expires_at timestamptz, input_tokens bigint, output_tokens bigint, cost_nanos bigint)
    ORDER BY number
  LOOP
    on_day := (call.at AT TIME ZONE 'UTC')::date;
    in_month := date_trunc('month', call.at AT TIME ZONE 'UTC')::date;
    SELECT budget.subject_id, paying.period, paying.limit_nanos, coalesce(counter.spent_nanos, 0) AS spent_nanos,
           coalesce(counter.reserved_nanos, 0) AS reserved_nanos, left_over.nanos AS room_nanos,
           bool_or(counter.period IS NULL) OVER () AS lacks_counter
    INTO tightest
    FROM inference.budgets AS budget
    CROSS JOIN LATERAL (VALUES ('day', on_day, budget.cost_nanos_per_day),
                               ('month', in_month, budget.cost_nanos_per_month))
      AS paying(period, starts_on, limit_nanos)
    LEFT JOIN inference.budget_counters AS counter
      ON counter.organization_id = budget.organization_id AND counter.subject_id = budget.subject_id
     AND counter.period = paying.period AND counter.starts_on = paying.starts_on
    CROSS JOIN LATERAL (SELECT paying.limit_nanos - coalesce(counter.spent_nanos, 0)
                               - coalesce(counter.reserved_nanos, 0) - call.cost_nanos) AS left_over(nanos)
    WHERE budget.organization_id = call.organization_id
      AND budget.subject_id IN (call.organization_id, call.user_id, call.api_key_id)
    ORDER BY left_over.nanos < 0 DESC NULLS LAST,
             CASE WHEN left_over.nanos < 0 AND paying.period = 'month' THEN 0 ELSE 1 END,
             left_over.nanos, budget.subject_id
    LIMIT 1;

    IF tightest.room_nanos >= 0 THEN
      IF tightest.lacks_counter THEN
        INSERT INTO inference.budget_counters (
          organization_id, subject_id, period, starts_on, spent_nanos, reserved_nanos)
        SELECT budget.organization_id, budget.subject_id, paying.period, paying.starts_on, 0, 0
        FROM inference.budgets AS budget
        CROSS JOIN (VALUES ('day', on_day), ('month', in_month)) AS paying(period, starts_on)
        WHERE budget.organization_id = call.organization_id
          AND budget.subject_id IN (call.organization_id, call.user_id, call.api_key_id)
        ON CONFLICT DO NOTHING;
      END IF;
      UPDATE inference.budget_counters AS counter
      SET reserved_nanos = counter.reserved_nanos + call.cost_nanos
      WHERE counter.organization_id = call.organization_id
        AND counter.subject_id IN (call.organization_id, call.user_id, call.api_key_id)
        AND (counter.period, counter.starts_on) IN (('day', on_day), ('month', in_month));
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

_RESERVE_BEFORE: Final = """
CREATE OR REPLACE FUNCTION inference.reserve(calls jsonb)
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


def upgrade() -> None:
    """Takes the new function in place of the old one; replicas that run call the same name."""
    op.execute(_RESERVE)


def downgrade() -> None:
    """Takes the old one back."""
    op.execute(_RESERVE_BEFORE)
