"""Ending turns with one statement: six round trips for each of them cost more than what is stored.

Whoever finds the conversation locked, or the turn no longer held, leaves both alone; what becomes of the turn then is
told elsewhere. So no turn waits for another one's conversation here.
"""

from typing import Final

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Every statement of it sees what is committed when that one begins, so none that took its place in the line before the
# conversation was locked is overlooked.
_END: Final = """
CREATE FUNCTION conversation.end_turns(given jsonb)
RETURNS TABLE (id text, has_next boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  ending record;
  held record;
  first record;
BEGIN
  FOR ending IN
    SELECT * FROM jsonb_to_recordset(given) AS turn(
      organization_id text, conversation_id text, id text, fence bigint, state text, answer_state text,
      finish_reason text, error jsonb, text text, citations jsonb, retrieval jsonb, usage jsonb, model text,
      context jsonb, last_sequence bigint)
  LOOP
    PERFORM FROM conversation.conversations
    WHERE organization_id = ending.organization_id AND id = ending.conversation_id
    FOR NO KEY UPDATE SKIP LOCKED;
    CONTINUE WHEN NOT FOUND;

    UPDATE conversation.turns
    SET state = ending.state, lease_expire_time = NULL, error = ending.error, end_time = now()
    WHERE organization_id = ending.organization_id AND id = ending.id AND conversation_id = ending.conversation_id
      AND fence = ending.fence AND state = 'running'
    RETURNING user_id, assistant_message_id INTO held;
    CONTINUE WHEN NOT FOUND;

    UPDATE conversation.messages
    SET text = ending.text, citations = ending.citations, retrieval = ending.retrieval, usage = ending.usage,
        model = ending.model, context = ending.context, last_sequence = ending.last_sequence, update_time = now(),
        state = ending.answer_state, finish_reason = ending.finish_reason, error = ending.error
    WHERE organization_id = ending.organization_id AND user_id = held.user_id AND id = held.assistant_message_id;
    UPDATE conversation.conversations SET update_time = now()
    WHERE organization_id = ending.organization_id AND id = ending.conversation_id;

    -- One that is cancelled at this moment is waited for and passed over.
    SELECT id INTO first FROM conversation.turns
    WHERE organization_id = ending.organization_id AND conversation_id = ending.conversation_id AND state = 'waiting'
    ORDER BY place LIMIT 1 FOR UPDATE;
    has_next := FOUND;
    IF has_next THEN
      UPDATE conversation.turns
      SET state = 'queued', publish_time = now(), deadline = now() + (deadline - create_time)
      WHERE organization_id = ending.organization_id AND id = first.id;
      INSERT INTO conversation.outbox (organization_id, turn_id, conversation_id)
      VALUES (ending.organization_id, first.id, ending.conversation_id);
    END IF;

    id := ending.id;
    RETURN NEXT;
  END LOOP;
END $$
"""


def upgrade() -> None:
    """Adds the function."""
    op.execute(_END)


def downgrade() -> None:
    """Takes it away."""
    op.execute("DROP FUNCTION conversation.end_turns(jsonb)")
