-- What a role can do that has no rights but USAGE on schema run_ops, which
-- everybody gets who may use one view; and what the application, a viewer and an
-- admin can do.
\set name privileges
\i test/fixtures/two_stores.sql
\set ECHO none
\set side legacy
\set orgs 1
\set runs 20
\i test/fixtures/generate.sql
SET client_min_messages = warning;
SELECT count(run_ops.attach_store('new', 'new')) AS done FROM generate_series(1, 1) \gset
SELECT count(*) FROM run_ops.attach_all_tables() \gset
SELECT run_ops.attach_control_plane('public') \gset
SELECT run_ops.configure_split(true, true) \gset
SELECT run_ops.swap_views(true) \gset
INSERT INTO run_ops."TaskRunTag" (id, name, "friendlyId", "projectId")
  SELECT repeat('n', 27), 'tag', 'tag', id FROM "Project" LIMIT 1;
DROP ROLE IF EXISTS regress_nobody, regress_application, regress_viewer, regress_admin;
CREATE ROLE regress_nobody;
CREATE ROLE regress_application;
CREATE ROLE regress_viewer;
CREATE ROLE regress_admin;
\i test/fixtures/every_function.sql
\set ECHO all
\set VERBOSITY terse
-- an error whose words differ between versions
CREATE FUNCTION refused(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE statement;
  RETURN 'not refused';
EXCEPTION WHEN OTHERS THEN
  RETURN SQLSTATE;
END $$;
GRANT USAGE ON SCHEMA run_ops TO regress_nobody;
SELECT run_ops.disconnect_stores() > 0 AS disconnected;
SELECT probe.state() AS before \gset

SET ROLE regress_nobody;
-- What is not for everybody is denied to it, with values and with NULLs (of
-- which a strict function is not even called): no row.
SELECT f.oid::regprocedure, v.with_values, probe.try(f.oid, v.with_values, true)
  FROM probe.function AS f, (VALUES (true), (false)) AS v (with_values)
 WHERE NOT has_function_privilege('public', f.oid, 'EXECUTE') AND (v.with_values OR NOT f.proisstrict)
   AND probe.try(f.oid, v.with_values, true) !~ '^42501 permission denied for (function|procedure) ';

-- the rows, by every way there is
SELECT * FROM run_ops."TaskRun";
SELECT * FROM run_ops_new."TaskRun";
INSERT INTO run_ops."TaskRun" (id) VALUES ('x');
UPDATE run_ops."TaskRun" SET id = id;
DELETE FROM run_ops."TaskRun";
SELECT run_ops.lock_row('run_ops."TaskRun"', repeat('n', 27));
INSERT INTO run_ops."TaskRun" (id) VALUES ('x') ON CONFLICT DO NOTHING;
SELECT run_ops.locate('run_ops."TaskRun"', repeat('n', 27));
SELECT refused($$SELECT * FROM dblink('new', 'SELECT 1') AS t (n int)$$);
SELECT * FROM run_ops.audit_log;
INSERT INTO run_ops.cleanup_queue VALUES ('environment', 'x', 'new');
-- the wrapper is not for everybody
CREATE SERVER mine FOREIGN DATA WRAPPER run_ops_fdw;
CREATE FOREIGN TABLE mine (id text) SERVER new;
RESET ROLE;

-- It changed nothing, and the store was not asked.
SELECT probe.state() = :'before' AS unchanged;

-- Every function and relation of the extension, called and read as each role: what
-- came of it, "denied" or the SQLSTATE of another error.  What the application, the
-- viewer and the stranger do is kept, and has changed nothing.
GRANT USAGE ON SCHEMA run_ops TO regress_application;
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO regress_application', view) FROM run_ops.routed_table \gexec
SELECT run_ops.grant_viewer('regress_viewer'), run_ops.grant_admin('regress_admin');
CREATE TABLE probe.outcome (role name DEFAULT current_user, object text, said text);
GRANT INSERT ON probe.outcome TO PUBLIC;
CREATE FUNCTION probe.read(relation regclass) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('SELECT count(*) FROM %s', relation);
  RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
  RETURN SQLSTATE;
END $$;
CREATE PROCEDURE probe.all_as(role name, keep boolean) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('role', role, true);
  INSERT INTO probe.outcome (object, said)
  SELECT f.oid::regprocedure::text, probe.try(f.oid, true, keep) FROM probe.function AS f
  UNION ALL
  SELECT c.oid::regclass::text, probe.read(c.oid)
    FROM pg_class AS c JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
   WHERE c.relnamespace = 'run_ops'::regnamespace AND c.relkind IN ('r', 'v');
END $$;
SELECT run_ops.disconnect_stores() >= 0 AS disconnected;
SELECT probe.state() AS before \gset
CALL probe.all_as('regress_nobody', true);
CALL probe.all_as('regress_application', true);
CALL probe.all_as('regress_viewer', true);
-- record_check() has stored its result, and asked the store
DELETE FROM run_ops.recorded_gate;
SELECT run_ops.disconnect_stores() > 0 AS disconnected;
SELECT probe.state() = :'before' AS unchanged;
CALL probe.all_as('regress_admin', false);
SELECT o.object, max(w.said) FILTER (WHERE o.role = 'regress_nobody') AS stranger, max(w.said) FILTER (WHERE o.role = 'regress_application') AS application,
       max(w.said) FILTER (WHERE o.role = 'regress_viewer') AS viewer, max(w.said) FILTER (WHERE o.role = 'regress_admin') AS admin
  FROM probe.outcome AS o, LATERAL (SELECT CASE left(o.said, 5) WHEN '42501' THEN 'denied' ELSE left(o.said, 5) END) AS w (said)
 GROUP BY o.object
 ORDER BY o.object COLLATE "C";

-- Where the wrapper is granted, postgres_fdw's rule holds: no password, no
-- connection, and no way to do without.
GRANT USAGE ON FOREIGN DATA WRAPPER run_ops_fdw TO regress_nobody;
GRANT CREATE ON DATABASE regress_privileges TO regress_nobody;
\set ECHO none
SET ROLE regress_nobody;
CREATE SERVER mine FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host :'store_host', port :'store_port', dbname :'store_db');
\set ECHO all
CREATE USER MAPPING FOR regress_nobody SERVER mine OPTIONS (user 'postgres', password_required 'false');
CREATE USER MAPPING FOR regress_nobody SERVER mine OPTIONS (user 'postgres', sslcert 'x');
CREATE USER MAPPING FOR regress_nobody SERVER mine OPTIONS (user 'postgres');
CREATE SCHEMA mine;
CREATE FOREIGN TABLE mine.mine (id text) SERVER mine OPTIONS (schema_name 'public', table_name 'TaskRun');
SELECT refused('SELECT * FROM mine.mine');
-- A trigger function does for a table of its own what it could do itself: nothing.
CREATE TABLE mine.own (id text, "runId" text);
CREATE VIEW mine.view AS SELECT * FROM mine.own;
CREATE TRIGGER bump AFTER INSERT ON mine.own EXECUTE FUNCTION run_ops.bump_changed('environment', 'id', 'id');
CREATE TRIGGER stamp BEFORE UPDATE ON mine.own FOR EACH ROW EXECUTE FUNCTION run_ops.stamp_organization_mint_kind();
CREATE TRIGGER stamp AFTER INSERT ON mine.own EXECUTE FUNCTION run_ops.stamp_global_mint_kind();
CREATE TRIGGER cleanup AFTER DELETE ON mine.own EXECUTE FUNCTION run_ops.enqueue_deleted('environment');
CREATE TRIGGER begin BEFORE INSERT ON mine.view FOR EACH STATEMENT EXECUTE FUNCTION run_ops.route_write();

-- Triggers that the extension put on tables work for writers without any
-- rights on its schema, and so do its event triggers.
RESET ROLE;
REVOKE USAGE ON SCHEMA run_ops FROM regress_nobody;
GRANT USAGE ON SCHEMA public TO regress_nobody;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO regress_nobody;
SET ROLE regress_nobody;
UPDATE "Organization" SET title = 'x', "featureFlags" = '{"runOpsMintKind": "ksuid"}';
INSERT INTO "FeatureFlag" VALUES ('runOpsMintKind', '"ksuid"');
UPDATE "TaskRun" SET status = 'CANCELED' WHERE status = 'PENDING';
INSERT INTO "TaskRunTag" SELECT repeat('o', 27), 'other', 'other', id FROM "Project" LIMIT 1;
UPDATE "TaskRun" SET id = repeat('n', 27) WHERE id = (SELECT min(id) FROM "TaskRun");
DELETE FROM "RuntimeEnvironment" WHERE id = (SELECT min(id) FROM "RuntimeEnvironment");
SET client_min_messages = error;
CREATE PUBLICATION mine;
RESET client_min_messages;
RESET ROLE;
SELECT scope, store FROM run_ops.cleanup_queue ORDER BY 2;
SELECT "featureFlags" ? 'runOpsMintKindFlippedAt' AS stamped FROM "Organization";

\c postgres
\set ECHO none
SET client_min_messages = warning;
DROP DATABASE regress_privileges;
DROP ROLE regress_nobody, regress_application, regress_viewer, regress_admin;
