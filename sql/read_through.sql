-- Read-through views: split off, the plain table; split on, every store.
\set name read_through
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');

CREATE TABLE run (id text PRIMARY KEY, note text);
CREATE TABLE step (id text PRIMARY KEY, "runId" text, note text);
CREATE TABLE tag (id text, n int, note text, PRIMARY KEY (id, n));
SELECT 1 AS x FROM dblink('new', $$
  CREATE TABLE run (note text, id text PRIMARY KEY);
  CREATE TABLE step (note text, id text PRIMARY KEY, "runId" text);
  CREATE TABLE tag (n int, id text, note text, PRIMARY KEY (id, n)) $$) AS t (x text);
SELECT run_ops.attach_table('run', 'shape');
SELECT run_ops.attach_table('step', 'anchor', 'runId');
SELECT run_ops.attach_table('tag', 'store');

-- Rows as they lie before and after the split.  The last of each store is a
-- stray: the shape of its id says that it belongs to the other one.
\set cuid run_cl8dq15ad30lcaohivaab68x4
\set ksuid run_37dGaqAyHnlXVhBy5x4pckK50bA
INSERT INTO run VALUES (:'cuid', 'cuid here'), ('run_abcdefghijkmnpqrstuvw', 'old id here'), (:'ksuid', 'stray here');
INSERT INTO run_ops_new.run VALUES ('cuid there, a stray', :'cuid'), ('ksuid there', :'ksuid'),
  ('shard there, a stray', 'run_0123456789abcdefghijklmna2');
INSERT INTO step VALUES ('s1', :'cuid', 'of the cuid'), ('s2', NULL, 'of none'), ('s3', 'x', 'of an unclassifiable id'),
  ('s4', :'ksuid', 'stray here');
INSERT INTO run_ops_new.step (id, "runId", note) VALUES ('s1', :'ksuid', 'of the ksuid'), ('s5', NULL, 'none, a stray');
INSERT INTO tag VALUES ('a', 1, 'only here'), ('b', 1, 'here, older'), ('b', 2, 'only here');
INSERT INTO run_ops_new.tag (id, n, note) VALUES ('b', 1, 'there, newer'), ('c', 1, 'only there');

-- Split off: this database alone, whatever the shape.
SELECT * FROM run_ops.run ORDER BY note;
SELECT * FROM run_ops.step ORDER BY note;
SELECT * FROM run_ops.tag ORDER BY id, n;
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run WHERE id = :'ksuid';
-- it is auto-updatable and locks as the table does
INSERT INTO run_ops.run VALUES ('x', 'through the view') ON CONFLICT (id) DO NOTHING;
UPDATE run_ops.run SET note = 'changed' WHERE id = 'x';
SELECT * FROM run_ops.run WHERE id = 'x' FOR UPDATE;
DELETE FROM run_ops.run WHERE id = 'x';

-- Split on: each row once, from the store where its id belongs; NULL and
-- unclassifiable anchors belong to legacy; with routing "store" the row of
-- "new" is shown for a key that both have.
SELECT run_ops.swap_views(true);
SELECT run_ops.split_enabled();
SELECT * FROM run_ops.run ORDER BY note;
SELECT * FROM run_ops.step ORDER BY note;
SELECT * FROM run_ops.tag ORDER BY id, n;
SELECT note FROM run_ops.run WHERE id IN (:'cuid', :'ksuid') ORDER BY note;
SELECT regexp_replace(pg_get_viewdef('run_ops.run'::regclass), '\mu\.', '', 'g') AS definition;
\d run_ops.run
SELECT rulename FROM pg_rules WHERE schemaname = 'run_ops' AND tablename = 'run';
SELECT c.oid::regclass AS view, obj_description(c.oid) FROM pg_class AS c
 WHERE relnamespace = 'run_ops'::regnamespace AND relname IN ('run', 'step', 'tag') ORDER BY relname;
-- what PostgreSQL would silently not honour through a union, it refuses
INSERT INTO run_ops.run VALUES ('x') ON CONFLICT (id) DO NOTHING;

-- Strays are not shown; they can be found.
SELECT * FROM run_ops.find_strays('run_ops.run') ORDER BY store, key;
SELECT * FROM run_ops.find_strays('run_ops.step') ORDER BY store, key;
SELECT * FROM run_ops.find_strays('run_ops.tag') ORDER BY store, key;
SELECT * FROM run_ops.find_strays('pg_class');

-- locate: where is the row of an id?
SELECT run_ops.locate('run_ops.run', :'ksuid') AS ksuid, run_ops.locate('run_ops.run', :'cuid') AS cuid,
       run_ops.locate('run', 'run_37dGaqAyHnlXVhBy5x4pckK50bB') AS missing, run_ops.locate('run', NULL) AS nothing;
SELECT run_ops.locate('run_ops.run', 'run_abcdefghijkmnpqrstuvw');
SELECT run_ops.locate('run_ops.run', repeat('x', 10000));
SELECT run_ops.locate('run_ops.tag', 'b');
SELECT run_ops.locate('run_ops.store', 'b');

-- The decision table.  Its split-off rows know one store, which is this
-- database.  No time can be read from its unclassifiable id, so that one is
-- never past its retention.
CREATE TABLE vector (n int, split text, id_shape text, in_new text, in_legacy text, past_retention text, result text);
\copy vector FROM 'test/data/read_through_vectors.csv' (FORMAT csv, HEADER)
UPDATE vector SET in_legacy = in_new, result = CASE in_new WHEN 'hit' THEN 'legacy' ELSE 'not-found' END WHERE split = 'off';
UPDATE vector SET result = 'legacy' WHERE result = 'legacy-replica';
UPDATE vector SET result = 'not-found' WHERE id_shape = 'UNCLASSIFIABLE' AND result = 'past-retention';
CREATE FUNCTION located(v vector) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  id text := CASE v.id_shape WHEN 'NEW' THEN 'run_37dGaqAyHnlXVhBy5x4pckK50bA' WHEN 'LEGACY' THEN 'run_cl8dq15ad30lcaohivaab68x4'
                             ELSE 'run_xxxxxxxxxxxxxxxxxxxxxxxx' END;
BEGIN
  PERFORM run_ops.allow_strays();
  DELETE FROM run;
  DELETE FROM run_ops_new.run;
  INSERT INTO run SELECT id WHERE v.in_legacy = 'hit';
  INSERT INTO run_ops_new.run (id) SELECT id WHERE v.in_new = 'hit';
  RETURN run_ops.locate('run', id, CASE v.past_retention WHEN 'true' THEN interval '1 day' WHEN 'false' THEN interval '1000 years' END);
END $$;
SET client_min_messages = error;
SELECT run_ops.swap_views(split = 'on'), count(*),
       count(*) FILTER (WHERE located(vector) IS DISTINCT FROM result) AS wrong
  FROM vector WHERE split = 'on' GROUP BY split;
SELECT run_ops.swap_views(false);
SELECT count(*), count(*) FILTER (WHERE located(vector) IS DISTINCT FROM result) AS wrong FROM vector WHERE split = 'off';
RESET client_min_messages;

-- What is attached to another store cannot be detached while split is on.
SELECT run_ops.swap_views(true);
SELECT run_ops.detach_table('run');
SELECT run_ops.detach_store('new');
-- switching is one transaction
BEGIN;
SELECT run_ops.swap_views(false);
SELECT count(*) FROM run_ops.tag;
ROLLBACK;
SELECT count(*) FROM run_ops.tag;
-- a migration while split is on
ALTER TABLE tag ADD COLUMN colour text DEFAULT 'red';
SELECT 1 AS x FROM dblink('new', $$ ALTER TABLE tag ADD COLUMN colour text DEFAULT 'red' $$) AS t (x text);
SELECT run_ops.refresh_table('tag');
SELECT * FROM run_ops.tag ORDER BY id, n;
SELECT run_ops.swap_views(false);
SELECT run_ops.detach_store('new');
SELECT * FROM run_ops.tag ORDER BY id, n;
