-- SELECT ... FOR UPDATE and the like of a view, with split on: each store locks
-- the rows that the query returns, and no others.
\set name leaf_locks
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TYPE state AS ENUM ('open', 'done');
CREATE TABLE run (gone int, id text PRIMARY KEY, status text DEFAULT 'X', n int, state state DEFAULT 'open');
CREATE TABLE step (id text PRIMARY KEY, "runId" text, n int);
CREATE TABLE tag (id text PRIMARY KEY, note text);
SELECT 1 AS x FROM dblink('new', $$
  CREATE TYPE state AS ENUM ('open', 'done');
  CREATE TABLE run (id text PRIMARY KEY, status text DEFAULT 'X', n int, state state DEFAULT 'open');
  CREATE TABLE step (id text PRIMARY KEY, "runId" text, n int);
  CREATE TABLE tag (id text PRIMARY KEY, note text) $$) AS t (x text);
ALTER TABLE run DROP COLUMN gone;
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'), run_ops.attach_table('tag', 'store');
-- ids of both stores, in turns by n; n = 0 are strays, which the view does not show
CREATE FUNCTION legacy_id(i int) RETURNS text LANGUAGE sql IMMUTABLE RETURN 'run_c' || lpad(i::text, 24, '0');
CREATE FUNCTION new_id(i int) RETURNS text LANGUAGE sql IMMUTABLE RETURN 'run_' || lpad(i::text, 27, '0');
INSERT INTO run SELECT legacy_id(i), 'X', i * 2 - 1 FROM generate_series(1, 4) AS i;
INSERT INTO run_ops_new.run SELECT new_id(i), 'X', i * 2 FROM generate_series(1, 4) AS i;
INSERT INTO run VALUES (new_id(9), 'X', 0);
INSERT INTO run_ops_new.run VALUES (legacy_id(9), 'X', 0), ('run_' || repeat('v', 24) || 'a1', 'Y', 9);
INSERT INTO step SELECT 's' || i, legacy_id(i), i FROM generate_series(1, 2) AS i;
INSERT INTO run_ops_new.step SELECT 't' || i, new_id(i), i FROM generate_series(1, 2) AS i;

-- Another session of each store says which rows it could not lock. It shows n.
SELECT format('host=%s port=%s dbname=%s user=%s', :'HOST', :'PORT', :'DBNAME', :'USER') AS legacy_server \gset
CREATE FUNCTION locked(server text, strength text) RETURNS int[] LANGUAGE sql AS $$
  SELECT array_agg(n ORDER BY n) FROM (
    SELECT n FROM dblink(server, 'SELECT n FROM run') AS a (n int)
    EXCEPT SELECT n FROM dblink(server, format('SELECT n FROM run FOR %s SKIP LOCKED', strength)) AS f (n int)) AS l
$$;
CREATE FUNCTION locks(strength text DEFAULT 'UPDATE') RETURNS TABLE (legacy int[], new int[]) LANGUAGE sql AS $$
  SELECT locked(current_setting('app.legacy'), strength), locked('new', strength)
$$;
SELECT run_ops.swap_views(true);
-- The first statement of a session that has not preloaded the library loads it:
-- too late for itself.
\set not_loaded 'dbname=' :DBNAME ' host=' :HOST ' port=' :PORT ' user=' :USER ' options=''-c session_preload_libraries='''
\c -reuse-previous=off :"not_loaded"
SET app.legacy = :'legacy_server';
SELECT n FROM run_ops.run ORDER BY n FOR UPDATE;
SELECT n FROM run_ops.run ORDER BY n FOR UPDATE;
SELECT legacy_id(1) AS cuid, new_id(1) AS ksuid, legacy_id(2) AS cuid2, new_id(2) AS ksuid2 \gset

-- One leaf: the ids say in which store the rows are. The leaf takes the place
-- of the view.
EXPLAIN (VERBOSE, COSTS OFF) SELECT n FROM run_ops.run WHERE id = :'cuid' FOR UPDATE;
EXPLAIN (VERBOSE, COSTS OFF) SELECT n FROM run_ops.run WHERE id = :'ksuid' FOR NO KEY UPDATE NOWAIT;
EXPLAIN (VERBOSE, COSTS OFF) SELECT n FROM run_ops.step WHERE "runId" = :'ksuid' AND n > 0 ORDER BY n LIMIT 1 FOR KEY SHARE SKIP LOCKED;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM run_ops.step WHERE "runId" = :'cuid' FOR SHARE;
BEGIN;
SELECT n FROM run_ops.run WHERE id = :'cuid' FOR UPDATE;
SELECT n FROM run_ops.run WHERE id IN (:'ksuid', :'ksuid2') AND n > 2 FOR UPDATE;
SELECT * FROM locks();
ROLLBACK;
BEGIN;
SELECT n FROM run_ops.run WHERE id = :'ksuid' FOR SHARE;
SELECT n FROM run_ops.run WHERE id = :'cuid' FOR KEY SHARE;
SELECT * FROM locks('SHARE');
SELECT * FROM locks('NO KEY UPDATE');
SELECT * FROM locks('UPDATE');
ROLLBACK;

-- Several leaves: each is a query of its own, which is shipped as a whole.
EXPLAIN (VERBOSE, COSTS OFF) SELECT id, n FROM run_ops.run WHERE status = 'X' ORDER BY n LIMIT 3 OFFSET 1 FOR UPDATE SKIP LOCKED;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM run_ops.run WHERE status = 'X' ORDER BY n DESC NULLS LAST, id FOR NO KEY UPDATE NOWAIT;
BEGIN;
SELECT n FROM run_ops.run WHERE status = 'X' ORDER BY n LIMIT 3 OFFSET 1 FOR UPDATE SKIP LOCKED;
-- up to LIMIT + OFFSET rows in each store
SELECT * FROM locks();
ROLLBACK;
-- no stray is locked, and each kind of NEW id is
BEGIN;
SELECT n FROM run_ops.run ORDER BY n FOR UPDATE;
SELECT * FROM locks();
ROLLBACK;
BEGIN;
SELECT n FROM run_ops.run ORDER BY n FOR KEY SHARE;
SELECT * FROM locks('NO KEY UPDATE');
SELECT * FROM locks('UPDATE');
ROLLBACK;
-- ids of both stores, a whole row, an expression, an ORDER BY that is not returned
BEGIN;
SELECT r, r.n + 1 AS m FROM run_ops.run AS r WHERE id IN (:'cuid2', :'ksuid') ORDER BY -n FOR UPDATE;
SELECT * FROM locks();
ROLLBACK;
-- without ORDER BY a store is asked only if rows are missing
BEGIN;
SELECT count(*) FROM (SELECT FROM run_ops.run LIMIT 4 FOR UPDATE) AS q;
SELECT * FROM locks();
ROLLBACK;
-- LIMIT and OFFSET at their ends
SELECT n FROM run_ops.run ORDER BY n LIMIT 9223372036854775807 OFFSET 7 FOR UPDATE;
SELECT n FROM run_ops.run ORDER BY n LIMIT NULL OFFSET 7 FOR UPDATE;
SELECT n FROM run_ops.run ORDER BY n LIMIT 1 OFFSET NULL FOR UPDATE;
SELECT n FROM run_ops.run ORDER BY n LIMIT 0 FOR UPDATE;
SELECT n FROM run_ops.run ORDER BY n LIMIT -1 FOR UPDATE;
SELECT n FROM run_ops.run WHERE false FOR UPDATE;
SELECT n FROM run_ops.run WHERE id = NULL FOR UPDATE;
-- a subquery in the select list, and a column of an outer query
SELECT n, (SELECT count(*) FROM run_ops.step AS s WHERE s."runId" = r.id) AS steps FROM run_ops.run AS r ORDER BY n LIMIT 2 FOR UPDATE OF r;
SELECT v.x, r.n FROM (VALUES (3), (6)) AS v (x), LATERAL (SELECT n FROM run_ops.run WHERE n > v.x ORDER BY n - v.x LIMIT 2 FOR UPDATE) AS r ORDER BY 1, 2;

-- Wherever the SELECT is: in a CTE, in FROM, in a condition.
BEGIN;
WITH claimed AS (SELECT id FROM run_ops.run WHERE status = 'X' ORDER BY n LIMIT 2 FOR UPDATE SKIP LOCKED)
UPDATE run_ops.run AS r SET status = 'Y' FROM claimed AS c WHERE c.id = r.id AND r.n < 3 RETURNING status;
WITH claimed AS (UPDATE run_ops.run SET status = 'Z' WHERE id IN (SELECT id FROM run_ops.run WHERE status = 'X' ORDER BY n LIMIT 2 FOR UPDATE SKIP LOCKED) RETURNING n)
SELECT n FROM claimed ORDER BY n;
DELETE FROM run_ops.run WHERE id = ANY (ARRAY(SELECT id FROM run_ops.run WHERE status = 'X' ORDER BY n LIMIT 1 FOR UPDATE)) RETURNING n;
SELECT q.n FROM (SELECT id, n FROM run_ops.run WHERE status = 'X' FOR UPDATE) AS q JOIN run_ops.step AS s ON s."runId" = q.id ORDER BY 1;
ROLLBACK;
SELECT n FROM (SELECT n FROM run_ops.run ORDER BY n LIMIT 1) AS q FOR UPDATE;
CREATE VIEW latest AS SELECT id, n FROM run_ops.run ORDER BY n DESC LIMIT 2;
SELECT n FROM latest FOR UPDATE;
INSERT INTO tag SELECT id FROM run_ops.run WHERE status = 'Y' FOR SHARE;

-- PL/pgSQL, in custom and generic plans
CREATE FUNCTION lock_run(wanted text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  result int;
BEGIN
  SELECT n INTO STRICT result FROM run_ops.run WHERE id = wanted FOR UPDATE;
  RETURN result;
END $$;
BEGIN;
SELECT lock_run(id) FROM unnest(ARRAY[:'cuid', :'ksuid', :'cuid2', :'ksuid2', :'cuid', :'ksuid', :'cuid', :'ksuid', :'cuid', :'ksuid', :'cuid', :'ksuid']) AS u (id);
SELECT * FROM locks();
ROLLBACK;
DO $$
DECLARE
  r record;
BEGIN
  FOR r IN SELECT * FROM run_ops.run WHERE status = 'X' ORDER BY n LIMIT 3 FOR UPDATE LOOP
    RAISE NOTICE '%', r.n;
  END LOOP;
END $$;

-- Generic plans: a precheck keeps the store away from ids that it cannot have.
SET plan_cache_mode = force_generic_plan;
PREPARE by_id (text) AS SELECT n FROM run_ops.run WHERE id = $1 FOR UPDATE;
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE by_id (:'cuid');
CREATE FUNCTION executed(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) ' || query LOOP
    IF line !~ 'Index Searches' THEN
      RETURN NEXT regexp_replace(line, '(rows=\d+)\.\d+', '\1');
    END IF;
  END LOOP;
END $$;
SELECT executed(format('EXECUTE by_id (%L)', :'cuid'));
SELECT executed(format('EXECUTE by_id (%L)', :'ksuid'));
PREPARE by_ids (text[], int, int) AS SELECT n FROM run_ops.run WHERE id = ANY ($1) ORDER BY n LIMIT $2 OFFSET $3 FOR UPDATE SKIP LOCKED;
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE by_ids (ARRAY[:'cuid', :'ksuid'], 1, 1);
EXECUTE by_ids (ARRAY[:'cuid', :'ksuid'], 1, 1);
EXECUTE by_ids (ARRAY[:'cuid', :'ksuid'], NULL, NULL);
PREPARE claim (text, int) AS SELECT n FROM run_ops.run WHERE status = $1 ORDER BY n LIMIT $2 FOR UPDATE SKIP LOCKED;
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE claim ('X', 2);
EXECUTE claim ('X', 2);
RESET plan_cache_mode;
EXECUTE by_id (:'ksuid');
SET run_ops_split.seam_pruning = off;
SELECT n FROM run_ops.run WHERE id = :'ksuid' FOR UPDATE;
RESET run_ops_split.seam_pruning;

-- Cursors lock what is fetched; from a store several rows come at once.
BEGIN;
DECLARE c CURSOR FOR SELECT n FROM run_ops.run WHERE status = 'X' ORDER BY n FOR UPDATE;
FETCH 3 FROM c;
SAVEPOINT s;
FETCH 2 FROM c;
ROLLBACK TO s;
CLOSE c;
COMMIT;

-- Another session holds rows of both stores.
BEGIN;
SELECT dblink_connect('other', :'legacy_server') \gset
SELECT dblink_exec('other', 'BEGIN') \gset
SELECT * FROM dblink('other', 'SELECT count(run_ops.lock_row(''run_ops.run'', i)) FROM unnest(ARRAY[legacy_id(1), new_id(1)]) AS i') AS o (locked bigint);
SELECT n FROM run_ops.run WHERE status = 'X' ORDER BY n LIMIT 3 FOR UPDATE SKIP LOCKED;
SELECT n FROM run_ops.run WHERE id = :'ksuid' FOR UPDATE SKIP LOCKED;
SELECT n FROM run_ops.run WHERE id = :'cuid' FOR UPDATE SKIP LOCKED;
SAVEPOINT s;
SELECT n FROM run_ops.run WHERE id = :'ksuid' FOR UPDATE NOWAIT;
ROLLBACK TO s;
SELECT n FROM run_ops.run WHERE id = :'cuid' FOR UPDATE NOWAIT;
ROLLBACK TO s;
SELECT n FROM run_ops.run WHERE n = 2 FOR UPDATE NOWAIT;
ROLLBACK;
SELECT dblink_disconnect('other') \gset

-- What is refused, with the way around.
SELECT n FROM run_ops.run WHERE state = 'open' FOR UPDATE;
SELECT n FROM run_ops.run WHERE id = :'ksuid' AND state = 'open' FOR UPDATE;
SELECT n FROM run_ops.run WHERE run_ops.resides(id, 'legacy') FOR UPDATE;
SELECT n FROM run_ops.run ORDER BY state, n LIMIT 2 FOR UPDATE SKIP LOCKED;
-- a generic plan with such a condition fails for the rows of a store only
SET plan_cache_mode = force_generic_plan;
PREPARE by_id_and_state (text) AS SELECT n FROM run_ops.run WHERE id = $1 AND state = 'open' FOR UPDATE;
EXECUTE by_id_and_state (:'cuid');
EXECUTE by_id_and_state (:'ksuid');
RESET plan_cache_mode;
SELECT r.n FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id FOR UPDATE;
SELECT r.n FROM run_ops.run AS r JOIN tag AS t ON t.id = r.id WHERE r.id = :'cuid' FOR UPDATE OF r;
SELECT n FROM run_ops.run WHERE id IN (SELECT "runId" FROM run_ops.step) FOR UPDATE;
SELECT n FROM run_ops.run ORDER BY (SELECT random()) LIMIT 1 FOR UPDATE;
SELECT n FROM run_ops.run ORDER BY random() LIMIT 1 FOR UPDATE;
SELECT n FROM run_ops.run LIMIT (SELECT 1) FOR UPDATE;
SELECT n FROM run_ops.run ORDER BY n FETCH FIRST 2 ROWS WITH TIES FOR UPDATE;
CREATE VIEW open_run AS SELECT * FROM run_ops.run WHERE status = 'X';
SELECT n FROM open_run ORDER BY n LIMIT 1 FOR UPDATE;
SELECT n FROM (SELECT n FROM run_ops.run) AS q FOR UPDATE;
SELECT note FROM run_ops.tag FOR UPDATE;
ALTER VIEW run_ops.run SET (security_barrier);
SELECT n FROM run_ops.run WHERE id = :'cuid' FOR UPDATE;
ALTER VIEW run_ops.run RESET (security_barrier);
SET run_ops_split.leaf_locks = off;
SELECT n FROM run_ops.run WHERE id = :'cuid' FOR UPDATE;
RESET run_ops_split.leaf_locks;
-- PostgreSQL itself
SELECT DISTINCT n FROM run_ops.run FOR UPDATE;
SELECT status FROM run_ops.run GROUP BY status FOR UPDATE;
SELECT row_number() OVER () FROM run_ops.run FOR UPDATE;
SELECT n FROM run_ops.run UNION ALL SELECT n FROM run_ops.run FOR UPDATE;
CREATE VIEW counted AS SELECT status, count(*) FROM run_ops.run GROUP BY status ORDER BY 1 LIMIT 1;
SELECT * FROM counted FOR UPDATE;
BEGIN READ ONLY;
SELECT n FROM run_ops.run FOR UPDATE;
ROLLBACK;

-- Whose rights: SELECT and UPDATE on the view, and none on what is behind it.
CREATE ROLE regress_leaf_locks;
GRANT USAGE ON SCHEMA run_ops TO regress_leaf_locks;
GRANT SELECT ON run_ops.run TO regress_leaf_locks;
SET ROLE regress_leaf_locks;
SELECT n FROM run_ops.run WHERE n < 3 ORDER BY n FOR UPDATE;
RESET ROLE;
GRANT UPDATE (status) ON run_ops.run TO regress_leaf_locks;
SET ROLE regress_leaf_locks;
SELECT n FROM run_ops.run WHERE n < 3 ORDER BY n FOR UPDATE;
SELECT n FROM run_ops.run WHERE id = :'ksuid' FOR SHARE;
RESET ROLE;
-- the owner of the view needs them on the tables
GRANT CREATE ON SCHEMA run_ops TO regress_leaf_locks;
ALTER VIEW run_ops.run OWNER TO regress_leaf_locks;
GRANT SELECT ON run TO regress_leaf_locks;
GRANT SELECT, UPDATE ON run_ops_new.run TO regress_leaf_locks;
GRANT USAGE ON SCHEMA run_ops_new TO regress_leaf_locks;
SELECT n FROM run_ops.run WHERE id = :'cuid' FOR UPDATE;
SELECT n FROM run_ops.run WHERE n < 3 ORDER BY n FOR UPDATE;
GRANT UPDATE ON run TO regress_leaf_locks;
SELECT n FROM run_ops.run WHERE id = :'cuid' FOR UPDATE;
-- a table with row-level security that applies to the owner of the view
ALTER TABLE run ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_rows ON run USING (true);
SELECT n FROM run_ops.run WHERE id = :'ksuid' FOR UPDATE;
ALTER TABLE run DISABLE ROW LEVEL SECURITY;
ALTER VIEW run_ops.run OWNER TO CURRENT_USER;
DROP OWNED BY regress_leaf_locks;
DROP ROLE regress_leaf_locks;
