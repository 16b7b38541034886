-- Objects of the caller's schemas never run instead of PostgreSQL's: every
-- function and every trigger of the extension, called with a search_path where
-- each operator, and each ordinary function of pg_catalog that the extension
-- names, has a double, which counts; with temporary tables and types of the same
-- names as well.
\set name search_path
\i test/fixtures/two_stores.sql
\set ECHO none
\set side legacy
\set orgs 1
\set runs 20
\i test/fixtures/generate.sql
SET client_min_messages = warning;
SELECT run_ops.attach_store('new', 'new') \gset
SELECT count(*) FROM run_ops.attach_all_tables() \gset
DROP ROLE IF EXISTS regress_writer;
CREATE ROLE regress_writer;
\i test/fixtures/every_function.sql
SELECT id AS env FROM "RuntimeEnvironment" ORDER BY id LIMIT 1 \gset
SELECT id AS project FROM "Project" ORDER BY id LIMIT 1 \gset
SELECT id AS run FROM "TaskRun" ORDER BY id LIMIT 1 \gset
\set ECHO all
\set VERBOSITY terse

CREATE SCHEMA evil;
CREATE SEQUENCE evil.ran;
-- A sequence counts also what is rolled back, or what somebody catches.
CREATE FUNCTION evil.run() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  PERFORM nextval('evil.ran');
  RAISE EXCEPTION 'evil code ran as %', CASE current_user WHEN session_user THEN 'the user of the session' ELSE current_user END;
END $$;
GRANT ALL ON SCHEMA evil TO PUBLIC;
GRANT ALL ON SEQUENCE evil.ran TO PUBLIC;
SET check_function_bodies = off;
DO $$
DECLARE
  o record;
BEGIN
  FOR o IN SELECT oprname, oprleft::regtype AS l, oprright::regtype AS r, oprresult::regtype AS result, oid
             FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft <> 0 AND oprresult <> 0
              AND NOT EXISTS (SELECT FROM pg_type WHERE oid IN (oprleft, oprright) AND typtype = 'p') LOOP
    EXECUTE format('CREATE FUNCTION evil.o%s(%s, %s) RETURNS %s IMMUTABLE LANGUAGE plpgsql AS ''BEGIN PERFORM evil.run(); END''',
                   o.oid, o.l, o.r, o.result);
    EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.o%s)', o.oprname, o.l, o.r, o.oid);
  END LOOP;
  -- for polymorphic and "any" functions, one that fits text better
  FOR o IN SELECT DISTINCT proname, replace(replace(pg_get_function_identity_arguments(oid), '"any"', 'text'), 'anyelement', 'text') AS args,
                  CASE prorettype::regtype::text WHEN 'anyelement' THEN 'text' ELSE prorettype::regtype::text END AS result, proretset
             FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND provariadic = 0
              AND NOT EXISTS (SELECT FROM pg_type AS y WHERE y.oid = prorettype AND y.typtype = 'p' AND y.typname NOT IN ('anyelement', 'void'))
              AND proname !~ '(_in|_out|_recv|_send|support|sel)$'
              AND NOT EXISTS (SELECT FROM unnest(proargtypes) AS t JOIN pg_type AS y ON y.oid = t
                               WHERE y.typtype = 'p' AND y.typname NOT IN ('any', 'anyelement'))
              AND proallargtypes IS NULL
              AND proname IN (SELECT regexp_split_to_table(f.prosrc, '\W+') FROM probe.function AS f) LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s %s IMMUTABLE LANGUAGE plpgsql AS ''BEGIN PERFORM evil.run(); END''',
                     o.proname, o.args, CASE WHEN o.proretset THEN 'SETOF' END, o.result);
    EXCEPTION WHEN duplicate_function OR invalid_function_definition OR datatype_mismatch THEN NULL;
    END;
  END LOOP;
  FOR o IN SELECT unnest(ARRAY['text', 'int4', 'int8', 'bool', 'name', 'jsonb', 'interval', 'timestamptz', 'regclass', 'oid']) AS t LOOP
    EXECUTE format('CREATE DOMAIN evil.%I AS pg_catalog.%1$I CHECK (evil.run() IS NULL)', o.t);
  END LOOP;
END $$;
RESET check_function_bodies;
-- the doubles are there, and the path reaches them
SELECT count(*) > 500 AS operators FROM pg_operator WHERE oprnamespace = 'evil'::regnamespace;
SELECT count(*) > 200 AS functions FROM pg_proc WHERE pronamespace = 'evil'::regnamespace;
SET search_path = evil, pg_temp, pg_catalog, public;
SELECT lower('x');
SELECT 'a'::pg_catalog.text || 'b';
SELECT 'x'::text;
SELECT last_value > 1 AS counted FROM evil.ran;
SELECT pg_catalog.setval('evil.ran', 1, false) \gset

-- temporary tables like those of the catalog and of the extension
DO $$
DECLARE
  r pg_catalog.record;
BEGIN
  FOR r IN SELECT c.relname FROM pg_catalog.pg_class AS c
            WHERE c.relnamespace OPERATOR(pg_catalog.=) ANY (ARRAY['run_ops', 'pg_catalog']::pg_catalog.regnamespace[])
              AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'v']::pg_catalog."char"[]) LOOP
    EXECUTE pg_catalog.format('CREATE TEMP TABLE %I (deleted pg_catalog.text)', r.relname);
  END LOOP;
END $$;
CREATE TEMP TABLE deleted (id pg_catalog.text);
CREATE TEMP TABLE rows_after (id pg_catalog.text);
CREATE TEMP TABLE run_ops_rows (id pg_catalog.text);

-- The whole way of an operator.
SELECT run_ops.attach_control_plane('public');
SELECT run_ops.configure_split(true, true);
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 20 AS gates FROM run_ops.check_split();
SELECT run_ops.acknowledge(c.gate, c.object, 'evil') IS NULL AS acknowledged, pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 AS some
  FROM run_ops.check_split() AS c WHERE NOT c.ok GROUP BY 1;
SELECT run_ops.enable_split();
SELECT s.split FROM run_ops.split_status AS s;
SELECT run_ops.withdraw_acknowledgement(a.gate, a.object) FROM run_ops.acknowledgement AS a LIMIT 1;
SELECT run_ops.trust_standby(run_ops.server_identity());

-- Writes through views of every routing, by a role that does not own them.
CREATE FUNCTION public.careless() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW."friendlyId" := lower(NEW."friendlyId") || 'x';
  RETURN NEW;
END $$;
CREATE TRIGGER careless BEFORE INSERT OR UPDATE ON public."TaskRun" FOR EACH ROW EXECUTE FUNCTION public.careless();
SELECT run_ops.refresh_table('run_ops."TaskRun"');
GRANT USAGE ON SCHEMA run_ops TO regress_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON run_ops."TaskRun", run_ops."TaskRunExecutionSnapshot", run_ops."TaskRunTag" TO regress_writer;
SET ROLE regress_writer;
-- A trigger runs as the writer, with the writer's path, as it does on the table:
-- this one calls what the writer has made, with no more rights than its own.
INSERT INTO run_ops."TaskRun" (id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId", "runtimeEnvironmentId", "projectId",
                               queue, "updatedAt")
  VALUES (pg_catalog.repeat('L', 25), 'l', 'task', '{}', 't', 's', :'env', :'project', 'q', pg_catalog.now());
RESET ROLE;
SELECT pg_catalog.setval('evil.ran', 1, false);
ALTER FUNCTION public.careless() SET search_path = pg_catalog, pg_temp;
SET ROLE regress_writer;
INSERT INTO run_ops."TaskRun" (id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId", "runtimeEnvironmentId", "projectId",
                               queue, "updatedAt")
  SELECT i, i, 'task', '{}', 't', 's', :'env', :'project', 'q', pg_catalog.now()
    FROM pg_catalog.unnest(ARRAY[pg_catalog.repeat('N', 27), pg_catalog.repeat('L', 25)]) AS i RETURNING "friendlyId";
UPDATE run_ops."TaskRun" SET queue = 'r' WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY[pg_catalog.repeat('N', 27), pg_catalog.repeat('L', 25)]);
INSERT INTO run_ops."TaskRunTag" (id, name, "friendlyId", "projectId")
  VALUES (pg_catalog.repeat('n', 27), 'new', 'new', :'project'), (pg_catalog.repeat('l', 25), 'legacy', 'legacy', :'project');
UPDATE run_ops."TaskRunTag" SET name = 'b' WHERE name OPERATOR(pg_catalog.=) 'new';
DELETE FROM run_ops."TaskRunTag" WHERE name OPERATOR(pg_catalog.=) 'b';
DELETE FROM run_ops."TaskRun" WHERE id OPERATOR(pg_catalog.=) pg_catalog.repeat('N', 27);
-- who does may lack the rights, but not choose the code
INSERT INTO run_ops."TaskRunTag" (id, name, "friendlyId", "projectId") VALUES ('ttttttttttttttttttttttttttt', 't', 't', 'p')
  ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name RETURNING name;
RESET ROLE;
SELECT run_ops.locate('run_ops."TaskRunTag"', pg_catalog.repeat('t', 27)), run_ops.lock_row('run_ops."TaskRunTag"', pg_catalog.repeat('t', 27));
DROP TRIGGER careless ON public."TaskRun";
UPDATE public."TaskRun" SET id = pg_catalog.repeat('N', 27) WHERE id OPERATOR(pg_catalog.=) pg_catalog.repeat('L', 25);

-- the triggers of the control plane
UPDATE public."Organization" SET title = 'evil', "featureFlags" = '{"runOpsMintKind": "ksuid"}';
INSERT INTO public."FeatureFlag" VALUES ('runOpsMintKind', '"cuid"');
UPDATE public."FeatureFlag" SET value = '"ksuid"';
DELETE FROM public."FeatureFlag";
TRUNCATE public."FeatureFlag";
UPDATE public."RuntimeEnvironment" SET paused = true;
INSERT INTO public."User" (id, email, "authenticationMethod", "updatedAt") SELECT 'u', 'u', 'GITHUB', pg_catalog.now();
SET client_min_messages = error;
CREATE PUBLICATION evil FOR TABLE public."User";
RESET client_min_messages;
DROP PUBLICATION evil;
-- answers from it, and the functions that may be granted alone
SELECT (run_ops.resolve_authenticated_env(:'env')).slug IS NOT NULL AS env, (run_ops.resolve_worker_version(:'env')).worker IS NULL AS worker,
       (run_ops.run_context(:'run')).status, (run_ops.mint_run_id(:'env')).id IS NOT NULL AS minted;
SELECT run_ops.assert_env_exists(:'env');
SELECT run_ops.invalidate_environment(:'env'), run_ops.invalidate_organization('o');
-- cleanup, queued by a trigger
DELETE FROM public."RuntimeEnvironment" WHERE id OPERATOR(pg_catalog.=) :'env';
CALL run_ops.cleanup(10);
SELECT pg_catalog.count(*) FROM run_ops.cleanup_queue;
-- what is watched
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 AS stats FROM run_ops.ask_stats();
SELECT pg_catalog.count(*) AS flips FROM run_ops.mint_flips();
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 AS kinds FROM run_ops.mint_kinds();
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 AS failing FROM run_ops.record_check();
SELECT pg_catalog.count(*) AS in_doubt FROM run_ops.resolve_in_doubt();
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 AS steps FROM run_ops.next_step();
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 AS steps_back FROM run_ops.next_step('off');
SELECT run_ops.whereabouts('run_ops."TaskRun"', 'none');
-- shards for new ids: none, and one that is not attached
SELECT run_ops.set_mint_shards('') IS NOT NULL AS none;
SELECT run_ops.set_mint_shards('z');
-- the way back and forth
SELECT r.done FROM run_ops.repatriate(100) AS r;
SELECT pg_catalog.count(*) FROM run_ops.repatriation_conflicts();
SELECT pg_catalog.count(*) FROM run_ops.verify_repatriation();
SELECT run_ops.disable_split(repatriated => true);
SELECT pg_catalog.count(*) FROM run_ops.move_conflicts();
SELECT m.done FROM run_ops.move_strays(1000) AS m;
SELECT r.done FROM run_ops.remove_leftovers(1000) AS r;

-- Every function of the extension with values, each undone; a new one that runs
-- as its owner must be among those above.
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.count(probe.try(f.oid, true, false)) AS all_tried FROM probe.function AS f;
SELECT f.proname FROM probe.function AS f
 WHERE f.prosecdef AND f.proname OPERATOR(pg_catalog.<>) ALL (ARRAY['acknowledge', 'withdraw_acknowledgement', 'check_split',
         'configure_split', 'enable_split', 'disable_split', 'enqueue_deleted', 'invalidate_environment', 'invalidate_organization',
         'guard_publications', 'guard_routed_tables', 'drop_leftovers', 'ask_stats', 'mint_flips', 'mint_kinds', 'record_check', 'move_strays', 'move_conflicts', 'remove_leftovers', 'repatriate', 'repatriation_conflicts', 'resolve_in_doubt', 'stamp_global_mint_kind',
         'set_mint_shards', 'stamp_organization_mint_kind', 'trust_standby', 'verify_repatriation',
         'next_step', 'whereabouts']);
SELECT run_ops.detach_control_plane();
SELECT run_ops.detach_table(t.view) IS NULL AS detached FROM run_ops.routed_table AS t
 WHERE t.view OPERATOR(pg_catalog.=) 'run_ops."TaskRunTag"'::pg_catalog.regclass;

-- It never ran.
SELECT is_called FROM evil.ran;
\c postgres
\set ECHO none
SET client_min_messages = warning;
DROP DATABASE regress_search_path;
DROP ROLE regress_writer;
