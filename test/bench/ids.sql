-- Classification against octet_length() over the same rows, minting against
-- gen_random_uuid().
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
SET jit = off;
CREATE TABLE run AS
  SELECT 'run_' || CASE i % 3 WHEN 0 THEN run_ops.generate_cuid()
                              WHEN 1 THEN run_ops.generate_ksuid()
                              ELSE run_ops.generate_run_ops_id() END AS id
    FROM generate_series(1, 1000000) i;
VACUUM ANALYZE run;

SELECT 'classify 1 M ids: ' || f, 'octet_length(id)', 'at most 1.15',
       bench.ratio(format('SELECT count(run_ops.%I(id)) FROM run', f),
                   'SELECT count(octet_length(id)) FROM run')
  FROM unnest(ARRAY['owner_engine', 'is_classifiable', 'classify_kind', 'resolve_shard']) f;
SELECT 'mint: ' || f, 'rate of gen_random_uuid()', 'at least 0.9',
       round(1 / bench.ratio(format('SELECT count(run_ops.%s) FROM generate_series(1, 300000)', f),
                             'SELECT count(gen_random_uuid()) FROM generate_series(1, 300000)'), 2)
  FROM unnest(ARRAY['generate_cuid()', 'generate_ksuid()', 'generate_run_ops_id()',
                    'generate_run_ops_id_v2(''a'')']) f;
