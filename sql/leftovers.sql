-- Rows that have moved to a store and are still in the local tables: nobody
-- notices them, and they go in batches.
\set name leftovers
\i test/fixtures/two_stores.sql
SET client_min_messages = warning;
SELECT run_ops.attach_store('new', 'new');
CREATE PROCEDURE in_store(command text) LANGUAGE plpgsql AS $$
BEGIN PERFORM dblink_exec('new', command); END $$;
-- A run has a key that only one run may have, and a parent; a step belongs to
-- a run, and names another step; a mark is without a shape and names a step; a
-- note is tied to a table that is not routed.
CREATE PROCEDURE on_both_sides(command text) LANGUAGE plpgsql AS $$
BEGIN EXECUTE command; PERFORM dblink_exec('new', command); END $$;
CALL on_both_sides($$
  CREATE TABLE run (id text PRIMARY KEY, key text UNIQUE, parent text, n int);
  CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL, after text, mark text, part int, UNIQUE ("runId", part));
  CREATE INDEX ON step (after); CREATE INDEX ON step (mark);
  CREATE TABLE mark (id text PRIMARY KEY, "runId" text);
  CREATE TABLE note (id text PRIMARY KEY, "runId" text NOT NULL, author int) $$);
CREATE TABLE author (id int PRIMARY KEY);
ALTER TABLE run ADD CONSTRAINT run_parent FOREIGN KEY (parent) REFERENCES run ON DELETE SET NULL;
ALTER TABLE step ADD CONSTRAINT step_run FOREIGN KEY ("runId") REFERENCES run ON DELETE CASCADE;
ALTER TABLE step ADD CONSTRAINT step_after FOREIGN KEY (after) REFERENCES step;
ALTER TABLE mark ADD CONSTRAINT mark_run FOREIGN KEY ("runId") REFERENCES run;
ALTER TABLE step ADD CONSTRAINT step_mark FOREIGN KEY (mark) REFERENCES mark;
ALTER TABLE note ADD CONSTRAINT note_author FOREIGN KEY (author) REFERENCES author ON DELETE SET NULL;
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'),
       run_ops.attach_table('mark', 'store'), run_ops.attach_table('note', 'anchor', 'runId');
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
SELECT run_ops.acknowledge('foreign key', 'note_author of public.note', 'few rows'),
       count(run_ops.acknowledge(g.gate, g.object, 'as it is')) FROM run_ops.check_split() AS g WHERE NOT g.ok AND (g.gate IN ('index', 'attached') OR g.object LIKE 'step_mark %');
CREATE FUNCTION new_id(n int) RETURNS text LANGUAGE sql RETURN 'run_' || lpad(n::text, 27, '0');
CREATE FUNCTION old_id(n int) RETURNS text LANGUAGE sql RETURN 'run_c' || lpad(n::text, 24, '0');
INSERT INTO author VALUES (1);

-- Rows with split off, NEW ones among them as after all had come home.
CREATE PROCEDURE with_leftovers() LANGUAGE plpgsql AS $$
BEGIN
  PERFORM run_ops.disable_split(repatriated => true);
  COMMIT;
  TRUNCATE run, step, mark, note;
  PERFORM dblink_exec('new', 'TRUNCATE run, step, mark, note');
  UPDATE run_ops.split_state SET superseded = true;
  INSERT INTO run SELECT old_id(i), 'old ' || i, NULL, i FROM generate_series(1, 3) AS i;
  INSERT INTO run SELECT new_id(i), 'key ' || i, CASE i WHEN 1 THEN NULL WHEN 2 THEN old_id(2) ELSE new_id(1) END, i FROM generate_series(1, 9) AS i;
  INSERT INTO mark VALUES ('mark 1', new_id(1)), ('mark 2', old_id(1));
  INSERT INTO step SELECT 'step ' || i, new_id(i), NULL, CASE i WHEN 1 THEN 'mark 1' WHEN 2 THEN 'mark 2' END, 1 FROM generate_series(1, 9) AS i;
  INSERT INTO step VALUES ('last', old_id(3), NULL, NULL, 1), ('next', new_id(3), 'last', NULL, 2), ('over', new_id(4), 'next', NULL, 2);
  INSERT INTO note SELECT 'note ' || i, new_id(i), 1 FROM generate_series(1, 9) AS i;
  PERFORM run_ops.enable_split();
END $$;
CREATE VIEW here AS
  SELECT (SELECT count(*) FROM run WHERE NOT run_ops.resides(id, 'legacy')) AS runs,
         (SELECT count(*) FROM step WHERE NOT run_ops.resides("runId", 'legacy')) AS steps,
         (SELECT count(*) FROM mark WHERE id = 'mark 1') AS marks, (SELECT count(*) FROM note) AS notes;
-- every foreign key holds, whatever is committed: else no dump could be restored
CREATE FUNCTION broken() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE f record; n bigint;
BEGIN
  FOR f IN SELECT * FROM run_ops.foreign_keys() LOOP
    EXECUTE format('SELECT count(*) FROM %s AS x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s)', f.child_table, f.present, f.parent_table, f.equal) INTO n;
    RETURN QUERY SELECT format('%s of %s: %s', f.conname, f.child_table, n) WHERE n > 0;
  END LOOP;
END $$;
-- the tables of the store have no foreign keys
SELECT count(run_ops.acknowledge(gate, object, 'as it is')) FROM run_ops.check_split() WHERE gate = 'guard' AND NOT ok;
SELECT run_ops.enable_split();
CALL with_leftovers();

-- Shaped rows are left.  Deleted are those without a shape, those tied to a
-- table that is not routed, and what refers to one of them ("step 1").
SELECT * FROM here;
SELECT broken();
SELECT (SELECT count(*) FROM run_ops.run) AS runs, (SELECT count(*) FROM run_ops.step) AS steps,
       (SELECT count(*) FROM run_ops.mark) AS marks, (SELECT count(*) FROM run_ops.note) AS notes;
SELECT object, ok, detail, hint FROM run_ops.check_split() WHERE gate = 'strays' AND object IN ('public.run', 'public.step', 'public.note') ORDER BY object;
SELECT count(*) FROM run_ops.find_strays('run');
SELECT run_ops.locate('run', new_id(1)), run_ops.locate('step', 'step 2');
SELECT view, store, finished, removed FROM run_ops.leftover ORDER BY view;

-- A unique value of a leftover is free, when the store's row has given it up,
-- and as well when not: each database keeps its own apart, as ever.
BEGIN;
UPDATE run_ops_new.run SET key = NULL WHERE id = new_id(5);
INSERT INTO run_ops.run VALUES (old_id(10), 'key 5', NULL, 10);
UPDATE run_ops.run SET key = 'key 6' WHERE id = old_id(10);
SELECT runs, steps, (SELECT count(*) FROM broken()) AS broken FROM here;
INSERT INTO run_ops.step VALUES ('step 7', old_id(10), NULL, NULL, 1);
SELECT runs, steps, (SELECT count(*) FROM broken()) AS broken FROM here;
-- also for a writer that fires no triggers
SET LOCAL session_replication_role = replica;
INSERT INTO run VALUES (old_id(11), 'key 8', NULL, 11);
SELECT runs, steps, (SELECT count(*) FROM broken()) AS broken FROM here;
ROLLBACK;
-- with the ways to insert that look for conflicts
BEGIN;
INSERT INTO run_ops.run VALUES (old_id(10), 'key 5', NULL, 10), (old_id(11), 'old 1', NULL, 11) ON CONFLICT DO NOTHING;
INSERT INTO run_ops.run VALUES (old_id(12), 'key 6', NULL, 12), (old_id(13), 'old 1', NULL, 13) ON CONFLICT (key) DO UPDATE SET n = EXCLUDED.n;
SELECT id, key, n FROM run WHERE n IN (10, 11, 12, 13) ORDER BY n;
ROLLBACK;

-- A leftover satisfies no foreign key.
INSERT INTO run_ops.run VALUES (old_id(12), NULL, new_id(1), 12);
UPDATE run_ops.run SET parent = new_id(1) WHERE id = old_id(1);
INSERT INTO run_ops.step VALUES ('first', old_id(1), 'step 3', NULL, 5);
INSERT INTO run_ops.mark VALUES ('mark 3', new_id(4));
INSERT INTO mark VALUES ('mark 3', new_id(4));

-- No foreign key reaches one: neither is it in the way of a delete, nor is it
-- changed by one, which the write lock would refuse.
BEGIN;
DELETE FROM run_ops.run WHERE id = old_id(2);  -- new 2 has it as parent, ON DELETE SET NULL
DELETE FROM run_ops.step WHERE id = 'last';    -- "next" is after it, NO ACTION
SELECT runs, steps, (SELECT count(*) FROM broken()) AS broken FROM here;
SELECT id, parent FROM run_ops.run WHERE id = new_id(2);
SELECT id, after FROM run_ops.step WHERE id IN ('next', 'over') ORDER BY id;
ROLLBACK;
BEGIN;
UPDATE run_ops.step SET id = 'final' WHERE id = 'last';
DELETE FROM run_ops.mark WHERE id = 'mark 2';
SELECT runs, steps, (SELECT count(*) FROM broken()) AS broken FROM here;
ROLLBACK;
-- a table that is not routed is not affected at all
BEGIN;
DELETE FROM author;
SELECT author, count(*) FROM run_ops.note GROUP BY author;
ROLLBACK;

-- The local tables are still not to be written.
UPDATE run SET n = 0 WHERE id = new_id(1);
INSERT INTO run VALUES (new_id(20), NULL, NULL, 20);
DELETE FROM step WHERE id = 'over';
SELECT id FROM run_ops.step WHERE id = 'over';

-- Without the triggers, constraints would see them again.  A gate says so, and one
-- call creates all of them.
DROP SCHEMA run_ops_leftovers CASCADE;
SELECT object, detail FROM run_ops.check_split() WHERE gate = 'view' AND NOT ok ORDER BY object;
SELECT substring(hint FROM 'SELECT .*;') AS hint FROM run_ops.check_split() WHERE gate = 'view' AND NOT ok ORDER BY object LIMIT 1 \gset
:hint
ALTER TABLE step DISABLE TRIGGER "0_run_ops_refers";
SELECT object, detail, hint FROM run_ops.check_split() WHERE gate = 'view' AND NOT ok;
SELECT run_ops.refresh_table('run_ops.step');
SELECT object, detail FROM run_ops.check_split() WHERE gate = 'view' AND NOT ok;

-- They go in batches, those that refer to others first.
SELECT run_ops.remove_leftovers(0);
SELECT * FROM run_ops.remove_leftovers(4);
SELECT broken();
SELECT operation, object, store, rows_done, finished FROM run_ops.stat_progress ORDER BY object;
DELETE FROM run_ops.step WHERE "runId" = new_id(9);
DELETE FROM run_ops.run WHERE id = new_id(9);
SELECT * FROM run_ops.in_doubt();  -- what is left of them here is no row in doubt
SELECT * FROM run_ops.remove_leftovers(100);
SELECT * FROM run_ops.remove_leftovers(100);
-- What the store does not have was deleted there or lost: the operator says.
SELECT * FROM run_ops.remove_leftovers(100);
SELECT * FROM run_ops.remove_leftovers(100, deleted => true);
SELECT * FROM run_ops.remove_leftovers(100, deleted => true);
-- then the triggers of one table after the other
SELECT * FROM run_ops.remove_leftovers(100);
SELECT tgrelid::regclass FROM pg_trigger WHERE tgname ~ '^(0_|~)run_ops' GROUP BY 1 ORDER BY 1;
SELECT (run_ops.remove_leftovers(100)).done FROM generate_series(1, 3);
SELECT * FROM here;
SELECT count(*) FROM run_ops.leftover;
SELECT to_regnamespace('run_ops_leftovers');
SELECT detail FROM run_ops.audit_log WHERE action = 'remove leftovers';
SELECT count(*) FROM run_ops.run;

-- A row that the write lock did not see is no leftover.
CALL with_leftovers();
ALTER TABLE run DISABLE TRIGGER run_ops_write_lock;
INSERT INTO run VALUES (new_id(20), 'by hand', NULL, 20);
ALTER TABLE run ENABLE ALWAYS TRIGGER run_ops_write_lock;
CREATE PROCEDURE remove_all(deleted boolean DEFAULT false) LANGUAGE plpgsql AS $$
BEGIN
  LOOP
    EXIT WHEN (SELECT r.done FROM run_ops.remove_leftovers(3, deleted) AS r);
  END LOOP;
END $$;
DELETE FROM run_ops.step WHERE "runId" = new_id(9);
DELETE FROM run_ops.run WHERE id = new_id(9);
DO $$ BEGIN PERFORM run_ops.remove_leftovers(100) FROM generate_series(1, 3); END $$;
SELECT id, key FROM run WHERE NOT run_ops.resides(id, 'legacy') ORDER BY id;
SELECT id FROM step WHERE NOT run_ops.resides("runId", 'legacy') ORDER BY id;
SELECT * FROM run_ops.remove_leftovers(100);
INSERT INTO run_ops.run VALUES (new_id(20), 'by hand', NULL, 20);
DELETE FROM step WHERE "runId" = new_id(9); -- by hand as well, as that row is known to be old
DELETE FROM run WHERE id = new_id(9);
CALL remove_all();
SELECT * FROM here;

-- Nor is one removed that a row refers to which stays.
CALL with_leftovers();
SET session_replication_role = replica;
INSERT INTO step VALUES ('left behind', old_id(1), 'next', NULL, 7);
RESET session_replication_role;
DO $$ BEGIN PERFORM run_ops.remove_leftovers(100) FROM generate_series(1, 3); END $$;
SELECT * FROM here;
SELECT * FROM run_ops.remove_leftovers(100);
UPDATE run_ops.step SET after = NULL WHERE id = 'left behind';
CALL remove_all();
SELECT * FROM here;
-- before the switch that is an error of the switch
UPDATE run_ops.step SET part = 9 WHERE id = 'left behind';
SELECT run_ops.disable_split(repatriated => true);
INSERT INTO step VALUES ('left behind too', old_id(1), 'next', NULL, 8);
SELECT run_ops.enable_split();
DELETE FROM step WHERE id = 'left behind too';
INSERT INTO step VALUES ('left behind too', old_id(1), NULL, 'mark 1', 8);
SELECT run_ops.enable_split();
DELETE FROM step WHERE id = 'left behind too';

-- The ways back while there are any.  Home again: they are removed, and the
-- store's rows come.
CALL with_leftovers();
UPDATE run_ops.run SET n = 100 WHERE id = new_id(1);
DELETE FROM run_ops.step WHERE "runId" = new_id(9);
DELETE FROM run_ops.run WHERE id = new_id(9);
SELECT * FROM run_ops.repatriate(100);
SELECT * FROM here;
SELECT run_ops.disable_split(repatriated => true);
SELECT * FROM run_ops.remove_leftovers(100, deleted => true);
SELECT run_ops.disable_split(repatriated => true);
SELECT n, count(*) FROM run_ops.run WHERE id IN (new_id(1), new_id(9)) GROUP BY n;
SELECT count(*), to_regnamespace('run_ops_leftovers') FROM run_ops.leftover;
-- with a pass
CALL with_leftovers();
UPDATE run_ops.run SET n = 100 WHERE id = new_id(1);
DELETE FROM run_ops.step WHERE "runId" = new_id(9);
DELETE FROM run_ops.run WHERE id = new_id(9);
CREATE PROCEDURE repatriate_all() LANGUAGE plpgsql AS $$
BEGIN
  LOOP
    EXIT WHEN (SELECT r.done FROM run_ops.repatriate(100) AS r);
    COMMIT;
  END LOOP;
END $$;
CALL repatriate_all();
CALL remove_all(deleted => true);
CALL repatriate_all();
SELECT run_ops.disable_split(repatriated => true);
SELECT n, count(*) FROM run_ops.run WHERE id IN (new_id(1), new_id(9)) GROUP BY n;
SELECT broken();
-- plainly, when the store has no row any more: deleted rows stay deleted
CALL with_leftovers();
SELECT run_ops.disable_split();
CALL in_store('DELETE FROM note; DELETE FROM mark');
DELETE FROM run_ops.step WHERE NOT run_ops.resides("runId", 'legacy');
DELETE FROM run_ops.run WHERE NOT run_ops.resides(id, 'legacy');
SELECT * FROM here;
SELECT run_ops.disable_split();
CALL remove_all(deleted => true);
SELECT run_ops.disable_split();
SELECT * FROM here;
SELECT count(*) FROM run_ops.run;
SELECT run_ops.enable_split();
-- forced: they are as out of sight as the rows of the store, until that is back
CALL with_leftovers();
UPDATE run_ops.run SET n = 100 WHERE id = new_id(1);
SELECT run_ops.disable_split(force => true);
SELECT count(*) FROM run_ops.run;
SELECT run_ops.enable_split();
SELECT count(*), max(n) FROM run_ops.run;

-- A migration that renames what a guard looks at.
CALL with_leftovers();
CALL on_both_sides('ALTER TABLE run RENAME key TO label');
SELECT run_ops.refresh_table('run_ops.run');
INSERT INTO run_ops.run VALUES (old_id(10), 'key 5', NULL, 10);
SELECT runs FROM here;
CALL on_both_sides('ALTER TABLE run RENAME label TO key');
SELECT run_ops.refresh_table('run_ops.run');

-- The extension stays until they are gone, whatever would drop it, in a session
-- that knows nothing of it.
\set ECHO queries
SELECT format('ALTER DATABASE %I RESET session_preload_libraries', current_database()) \gexec
\c
SET client_min_messages = error;
DROP EXTENSION run_ops_split CASCADE;
\c
SET client_min_messages = error;
DROP EXTENSION postgres_fdw CASCADE;
\c
SET client_min_messages = error;
DROP EXTENSION IF EXISTS dblink, run_ops_split CASCADE;
\c
SET client_min_messages = error;
DROP SCHEMA run_ops CASCADE;
\c
SET client_min_messages = error;
DO $$ BEGIN EXECUTE concat('DROP EXTENSION run_ops', '_split CASCADE'); END $$;
CREATE ROLE regress_leftovers SUPERUSER;
UPDATE pg_extension SET extowner = 'regress_leftovers'::regrole WHERE extname = 'run_ops_split';
UPDATE pg_shdepend SET refobjid = 'regress_leftovers'::regrole WHERE classid = 'pg_extension'::regclass AND deptype = 'o'
   AND objid = (SELECT oid FROM pg_extension WHERE extname = 'run_ops_split');
INSERT INTO pg_shdepend SELECT d.oid, 'pg_extension'::regclass, e.oid, 0, 'pg_authid'::regclass, 'regress_leftovers'::regrole, 'o'
  FROM pg_database AS d, pg_extension AS e WHERE d.datname = current_database() AND e.extname = 'run_ops_split'
   AND NOT EXISTS (SELECT FROM pg_shdepend AS s WHERE s.classid = 'pg_extension'::regclass AND s.objid = e.oid AND s.dbid = d.oid);
\c
SET client_min_messages = error;
DROP OWNED BY regress_leftovers CASCADE;
\set ECHO all
DELETE FROM pg_shdepend WHERE refobjid = 'regress_leftovers'::regrole;
UPDATE pg_extension SET extowner = current_user::regrole WHERE extname = 'run_ops_split';
DROP ROLE regress_leftovers;
-- another one does not, nor a schema
CREATE EXTENSION tablefunc;
DROP EXTENSION tablefunc /* not run_ops_split */;
CREATE SCHEMA run_ops_split;
DROP SCHEMA run_ops_split;
SELECT run_ops.guard_drop();
SELECT count(*) > 0 AS still_here FROM run_ops.leftover;
SELECT run_ops.disable_split(force => true);
DROP EXTENSION run_ops_split CASCADE;
SELECT count(*) FROM run;
