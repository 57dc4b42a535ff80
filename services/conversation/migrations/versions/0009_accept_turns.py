"""Accepting questions with one statement: nine round trips for each of them cost more than the work that they ask for.

Whoever finds something in the way of a question, or meets another change of its conversation, leaves it alone; what
becomes of it then is told elsewhere. So no question waits for another one's conversation here.
"""

from typing import Final

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ACCEPT: Final = """
CREATE FUNCTION conversation.accept_turns(given jsonb)
RETURNS TABLE (id text, create_time timestamptz, options jsonb)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  q record;
  here record;
  parent record;
  under text;
  segment text;
  place int;
BEGIN
  FOR q IN
    SELECT * FROM jsonb_to_recordset(given) AS turn(
      organization_id text, user_id text, conversation_id text, id text, question_id text, answer_id text, text text,
      title text, parent_id text, revision_of text, continue_of text, model text, knowledge_base_id text,
      retrieval_mode text, parameters jsonb, deadline_s double precision, sequence_limit bigint, credential_id text,
      traceparent text, method text, request_id text, body_hash text)
  LOOP
    SELECT title, model, knowledge_base_id, retrieval_mode, prompt, leaf_message_id INTO here
    FROM conversation.conversations
    WHERE organization_id = q.organization_id AND user_id = q.user_id AND id = q.conversation_id
    FOR NO KEY UPDATE SKIP LOCKED;
    CONTINUE WHEN NOT FOUND;
    CONTINUE WHEN EXISTS (
      SELECT FROM conversation.turns
      WHERE organization_id = q.organization_id AND conversation_id = q.conversation_id
        AND state IN ('queued', 'running'));

    under := coalesce(q.parent_id, here.leaf_message_id);
    segment := q.question_id;
    place := 0;
    IF under <> '' THEN
      SELECT message.segment_id, message.depth, EXISTS (
        SELECT FROM conversation.messages AS follower
        WHERE follower.organization_id = message.organization_id
          AND follower.conversation_id = message.conversation_id
          AND follower.segment_id = message.segment_id AND follower.depth = message.depth + 1) AS goes_on
      INTO parent
      FROM conversation.messages AS message
      WHERE message.organization_id = q.organization_id AND message.user_id = q.user_id
        AND message.conversation_id = q.conversation_id AND message.id = under;
      CONTINUE WHEN NOT FOUND;
      place := parent.depth + 1;
      IF NOT parent.goes_on THEN
        segment := parent.segment_id;
      END IF;
    END IF;

    IF q.request_id IS NOT NULL THEN
      INSERT INTO conversation.idempotency (organization_id, user_id, method, request_id, body_hash, resource_id)
      VALUES (q.organization_id, q.user_id, q.method, q.request_id, decode(q.body_hash, 'hex'), q.id)
      ON CONFLICT DO NOTHING;
      CONTINUE WHEN NOT FOUND;
    END IF;

    options := jsonb_build_object(
      'model', coalesce(nullif(q.model, ''), here.model),
      'knowledge_base_id', coalesce(nullif(q.knowledge_base_id, ''), here.knowledge_base_id),
      'retrieval_mode', coalesce(q.retrieval_mode, here.retrieval_mode),
      'parameters', q.parameters,
      'prompt', here.prompt);
    INSERT INTO conversation.turns (
      organization_id, id, user_id, conversation_id, user_message_id, assistant_message_id, state, options, attempt,
      fence, deadline, cancel_requested, journal_epoch, sequence_limit, continue_of, credential_id, traceparent)
    VALUES (
      q.organization_id, q.id, q.user_id, q.conversation_id, q.question_id, q.answer_id, 'queued', options,
      0, 0, now() + make_interval(secs => q.deadline_s), false, '', q.sequence_limit, q.continue_of,
      q.credential_id, q.traceparent);
    INSERT INTO conversation.messages (
      organization_id, id, user_id, conversation_id, parent_id, segment_id, depth, role, text, state, citations,
      turn_id, model, last_sequence, revision_of)
    VALUES
      (q.organization_id, q.question_id, q.user_id, q.conversation_id, under, segment, place, 'user',
       q.text, 'complete', '[]', q.id, '', 0, q.revision_of),
      (q.organization_id, q.answer_id, q.user_id, q.conversation_id, q.question_id, segment, place + 1,
       'assistant', NULL, 'in_progress', '[]', q.id, '', 0, '');
    UPDATE conversation.conversations
    SET update_time = now(), leaf_message_id = q.answer_id,
        title = CASE WHEN here.title <> '' OR under <> '' THEN here.title ELSE q.title END
    WHERE organization_id = q.organization_id AND user_id = q.user_id AND id = q.conversation_id;
    INSERT INTO conversation.outbox (organization_id, turn_id, conversation_id)
    VALUES (q.organization_id, q.id, q.conversation_id);

    id := q.id;
    create_time := now();
    RETURN NEXT;
  END LOOP;
END $$
"""


def upgrade() -> None:
    """Adds the function."""
    op.execute(_ACCEPT)


def downgrade() -> None:
    """Takes it away."""
    op.execute("DROP FUNCTION conversation.accept_turns(jsonb)")
