-- What the planner expects of a column of a view: what the leaves say of it.
\set name seam_statistics
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TABLE run (id text PRIMARY KEY, env text, created timestamp);
CREATE TABLE tag (id text PRIMARY KEY, name text);
SELECT 1 AS x FROM dblink('new', $$
  CREATE TABLE run (id text PRIMARY KEY, env text, created timestamp);
  CREATE TABLE tag (id text PRIMARY KEY, name text);
  INSERT INTO run SELECT 'run_' || lpad(n::text, 27, '0'), 'env' || n % 7 FROM generate_series(1, 700) AS n $$) AS t (x text);
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('tag', 'store');
SELECT run_ops.swap_views(true);
INSERT INTO run SELECT 'run_' || lpad(n::text, 25, '0'), 'env' || n % 50 FROM generate_series(1, 2000) AS n;
INSERT INTO tag SELECT n, 'tag' || n % 30 FROM generate_series(1, 600) AS n;
CREATE TABLE wanted AS SELECT id, env FROM run LIMIT 100;
ANALYZE run, tag, wanted;

CREATE FUNCTION expected(query text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
  EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
  RETURN plan #>> '{0,Plan,Plan Rows}';
END $$;

-- A union that is no view of ours: PostgreSQL takes any column to have 200 values.
SELECT expected('SELECT env FROM (SELECT env FROM run UNION ALL SELECT env FROM wanted) AS u GROUP BY env') AS environments;
-- One row an id, fifty environments; the local leaf of "tag" has a condition.
SELECT expected('SELECT FROM wanted AS w JOIN run_ops.run AS r ON r.id = w.id') AS ids,
       expected('SELECT env FROM run_ops.run GROUP BY env') AS environments,
       expected('SELECT name FROM run_ops.tag GROUP BY name') AS names;
-- With nothing left here the leaf of the store speaks, once it was analyzed.
DELETE FROM pg_statistic WHERE starelid = 'run'::regclass;
SELECT expected('SELECT env FROM run_ops.run GROUP BY env') AS environments;
ANALYZE run_ops_new.run;
SELECT expected('SELECT env FROM run_ops.run GROUP BY env') AS environments;
