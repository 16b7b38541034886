-- New ids, and what can be read back from one.
CREATE EXTENSION IF NOT EXISTS run_ops_split CASCADE;

-- Each generator makes a body of its kind.
CREATE TABLE id_mint_sample (
  kind text, store text, id text, at timestamptz DEFAULT now());
INSERT INTO id_mint_sample
  SELECT 'cuid' AS kind, 'legacy' AS store, run_ops.generate_cuid() AS id
    FROM generate_series(1, 1000)
  UNION ALL
  SELECT 'ksuid', 'new', run_ops.generate_ksuid() FROM generate_series(1, 1000)
  UNION ALL
  SELECT 'runOpsId', 'new', run_ops.generate_run_ops_id() FROM generate_series(1, 1000)
  UNION ALL
  SELECT 'runOpsId', 'z', run_ops.generate_run_ops_id_v2('z') FROM generate_series(1, 1000);
SELECT kind, store, run_ops.classify_kind(id), run_ops.resolve_shard(id),
       count(*), count(DISTINCT id) AS distinct,
       bool_and(id COLLATE "C" ~ CASE store
                  WHEN 'legacy' THEN '^c[0-9a-z]{24}$'
                  WHEN 'z' THEN '^[0-9a-v]{24}z2$'
                  ELSE CASE kind WHEN 'ksuid' THEN '^[0-9A-Za-z]{27}$'
                                 ELSE '^[0-9a-v]{24}01$' END END) AS well_formed
  FROM id_mint_sample GROUP BY 1, 2, 3, 4 ORDER BY 1, 2;

-- Every random place varies: with 1000 ids each has nearly the whole alphabet.
SELECT kind, count(*) AS places, bool_and(characters > 30) AS vary
  FROM (SELECT kind, place, count(DISTINCT substr(id, place, 1)) AS characters
          FROM id_mint_sample, generate_series(1, 27) place
         WHERE place BETWEEN CASE kind WHEN 'cuid' THEN 14 WHEN 'ksuid' THEN 8 ELSE 11 END
                         AND CASE kind WHEN 'runOpsId' THEN 24 ELSE length(id) END
         GROUP BY 1, 2) p
 GROUP BY 1 ORDER BY 1;

-- A region or a shard is one character of a-z or 0-9; an unknown region is 0.
SELECT right(run_ops.generate_run_ops_id('e'), 2) AS region_e,
       right(run_ops.generate_run_ops_id(NULL), 2) AS region_unknown,
       right(run_ops.generate_run_ops_id_v2('9'), 2) AS shard_9;
SELECT run_ops.generate_run_ops_id('us-east-1');
SELECT run_ops.generate_run_ops_id('');
SELECT run_ops.generate_run_ops_id('E');
SELECT run_ops.generate_run_ops_id('é');
SELECT run_ops.generate_run_ops_id_v2('ab');
SELECT run_ops.generate_run_ops_id_v2(' ');
SELECT run_ops.generate_run_ops_id_v2(NULL);

-- The creation time can be read back: ksuid in seconds, the others in
-- milliseconds.
SELECT kind, store,
       bool_and(run_ops.id_timestamp(id) BETWEEN at - interval '1 s'
                AND clock_timestamp()) AS right
  FROM id_mint_sample GROUP BY 1, 2 ORDER BY 1, 2;
CREATE TABLE id_mint_vector (id text, format text, unix_ms bigint, note text);
\copy id_mint_vector FROM 'test/data/id_timestamp_vectors.csv' WITH (FORMAT csv, HEADER)
INSERT INTO id_mint_vector VALUES
  ('cm4xz8q5t0000abcd1234efgh', 'cuid', 1734773316977, 'typical'),
  ('run_cgwvaneo00000000000000000', 'cuid', 1325376000000, 'the oldest plausible one'),
  ('run_cgwvanenz0000000000000000', 'cuid', NULL, 'one millisecond older'),
  ('czzzzzzzz0000abcd1234efgh', 'cuid', 2821109907455, 'the last one'),
  ('am4xz8q5t0000abcd1234efgh', 'cuid', NULL, 'no c'),
  ('cm4xz8q5t0000abcd1234efgH', 'cuid', NULL, 'not base36'),
  ('cm4xz8q5t0000abcd1234efgé', 'cuid', NULL, 'not base36'),
  ('aWgEPTl1tmebfsQzFP4bxwgy80W', 'ksuid', NULL, 'more than 20 bytes'),
  ('zzzzzzzzzzzzzzzzzzzzzzzzzzz', 'ksuid', NULL, 'more than 20 bytes'),
  ('!!!!!!!!!!!!!!!!!!!!!!!!!!!', 'ksuid', NULL, 'not base62'),
  (repeat('é', 27), 'ksuid', NULL, 'not base62'),
  ('06fiq7vkikfokn0h9m592e18a3', '', NULL, 'unallocated version'),
  ('', '', NULL, 'empty'),
  (NULL, '', NULL, 'null');
SELECT id, format, run_ops.id_timestamp(id) AT TIME ZONE 'UTC' AS utc,
       (extract(epoch FROM run_ops.id_timestamp(id)) * 1000)::bigint
         IS NOT DISTINCT FROM unix_ms AS right
  FROM id_mint_vector ORDER BY format COLLATE "C", unix_ms, id COLLATE "C";

-- Under byte order, ids of one kind sort by time.  A runOpsId takes its order
-- from milliseconds, a ksuid from seconds, so let one pass.
SELECT pg_sleep(1.1);
INSERT INTO id_mint_sample
  SELECT 'ksuid', 'new', run_ops.generate_ksuid() FROM generate_series(1, 100);
SELECT count(DISTINCT run_ops.id_timestamp(id)) > 1 AS several_seconds
  FROM id_mint_sample WHERE kind = 'ksuid';
WITH ordered AS (
  SELECT kind, id, run_ops.id_timestamp(id) AS at,
         lag(run_ops.id_timestamp(id)) OVER (PARTITION BY kind ORDER BY left(id, 24) COLLATE "C") AS before
    FROM id_mint_sample
  UNION ALL
  SELECT format, id, run_ops.id_timestamp(id),
         lag(run_ops.id_timestamp(id)) OVER (PARTITION BY format ORDER BY run_ops.id_body(id) COLLATE "C")
    FROM id_mint_vector WHERE unix_ms IS NOT NULL)
SELECT kind, count(*) AS out_of_order FROM ordered WHERE at < before GROUP BY 1;

-- A friendly id is the body with the name of what it is; id_body() is what
-- the classification looks at.
SELECT run_ops.friendly_id('run', 'cm4xz8q5t0000abcd1234efgh') AS friendly,
       run_ops.friendly_id('run', 'run_cm4xz8q5t0000abcd1234efgh') AS twice,
       run_ops.friendly_id('run', 'runner') AS other_word,
       run_ops.friendly_id('run', NULL) IS NULL AS nothing;
SELECT id, run_ops.id_body(id)
  FROM (VALUES ('run_cm4xz8q5t0000abcd1234efgh'), ('cm4xz8q5t0000abcd1234efgh'),
               ('run_a_b'), ('_'), ('run_'), (''), (NULL)) v(id);
SELECT run_ops.friendly_id('', 'cm4xz8q5t0000abcd1234efgh');
SELECT run_ops.friendly_id('my_run', 'cm4xz8q5t0000abcd1234efgh');
SELECT run_ops.friendly_id('run', '');
SELECT bool_and(run_ops.id_body(run_ops.friendly_id('batch', id)) = id) AS and_back
  FROM id_mint_sample;

-- Minting may run in parallel, and never once for all rows.
SELECT proname, provolatile, proparallel, proleakproof
  FROM pg_catalog.pg_proc
 WHERE pronamespace = 'run_ops'::regnamespace
   AND (proname LIKE 'generate%' OR proname IN ('id_timestamp', 'friendly_id', 'id_body'))
 ORDER BY proname COLLATE "C";

DROP TABLE id_mint_sample, id_mint_vector;

-- The lowest id of a time, for boundaries and partitions.
SELECT kind, run_ops.id_floor(kind, '2026-01-01 00:00+00') FROM unnest('{runOpsId,ksuid,uuidv7,ulid,snowflake}'::text[]) AS kind;
SELECT count(*) FROM (SELECT to_timestamp(1400000000 + i * 1234567.891) AS at FROM generate_series(0, 2000) AS i) AS t
 WHERE run_ops.id_timestamp(run_ops.id_floor('ksuid', at)) <> date_trunc('second', at)
    OR run_ops.id_timestamp(left(run_ops.id_floor('runOpsId', at), 25) || '1') <> date_trunc('milliseconds', at);
SELECT kind, bool_and(id >= run_ops.id_floor(kind, now() - interval '1 second') COLLATE "C" AND id < run_ops.id_floor(kind, now() + interval '1 minute') COLLATE "C")
  FROM (SELECT 'ksuid' AS kind, run_ops.generate_ksuid() AS id FROM generate_series(1, 1000)
        UNION ALL SELECT 'runOpsId', run_ops.generate_run_ops_id() FROM generate_series(1, 1000)) AS i GROUP BY kind ORDER BY kind;
SELECT run_ops.id_floor('ksuid', '2014-05-13 16:53:19+00');
SELECT run_ops.id_floor('cuid', now());
