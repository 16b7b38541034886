-- Routing "store": the rows of the local table are shown if the store does not
-- have their keys.  The keys are sent as sets.
\set name store_anti_join
\i test/fixtures/two_stores.sql
CREATE TABLE tag (id text PRIMARY KEY, run text, n int);
CREATE TABLE part (a int, b uuid, c bigint, n int, PRIMARY KEY (a, b, c));
CREATE TABLE price (amount numeric PRIMARY KEY, n int);
SELECT 1 AS x FROM dblink('new', $$
  CREATE TABLE tag (id text PRIMARY KEY, run text, n int);
  CREATE TABLE part (a int, b uuid, c bigint, n int, PRIMARY KEY (a, b, c));
  CREATE TABLE price (amount numeric PRIMARY KEY, n int) $$) AS t (x text);
SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('tag', 'store'), run_ops.attach_table('part', 'store'), run_ops.attach_table('price', 'store');
SELECT run_ops.swap_views(true);
-- 3,000 keys here, some of them difficult to write; each seventh is in the store as well
INSERT INTO tag SELECT 'tag ' || i, 'r' || i % 10, i FROM generate_series(1, 2990) AS i;
INSERT INTO tag VALUES ('', 'r', 2991), (',', 'r', 2992), ('"', 'r', 2993), ('\', 'r', 2994), ('NULL', 'r', 2995), ('{}', 'r', 2996), ('''', 'r', 2997),
  (E'\n', 'r', 2998), ('é', 'r', 2999), (repeat('x', 2000), 'r', 3000);
INSERT INTO run_ops_new.tag SELECT id, run, -n FROM tag WHERE n % 7 = 0 OR n > 2990 AND n % 2 = 0;
INSERT INTO run_ops_new.tag SELECT 'there ' || i, 'r' || i % 10, i FROM generate_series(1, 1000) AS i;
INSERT INTO part SELECT i % 3, md5(i::text)::uuid, i * 10000000000, i FROM generate_series(1, 500) AS i;
INSERT INTO run_ops_new.part SELECT a, b, c, -n FROM part WHERE n % 5 = 0;
INSERT INTO run_ops_new.part SELECT a, b, c + 1, 0 FROM part WHERE n % 10 = 1;
INSERT INTO price SELECT i, i FROM generate_series(1, 10) AS i;
INSERT INTO run_ops_new.price SELECT amount, -n FROM price WHERE n < 5;
ANALYZE tag, part, price;

-- What a view has to show, and whether it does.
CREATE FUNCTION differs(name text, condition text DEFAULT 'true', OUT shown bigint, OUT wrong bigint) LANGUAGE plpgsql AS $$
DECLARE
  keys text := (SELECT string_agg(quote_ident(k), ', ') FROM run_ops.routed_table AS t, unnest(t.key_columns) AS k WHERE t.legacy = name::regclass);
BEGIN
  EXECUTE format('CREATE TEMP TABLE there AS SELECT * FROM run_ops_new.%I', name);
  EXECUTE format('CREATE TEMP TABLE expected AS SELECT * FROM (SELECT * FROM there UNION ALL SELECT * FROM public.%I WHERE (%s) NOT IN (SELECT %2$s FROM there)) AS v WHERE %s',
                 name, keys, condition);
  EXECUTE format('CREATE TEMP TABLE shown AS SELECT * FROM run_ops.%I AS v WHERE %s', name, condition);
  SELECT count(*) FROM shown INTO shown;
  SELECT count(*) FROM ((TABLE shown EXCEPT ALL TABLE expected) UNION ALL (TABLE expected EXCEPT ALL TABLE shown)) AS d INTO wrong;
  DROP TABLE there, expected, shown;
END $$;
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM run_ops.tag ORDER BY n LIMIT 5;
SELECT * FROM differs('tag');
SELECT * FROM differs('tag', 'run = ''r3''');
SELECT * FROM differs('tag', 'run = ''r'' AND n > 0');
SELECT * FROM differs('tag', 'n < 5');
SELECT left(id, 10) AS id, n FROM run_ops.tag WHERE run = 'r' ORDER BY n DESC;
-- a key of several columns
EXPLAIN (VERBOSE, COSTS OFF) SELECT count(*) FROM run_ops.part;
SELECT * FROM differs('part');
-- a type of which equal values may be written in several ways is not sent
EXPLAIN (COSTS OFF) SELECT count(*) FROM run_ops.price;
SELECT * FROM differs('price');
-- what has another condition, or is no equality, is left alone
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM run_ops_new.tag AS y WHERE y.id = x.id AND y.n < -1000);
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM run_ops_new.tag AS y WHERE y.id = x.id AND y.n < x.n - 5000);
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM run_ops_new.tag AS y WHERE y.id IS NOT DISTINCT FROM x.id);
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM run_ops_new.tag AS y WHERE y.id = lower(x.id) COLLATE "C");
SELECT count(*) FROM (SELECT id FROM tag UNION ALL SELECT NULL) AS x WHERE NOT EXISTS (SELECT FROM run_ops_new.tag AS y WHERE y.id = x.id);
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM tag AS y WHERE n % 7 = 0 AND y.id = x.id);
SELECT count(*), count(y.id) FROM tag AS x LEFT JOIN run_ops_new.tag AS y ON y.id = x.id;
SELECT count(*) FROM tag AS x LEFT JOIN run_ops_new.tag AS y ON y.id = x.id WHERE y.id IS NULL;
SELECT count(x.n), count(j.there) FROM (SELECT x.n, y.n AS there FROM tag AS x LEFT JOIN run_ops_new.tag AS y ON y.id = x.id WHERE y.id IS NULL OFFSET 0) AS j, tag AS x WHERE x.n = j.n;
SELECT x.id, y.n FROM tag AS x LEFT JOIN run_ops_new.tag AS y ON y.id = x.id WHERE y.id IS NULL ORDER BY x.n LIMIT 2;
-- sets end when they are large
SET work_mem = '64kB';
SELECT * FROM differs('tag');
RESET work_mem;
-- no rows, no set
SELECT run_ops.disconnect_stores() >= 0 AS disconnected;
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
SELECT executed($$SELECT FROM tag AS x WHERE run || '' = 'none' AND NOT EXISTS (SELECT FROM run_ops_new.tag AS y WHERE y.id = x.id)$$);
SELECT count(*) FROM run_ops.store_connections();

-- read again, with other parameters
SELECT r, (SELECT count(*) FROM run_ops.tag AS t WHERE t.run = r), (SELECT max(n) FROM run_ops.tag AS t WHERE t.run = r)
  FROM unnest(ARRAY['r1', 'none', 'r2', 'r', NULL]) AS r;
SET plan_cache_mode = force_generic_plan;
PREPARE of_run (text) AS SELECT count(*), count(*) FILTER (WHERE n < 0) FROM run_ops.tag WHERE run = $1;
EXECUTE of_run ('r1');
EXECUTE of_run ('r2');
RESET plan_cache_mode;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_material = off;
SELECT count(*), count(DISTINCT t.id) FROM (VALUES (1), (2)) AS v (i) CROSS JOIN run_ops.tag AS t WHERE t.n + v.i > 0;
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET enable_material;

-- a cursor, in a savepoint that is rolled back
BEGIN;
DECLARE c CURSOR FOR SELECT id, n FROM run_ops.tag WHERE run = 'r2' AND n > 0 ORDER BY n, id;
SAVEPOINT s;
FETCH 3 FROM c;
ROLLBACK TO s;
FETCH 2 FROM c;
MOVE ALL FROM c;
COMMIT;
-- what the transaction has written is seen
BEGIN;
INSERT INTO run_ops_new.tag SELECT id, run, -n FROM tag WHERE run = 'r4' AND n % 7 > 0;
SELECT * FROM differs('tag', 'run = ''r4''');
ROLLBACK;
SELECT * FROM differs('tag', 'run = ''r4''');
-- statements that change rows
BEGIN;
EXPLAIN (COSTS OFF) UPDATE run_ops.tag SET n = 0 WHERE run = 'r5';
WITH u AS (UPDATE run_ops.tag SET n = 0 WHERE run = 'r5' RETURNING id) SELECT count(*), count(DISTINCT id) FROM u;
ROLLBACK;
INSERT INTO price SELECT n * 1000 + (id LIKE 'tag%')::int, n FROM run_ops.tag WHERE n < 5 AND n > 0;
SELECT count(*) FROM price WHERE amount > 100;
-- the keys are read as whoever may read the foreign table
CREATE ROLE regress_anti_join;
GRANT USAGE ON SCHEMA run_ops, run_ops_new TO regress_anti_join;
GRANT SELECT ON run_ops.tag, tag TO regress_anti_join;
SET ROLE regress_anti_join;
SELECT count(*) FROM run_ops.tag WHERE run = 'r3';
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM run_ops_new.tag AS y WHERE y.id = x.id);
RESET ROLE;
DROP OWNED BY regress_anti_join;
DROP ROLE regress_anti_join;
-- an error of the store
SELECT dblink_exec('new', 'ALTER TABLE tag RENAME id TO key');
SELECT count(*) FROM tag AS x WHERE NOT EXISTS (SELECT FROM run_ops_new.tag AS y WHERE y.id = x.id);
