-- An UPDATE or DELETE of a view marks the tables from which it reads the rows
-- that it changes, and locks them as SELECT ... FOR UPDATE would.
\set name target_leaves
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TABLE run (id text PRIMARY KEY, n int DEFAULT 0) PARTITION BY HASH (id);
CREATE TABLE run_0 PARTITION OF run FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE run_1 PARTITION OF run FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE step (id text PRIMARY KEY, "runId" text, n int DEFAULT 0);
CREATE TABLE tag (id text PRIMARY KEY, n int DEFAULT 0);
CREATE TABLE joined ("runId" text, tag text, PRIMARY KEY ("runId", tag));
SELECT 1 AS x FROM dblink('new', $$
  CREATE TABLE run (id text PRIMARY KEY, n int DEFAULT 0);
  CREATE TABLE step (id text PRIMARY KEY, "runId" text, n int DEFAULT 0);
  CREATE TABLE tag (id text PRIMARY KEY, n int DEFAULT 0);
  CREATE TABLE joined ("runId" text, tag text, PRIMARY KEY ("runId", tag)) $$) AS t (x text);
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'),
  run_ops.attach_table('tag', 'store'), run_ops.attach_table('joined', 'anchor', 'runId');
SELECT run_ops.swap_views(true);
SET run_ops_split.cross_store_writes = allow;
\set cuid run_cl8dq15ad30lcaohivaab68x4
\set ksuid run_37dGaqAyHnlXVhBy5x4pckK50bA

-- The tables that a command locks in this way.
CREATE FUNCTION locked(command text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE command;
  RETURN QUERY SELECT c.oid::regclass::text FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND l.mode = 'RowShareLock' AND c.relkind IN ('r', 'p', 'f') ORDER BY 1;
END $$;

-- The session's first query on a view, which loads the library.
\c
SET run_ops_split.cross_store_writes = allow;
SELECT locked('UPDATE run_ops.step SET n = 1');
SELECT locked('UPDATE run_ops.step SET n = 1');
\c
SET run_ops_split.cross_store_writes = allow;
SELECT locked('DELETE FROM run_ops.tag');
SELECT locked('DELETE FROM run_ops.tag');
-- partitions too, and only those that the plan reads
SELECT locked('DELETE FROM run_ops.run');
SELECT locked(format('UPDATE run_ops.run SET n = 1 WHERE id = %L', :'cuid'));
-- a lookup reads one table; the other one stays locked while the plan is used
SELECT locked(format('UPDATE run_ops.step SET n = 1 WHERE "runId" = %L', :'ksuid'));
-- A query that only reads locks nothing in this way, nor does a table that is
-- only read, although the view of the target reads it too.
SELECT locked('SELECT * FROM run_ops.step');
SELECT locked('INSERT INTO run_ops.step SELECT ''x'', id FROM run_ops.run');
SELECT locked('UPDATE run_ops.step AS s SET n = r.n FROM run_ops.run AS r WHERE r.id = s."runId"');
-- several targets in one query
SELECT locked('WITH gone AS (DELETE FROM run_ops.tag RETURNING id) UPDATE run_ops.step SET n = 2 WHERE id IN (SELECT id FROM gone)');
-- a view that stays a subquery in the plan
ALTER VIEW run_ops.step SET (security_barrier);
SELECT locked('UPDATE run_ops.step SET n = 1');
ALTER VIEW run_ops.step RESET (security_barrier);

-- A generic plan locks the same, each time that it is used, and so does one
-- that had to be made again.
SET plan_cache_mode = force_generic_plan;
PREPARE change (text) AS UPDATE run_ops.step SET n = n + 1 WHERE "runId" = $1;
SELECT locked(format('EXECUTE change(%L)', :'cuid'));
SELECT locked(format('EXECUTE change(%L)', :'ksuid'));
SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'change';
CREATE INDEX ON step (n);
SELECT locked(format('EXECUTE change(%L)', :'cuid'));
ALTER FOREIGN TABLE run_ops_new.step OPTIONS (ADD fetch_size '10');
SELECT locked(format('EXECUTE change(%L)', :'cuid'));
SELECT locked(format('EXECUTE change(%L)', :'ksuid'));
DEALLOCATE change;
RESET plan_cache_mode;

-- An index-only scan could not be evaluated again for a new version of a row.
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) DELETE FROM run_ops.joined WHERE "runId" = :'cuid' AND tag = 'x';
EXPLAIN (COSTS OFF) SELECT FROM run_ops.joined WHERE "runId" = :'cuid' AND tag = 'x';
