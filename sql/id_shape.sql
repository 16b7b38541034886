-- The shape of an id says where its row lives.
CREATE EXTENSION IF NOT EXISTS run_ops_split CASCADE;

-- One id of each kind: 25 characters after the prefix are a cuid, 27 a ksuid,
-- 26 well-formed ones a runOpsId, whose version 2 names its shard.
CREATE VIEW id_shape_examples(id) AS VALUES
  ('run_cm4xz8q5t0000abcd1234efgh'),
  ('run_3G2Os5DWGMmuIMa4K5iiqfci7AC'),
  ('run_06fipvvm01535lic8fpnhjd4e1'),
  ('run_06fipvvm01ki25k9r20amokva2'),
  ('run_06fipvvm01ki25k9r20amokva3'),
  ('run_123456789abcdefghijkm'),
  ('cm4xz8q5t0000abcd1234efgh'),
  (''),
  (NULL);
SELECT id, run_ops.try_owner_engine(id), run_ops.is_classifiable(id),
       run_ops.classify_kind(id), run_ops.resolve_shard(id)
  FROM id_shape_examples;

-- resides() puts it as a question about one store, and always has an answer.
SELECT id, run_ops.resides(id, 'legacy') AS legacy,
       run_ops.resides(id, 'new') AS new, run_ops.resides(id, 'a') AS a,
       run_ops.resides(id, NULL) AS nowhere
  FROM id_shape_examples;

-- owner_engine() insists: it is an error where there is no answer.
SELECT run_ops.owner_engine('run_06fipvvm01ki25k9r20amokva2');
DO $$
DECLARE
  bad text;
  state text; message text; detail text; hint text;
BEGIN
  FOREACH bad IN ARRAY ARRAY['run_short', '', 'run_éé',
                             'run_' || repeat('é', 1000)]
  LOOP
    BEGIN
      PERFORM run_ops.owner_engine(bad);
    EXCEPTION WHEN SQLSTATE 'RO001' THEN
      GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE,
        message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT;
      RAISE INFO USING MESSAGE = state || ': ' || message, DETAIL = detail;
    END;
  END LOOP;
  RAISE INFO USING MESSAGE = 'and the way out', HINT = hint;
END $$;

-- What the functions promise: the planner and a security barrier may rely on it.
SELECT proname, provolatile, proisstrict, proparallel, proleakproof
  FROM pg_catalog.pg_proc
 WHERE pronamespace = 'run_ops'::regnamespace
   AND proname IN ('owner_engine', 'try_owner_engine', 'is_classifiable',
                   'classify_kind', 'resolve_shard', 'resides')
 ORDER BY proname COLLATE "C";

-- The decision table of two earlier classifiers.  The rule here is their
-- union: 25 and 27 characters as the first had it, the 26-character form as
-- the second had it, and nothing else.
CREATE TABLE id_shape_vector (
  id text, length int, expected_pr text, expected_head text, note text);
\copy id_shape_vector FROM 'test/data/classification_vectors.csv' WITH (FORMAT csv, HEADER)
CREATE VIEW id_shape_expected AS
  SELECT *,
         CASE WHEN length = 26 AND expected_head = 'NEW' THEN 'NEW'
              ELSE nullif(expected_pr, 'ERROR') END AS residency,
         CASE WHEN expected_pr = 'NEW' THEN 'new'
              ELSE substring(note FROM 'shard_head=([^;]*);') END AS shard,
         note LIKE '%; astral%' AS astral
    FROM id_shape_vector;
SELECT count(*), count(residency) AS classifiable, count(*) FILTER (WHERE astral) AS astral
  FROM id_shape_expected;

-- No row of this may be wrong ...
SELECT id, residency, run_ops.try_owner_engine(id), shard, run_ops.resolve_shard(id)
  FROM id_shape_expected
 WHERE NOT astral
   AND (run_ops.try_owner_engine(id)::text IS DISTINCT FROM residency
        OR run_ops.is_classifiable(id) IS DISTINCT FROM (residency IS NOT NULL)
        OR run_ops.classify_kind(id)::text IS DISTINCT FROM
           CASE WHEN residency IS NOT NULL
                THEN CASE length WHEN 25 THEN 'cuid' WHEN 26 THEN 'runOpsId' ELSE 'ksuid' END END
        OR run_ops.resolve_shard(id) IS DISTINCT FROM shard
        OR NOT run_ops.resides(id, shard));

-- ... except that the table counts UTF-16 units, two for a character outside
-- the Basic Multilingual Plane, and PostgreSQL counts characters.
SELECT length AS utf16_units, char_length(id) AS characters, residency AS by_units,
       run_ops.try_owner_engine(id) AS by_characters
  FROM id_shape_expected WHERE astral ORDER BY length;

-- The same rule as SQL for a store, which has no extension: no row may differ.
SELECT store, run_ops.residency_condition('id', store)
  FROM unnest(ARRAY['new', 'a', 'legacy', 'no store']) AS store;
SELECT format('SELECT %L AS store, id FROM id_shape_vector WHERE (%s) IS DISTINCT FROM run_ops.resides(id, %1$L)',
              store, run_ops.residency_condition('id', store))
  FROM (SELECT 'new' UNION SELECT shard FROM id_shape_expected WHERE shard <> 'legacy') AS s (store) ORDER BY store \gexec

-- Versions not yet allocated stay unclassifiable, so a constraint keeps their
-- ids out of a table until they mean something.
CREATE TABLE id_shape_run (
  id text PRIMARY KEY CHECK (run_ops.is_classifiable(id)));
INSERT INTO id_shape_run VALUES ('run_aaaaaaaaaaaaaaaaaaaaaaaae2');
SELECT v FROM generate_series(0, 9) v
 WHERE run_ops.is_classifiable('aaaaaaaaaaaaaaaaaaaaaaaae' || v);
INSERT INTO id_shape_run VALUES ('run_aaaaaaaaaaaaaaaaaaaaaaaae3');

-- The answers may be a partition key or an index.
CREATE TABLE id_shape_part (id text) PARTITION BY LIST (run_ops.try_owner_engine(id));
CREATE TABLE id_shape_part_legacy PARTITION OF id_shape_part FOR VALUES IN ('LEGACY', NULL);
CREATE TABLE id_shape_part_new PARTITION OF id_shape_part FOR VALUES IN ('NEW');
INSERT INTO id_shape_part SELECT id FROM id_shape_examples;
SELECT tableoid::regclass, count(*) FROM id_shape_part GROUP BY 1 ORDER BY 1;
CREATE INDEX ON id_shape_run (run_ops.classify_kind(id), run_ops.resolve_shard(id));
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM id_shape_run
 WHERE run_ops.classify_kind(id) = 'runOpsId' AND run_ops.resolve_shard(id) = 'e';
SELECT id FROM id_shape_run
 WHERE run_ops.classify_kind(id) = 'runOpsId' AND run_ops.resolve_shard(id) = 'e';
RESET enable_seqscan;
RESET enable_bitmapscan;

-- A value is judged the same however it is stored: short, compressed, out of
-- line, out of line and compressed; with its separator early, late or missing.
CREATE TABLE id_shape_stored (how text, what text, id text);
CREATE VIEW id_shape_long AS
  SELECT what, id FROM (VALUES
    ('cuid after a long prefix', repeat('p', 9000) || '_' || repeat('c', 25)),
    ('ksuid after a prefix as long as the head', repeat('p', 255) || '_' || repeat('k', 27)),
    ('ksuid after a longer prefix', repeat('p', 256) || '_' || repeat('k', 27)),
    ('ksuid of three-byte characters', 'run_' || repeat('一', 27)),
    ('a second separator, too late', 'run_' || repeat('p', 9000) || '_' || repeat('c', 25)),
    ('no separator', repeat('p', 9000)),
    ('long body', 'run_' || repeat('p', 9000)),
    ('cuid', 'run_' || repeat('c', 25))) v(what, id);
INSERT INTO id_shape_stored SELECT 'extended', * FROM id_shape_long;
ALTER TABLE id_shape_stored ALTER id SET STORAGE EXTERNAL;
INSERT INTO id_shape_stored SELECT 'external', * FROM id_shape_long;
ALTER TABLE id_shape_stored ALTER id SET STORAGE MAIN;
INSERT INTO id_shape_stored SELECT 'main', * FROM id_shape_long;
ALTER TABLE id_shape_stored ALTER id SET STORAGE EXTENDED;
-- random text compresses too little to stay in the row
INSERT INTO id_shape_stored
  SELECT 'both', 'long random body', 'run_' || string_agg(md5(i::text), '' ORDER BY i)
    FROM generate_series(1, 2000) i;
SELECT what, how, pg_column_size(id) < octet_length(id) / 2 AS compressed,
       run_ops.try_owner_engine(id), run_ops.resides(id, 'new') AS new,
       run_ops.try_owner_engine(id) IS NOT DISTINCT FROM run_ops.try_owner_engine(id || '') AS same
  FROM id_shape_stored ORDER BY what COLLATE "C", how COLLATE "C";
SELECT run_ops.owner_engine(id) FROM id_shape_stored WHERE how = 'both';

DROP VIEW id_shape_examples, id_shape_expected, id_shape_long;
DROP TABLE id_shape_vector, id_shape_run, id_shape_part, id_shape_stored;
