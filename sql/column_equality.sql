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

-- ON CONFLICT finds the row of its store under any spelling.
INSERT INTO run_ops.label VALUES ('Here', 1);
INSERT INTO run_ops_new.label VALUES ('There', 1);
INSERT INTO run_ops.label VALUES ('HERE', 2), ('other', 2) ON CONFLICT (name) DO UPDATE SET n = EXCLUDED.n RETURNING *;
INSERT INTO run_ops.label VALUES ('OTHER', 3) ON CONFLICT DO NOTHING RETURNING *;
UPDATE run_ops.label SET n = 2 WHERE name = 'there' RETURNING *;
SELECT * FROM run_ops.label ORDER BY name;

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
INSERT INTO run_ops.use VALUES ('00000000-0000-0000-0000-000000000001', 'there', 'a')
  ON CONFLICT (id) DO UPDATE SET label = EXCLUDED.label WHERE use.code = EXCLUDED.code;
SELECT * FROM run_ops.use ORDER BY id;

\c postgres
DROP DATABASE regress_column_equality;
