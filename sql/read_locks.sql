-- Row locks through a view. With split on the view is a union, where
-- PostgreSQL would run FOR UPDATE and lock nothing. What leaf_locks does not
-- rewrite is refused, and lock_row() locks the row in its store.
\set name read_locks
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TABLE run (id text PRIMARY KEY, note text);
CREATE TABLE step (id text PRIMARY KEY, "runId" text);
CREATE TABLE tag (id text PRIMARY KEY, note text);
CREATE TABLE link (a text, b text, PRIMARY KEY (a, b));
SELECT 1 AS x FROM dblink('new', $$
  CREATE TABLE run (id text PRIMARY KEY, note text);
  CREATE TABLE step (id text PRIMARY KEY, "runId" text);
  CREATE TABLE tag (id text PRIMARY KEY, note text);
  CREATE TABLE link (a text, b text, PRIMARY KEY (a, b)) $$) AS t (x text);
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'),
  run_ops.attach_table('tag', 'store'), run_ops.attach_table('link', 'anchor', 'a');
\set cuid run_cl8dq15ad30lcaohivaab68x4
\set ksuid run_37dGaqAyHnlXVhBy5x4pckK50bA
INSERT INTO run VALUES (:'cuid', 'legacy'), (:'ksuid', 'stray');
INSERT INTO run_ops_new.run VALUES (:'ksuid', 'new');
INSERT INTO step VALUES ('s1', :'cuid'), ('s2', :'ksuid');
INSERT INTO run_ops_new.step VALUES ('s2', :'ksuid');
INSERT INTO link VALUES (:'cuid', 't1');
INSERT INTO tag VALUES ('t1', 'here'), ('t2', 'here, older');
INSERT INTO run_ops_new.tag VALUES ('t2', 'there, newer');

-- Another session of each store says which rows it could not lock.
SELECT format('host=%s port=%s dbname=%s user=%s', :'HOST', :'PORT', :'DBNAME', :'USER') AS legacy_server \gset
CREATE FUNCTION locked(server text, query text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT id FROM dblink(server, 'SELECT id FROM ' || query) AS a (id text)
  EXCEPT SELECT id FROM dblink(server, 'SELECT id FROM ' || query || ' FOR UPDATE SKIP LOCKED') AS f (id text)
$$;
CREATE VIEW locks AS
  SELECT store, t.name AS "table", locked(server, t.name) AS id
    FROM (VALUES ('legacy', current_setting('app.legacy')), ('new', 'new')) AS s (store, server),
         (VALUES ('run'), ('step'), ('tag')) AS t (name);
SET app.legacy = :'legacy_server';

-- Split off: the view is the table, also for locks.
BEGIN;
SELECT * FROM run_ops.run WHERE id = :'cuid' FOR UPDATE;
SELECT run_ops.lock_row('run_ops.step', 's1');
SELECT * FROM locks;
COMMIT;

SELECT run_ops.swap_views(true);

-- Split on: refused when the statement is planned, whatever the strength.
-- leaf_locks.sql shows what works otherwise.
SET run_ops_split.leaf_locks = off;
SELECT * FROM run_ops.run FOR UPDATE;
SELECT * FROM run_ops.run WHERE id = :'cuid' FOR NO KEY UPDATE;
SELECT * FROM run_ops.step FOR SHARE;
SELECT * FROM run_ops.tag FOR KEY SHARE;
SELECT * FROM run_ops.run FOR UPDATE SKIP LOCKED;
EXPLAIN SELECT * FROM run_ops.run FOR UPDATE;
PREPARE locking (text) AS SELECT * FROM run_ops.run WHERE id = $1 FOR UPDATE;
EXECUTE locking (:'cuid');
-- also where the view is not seen at first
CREATE VIEW outer_view AS SELECT r.*, s.id AS step FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id;
SELECT * FROM outer_view FOR UPDATE;
SELECT * FROM (SELECT id FROM run_ops.run ORDER BY id LIMIT 1) AS q FOR UPDATE;
SELECT * FROM (SELECT id FROM run_ops.tag OFFSET 0) AS q FOR UPDATE;
SELECT * FROM link LEFT JOIN run_ops.run ON id = a FOR UPDATE OF run;
SET run_ops_split.seam_pruning = off;
SELECT * FROM run_ops.run FOR UPDATE;
RESET run_ops_split.seam_pruning;
RESET run_ops_split.leaf_locks;

-- Locks on other tables beside the view work, and so do writes that read it.
SELECT l.a FROM link AS l JOIN run_ops.run AS r ON r.id = l.a JOIN run_ops.tag AS t ON t.id = l.b FOR UPDATE OF l;
WITH r AS (SELECT * FROM run_ops.run) SELECT l.a FROM link AS l JOIN r ON r.id = l.a FOR UPDATE;
SELECT l.a FROM link AS l WHERE EXISTS (SELECT FROM run_ops.run AS r WHERE r.id = l.a) FOR UPDATE;
UPDATE link SET b = r.note FROM run_ops.run AS r WHERE r.id = link.a;
DELETE FROM link USING run_ops.tag AS t WHERE t.id = link.a;

-- lock_row() says whether there is such a row, and locks it where it lives.
BEGIN;
SELECT run_ops.lock_row('run_ops.run', :'cuid') AS cuid, run_ops.lock_row('run_ops.run', :'ksuid', 'no key update') AS ksuid;
SELECT run_ops.lock_row('run_ops.step', 's1') AS s1, run_ops.lock_row('run_ops.step', 's2') AS s2;
SELECT run_ops.lock_row('run_ops.tag', 't1', 'share') AS t1, run_ops.lock_row('run_ops.tag', 't2', 'key share') AS t2;
SELECT * FROM locks;
COMMIT;
SELECT * FROM locks;
SELECT run_ops.lock_row('run_ops.run', 'run_cl8dq15ad30lcaohivaab68x9') AS absent, run_ops.lock_row('run_ops.run', NULL) AS null_id;
SELECT run_ops.lock_row('run_ops.run', :'cuid', 'update nowait');
SELECT run_ops.lock_row('run_ops.run', :'cuid', 'update', 'later');
SELECT run_ops.lock_row('run_ops.run', :'cuid', wait => NULL);
-- what another session has locked, in either store, and with which strength
BEGIN;
SELECT dblink_connect('other', :'legacy_server') \gset
SELECT dblink_exec('other', 'BEGIN') \gset
SELECT * FROM dblink('other', format('SELECT run_ops.lock_row(''run_ops.run'', %L), run_ops.lock_row(''run_ops.run'', %L, ''key share'')', :'cuid', :'ksuid')) AS o (cuid boolean, ksuid boolean);
SELECT run_ops.lock_row('run_ops.run', :'cuid', wait => 'skip locked') AS cuid,
  run_ops.lock_row('run_ops.run', :'ksuid', 'update', 'skip locked') AS ksuid,
  run_ops.lock_row('run_ops.run', :'ksuid', 'no key update', 'skip locked') AS ksuid_weaker;
SAVEPOINT s;
SELECT run_ops.lock_row('run_ops.run', :'cuid', 'share', 'nowait');
ROLLBACK TO s;
SELECT run_ops.lock_row('run_ops.run', :'ksuid', 'update', 'nowait');
ROLLBACK TO s;
SELECT run_ops.lock_row('run_ops.run', :'ksuid', 'share', 'nowait') AS ksuid_weaker;
ROLLBACK;
SELECT dblink_disconnect('other') \gset
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM run_ops_new.run ORDER BY id LIMIT 2 FOR KEY SHARE SKIP LOCKED;
SELECT run_ops.lock_row('run_ops.run', :'cuid', NULL);
SELECT run_ops.lock_row('run_ops.link', :'cuid');
SELECT run_ops.lock_row('pg_class', :'cuid');

-- As with FOR UPDATE it takes the rights on the view, and none on what is behind it.
CREATE ROLE regress_read_locks;
GRANT USAGE ON SCHEMA run_ops TO regress_read_locks;
GRANT SELECT ON run_ops.run TO regress_read_locks;
SET ROLE regress_read_locks;
SELECT run_ops.lock_row('run_ops.run', :'ksuid');
RESET ROLE;
GRANT UPDATE (note) ON run_ops.run TO regress_read_locks;
SET ROLE regress_read_locks;
BEGIN;
SELECT run_ops.lock_row('run_ops.run', :'cuid') AS cuid, run_ops.lock_row('run_ops.run', :'ksuid') AS ksuid;
RESET ROLE;
SELECT * FROM locks;
COMMIT;
SET SESSION AUTHORIZATION regress_read_locks;
SELECT run_ops.lock_row('run_ops.tag', 't1');
RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_read_locks;
DROP ROLE regress_read_locks;
