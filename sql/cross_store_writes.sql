-- Transactions that write to more than one database are not atomic: each
-- database commits by itself.
\set name cross_store_writes
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TABLE run (id text PRIMARY KEY, note text);
CREATE TABLE note (note text);
SELECT 1 AS x FROM dblink('new', 'CREATE TABLE run (id text PRIMARY KEY, note text)') AS t (x text);
SELECT run_ops.attach_table('run', 'shape');
SELECT run_ops.swap_views(true);
\set cuid run_cl8dq15ad30lcaohivaab68x4
\set ksuid run_37dGaqAyHnlXVhBy5x4pckK50bA

-- By default there is a warning that names a table of each.
INSERT INTO run_ops.run VALUES (:'cuid', NULL), (:'ksuid', NULL);
DELETE FROM run_ops.run WHERE id = :'cuid';
DELETE FROM run_ops.run;
-- Refused before anything is committed:
SET run_ops_split.cross_store_writes = error;
INSERT INTO run_ops.run VALUES (:'cuid', NULL), (:'ksuid', NULL);
BEGIN;
INSERT INTO note VALUES ('control plane');
INSERT INTO run_ops.run VALUES (:'ksuid', NULL);
COMMIT;
-- also around the views
BEGIN;
INSERT INTO run_ops_new.run (id) VALUES (:'ksuid');
INSERT INTO note VALUES ('control plane');
COMMIT;
SELECT (SELECT count(*) FROM run_ops_new.run) AS new, (SELECT count(*) FROM run) AS legacy, (SELECT count(*) FROM note) AS notes;
-- One database in a transaction is fine; so are reads, temporary tables, and
-- what was rolled back in the store.
CREATE TEMP TABLE mine (id text);
BEGIN;
INSERT INTO mine SELECT id FROM run_ops.run;
INSERT INTO run_ops.run VALUES (:'ksuid', NULL);
SELECT count(*) FROM note;
COMMIT;
BEGIN;
SAVEPOINT s;
UPDATE run_ops.run SET note = 'undone';
ROLLBACK TO s;
INSERT INTO run_ops.run VALUES (:'cuid', NULL);
COMMIT;
BEGIN;
SAVEPOINT s;
INSERT INTO note VALUES ('undone');
ROLLBACK TO s;
INSERT INTO mine SELECT id FROM run_ops.run;
UPDATE run_ops.run SET note = 'alone' WHERE id = :'ksuid';
COMMIT;
-- an UPDATE that the store makes by itself
BEGIN;
UPDATE run_ops_new.run SET note = 'x' WHERE id = :'ksuid';
INSERT INTO note VALUES ('control plane');
COMMIT;
-- what finds no row in the store does not write to it, as when a row of no
-- shape is looked for in every store
CREATE TABLE tag (id text PRIMARY KEY, note text);
SELECT 1 AS x FROM dblink('new', 'CREATE TABLE tag (id text PRIMARY KEY, note text)') AS t (x text);
SELECT run_ops.attach_table('tag', 'store');
INSERT INTO tag VALUES ('here', 'old');
INSERT INTO run_ops_new.tag VALUES ('there', 'old');
UPDATE run_ops.tag SET note = 'new' WHERE id = 'here' RETURNING *;
BEGIN;
UPDATE run_ops_new.tag SET note = 'none' WHERE id = 'nowhere';
UPDATE tag SET note = 'newer';
COMMIT;
UPDATE run_ops.tag SET note = 'newest' RETURNING *;
BEGIN;
WITH u AS (UPDATE run_ops_new.tag SET note = 'x' WHERE id = 'there') SELECT;
INSERT INTO note VALUES ('control plane');
COMMIT;
SELECT * FROM run_ops.tag ORDER BY id;
-- Accepted: a matter of the transaction.
BEGIN;
SET LOCAL run_ops_split.cross_store_writes = allow;
UPDATE run_ops.run SET note = 'both';
COMMIT;
SELECT * FROM run_ops.run ORDER BY id;

-- However rows are written, and whatever is counted of it: each command beside
-- a write to the store, in a session that has loaded the library before, and in
-- one that loads it only then.
CREATE TABLE parted (n int) PARTITION BY RANGE (n);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE FOREIGN TABLE parted_high PARTITION OF parted FOR VALUES FROM (10) TO (20) SERVER new;
SELECT 1 AS x FROM dblink('new', 'CREATE TABLE parted_high (n int)') AS t (x text);
CREATE VIEW noted AS SELECT note FROM note;
CREATE TABLE ruled (n int);
CREATE RULE also AS ON INSERT TO ruled DO ALSO UPDATE note SET note = 'also';
CREATE FUNCTION undone() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO note VALUES ('undone');
  RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
  NULL;
END $$;
CREATE PROCEDURE in_a_loop() LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
  FOR r IN INSERT INTO note VALUES ('a'), ('b') RETURNING note LOOP
    EXIT;
  END LOOP;
END $$;
CREATE FUNCTION in_sql() RETURNS SETOF text LANGUAGE sql AS $$ INSERT INTO note VALUES ('a'), ('b') RETURNING note $$;
CREATE FUNCTION into_the_store() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE run_ops_new.tag SET note = note WHERE id = 'there';
  RETURN NEW;
END $$;
CREATE TABLE through (n int);
CREATE TRIGGER through BEFORE INSERT ON through FOR EACH ROW EXECUTE FUNCTION into_the_store();
SELECT format('dbname=%s host=%s port=%s user=%s options=''-c session_preload_libraries= -c track_counts=off -c run_ops_split.cross_store_writes=error''',
              current_database(), :'legacy_host', :'legacy_port', current_user) AS here \gset
CREATE FUNCTION written_beside(here text, command text, loaded boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text := '-';
BEGIN
  PERFORM dblink_connect('other', here), dblink_exec('other', CASE WHEN loaded THEN 'LOAD ''run_ops_split''' ELSE 'SET work_mem = 4096' END);
  BEGIN
    PERFORM dblink_exec('other', format('BEGIN; %s; UPDATE run_ops_new.tag SET note = note WHERE id = ''there''; COMMIT', command));
  EXCEPTION WHEN SQLSTATE 'RO012' THEN
    GET STACKED DIAGNOSTICS result = PG_EXCEPTION_DETAIL;
    result := substring(result FROM 'and to table "public.(.*)" of this database');
  END;
  PERFORM dblink_disconnect('other');
  RETURN result;
END $$;
INSERT INTO note VALUES ('control plane');
SELECT command, written_beside(:'here', command, true) AS loaded, written_beside(:'here', command, false) AS late
  FROM unnest(ARRAY[
    'SELECT', 'SELECT FROM note FOR UPDATE', 'LOCK TABLE note IN EXCLUSIVE MODE', 'ANALYZE note',
    'INSERT INTO note VALUES (1)', 'INSERT INTO note SELECT 1 WHERE false', 'UPDATE note SET note = note', 'UPDATE note SET note = note WHERE false',
    'DELETE FROM note WHERE note = ''control plane''', 'INSERT INTO noted VALUES (1)',
    'INSERT INTO ruled SELECT 1 WHERE false',
    'WITH i AS (INSERT INTO note VALUES (2)) SELECT', 'WITH i AS (UPDATE run_ops_new.tag SET note = note) SELECT',
    'INSERT INTO parted VALUES (1)', 'INSERT INTO parted VALUES (11)',
    'COPY note FROM PROGRAM ''echo 1''', 'COPY note FROM PROGRAM ''true''', 'COPY through FROM PROGRAM ''echo 1''', 'TRUNCATE note',
    'CREATE TABLE made AS SELECT 1 AS n', 'CREATE TABLE made AS SELECT 1 AS n LIMIT 0; DROP TABLE made', 'SELECT 1 AS n INTO made',
    'EXPLAIN (ANALYZE) CREATE TABLE made AS SELECT 1 AS n', 'CREATE TABLE made AS SELECT 1 AS n; DROP TABLE made',
    'DROP TABLE IF EXISTS made; CREATE TABLE made (n int)', 'INSERT INTO made SELECT 1 WHERE false', 'ALTER TABLE made ADD COLUMN IF NOT EXISTS m int DEFAULT 1', 'DROP TABLE IF EXISTS made',
    'EXPLAIN (ANALYZE) INSERT INTO note VALUES (1)', 'EXPLAIN INSERT INTO note VALUES (1)',
    'CREATE TEMP TABLE mine AS SELECT 1 AS n; INSERT INTO mine VALUES (2); COPY mine FROM PROGRAM ''echo 1''; TRUNCATE mine',
    'SELECT undone()', 'CALL in_a_loop()', 'SELECT in_sql() LIMIT 1', 'DO ''BEGIN INSERT INTO note VALUES (1); END''',
    'SAVEPOINT s; INSERT INTO note VALUES (1); ROLLBACK TO s', 'SAVEPOINT s; INSERT INTO note VALUES (1); RELEASE s',
    'DROP MATERIALIZED VIEW IF EXISTS matter; CREATE MATERIALIZED VIEW matter AS SELECT 1 AS n', 'REFRESH MATERIALIZED VIEW matter', 'SELECT nextval(''run_ops.cache_epoch_value'')']) WITH ORDINALITY AS c (command, ord)
 ORDER BY ord;
-- also into a table that is dropped after that
BEGIN;
INSERT INTO parted_high VALUES (12);
DROP FOREIGN TABLE parted_high;
INSERT INTO note VALUES ('control plane');
COMMIT;

-- A deferred constraint that fails at COMMIT fails before the store commits.
CREATE TABLE child (id text REFERENCES run DEFERRABLE INITIALLY DEFERRED);
SET run_ops_split.cross_store_writes = allow;
BEGIN;
INSERT INTO child VALUES ('nowhere');
UPDATE run_ops.run SET note = 'too late' WHERE id = :'ksuid';
COMMIT;
SELECT note FROM run_ops.run WHERE id = :'ksuid';

-- After a crash between two commits: rows that refer to nothing.
CREATE TABLE step (id text PRIMARY KEY, "runId" text REFERENCES run);
SELECT 1 AS x FROM dblink('new', 'CREATE TABLE step (id text PRIMARY KEY, "runId" text)') AS t (x text);
SELECT run_ops.attach_table('step', 'anchor', 'runId');
INSERT INTO run_ops_new.step VALUES ('s1', :'ksuid'), ('s2', 'run_37dGaqAyHnlXVhBy5x4pckK50bB');
INSERT INTO step VALUES ('s3', :'cuid');
SELECT * FROM run_ops.relation_between;
SELECT * FROM run_ops.in_doubt();
