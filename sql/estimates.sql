-- What the planner believes of foreign tables that were never analyzed, as most
-- are: a lookup costs what a lookup costs, and one value has as many rows in a
-- store as here.  So no query of a few rows is compiled (JIT), and what looks up
-- LEGACY ids does not need the store.
\set name estimates
\i test/fixtures/two_stores.sql
CREATE TABLE run (id text PRIMARY KEY, env text NOT NULL, created timestamptz NOT NULL, n int NOT NULL);
CREATE INDEX ON run (env, created DESC);
CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL, n int NOT NULL);
CREATE INDEX ON step ("runId");
CREATE TABLE tag (id text PRIMARY KEY, "runId" text NOT NULL, created timestamptz NOT NULL);
CREATE INDEX ON tag ("runId");
CREATE INDEX ON tag (created, id);
SELECT 1 AS x FROM dblink('new', $$
  CREATE TABLE run (id text PRIMARY KEY, env text NOT NULL, created timestamptz NOT NULL, n int NOT NULL);
  CREATE INDEX ON run (env, created DESC);
  CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL, n int NOT NULL);
  CREATE INDEX ON step ("runId");
  CREATE TABLE tag (id text PRIMARY KEY, "runId" text NOT NULL, created timestamptz NOT NULL);
  CREATE INDEX ON tag ("runId");
  CREATE INDEX ON tag (created, id) $$) AS t (x text);
SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'), run_ops.attach_table('tag', 'store');
-- nothing is analyzed unless it is said
ALTER TABLE run SET (autovacuum_enabled = off);
ALTER TABLE step SET (autovacuum_enabled = off);
ALTER TABLE tag SET (autovacuum_enabled = off);
CREATE FUNCTION old_id(n int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_' || lpad(n::text, 25, '0');
CREATE FUNCTION new_id(n int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_' || lpad(n::text, 27, '0');
-- 5 steps a run, 20 runs an environment, here; the store has 2 steps a run
INSERT INTO run SELECT old_id(n), 'e' || n % 100, '2026-01-01', n FROM generate_series(1, 2000) AS n;
INSERT INTO step SELECT 's' || n, old_id(1 + n % 2000), n FROM generate_series(1, 10000) AS n;
INSERT INTO tag SELECT 't' || n, old_id(1 + n % 400), '2026-01-01' FROM generate_series(1, 2000) AS n;
SELECT run_ops.swap_views(true);
INSERT INTO run_ops_new.run SELECT new_id(n), 'e' || n % 100, '2026-02-01', n FROM generate_series(1, 10000) AS n;
INSERT INTO run_ops_new.step SELECT 's' || n, new_id(1 + n % 10000), n FROM generate_series(1, 20000) AS n;
CREATE TABLE env (id text PRIMARY KEY, run_id text NOT NULL);
INSERT INTO env SELECT 'env ' || n, old_id(n) FROM generate_series(1, 2000) AS n;
CREATE TABLE hundred AS SELECT old_id(n) AS id FROM generate_series(1, 100) AS n;
ANALYZE env, hundred;
SELECT old_id(42) AS old, new_id(42) AS new \gset

CREATE FUNCTION planned(query text, OUT cost float, OUT rows float, OUT jit boolean) LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
  EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
  cost := plan->0->'Plan'->>'Total Cost';
  rows := plan->0->'Plan'->>'Plan Rows';
  jit := plan->0->'JIT' IS NOT NULL;
END $$;
SET jit = on;
SELECT current_setting('jit_above_cost') AS jit_above_cost;
CREATE FUNCTION planned_generic(query text, OUT cost float, OUT rows float, OUT jit boolean) LANGUAGE plpgsql AS $$
BEGIN
  SET LOCAL plan_cache_mode = force_generic_plan;
  EXECUTE 'PREPARE generic (text) AS ' || query;
  SELECT p.* INTO cost, rows, jit FROM planned('EXECUTE generic (''e1'')') AS p;
  DEALLOCATE generic;
END $$;

-- A few rows cost little, with custom and generic plans, whatever is analyzed.
CREATE TABLE sent (nr int, query text);
INSERT INTO sent VALUES
  (1, 'SELECT * FROM run_ops.run WHERE id = $1'),
  (2, 'SELECT * FROM run_ops.run WHERE id = ANY (ARRAY[$1, ''x''])'),
  (3, 'SELECT * FROM run_ops.run WHERE id = ANY (string_to_array($1, '',''))'),
  (4, 'SELECT * FROM run_ops.step WHERE "runId" = $1'),
  (5, 'SELECT * FROM run_ops.step WHERE "runId" = ANY (ARRAY[$1, ''x''])'),
  (6, 'SELECT * FROM run_ops.step WHERE id = $1'),
  (7, 'SELECT * FROM run_ops.run WHERE env = $1'),
  (8, 'SELECT * FROM run_ops.run WHERE env = $1 ORDER BY created DESC LIMIT 20'),
  (9, 'SELECT * FROM run_ops.run WHERE created < now() ORDER BY created DESC, id LIMIT 20'),
  (10, 'SELECT count(*) FROM run_ops.step WHERE "runId" = $1'),
  (11, 'SELECT * FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id WHERE r.id = $1'),
  (12, 'SELECT * FROM run_ops.run AS r LEFT JOIN run_ops.step AS s ON s."runId" = r.id WHERE r.env = $1'),
  (13, 'SELECT * FROM env AS e JOIN run_ops.run AS r ON r.id = e.run_id JOIN run_ops.step AS s ON s."runId" = r.id WHERE e.id = $1'),
  (14, 'SELECT *, (SELECT count(*) FROM run_ops.step AS s WHERE s."runId" = r.id) FROM run_ops.run AS r WHERE r.id = $1'),
  (15, 'SELECT * FROM run_ops.tag WHERE id = $1'),
  (16, 'SELECT * FROM run_ops.tag WHERE "runId" = $1'),
  (17, 'SELECT * FROM run_ops.tag ORDER BY created, id LIMIT 20'),
  (18, 'UPDATE run_ops.run SET n = 1 WHERE id = $1'),
  (19, 'DELETE FROM run_ops.step WHERE "runId" = $1'),
  (20, 'SELECT * FROM run_ops_new.run AS r JOIN run_ops_new.step AS s ON s."runId" = r.id WHERE r.id = $1'),
  (21, 'SELECT count(*) FROM run_ops.run');
CREATE FUNCTION costs() RETURNS TABLE (nr int, query text, cheap boolean) LANGUAGE sql AS $$
  SELECT s.nr, s.query, bool_and(p.cost < current_setting('jit_above_cost')::float AND NOT p.jit)
    FROM sent AS s, LATERAL (SELECT g.* FROM planned_generic(s.query) AS g
                             UNION ALL SELECT c.* FROM unnest(ARRAY[old_id(42), new_id(42), 'e1']) AS id, planned(replace(s.query, '$1', quote_literal(id))) AS c) AS p
   GROUP BY s.nr, s.query ORDER BY s.nr
$$;
SELECT nr, query, cheap FROM costs();
ANALYZE run, step, tag;
SELECT nr, query FROM costs() WHERE NOT cheap;
-- a lookup costs as much as one, and less than all rows
SELECT whole.cost > 20 * one.cost AS lookup, whole.cost > 20 * page.cost AS page, one.cost > joined.cost / 3 AS joined
  FROM planned('SELECT * FROM run_ops_new.run') AS whole, planned(format('SELECT * FROM run_ops_new.run WHERE id = %L', :'new')) AS one,
       planned('SELECT * FROM run_ops_new.run ORDER BY id LIMIT 20') AS page,
       planned(format('SELECT * FROM run_ops_new.run AS r JOIN run_ops_new.step AS s ON s."runId" = r.id WHERE r.id = %L', :'new')) AS joined;
-- what the store can do in one query, it does
EXPLAIN (COSTS OFF) SELECT * FROM run_ops_new.run AS r JOIN run_ops_new.step AS s ON s."runId" = r.id WHERE r.id = :'new';
EXPLAIN (COSTS OFF) SELECT count(*) FROM run_ops.step WHERE "runId" = :'new';
EXPLAIN (VERBOSE, COSTS OFF) SELECT n FROM run_ops_new.run WHERE env = 'e1' ORDER BY created LIMIT 20;

-- Rows, with the local tables analyzed: 1 for a key, 5 steps for a run, also in
-- a join. A union has as many ids as its leaves together.
CREATE FUNCTION about(estimate float, expected float) RETURNS text LANGUAGE sql
  RETURN CASE WHEN estimate BETWEEN expected / 2 AND expected * 2 THEN 'about ' || expected ELSE 'not about ' || expected || ' but ' || estimate END;
SELECT what, about((planned(query)).rows, expected) AS rows FROM (VALUES
  (1, 'key', format('SELECT * FROM run_ops.run WHERE id = %L', :'new'), 1),
  (2, 'anchor', format('SELECT * FROM run_ops.step WHERE "runId" = %L', :'new'), 5),
  (3, 'anchors', format('SELECT * FROM run_ops.step WHERE "runId" IN (%L, %L)', :'new', :'new' || 'x'), 10),
  (4, 'environment', 'SELECT * FROM run_ops_new.run WHERE env = ''e1''', 20),
  (5, 'key, 100 ids', 'SELECT * FROM hundred AS h JOIN run_ops.run AS r ON r.id = h.id', 100),
  (6, 'anchor, 100 ids', 'SELECT * FROM hundred AS h JOIN run_ops.step AS s ON s."runId" = h.id', 500)) AS q (nr, what, query, expected)
 ORDER BY nr;
-- the least that the table of a store is assumed to have, as here if that is more
SELECT about((planned('SELECT * FROM run_ops_new.step')).rows, 100000);
UPDATE pg_class SET reltuples = 3000000 WHERE oid = 'step'::regclass;
SELECT about((planned('SELECT * FROM run_ops_new.step')).rows, 3000000);
ANALYZE step;

-- LEGACY ids do not need the store, whatever is analyzed.
CREATE FUNCTION contacts(queries text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  query text;
  n int;
BEGIN
  FOREACH query IN ARRAY queries LOOP
    PERFORM run_ops.disconnect_stores();
    EXECUTE query INTO n;
    IF EXISTS (SELECT FROM run_ops.store_connections()) THEN
      RETURN NEXT query;
    ELSIF n IS DISTINCT FROM 5 THEN
      RETURN NEXT format('%s: %s', query, n);
    END IF;
  END LOOP;
END $$;
CREATE VIEW legacy_joins AS SELECT array_agg(q) AS queries FROM unnest(ARRAY[
  'SELECT count(*) FROM env AS e JOIN run_ops.step AS s ON s."runId" = e.run_id WHERE e.id = ''env 7''',
  'SELECT count(s.id) FROM env AS e LEFT JOIN run_ops.step AS s ON s."runId" = e.run_id WHERE e.id = ''env 7''',
  'SELECT count(*) FROM env AS e JOIN run_ops.run AS r ON r.id = e.run_id JOIN run_ops.step AS s ON s."runId" = r.id WHERE e.id = ''env 7''',
  'SELECT count(*) FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id WHERE r.id = ''' || old_id(7) || '''',
  'SELECT count(*) FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id JOIN run_ops.step AS t ON t."runId" = s."runId" AND t.id = s.id WHERE r.id = ''' || old_id(7) || '''',
  'SELECT count(*) FROM (VALUES (''' || old_id(7) || ''')) AS v (id) JOIN run_ops.step AS s ON s."runId" = v.id',
  'SELECT count(*) FROM run_ops.step AS s WHERE s."runId" = (SELECT run_id FROM env WHERE id = ''env 7'')',
  'SELECT (SELECT count(*) FROM run_ops.step AS s WHERE s."runId" = e.run_id) FROM env AS e WHERE e.id = ''env 7''',
  'SELECT count(*) / 20 FROM hundred AS h WHERE EXISTS (SELECT FROM run_ops.step AS s WHERE s."runId" = h.id)',
  'SELECT count(*) / 100 FROM hundred AS h JOIN run_ops.step AS s ON s."runId" = h.id',
  'SELECT count(*) / 100 FROM hundred AS h JOIN run_ops.run AS r ON r.id = h.id JOIN run_ops.step AS s ON s."runId" = r.id',
  'SELECT count(*) FROM env AS e, LATERAL (SELECT FROM run_ops.step AS s WHERE s."runId" = e.run_id ORDER BY s.n LIMIT 5) AS l WHERE e.id = ''env 7''']) AS q;
SELECT contacts(queries) FROM legacy_joins;
-- nothing analyzed
DELETE FROM pg_statistic WHERE starelid IN ('run'::regclass, 'step'::regclass);
UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid IN ('run'::regclass, 'step'::regclass);
SELECT contacts(queries) FROM legacy_joins;
SELECT nr, query FROM costs() WHERE NOT cheap;
-- everything analyzed: the statistics of the foreign table count
ANALYZE run, step;
SELECT dblink_exec('new', 'ANALYZE');
ANALYZE run_ops_new.run, run_ops_new.step;
SELECT about((planned('SELECT * FROM run_ops_new.step')).rows, 20000),
       about((planned(format('SELECT * FROM run_ops.step WHERE "runId" = %L', :'new'))).rows, 2);
SELECT contacts(queries) FROM legacy_joins;
SELECT nr, query FROM costs() WHERE NOT cheap;
-- The first INSERT of a session asks the registry how the store of a row is found.
SELECT (planned(replace(prosrc, ' run_ops.owners(t)', ' run_ops.routed_table AS t, run_ops.owners(t)'))).jit
  FROM pg_proc WHERE oid = 'run_ops.owner_columns'::regproc;
