-- A second column with the shape of the id, such as a friendly id: lookups by it
-- query one store. Constraints in all databases prove that it has the shape.
\set name same_shape
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TABLE run (id text PRIMARY KEY, fid text UNIQUE, env text, n int);
CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL, "runRef" varchar(40), n int);
CREATE PROCEDURE in_store(command text) LANGUAGE sql AS 'SELECT dblink_exec(''new'', command)';
CALL in_store($$
  CREATE TABLE run (n int, id text PRIMARY KEY, "public id" text UNIQUE, env text);
  CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL, "runRef" varchar(40), n int) $$);
SET enable_bitmapscan = off;
SET enable_seqscan = off;
SET jit = off;

-- The claim is not proven yet, so it cannot be declared.
SELECT run_ops.attach_table('run', 'shape', column_names => '{"fid": "public id"}', same_shape => 'fid');
SELECT run_ops.attach_table('run', 'shape', column_names => '{"fid": "public id"}'), run_ops.attach_table('step', 'anchor', 'runId');
SELECT * FROM run_ops.same_shape_commands('run_ops.run', 'fid');
SELECT run_ops.declare_same_shape('run_ops.run', 'fid');
-- nor what can have no shape
SELECT run_ops.declare_same_shape('run_ops.run');
SELECT run_ops.declare_same_shape('run_ops.run', 'id');
SELECT run_ops.declare_same_shape('run_ops.run', 'n');
SELECT run_ops.declare_same_shape('run_ops.run', 'nothing');
CREATE TABLE tag (id text PRIMARY KEY, fid text);
CALL in_store('CREATE TABLE tag (id text PRIMARY KEY, fid text)');
SELECT run_ops.attach_table('tag', 'store', same_shape => 'fid');

-- Rows that contradict it: of a LEGACY run, and of a NEW run in the store. A short
-- friendly id has no shape; so its run must be LEGACY, and so must be NULL.
\set cuid cl8dq15ad30lcaohivaab68x4
\set cuid2 cl8dq15ad30lcaohivaab68x5
\set cuid3 cl8dq15ad30lcaohivaab68x6
\set ksuid 37dGaqAyHnlXVhBy5x4pckK50bA
\set ksuid2 37dGaqAyHnlXVhBy5x4pckK50bB
\set runops 0123456789abcdefghijklmne1
\set cuid_run run_cl8dq15ad30lcaohivaab68x4
\set ksuid_run run_37dGaqAyHnlXVhBy5x4pckK50bA
INSERT INTO run VALUES (:'cuid', 'run_' || :'cuid', 'e1', 1), (:'cuid2', 'run_3yKp7xWq9sTzVbNmLr4fh', 'e1', 2), (:'cuid3', NULL, 'e2', 3);
INSERT INTO run_ops_new.run (id, fid, env, n) VALUES (:'ksuid', 'run_' || :'ksuid', 'e1', 4), (:'ksuid2', 'run_' || :'runops', 'e2', 5),
  (:'runops', 'run_' || :'ksuid2', 'e1', 6);
\set contradiction 'UPDATE run_ops_new.run SET fid = ''run_3yKp7xWq9sTzVbNmLr4fg'' WHERE n = 6'
\set contradiction_here 'UPDATE run SET fid = ''run_37dGaqAyHnlXVhBy5x4pckK50bA'' WHERE n = 3'
:contradiction;
:contradiction_here;
SELECT format('CALL in_store(%L);', command) AS add_there FROM run_ops.same_shape_commands('run_ops.run', 'fid') WHERE store = 'new' AND command LIKE '%ADD%' \gset
SELECT format('CALL in_store(%L);', command) AS validate_there FROM run_ops.same_shape_commands('run_ops.run', 'fid') WHERE store = 'new' AND command LIKE '%VALIDATE%' \gset
SELECT command AS add_here FROM run_ops.same_shape_commands('run_ops.run', 'fid') WHERE store = 'legacy' AND command LIKE '%ADD%' \gset
SELECT command AS validate_here FROM run_ops.same_shape_commands('run_ops.run', 'fid') WHERE store = 'legacy' AND command LIKE '%VALIDATE%' \gset
:add_here;
:validate_here;
UPDATE run SET fid = NULL WHERE n = 3;
:validate_here;
:add_there
:validate_there
-- each is refused from now on, NULL too
SELECT * FROM run_ops.same_shape_commands('run_ops.run', 'fid');
UPDATE run_ops_new.run SET fid = 'run_' || :'ksuid2' WHERE n = 6;
:validate_there
SELECT * FROM run_ops.same_shape_commands('run_ops.run', 'fid');
SELECT run_ops.declare_same_shape('run_ops.run', 'fid');
SELECT dblink_exec('new', command) FROM run_ops.same_shape_commands('step', 'runRef') WHERE store = 'new';
SELECT command FROM run_ops.same_shape_commands('step', 'runRef') WHERE store = 'legacy' \gexec
SELECT run_ops.declare_same_shape('step', 'runRef');
SELECT view, route_column, same_shape FROM run_ops.routed_table ORDER BY view::text;
SELECT * FROM run_ops.read_route ORDER BY view::text, column_name;

-- Split on.
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
SELECT run_ops.swap_views(true);
SELECT replace(substring(pg_get_viewdef('run_ops.run') FROM 'WHERE .*'), 'u.', '') AS filter;
SELECT obj_description('run_ops.run'::regclass);
INSERT INTO run_ops.step SELECT 's' || n, id, 'run_' || id, n FROM run_ops.run;

-- A lookup by the column is planned as one by the id.
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE fid = :'cuid_run';
EXPLAIN (COSTS OFF, VERBOSE) SELECT * FROM run_ops.run WHERE fid = :'ksuid_run';
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE fid IN (:'cuid_run', 'run_3yKp7xWq9sTzVbNmLr4fh', NULL) ORDER BY n;
EXPLAIN (COSTS OFF) SELECT count(*) FROM run_ops.run WHERE fid = :'cuid_run' AND env = 'e1';
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE fid = :'cuid_run' FOR UPDATE;
EXPLAIN (COSTS OFF) UPDATE run_ops.run SET n = n WHERE fid = :'ksuid_run';
EXPLAIN (COSTS OFF) DELETE FROM run_ops.run WHERE fid = :'cuid_run';
-- the id and the column contradict each other
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'cuid' AND fid = :'ksuid_run';
-- bounds of two columns are none
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id >= :'cuid' AND fid <= :'cuid';
-- a column without an index; other columns say nothing
RESET enable_seqscan;
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.step WHERE "runRef" = :'cuid_run';
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE env = :'cuid_run';
SET enable_seqscan = off;

-- Which stores a query asks, with literals, in a custom and in a generic plan, and
-- whether it returns what one table with all rows would.
CREATE TABLE whole_run AS SELECT * FROM run_ops.run;
CREATE TABLE whole_step AS SELECT * FROM run_ops.step;
CREATE FUNCTION asked(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  line   text;
  stores text[] := '{}';
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
    IF line ~ '(Scan|Foreign (Update|Delete)) ' AND line !~ 'never executed|whole|Subquery|CTE' THEN
      stores := stores || CASE WHEN line LIKE '%Foreign%' THEN 'new' ELSE 'legacy' END;
    END IF;
  END LOOP;
  RETURN coalesce((SELECT string_agg(DISTINCT s, ' ') FROM unnest(stores) AS s), 'none');
END $$;
CREATE FUNCTION result(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
  EXECUTE format('WITH q AS (%s) SELECT string_agg(q::text, '' '' ORDER BY q::text COLLATE "C") FROM q', query) INTO answer;
  RETURN answer;
END $$;
-- {x} is the value; what the query changes is undone
CREATE FUNCTION tried(query text, x text, OUT literal text, OUT custom text, OUT generic text, OUT same boolean) LANGUAGE plpgsql AS $$
DECLARE
  with_value text := replace(query, '{x}', quote_nullable(x) || '::text');
BEGIN
  same := result(with_value) IS NOT DISTINCT FROM result(replace(with_value, 'run_ops.', 'whole_'));
  literal := asked(with_value);
  EXECUTE 'PREPARE tried (text) AS ' || replace(query, '{x}', '$1');
  SET LOCAL plan_cache_mode = force_custom_plan;
  custom := asked(format('EXECUTE tried (%L)', x));
  SET LOCAL plan_cache_mode = force_generic_plan;
  generic := asked(format('EXECUTE tried (%L)', x));
  RAISE SQLSTATE 'XX001';
EXCEPTION WHEN SQLSTATE 'XX001' THEN
  DEALLOCATE tried;
END $$;
SELECT nr, x, t.*
  FROM (VALUES
    (1, 'SELECT * FROM run_ops.run WHERE fid = {x}'),
    (2, 'SELECT * FROM run_ops.run WHERE {x} = fid AND env = ''e1'''),
    (3, 'SELECT * FROM run_ops.run WHERE fid = ANY (ARRAY[{x}, NULL, {x}])'),
    (4, 'SELECT * FROM run_ops.run WHERE fid IN ({x}, ''gone'')'),
    (5, 'SELECT * FROM run_ops.run WHERE fid IS NOT DISTINCT FROM {x}'),
    (6, 'SELECT * FROM run_ops.run WHERE (fid = {x}) IS TRUE'),
    (7, 'SELECT * FROM run_ops.run WHERE coalesce(fid = {x}, false)'),
    (8, 'SELECT * FROM run_ops.run WHERE fid BETWEEN {x} AND {x}'),
    (9, 'SELECT * FROM run_ops.run WHERE {x} = ANY (ARRAY[fid])'),
    (10, 'SELECT * FROM run_ops.run WHERE fid = {x} OR id = substr({x}, 5)'),
    (11, 'SELECT * FROM run_ops.run WHERE fid = {x} OR n = 3'),
    (12, 'SELECT * FROM run_ops.run WHERE fid <> {x}'),
    (13, 'SELECT * FROM run_ops.step WHERE "runRef" = {x}'),
    (14, 'SELECT count(*), max(n) FROM run_ops.run WHERE fid = {x}'),
    (15, 'SELECT s.id, r.n FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runRef" = r.fid WHERE r.fid = {x}'),
    (16, 'SELECT id, n FROM run_ops.run WHERE fid = {x} FOR UPDATE'),
    (17, 'UPDATE run_ops.run SET n = n + 1 WHERE fid = {x} RETURNING *'),
    (18, 'DELETE FROM run_ops.run WHERE fid = {x} RETURNING id'),
    (19, 'UPDATE run_ops.step SET n = n + 1 WHERE "runRef" IN ({x}) RETURNING *')) AS q (nr, query),
    unnest(ARRAY['run_' || :'cuid', 'run_' || :'ksuid', 'run_3yKp7xWq9sTzVbNmLr4fh', NULL]) AS x,
    LATERAL tried(query, x) AS t
 ORDER BY nr, x;

-- A join looks up rows by the column of another table; each store is asked only
-- for its own.
CREATE TABLE asked_for (fid text PRIMARY KEY);
INSERT INTO asked_for SELECT 'run_' || i FROM unnest(ARRAY[:'cuid', :'cuid2']) AS i;
ANALYZE asked_for;
SELECT run_ops.disconnect_stores() > 0 AS was_connected;
EXPLAIN (COSTS OFF) SELECT a.fid, r.n FROM asked_for AS a LEFT JOIN run_ops.run AS r ON r.fid = a.fid;
SELECT a.fid, r.n FROM asked_for AS a LEFT JOIN run_ops.run AS r ON r.fid = a.fid ORDER BY 1;
SELECT count(*) AS connections FROM run_ops.store_connections();
INSERT INTO asked_for VALUES ('run_' || :'runops');
SELECT a.fid, r.n FROM asked_for AS a LEFT JOIN run_ops.run AS r ON r.fid = a.fid ORDER BY 1;

DELETE FROM asked_for WHERE fid = 'run_' || :'runops';

-- A write that would contradict the claim is refused, in each store and in each
-- way, as by the same constraint of one table.
CREATE FUNCTION outcome(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE name text;
BEGIN
  EXECUTE command;
  RAISE SQLSTATE 'XX001';
EXCEPTION WHEN SQLSTATE 'XX001' THEN
  RETURN 'possible';
WHEN check_violation THEN
  GET STACKED DIAGNOSTICS name = CONSTRAINT_NAME;
  RETURN 'refused by ' || name;
END $$;
SELECT id, value, outcome(format('INSERT INTO run_ops.run VALUES (%L, %L)', id, value)) AS one_row,
       outcome(format('INSERT INTO run_ops.run SELECT v.* FROM (VALUES (%L, %L), (%L, %L)) AS v', replace(id, '0', '1'), 'run_' || id, id, value)) AS rows
  FROM (VALUES ('c' || repeat('0', 24)), (repeat('0', 27))) AS i (id),
       (VALUES ('run_c' || repeat('1', 24)), ('run_' || repeat('1', 27)), ('run_' || repeat('1', 26)), ('run_' || repeat('1', 24) || 'a2'), ('short'), (NULL)) AS v (value)
 ORDER BY id, value;
SELECT outcome(format('UPDATE run_ops.run SET fid = %L WHERE id = %L', value, id)) FROM (VALUES (:'cuid', 'run_' || :'ksuid2'), (:'ksuid', 'short'), (:'ksuid', NULL)) AS v (id, value);
SELECT outcome(format('INSERT INTO run_ops.run VALUES (%L, %L) ON CONFLICT (id) DO UPDATE SET fid = %L', :'ksuid', 'run_' || :'ksuid', 'run_' || :'cuid'));
SELECT outcome(format('INSERT INTO run_ops.run VALUES (%L, %L) ON CONFLICT (id) DO UPDATE SET fid = %L', :'cuid', 'run_' || :'cuid', 'run_' || :'ksuid'));
-- also of a client of the store
SELECT dblink_exec('new', format('INSERT INTO run (id, "public id") VALUES (%L, %L)', repeat('2', 27), 'run_' || :'cuid'));

-- The gate.
SELECT object, ok, detail, hint FROM run_ops.check_split() WHERE gate = 'same shape';
CALL in_store('ALTER TABLE run DROP CONSTRAINT run_ops_same_shape');
ALTER TABLE run DROP CONSTRAINT run_ops_same_shape;
BEGIN;
:contradiction;
SELECT object, ok, detail, hint FROM run_ops.check_split() WHERE gate = 'same shape' AND NOT ok;
ROLLBACK;
SELECT object, ok, detail, hint FROM run_ops.check_split() WHERE gate = 'same shape' AND NOT ok;
-- a constraint on other columns proves nothing, nor does one that is not valid
ALTER TABLE run ADD CONSTRAINT run_ops_same_shape CHECK (n > 0 AND id <> '');
SELECT * FROM run_ops.same_shape_commands('run_ops.run') WHERE store = 'legacy';
ALTER TABLE run DROP CONSTRAINT run_ops_same_shape;
:add_here;
SELECT * FROM run_ops.same_shape_commands('run_ops.run') WHERE store = 'legacy';
ALTER TABLE run DROP CONSTRAINT run_ops_same_shape;
-- the claim is not forgotten
SELECT run_ops.refresh_table('run_ops.run');
:add_there
:validate_there
:add_here;
:validate_here;
SELECT count(*) FROM run_ops.check_split() WHERE gate = 'same shape' AND NOT ok;
-- without the declaration all stores are asked
SELECT run_ops.undeclare_same_shape('run_ops.run');
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE fid = 'run_' || :'cuid';
SELECT count(*) FROM run_ops.check_split() WHERE gate = 'same shape';
SELECT run_ops.declare_same_shape('run_ops.run', 'fid');

-- A column that is renamed, on both sides and here only.
ALTER TABLE run RENAME COLUMN fid TO "friendly Id";
CALL in_store('ALTER TABLE step RENAME COLUMN "runRef" TO ref');
ALTER TABLE step RENAME COLUMN "runRef" TO ref;
SELECT run_ops.refresh_table('run_ops.run'), run_ops.refresh_table('run_ops.step');
SELECT view, same_shape FROM run_ops.routed_table ORDER BY view::text;
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE "friendly Id" = 'run_' || :'cuid';
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.step WHERE ref = 'run_' || :'ksuid';
-- a column that the store lacks
CALL in_store('ALTER TABLE step DROP COLUMN ref');
SELECT gate, object, ok, detail FROM run_ops.check_split() WHERE gate IN ('columns', 'same shape') AND ok IS NOT TRUE;
SELECT run_ops.refresh_table('run_ops.step');
CALL in_store('ALTER TABLE step ADD COLUMN ref varchar(40)');

-- With the store down, a lookup of a LEGACY row by the column works. One of a NEW
-- row fails.
ALTER SERVER new OPTIONS (SET port '1');
SELECT n FROM run_ops.run WHERE "friendly Id" = 'run_' || :'cuid';
SELECT n FROM run_ops.run WHERE "friendly Id" = 'run_3yKp7xWq9sTzVbNmLr4fh' FOR UPDATE;
UPDATE run_ops.run SET n = 10 WHERE "friendly Id" = 'run_' || :'cuid' RETURNING n;
SELECT count(*) FROM run_ops.run WHERE "friendly Id" = 'run_' || :'cuid';
SELECT a.fid, r.n FROM asked_for AS a JOIN run_ops.run AS r ON r."friendly Id" = a.fid;
PREPARE by_friendly_id (text) AS SELECT n FROM run_ops.run WHERE "friendly Id" = $1;
SET plan_cache_mode = force_generic_plan;
EXECUTE by_friendly_id ('run_' || :'cuid');
\set VERBOSITY sqlstate
EXECUTE by_friendly_id ('run_' || :'ksuid');
\set VERBOSITY default
ALTER SERVER new OPTIONS (SET port :'store_port');

-- Split off, and detached. The constraints stay, so the claim is still proven when
-- the table is attached again.
SELECT run_ops.swap_views(false);
SELECT run_ops.detach_table('run_ops.run');
SELECT count(*) FROM pg_constraint WHERE conname = 'run_ops_same_shape' AND conrelid = 'run'::regclass;
SELECT run_ops.attach_table('run', 'shape', column_names => '{"friendly Id": "public id"}', same_shape => 'friendly Id');

-- Of the known tables, runs and batches have such a column. It is declared when the
-- table is attached, if that is proven by then.
SELECT legacy_table, same_shape FROM run_ops.known_routing WHERE same_shape IS NOT NULL;
SELECT run_ops.attach_table('"TaskRun"'), run_ops.attach_table('"BatchTaskRun"');
SELECT view, same_shape FROM run_ops.routed_table WHERE store_table LIKE '%TaskRun' ORDER BY view::text;
SELECT object, ok, detail, hint FROM run_ops.check_split() WHERE gate = 'same shape' AND object LIKE '%TaskRun%';
SELECT dblink_exec('new', command) FROM run_ops.routed_table, run_ops.same_shape_commands(view) WHERE store_table LIKE '%TaskRun' AND store = 'new';
SELECT command FROM run_ops.routed_table, run_ops.same_shape_commands(view) WHERE store_table LIKE '%TaskRun' AND store = 'legacy' \gexec
SELECT run_ops.declare_same_shape('run_ops."TaskRun"');
SELECT run_ops.detach_table('run_ops."BatchTaskRun"');
SELECT run_ops.attach_table('"BatchTaskRun"');
SELECT view, same_shape FROM run_ops.routed_table WHERE store_table LIKE '%TaskRun' ORDER BY view::text;
