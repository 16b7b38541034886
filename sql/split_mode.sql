-- Split mode: what must hold before it may be on, switching, and the way back.
\set name split_mode
\i test/fixtures/two_stores.sql
CREATE SCHEMA app;
SET search_path = app, public;
CREATE TABLE run (id text PRIMARY KEY, env text, n numeric, at timestamptz, tags text[]);
CREATE INDEX ON run (env);
CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL REFERENCES run, note text);
CREATE TABLE tag (id text PRIMARY KEY, note text);
SELECT 1 AS x FROM dblink('new', $$
  CREATE SCHEMA app;
  SET search_path = app;
  CREATE TABLE run (id text PRIMARY KEY, at timestamptz, env text, n numeric, tags text[]);
  CREATE INDEX ON run (env);
  CREATE TABLE step (note text, id text PRIMARY KEY, "runId" text NOT NULL REFERENCES run);
  CREATE TABLE tag (id text PRIMARY KEY, note text) $$) AS t (x text);
\set cuid run_cl8dq15ad30lcaohivaab68x4
\set ksuid run_37dGaqAyHnlXVhBy5x4pckK50bA
\set ksuid2 run_37dGaqAyHnlXVhBy5x4pckK50bB
INSERT INTO run VALUES (:'cuid', 'e1', 1.50, '2026-01-01 12:00+02', '{a,NULL,"b c"}');
INSERT INTO step VALUES ('s1', :'cuid', 'legacy');
INSERT INTO tag VALUES ('t1', 'legacy'), ('t2', 'legacy, older');

-- Nothing is there yet.
SELECT split, reason, stores, routed_tables FROM run_ops.split_status;
SELECT run_ops.enable_split();
SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'),
       run_ops.attach_table('tag', 'store');
SELECT split, reason, stores, routed_tables FROM run_ops.split_status;

-- Attached is not enabled: the views are the plain tables.
EXPLAIN (COSTS OFF) SELECT * FROM run_ops.run JOIN run_ops.step ON run.id = "runId" WHERE env = 'e1';
EXPLAIN (COSTS OFF) SELECT * FROM run JOIN step ON run.id = "runId" WHERE env = 'e1';

-- Gates, one row each.  As long as it is not opted in, no store is asked.
SELECT gate, object, ok, detail, hint FROM run_ops.check_split() WHERE gate <> 'server';
SELECT run_ops.configure_split(opted_in => true);
SELECT gate, object, ok, regexp_replace(detail, '[0-9]{4,}|; fingerprints.*|^fingerprints.*|[0-9:]+ allowed', '...', 'g') AS detail
  FROM run_ops.check_split() WHERE gate NOT IN ('server', 'clock');
-- one error with all that fails
SELECT 1 AS x FROM dblink('new', $$ DROP INDEX app.run_env_idx; CREATE INDEX ON app.run (n) $$) AS t (x text);
INSERT INTO run VALUES (:'ksuid', 'e1');
INSERT INTO run_ops_new.tag VALUES ('t2', 'new');
SELECT run_ops.enable_split();
-- some may be accepted by name, some not
SELECT run_ops.acknowledge('index', 'app.run btree (env)', 'few rows');
SELECT run_ops.acknowledge('strays', 'app.run', 'why not');
SELECT gate, object, ok, replace(detail, current_user, 'me') AS detail FROM run_ops.check_split() WHERE gate = 'index';
SELECT run_ops.withdraw_acknowledgement('index', 'app.run btree (env)');
SELECT run_ops.withdraw_acknowledgement('index', 'app.run btree (env)');
SELECT 1 AS x FROM dblink('new', $$ DROP INDEX app.run_n_idx; CREATE INDEX ON app.run (env) $$) AS t (x text);
DELETE FROM run WHERE id = :'ksuid';
DELETE FROM run_ops_new.tag;
-- what keeps wrong rows out of the store is offered, not demanded
SELECT object, ok, detail, hint FROM run_ops.check_split() WHERE gate = 'write lock';
SELECT run_ops.store_write_lock('run_ops.step') AS lock \gset
SELECT 1 AS x FROM dblink('new', :'lock') AS t (x text);
SELECT object, ok, detail, hint FROM run_ops.check_split() WHERE gate = 'write lock';
-- a foreign key into a table that is not routed
CREATE TABLE env (id text PRIMARY KEY);
ALTER TABLE run ADD CONSTRAINT run_env FOREIGN KEY (env) REFERENCES env NOT VALID;
SELECT gate, object, ok, detail FROM run_ops.check_split() WHERE NOT ok;
ALTER TABLE run DROP CONSTRAINT run_env;

-- On.
SELECT run_ops.configure_split(native_realtime => true);
PREPARE all_runs AS SELECT id, n FROM run_ops.run ORDER BY id COLLATE "C";
EXECUTE all_runs;
BEGIN;
SELECT run_ops.enable_split();
SELECT run_ops.split_enabled();
ROLLBACK;
SELECT run_ops.split_enabled();
-- a dry run says what the switch would do, or why not
\set VERBOSITY terse
SELECT run_ops.enable_split(dry_run => true);
SELECT run_ops.split_enabled();
\set VERBOSITY default
SELECT run_ops.enable_split();
SELECT run_ops.split_enabled(), (SELECT split FROM run_ops.split_status);
SELECT run_ops.enable_split();
INSERT INTO run_ops_new.run (id, env, n, at, tags)
  VALUES (:'ksuid', 'e1', 2.50, '2026-02-01 12:00+02', '{"quo\"te"}'), (:'ksuid2', 'e2', NULL, NULL, '{}');
INSERT INTO run_ops_new.step (id, "runId", note) VALUES ('s2', :'ksuid', E'a\ttab, "quotes" and \\'), ('s3', :'ksuid', NULL);
INSERT INTO run_ops_new.tag VALUES ('t2', 'new'), ('t3', 'new');
-- prepared before, and follows by itself
EXECUTE all_runs;

-- The read gate goes with the snapshot, whatever the transaction did.
CREATE FUNCTION gate_after_rollback() RETURNS boolean[] LANGUAGE plpgsql AS $$
DECLARE seen boolean[];
BEGIN
  seen := seen || run_ops.split_enabled();
  BEGIN
    UPDATE run_ops.split_state SET enabled = false;
    seen := seen || run_ops.split_enabled();
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN
    seen := seen || run_ops.split_enabled();
  END;
  RETURN seen;
END $$;
SELECT gate_after_rollback();
SELECT count(*), bool_and(run_ops.split_enabled()) FROM generate_series(1, 1000);

-- Realtime readers that follow this database only are refused while split is on.
SET client_min_messages = error;  -- wal_level
CREATE PUBLICATION other_tables FOR TABLE env;
CREATE PUBLICATION runs FOR TABLE run;
CREATE PUBLICATION everything FOR ALL TABLES;
ALTER PUBLICATION other_tables ADD TABLE run;
SELECT run_ops.configure_split(native_realtime => false);
SELECT run_ops.acknowledge('realtime', 'publication runs', 'a report');
SELECT run_ops.acknowledge('realtime', 'publication runs', 'a report of old runs');
SELECT reason FROM run_ops.acknowledgement WHERE object = 'publication runs';
CREATE PUBLICATION runs FOR TABLE run;
DROP PUBLICATION runs, other_tables;
RESET client_min_messages;

-- The way back: not while rows would disappear.
SELECT run_ops.disable_split();
SELECT run_ops.disable_split(dry_run => true);
-- the first call makes every change be noted from then on
SELECT view, store, copied, done FROM run_ops.repatriate(1);
SELECT place, forward, drained FROM run_ops.change_tracking ORDER BY place;
SELECT view, store, copied, done FROM run_ops.repatriate(1);
SELECT view, position, finished, copied FROM run_ops.copy_progress ORDER BY view;
CREATE PROCEDURE repatriate_all(batch_size int) LANGUAGE plpgsql AS $$
DECLARE complete boolean;
BEGIN
  LOOP
    SELECT done INTO complete FROM run_ops.repatriate(batch_size);
    COMMIT;
    EXIT WHEN complete;
  END LOOP;
END $$;
CALL repatriate_all(1);
SELECT view, finished, copied FROM run_ops.copy_progress ORDER BY view;
SELECT * FROM run_ops.verify_repatriation();
-- each row is still shown once, and a change of the service is met
SELECT count(*) FROM run_ops.run;
SELECT id, note FROM run_ops.tag ORDER BY id;
UPDATE run_ops_new.run SET n = 3 WHERE id = :'ksuid';
DELETE FROM run_ops_new.step WHERE id = 's3';
DELETE FROM run_ops_new.tag WHERE id = 't3';
SELECT view, ranges, differing FROM run_ops.verify_repatriation();
SELECT run_ops.disable_split(repatriated => true);
SELECT split, reason FROM run_ops.split_status;
EXECUTE all_runs;
SELECT * FROM run ORDER BY id COLLATE "C";
SELECT * FROM step ORDER BY id;
SELECT * FROM tag ORDER BY id;
SELECT run_ops.repatriate();

-- And forward again: what was changed here meanwhile is what counts.
UPDATE run_ops.run SET n = 4 WHERE id = :'ksuid';
DELETE FROM run_ops.run WHERE id = :'ksuid2';
INSERT INTO run_ops.step VALUES ('s4', :'ksuid', 'written while off');
UPDATE run_ops.tag SET note = 'changed here' WHERE id = 't2';
SELECT * FROM run_ops.move_strays();
SELECT * FROM run_ops.move_strays();
SELECT run_ops.enable_split();
EXECUTE all_runs;
SELECT id, note FROM run_ops.step ORDER BY id;
SELECT id, note FROM run_ops.tag ORDER BY id;
-- the rest is removed afterwards, see leftovers
SELECT (run_ops.remove_leftovers()).* FROM generate_series(1, 5);
SELECT id FROM run UNION ALL SELECT id FROM step UNION ALL SELECT id FROM tag ORDER BY id;
SELECT run_ops.refuse_orphans();

-- Forced, rows of the store are left out, and come back.
SELECT run_ops.disable_split(force => true);
EXECUTE all_runs;
INSERT INTO run_ops.run VALUES (:'ksuid2', 'a stray');
SELECT run_ops.enable_split();
SELECT run_ops.move_strays();
CALL repatriate_all(100);
SELECT run_ops.disable_split(repatriated => true);
EXECUTE all_runs;
SELECT run_ops.enable_split();
EXECUTE all_runs;
SELECT run_ops.disable_split(true, true);

SELECT action, detail - '{locked_ms,attempt}'::text[] AS detail FROM run_ops.audit_log ORDER BY id;

-- Only the owner changes the mode, and whom it lets.
CREATE ROLE regress_split_app;
CREATE ROLE regress_split_admin;
GRANT USAGE ON SCHEMA run_ops TO regress_split_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON run_ops.run TO regress_split_app;
SELECT run_ops.grant_admin('regress_split_admin');
SET ROLE regress_split_app;
SELECT id, n FROM run_ops.run ORDER BY id COLLATE "C";
SELECT split FROM run_ops.split_status;
SELECT run_ops.enable_split();
SELECT run_ops.disable_split();
SELECT run_ops.check_split();
SELECT run_ops.configure_split(true, true);
SELECT run_ops.acknowledge('clone', 'new', 'x');
SELECT run_ops.swap_views(true);
SELECT run_ops.ask_store('new', 'SELECT 1');
SELECT run_ops.bind_server();
UPDATE run_ops.split_state SET enabled = false;
INSERT INTO run_ops.acknowledgement VALUES ('a', 'b', 'c');
SELECT * FROM run_ops.audit_log;
SELECT count(*) FROM run_ops_new.run;
SELECT umoptions FROM pg_user_mappings;
SET ROLE regress_split_admin;
SELECT count(*) FILTER (WHERE NOT ok) FROM run_ops.check_split();
SELECT run_ops.disable_split(force => true);
SELECT run_ops.enable_split();
SELECT run_ops.grant_admin('regress_split_app');
SELECT role = session_user AS by_session_user, action FROM run_ops.audit_log ORDER BY id DESC LIMIT 1;
RESET ROLE;
DROP OWNED BY regress_split_app, regress_split_admin;
DROP ROLE regress_split_app, regress_split_admin;
-- every function that runs as its owner pins its search_path
SELECT oid::regprocedure FROM pg_proc
 WHERE pronamespace = 'run_ops'::regnamespace AND prosecdef
   AND NOT coalesce(proconfig::text LIKE '%search\_path=pg\_catalog, pg\_temp%', false);

-- Strays are counted while writes are blocked: by an index if there is one.
SELECT object, hint FROM run_ops.check_split() WHERE gate = 'strays' AND hint IS NOT NULL AND object LIKE 'app.%';
SELECT run_ops.disable_split(force => true);
SELECT object, hint FROM run_ops.local_stray_gates();
CREATE INDEX run_strays ON app.run (id) WHERE NOT run_ops.resides(id, 'legacy');
SELECT object, hint FROM run_ops.local_stray_gates();
INSERT INTO app.run SELECT 'run_c' || lpad(i::text, 24, '0') FROM generate_series(1, 2000) AS i;
VACUUM ANALYZE app.run;
EXPLAIN (COSTS OFF) SELECT count(*) FROM app.run AS x WHERE NOT run_ops.resides(x.id, 'legacy');
