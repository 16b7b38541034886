-- Writes through the views against direct ones to the same table.
\getenv store_host RUN_OPS_STORE_HOST
\getenv store_port RUN_OPS_STORE_PORT
SET client_min_messages = warning;
SELECT current_database() || '_store' AS store_db \gset
\connect postgres - :store_host :store_port
CREATE DATABASE :store_db;
\connect :store_db
\i test/fixtures/store.sql
\getenv legacy_port PGPORT
\connect bench_writes - :store_host :legacy_port
\i test/fixtures/control_plane.sql
SET client_min_messages = warning;
SET synchronous_commit = off;
CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host :'store_host', port :'store_port', dbname :'store_db');
CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user :'USER');
SET client_min_messages = error;
SELECT run_ops.attach_store('new', 'new') \g /dev/null
SELECT count(*) FROM run_ops.attach_all_tables() \g /dev/null
SELECT run_ops.swap_views(true) \g /dev/null
SET run_ops_split.cross_store_writes = allow;

-- "times" statements of one row, one after the other, as a prepared statement runs them
CREATE FUNCTION inserts(target text, mint text, times int) RETURNS text LANGUAGE sql AS $$
  SELECT format('DO $do$ DECLARE i int; k text; BEGIN FOR i IN 1 .. %s LOOP k := %s; '
    'INSERT INTO %s (id, "friendlyId", "runtimeEnvironmentId", "updatedAt") VALUES (k, k, ''e'', now()); '
    'END LOOP; END $do$', times, mint, target)
$$;
CREATE FUNCTION bulk(target text, mint text) RETURNS text LANGUAGE sql AS $$
  SELECT format('INSERT INTO %s (id, "friendlyId", "runtimeEnvironmentId", "updatedAt") '
    'SELECT k, k, ''e'', now() FROM (SELECT %s AS k FROM generate_series(1, 5000)) AS m', target, mint)
$$;
SELECT 'single insert, LEGACY', 'direct insert in the same store', '<= 1.3',
  bench.ratio(inserts('run_ops."BatchTaskRun"', 'run_ops.generate_cuid()', 300), inserts('public."BatchTaskRun"', 'run_ops.generate_cuid()', 300));
SELECT '5,000 rows to LEGACY', 'a direct INSERT ... SELECT', '<= 1.25',
  bench.ratio(bulk('run_ops."BatchTaskRun"', 'run_ops.generate_cuid()'), bulk('public."BatchTaskRun"', 'run_ops.generate_cuid()'));

-- one row at a time, by key
CREATE TABLE ids AS
  SELECT row_number() OVER () AS n, * FROM (SELECT run_ops.generate_cuid() AS cuid, run_ops.generate_ksuid() AS ksuid FROM generate_series(1, 100)) AS i;
INSERT INTO run_ops."BatchTaskRun" (id, "friendlyId", "runtimeEnvironmentId", "updatedAt")
  SELECT k, k, 'u', now() FROM ids, unnest(ARRAY[cuid, ksuid]) AS k;
-- a delete and the insert that makes the next one possible
CREATE FUNCTION deletes(target text, kind text) RETURNS text LANGUAGE sql AS $$
  SELECT format('DO $do$ DECLARE k text; BEGIN FOR k IN SELECT %1$I FROM ids LOOP '
    'DELETE FROM %2$s WHERE id = k; '
    'INSERT INTO %2$s (id, "friendlyId", "runtimeEnvironmentId", "updatedAt") VALUES (k, k, ''u'', now()); END LOOP; END $do$', kind, target)
$$;
SELECT 'delete by id and insert, LEGACY', 'the same directly', '',
  bench.ratio(deletes('run_ops."BatchTaskRun"', 'cuid'), deletes('public."BatchTaskRun"', 'cuid'));
SELECT 'delete by id and insert, NEW', 'the same directly', '',
  bench.ratio(deletes('run_ops."BatchTaskRun"', 'ksuid'), deletes('run_ops_new."BatchTaskRun"', 'ksuid'));
