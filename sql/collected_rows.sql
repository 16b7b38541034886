-- Statements that are not planned as statements on the leaves: the first one of a
-- session that has not preloaded the library, and COPY.  The triggers of the view
-- collect their rows, and write them at the end.
\set name collected_rows
\i test/fixtures/two_stores.sql
\set ECHO none
SET client_min_messages = warning;
CREATE FUNCTION lid(k int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_c' || lpad(k::text, 24, '0');
CREATE FUNCTION nid(k int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_' || lpad(k::text, 27, '0');
DROP TABLE IF EXISTS run CASCADE;
CREATE TABLE run (id text PRIMARY KEY, env text, n int DEFAULT 7, twice int GENERATED ALWAYS AS (n * 2) STORED, s int[]);
SELECT dblink_exec('new', 'DROP TABLE IF EXISTS run CASCADE; CREATE TABLE run (id text PRIMARY KEY, env text, n int DEFAULT 7, twice int GENERATED ALWAYS AS (n * 2) STORED, s int[])') \g /dev/null
SELECT run_ops.attach_store('new', 'new') \g /dev/null
SELECT run_ops.attach_table('run', 'shape') \g /dev/null
SELECT run_ops.swap_views(true) \g /dev/null
CREATE VIEW stored AS SELECT 'legacy' AS store, id, env, n, twice, s FROM run UNION ALL SELECT 'new', id, env, n, twice, s FROM run_ops_new.run;
-- a database whose tables are attached has the library in each new session
\set not_loaded 'dbname=' :DBNAME ' host=' :HOST ' port=' :PORT ' user=' :USER ' options=''-c session_preload_libraries= -c client_min_messages=warning -c run_ops_split.cross_store_writes=allow'''
\set ECHO all
SELECT setconfig FROM pg_db_role_setting JOIN pg_database AS d ON d.oid = setdatabase WHERE datname = current_database() AND setrole = 0;
SELECT run_ops.preload_statement() IS NULL AS preloads;
SELECT format('ALTER DATABASE %I SET session_preload_libraries = ''auto_explain'', "a b"', current_database()) \gexec
SELECT run_ops.preload_statement();
SELECT gate, ok, hint FROM run_ops.check_split() WHERE gate = 'preload';
-- Each connection is a session that has not loaded it.
\c -reuse-previous=off :"not_loaded"
INSERT INTO run_ops.run (id, env, s) SELECT lid(k), 'a', ARRAY[k, NULL] FROM generate_series(1, 3) AS k UNION ALL SELECT nid(k), 'a', ARRAY[k] FROM generate_series(1, 3) AS k RETURNING id, n;
SELECT * FROM stored ORDER BY id;
\c -reuse-previous=off :"not_loaded"
UPDATE run_ops.run AS r SET n = r.n + o.k FROM generate_series(1, 2) AS o (k) WHERE r.env = 'a' AND r.id <> nid(3);
\echo :ROW_COUNT
SELECT id, n > 7 AS changed, twice = n * 2 AS twice FROM stored ORDER BY id;
\c -reuse-previous=off :"not_loaded"
UPDATE run_ops.run SET n = 1, env = 'b' WHERE id = nid(1) RETURNING id, env, n;
\c -reuse-previous=off :"not_loaded"
DELETE FROM run_ops.run WHERE id IN (lid(2), nid(2)) RETURNING id;
SELECT store, id, env, s FROM stored ORDER BY id;
-- a prepared statement keeps no plan with triggers
\c -reuse-previous=off :"not_loaded"
PREPARE up AS UPDATE run_ops.run SET n = 2;
EXECUTE up;
EXPLAIN (COSTS OFF) EXECUTE up;
-- an error of a store, and of a constraint here
\c -reuse-previous=off :"not_loaded"
INSERT INTO run_ops.run (id) VALUES (nid(4)), (nid(1));
\c -reuse-previous=off :"not_loaded"
INSERT INTO run_ops.run (id) VALUES (lid(4)), (lid(1));
\c -reuse-previous=off :"not_loaded"
UPDATE run_ops.run SET id = lid(9) WHERE id = nid(1);
SELECT id FROM stored ORDER BY id;
-- ON CONFLICT is refused: the clause was not seen
\c -reuse-previous=off :"not_loaded"
INSERT INTO run_ops.run (id) VALUES (lid(1)) ON CONFLICT DO NOTHING;
-- COPY, in a session that has it
\c -reuse-previous=off :"not_loaded"
LOAD 'run_ops_split';
COPY run_ops.run (id, env) FROM STDIN;
run_c00000000000000000000000x	copied
run_00000000000000000000000000x	copied
\.
COPY run_ops.run (id, env, twice) FROM STDIN;
run_c00000000000000000000000y	copied	1
\.
COPY run_ops.run (id) FROM STDIN;
run_c00000000000000000000000y
run_short
\.
SELECT store, id, env, n FROM stored WHERE env = 'copied' ORDER BY id;
