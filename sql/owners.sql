-- What the owner of a table can attach to it runs with that owner's rights,
-- whoever calls the functions of the extension.  The tables here belong to an
-- ordinary role, which has attached a trap to all that it may: triggers, casts,
-- domains, generated columns.  A trap that runs as a superuser leaves a mark,
-- and makes the role a superuser.
\set name owners
\i test/fixtures/two_stores.sql
\set VERBOSITY terse
\set ECHO none
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_app;
CREATE ROLE regress_app;
\set side legacy
\set orgs 1
\set runs 40
\i test/fixtures/generate.sql
\connect :store_db - :store_host :store_port
SET client_min_messages = warning;
\set side new
\i test/fixtures/generate.sql
-- The store has the same types and tables, without traps.
CREATE TYPE colour AS ENUM ('red', 'blue');
CREATE DOMAIN short AS text;
CREATE DOMAIN code AS text;
CREATE FUNCTION worth(n int) RETURNS int IMMUTABLE LANGUAGE sql RETURN n * 2;
CREATE TABLE ev (id text PRIMARY KEY, colour colour, short short, worth int GENERATED ALWAYS AS (public.worth(21)) STORED);
CREATE TABLE tag (code code PRIMARY KEY, colour colour NOT NULL, ev text);
CREATE TABLE dot (colour colour PRIMARY KEY);
INSERT INTO dot VALUES ('red');
INSERT INTO ev VALUES (repeat('n', 27), 'red', 'x'), (repeat('l', 25), 'red', 'x');
INSERT INTO tag VALUES ('both', 'red', repeat('n', 27)), ('there', 'red', 'nowhere');
\connect :legacy_db - :legacy_host :legacy_port
SET client_min_messages = warning;
CREATE TABLE marker (place text, role text);
GRANT SELECT, INSERT ON marker TO PUBLIC;
GRANT CREATE, USAGE ON SCHEMA public TO regress_app;
-- as on most hosted servers
ALTER DATABASE :legacy_db OWNER TO regress_app;
SET SESSION AUTHORIZATION regress_app;
\set ECHO all
-- The trap.  What it cannot do at once it tries to put off: to the end of the
-- transaction, or to the function that has called it.
CREATE SCHEMA app AUTHORIZATION regress_app;
GRANT USAGE ON SCHEMA app TO PUBLIC;
CREATE TABLE app.later (place text);
CREATE TABLE app.fired (place text, role text);
GRANT ALL ON app.later, app.fired TO PUBLIC;
CREATE FUNCTION app.mark(place text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
    INSERT INTO public.marker VALUES (place, current_user);
    ALTER ROLE regress_app SUPERUSER;
  END IF;
END $$;
CREATE FUNCTION app.fire_later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.mark('put off by ' || NEW.place);
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON app.later DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION app.fire_later();
-- found before those of pg_catalog, by a function whose search_path was changed
CREATE FUNCTION app.format(text, text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.mark('format');
  RETURN pg_catalog.format($1, $2);
END $$;
CREATE FUNCTION app.trap(place text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO app.fired VALUES (place, current_user);
  PERFORM app.mark(place);
  BEGIN
    SET CONSTRAINTS app.later DEFERRED;
    INSERT INTO app.later VALUES (place);
  EXCEPTION WHEN OTHERS THEN
    NULL;
  END;
  BEGIN
    EXECUTE 'DECLARE trap CURSOR WITH HOLD FOR SELECT app.mark(''cursor'')';
  EXCEPTION WHEN OTHERS THEN
    NULL;
  END;
  BEGIN
    RESET ROLE;
    PERFORM app.mark(place || ', after RESET ROLE');
  EXCEPTION WHEN OTHERS THEN
    NULL;
  END;
  IF pg_catalog.current_setting('search_path') = 'pg_catalog, pg_temp' THEN
    PERFORM pg_catalog.set_config('search_path', 'app, pg_catalog', false);
  END IF;
END $$;
-- A function that says it is immutable may run while a statement is planned.
CREATE FUNCTION app.check(place text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.trap(place);
  RETURN true;
END $$;
CREATE FUNCTION public.worth(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.trap('generated column');
  RETURN 42;
END $$;
CREATE FUNCTION app.on_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.trap('trigger ' || TG_OP);
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TYPE colour AS ENUM ('red', 'blue');
CREATE FUNCTION app.colour_text(colour) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.trap('cast to text');
  RETURN 'red';
END $$;
CREATE CAST (colour AS text) WITH FUNCTION app.colour_text(colour) AS ASSIGNMENT;
CREATE FUNCTION app.colour_json(colour) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.trap('cast to json');
  RETURN '"red"';
END $$;
CREATE CAST (colour AS json) WITH FUNCTION app.colour_json(colour);
CREATE DOMAIN short AS text CHECK (app.check('domain'));
CREATE DOMAIN code AS text CHECK (app.check('domain of a key'));
CREATE TABLE ev (id text PRIMARY KEY, colour colour, short short, worth int GENERATED ALWAYS AS (public.worth(21)) STORED);
CREATE TABLE tag (code code PRIMARY KEY, colour colour NOT NULL, ev text);
CREATE TABLE dot (colour colour PRIMARY KEY);
INSERT INTO dot VALUES ('red');
INSERT INTO ev VALUES (repeat('c', 25), 'red', 'x'), (repeat('m', 27), 'red', 'x');
INSERT INTO tag VALUES ('both', 'red', repeat('c', 25)), ('here', 'red', 'nowhere');
ALTER TABLE tag ADD FOREIGN KEY (ev) REFERENCES ev NOT VALID;
CREATE TRIGGER trap BEFORE INSERT OR UPDATE OR DELETE ON ev FOR EACH ROW EXECUTE FUNCTION app.on_row();
\set ECHO none
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DO $$
DECLARE t record;
BEGIN
  FOR t IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'marker' AND relname ~ '^_?[A-Z]' LOOP
    EXECUTE format('ALTER TABLE %s OWNER TO regress_app', t.name);
  END LOOP;
  FOR t IN SELECT oid::regtype AS name FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e' LOOP
    EXECUTE format('ALTER TYPE %s OWNER TO regress_app', t.name);
  END LOOP;
END $$;
SET SESSION AUTHORIZATION regress_app;
\set ECHO all
-- The application's own tables and types are its as well.
CREATE FUNCTION app.type_text("RuntimeEnvironmentType") RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.trap('cast of an environment''s type');
  RETURN 'DEVELOPMENT';
END $$;
CREATE CAST ("RuntimeEnvironmentType" AS text) WITH FUNCTION app.type_text("RuntimeEnvironmentType");
CREATE TRIGGER trap BEFORE DELETE ON "TaskRun" FOR EACH ROW EXECUTE FUNCTION app.on_row();
CREATE TRIGGER trap_after AFTER DELETE ON "TaskRun" FOR EACH ROW EXECUTE FUNCTION app.on_row();
CREATE CONSTRAINT TRIGGER trap_deferred AFTER DELETE ON "Waitpoint" DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION app.on_row();
CREATE TRIGGER trap AFTER DELETE ON "BulkActionItem" FOR EACH ROW EXECUTE FUNCTION app.on_row();
ALTER TABLE "BulkActionItem" ENABLE ALWAYS TRIGGER trap;
-- as Django makes them
ALTER TABLE "TaskRunAttempt" DROP CONSTRAINT IF EXISTS "TaskRunAttempt_taskRunId_fkey",
  ADD FOREIGN KEY ("taskRunId") REFERENCES "TaskRun" DEFERRABLE INITIALLY DEFERRED;
RESET SESSION AUTHORIZATION;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_app';

DELETE FROM app.fired;

-- Attaching, by a superuser.
SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('ev', 'shape');
SELECT run_ops.attach_table('tag', 'store'), run_ops.attach_table('dot', 'store');
SELECT count(*) > 10 AS attached FROM run_ops.attach_all_tables();
SELECT run_ops.attach_control_plane();
SELECT run_ops.refresh_table('run_ops.ev');
SELECT * FROM public.marker;

-- Reading, with split off and on.
SELECT run_ops.configure_split(true, true);
SELECT run_ops.locate('run_ops.ev', repeat('c', 25)), run_ops.locate('run_ops.tag', 'here');
SELECT count(*) > 0 AS gates FROM run_ops.check_split();
SELECT run_ops.swap_views(true);
SELECT run_ops.locate('run_ops.ev', id) FROM unnest(ARRAY[repeat('c', 25), repeat('n', 27), repeat('x', 27)]) AS id;
SELECT run_ops.locate('run_ops.tag', id) FROM unnest(ARRAY['here', 'there', 'both', 'nowhere']) AS id;
SELECT * FROM run_ops.find_strays('run_ops.ev') ORDER BY 1;
SELECT * FROM run_ops.find_strays('run_ops.tag') UNION ALL SELECT * FROM run_ops.find_strays('run_ops.dot');
SELECT store, key, column_name, missing FROM run_ops.in_doubt() WHERE view = 'run_ops.tag'::regclass ORDER BY 1;
SELECT count(*) > 0 AS gates FROM run_ops.check_split();
SELECT count(*) > 0 AS failing FROM run_ops.record_check();
SELECT * FROM public.marker;

-- The control plane.
SELECT min(id) AS env FROM "RuntimeEnvironment" WHERE type = 'DEVELOPMENT' \gset
SELECT min("runtimeEnvironmentId") AS run_env, min(id) AS run FROM "TaskRun" \gset
SELECT (run_ops.resolve_env(:'env')).type, (run_ops.resolve_authenticated_env(:'env')).type, run_ops.env_exists(:'env');
SELECT (c.context).status, (c.context).run.environment_type FROM run_ops.run_contexts(ARRAY[:'run']) AS c;
SELECT count(*) FROM run_ops.resolve_worker_versions(ARRAY[:'env']);
SELECT * FROM run_ops.mint_flips();
SELECT kind, organizations FROM run_ops.mint_kinds();
SELECT * FROM public.marker;

-- Triggers of the extension that have its owner's rights, on a table whose
-- owner has changed a type since.
SET SESSION AUTHORIZATION regress_app;
CREATE DOMAIN app.flags AS jsonb CHECK (app.check('domain of flags'));
ALTER TABLE "Organization" RENAME "featureFlags" TO former;
ALTER TABLE "Organization" ADD "featureFlags" app.flags;
UPDATE "Organization" SET former = '{"runOpsMintKind": "ksuid"}', "featureFlags" = '{"runOpsMintKind": "ksuid"}';
ALTER TABLE "Organization" DROP "featureFlags";
ALTER TABLE "Organization" RENAME former TO "featureFlags";
-- PL/pgSQL keeps the types that a session has seen
\connect
SET SESSION AUTHORIZATION regress_app;
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "ksuid"}';
SELECT "featureFlags" ? 'runOpsMintKindFlippedAt' AS stamped FROM "Organization";
ALTER TABLE "FeatureFlag" ALTER value TYPE app.flags, ALTER key TYPE code;
INSERT INTO "FeatureFlag" (id, key, value) VALUES ('kind', 'runOpsMintKind', '"ksuid"') ON CONFLICT (key) DO UPDATE SET value = excluded.value;
ALTER TABLE "FeatureFlag" ALTER value TYPE jsonb, ALTER key TYPE text;
ALTER TABLE "RuntimeEnvironment" RENAME id TO former;
ALTER TABLE "RuntimeEnvironment" ADD id colour DEFAULT 'red';
DELETE FROM "RuntimeEnvironment" WHERE former = (SELECT max(former) FROM "RuntimeEnvironment");
ALTER TABLE "RuntimeEnvironment" DROP id;
ALTER TABLE "RuntimeEnvironment" RENAME former TO id;
RESET SESSION AUTHORIZATION;
SELECT flags ->> 'runOpsMintKind' AS kind FROM run_ops.global_mint_kind;
SELECT id, store FROM run_ops.cleanup_queue ORDER BY store;
DELETE FROM run_ops.cleanup_queue;
SELECT * FROM public.marker;

-- Cleanup deletes, so it fires the triggers of every table.
BEGIN;
SELECT (run_ops.cleanup_environment(:'run_env') -> 'legacy' -> 'TaskRun')::int > 0 AS deleted;
COMMIT;
SELECT run_ops.cleanup_project((SELECT min(id) FROM "Project")) ? 'legacy' AS deleted;
SELECT count(*) FROM "TaskRun" WHERE "runtimeEnvironmentId" = :'run_env';
SELECT * FROM public.marker;

-- The traps have been met, all but those of the generated column, of a cast to text and of a domain that is cast.
SELECT DISTINCT place COLLATE "C" AS place, role FROM app.fired ORDER BY 1, 2;

-- A schema in which others have a say is not used.
SELECT run_ops.swap_views(false);
CREATE SCHEMA run_ops_a AUTHORIZATION regress_app;
SELECT run_ops.make_own_schema('run_ops_a');
ALTER SCHEMA run_ops_a OWNER TO CURRENT_USER;
SELECT run_ops.make_own_schema('run_ops_a');
CREATE TABLE run_ops_a.ev (id text);
ALTER TABLE run_ops_a.ev OWNER TO regress_app;
\set VERBOSITY default
SELECT run_ops.make_own_schema('run_ops_a');
DROP TABLE run_ops_a.ev;
GRANT CREATE ON SCHEMA run_ops_a TO PUBLIC;
SELECT run_ops.make_own_schema('run_ops_a');
\set VERBOSITY terse
REVOKE ALL ON SCHEMA run_ops_a FROM PUBLIC;
SELECT run_ops.make_own_schema('run_ops_a');

-- Nor is schema run_ops.
SET client_min_messages = warning;
DROP EXTENSION run_ops_split CASCADE;
ALTER SCHEMA run_ops OWNER TO regress_app;
CREATE EXTENSION run_ops_split;
ALTER SCHEMA run_ops OWNER TO CURRENT_USER;
GRANT CREATE ON SCHEMA run_ops TO regress_app;
CREATE EXTENSION run_ops_split;
SET ROLE regress_app;
CREATE FUNCTION run_ops.string_agg(text, text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.mark('install script');
  RETURN NULL;
END $$;
RESET ROLE;
REVOKE CREATE ON SCHEMA run_ops FROM regress_app;
CREATE EXTENSION run_ops_split;
DROP FUNCTION run_ops.string_agg(text, text);
-- what was left by the one before is no harm
CREATE EXTENSION run_ops_split;
SELECT * FROM public.marker;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_app';

\c postgres
\set ECHO none
SET client_min_messages = warning;
DROP DATABASE regress_owners;
DROP ROLE regress_app;
