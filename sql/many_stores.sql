-- As many stores as there can be: "new" and the shards a-z, 0-9.
\set name many_stores
\i test/fixtures/two_stores.sql
\set ECHO none
\connect postgres - :store_host :store_port
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_many_stores_a (FORCE);
DROP DATABASE IF EXISTS regress_many_stores_b (FORCE);
CREATE DATABASE regress_many_stores_a;
CREATE DATABASE regress_many_stores_b;
COMMENT ON DATABASE regress_many_stores_a IS 'made by a test of run_ops_split';
COMMENT ON DATABASE regress_many_stores_b IS 'made by a test of run_ops_split';
\connect :legacy_db - :legacy_host :legacy_port
SET client_min_messages = warning;
SELECT set_config('regress.store', format('host %L, port %L', :'store_host', :'store_port'), false) \g /dev/null
SELECT set_config('regress.user', :'USER', false) \g /dev/null
-- a store of each name; all from "c" on are one database, whose tables stay empty
DO $$
DECLARE
  tables text := 'CREATE TABLE public.tag (id text PRIMARY KEY, run text, n int); CREATE TABLE public.part (a int, b text, n int, PRIMARY KEY (a, b)); '
                 'CREATE TABLE public.run (id text PRIMARY KEY, state text, n int); CREATE TABLE public.step (id text PRIMARY KEY, "runId" text, n int)';
  store  text;
BEGIN
  EXECUTE tables;
  FOREACH store IN ARRAY ARRAY['new'] || regexp_split_to_array('abcdefghijklmnopqrstuvwxyz0123456789', '') LOOP
    EXECUTE format('CREATE SERVER IF NOT EXISTS %I FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (%s, dbname %L)', store,
                   current_setting('regress.store'), 'regress_many_stores_' || CASE WHEN store IN ('a', 'b') THEN store ELSE 'b' END);
    EXECUTE format('CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER %I OPTIONS (user %L)', store, current_setting('regress.user'));
    PERFORM run_ops.attach_store(store, store) WHERE store IN ('new', 'a', 'b');
    PERFORM run_ops.tell_store(store, tables) WHERE store IN ('new', 'a', 'b');
  END LOOP;
END $$;
RESET client_min_messages;
\set SHOW_CONTEXT never
\set ECHO all
-- First three stores with rows.
SELECT run_ops.attach_table('tag', 'store'), run_ops.attach_table('part', 'store');
SELECT run_ops.swap_views(true);
INSERT INTO tag SELECT 'tag ' || i, 'r' || i % 10, i FROM generate_series(1, 900) AS i;
INSERT INTO part SELECT i % 3, 'p' || i, i FROM generate_series(1, 300) AS i;
-- each store has some keys of the local table, and rows of its own
INSERT INTO run_ops_new.tag SELECT id, run, -n FROM tag WHERE n % 7 = 0;
INSERT INTO run_ops_a.tag SELECT id, run, -n FROM tag WHERE n % 7 = 1;
INSERT INTO run_ops_b.tag SELECT id, run, -n FROM tag WHERE n % 7 = 2;
INSERT INTO run_ops_new.tag SELECT 'new ' || i, 'r' || i % 10, i FROM generate_series(1, 20) AS i;
INSERT INTO run_ops_b.tag SELECT 'b ' || i, 'r' || i % 10, i FROM generate_series(1, 20) AS i;
INSERT INTO run_ops_a.part SELECT a, b, -n FROM part WHERE n % 5 = 0;
INSERT INTO run_ops_b.part SELECT a, b, -n FROM part WHERE n % 5 = 1;
INSERT INTO run_ops_b.part SELECT a + 1, b, 0 FROM part WHERE n % 5 = 2;
ANALYZE tag, part;
CREATE FUNCTION expected(name text) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
  keys text := (SELECT string_agg(quote_ident(k), ', ') FROM run_ops.routed_table AS t, unnest(t.key_columns) AS k WHERE t.legacy = name::regclass);
BEGIN
  EXECUTE format('CREATE TEMP TABLE there AS SELECT * FROM run_ops_new.%1$I UNION ALL SELECT * FROM run_ops_a.%1$I UNION ALL SELECT * FROM run_ops_b.%1$I', name);
  RETURN QUERY EXECUTE format('SELECT * FROM there UNION ALL SELECT * FROM public.%I WHERE (%s) NOT IN (SELECT %2$s FROM there)', name, keys);
  DROP TABLE there;
END $$;
-- A local row is shown if no store has its key.
SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE n < 0) FROM run_ops.tag;
SELECT * FROM expected('tag') AS e (id text, run text, n int) EXCEPT ALL SELECT * FROM run_ops.tag;
SELECT * FROM expected('part') AS e (a int, b text, n int) EXCEPT ALL SELECT * FROM run_ops.part;
SELECT count(*), count(*) FILTER (WHERE n < 0) FROM run_ops.part;
EXPLAIN (VERBOSE, COSTS OFF) SELECT n FROM run_ops.tag WHERE run = 'r3';
SELECT count(*), sum(n) FROM run_ops.tag WHERE run = 'r3';
SELECT count(*), sum(n) FROM expected('tag') AS e (id text, run text, n int) WHERE run = 'r3';
-- by key: of this database, of one and of both; the stores are asked at the same time
EXPLAIN (COSTS OFF) SELECT n FROM run_ops.tag WHERE id = 'tag 3';
SELECT n FROM run_ops.tag WHERE id = 'tag 3';
SELECT n FROM run_ops.tag WHERE id = 'tag 8';
SELECT n FROM run_ops.tag WHERE id = 'b 8';
SELECT n FROM run_ops.part WHERE a = 0 AND b = 'p3';
SELECT n FROM run_ops.part WHERE a = 2 AND b = 'p5';
SELECT id, n FROM run_ops.tag WHERE id IN ('tag 1', 'tag 2', 'tag 3', 'tag 7', 'none') ORDER BY id;
SET plan_cache_mode = force_generic_plan;
PREPARE by_key (text) AS SELECT n FROM run_ops.tag WHERE id = $1;
EXECUTE by_key ('tag 3');
EXECUTE by_key ('tag 8');
EXECUTE by_key (NULL);
RESET plan_cache_mode;
-- a page, a join, counts
SELECT id, n FROM run_ops.tag WHERE n > 0 ORDER BY n, id LIMIT 6;
SELECT count(*), sum(t.n) FROM run_ops.tag AS t JOIN run_ops.part AS p ON p.n = t.n;
SELECT count(*), sum(t.n) FROM expected('tag') AS t (id text, run text, n int) JOIN expected('part') AS p (a int, b text, n int) ON p.n = t.n;
EXPLAIN (COSTS OFF) SELECT run, count(*) FROM run_ops.tag GROUP BY run;
SELECT run, count(*), sum(n) FROM run_ops.tag WHERE run < 'r3' GROUP BY run ORDER BY run;
-- statements that change rows, as of one table
BEGIN;
SET LOCAL run_ops_split.cross_store_writes = allow;
CREATE TEMP TABLE plain AS SELECT * FROM run_ops.tag;
EXPLAIN (COSTS OFF) UPDATE run_ops.tag SET n = n + 1000 WHERE run = 'r4';
UPDATE run_ops.tag SET n = n + 1000 WHERE run = 'r4';
UPDATE plain SET n = n + 1000 WHERE run = 'r4';
UPDATE run_ops.tag SET n = 0 WHERE id = 'tag 3' RETURNING id;
UPDATE plain SET n = 0 WHERE id = 'tag 3' RETURNING id;
UPDATE run_ops.tag AS t SET n = w.n FROM (VALUES ('tag 1', 1), ('tag 4', 2), ('new 1', 3)) AS w (id, n) WHERE w.id = t.id RETURNING t.*, w.id;
UPDATE plain AS t SET n = w.n FROM (VALUES ('tag 1', 1), ('tag 4', 2), ('new 1', 3)) AS w (id, n) WHERE w.id = t.id;
TABLE plain EXCEPT ALL TABLE run_ops.tag;
DELETE FROM run_ops.tag WHERE run = 'r5' AND n > 0;
DELETE FROM plain WHERE run = 'r5' AND n > 0;
TABLE plain EXCEPT ALL TABLE run_ops.tag;
SELECT (SELECT count(*) FROM plain) = (SELECT count(*) FROM run_ops.tag) AS equal;
ROLLBACK;
-- an error of one store costs nothing that others have done
BEGIN;
INSERT INTO run_ops_new.tag VALUES ('written', 'r', 1);
SAVEPOINT s;
SELECT x FROM run_ops.tell_store('b', 'ALTER TABLE public.tag RENAME id TO key') AS x;
SELECT count(*) FROM tag AS x
 WHERE NOT EXISTS (SELECT FROM (SELECT id FROM run_ops_new.tag UNION ALL SELECT id FROM run_ops_b.tag UNION ALL SELECT id FROM run_ops_a.tag) AS y WHERE y.id = x.id);
ROLLBACK TO s;
SELECT x FROM run_ops.tell_store('b', 'ALTER TABLE public.tag RENAME key TO id') AS x;
SELECT count(*) FROM run_ops.tag WHERE id = 'written' OR id LIKE 'b %';
ROLLBACK;
-- two tables of one store
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM (SELECT id FROM run_ops_new.tag UNION ALL SELECT id FROM run_ops_a.tag UNION ALL SELECT id FROM run_ops_new.tag) AS y WHERE y.id = x.id);
-- what else could be in the place of the stores is left alone
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM (SELECT id FROM run_ops_new.tag WHERE n < -500 UNION ALL SELECT id FROM run_ops_a.tag) AS y WHERE y.id = x.id);
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM (SELECT id FROM run_ops_new.tag UNION ALL SELECT id FROM tag WHERE n > 800) AS y WHERE y.id = x.id);
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM (SELECT id FROM run_ops_new.tag UNION ALL SELECT lower(id) FROM run_ops_a.tag) AS y WHERE y.id = x.id);
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM (SELECT id, n FROM run_ops_new.tag UNION ALL SELECT id, n FROM run_ops_a.tag) AS y WHERE y.id = x.id AND y.n < -500);
-- Only an application can write a key to two stores.  The view shows both rows,
-- and a gate counts them.
INSERT INTO run_ops_new.tag VALUES ('twice', 'r', 1);
INSERT INTO run_ops_b.tag VALUES ('twice', 'r', 2);
SELECT * FROM run_ops.tag WHERE id = 'twice' ORDER BY n;
SELECT store, belongs_to, count(*), max(key ->> 'id') AS key FROM run_ops.find_strays('tag') GROUP BY 1, 2 ORDER BY store COLLATE "C", belongs_to COLLATE "C";
SELECT store, belongs_to, count(*) FROM run_ops.find_strays('part') GROUP BY 1, 2 ORDER BY store COLLATE "C", belongs_to COLLATE "C";
SELECT object, ok, detail FROM run_ops.store_stray_gates();

-- Now all of them.  The plans grow with the number of stores, not with its square.
SELECT run_ops.swap_views(false);
SET client_min_messages = warning;
DO $$ BEGIN PERFORM run_ops.attach_store(srvname, srvname) FROM pg_foreign_server WHERE srvname NOT IN (SELECT name FROM run_ops.store); END $$;
RESET client_min_messages;
SELECT count(*) FROM run_ops.store WHERE server IS NOT NULL;
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId');
SELECT run_ops.swap_views(true);
INSERT INTO run VALUES ('run_c' || lpad('1', 24, '0'), 'open', 1);
SELECT x FROM run_ops.tell_store('b', 'DELETE FROM public.tag; DELETE FROM public.part') AS x;
CREATE FUNCTION scans(query text) RETURNS TABLE (scans bigint, joins bigint, asked bigint, jit bigint) LANGUAGE plpgsql AS $$
DECLARE
  lines text[];
  line  text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (VERBOSE) ' || query LOOP
    lines := lines || line;
  END LOOP;
  RETURN QUERY SELECT count(*) FILTER (WHERE l ~ '(Scan|Foreign Update|Foreign Delete)( |$)' AND l !~ 'Custom|Subquery'), count(*) FILTER (WHERE l ~ 'Join|Nested Loop'),
                      sum(CASE WHEN l ~ 'Servers:' THEN cardinality(string_to_array(l, ', ')) ELSE 0 END), count(*) FILTER (WHERE l ~ 'JIT') FROM unnest(lines) AS l;
END $$;
-- as if a store were as large as is assumed, whatever this server can compile
SET jit = on;
SELECT q AS query, s.* FROM unnest(ARRAY[
  $$SELECT n FROM run_ops.tag WHERE id = 'tag 3'$$, $$SELECT count(*) FROM run_ops.tag$$, $$SELECT * FROM run_ops.tag ORDER BY id LIMIT 5$$, $$TABLE run_ops.part$$,
  $$UPDATE run_ops.tag SET n = n WHERE id = 'tag 3'$$, $$UPDATE run_ops.tag SET n = n WHERE run = 'r3'$$, $$DELETE FROM run_ops.part$$,
  $$SELECT n FROM run_ops.run WHERE state = 'open' ORDER BY n LIMIT 5$$, $$SELECT n FROM (SELECT n FROM run_ops.run OFFSET 0) AS r$$,
  $$SELECT count(*) FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id WHERE r.n = 7$$]) WITH ORDINALITY AS u (q, ord), scans(q) AS s ORDER BY ord;
RESET jit;
SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE n < 0) FROM run_ops.tag;
SELECT n FROM run_ops.tag WHERE id IN ('tag 3', 'tag 8', 'tag 9') ORDER BY n;
SELECT id, n FROM run_ops.tag WHERE n > 0 ORDER BY n, id LIMIT 4;
SET run_ops_split.cross_store_writes = allow;
UPDATE run_ops.tag SET n = n + 1000 WHERE id IN ('tag 3', 'tag 8') RETURNING id, n;
SELECT count(*) FROM run_ops.run AS r LEFT JOIN run_ops.step AS s ON s."runId" = r.id;
SELECT count(*) FROM run_ops.run WHERE n < 0;
