-- Half as many lines of the ledger as there are messages, the usage of a year, batches, prompts and budgets.

INSERT INTO inference.ledger
  (organization_id, id, number, user_id, api_key_id, model, purpose, at, calls, input_tokens, cached_input_tokens,
   output_tokens, reasoning_tokens, cost_nanos, is_estimated, is_lapsed)
SELECT pg_temp.organization(number), pg_temp.id('call', number), 0, pg_temp.id('usr', number % 50),
       pg_temp.id('key', number % 20), 'openai/m', 'answer',
       timestamptz '2026-01-01 00:00Z' + make_interval(secs => number), 1, 1, 0, 1, 0, 1, false, false
FROM generate_series(1, :messages / 2) AS number;

INSERT INTO inference.usage_days
  (organization_id, day, user_id, api_key_id, model, purpose, calls, input_tokens, cached_input_tokens, output_tokens,
   reasoning_tokens, cost_nanos, unpriced_calls, estimated_calls)
SELECT pg_temp.id('org', organization), date '2026-01-01' + day, pg_temp.id('usr', person),
       pg_temp.id('key', person % 20), 'openai/m', 'answer', 1, 1, 0, 1, 0, 1, 0, 0
FROM generate_series(0, 9) AS organization, generate_series(0, 364) AS day,
     LATERAL generate_series(1, CASE WHEN organization = 0 THEN :messages / 5000 ELSE 5 END) AS person;

INSERT INTO inference.reservations
  (organization_id, id, user_id, api_key_id, model, purpose, at, expires_at, input_tokens, output_tokens, cost_nanos)
SELECT pg_temp.organization(number), pg_temp.id('held', number), pg_temp.id('usr', number % 50),
       pg_temp.id('key', number % 20), 'openai/m', 'answer', now(), now() + make_interval(mins => 10), 1, 1, 1
FROM generate_series(1, 2000) AS number;

INSERT INTO inference.budgets (organization_id, subject_id, cost_nanos_per_day, created_at, updated_at)
SELECT pg_temp.id('org', organization), pg_temp.id('usr', person), 1000000000, now(), now()
FROM generate_series(0, 39) AS organization, generate_series(0, 49) AS person;

INSERT INTO inference.budget_counters (organization_id, subject_id, period, starts_on, spent_nanos, reserved_nanos)
SELECT organization_id, subject_id, 'day', date '2026-11-01' + day, 1, 0
FROM inference.budgets CROSS JOIN generate_series(0, 29) AS day;

INSERT INTO inference.budget_alerts
  (organization_id, subject_id, period, starts_on, percent, limit_nanos, spent_nanos, at)
SELECT organization_id, subject_id, 'day', starts_on, 80, 10, 8, starts_on FROM inference.budget_counters
WHERE extract(day FROM starts_on)::int % 5 = 0;

INSERT INTO inference.batches
  (organization_id, id, user_id, credential_id, state, created_at, due_at, ended_at, claimable_at)
SELECT pg_temp.organization(number), pg_temp.id('batch', number), pg_temp.id('usr', number % 5), '',
       CASE WHEN number % 100 = 0 THEN 'running' ELSE 'ended' END, now(), now() + make_interval(days => 1),
       CASE WHEN number % 100 = 0 THEN NULL ELSE now() - make_interval(mins => number) END,
       now() - make_interval(mins => number)
FROM generate_series(1, greatest(:messages / 250, 3000)) AS number;

INSERT INTO inference.batch_items
  (organization_id, batch_id, number, id, custom_id, request, model, purpose, call_id, is_batched, state, attempts,
   ready_at, handover_id, answer, reason, message)
SELECT organization_id, id, item, 'item_' || right(id, 20) || item, 'mine-' || item, '', 'openai/m', 'answer', '', false,
       CASE WHEN state = 'ended' OR item <= 3 THEN 'succeeded' ELSE 'waiting' END, 1, now() - interval '1 day',
       '', repeat('x', 200)::bytea, '', ''
FROM inference.batches CROSS JOIN generate_series(1, 10) AS item;

INSERT INTO inference.batch_handovers
  (organization_id, batch_id, id, model, key_id, items_count, submitted_at, vendor_id, closed_at)
SELECT organization_id, id, 'hand_' || right(id, 26), 'openai/m', pg_temp.id('key', abs(hashtext(id) % 3)), 30,
       ended_at, 'vendor-' || id, ended_at
FROM inference.batches WHERE ended_at IS NOT NULL;

INSERT INTO inference.prompts
  (organization_id, id, name, description, latest_revision, aliases, created_at, updated_at)
SELECT pg_temp.id('org', organization), pg_temp.id('prompt', organization * 1000 + prompt), 'name-' || prompt, '', 20,
       '{}', now(), now()
FROM generate_series(0, 39) AS organization, generate_series(1, 100) AS prompt;

INSERT INTO inference.prompt_revisions (organization_id, prompt_id, number, content, note, author_id, created_at)
SELECT organization_id, id, number, '{}', '', 'usr_1', now()
FROM inference.prompts CROSS JOIN generate_series(1, 20) AS number;
