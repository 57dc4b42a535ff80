-- Conversations, with their messages in the order of time: those of one lie scattered, as they do where many people
-- write at once. The first twelve belong to one person, and are long.

CREATE FUNCTION pg_temp.share(number bigint) RETURNS numeric LANGUAGE sql IMMUTABLE
RETURN ((number * 7919) % 10007) / 10007.0;

CREATE FUNCTION pg_temp.id(prefix text, number bigint) RETURNS text LANGUAGE sql IMMUTABLE
RETURN prefix || '_' || lpad(number::text, 26, '0');

-- Of a row that conversation `number` made in this minute; sorts by time.
CREATE FUNCTION pg_temp.id_at(prefix text, minute bigint, number bigint) RETURNS text LANGUAGE sql IMMUTABLE
RETURN prefix || '_' || lpad(minute::text, 12, '0') || lpad(number::text, 14, '0');

CREATE FUNCTION pg_temp.at(minute bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE
RETURN timestamptz '2024-01-01 00:00Z' + make_interval(mins => minute::int);

-- A third of everything is the largest one's.
CREATE FUNCTION pg_temp.organization(number bigint) RETURNS text LANGUAGE sql IMMUTABLE
RETURN pg_temp.id('org', floor(40 * power(pg_temp.share(number), 3))::bigint);

CREATE TEMP TABLE plan AS
SELECT number,
       pg_temp.id('conv', number) AS id,
       CASE WHEN number <= 12 THEN pg_temp.id('org', 0) ELSE pg_temp.organization(number) END AS organization,
       CASE WHEN number <= 12 THEN pg_temp.id('usr', 0)
            ELSE pg_temp.id('usr', floor(50 * power(pg_temp.share(number * 13), 2))::bigint) END AS person,
       CASE WHEN number <= 12 THEN number ELSE (number * 7919) % 500000 END AS start,
       CASE WHEN number = 1 THEN :messages / 50 WHEN number <= 12 THEN :messages / 200
            ELSE 2 + 2 * (number % 17) END AS length
FROM generate_series(1::bigint, :messages / 20) AS number;

INSERT INTO conversation.conversations
  (organization_id, id, user_id, title, model, system_prompt, examples, knowledge_base_id, retrieval_mode,
   leaf_message_id, settings_revision, create_time, update_time)
SELECT organization, id, person, 'A conversation', '', '', '[]', '', 'selective',
       pg_temp.id_at('msg', start + length - 1, number), 1, pg_temp.at(start), pg_temp.at(start + length)
FROM plan ORDER BY start;

-- The second one was edited every 25 messages, so that its branch is a long chain of segments.
INSERT INTO conversation.messages
  (organization_id, id, user_id, conversation_id, parent_id, segment_id, depth, role, text, state, citations, turn_id,
   model, last_sequence, create_time, update_time)
SELECT organization, pg_temp.id_at('msg', start + depth, number), person, id,
       CASE WHEN depth = 0 THEN '' ELSE pg_temp.id_at('msg', start + depth - 1, number) END,
       pg_temp.id_at('msg', start + CASE WHEN number = 2 THEN depth - depth % 25 ELSE 0 END, number), depth,
       CASE WHEN depth % 2 = 0 THEN 'user' ELSE 'assistant' END, repeat('What was said. ', 5 + (depth % 20)::int),
       'complete', '[]', CASE WHEN depth % 2 = 0 THEN '' ELSE pg_temp.id_at('turn', start + depth, number) END, '', 9,
       pg_temp.at(start + depth), pg_temp.at(start + depth)
FROM plan CROSS JOIN LATERAL generate_series(0, length - 1) AS depth ORDER BY start + depth;

-- The last conversations are at work: an eighth of them has one turn behind the running one.
INSERT INTO conversation.turns
  (organization_id, id, user_id, conversation_id, user_message_id, assistant_message_id, state, options, attempt, fence,
   lease_expire_time, deadline, cancel_requested, journal_epoch, sequence_limit, publish_time, create_time, place)
SELECT organization, pg_temp.id_at('turn', start + depth, number), person, id,
       pg_temp.id_at('msg', start + depth - 1, number), pg_temp.id_at('msg', start + depth, number), state,
       (SELECT options FROM conversation.turns LIMIT 1), 1, 1,
       CASE WHEN state = 'running' THEN now() + interval '1 hour' END, now() + interval '2 hours', false, '', 1000,
       now(), pg_temp.at(start + depth), CASE WHEN state = 'waiting' THEN 1 ELSE 0 END
FROM (
  SELECT plan.*, depth, CASE
    WHEN number <= :messages / 20 - :at_work THEN 'completed'
    WHEN depth = length - 1 AND number % 8 = 0 AND length > 3 THEN 'waiting'
    WHEN depth = length - (CASE WHEN number % 8 = 0 AND length > 3 THEN 3 ELSE 1 END)
      THEN CASE WHEN number % 2 = 0 THEN 'running' ELSE 'queued' END
    ELSE 'completed' END AS state
  FROM plan CROSS JOIN LATERAL generate_series(1, length - 1, 2) AS depth) AS answered
ORDER BY start + depth;

INSERT INTO conversation.idempotency (organization_id, user_id, method, request_id, body_hash, resource_id, create_time)
SELECT organization_id, user_id, 'CreateTurn', 'request-' || id, '\x00', id, now() - random() * interval '6 days'
FROM conversation.turns ORDER BY create_time DESC LIMIT :messages / 10;

INSERT INTO conversation.feedback (organization_id, user_id, message_id, conversation_id, rating, comment)
SELECT organization_id, user_id, id, conversation_id, 'good', '' FROM conversation.messages
WHERE role = 'assistant' AND hashtext(id) % 20 = 0;

INSERT INTO conversation.summaries
  (organization_id, id, user_id, conversation_id, through_message_id, messages_covered, made_from, text, model,
   wording_revision, tokens_before, tokens_after, usage)
SELECT organization_id, 'sum_' || right(id, 26), user_id, conversation_id, id, depth + 1, '', 'What was said before.',
       '', '1', 1000, 100, '{}'
FROM conversation.messages WHERE depth % 40 = 39;

INSERT INTO conversation.leftovers (organization_id, user_id, conversation_id, turn_ids)
SELECT pg_temp.organization(number), 'usr_1', 'conv_gone_' || number, '[]'
FROM generate_series(1, :messages / 500) AS number;
