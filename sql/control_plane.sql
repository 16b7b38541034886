-- The resolver: answers about environments and workers from the control plane.
\set name control_plane
\i test/fixtures/two_stores.sql
\set ECHO none
\set side legacy
\set orgs 2
\set runs 40
\i test/fixtures/generate.sql
\set ECHO all

-- Nothing is answered before it is known where the tables are.
SELECT run_ops.resolve_env('x');

-- Everything that a schema lacks is in one error.
CREATE SCHEMA other;
CREATE TABLE other."Organization" (LIKE public."Organization" INCLUDING ALL);
ALTER TABLE other."Organization" DROP title, ALTER "runsEnabled" TYPE text;
CREATE TABLE other."Project" (LIKE public."Project");
CREATE VIEW other."User" AS SELECT * FROM public."User";
SELECT run_ops.attach_control_plane('other');
DROP SCHEMA other CASCADE;

-- nor with a trigger of another's that has the name of one that is needed
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER run_ops_cleanup AFTER DELETE ON "Project" FOR EACH STATEMENT EXECUTE FUNCTION audited();
CREATE TRIGGER run_ops_epoch_update AFTER UPDATE ON "Project" FOR EACH STATEMENT EXECUTE FUNCTION audited();
SELECT run_ops.attach_cleanup('public');
SELECT run_ops.attach_control_plane('public');
ALTER TRIGGER run_ops_cleanup ON "Project" RENAME TO audit;
SELECT run_ops.attach_control_plane('public');
DROP TRIGGER run_ops_epoch_update ON "Project";
SELECT run_ops.attach_control_plane('public');
SELECT run_ops.attach_control_plane('public');
SELECT run_ops.attach_cleanup('public');
SELECT tgname FROM pg_trigger WHERE tgrelid = '"Project"'::regclass AND tgfoid = 'audited'::regproc;
SELECT tgrelid::regclass::text, count(*) FROM pg_trigger WHERE tgname ~ '^run_ops_epoch' GROUP BY 1 ORDER BY 1;

-- One organization has ten environments; the last one is a branch.
SELECT id AS org FROM "Organization" WHERE slug = 'org-0' \gset
SELECT id AS env, "parentEnvironmentId" AS parent FROM "RuntimeEnvironment"
 WHERE "organizationId" = :'org' AND "branchName" IS NOT NULL ORDER BY "branchName" LIMIT 1 \gset
SELECT id AS dev FROM "RuntimeEnvironment"
 WHERE "organizationId" = :'org' AND type = 'DEVELOPMENT' ORDER BY shortcode, id LIMIT 1 \gset
\x on
SELECT e.* FROM run_ops.resolve_env(:'env') AS e;
SELECT e.* FROM run_ops.resolve_authenticated_env(:'env') AS e;
SELECT (e).org_member, (e).parent_environment, ((e).project).* FROM run_ops.resolve_authenticated_env(:'dev') AS e;
\x off
SELECT run_ops.resolve_env('no such'), run_ops.resolve_env(NULL);

-- Many at once, in the order they are asked for, by one query.
SELECT environment_id, (env).type FROM run_ops.resolve_envs(ARRAY[:'dev', 'no such', :'env', NULL, :'env']);
SELECT environment_id, (env).slug FROM run_ops.resolve_authenticated_envs(ARRAY[:'env', :'dev']);
SELECT count(*) FROM run_ops.resolve_envs('{}');

-- Every environment, against the tables.
SELECT count(*) AS envs,
       count(*) FILTER (WHERE (r).organization_id = p."organizationId" AND (r).type = e.type::text
                          AND (r).parent_environment_type IS NOT DISTINCT FROM u.type::text
                          AND (r).archived_at IS NOT DISTINCT FROM e."archivedAt") AS same
  FROM "RuntimeEnvironment" AS e JOIN "Project" AS p ON p.id = e."projectId"
  LEFT JOIN "RuntimeEnvironment" AS u ON u.id = e."parentEnvironmentId", run_ops.resolve_env(e.id) AS r;

-- A deleted project has no authenticated environment, but its runs have events.
BEGIN;
UPDATE "Project" SET "deletedAt" = '2026-04-01' FROM "RuntimeEnvironment" AS e
 WHERE "Project".id = e."projectId" AND e.id = :'env';
SELECT run_ops.resolve_authenticated_env(:'env');
SELECT ((e).project).deleted_at FROM run_ops.resolve_event_env(:'env') AS e;
SELECT (e).id = :'env' AS found FROM run_ops.resolve_env(:'env') AS e;
ROLLBACK;
SELECT (e).id = :'env' AS found FROM run_ops.resolve_authenticated_env(:'env') AS e;

-- While split is off, a foreign key is what asserts.
SELECT run_ops.assert_env_exists('no such');
UPDATE run_ops.split_state SET enabled = true, identities = ARRAY[run_ops.server_identity()];
SELECT run_ops.assert_env_exists('no such');
SELECT run_ops.assert_env_exists(NULL);
SELECT run_ops.assert_envs_exist(ARRAY[:'env', 'no such', 'nor this']);
SELECT run_ops.assert_envs_exist(ARRAY[:'env', :'dev']);
UPDATE run_ops.split_state SET enabled = false;

-- What a run is locked by and to; never NULL as a whole (L9).
SELECT id AS prod FROM "RuntimeEnvironment"
 WHERE "organizationId" = :'org' AND type = 'PRODUCTION' AND id IN (SELECT "environmentId" FROM "WorkerDeploymentPromotion")
 ORDER BY id LIMIT 1 \gset
SELECT w.id AS worker, t.id AS task FROM "BackgroundWorker" AS w JOIN "BackgroundWorkerTask" AS t ON t."workerId" = w.id
 WHERE w."runtimeEnvironmentId" = :'prod' AND t.slug = 'task-2' AND w.version = '20260101.2' \gset
\x on
SELECT (l).locked_by, (l).locked_to_version FROM run_ops.resolve_run_locked_worker(:'task', :'worker') AS l;
SELECT l, l IS NULL AS "both parts are NULL" FROM run_ops.resolve_run_locked_worker(NULL, 'no such') AS l;
\x off
SELECT locked_by_id IS NOT NULL AS task, locked_to_version_id IS NOT NULL AS version,
       (locked).locked_by IS NOT NULL AS found_task, (locked).locked_to_version IS NOT NULL AS found_version
  FROM run_ops.resolve_run_locked_workers(ARRAY[:'task', NULL, 'no such'], ARRAY[:'worker', :'worker']);

-- The version that a run starts on: promoted, newest, or named.
CREATE FUNCTION version(v run_ops.worker_version) RETURNS text LANGUAGE sql AS $$
  SELECT format('%s, %s tasks, %s queues, %s', (v.worker).version, cardinality(v.tasks), cardinality(v.queues),
                CASE WHEN (v.deployment).id IS NULL THEN 'no deployment' ELSE (v.deployment).image_platform END)
   WHERE (v.worker).id IS NOT NULL $$;
SELECT e.type, d.type AS promoted, version(run_ops.resolve_worker_version(e.id, NULL, e.type::text)) AS of_type,
       version(run_ops.resolve_worker_version(e.id)) AS of_no_type
  FROM "RuntimeEnvironment" AS e
  LEFT JOIN "WorkerDeploymentPromotion" AS p ON p."environmentId" = e.id
  LEFT JOIN "WorkerDeployment" AS d ON d.id = p."deploymentId"
 WHERE e."organizationId" = :'org' ORDER BY e."projectId", e.type::text, e.slug;
SELECT version(run_ops.resolve_worker_version(:'prod', :'worker', 'PRODUCTION')) AS named,
       version(run_ops.resolve_worker_version(:'prod', :'worker', 'DEVELOPMENT')) AS named_in_development,
       version(run_ops.resolve_worker_version(:'prod', :'worker', task_slug => 'task-1', queue_name => 'task/task-3')) AS filtered;
-- A48: of tasks and queues, only those that were asked for, and few columns
SELECT ((run_ops.resolve_worker_version(:'prod', :'worker', task_slug => 'task-1', queue_name => 'task/task-3')).tasks)[1].slug AS task,
       pg_column_size(run_ops.resolve_worker_version(:'prod', :'worker')) AS all_of_them,
       pg_column_size(run_ops.resolve_worker_version(:'prod', :'worker', task_slug => 'task-1', queue_name => 'task/task-3')) AS one,
       (SELECT sum(pg_column_size(t)) FROM "BackgroundWorkerTask" AS t WHERE t."workerId" = :'worker') AS whole_rows_of_tasks;
-- L27: the worker of another environment
SELECT version(run_ops.resolve_worker_version(:'env', :'worker')) AS foreign_worker;
SELECT environment_id = :'prod' AS prod, version(v.version) FROM run_ops.resolve_worker_versions(ARRAY[:'prod', :'dev'], '{}', '{PRODUCTION,DEVELOPMENT}') AS v;
SELECT run_ops.resolve_worker_versions('{x}', '{a,b}');
-- a promotion without a worker has no fallback; nor has an environment without promotion
BEGIN;
UPDATE "WorkerDeployment" SET "workerId" = NULL WHERE "environmentId" = :'prod';
SELECT version(run_ops.resolve_worker_version(:'prod', NULL, 'PRODUCTION'));
ROLLBACK;

-- A47: after a promotion the next question has the new version
UPDATE "WorkerDeployment" SET type = 'MANAGED' WHERE "environmentId" = :'prod';
SELECT version(run_ops.resolve_worker_version(:'prod', NULL, 'PRODUCTION'));
UPDATE "WorkerDeploymentPromotion" SET "deploymentId" = (
  SELECT id FROM "WorkerDeployment" WHERE "environmentId" = :'prod' AND version = '20260101.1')
 WHERE "environmentId" = :'prod';
SELECT version(run_ops.resolve_worker_version(:'prod', NULL, 'PRODUCTION'));
-- A44: and a newer worker in development; by its creation time, not by its id
INSERT INTO "BackgroundWorker" (id, "projectId", "runtimeEnvironmentId", version, metadata, "createdAt", "updatedAt", "contentHash", "friendlyId")
  SELECT 'a', "projectId", id, 'newest', '{}', '2027-01-01', '2027-01-01', '', 'worker_a' FROM "RuntimeEnvironment" WHERE id = :'dev';
SELECT version(run_ops.resolve_worker_version(:'dev', NULL, 'DEVELOPMENT'));

-- The context of an event: its run and its environment (L28).
SELECT run_ops.attach_store('new', 'new');
SELECT count(*) FROM run_ops.attach_all_tables();
SELECT id AS run FROM "TaskRun" ORDER BY "createdAt", id LIMIT 1 \gset
\x on
SELECT (c).status, (c).run, ((c).environment).slug FROM run_ops.run_context(:'run') AS c;
\x off
SELECT (c).status, (c).run, (c).environment FROM run_ops.run_context('no such') AS c;
BEGIN;
UPDATE "TaskRun" SET "runtimeEnvironmentId" = 'gone' WHERE id = :'run';
SELECT run_id = :'run' AS run, (context).status, ((context).environment).id FROM run_ops.run_contexts(ARRAY['no such', :'run']);
ROLLBACK;

-- Nobody may ask who was not granted it; who may need not read the tables, and
-- row security does not decide what is cached.
CREATE ROLE regress_reader;
CREATE ROLE regress_owner;
SELECT run_ops.detach_control_plane();
\set ECHO none
SELECT format('ALTER TABLE %I OWNER TO regress_owner', table_name)
  FROM (SELECT DISTINCT table_name FROM run_ops.control_plane_column) AS c \gexec
\set ECHO all
SELECT run_ops.attach_control_plane('public');
GRANT USAGE ON SCHEMA run_ops TO regress_reader;
SET ROLE regress_reader;
SELECT run_ops.resolve_env(:'env');
RESET ROLE;
GRANT EXECUTE ON FUNCTION run_ops.resolve_env(text) TO regress_reader;
ALTER TABLE "RuntimeEnvironment" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SET ROLE regress_reader;
SELECT (run_ops.resolve_env(:'env')).type;
SELECT (run_ops.resolve_env(:'dev')).type;
SET search_path = '';
SELECT (run_ops.resolve_env(:'env')).type;
RESET ROLE;
RESET search_path;

-- A migration that adds a column changes nothing; one that takes a needed one
-- away is an error until it is undone.
ALTER TABLE "RuntimeEnvironment" ADD more text DEFAULT 'more';
SELECT (run_ops.resolve_env(:'env')).type;
ALTER TABLE "Project" RENAME "externalRef" TO reference;
SELECT (run_ops.resolve_env(:'env')).type;
ALTER TABLE "Project" RENAME reference TO "externalRef";
SELECT (run_ops.resolve_env(:'env')).type;
ALTER SCHEMA public RENAME TO moved;
SELECT (run_ops.resolve_env(:'env')).type;
ALTER SCHEMA moved RENAME TO public;

SELECT run_ops.detach_control_plane();
SELECT run_ops.detach_control_plane();
SELECT count(*) FROM pg_trigger WHERE tgname ~ '^run_ops';
SELECT run_ops.resolve_env(:'env');
REASSIGN OWNED BY regress_owner TO CURRENT_USER;
DROP OWNED BY regress_reader, regress_owner;
DROP ROLE regress_reader, regress_owner;
