-- run_ops_fdw: postgres_fdw that connects only when a row is needed.
--
-- The store is the second server.  Each table of it is reached twice: through
-- run_ops_fdw (schema lazy) and through postgres_fdw (schema stock).
\set name lazy_fdw
\i test/fixtures/two_stores.sql
SELECT format('host=%s port=%s dbname=%s', :'store_host', :'store_port', :'store_db') AS store \gset
SET statement_timeout = '10min';
SELECT dblink_exec(:'store', $$
  SET client_min_messages = warning;
  CREATE SCHEMA lazy_fdw;
  CREATE TABLE lazy_fdw.run (id text PRIMARY KEY, env text NOT NULL, n int NOT NULL);
  INSERT INTO lazy_fdw.run SELECT 'run_' || lpad(g::text, 27, '0'), 'env_' || g % 10, g FROM generate_series(1, 30000) g;
  CREATE TABLE lazy_fdw.attempt (id text PRIMARY KEY, run_id text NOT NULL, n int NOT NULL);
  INSERT INTO lazy_fdw.attempt SELECT 'attempt_' || g, 'run_' || lpad((g / 2)::text, 27, '0'), g FROM generate_series(2, 30001) g;
  CREATE INDEX ON lazy_fdw.attempt (run_id);
  ANALYZE lazy_fdw.run, lazy_fdw.attempt;
$$);

CREATE SERVER lazy FOREIGN DATA WRAPPER run_ops_fdw
  OPTIONS (host :'store_host', port :'store_port', dbname :'store_db');
CREATE SERVER stock FOREIGN DATA WRAPPER postgres_fdw
  OPTIONS (host :'store_host', port :'store_port', dbname :'store_db');
CREATE USER MAPPING FOR CURRENT_USER SERVER lazy;
CREATE USER MAPPING FOR CURRENT_USER SERVER stock;
CREATE SCHEMA lazy;
CREATE SCHEMA stock;
IMPORT FOREIGN SCHEMA lazy_fdw FROM SERVER lazy INTO lazy;
IMPORT FOREIGN SCHEMA lazy_fdw FROM SERVER stock INTO stock;
ANALYZE lazy.run, lazy.attempt, stock.run, stock.attempt;

--
-- IMPORT FOREIGN SCHEMA creates what postgres_fdw would
--
SELECT dblink_exec(:'store', $$
  CREATE SCHEMA other;
  CREATE TABLE other."Odd 'name" (id text COLLATE "C" PRIMARY KEY, "order" int NOT NULL DEFAULT 7, "it's" text DEFAULT 'a''b', gone int,
    twice int GENERATED ALWAYS AS ("order" * 2) STORED, at timestamptz(3) DEFAULT now(), list numeric(10,2)[]);
  ALTER TABLE other."Odd 'name" DROP COLUMN gone;
  CREATE TABLE other.nothing ();
  CREATE VIEW other.seen AS SELECT id FROM other."Odd 'name";
  CREATE TABLE other.parts (id text) PARTITION BY LIST (id);
  CREATE TABLE other.part PARTITION OF other.parts DEFAULT;
  CREATE SCHEMA empty;
$$);
CREATE FUNCTION imported(options text) RETURNS TABLE (wrapper text, objects text) LANGUAGE plpgsql AS $$
DECLARE
  server text;
BEGIN
  FOREACH server IN ARRAY ARRAY['lazy', 'stock'] LOOP
    CREATE SCHEMA imported;
    EXECUTE format('IMPORT FOREIGN SCHEMA other %s', replace(options, 'HERE', format('FROM SERVER %s INTO imported', server)));
    RETURN QUERY
      SELECT server, string_agg(format(E'%s %s\n', c.relname, t.ftoptions) ||
             coalesce((SELECT string_agg(format(E'  %s %s%s%s%s %s\n', a.attname, format_type(a.atttypid, a.atttypmod), ' ' || l.collname,
                                           CASE WHEN a.attnotnull THEN ' NOT NULL' END, ' ' || pg_get_expr(d.adbin, d.adrelid) || a.attgenerated::text, a.attfdwoptions), '' ORDER BY a.attnum)
                FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
               WHERE a.attrelid = c.oid AND a.attnum > 0), ''), '' ORDER BY c.relname)
        FROM pg_class AS c JOIN pg_foreign_table AS t ON t.ftrelid = c.oid WHERE c.relnamespace = 'imported'::regnamespace;
    SET LOCAL client_min_messages = warning;
    DROP SCHEMA imported CASCADE;
  END LOOP;
END $$;
\pset format unaligned
SELECT objects FROM imported('HERE OPTIONS (import_default ''true'')') WHERE wrapper = 'lazy';
\pset format aligned
SELECT options, count(objects) AS wrappers, count(DISTINCT objects) AS same_if_1
  FROM unnest(ARRAY['HERE', 'HERE OPTIONS (import_default ''true'')', 'HERE OPTIONS (import_collate ''false'', import_not_null ''false'', import_generated ''false'')',
                    'LIMIT TO (part, seen) HERE', 'EXCEPT (nothing) HERE']) AS options, imported(options)
 GROUP BY options ORDER BY options;
CREATE SCHEMA imported;
IMPORT FOREIGN SCHEMA empty FROM SERVER lazy INTO imported;
IMPORT FOREIGN SCHEMA missing FROM SERVER lazy INTO imported;
IMPORT FOREIGN SCHEMA other FROM SERVER lazy INTO imported OPTIONS (import_all 'true');
-- a table that this transaction has made, over the connection of the transaction
SELECT dblink_exec(:'store', $$
  CREATE FUNCTION other.make() RETURNS int LANGUAGE plpgsql AS 'BEGIN CREATE TABLE other.made (id int); RETURN 1; END';
  CREATE VIEW other.making AS SELECT other.make();
$$);
BEGIN ISOLATION LEVEL REPEATABLE READ;
CREATE FOREIGN TABLE imported.making (make int) SERVER lazy OPTIONS (schema_name 'other', table_name 'making');
SELECT * FROM imported.making;
IMPORT FOREIGN SCHEMA other LIMIT TO (made) FROM SERVER lazy INTO imported;
SELECT count(*) FROM imported.made;
SELECT count(*) FROM postgres_fdw_get_connections() WHERE server_name = 'lazy';
ROLLBACK;
DROP SCHEMA imported;
DROP FUNCTION imported(text);

-- the stores that were contacted since the last call
CREATE FUNCTION contacted() RETURNS text LANGUAGE sql AS $$
  SELECT coalesce(string_agg(server, ', ' ORDER BY server), 'none') ||
         CASE WHEN postgres_fdw_disconnect_all()::int + run_ops.disconnect_stores() > 0 THEN '' ELSE '' END
    FROM (SELECT server_name FROM postgres_fdw_get_connections() UNION SELECT server FROM run_ops.store_connections()) AS c (server);
$$;
SELECT contacted();

--
-- Options: postgres_fdw's, and "indexed" for a column
--
ALTER SERVER lazy OPTIONS (ADD fetch_size '50', ADD batch_size '10');
ALTER SERVER lazy OPTIONS (DROP fetch_size, DROP batch_size);
-- (the hints list every option of postgres_fdw, which differs by version)
\set VERBOSITY terse
ALTER SERVER lazy OPTIONS (ADD indexed 'true');
ALTER FOREIGN TABLE lazy.run OPTIONS (ADD indexed 'true');
ALTER FOREIGN TABLE lazy.run ALTER COLUMN id OPTIONS (ADD indexed 'perhaps');
ALTER FOREIGN TABLE lazy.run ALTER COLUMN id OPTIONS (ADD key 'true');
\set VERBOSITY default
ALTER FOREIGN TABLE lazy.run ALTER COLUMN id OPTIONS (ADD indexed 'true', SET column_name 'id');
ALTER FOREIGN TABLE lazy.run ALTER COLUMN id OPTIONS (DROP indexed);

--
-- The same plans, costs and rows as postgres_fdw
--
CREATE FUNCTION plan_of(wrapper text, query text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
  line text;
BEGIN
  PERFORM set_config('search_path', wrapper || ', public', true);
  FOR line IN EXECUTE 'EXPLAIN (VERBOSE) ' || query LOOP
    RETURN NEXT replace(line, wrapper || '.', 'x.');
  END LOOP;
END $$;
CREATE FUNCTION rows_of(wrapper text, query text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  result text;
BEGIN
  PERFORM set_config('search_path', wrapper || ', public', true);
  EXECUTE format('WITH q AS (%s) SELECT count(*) || coalesce(md5(string_agg(q::text, chr(10) ORDER BY q::text)), '''') FROM q', query) INTO result;
  RETURN result;
END $$;
CREATE TABLE local (id text, n int);
INSERT INTO local SELECT 'run_' || lpad(g::text, 27, '0'), g FROM generate_series(1, 40) g;
ANALYZE local;
CREATE VIEW compare AS
  SELECT query,
         ARRAY(SELECT plan_of('lazy', query)) = ARRAY(SELECT plan_of('stock', query)) AS same_plan,
         rows_of('lazy', query) = rows_of('stock', query) AS same_rows
    FROM (VALUES
      (1, 'SELECT * FROM run'),
      (2, 'SELECT * FROM run WHERE id = ''run_000000000000000000000000042'''),
      (3, 'SELECT id FROM run WHERE n < 100 AND random() < 2'),
      (4, 'SELECT * FROM run ORDER BY n DESC LIMIT 10'),
      (5, 'SELECT env, count(*), max(n) FROM run GROUP BY env HAVING count(*) > 1'),
      (6, 'SELECT r.n, a.n FROM run r JOIN attempt a ON a.run_id = r.id WHERE a.n < 50'),
      (7, 'SELECT r.n, a.n FROM run r LEFT JOIN attempt a ON a.run_id = r.id AND a.n < 50 WHERE r.n < 100'),
      (8, 'SELECT r.*, a FROM run r JOIN attempt a ON a.run_id = r.id WHERE r.n = 7'),
      (9, 'SELECT count(*) FROM run r JOIN local l ON l.id = r.id'),
      (10, 'SELECT n, (SELECT count(*) FROM attempt a WHERE a.run_id = l.id) FROM local l WHERE n < 5'),
      (11, 'SELECT * FROM run r WHERE NOT EXISTS (SELECT FROM attempt a WHERE a.run_id = r.id) AND n > 14990'),
      (12, 'SELECT ctid, tableoid::regclass IS NULL, n FROM run WHERE n < 3'),
      (13, 'SELECT n FROM run WHERE false'),
      (14, 'SELECT n FROM run UNION ALL SELECT n FROM attempt'),
      (15, 'SELECT x.n FROM local l, LATERAL (SELECT n FROM run r WHERE r.n = l.n LIMIT 1) x')
    ) AS q(nr, query)
   ORDER BY nr;
SELECT * FROM compare;
SELECT ARRAY(SELECT plan_of('lazy', q)) = ARRAY(SELECT plan_of('stock', q)) AS same_plan
  FROM (VALUES ('SELECT r.* FROM run r JOIN attempt a ON a.run_id = r.id WHERE r.n = 7 FOR UPDATE OF r')) v(q);
EXPLAIN (VERBOSE, COSTS OFF) UPDATE lazy.run SET n = n + 1 WHERE n = 7;
-- options that would make postgres_fdw connect
ALTER SERVER lazy OPTIONS (ADD use_remote_estimate 'true');
ALTER SERVER lazy OPTIONS (ADD async_capable 'true');
ALTER SERVER lazy OPTIONS (ADD use_remote_estimate 'false', ADD async_capable 'false', ADD pooled 'false');
ALTER SERVER lazy OPTIONS (DROP use_remote_estimate, DROP async_capable, DROP pooled);

-- writes
EXPLAIN (VERBOSE, COSTS OFF) UPDATE lazy.attempt SET n = n + 1 WHERE run_id = 'x';
ALTER SERVER lazy OPTIONS (ADD batch_size '100');
EXPLAIN (VERBOSE, COSTS OFF) INSERT INTO lazy.run SELECT 'new_' || g, 'env', -g FROM generate_series(1, 3) g;
SELECT contacted();
INSERT INTO lazy.run SELECT 'new_' || g, 'env', -g FROM generate_series(1, 3) g RETURNING id;
-- which row is meant must be said by its key
UPDATE lazy.run r SET env = 'other' FROM local l WHERE r.n = -l.n RETURNING r.*;
ALTER FOREIGN TABLE lazy.run OPTIONS (ADD key 'id');
EXPLAIN (VERBOSE, COSTS OFF) UPDATE lazy.run r SET env = 'other' FROM local l WHERE r.n = -l.n RETURNING r.*;
UPDATE lazy.run r SET env = 'other' FROM local l WHERE r.n = -l.n RETURNING r.*;
ALTER FOREIGN TABLE lazy.run OPTIONS (DROP key);
DELETE FROM lazy.run WHERE n < 0 RETURNING n;
BEGIN;
TRUNCATE lazy.attempt;
SELECT count(*) FROM lazy.attempt;
ROLLBACK;
ALTER SERVER lazy OPTIONS (DROP batch_size);

--
-- A scan begins with the first row asked for, or when its cursor is opened
--
SELECT contacted() IS NOT NULL;
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM lazy.run r JOIN lazy.attempt a ON a.run_id = r.id;
-- (EXPLAIN ANALYZE without the numbers, which each version writes differently)
CREATE FUNCTION executed(query text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
  line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) ' || query LOOP
    RETURN NEXT regexp_replace(line, ' \(actual .*', '');
  END LOOP;
END $$;
SELECT executed('SELECT * FROM (SELECT FROM local WHERE n < 0) l LEFT JOIN LATERAL (SELECT n FROM lazy.run LIMIT 1) r ON true');
SELECT contacted();
SELECT executed('SELECT * FROM lazy.run LIMIT 0');
SELECT contacted();
SELECT count(*) FROM stock.run LIMIT 0;
SELECT contacted();

-- a gated branch of a generic plan: not contacted, or just then
SET plan_cache_mode = force_generic_plan;
PREPARE gated (text, int) AS
  SELECT n FROM local WHERE n = $2
  UNION ALL
  SELECT n FROM lazy.run WHERE n = $2 AND $1 = 'new';
EXPLAIN (COSTS OFF) EXECUTE gated ('legacy', 7);
EXECUTE gated ('legacy', 7);
SELECT contacted();
EXECUTE gated ('new', 7);
SELECT contacted();
-- never executed, and shown so
SELECT executed($$EXECUTE gated ('legacy', 7)$$);
SELECT contacted();
RESET plan_cache_mode;

-- a gated lookup is cheap: the planner settles for the generic plan by itself
ALTER FOREIGN TABLE lazy.run ALTER COLUMN id OPTIONS (ADD indexed 'true');
ALTER FOREIGN TABLE lazy.attempt ALTER COLUMN run_id OPTIONS (ADD indexed 'true');
CREATE INDEX ON local (id);
PREPARE lookup (text) AS
  SELECT n FROM local WHERE id = $1
  UNION ALL
  SELECT n FROM lazy.run WHERE id = $1 AND run_ops.resides($1, 'new');
DO $$
BEGIN
  FOR i IN 1 .. 8 LOOP
    EXECUTE 'EXECUTE lookup (''run_0000000000000000000000042'')';
  END LOOP;
END $$;
SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'lookup';
SELECT contacted();

--
-- Lookups: one remote query for each outer row, where that is cheaper
--
EXPLAIN (VERBOSE, COSTS OFF) SELECT l.n, r.env FROM local l JOIN lazy.run r ON r.id = l.id;
EXPLAIN (COSTS OFF) SELECT l.n, r.env FROM local l LEFT JOIN lazy.run r ON r.id = l.id;
EXPLAIN (COSTS OFF) SELECT n FROM local l WHERE EXISTS (SELECT FROM lazy.run r WHERE r.id = l.id);
EXPLAIN (COSTS OFF) SELECT n FROM local l WHERE NOT EXISTS (SELECT FROM lazy.run r WHERE r.id = l.id);
EXPLAIN (COSTS OFF) SELECT l.n, a.n FROM local l JOIN lazy.attempt a ON a.run_id = l.id;
-- not by a column without an index, nor by a clause postgres_fdw would not ship
EXPLAIN (COSTS OFF) SELECT l.n, r.env FROM local l JOIN lazy.run r ON r.n = l.n;
EXPLAIN (COSTS OFF) SELECT l.n, r.env FROM local l JOIN lazy.run r ON r.id = l.id COLLATE "C";
-- not for half of the table
INSERT INTO local SELECT 'run_' || lpad(g::text, 27, '0'), g FROM generate_series(41, 15000) g;
ANALYZE local;
EXPLAIN (COSTS OFF) SELECT l.n, r.env FROM local l JOIN lazy.run r ON r.id = l.id;
DELETE FROM local WHERE n > 40;
ANALYZE local;
-- the rows are those of the other plans
SELECT count(*), sum(r.n) FROM local l JOIN lazy.run r ON r.id = l.id;
SELECT count(*), sum(a.n) FROM local l LEFT JOIN lazy.attempt a ON a.run_id = l.id;
SELECT count(*), sum(r.n) FROM local l JOIN stock.run r ON r.id = l.id;
SELECT count(*), sum(a.n) FROM local l LEFT JOIN stock.attempt a ON a.run_id = l.id;
SELECT contacted();

-- through a union view; an id that cannot reside in the store is not asked for
CREATE TABLE legacy_run (id text PRIMARY KEY, env text NOT NULL, n int NOT NULL);
INSERT INTO legacy_run SELECT 'run_' || lpad(g::text, 25, '0'), 'env_' || g % 10, g FROM generate_series(1, 5000) g;
ANALYZE legacy_run;
CREATE VIEW runs AS
  SELECT id, env, n
    FROM (SELECT id, env, n, 'legacy' AS store FROM legacy_run
          UNION ALL
          SELECT id, env, n, 'new' FROM lazy.run) u
   WHERE run_ops.resides(u.id, u.store);
CREATE TABLE wanted (nr int, id text);
INSERT INTO wanted SELECT g, 'run_' || lpad(g::text, 25, '0') FROM generate_series(1, 20) g;
ANALYZE wanted;
EXPLAIN (COSTS OFF) SELECT w.nr, r.n FROM wanted w JOIN runs r ON r.id = w.id;
SELECT count(*), sum(r.n) FROM wanted w JOIN runs r ON r.id = w.id;
SELECT count(*), sum(r.n) FROM wanted w LEFT JOIN runs r ON r.id = w.id;
SELECT count(*) FROM wanted w WHERE EXISTS (SELECT FROM runs r WHERE r.id = w.id);
SELECT contacted();
-- LEGACY, NEW, LEGACY, NEW: each rescan decides again
INSERT INTO wanted SELECT 100 + g, 'run_' || lpad((g * 3)::text, 27, '0') FROM generate_series(1, 4) g;
INSERT INTO wanted VALUES (99, NULL), (98, 'run_unclassifiable'), (105, 'run_' || lpad('5', 25, '0'));
ANALYZE wanted;
SELECT w.nr, r.n FROM (SELECT * FROM wanted WHERE nr > 97 ORDER BY right(id, 1), nr) w LEFT JOIN runs r ON r.id = w.id ORDER BY nr;
SELECT w.nr, (SELECT n FROM runs r WHERE r.id = w.id) FROM wanted w WHERE nr > 97 ORDER BY nr DESC;
SELECT contacted();
-- on the foreign table itself
SELECT n FROM lazy.run WHERE id = 'run_' || lpad('5', 25, '0') AND run_ops.resides(id, 'new');
SELECT contacted();
SELECT n FROM lazy.run WHERE id = 'run_' || lpad('5', 27, '0') AND run_ops.resides(id, 'new');
SELECT contacted();

--
-- Cursors, savepoints, users
--
BEGIN;
DECLARE never CURSOR FOR SELECT n FROM lazy.run ORDER BY n;
DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT n FROM lazy.run WHERE n < 5 ORDER BY n;
CLOSE never;
SELECT server FROM run_ops.store_connections();
COMMIT;
FETCH LAST held;
FETCH BACKWARD 2 FROM held;
CLOSE held;
-- partly read, then closed
BEGIN;
DECLARE part CURSOR FOR SELECT n FROM lazy.run ORDER BY n;
FETCH 2 FROM part;
CLOSE part;
COMMIT;
-- a savepoint rolled back before the first row
BEGIN;
DECLARE c CURSOR FOR SELECT n FROM lazy.run ORDER BY n;
SAVEPOINT s;
ROLLBACK TO s;
FETCH 2 FROM c;
COMMIT;
-- the first row asked for in a subtransaction that is rolled back
BEGIN;
DECLARE c CURSOR FOR SELECT n FROM lazy.run ORDER BY n;
DECLARE joined CURSOR FOR SELECT w.nr, r.n FROM wanted w JOIN runs r ON r.id = w.id WHERE nr > 100 ORDER BY nr;
SAVEPOINT s;
FETCH 2 FROM c;
FETCH 2 FROM joined;
ROLLBACK TO s;
FETCH 2 FROM c;
FETCH 2 FROM joined;
MOVE ALL FROM c;
COMMIT;
-- rows that come early, with a FETCH in a subtransaction that is rolled back
BEGIN;
DECLARE c CURSOR FOR SELECT n FROM lazy.run ORDER BY n;
MOVE 150 FROM c;
SAVEPOINT s;
MOVE 2000 FROM c;
ROLLBACK TO s;
FETCH 1 FROM c;
MOVE ALL FROM c;
COMMIT;
-- in a subtransaction that is over, and in a younger one of the same depth
BEGIN;
SAVEPOINT s;
DECLARE c CURSOR FOR SELECT n FROM lazy.run ORDER BY n;
DECLARE joined CURSOR FOR SELECT w.nr, r.n FROM wanted w JOIN runs r ON r.id = w.id WHERE nr > 100 ORDER BY nr;
MOVE 150 FROM c;
RELEASE s;
SAVEPOINT s;
MOVE 2000 FROM c;
FETCH 1 FROM joined;
ROLLBACK TO s;
FETCH 1 FROM c;
FETCH 1 FROM joined;
MOVE ALL FROM c;
COMMIT;
-- the first row in a subtransaction that is rolled back, with rescans
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT l.n, (SELECT r.n FROM lazy.run r WHERE r.n = l.n + 1) FROM local l ORDER BY l.n;
SAVEPOINT s;
FETCH 2 FROM c;
ROLLBACK TO s;
FETCH 2 FROM c;
FETCH FIRST FROM c;
COMMIT;
DO $$
DECLARE
  r record;
  total int := 0;
BEGIN
  FOR r IN SELECT n FROM lazy.run WHERE n <= 120 ORDER BY n LOOP
    BEGIN
      total := total + r.n;
      IF r.n % 2 = 0 THEN
        RAISE division_by_zero;
      END IF;
    EXCEPTION WHEN division_by_zero THEN
      PERFORM count(*) FROM lazy.attempt WHERE n < 10;
    END;
  END LOOP;
  RAISE NOTICE 'total %', total;
END $$;
-- a cursor handed to a user without a mapping reads as the user who opened it
CREATE ROLE run_ops_fdw_reader;
CREATE FUNCTION open_runs() RETURNS refcursor LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  c refcursor := 'runs';
BEGIN
  OPEN c FOR SELECT n FROM lazy.run ORDER BY n;
  RETURN c;
END $$;
BEGIN;
SET LOCAL ROLE run_ops_fdw_reader;
SELECT open_runs();
FETCH 2 FROM runs;
COMMIT;

-- rows that were read at once, in a savepoint, are read again from the start
SET enable_material = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
BEGIN;
DECLARE c CURSOR FOR SELECT g, r.n FROM generate_series(1, 2) AS g LEFT JOIN lazy.run AS r ON r.n < 3;
SAVEPOINT s;
FETCH ALL FROM c;
ROLLBACK;
RESET enable_material;
RESET enable_hashjoin;
RESET enable_mergejoin;

-- COPY, and costs that the server sets
ALTER SERVER lazy OPTIONS (ADD fdw_startup_cost '50', ADD fdw_tuple_cost '0.5');
BEGIN;
COPY lazy.run FROM stdin;
copied	env_1	-1
\.
SELECT * FROM lazy.run WHERE id = 'copied';
ROLLBACK;

-- Rows that the statement needs before the store has written them: with a column of
-- another type there, what it writes is not what was promised
SELECT dblink_exec(:'store', 'CREATE TABLE lazy_fdw.price (id text PRIMARY KEY, amount numeric(6,1))');
CREATE FOREIGN TABLE lazy.price (id text, amount numeric) SERVER lazy OPTIONS (schema_name 'lazy_fdw', key 'id');
INSERT INTO lazy.price VALUES ('one', 1), ('two', 2.5);
WITH u AS (UPDATE lazy.price SET amount = amount + 1.5 RETURNING id, amount) SELECT u.*, v.amount AS was FROM u JOIN lazy.price AS v USING (id) ORDER BY id;
WITH u AS (UPDATE lazy.price SET amount = amount + 0.25 RETURNING id) SELECT u.*, v.amount AS was FROM u JOIN lazy.price AS v USING (id);
WITH i AS (INSERT INTO lazy.price VALUES ('three', 3.33) RETURNING id) SELECT v.* FROM i LEFT JOIN lazy.price AS v USING (id);
-- a trigger there says so before, and the change comes first
SELECT dblink_exec(:'store', $$
  CREATE FUNCTION lazy_fdw.round_up() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.amount := ceil(NEW.amount); RETURN NEW; END';
  CREATE TRIGGER round_up BEFORE UPDATE ON lazy_fdw.price FOR EACH ROW EXECUTE FUNCTION lazy_fdw.round_up()$$);
WITH u AS (UPDATE lazy.price SET amount = amount + 0.25 RETURNING id, amount) INSERT INTO lazy.attempt SELECT id, id, amount FROM u RETURNING id, n;
WITH u AS (UPDATE lazy.price SET amount = amount + 0.25 RETURNING id) SELECT u.*, v.amount FROM u JOIN LATERAL (SELECT * FROM lazy.price AS v WHERE v.id = u.id OFFSET 0) AS v ON true;
SELECT * FROM lazy.price ORDER BY id;

-- roles belong to the whole server
SET client_min_messages = warning;
DROP OWNED BY run_ops_fdw_reader;
DROP ROLE run_ops_fdw_reader;
