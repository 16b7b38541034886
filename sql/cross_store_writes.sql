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
