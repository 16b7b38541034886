-- Writes through the views: each row goes to the one store that owns it.
\set name write_routing
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
-- the store's side of a table, by SQL over there
CREATE PROCEDURE in_store(command text) LANGUAGE plpgsql AS $$
BEGIN PERFORM dblink_exec('new', command); END $$;
CREATE TABLE run (id text PRIMARY KEY, env text NOT NULL, note text DEFAULT 'none', n int DEFAULT 0 CHECK (n < 100));
CALL in_store('CREATE TABLE run (n int DEFAULT 0 CHECK (n < 100), id text PRIMARY KEY, env text NOT NULL, note text DEFAULT ''none'')');
CREATE TABLE step (id text PRIMARY KEY, "runId" text, note text);
CALL in_store('CREATE TABLE step (id text PRIMARY KEY, "runId" text, note text)');
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId');
SELECT run_ops.swap_views(true);
-- many statements here write to both stores, which run_ops_split.cross_store_writes is about
SET run_ops_split.cross_store_writes = allow;
CREATE VIEW stored AS
  SELECT 'legacy' AS store, r.id, env, note, n FROM run AS r
  UNION ALL SELECT 'new', r.id, env, note, n FROM run_ops_new.run AS r;

\set cuid run_cl8dq15ad30lcaohivaab68x4
\set cuid2 run_cl8dq15ad30lcaohivaab68x5
\set ksuid run_37dGaqAyHnlXVhBy5x4pckK50bA
\set ksuid2 run_37dGaqAyHnlXVhBy5x4pckK50bB

-- INSERT: a column that is left out gets its default, NULL stays NULL.
INSERT INTO run_ops.run (id, env) VALUES (:'cuid', 'e1'), (:'ksuid', 'e1') RETURNING *;
INSERT INTO run_ops.run VALUES (:'cuid2', 'e2', NULL, 2), (:'ksuid2', 'e2', NULL, 2) RETURNING id, note, n;
SELECT * FROM stored ORDER BY id;

-- An id that tells nothing, or names a store that is not there, is refused.
INSERT INTO run_ops.run (id, env) VALUES ('run_short', 'e1');
INSERT INTO run_ops.run (id, env) VALUES ('run_0123456789abcdefghijklmna3', 'e1');
INSERT INTO run_ops.run (id, env) VALUES ('run_0123456789abcdefghijklmna2', 'e1');
INSERT INTO run_ops.run (env) VALUES ('e1');
-- ON CONFLICT and MERGE are refused by PostgreSQL itself: for a view before
-- version 17, then for the rule; in version 14 there is no MERGE.
\set VERBOSITY sqlstate
INSERT INTO run_ops.run (id, env) VALUES (:'cuid', 'e1') ON CONFLICT DO NOTHING;
\set VERBOSITY default
DO $$
BEGIN
  EXECUTE 'MERGE INTO run_ops.run AS r USING (VALUES (''x'')) AS x (id) ON r.id = x.id '
          'WHEN NOT MATCHED THEN INSERT (id, env) VALUES (x.id, ''e1'')';
EXCEPTION
  WHEN feature_not_supported OR syntax_error THEN RAISE NOTICE 'MERGE is refused';
END $$;

-- UPDATE and DELETE: counts and RETURNING over both stores.
UPDATE run_ops.run SET n = n + 10 WHERE env = 'e1' RETURNING id, n;
UPDATE run_ops.run SET note = upper(coalesce(note, 'was null')) RETURNING id, note;
-- of several changes of one row the first one counts, also if it changes nothing
UPDATE run_ops.run AS r SET n = n + 1 FROM (VALUES (1), (2)) AS twice WHERE r.id IN (:'cuid', :'ksuid') RETURNING r.id, n;
UPDATE run_ops.run AS r SET n = n FROM (VALUES (1), (2)) AS twice WHERE r.id IN (:'cuid', :'ksuid') RETURNING r.id, n;
-- several statements of one query on one view
WITH a AS (UPDATE run_ops.run SET note = note || ' a' WHERE env = 'e1' RETURNING id, note),
     b AS (UPDATE run_ops.run SET n = 7 WHERE env = 'e2' RETURNING id, n),
     c AS (INSERT INTO run_ops.run (id, env) VALUES ('run_cl8dq15ad30lcaohivaab68x6', 'e3'), ('run_37dGaqAyHnlXVhBy5x4pckK50bC', 'e3') RETURNING id)
SELECT a.id, note, b.id, n FROM a, b WHERE run_ops.owner_engine(a.id) = run_ops.owner_engine(b.id) ORDER BY a.id COLLATE "C";
SELECT * FROM stored ORDER BY id COLLATE "C";
DELETE FROM run_ops.run AS r USING (VALUES (1), (2)) AS twice WHERE r.env = 'e3' RETURNING r.id;
DELETE FROM run_ops.run WHERE env = 'e2' RETURNING id;
DELETE FROM run_ops.run WHERE env = 'none';
SELECT * FROM stored ORDER BY id;
-- the key may change, its residency may not
UPDATE run_ops.run SET id = :'cuid2' WHERE id = :'cuid';
UPDATE run_ops.run SET id = :'ksuid2' WHERE id = :'ksuid';
UPDATE run_ops.run SET id = :'ksuid' WHERE id = :'cuid2';
UPDATE run_ops.run SET id = 'short' WHERE id = :'cuid2';
SELECT store, id FROM stored ORDER BY id;

-- An anchor: a step follows its run. Without one, or with one that tells
-- nothing, it belongs to legacy.
INSERT INTO run_ops.step VALUES ('s1', :'cuid', NULL), ('s2', :'ksuid', NULL), ('s3', NULL, NULL), ('s4', 'x', NULL);
SELECT id FROM step ORDER BY id;
SELECT id FROM run_ops_new.step ORDER BY id;
UPDATE run_ops.step SET "runId" = :'cuid' WHERE id = 's2';
UPDATE run_ops.step SET "runId" = :'cuid' WHERE id IN ('s1', 's3');

-- The write lock: what goes around the view cannot become a stray.
INSERT INTO run (id, env) VALUES (:'ksuid', 'e1');
UPDATE run SET id = :'ksuid' WHERE id = :'cuid2';
SET session_replication_role = replica;
INSERT INTO run (id, env) VALUES (:'ksuid', 'e1');
RESET session_replication_role;
-- the same for the store, where the extension need not be
SELECT run_ops.store_write_lock('run_ops.run');
SELECT run_ops.store_write_lock('run_ops.step', 'a');
SELECT run_ops.store_write_lock('run_ops.run') AS lock \gset
CALL in_store(:'lock');
\set VERBOSITY sqlstate
INSERT INTO run_ops_new.run (id, env, n) VALUES (:'cuid', 'e1', 0);
INSERT INTO run_ops_new.run (id, env, n) VALUES ('run_0123456789abcdefghijklmna2', 'e1', 0);
\set VERBOSITY default
INSERT INTO run_ops_new.run (id, env, n) VALUES ('run_0123456789abcdefghijklmna1', 'e1', 0);
CALL in_store('ALTER TABLE run DROP CONSTRAINT run_ops_write_lock');
-- bringing rows back is a matter of one transaction, and of nobody else
BEGIN;
SELECT run_ops.allow_strays();
INSERT INTO run (id, env) VALUES (:'ksuid', 'e1');
ROLLBACK;
INSERT INTO run (id, env) VALUES (:'ksuid', 'e1');

-- Nothing is half-written.
TRUNCATE run, run_ops_new.run;
INSERT INTO run_ops.run (id, env, n) VALUES (:'cuid', 'e1', 1), (:'ksuid', 'e1', 100);
INSERT INTO run_ops.run (id, env, n) VALUES (:'ksuid', 'e1', 1), (:'cuid', 'e1', 100);
SELECT * FROM stored;
BEGIN;
INSERT INTO run_ops.run (id, env) VALUES (:'cuid', 'kept'), (:'ksuid', 'kept');
SAVEPOINT s;
INSERT INTO run_ops.run (id, env) VALUES (:'cuid2', 'undone'), (:'ksuid2', 'undone');
UPDATE run_ops.run SET env = 'undone';
ROLLBACK TO s;
DO $$
BEGIN
  INSERT INTO run_ops.run (id, env, n)
    SELECT run_ops.friendly_id('run', run_ops.generate_ksuid()), 'undone', i FROM generate_series(90, 110) AS i;
EXCEPTION WHEN check_violation THEN RAISE NOTICE 'caught';
END $$;
INSERT INTO run_ops.run (id, env) VALUES (:'ksuid2', 'kept');
COMMIT;
SELECT store, id, env FROM stored ORDER BY id;
-- also when a function fails between two rows
CREATE FUNCTION fail(i int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  IF i = 3 THEN RAISE EXCEPTION 'row %', i; END IF; RETURN i;
END $$;
DO $$
BEGIN
  BEGIN
    INSERT INTO run_ops.run (id, env, n)
      SELECT run_ops.generate_ksuid(), 'failed', fail(i) FROM generate_series(1, 5) AS i;
  EXCEPTION WHEN raise_exception THEN RAISE NOTICE 'caught';
  END;
  INSERT INTO run_ops.run (id, env) VALUES (run_ops.generate_ksuid(), 'after');
END $$;
SELECT store, env, count(*) FROM stored GROUP BY 1, 2 ORDER BY 1, 2;

-- Statements within statements: a function that writes to the same view, and
-- one query with several writes.
TRUNCATE run, run_ops_new.run, step, run_ops_new.step;
CREATE FUNCTION nested(outer_n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO run_ops.run (id, env, n) SELECT run_ops.generate_ksuid(), 'none', 0 WHERE false;
  INSERT INTO run_ops.run (id, env, n) VALUES (run_ops.generate_ksuid(), 'inner', outer_n);
  RETURN outer_n;
END $$;
INSERT INTO run_ops.run (id, env, n) SELECT run_ops.generate_ksuid(), 'outer', nested(i) FROM generate_series(1, 3) AS i;
SELECT store, env, count(*), sum(n) FROM stored GROUP BY 1, 2 ORDER BY 1, 2;
WITH new_run AS (INSERT INTO run_ops.run (id, env) VALUES (:'ksuid', 'cte'), (:'cuid', 'cte') RETURNING id),
     new_step AS (INSERT INTO run_ops.step SELECT 's-' || id, id FROM new_run RETURNING id),
     gone AS (DELETE FROM run_ops.run WHERE env = 'inner' RETURNING n)
INSERT INTO run_ops.step SELECT 't-' || id, id FROM new_run RETURNING id, (SELECT sum(n) FROM gone);
SELECT id FROM run_ops.step ORDER BY id;

-- COPY into the view, and rows of one statement sent in batches.
TRUNCATE run, run_ops_new.run;
COPY run_ops.run (id, env) FROM stdin;
run_cl8dq15ad30lcaohivaab68x4	copied
run_37dGaqAyHnlXVhBy5x4pckK50bA	copied
\.
SELECT * FROM stored ORDER BY id;
CALL in_store($$CREATE TABLE statements (q text);
  CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.statements VALUES (TG_OP); RETURN NULL; END';
  CREATE TRIGGER c AFTER INSERT ON run FOR EACH STATEMENT EXECUTE FUNCTION count_statement()$$);
INSERT INTO run_ops.run (id, env) SELECT run_ops.generate_ksuid(), 'bulk' FROM generate_series(1, 2500);
SELECT * FROM dblink('new', 'SELECT q, count(*) FROM statements GROUP BY q') AS t (q text, statements int);

-- Foreign rows are changed in batches as well, with the right counts.
CALL in_store($$TRUNCATE statements; CREATE TRIGGER d AFTER UPDATE OR DELETE ON run FOR EACH STATEMENT EXECUTE FUNCTION count_statement()$$);
UPDATE run_ops.run SET n = 1, note = id WHERE env = 'bulk';
UPDATE run_ops.run AS r SET n = twice.n, note = NULL
  FROM (SELECT r.id, 1 + row_number() OVER (ORDER BY r.id) % 50 AS n FROM run_ops.run AS r, generate_series(1, 2) WHERE r.env = 'bulk' LIMIT 500) AS twice
 WHERE r.id = twice.id;
SELECT q, statements FROM dblink('new', 'SELECT q, count(*) FROM statements GROUP BY q') AS t (q text, statements int);
SELECT count(*), count(note) FILTER (WHERE note = id), count(*) FILTER (WHERE note IS NULL) FROM run_ops_new.run WHERE env = 'bulk';
-- each in its place
UPDATE run_ops.run SET note = upper(id) || n WHERE env = 'bulk';
SELECT count(*) FROM run_ops_new.run WHERE env = 'bulk' AND note = upper(id) || n;
-- undone with its subtransaction, collected rows as well as rows that were sent
DO $$
BEGIN
  UPDATE run_ops.run SET n = 99 WHERE env = 'bulk';
  UPDATE run_ops.run SET n = 99 + (note IS NOT NULL)::int WHERE env = 'bulk';
EXCEPTION WHEN check_violation THEN RAISE NOTICE 'caught';
END $$;
SELECT count(*) FROM run_ops.run WHERE n >= 99;
-- a row that goes while the statement runs has been counted: an error
CREATE FUNCTION take(victim text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM run_ops.run WHERE id = victim; RETURN 5;
END $$;
SELECT min(id COLLATE "C") AS victim FROM run_ops.run WHERE env = 'bulk' \gset
UPDATE run_ops.run SET n = take(:'victim') WHERE id = :'victim';
SELECT count(*) FROM run_ops.run WHERE id = :'victim';
CALL in_store('TRUNCATE statements');
DELETE FROM run_ops.run AS r USING generate_series(1, 2) WHERE r.env = 'bulk';
SELECT * FROM dblink('new', 'SELECT q, count(*) FROM statements GROUP BY q') AS t (q text, statements int);
SELECT count(*) FROM run_ops.run;

-- A function in RETURNING writes what belongs to the row: the row goes first.
ALTER TABLE step ADD FOREIGN KEY ("runId") REFERENCES run;
CREATE FUNCTION first_step(run text) RETURNS text LANGUAGE sql AS $$
  INSERT INTO run_ops.step VALUES ('first-' || run, run) RETURNING id
$$;
INSERT INTO run_ops.run (id, env) VALUES (:'cuid2', 'e1') RETURNING first_step(id);
ALTER TABLE step DROP CONSTRAINT "step_runId_fkey";

-- The key of a row without a shape is set where the row is.
CREATE TABLE label (id text PRIMARY KEY, note text);
CALL in_store('CREATE TABLE label (id text PRIMARY KEY, note text)');
SELECT run_ops.attach_table('label', 'store');
INSERT INTO label VALUES ('here', 'x');
CALL in_store($$INSERT INTO label VALUES ('there', 'x')$$);
UPDATE run_ops.label SET id = id || ' too' RETURNING id;
SELECT tableoid::regclass, id FROM (SELECT tableoid, id FROM label UNION ALL SELECT tableoid, id FROM run_ops_new.label) AS l ORDER BY 1, 2;

-- More kinds of UPDATE than are kept prepared: each subset of seven columns.
CREATE TABLE wide (id text PRIMARY KEY, a int, b int, c int, d int, e int, f int, g int);
CALL in_store('CREATE TABLE wide (id text PRIMARY KEY, a int, b int, c int, d int, e int, f int, g int)');
SELECT run_ops.attach_table('wide', 'shape');
INSERT INTO run_ops.wide SELECT id, 0, 0, 0, 0, 0, 0, 0 FROM (VALUES (:'cuid'), (:'ksuid')) AS v (id);
DO $$
BEGIN
  FOR subset IN 1 .. 127 LOOP
    EXECUTE 'UPDATE run_ops.wide SET ' ||
      (SELECT string_agg(format('%1$s = %1$s + 1', substr('abcdefg', bit + 1, 1)), ', ')
         FROM generate_series(0, 6) AS bit WHERE subset & (1 << bit) > 0);
  END LOOP;
END $$;
SELECT count(*), a, b, c, d, e, f, g FROM run_ops.wide GROUP BY a, b, c, d, e, f, g;

-- All kinds of columns. Rows go one by one for an array, and where postgres_fdw
-- cannot send the expression: for a type of one's own, or a varchar(n).
CREATE TYPE state AS ENUM ('open', 'done');
CALL in_store($$CREATE TYPE state AS ENUM ('open', 'done')$$);
CREATE TABLE job (id text PRIMARY KEY, state state DEFAULT 'open', tags text[], at timestamp(3), data jsonb, ok boolean, size numeric(10, 2), code varchar(8));
CALL in_store($$CREATE TABLE job (id text PRIMARY KEY, state state DEFAULT 'open', tags text[], at timestamp(3), data jsonb, ok boolean, size numeric(10, 2), code varchar(8));
  CREATE TRIGGER d AFTER UPDATE OR DELETE ON job FOR EACH STATEMENT EXECUTE FUNCTION count_statement(); TRUNCATE statements$$);
SELECT run_ops.attach_table('job', 'shape');
INSERT INTO run_ops.job (id) SELECT run_ops.generate_ksuid() FROM generate_series(1, 150);
UPDATE run_ops.job SET state = 'done', at = '2026-01-01 00:00', data = jsonb_build_object('id', id), ok = true, size = 1.5, code = left(id, 8);
UPDATE run_ops.job SET tags = ARRAY[id, state::text];
SELECT count(*) FROM run_ops_new.job
 WHERE state = 'done' AND tags = ARRAY[id, 'done'] AND at = '2026-01-01 00:00' AND data = jsonb_build_object('id', id) AND ok AND size = 1.50 AND code = left(id, 8);
CALL in_store('TRUNCATE statements');
UPDATE run_ops.job SET at = NULL, data = jsonb_build_array(id), ok = false, size = size + length(id);
SELECT * FROM dblink('new', 'SELECT q, count(*) FROM statements GROUP BY q') AS t (q text, statements int);
SELECT DISTINCT at, data ->> 0 = id AS data, ok, size FROM run_ops_new.job;

-- Where a store changes rows on their way in, RETURNING shows what was stored.
-- BEFORE triggers in a store are seen when the view is built.
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := TG_OP || '' here''; RETURN NEW; END';
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON run FOR EACH ROW EXECUTE FUNCTION stamp();
CALL in_store($$CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := TG_OP || '' there''; RETURN NEW; END';
  CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON run FOR EACH ROW EXECUTE FUNCTION stamp()$$);
DROP VIEW stored;
SELECT run_ops.refresh_table('run_ops.run');
TRUNCATE run, run_ops_new.run;
INSERT INTO run_ops.run (id, env) VALUES (:'cuid', 'e1'), (:'ksuid', 'e1') RETURNING id, note;
UPDATE run_ops.run SET n = 1 RETURNING id, note;
-- a trigger that keeps a row as it is
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep BEFORE DELETE ON run FOR EACH ROW EXECUTE FUNCTION keep();
DELETE FROM run_ops.run RETURNING id;

-- Generated and identity columns; a sequence of this database serves every store.
CREATE TABLE numbered (id text PRIMARY KEY, number int GENERATED BY DEFAULT AS IDENTITY,
                       twice int GENERATED ALWAYS AS (n * 2) STORED, n int);
CALL in_store('CREATE TABLE numbered (id text PRIMARY KEY, number int GENERATED BY DEFAULT AS IDENTITY,
                       twice int GENERATED ALWAYS AS (n * 2) STORED, n int)');
SELECT run_ops.attach_table('numbered', 'shape');
INSERT INTO run_ops.numbered (id, n) VALUES (:'cuid', 1), (:'ksuid', 2), (:'ksuid2', 3) RETURNING *;
UPDATE run_ops.numbered SET n = n + 1 RETURNING id, twice;
INSERT INTO run_ops.numbered (id, twice) VALUES (:'cuid2', 1);
UPDATE run_ops.numbered SET twice = 1;

-- Conflicts: what an ORM's skipDuplicates and upsert send.
TRUNCATE step, run_ops_new.step;
INSERT INTO run_ops.step VALUES ('s1', :'cuid', 'old'), ('s2', :'ksuid', 'old');
INSERT INTO run_ops.step VALUES ('s2', :'ksuid', 'new');
INSERT INTO run_ops.step VALUES ('s1', :'cuid', 'new'), ('s2', :'ksuid', 'new'), ('s3', :'cuid', 'new'), ('s4', :'ksuid', 'new')
  ON CONFLICT DO NOTHING RETURNING id, note;
PREPARE upsert AS INSERT INTO run_ops.step VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET note = step.note || ', ' || EXCLUDED.note RETURNING id, note;
EXECUTE upsert ('s2', :'ksuid', 'upserted');
EXECUTE upsert ('s5', :'ksuid', 'upserted');
EXECUTE upsert ('s6', :'cuid', 'upserted');
EXECUTE upsert ('s6', :'cuid', 'again');
SELECT id, note FROM run_ops.step ORDER BY id;

-- Who may write to the view needs no right on the tables, and nobody else may.
CREATE ROLE regress_write_app;
GRANT USAGE ON SCHEMA run_ops TO regress_write_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON run_ops.step TO regress_write_app;
SET ROLE regress_write_app;
INSERT INTO run_ops.step VALUES ('s8', :'ksuid', current_user), ('s9', :'cuid', current_user);
UPDATE run_ops.step SET note = current_user || '!' WHERE id IN ('s8', 's9');
DELETE FROM run_ops.step WHERE id = 's1';
INSERT INTO run_ops.run (id, env) VALUES (:'cuid2', 'e1');
INSERT INTO run_ops_new.step VALUES ('s10', :'ksuid', 'x');
SELECT run_ops.allow_strays();
RESET ROLE;
SELECT id, note FROM run_ops.step WHERE id IN ('s8', 's9') ORDER BY id;

-- With session_replication_role = replica, as for a restore without triggers,
-- rows go to their stores all the same.
SET session_replication_role = replica;
INSERT INTO run_ops.step VALUES ('r1', :'ksuid', 'x'), ('r2', :'cuid', 'x');
COPY run_ops.step FROM stdin;
r3	run_37dGaqAyHnlXVhBy5x4pckK50bA	x
r4	run_cl8dq15ad30lcaohivaab68x4	x
\.
UPDATE run_ops.step SET note = 'y' WHERE note = 'x';
DELETE FROM run_ops.step WHERE id IN ('r3', 'r4') RETURNING id, note;
SELECT id, note FROM step WHERE id LIKE 'r%' UNION ALL SELECT id, note FROM run_ops_new.step WHERE id LIKE 'r%';
RESET session_replication_role;
-- the role is looked at when the statement runs, also when it was planned before
PREPARE put AS INSERT INTO run_ops.step VALUES ($1, :'ksuid', 'z');
EXECUTE put('p1');
SET session_replication_role = replica;
EXECUTE put('p2');
RESET session_replication_role;
SELECT id FROM run_ops_new.step WHERE note = 'z' ORDER BY id;

-- Split off again: the view is the local table, and the write lock is gone.
SELECT run_ops.swap_views(false);
INSERT INTO run_ops.step (id, "runId") VALUES ('off', :'ksuid') ON CONFLICT DO NOTHING RETURNING *;
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.step;
\d run_ops.step
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'run_ops%';

-- A trigger or rule of somebody else's stays, whatever its name begins with.
CREATE FUNCTION billed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER run_ops_billing AFTER INSERT ON run FOR EACH ROW EXECUTE FUNCTION billed();
CREATE TRIGGER run_ops_billing INSTEAD OF INSERT ON run_ops.step FOR EACH ROW EXECUTE FUNCTION billed();
SELECT run_ops.swap_views(true), run_ops.swap_views(false);
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'run\_ops%' ORDER BY 1;
DROP TRIGGER run_ops_billing ON run_ops.step;
-- One that has the very name that is needed has to go by another one first.
CREATE TRIGGER run_ops_write_lock AFTER INSERT ON run FOR EACH ROW EXECUTE FUNCTION billed();
SELECT run_ops.enable_split();
SELECT run_ops.swap_views(true);
ALTER TRIGGER run_ops_write_lock ON run RENAME TO billing;
CREATE TRIGGER run_ops_route INSTEAD OF INSERT ON run_ops.step FOR EACH ROW EXECUTE FUNCTION billed();
SELECT run_ops.swap_views(true);
DROP TRIGGER run_ops_route ON run_ops.step;
CREATE RULE refuse_on_conflict AS ON DELETE TO run_ops.step DO INSTEAD NOTHING;
SELECT run_ops.swap_views(false);
SELECT run_ops.enable_split();
SELECT split FROM run_ops.split_status;
ALTER RULE refuse_on_conflict ON run_ops.step RENAME TO keep_steps;
CREATE TABLE parted (id text PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TRIGGER "0_run_ops_refers" AFTER INSERT ON parted_0 FOR EACH ROW EXECUTE FUNCTION billed();
SELECT run_ops.attach_table('parted', 'shape');
SELECT run_ops.swap_views(true);
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE '%billing' UNION ALL SELECT ev_class::regclass, rulename FROM pg_rewrite WHERE rulename = 'keep_steps' ORDER BY 2;
DROP OWNED BY regress_write_app;
DROP ROLE regress_write_app;

-- Ids of type varchar have shapes as those of type text.
SELECT run_ops.swap_views(false);
DO $$
DECLARE
  tables text := 'CREATE TABLE public.short (id varchar(40) PRIMARY KEY, n int); CREATE TABLE public.part (n int PRIMARY KEY, "shortId" varchar NOT NULL)';
BEGIN
  EXECUTE tables;
  PERFORM run_ops.tell_store('new', tables);
END $$;
SELECT run_ops.attach_table('short', 'shape', 'id'), run_ops.attach_table('part', 'anchor', 'shortId'), run_ops.swap_views(true);
INSERT INTO run_ops.short VALUES ('run_c000000000000000000000001', 1);
INSERT INTO run_ops.short VALUES ('run_000000000000000000000000001', 2) RETURNING *;
INSERT INTO run_ops.short SELECT format('run_%s', lpad(i::text, 27, '0')), i FROM generate_series(3, 4) AS i;
INSERT INTO run_ops.short (n) VALUES (5);
INSERT INTO run_ops.part VALUES (1, 'run_000000000000000000000000001');
INSERT INTO run_ops.part (n) VALUES (2);
PREPARE short (varchar, int) AS INSERT INTO run_ops.short VALUES ($1, $2) RETURNING *;
SET plan_cache_mode = force_generic_plan;
EXECUTE short ('run_000000000000000000000000006', 6);
RESET plan_cache_mode;
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.short WHERE id = 'run_c000000000000000000000001';
SELECT n FROM run_ops.short WHERE id IN ('run_c000000000000000000000001', 'run_000000000000000000000000001') ORDER BY n FOR UPDATE;
SELECT count(*), sum(n) FROM run_ops.short;
UPDATE run_ops.short SET n = n + 10 WHERE n > 2;
UPDATE run_ops.short SET id = 'run_000000000000000000000000077' WHERE id = 'run_c000000000000000000000001';
UPDATE run_ops.short SET id = 'run_c000000000000000000000077' WHERE n = 2;
UPDATE run_ops.short SET id = 'run_000000000000000000000000077' WHERE n = 2 RETURNING *;
INSERT INTO run_ops.short VALUES ('run_000000000000000000000000003', 4) ON CONFLICT (id) DO UPDATE SET n = 100 RETURNING *;
DELETE FROM run_ops.short WHERE n > 50;
SELECT run_ops.locate('run_ops.short', id), n FROM run_ops.short ORDER BY n;
