-- A fiftieth as many documents as there are messages, of five chunks each; so many at least that one knowledge base, which
-- has a twentieth of them, is a small part. A hundred wait for a worker.

CREATE FUNCTION pg_temp.of_base(base bigint) RETURNS text LANGUAGE sql IMMUTABLE RETURN pg_temp.id('org', base % 40);

INSERT INTO retrieval.knowledge_bases
  (id, organization_id, display_name, description, encoder, sequence, request_id, request_digest, created_at,
   updated_at)
SELECT pg_temp.id('kb', base), pg_temp.of_base(base), 'Base ' || base, '', 'words@1', :messages, 'request-' || base, '',
       now(), now()
FROM generate_series(0, 1999) AS base;

INSERT INTO retrieval.documents
  (id, organization_id, knowledge_base_id, display_name, version, media_type, size_bytes, sha256, state, chunk_count,
   progress, attempts, claimable_at, created_at, updated_at)
SELECT pg_temp.id('doc', number), pg_temp.of_base(base), pg_temp.id('kb', base), 'Document ' || number, 1, 'text/plain',
       1000, '', CASE WHEN number <= 100 THEN 'queued' ELSE 'ready' END, 5, 1, 0,
       now() - make_interval(mins => number), now(), now()
FROM (SELECT number, CASE WHEN number % 20 = 0 THEN 0 ELSE number % 2000 END AS base
      FROM generate_series(1, greatest(:messages / 50, 10000)) AS number) AS numbered;

INSERT INTO retrieval.document_texts (organization_id, document_id, version, text, blocks)
SELECT organization_id, id, 1, repeat('A sentence of a document. ', 60), '[]' FROM retrieval.documents;

INSERT INTO retrieval.chunks
  (id, organization_id, knowledge_base_id, document_id, document_version, ordinal, text, start_offset, end_offset,
   title, locator, embedding)
SELECT 'chk_' || right(id, 20) || ordinal, organization_id, knowledge_base_id, id, 1, ordinal,
       repeat('A sentence. ', 20), ordinal * 200, ordinal * 200 + 199, '', '', decode(repeat('003c', 32), 'hex')
FROM retrieval.documents CROSS JOIN generate_series(0, 4) AS ordinal WHERE state = 'ready' ORDER BY id;

INSERT INTO retrieval.changes (organization_id, knowledge_base_id, document_id, sequence)
SELECT organization_id, knowledge_base_id, id,
       :messages - row_number() OVER (PARTITION BY knowledge_base_id ORDER BY id)
FROM retrieval.documents;
