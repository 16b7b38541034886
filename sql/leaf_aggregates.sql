-- Counts and other aggregates over a view: each store groups its own rows.
\set name leaf_aggregates
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TYPE state AS ENUM ('queued', 'done', 'it''s \d', 'never');
CREATE TABLE run (id text PRIMARY KEY, status state, env text, n int, big bigint, small smallint, price numeric, share float8,
  ok bool, created timestamp, body text);
SELECT 1 AS x FROM dblink('new', $$
  CREATE TYPE state AS ENUM ('queued', 'done', 'it''s \d', 'never');
  CREATE TABLE run (id text PRIMARY KEY, status state, env text, n int, big bigint, small smallint, price numeric, share float8,
    ok bool, created timestamp, body text) $$) AS t (x text);
CREATE TABLE step (id text PRIMARY KEY, "runId" text, n int);
CREATE TABLE env (id text PRIMARY KEY, name text);
SELECT 1 AS x FROM dblink('new', 'CREATE TABLE step (id text PRIMARY KEY, "runId" text, n int)') AS t (x text);
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId');

-- The same rows in tables that are not split, and strays of both sides.
CREATE FUNCTION an_id(i int) RETURNS text LANGUAGE sql RETURN
  CASE i % 5 WHEN 0 THEN 'run_c' || substr(md5(i::text), 1, 24) WHEN 1 THEN 'run_' || substr(md5(i::text), 1, 27)
             WHEN 2 THEN 'run_' || substr(md5(i::text), 1, 24) || 'e1' WHEN 3 THEN substr(md5(i::text), 1, 25) ELSE 'x' || i END;
CREATE TABLE whole_run AS
  SELECT an_id(i) AS id, (ARRAY['queued', 'done', 'it''s \d', NULL]::state[])[1 + i % 4] AS status, 'e' || i % 7 AS env, nullif(i % 10, 3) AS n,
         (i * 10000000000)::bigint AS big, (i % 100)::smallint AS small, (i % 13) / 8.0 AS price, i / 7.0::float8 AS share, i % 3 = 0 AS ok,
         timestamp '2026-01-01' + i / 3 * interval '1 hour' AS created, md5(i::text) AS body
    FROM generate_series(1, 400) AS i;
CREATE TABLE whole_step AS
  SELECT 's' || i AS id, CASE WHEN i % 11 > 0 THEN an_id(i) END AS "runId", i % 10 AS n FROM generate_series(1, 200) AS i;
BEGIN;
SELECT run_ops.allow_strays();
INSERT INTO run SELECT * FROM whole_run WHERE run_ops.resides(id, 'legacy') OR n < 4;
INSERT INTO step SELECT * FROM whole_step WHERE run_ops.resides("runId", 'legacy') OR n < 4;
COMMIT;
INSERT INTO run_ops_new.run SELECT * FROM whole_run WHERE run_ops.resides(id, 'new') OR n > 6;
INSERT INTO run_ops_new.step SELECT * FROM whole_step WHERE run_ops.resides("runId", 'new') OR n > 6;
INSERT INTO env SELECT 'e' || i, 'name ' || i % 3 FROM generate_series(0, 8) AS i;
SELECT run_ops.swap_views(true);
ANALYZE run, env, run_ops_new.run;

-- What each store is asked.
SET jit = off;
EXPLAIN (VERBOSE, COSTS OFF) SELECT count(*) FROM run_ops.run;
EXPLAIN (VERBOSE, COSTS OFF) SELECT env, count(*), avg(n), max(created) FROM run_ops.run WHERE n > 2 GROUP BY env HAVING count(*) > 3 ORDER BY env;
EXPLAIN (VERBOSE, COSTS OFF) SELECT status, count(*) FROM run_ops.run GROUP BY status;
-- a declared CHECK takes the place of the condition
ALTER FOREIGN TABLE run_ops_new.step ADD CHECK (run_ops.resides("runId", 'new'));
EXPLAIN (VERBOSE, COSTS OFF) SELECT count(*) FROM run_ops.step;
ALTER FOREIGN TABLE run_ops_new.step DROP CONSTRAINT "step_runId_check";

-- Whether a query was taken apart, and whether its result is the same with the
-- setting off, and on the tables that are not split.
CREATE FUNCTION answer(query text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE result jsonb;
BEGIN
  EXECUTE format('SELECT jsonb_agg(to_jsonb(q) ORDER BY to_jsonb(q)) FROM (%s) AS q', query) INTO result;
  RETURN result;
END $$;
CREATE FUNCTION plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE plan jsonb;
BEGIN
  EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) ' || query INTO plan;
  RETURN plan::text;
END $$;
CREATE FUNCTION compare(query text, OUT question text, OUT "in leaves" boolean, OUT shipped boolean, OUT rows int, OUT same boolean) LANGUAGE plpgsql AS $$
DECLARE
  split text := replace(query, '@', 'run_ops.');
  plan  text := plan(split);
  whole jsonb := answer(replace(query, '@', 'whole_'));
BEGIN
  question := query;
  rows := coalesce(jsonb_array_length(whole), 0);
  same := whole IS NOT DISTINCT FROM answer(split);
  shipped := plan ~ 'Aggregate on';
  SET LOCAL run_ops_split.leaf_aggregates = off;
  same := same AND whole IS NOT DISTINCT FROM answer(split);
  "in leaves" := plan <> plan(split);
  RESET run_ops_split.leaf_aggregates;
END $$;
SELECT c.* FROM (VALUES
  ('SELECT count(*) FROM @run'),
  ('SELECT count(n) FROM @run'),
  ('SELECT count(*) FROM @run WHERE false'),
  ('SELECT count(*), sum(n), min(n), avg(n), bool_and(ok) FROM @run WHERE n > 100'),
  ('SELECT status, count(*) FROM @run GROUP BY status'),
  ('SELECT count(status), min(status), max(status) FROM @run'),
  ('SELECT env, sum(n), sum(big), sum(small), sum(price), avg(n), avg(big), avg(small), avg(price) FROM @run GROUP BY env'),
  ('SELECT env, min(id), max(id), min(created), max(share), min(price) FROM @run GROUP BY env'),
  ('SELECT env, bool_and(ok), bool_or(ok), every(ok), bit_and(n), bit_or(small), bit_or(big) FROM @run GROUP BY 1'),
  ('SELECT count(*) FILTER (WHERE ok), sum(n) FILTER (WHERE status = ''done''), avg(n) FILTER (WHERE n > 100) FROM @run'),
  ('SELECT n, ok, count(*) FROM @run GROUP BY n, ok'),
  ('SELECT n + 1, n + 1 + 2, count(*) FROM @run GROUP BY n + 1'),
  ('SELECT ok FROM @run GROUP BY ok'),
  ('SELECT env FROM @run GROUP BY env HAVING avg(n) > 4.4'),
  ('SELECT env, count(*) FROM @run GROUP BY env HAVING env > ''e3'' AND count(n) > 10'),
  ('SELECT 1 FROM @run HAVING count(*) > 10'),
  ('SELECT env, count(*) * 2 + sum(n) AS x, env || ''!'' FROM @run GROUP BY env ORDER BY count(*) DESC, env LIMIT 3 OFFSET 1'),
  ('SELECT DISTINCT count(*) FROM @run GROUP BY env, n'),
  ('SELECT DISTINCT ON (n) n, env, count(*) FROM @run GROUP BY n, env ORDER BY n, count(*), env'),
  ('SELECT count(*) FROM @run WHERE status = ''done'''),
  ('SELECT count(*) FROM @run WHERE status IN (''done'', ''it''''s \d'') OR n IS NULL'),
  ('SELECT count(*) FROM @run WHERE status NOT IN (''done'', ''it''''s \d'')'),
  ('SELECT status, min(n) FROM @run WHERE status <> ''done'' OR status IS NULL GROUP BY status'),
  ('SELECT count(*) FROM @run WHERE status > ''done'''),
  ('SELECT status, ok, count(*) FROM @run WHERE n < 8 GROUP BY ok, status HAVING status >= ''done'' ORDER BY status'),
  ('SELECT count(*) FROM @run WHERE id LIKE ''run_c%'''),
  ('SELECT count(*) FROM @step WHERE "runId" IS NULL'),
  ('SELECT n, count(*) FROM @step GROUP BY n'),
  -- in other places of a query
  ('SELECT e.id, (SELECT count(*) FROM @run AS r WHERE r.env = e.id) FROM env AS e'),
  ('SELECT e.id FROM env AS e WHERE (SELECT count(*) + length(e.name) FROM @run AS r WHERE r.env = e.id) > 60'),
  ('SELECT e.id, l.* FROM env AS e, LATERAL (SELECT r.ok, count(*), max(r.n) FROM @run AS r WHERE r.env = e.id GROUP BY r.ok) AS l'),
  ('WITH c AS MATERIALIZED (SELECT env, count(*) AS n FROM @run GROUP BY env) SELECT e.name, sum(c.n) FROM c JOIN env AS e ON e.id = c.env GROUP BY e.name'),
  ('SELECT env, count(*) FROM @run GROUP BY env UNION ALL SELECT ''all'', count(*) FROM @step'),
  ('SELECT * FROM (SELECT env, count(*) AS n FROM @run GROUP BY env) AS s WHERE s.env = ''e4'''),
  ('SELECT * FROM (SELECT count(*) AS a FROM @run) AS s, (SELECT count(*) AS b FROM @run WHERE ok) AS t'),
  ('SELECT x.c, sum(x.d) FROM @run AS x (a, b, c, d) GROUP BY x.c'),
  ('SELECT count(*) FROM (SELECT id FROM @run WHERE n > 3 AND 1 = 1 OFFSET 0) AS sub'),
  ('SELECT x.e, count(*), sum(x.m) FROM (SELECT r.env || ''!'' AS e, r.n + 1 AS m, r.ok FROM (SELECT * FROM @run WHERE n < 8) AS r WHERE r.n > 2) AS x WHERE x.ok GROUP BY x.e HAVING max(x.m) > 2'),
  ('SELECT e.id, (SELECT max(s.x) FROM (SELECT r.n * length(e.id) AS x FROM @run AS r WHERE r.env = e.id) AS s WHERE s.x > length(e.name)) FROM env AS e'),
  -- what is left alone
  ('SELECT count(*) FROM (SELECT id FROM @run ORDER BY id LIMIT 5) AS sub'),
  ('SELECT count(*) FROM (SELECT id FROM @run OFFSET 2) AS sub'),
  ('SELECT count(*) FROM (SELECT id, random() AS r FROM @run OFFSET 0) AS sub WHERE r < 2'),
  ('SELECT count(*) FROM (SELECT id FROM @run OFFSET 0) AS sub WHERE id = an_id(5)'),
  ('SELECT count(DISTINCT env) FROM @run'),
  ('SELECT string_agg(env, '','' ORDER BY id) FROM @run'),
  ('SELECT round(sum(share)::numeric, 3) FROM @run'),
  ('SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY n) FROM @run'),
  ('SELECT env, n, count(*) FROM @run GROUP BY ROLLUP (env, n)'),
  ('SELECT env, count(*), rank() OVER (ORDER BY count(*), env) FROM @run GROUP BY env'),
  ('SELECT count(r) FROM @run AS r'),
  ('SELECT id, count(*) FROM @run GROUP BY id'),
  ('SELECT count(*) FROM @run WHERE id = an_id(6)'),
  ('SELECT count(*) FROM @run WHERE id IN (an_id(6), an_id(5))'),
  ('SELECT count(*) FROM @run WHERE n > random() * 0 + 5'),
  ('SELECT count(*) > 10 FROM @run GROUP BY random() < 2'),
  ('SELECT e.id, (SELECT count(*) FROM @step AS s WHERE s."runId" = e.id) FROM env AS e'),
  ('SELECT env, count(*) FROM @run WHERE env IN (SELECT id FROM env) GROUP BY env'),
  ('SELECT count(*) FROM @run AS r JOIN @step AS s ON s."runId" = r.id')) AS v (q), compare(v.q) AS c;
-- Since version 17, a group that has one value has no key, and a condition is
-- written the other way round.
CREATE FUNCTION explained(options text, query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  line text;
BEGIN
  FOR line IN EXECUTE format('EXPLAIN (%s) %s', options, query) LOOP
    IF line !~ 'Group Key: run_\d.env$' THEN
      RETURN NEXT replace(line, '(e.id = "*SELECT* 1".group1)', '("*SELECT* 1".group1 = e.id)');
    END IF;
  END LOOP;
END $$;
-- Joins with local tables: each leaf groups by the columns that the join needs,
-- if that is cheaper.
SELECT explained('COSTS OFF', $$SELECT e.name, count(*) FROM run_ops.run AS r JOIN env AS e ON e.id = r.env WHERE r.n < 8 GROUP BY e.name$$);
ALTER SERVER new OPTIONS (ADD fdw_tuple_cost '1');
SELECT explained('VERBOSE, COSTS OFF', $$SELECT e.name, count(*), avg(r.n) FROM run_ops.run AS r JOIN env AS e ON e.id = r.env WHERE r.n < 8 GROUP BY e.name$$);
SELECT c.* FROM (VALUES
  ('SELECT e.name, count(*), avg(r.n), max(r.created) FROM @run AS r JOIN env AS e ON e.id = r.env WHERE r.n < 8 GROUP BY e.name'),
  ('SELECT e.name, r.ok, count(*) FROM env AS e, @run AS r WHERE r.env = e.id AND e.id < ''e5'' AND r.status <> ''done'' GROUP BY e.name, r.ok'),
  ('SELECT count(*), sum(n), count(*) * 2 + 1 FROM @run AS r JOIN env AS e ON e.id = r.env AND e.name = ''nothing'''),
  ('SELECT id, count(n) FROM (SELECT env AS id, n FROM @run) AS r JOIN env USING (id) GROUP BY id'),
  ('SELECT name, count(*) FROM env AS e (env, name) JOIN @run USING (env) GROUP BY name ORDER BY 2 DESC, 1 LIMIT 2'),
  ('SELECT r.env, e.name, count(*), min(r.n) FROM @run AS r LEFT JOIN env AS e ON e.id = r.env AND e.id <> ''e1'' AND r.n > 5 WHERE r.n < 9 GROUP BY r.env, e.name'),
  ('SELECT e.name, count(r.n) FROM env AS e RIGHT JOIN @run AS r ON e.id = r.env AND r.ok GROUP BY e.name'),
  ('SELECT f.name, count(*) FROM @run AS r JOIN env AS e ON e.id = r.env JOIN env AS f ON f.name = e.name GROUP BY f.name'),
  ('SELECT e.id, l.c FROM env AS e, LATERAL (SELECT count(*) AS c FROM @run AS r JOIN env AS f ON f.id = r.env WHERE f.name = e.name) AS l'),
  -- what is left alone
  ('SELECT e.name, count(*) FROM env AS e LEFT JOIN @run AS r ON e.id = r.env AND r.n < 100 GROUP BY e.name'),
  ('SELECT e.name, count(*) FROM env AS e FULL JOIN @run AS r ON e.id = r.env GROUP BY e.name'),
  ('SELECT e.name, count(*), max(e.id) FROM env AS e JOIN @run AS r ON e.id = r.env GROUP BY e.name'),
  ('SELECT e.name, count(*) FILTER (WHERE e.id > ''e3'') FROM env AS e JOIN @run AS r ON e.id = r.env GROUP BY e.name'),
  ('SELECT e.name, count(*) FROM env AS e, @run AS r WHERE length(r.body) < 9 GROUP BY e.name'),
  ('SELECT e.name, count(*) FROM env AS e JOIN @run AS r ON e.id = r.env || left(r.id, 0) GROUP BY e.name'),
  ('SELECT count(*) FROM env AS e, @run AS r, (VALUES (''e1'')) AS v (x) WHERE e.id = r.env AND r.env = v.x'),
  ('SELECT length(r.price::text), count(*) FROM env AS e JOIN @run AS r ON e.id = r.env GROUP BY 1'),
  ('SELECT count(*) FROM env AS e JOIN @run AS r ON e.id = r.env AND random() < 2')) AS v (q), compare(v.q) AS c;
ALTER SERVER new OPTIONS (DROP fdw_tuple_cost);

-- Conditions on an enum are evaluated in the store, its order is not.
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM run_ops.run WHERE status = 'done' AND n = 1;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM run_ops_new.run WHERE ('it''s \d' <> status AND status IN ('done', 'queued')) OR status IS NULL;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM run_ops_new.run WHERE status NOT IN ('done', 'queued') AND status >= 'done' ORDER BY status;
EXPLAIN (VERBOSE, COSTS OFF) SELECT status, ok AND status = 'done', count(status), count(*) FILTER (WHERE status <> 'done' OR n > 3) FROM run_ops_new.run GROUP BY 1, 2 ORDER BY 1, 2;
SELECT status, ok AND status = 'done', count(status), count(*) FILTER (WHERE status <> 'done' OR n > 3) FROM run_ops_new.run GROUP BY 1, 2 ORDER BY 1, 2;
EXPLAIN (VERBOSE, COSTS OFF) SELECT min(status) FROM run_ops_new.run;
EXPLAIN (VERBOSE, COSTS OFF) SELECT r.id, s.id FROM run_ops_new.run AS r JOIN run_ops_new.step AS s ON s."runId" = r.id WHERE r.status = 'done' AND s.n = 7;
SELECT count(*), min(r.status), max(r.status) FROM run_ops_new.run AS r JOIN run_ops_new.step AS s ON s."runId" = r.id WHERE r.status = 'done' AND s.n = 7;
-- a label as a text that is cast
PREPARE cast_text (text, text) AS SELECT count(*) FROM run_ops.run WHERE status = CAST($1 AS state) OR status IN (CAST($2 AS state), CAST('never'::text AS state));
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE cast_text ('done', E'it\'s \\d');
EXECUTE cast_text ('done', E'it\'s \\d');
SELECT count(*) FROM whole_run WHERE status <> 'queued';
EXECUTE cast_text ('done', 'no label');
-- beside a lookup through an index as well
SELECT count(*) FROM run_ops_new.run WHERE id = 'none' AND status = CAST('done'::text AS state);
-- statistics of the enum, and of it together with another column
CREATE STATISTICS run_status (mcv) ON status, n FROM run_ops_new.run;
ANALYZE run_ops_new.run;
SELECT count(*) FROM run_ops_new.run WHERE status = 'done' AND n = 7;
EXPLAIN (VERBOSE, COSTS OFF) UPDATE run_ops_new.run SET n = 1 WHERE status = 'never';
SELECT id FROM run_ops_new.run WHERE status = 'done' AND n = 7 ORDER BY id LIMIT 1 FOR UPDATE;

-- Parameters: custom and generic plans.
PREPARE by_n (int, text) AS SELECT env, count(*), sum(n + $1) FROM run_ops.run WHERE n > $1 AND env < $2 GROUP BY env HAVING count(*) > $1 ORDER BY env LIMIT 2;
EXECUTE by_n (4, 'e5');
SET plan_cache_mode = force_generic_plan;
EXECUTE by_n (4, 'e5');
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE by_n (4, 'e5');
SELECT env, count(*), sum(n + 4) FROM whole_run WHERE n > 4 AND env < 'e5' GROUP BY env HAVING count(*) > 4 ORDER BY env LIMIT 2;
PREPARE skipped (bigint) AS SELECT count(*) FROM (SELECT id FROM run_ops.run WHERE n > 3 OFFSET $1) AS sub;
EXECUTE skipped (0);
EXECUTE skipped (5);
SET plan_cache_mode = force_custom_plan;
EXPLAIN (COSTS OFF) EXECUTE skipped (0);
EXECUTE skipped (0);
EXECUTE skipped (5);
SET plan_cache_mode = force_generic_plan;
PREPARE by_status (state) AS SELECT count(*) FROM run_ops.run WHERE status = $1;
EXECUTE by_status ('done');
RESET plan_cache_mode;
EXECUTE by_status ('done');

-- A statement that was planned before the library was loaded is planned again.
\c
PREPARE early AS SELECT count(*) FROM run_ops.run;
EXECUTE early;
EXPLAIN (COSTS OFF) EXECUTE early;

-- One snapshot, and what the transaction itself has written.
BEGIN;
SET LOCAL run_ops_split.cross_store_writes = allow;
INSERT INTO run_ops.run (id, status, n) VALUES (an_id(501), 'never', 1), (an_id(505), 'never', 1);
SELECT status, count(*), sum(n) FROM run_ops.run WHERE status = 'never' GROUP BY status;
DECLARE c CURSOR FOR SELECT count(*) FROM run_ops.run WHERE status = 'never';
DELETE FROM run_ops.run WHERE status = 'never';
FETCH c;
SELECT count(*) FROM run_ops.run WHERE status = 'never';
ROLLBACK;
-- the result of an aggregate as a value to write
BEGIN;
SET LOCAL run_ops_split.cross_store_writes = allow;
UPDATE run_ops.run SET n = (SELECT count(*) FROM run_ops.run) WHERE env = 'e1' AND id IN (an_id(1), an_id(15), an_id(50));
SELECT env, max(n), count(*) FILTER (WHERE n = 400) FROM run_ops.run WHERE n > 100 GROUP BY env;
ROLLBACK;

-- Empty stores.
BEGIN;
SET LOCAL run_ops_split.cross_store_writes = allow;
DELETE FROM run_ops.step WHERE run_ops.resides("runId", 'new');
SELECT count(*), sum(n), avg(n) FROM run_ops.step;
DELETE FROM run_ops.step;
SELECT count(*), sum(n), avg(n), max(n) FROM run_ops.step;
SELECT n, count(*) FROM run_ops.step GROUP BY n;
ROLLBACK;

-- Privileges are those of the view, and a security barrier stays one.
CREATE ROLE regress_leaf_aggregates;
SET ROLE regress_leaf_aggregates;
SELECT count(*) FROM run_ops.run;
RESET ROLE;
GRANT USAGE ON SCHEMA run_ops TO regress_leaf_aggregates;
SET ROLE regress_leaf_aggregates;
SELECT count(*) FROM run_ops.run;
RESET ROLE;
GRANT SELECT (env) ON run_ops.run TO regress_leaf_aggregates;
SET ROLE regress_leaf_aggregates;
SELECT env, count(*) FROM run_ops.run WHERE env < 'e2' GROUP BY env ORDER BY env;
SELECT sum(n) FROM run_ops.run;
RESET ROLE;
DROP OWNED BY regress_leaf_aggregates;
DROP ROLE regress_leaf_aggregates;
ALTER VIEW run_ops.run SET (security_barrier);
SELECT * FROM compare('SELECT env, count(*) FROM @run WHERE n > 3 GROUP BY env');
ALTER VIEW run_ops.run RESET (security_barrier);
-- a view of one's own
CREATE VIEW open_run AS SELECT env AS e, n FROM run_ops.run WHERE n < 8;
SELECT count(*) FROM open_run;
CREATE VIEW counts AS SELECT env, count(*) AS n FROM run_ops.run GROUP BY env;
SELECT explained('VERBOSE, COSTS OFF', $$SELECT * FROM counts WHERE env = 'e1'$$);

-- What only a table has, as limits.md says, and what does the same.
SELECT r.id, r.status, count(*) FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id GROUP BY r.id;
SELECT * FROM compare('SELECT r.id, r.status, count(*) FROM @run AS r JOIN @step AS s ON s."runId" = r.id GROUP BY r.id, r.status');
SELECT * FROM compare('SELECT r.id, r.status, s.count FROM @run AS r JOIN (SELECT "runId", count(*) FROM @step GROUP BY "runId") AS s ON s."runId" = r.id');
SELECT xmin FROM run_ops.run;
SELECT ctid FROM run_ops.run;
SELECT tableoid FROM run_ops.run;
SELECT count(*) FROM run_ops.run TABLESAMPLE SYSTEM (1);

-- The condition that a store evaluates is the same as resides(): a million
-- random strings.
SELECT setseed(0.42);
CREATE FUNCTION random_id(kind float8) RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT CASE floor(kind * 8)::int WHEN 0 THEN '' WHEN 1 THEN 'a_b_' WHEN 2 THEN '_' WHEN 3 THEN 'ü_' ELSE 'run_' END || left(
    translate(encode(sha256(random()::text::bytea), 'hex'), 'abc9', CASE floor(random() * 8)::int WHEN 0 THEN 'äbü_' WHEN 1 THEN 'vwz8' WHEN 2 THEN E'\n\r\t0' WHEN 3 THEN 'ABv1' ELSE 'klv7' END),
    22 + floor(random() * 5)::int) || (ARRAY['e1', 'a2', 'A1', '11', E'1\n', 'b1', '1', 'ä1', '_1', ' 1'])[1 + floor(random() * 10)::int]
$$;
CREATE TEMP TABLE random_ids AS SELECT random_id(random()) AS id FROM generate_series(1, 1000000);
SELECT format('SELECT %1$L AS store, count(*) FILTER (WHERE r) > 1000 AS "both kinds", count(*) FILTER (WHERE r <> (%2$s)) AS differ FROM (SELECT id, run_ops.resides(id, %1$L) AS r FROM random_ids OFFSET 0) AS i',
              store, run_ops.residency_condition('id', store))
  FROM unnest('{new,a}'::text[]) AS store \gexec
-- and so it is in the store, for the expression that is built there
INSERT INTO run_ops_new.step SELECT 'r' || row_number() OVER (), id, 1 FROM (SELECT * FROM random_ids LIMIT 20000) AS i;
SELECT (SELECT count(*) FROM run_ops.step WHERE id LIKE 'r%') =
       (SELECT count(*) FROM (SELECT id FROM random_ids LIMIT 20000) AS i WHERE run_ops.resides(id, 'new')) AS same;
