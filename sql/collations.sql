-- A collation of the same name is another one in the store: the store tests
-- equality, and everything that depends on the order is done here.
\set name collations
\i test/fixtures/two_stores.sql
CREATE SCHEMA app;
SET search_path = app, public;
CREATE COLLATION en (provider = icu, locale = 'en');
CREATE TABLE doc (id text COLLATE en PRIMARY KEY, n int);
CREATE TABLE item (id text PRIMARY KEY, name text COLLATE en, title text, tags text[] COLLATE en, n int);
SELECT 1 AS x FROM dblink('new', $$
  CREATE SCHEMA app;
  SET search_path = app, public;
  CREATE COLLATION en (provider = icu, locale = 'en-u-kn');
  CREATE TABLE doc (id text COLLATE en PRIMARY KEY, n int);
  CREATE TABLE item (id text PRIMARY KEY, label text COLLATE en, title text, tags text[] COLLATE en, n int) $$) AS t (x text);
SET client_min_messages = warning;
SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('item', 'shape', column_names => '{"name": "label"}');
SELECT run_ops.attach_table('doc', 'shape');
SELECT run_ops.configure_split(true, true);
RESET client_min_messages;
-- The foreign table knows it from the beginning.
SELECT attname, attfdwoptions FROM pg_attribute WHERE attrelid = 'run_ops_new.item'::regclass AND attnum > 0 ORDER BY attnum;
SELECT object, ok, regexp_replace(detail, ' version [0-9.]+', '', 'g') AS detail, hint FROM run_ops.check_split() WHERE gate = 'collation';
\set VERBOSITY terse
SELECT run_ops.enable_split();
\set VERBOSITY default
SELECT run_ops.acknowledge('collation', 'app.en in store "new"', 'the store is being rebuilt');
SELECT run_ops.enable_split();

-- The same rows in a plain table: all answers must be equal.
CREATE TABLE plain (LIKE item);
INSERT INTO plain SELECT CASE WHEN i % 2 = 0 THEN 'run_c' || lpad(i::text, 24, '0') ELSE 'run_' || lpad(i::text, 27, '0') END,
       'v' || i, 't' || i, ARRAY['v' || i, 'w'], i FROM generate_series(1, 40) AS i;
INSERT INTO run_ops.item SELECT * FROM plain;
CREATE FUNCTION differs(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE a text[]; b text[];
BEGIN
  EXECUTE format('SELECT array_agg(q::text) FROM (%s) AS q', replace(query, '@', 'run_ops.item')) INTO a;
  EXECUTE format('SELECT array_agg(q::text) FROM (%s) AS q', replace(query, '@', 'plain')) INTO b;
  RETURN a IS DISTINCT FROM b;
END $$;
CREATE TABLE query (q text);
INSERT INTO query VALUES
  ('SELECT name FROM @ ORDER BY name LIMIT 12'), ('SELECT name, n FROM @ ORDER BY name DESC, n OFFSET 5 LIMIT 12'),
  ('SELECT count(*) FROM @ WHERE name > ''v2'' AND name < ''v3'''), ('SELECT count(*) FROM @ WHERE name BETWEEN ''v2'' AND ''v3'''),
  ('SELECT n FROM @ WHERE (name > ''v2'') IS TRUE ORDER BY n'), ('SELECT count(*) FROM @ WHERE NOT name >= ANY (ARRAY[''v2'', ''v30''])'),
  ('SELECT min(name), max(name), count(name) FROM @'), ('SELECT n % 3, min(name) FROM @ GROUP BY 1 ORDER BY 1'),
  ('SELECT string_agg(name, '','' ORDER BY name) FROM @'), ('SELECT count(*) FILTER (WHERE name < ''v3'') FROM @'),
  ('SELECT n % 2 FROM @ GROUP BY 1 HAVING max(name) > ''v39'' ORDER BY 1'),
  ('SELECT name FROM @ ORDER BY upper(name) LIMIT 7'), ('SELECT n FROM @ ORDER BY (name > ''v2''), n LIMIT 15'), ('SELECT tags FROM @ ORDER BY tags LIMIT 5'),
  ('SELECT n FROM @ WHERE tags < ARRAY[''v3''] ORDER BY n'), ('SELECT DISTINCT ON (left(name, 2)) name FROM @ ORDER BY left(name, 2), name'),
  ('SELECT a.n, b.n FROM @ AS a JOIN @ AS b ON a.name > b.name WHERE a.n = 3 ORDER BY b.n'),
  ('SELECT a.n, b.n FROM @ AS a JOIN @ AS b USING (name) ORDER BY name, a.n'),
  ('SELECT x, (SELECT name FROM @ WHERE name > x ORDER BY name LIMIT 1) FROM unnest(ARRAY[''v1'', ''v19'', ''v2'']) AS x'),
  ('SELECT name, rank() OVER (ORDER BY name) FROM @ ORDER BY name'), ('SELECT greatest(name, ''v2'') AS g FROM @ ORDER BY g'),
  ('SELECT n FROM @ WHERE name = ''v7'''), ('SELECT n FROM @ WHERE name IN (''v7'', ''v8'') ORDER BY n'), ('SELECT n FROM @ WHERE name LIKE ''v2%'' ORDER BY n');
SELECT q FROM query WHERE differs(q);
BEGIN;
SELECT name FROM run_ops.item WHERE id LIKE 'run_0%' ORDER BY name LIMIT 3 FOR UPDATE;
ROLLBACK;
UPDATE run_ops.item SET n = n + 100 WHERE name > 'v2' AND name < 'v3';
UPDATE plain SET n = n + 100 WHERE name > 'v2' AND name < 'v3';
UPDATE run_ops.item SET title = (name < 'v3')::text WHERE n < 10;
UPDATE plain SET title = (name < 'v3')::text WHERE n < 10;
SELECT q FROM query WHERE differs(q);
SELECT differs('SELECT * FROM @ ORDER BY id COLLATE "C"');

-- What is asked of the store.
EXPLAIN (VERBOSE, COSTS OFF) SELECT name FROM run_ops_new.item ORDER BY name LIMIT 12;
EXPLAIN (VERBOSE, COSTS OFF) SELECT n FROM run_ops_new.item WHERE name > 'v2' AND title > 't' AND name = 'v3' AND name LIKE 'v%';
EXPLAIN (VERBOSE, COSTS OFF) SELECT title, count(name) FROM run_ops_new.item GROUP BY title;
EXPLAIN (VERBOSE, COSTS OFF) SELECT min(title), max(name) FROM run_ops_new.item;
EXPLAIN (VERBOSE, COSTS OFF) SELECT title FROM run_ops_new.item ORDER BY title LIMIT 3;
EXPLAIN (VERBOSE, COSTS OFF) UPDATE run_ops_new.item SET n = 1 WHERE name < 'v3';

-- Rows are copied back in ranges of keys, which both sides must have in the same
-- order.
INSERT INTO run_ops.doc SELECT 'run_' || rpad(i::text, 27, 'a'), i FROM generate_series(1, 40) AS i;
DO $$
DECLARE finished boolean := false;
BEGIN
  WHILE NOT finished LOOP SELECT done INTO finished FROM run_ops.repatriate(7); END LOOP;
END $$;
SELECT sum(differing) FROM run_ops.verify_repatriation();
SELECT run_ops.disable_split(repatriated => true);
SELECT count(*), sum(n) FROM doc;
DO $$
DECLARE finished boolean := false;
BEGIN
  WHILE NOT finished LOOP SELECT done INTO finished FROM run_ops.move_strays(7); END LOOP;
  PERFORM run_ops.enable_split();
  LOOP
    SELECT done INTO finished FROM run_ops.remove_leftovers(7);
    EXIT WHEN finished;
  END LOOP;
END $$;
SELECT count(*), sum(n) FROM run_ops.doc;
SELECT q FROM query WHERE differs(q);

-- The hint mends it; from the next check on, the store is asked again.  It may
-- also begin while split is on.
SELECT run_ops.withdraw_acknowledgement('collation', 'app.en in store "new"');
SELECT substring(hint FROM 'Run in store "new": (.*;) To accept it') AS statement FROM run_ops.check_split() WHERE gate = 'collation' \gset
SELECT 1 AS x FROM dblink('new', :'statement') AS t (x text);
SELECT count(*) FROM run_ops.check_split() WHERE gate = 'collation';
EXPLAIN (VERBOSE, COSTS OFF) SELECT name FROM run_ops_new.item ORDER BY name LIMIT 12;
SELECT q FROM query WHERE differs(q);
-- The same definition, but another version of its library, which only a changed
-- question can find here.
BEGIN;
ALTER FUNCTION run_ops.collations_query(text[]) RENAME TO real_query;
CREATE FUNCTION run_ops.collations_query(tables text[]) RETURNS text LANGUAGE sql AS $$
  SELECT replace(run_ops.real_query(tables), 'pg_collation_actual_version(l.oid) AS version',
                 'concat(pg_catalog.substring(current_database(), ''_store$''), pg_collation_actual_version(l.oid)) AS version') $$;
SELECT object, ok, regexp_replace(detail, 'version (_store)?[0-9.]+', 'version \1...', 'g') AS detail, hint FROM run_ops.check_split() WHERE gate = 'collation' AND object LIKE 'app%';
EXPLAIN (VERBOSE, COSTS OFF) SELECT name FROM run_ops_new.item ORDER BY name LIMIT 12;
ROLLBACK;
SELECT count(*) FROM run_ops.check_split() WHERE gate = 'collation';
SELECT 1 AS x FROM dblink('new', 'ALTER TABLE app.item ALTER label TYPE text COLLATE app.en_replaced') AS t (x text);
SELECT gate, object, detail FROM run_ops.check_split() WHERE gate IN ('collation', 'columns') AND NOT ok;
SELECT q FROM query WHERE differs(q);
-- A second time, the name that the hint has given to the old one is taken.
SELECT 1 AS x FROM dblink('new', $$ SET search_path = app, public; ALTER TABLE item ALTER label TYPE text COLLATE en;
  ALTER COLLATION en RENAME TO right_one; CREATE COLLATION en (provider = icu, locale = 'en-u-kn'); ALTER TABLE item ALTER label TYPE text COLLATE en $$) AS t (x text);
SELECT substring(hint FROM 'Run in store "new": (.*;) To accept it') AS statement FROM run_ops.check_split() WHERE gate = 'collation' \gset
\echo :statement
SELECT 1 AS x FROM dblink('new', :'statement') AS t (x text);
SELECT count(*) FROM run_ops.check_split() WHERE gate = 'collation';
