-- Values are equal when the unique index of their column says so: with a key
-- of type citext, Abc and ABC are one row, whichever store it is in.
\set name column_equality
\i test/fixtures/two_stores.sql
SET client_min_messages = warning;
CREATE PROCEDURE in_store(command text) LANGUAGE plpgsql AS $$
BEGIN PERFORM dblink_exec('new', command); END $$;
CREATE EXTENSION citext;
CALL in_store('SET client_min_messages = warning; CREATE EXTENSION citext');
CREATE DOMAIN label_name AS citext CHECK (length(VALUE) < 10);
CALL in_store('CREATE DOMAIN label_name AS citext CHECK (length(VALUE) < 10)');
CREATE TABLE label (name label_name PRIMARY KEY, n int);
CALL in_store('CREATE TABLE label (name label_name PRIMARY KEY, n int)');
CREATE TABLE use (id uuid PRIMARY KEY, label citext, code char(4));
ALTER TABLE use ADD FOREIGN KEY (label) REFERENCES label NOT VALID;
CALL in_store('CREATE TABLE use (id uuid PRIMARY KEY, label citext, code char(4))');
CREATE TABLE odd (place point);
SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('label', 'store'), run_ops.attach_table('use', 'store');
SELECT run_ops.swap_views(true);
SET run_ops_split.cross_store_writes = allow;

SELECT a.attname, a.atttypid::regtype, run_ops.equality_operator(a.attrelid, a.attname), run_ops.compared_type(a.attrelid, a.attname)
  FROM pg_attribute AS a WHERE a.attrelid IN ('label'::regclass, 'use'::regclass) AND a.attnum > 0 ORDER BY a.attrelid, a.attnum;
SELECT run_ops.equality_operator('odd', 'place');
SELECT run_ops.equality_operator('odd', 'nothing');

-- Upsert finds the row under any spelling.
INSERT INTO run_ops.label VALUES ('Here', 1);
INSERT INTO run_ops_new.label VALUES ('There', 1);
SELECT run_ops.upsert('run_ops.label', '{"name": "HERE", "n": 2}'), run_ops.upsert('run_ops.label', '{"name": "there", "n": 2}'),
       run_ops.upsert('run_ops.label', '{"name": "other", "n": 2}'), run_ops.upsert('run_ops.label', '{"name": "OTHER"}');
SELECT * FROM run_ops.label ORDER BY name;
-- and waits for who upserts the same key, under any spelling
BEGIN;
SELECT run_ops.upsert('run_ops.label', '{"name": "Other", "n": 3}');
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
SELECT run_ops.upsert('run_ops.label', '{"name": "oTHER", "n": 3}');
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
COMMIT;

-- So do those that look for a row.
\set VERBOSITY terse
SELECT run_ops.locate('run_ops.label', 'hERE'), run_ops.locate('run_ops.label', 'THERE'), run_ops.locate('run_ops.label', 'nowhere');
-- Of a key in two stores, the row of "new" is shown.
INSERT INTO run_ops_new.label VALUES ('here', 3);
SELECT * FROM run_ops.label ORDER BY name;
SELECT * FROM run_ops.find_strays('run_ops.label');
INSERT INTO run_ops.use VALUES ('00000000-0000-0000-0000-000000000001', 'THERE', 'a'), ('00000000-0000-0000-0000-000000000002', 'gone', 'b');
INSERT INTO run_ops_new.use VALUES ('00000000-0000-0000-0000-000000000003', 'here', 'c'), ('00000000-0000-0000-0000-000000000004', 'Gone', 'd');
SELECT store, key, missing FROM run_ops.in_doubt() ORDER BY key;
-- An id as text is compared as what the column is.
SELECT run_ops.locate('run_ops.use', '00000000-0000-0000-0000-000000000001'), run_ops.locate('run_ops.use', '00000000-0000-0000-0000-000000000003');
SELECT run_ops.upsert('run_ops.use', '{"id": "00000000-0000-0000-0000-000000000001", "code": "a", "label": "there"}', '{code}');
SELECT * FROM run_ops.use ORDER BY id;

\c postgres
DROP DATABASE regress_column_equality;
