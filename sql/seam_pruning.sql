-- Seam pruning: of the stores of a view, only those are planned that can hold
-- the ids a query asks for.
\set name seam_pruning
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TABLE run (id text PRIMARY KEY, env text, note text);
CREATE TABLE step (id text PRIMARY KEY, "runId" text, note text);
CREATE TABLE env (id text PRIMARY KEY, name text);
SELECT 1 AS x FROM dblink('new', $$
  CREATE TABLE run (id text PRIMARY KEY, env text, note text);
  CREATE TABLE step (id text PRIMARY KEY, "runId" text, note text);
  CREATE TABLE mark (id text PRIMARY KEY, note text);
  CREATE TABLE placed (id text, note text, store text) $$) AS t (x text);
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId');
SELECT run_ops.swap_views(true);
SET enable_bitmapscan = off;  -- shorter plans

\set cuid run_cl8dq15ad30lcaohivaab68x4
\set ksuid run_37dGaqAyHnlXVhBy5x4pckK50bA
\set shard_a run_0123456789abcdefghijklmna2
\set cuid2 run_cl8dq15ad30lcaohivaab68x5
\set ksuid2 run_37dGaqAyHnlXVhBy5x4pckK50bB
BEGIN;
SELECT run_ops.allow_strays();
INSERT INTO run VALUES (:'cuid', 'e1', 'legacy'), (:'cuid2', 'e2', 'legacy'), ('x', 'e1', 'legacy'),
  (:'ksuid', 'e1', 'stray');
COMMIT;
INSERT INTO run_ops_new.run (id, env, note) VALUES (:'ksuid', 'e1', 'new'), (:'ksuid2', 'e2', 'new'),
  (:'cuid', 'e1', 'stray'), (:'shard_a', 'e1', 'stray');
INSERT INTO step VALUES ('s1', :'cuid', 'legacy'), ('s2', NULL, 'legacy');
INSERT INTO run_ops_new.step (id, "runId", note) VALUES ('s3', :'ksuid', 'new');
INSERT INTO env VALUES ('e1', :'cuid'), ('e2', :'ksuid');

-- Which scans a query executed.
CREATE FUNCTION executed(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
    IF line ~ 'Scan' THEN
      -- how a table of a few rows is scanned differs between versions
      RETURN NEXT regexp_replace(regexp_replace(ltrim(line, ' ->'), ' \(actual.*\)', ' (executed)'),
                                 '^(Seq|Index) Scan (using \S+ )?', 'Scan ');
    END IF;
  END LOOP;
END $$;

-- A constant: one store is left, and nothing of it is filtered any more.
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'cuid';
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE :'ksuid' = id AND note LIKE 'n%';
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.step WHERE "runId" = :'ksuid';
-- an id that no attached store can hold
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'shard_a';
-- unclassifiable and NULL ids belong to legacy; NULL equals nothing
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = 'x';
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = NULL::text;
-- a cast between binary-compatible types is no obstacle
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'ksuid'::varchar;

-- Sets of ids, and conditions joined by AND and OR.
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id IN (:'ksuid', :'ksuid2');
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = ANY (ARRAY[:'cuid', NULL, 'x']);
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = ANY ('{}');
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run
 WHERE (id = :'ksuid' AND note = 'a') OR (id IN (:'ksuid2') AND env = 'e1');
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'cuid' AND (id = :'cuid' OR note = 'new');
-- ids of both stores: both are asked, and strays among these ids stay hidden
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id IN (:'ksuid', :'cuid');
SELECT * FROM run_ops.run WHERE id IN (:'ksuid', :'cuid', :'shard_a') ORDER BY id;
SELECT * FROM run_ops.run WHERE id IN (:'ksuid', :'shard_a') ORDER BY id;
SELECT executed(format('SELECT * FROM run_ops.run WHERE id = %L OR id = %L', :'ksuid', :'cuid'));
SELECT * FROM run_ops.run WHERE id = :'ksuid' OR id = :'cuid' ORDER BY id;
-- what does not bound the ids prunes nothing
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'ksuid' OR note = 'new';
SELECT id FROM run_ops.run WHERE id = ALL ('{}') ORDER BY id;
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id LIKE 'run_37dGaqAy%' AND id < 'run_4' AND id <> :'cuid';

-- What says the same as id = X in another way, with ids that are known before
-- planning, when conditions have been simplified, and in a generic plan. NULL
-- equals nothing, but is not distinct from NULL, whose rows are legacy's.
CREATE FUNCTION asked(query text) RETURNS text LANGUAGE sql
  RETURN (SELECT coalesce(string_agg(DISTINCT CASE WHEN line LIKE 'Foreign%' THEN 'new' ELSE 'legacy' END, ' '), 'none')
            FROM executed(query) AS line WHERE line NOT LIKE '%never executed%');
CREATE FUNCTION same_rows(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  pruned text[];
  whole  text[];
BEGIN
  EXECUTE format('SELECT array_agg(s.id ORDER BY s.id) FROM (%s) AS s', query) INTO pruned;
  SET LOCAL run_ops_split.seam_pruning = off;
  EXECUTE format('SELECT array_agg(s.id ORDER BY s.id) FROM (%s) AS s', query) INTO whole;
  SET LOCAL run_ops_split.seam_pruning = on;
  RETURN pruned IS NOT DISTINCT FROM whole;
END $$;
CREATE FUNCTION asked_generic(query text, id text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
  SET LOCAL plan_cache_mode = force_generic_plan;
  EXECUTE 'PREPARE generic (text) AS ' || query;
  result := asked(format('EXECUTE generic (%L)', id));
  EXECUTE 'DEALLOCATE generic';
  RETURN result;
END $$;
-- not with EXPLAIN, which starts all leaves
CREATE FUNCTION same_generic(query text, id text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  result text[] := '{}';
  row record;
BEGIN
  SET LOCAL plan_cache_mode = force_generic_plan;
  EXECUTE 'PREPARE generic (text) AS ' || query;
  FOR row IN EXECUTE format('EXECUTE generic (%L)', id) LOOP
    result := result || row.id;
  END LOOP;
  EXECUTE 'DEALLOCATE generic';
  SET LOCAL run_ops_split.seam_pruning = off;
  EXECUTE 'PREPARE generic (text) AS ' || query;
  FOR row IN EXECUTE format('EXECUTE generic (%L)', id) LOOP
    result := array_remove(result, row.id) || CASE WHEN row.id <> ALL (result) THEN row.id || ' is missing' END;
  END LOOP;
  EXECUTE 'DEALLOCATE generic';
  SET LOCAL run_ops_split.seam_pruning = on;
  RETURN array_remove(result, NULL) = '{}';
END $$;
CREATE TABLE written (nr int, condition text);
INSERT INTO written VALUES
  (1, '"runId" IS NOT DISTINCT FROM {x}'), (2, '{x} IS NOT DISTINCT FROM "runId"'), (3, '("runId" = {x}) IS TRUE'),
  (4, 'coalesce("runId" = {x}, false)'), (5, 'coalesce({x} = "runId", NULL, false)'), (6, '"runId" = {x}::name'), (7, '{x}::name = "runId"'),
  (8, '"runId" BETWEEN {x} AND {x}'), (9, '{x} >= "runId" AND note <> '''' AND "runId" >= {x}'), (10, '{x} = ANY (ARRAY["runId"])'),
  (11, '(("runId" = {x}) IS TRUE AND note <> '''') IS TRUE'), (12, 'coalesce("runId" = {x} OR "runId" IS NOT DISTINCT FROM {x}, false)'),
  (13, '("runId" BETWEEN {x} AND {x}) IS TRUE'), (14, '"runId" IS NOT DISTINCT FROM {x}::name'),
  (15, '"runId" = {x} AND "runId" = ANY (''{NULL,run_0123456789abcdefghijklmnopq}'') OR "runId" IS NOT DISTINCT FROM {x}'),
  -- and what says something else
  (21, '("runId" = {x}) IS NOT TRUE'), (22, '("runId" = {x}) IS NOT FALSE'), (23, '("runId" = {x}) IS UNKNOWN'), (24, 'coalesce("runId" = {x}, true)'),
  (25, 'coalesce("runId" = {x}, note = ''new'')'), (26, '"runId" IS DISTINCT FROM {x}'), (27, '"runId" BETWEEN {x} AND ''z'''),
  (28, '"runId" >= {x} AND "runId" >= {x}'), (29, '"runId" >= {x} AND note <= {x}'), (30, '{x} = ANY (ARRAY["runId", id, note])'),
  (31, '"runId" >= {x} AND "runId" <= {x} || ''z'''), (32, '"runId" <= {x} AND "runId" <= {x}'), (33, '{x} = ANY (ARRAY[note, "runId"])');
SELECT nr, condition, x, asked(literal), asked(simplified) AS simplified, asked_generic(query, x) AS generic, same_rows(literal) AND same_rows(simplified) AND same_generic(query, x) AS same
  FROM written, unnest(ARRAY[:'cuid', :'ksuid', NULL]) AS x,
       LATERAL (SELECT 'SELECT * FROM run_ops.step WHERE ' || condition) AS c (text),
       LATERAL (SELECT replace(text, '{x}', '$1') AS query, replace(text, '{x}', quote_nullable(x) || '::text') AS literal,
                       replace(text, '{x}', '(' || quote_nullable(x) || ' || '''')') AS simplified) AS q
 ORDER BY nr, x;
DROP TABLE written;

-- Parameters: a custom plan sees a constant, a generic plan tests the
-- parameter once before a store is begun.
PREPARE by_id (text) AS SELECT note FROM run_ops.run WHERE id = $1;
PREPARE by_ids (text[]) AS SELECT note FROM run_ops.run WHERE id = ANY ($1);
PREPARE by_two (text, text) AS SELECT note FROM run_ops.run WHERE id IN ($1, $2);
PREPARE by_varchar (varchar) AS SELECT note FROM run_ops.run WHERE id = $1;
SET plan_cache_mode = force_custom_plan;
EXPLAIN (COSTS OFF) EXECUTE by_id (:'ksuid');
EXECUTE by_id (:'ksuid');
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE by_id (:'ksuid');
EXECUTE by_id (:'ksuid');
EXECUTE by_id (:'cuid');
EXECUTE by_id (:'shard_a');
EXECUTE by_id (NULL);
EXPLAIN (COSTS OFF) EXECUTE by_ids (ARRAY[:'ksuid']);
EXECUTE by_ids (ARRAY[:'ksuid', :'cuid', NULL]);
EXECUTE by_ids (NULL);
EXPLAIN (COSTS OFF) EXECUTE by_two (:'ksuid', :'cuid');
EXECUTE by_two (:'ksuid', :'cuid');
EXPLAIN (COSTS OFF) EXECUTE by_varchar (:'ksuid');
-- two sets: each has its gate, and what is filtered still is
PREPARE by_both (text[], text[]) AS SELECT note FROM run_ops.run WHERE id = ANY ($1) AND id = ANY ($2);
EXPLAIN (COSTS OFF) EXECUTE by_both (ARRAY[:'ksuid'], ARRAY[:'ksuid']);
EXECUTE by_both (ARRAY[:'ksuid', :'cuid'], ARRAY[:'ksuid', :'ksuid2']);
-- the store that cannot have the id is never executed
SELECT executed(format('EXECUTE by_id (%L)', :'cuid'));
SELECT executed(format('EXECUTE by_id (%L)', :'ksuid'));
SELECT executed(format('EXECUTE by_ids (ARRAY[%L])', :'cuid2'));

-- If the parameters select one leaf, nothing else is started: its rows need no
-- filter, and its columns have the names of the query.
PREPARE named (text, int) AS SELECT id AS "the id", note AS "the note" FROM run_ops.run WHERE id = $1 LIMIT $2;
BEGIN;
SET LOCAL track_functions = 'all';
EXECUTE by_id (:'cuid');
EXECUTE by_id (:'ksuid');
EXECUTE named (:'cuid', 1);
EXECUTE named (:'ksuid', 1);
EXECUTE named (:'cuid', 0);
SELECT funcname, calls FROM pg_stat_xact_user_functions WHERE funcname = 'id_resides';
COMMIT;
-- what else is tested once still is, columns are those of the query, a leaf may
-- have no table, and a sub-select is executed
PREPARE and_more (text, boolean) AS SELECT * FROM run_ops.run WHERE id = $1 AND $2;
EXPLAIN (COSTS OFF) EXECUTE and_more (:'cuid', false);
EXECUTE and_more (:'cuid', true);
EXECUTE and_more (:'cuid', false);
EXECUTE and_more (:'ksuid', false);
PREPARE turned (text) AS SELECT note, id FROM run_ops.run WHERE id = $1;
EXECUTE turned (:'cuid');
EXECUTE turned (:'ksuid');
PREPARE by_hand (text) AS SELECT note FROM run WHERE id = $1 AND run_ops.id_resides($1, 'legacy')
  UNION ALL SELECT note FROM run_ops_new.run WHERE id = $1 AND run_ops.id_resides($1, 'new');
EXECUTE by_hand (:'cuid');
EXECUTE by_hand (:'ksuid');
PREPARE or_value (text) AS SELECT note FROM run_ops_new.run WHERE id = $1 AND run_ops.id_resides($1, 'new') UNION ALL SELECT 'always';
EXECUTE or_value (:'cuid');
EXECUTE or_value (:'ksuid');
PREPARE of_first (text) AS SELECT note FROM run_ops.run WHERE id = $1 AND env = (SELECT min(id) FROM env);
EXECUTE of_first (:'cuid');
EXECUTE of_first (:'ksuid');


-- PL/pgSQL variables are parameters.
CREATE FUNCTION note_of(wanted text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT r.note FROM run_ops.run AS r WHERE r.id = wanted);
END $$;
SELECT note_of(:'cuid'), note_of(:'ksuid');
RESET plan_cache_mode;

-- Ids that are known when planning starts, all of one store: the union is not
-- planned at all. What is not asked for is still checked: privileges on every
-- table, by the view's owner, and on the view.
EXPLAIN (VERBOSE, COSTS OFF) SELECT r, r.note FROM run_ops.run AS r WHERE r.id IN (:'cuid', 'x', NULL);
SELECT r, r.note FROM run_ops.run AS r WHERE r.id IN (:'cuid', 'x', NULL) ORDER BY r.id;
CREATE ROLE regress_seam_owner;
CREATE ROLE regress_seam_reader;
GRANT USAGE ON SCHEMA run_ops, run_ops_new TO regress_seam_owner, regress_seam_reader;
GRANT SELECT ON run TO regress_seam_owner;
ALTER VIEW run_ops.run OWNER TO regress_seam_owner;
SET ROLE regress_seam_reader;
SELECT note FROM run_ops.run WHERE id = :'cuid';
RESET ROLE;
GRANT SELECT ON run_ops.run TO regress_seam_reader;
SET ROLE regress_seam_reader;
SELECT note FROM run_ops.run WHERE id = :'cuid';
RESET ROLE;
GRANT SELECT ON run_ops_new.run TO regress_seam_owner;
SET ROLE regress_seam_reader;
SELECT note FROM run_ops.run WHERE id = :'cuid';
RESET ROLE;
ALTER VIEW run_ops.run OWNER TO CURRENT_USER;
DROP OWNED BY regress_seam_owner, regress_seam_reader;
DROP ROLE regress_seam_owner, regress_seam_reader;
-- a condition in WHERE is one on the rows that are kept, also where the other
-- side of an outer join decides about them
SELECT e.id, r.note FROM env AS e LEFT JOIN run_ops.run AS r ON r.env = e.id WHERE r.id = :'cuid';
SELECT e.id, r.note FROM env AS e FULL JOIN run_ops.run AS r ON r.id = e.name AND e.id <> 'e1' WHERE r.id = :'cuid';
SELECT e.id, r.note FROM env AS e LEFT JOIN run_ops.run AS r ON r.id = e.name WHERE r.id = :'cuid' OR r.id IS NULL OR e.id = 'e2' ORDER BY e.id;
-- a condition of MERGE, which PostgreSQL has since 15, is none: rows that do not
-- meet it are wanted as well
CREATE TABLE merged (id text, how text);
DO $$ BEGIN
  IF current_setting('server_version_num')::int >= 150000 THEN
    EXECUTE 'MERGE INTO merged AS m USING run_ops.run AS r ON m.id = r.id AND r.id = ''run_cl8dq15ad30lcaohivaab68x4'''
            ' WHEN NOT MATCHED THEN INSERT VALUES (r.id, ''not matched'')';
  ELSE
    INSERT INTO merged SELECT id, 'not matched' FROM run_ops.run;
  END IF;
END $$;
SELECT count(*) FROM merged;
-- a statement that was prepared follows when split is switched
PREPARE known AS SELECT note FROM run_ops.run WHERE id = 'run_37dGaqAyHnlXVhBy5x4pckK50bA';
EXECUTE known;
SELECT run_ops.swap_views(false);
EXECUTE known;
SELECT run_ops.swap_views(true);
EXECUTE known;
DEALLOCATE known;

-- What is computed once for a query: stable functions, sub-selects.
SET app.id = :'ksuid';
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = current_setting('app.id');
SELECT executed($$SELECT * FROM run_ops.run WHERE id = (SELECT name FROM env WHERE id = 'e1')$$);
-- a volatile function may give another id for each row
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = clock_timestamp()::text;

-- The view inside other things.
CREATE VIEW nested AS SELECT r.id, r.note, s.id AS step FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id;
EXPLAIN (COSTS OFF) SELECT * FROM nested WHERE id = :'ksuid';
EXPLAIN (COSTS OFF) WITH c AS (SELECT * FROM run_ops.run) SELECT * FROM c WHERE id = :'cuid';
SELECT executed($$SELECT e.name, r.note FROM env AS e, LATERAL
  (SELECT * FROM run_ops.run AS r WHERE r.id = e.name ORDER BY note LIMIT 1) AS r WHERE e.id = 'e1'$$);
SELECT e.id, r.note FROM env AS e, LATERAL
  (SELECT * FROM run_ops.run AS r WHERE r.id = e.name ORDER BY note LIMIT 1) AS r ORDER BY e.id;
EXPLAIN (COSTS OFF) SELECT id FROM (SELECT id FROM run_ops.run UNION ALL SELECT id FROM run_ops.step) AS u WHERE id = :'ksuid';
EXPLAIN (COSTS OFF) SELECT e.id, r.note FROM env AS e LEFT JOIN run_ops.run AS r ON r.id = :'cuid' AND r.env = e.id;
CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM run_ops.run WHERE note <> 'secret';
EXPLAIN (COSTS OFF) SELECT * FROM barrier WHERE id = :'ksuid';
SET app.env = 'e1';
CREATE POLICY of_env ON run USING (env = current_setting('app.env'));
ALTER TABLE run ENABLE ROW LEVEL SECURITY;
ALTER TABLE run FORCE ROW LEVEL SECURITY;
CREATE ROLE regress_seam_pruning;
GRANT SELECT ON run TO regress_seam_pruning;
GRANT SELECT ON run_ops_new.run TO regress_seam_pruning;
GRANT USAGE ON SCHEMA run_ops, run_ops_new TO regress_seam_pruning;
ALTER VIEW run_ops.run OWNER TO regress_seam_pruning;
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'cuid';
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'ksuid';
ALTER VIEW run_ops.run OWNER TO CURRENT_USER;
ALTER TABLE run DISABLE ROW LEVEL SECURITY;
DROP OWNED BY regress_seam_pruning;
DROP ROLE regress_seam_pruning;

-- Who reads a view needs rights on the view and its schema, and on nothing of
-- this extension, whatever kind of plan a lookup has.
CREATE SCHEMA api;
CREATE TABLE mark (id text PRIMARY KEY, note text);
SELECT run_ops.attach_table('mark', 'shape', view_schema => 'api');
INSERT INTO mark VALUES (:'cuid', 'legacy');
INSERT INTO run_ops_new.mark VALUES (:'ksuid', 'new');
CREATE ROLE regress_seam_api;
GRANT USAGE ON SCHEMA api TO regress_seam_api;
GRANT SELECT ON api.mark TO regress_seam_api;
SET ROLE regress_seam_api;
PREPARE marks (text) AS SELECT note FROM api.mark WHERE id = $1;
PREPARE marks_of (text[]) AS SELECT note FROM api.mark WHERE id = ANY ($1) ORDER BY id;
PREPARE two_marks (text, text) AS SELECT note FROM api.mark WHERE id IN ($1, $2) ORDER BY id;
SET plan_cache_mode = force_generic_plan;
EXECUTE marks (:'ksuid');
EXECUTE marks_of (ARRAY[:'cuid', :'ksuid']);
EXECUTE two_marks (:'cuid', :'ksuid');
RESET plan_cache_mode;
EXECUTE marks_of (ARRAY[:'cuid', :'ksuid']);
SET app.id = :'cuid';
SELECT note FROM api.mark WHERE id = current_setting('app.id');
SELECT note FROM api.mark WHERE id = (SELECT current_setting('app.id')) OR id = :'ksuid' ORDER BY id;
SELECT m.note FROM (VALUES (:'cuid'), (:'ksuid')) AS v (id), LATERAL (SELECT note FROM api.mark WHERE id = v.id OFFSET 0) AS m ORDER BY 1;
SELECT run_ops.id_resides('x', 'new');
RESET ROLE;
DEALLOCATE marks;
DEALLOCATE marks_of;
DEALLOCATE two_marks;
DROP OWNED BY regress_seam_api;
DROP ROLE regress_seam_api;

-- Views of one's own of much the same form: what is not understood is left
-- alone, so that pruning changes no answer.
CREATE TABLE placed (id text, note text, store text);
CREATE FOREIGN TABLE far (id text, note text, store text) SERVER new OPTIONS (table_name 'placed');
INSERT INTO placed SELECT i, 'here ' || s, s FROM unnest(ARRAY[:'cuid', :'ksuid', 'x', NULL]) AS i, unnest(ARRAY['legacy', 'new', 'a', NULL]) AS s;
INSERT INTO far SELECT id, replace(note, 'here', 'there'), store FROM placed;
CREATE VIEW odd_column AS SELECT u.id, u.note FROM (
  SELECT id, note, store FROM placed UNION ALL SELECT id, note, 'new' FROM far) AS u WHERE run_ops.resides(u.id, u.store);
CREATE VIEW odd_foreign_column AS SELECT u.id, u.note FROM (
  SELECT id, note, 'legacy' AS store FROM placed UNION ALL SELECT id, note, store FROM far) AS u WHERE run_ops.resides(u.id, u.store);
CREATE VIEW odd_type AS SELECT u.id, u.note FROM (
  SELECT id, note, 'legacy'::name AS store FROM placed UNION ALL SELECT id, note, 'new'::text FROM far) AS u WHERE run_ops.resides(u.id, u.store);
CREATE VIEW odd_null AS SELECT u.id, u.note FROM (
  SELECT id, note, NULL::text AS store FROM placed UNION ALL SELECT id, note, 'new' FROM far) AS u WHERE run_ops.resides(u.id, u.store);
CREATE VIEW odd_condition AS SELECT u.id, u.note FROM (
  SELECT id, note, 'legacy' AS store FROM placed WHERE store = 'new'
  UNION ALL SELECT id, note, 'new' FROM far WHERE note <> 'there a') AS u WHERE run_ops.resides(u.id, u.store);
CREATE VIEW odd_expression AS SELECT u.id, u.note FROM (
  SELECT id, note, lower('LEGACY') AS store FROM placed UNION ALL SELECT id, note, coalesce(store, 'new') FROM far) AS u
 WHERE run_ops.resides(u.id, u.store);
CREATE VIEW odd_twice AS SELECT u.id, u.note FROM (
  SELECT id, note, 'new' AS store FROM placed UNION ALL SELECT id, note, 'new' FROM far
  UNION ALL SELECT id, note, 'nowhere' FROM placed) AS u WHERE run_ops.resides(u.id, u.store);
CREATE VIEW odd_sample AS SELECT u.id, u.note FROM (
  SELECT id, note, 'legacy' AS store FROM placed TABLESAMPLE bernoulli (100) UNION ALL SELECT id || '', note, 'new' FROM far) AS u
 WHERE run_ops.resides(u.id, u.store);
CREATE VIEW odd_or AS SELECT u.id, u.note FROM (
  SELECT id, note, 'legacy' AS store FROM placed UNION ALL SELECT id, note, 'new' FROM far) AS u
 WHERE run_ops.resides(u.id, u.store) OR u.note LIKE '%new';
CREATE VIEW odd_not AS SELECT u.id, u.note FROM (
  SELECT id, note, 'legacy' AS store FROM placed UNION ALL SELECT id, note, 'new' FROM far) AS u WHERE NOT run_ops.resides(u.id, u.store);
CREATE VIEW odd_join AS SELECT u.id, e.id AS note FROM env AS e LEFT JOIN (
  SELECT id, note, 'legacy' AS store FROM placed UNION ALL SELECT id, note, 'new' FROM far) AS u
    ON u.id = e.name AND run_ops.resides(u.id, u.store);
CREATE VIEW odd_outer AS SELECT u.id, e.id AS note FROM env AS e LEFT JOIN (
  SELECT id, note, 'legacy' AS store FROM placed UNION ALL SELECT id, note, 'new' FROM far) AS u ON u.id = e.name
 WHERE run_ops.resides(u.id, u.store);
CREATE VIEW odd_swapped AS SELECT u.id, u.note FROM (
  SELECT id, store AS note, 'legacy' AS store FROM placed UNION ALL SELECT id, note, 'new' FROM far) AS u
 WHERE run_ops.resides(u.note, u.store);
CREATE VIEW odd_table AS SELECT id, note FROM far WHERE run_ops.resides(id, store);
CREATE FUNCTION rows_of(query text, pruning text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE found_rows text[];
BEGIN
  PERFORM set_config('run_ops_split.seam_pruning', pruning, true);
  EXECUTE 'PREPARE odd (text, text[]) AS ' || query;
  EXECUTE 'CREATE TEMP TABLE found AS EXECUTE odd (''run_37dGaqAyHnlXVhBy5x4pckK50bA'', ''{run_cl8dq15ad30lcaohivaab68x4,x,NULL}'')';
  DEALLOCATE odd;
  SELECT array_agg(f::text ORDER BY f::text COLLATE "C") INTO found_rows FROM found AS f;
  DROP TABLE found;
  RETURN coalesce(found_rows, '{}');
END $$;
CREATE TABLE asked AS
  SELECT relname AS view, mode, format('SELECT v.* FROM %I AS v WHERE %s', relname, condition) AS query, NULL::text[] AS pruned, NULL::text[] AS whole
    FROM pg_class, unnest(ARRAY['force_custom_plan', 'force_generic_plan']) AS mode,
         unnest(ARRAY['true', 'v.id = $1', 'v.id = ANY ($2)', 'v.id IN ($1, $2[1])', 'v.id = $1 AND v.note <> $2[1]', 'v.note = $2[1]',
                      'v.id IS NULL', 'v.id = ''run_cl8dq15ad30lcaohivaab68x4''', 'v.id IN (''run_37dGaqAyHnlXVhBy5x4pckK50bA'', ''x'')',
                      'v.id = $2[1] OR v.note = ''there new''']) AS condition
   WHERE relname LIKE 'odd\_%' AND relkind = 'v';
DO $$
DECLARE a record;
BEGIN
  FOR a IN SELECT * FROM asked LOOP
    PERFORM set_config('plan_cache_mode', a.mode, true);
    UPDATE asked SET pruned = rows_of(query, 'on'), whole = rows_of(query, 'off') WHERE (query, mode) = (a.query, a.mode);
  END LOOP;
END $$;
SELECT view, count(*) AS queries, sum(cardinality(whole)) AS rows, bool_and(pruned = whole) AS same FROM asked GROUP BY view ORDER BY view;
SELECT mode, query, pruned, whole FROM asked WHERE pruned <> whole;

-- Equality that is not equality of bytes says nothing about the shape.
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id COLLATE nocase = :'cuid';
SELECT note FROM run_ops.run WHERE id COLLATE nocase = upper(:'ksuid');
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id COLLATE "C" = :'cuid';

-- Deleting through the view meets its conditions too.
CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER forget INSTEAD OF DELETE ON run_ops.step FOR EACH ROW EXECUTE FUNCTION forget();
EXPLAIN (COSTS OFF) DELETE FROM run_ops.step WHERE "runId" = :'ksuid';

-- A constraint that says what the filter asks makes the filter needless. On a
-- foreign table it is a declaration that PostgreSQL does not check.
ALTER TABLE run ADD CONSTRAINT at_home CHECK (run_ops.resides(id, 'legacy')) NOT VALID;
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE env = 'e1';
DELETE FROM run WHERE note = 'stray';
ALTER TABLE run VALIDATE CONSTRAINT at_home;
ALTER FOREIGN TABLE run_ops_new.run ADD CONSTRAINT at_home CHECK (run_ops.resides(id, 'new'));
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE env = 'e1';

-- Switched off, every store is asked; the answer is the same.
SET run_ops_split.seam_pruning = off;
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'cuid';
SELECT note FROM run_ops.run WHERE id = :'cuid';
RESET run_ops_split.seam_pruning;

-- A prepared lookup comes to use the generic plan by itself, although the
-- foreign tables were never analyzed: its key is known to find one row.
SELECT ftoptions FROM pg_foreign_table WHERE ftrelid = 'run_ops_new.run'::regclass;
DEALLOCATE ALL;
PREPARE by_id (text) AS SELECT note FROM run_ops.run WHERE id = $1;
\set ECHO none
\o /dev/null
SELECT format('EXECUTE by_id (%L)', :'cuid') FROM generate_series(1, 8) \gexec
\o
\set ECHO all
SELECT generic_plans > 0 AS generic FROM pg_prepared_statements WHERE name = 'by_id';
