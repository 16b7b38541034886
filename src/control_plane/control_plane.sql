
-- control_plane: answers about environments and workers.

CREATE TABLE run_ops.control_plane (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  -- follows a rename of the schema; pg_upgrade takes over no regnamespace
  tables    regclass[] NOT NULL
);
COMMENT ON TABLE run_ops.control_plane IS
  'where the control-plane tables are; no row while none is attached';
COMMENT ON COLUMN run_ops.control_plane.singleton IS 'there is one row at most';
COMMENT ON COLUMN run_ops.control_plane.tables IS
  'the tables as they were attached; those that have not been made anew since tell the schema';
SELECT pg_catalog.pg_extension_config_dump('run_ops.control_plane', '');
GRANT SELECT ON run_ops.control_plane TO PUBLIC;

-- What is needed, and what an answer can contain -------------------------------

CREATE VIEW run_ops.control_plane_column AS
SELECT t.table_name, t.scope, t.key_column, c.n::integer AS position,
       split_part(c.text, ' ', 1) AS column_name, split_part(c.text, ' ', 2) AS type
  FROM (VALUES
    ('Organization', 'organization', 'id',
     'id text, slug text, title text, streamBasinName text, maximumConcurrencyLimit integer, '
     'runsEnabled boolean, maximumDevQueueSize integer, maximumDeployedQueueSize integer, featureFlags jsonb, '
     'apiRateLimiterConfig jsonb, batchRateLimitConfig jsonb, batchQueueConcurrencyConfig jsonb'),
    ('Project', 'project', 'id',
     'id text, slug text, name text, externalRef text, engine enum, deletedAt timestamp, '
     'defaultWorkerGroupId text, organizationId text, builderProjectId text, defaultRuntime text'),
    ('RuntimeEnvironment', 'environment', 'id',
     'id text, slug text, type enum, apiKey text, organizationId text, projectId text, orgMemberId text, '
     'parentEnvironmentId text, branchName text, archivedAt timestamp, paused boolean, shortcode text, '
     'maximumConcurrencyLimit integer, concurrencyLimitBurstFactor numeric, '
     'builtInEnvironmentVariableOverrides jsonb, git jsonb, createdAt timestamp, updatedAt timestamp'),
    ('OrgMember', 'org_member', 'id', 'id text, userId text'),
    ('User', 'user', 'id', 'id text, displayName text, name text'),
    ('BackgroundWorker', 'environment_workers', 'runtimeEnvironmentId',
     'id text, projectId text, runtimeEnvironmentId text, version text, metadata jsonb, createdAt timestamp, '
     'updatedAt timestamp, contentHash text, friendlyId text, cliVersion text, sdkVersion text, '
     'supportsLazyAttempts boolean, workerGroupId text, engine enum, runtime text, runtimeVersion text'),
    ('BackgroundWorkerTask', 'environment_workers', 'runtimeEnvironmentId',
     'id text, runtimeEnvironmentId text, workerId text, slug text, filePath text, exportName text, '
     'machineConfig jsonb, retryConfig jsonb, maxDurationInSeconds integer'),
    ('TaskQueue', 'environment_workers', 'runtimeEnvironmentId',
     'id text, runtimeEnvironmentId text, name text'),
    ('_BackgroundWorkerToTaskQueue', 'worker_queues', 'A', 'A text, B text'),
    ('WorkerDeployment', 'environment_workers', 'environmentId',
     'id text, environmentId text, workerId text, friendlyId text, shortCode text, version text, type enum, '
     'runtime text, runtimeVersion text, git jsonb, imageReference text, imagePlatform text, createdAt timestamp'),
    ('WorkerDeploymentPromotion', 'environment_workers', 'environmentId',
     'environmentId text, label text, deploymentId text'),
    ('FeatureFlag', 'feature_flag', 'key', 'key text, value jsonb')
  ) AS t (table_name, scope, key_column, columns),
  LATERAL regexp_split_to_table(t.columns, ', ') WITH ORDINALITY AS c (text, n);
COMMENT ON VIEW run_ops.control_plane_column IS
  'the columns of the control plane that an answer can depend on, their types, and the epoch that a change of them bumps';
GRANT SELECT ON run_ops.control_plane_column TO PUBLIC;

CREATE FUNCTION run_ops.control_plane_faults(schema name) RETURNS SETOF text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH found AS (
    SELECT t.table_name, c.oid, c.relowner, c.relkind
      FROM (SELECT DISTINCT table_name FROM run_ops.control_plane_column) AS t
      LEFT JOIN (pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = schema)
        ON c.relname = t.table_name),
  fault AS (
    SELECT table_name, 0 AS position, format('table %I.%I: missing', schema, table_name) AS line
      FROM found WHERE oid IS NULL
    UNION ALL
    -- with partitions or children, a key is not unique
    SELECT table_name, 0, format('table %I.%I: is not an ordinary table', schema, table_name)
      FROM found WHERE relkind <> 'r'
    UNION ALL
    SELECT table_name, 0, format('table %I.%I: is owned by %I, "RuntimeEnvironment" by %I', schema, table_name,
                                 pg_get_userbyid(relowner), pg_get_userbyid(owner))
      FROM found, (SELECT relowner AS owner FROM found WHERE table_name = 'RuntimeEnvironment') AS e
     WHERE relowner <> owner
    UNION ALL
    SELECT f.table_name, c.position, format('column %I.%I.%I: %s', schema, f.table_name, c.column_name,
             CASE WHEN a.attname IS NULL THEN 'missing'
                  ELSE format('has type %s instead of %s', format_type(a.atttypid, a.atttypmod), c.type) END)
      FROM found AS f JOIN run_ops.control_plane_column AS c USING (table_name)
      LEFT JOIN (pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid)
        ON a.attrelid = f.oid AND a.attname = c.column_name AND a.attnum > 0 AND NOT a.attisdropped
     WHERE f.relkind = 'r'
       AND NOT coalesce(CASE c.type WHEN 'enum' THEN y.typtype = 'e' ELSE y.oid = to_regtype(c.type) END, false)
    UNION ALL
    SELECT f.table_name, 100, format('column %I.%I.%I: has no unique index', schema, f.table_name, u.column_name)
      FROM found AS f
      JOIN (SELECT table_name, column_name FROM run_ops.control_plane_column WHERE column_name = 'id'
            UNION ALL VALUES ('WorkerDeployment', 'workerId'), ('FeatureFlag', 'key')) AS u USING (table_name)
      JOIN pg_attribute AS a ON a.attrelid = f.oid AND a.attname = u.column_name
     WHERE NOT EXISTS (
       SELECT FROM pg_index AS i
        WHERE i.indrelid = f.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL AND i.indkey::text = a.attnum::text))
  SELECT line FROM fault ORDER BY table_name COLLATE "C", position
$$;
COMMENT ON FUNCTION run_ops.control_plane_faults(name) IS
  'what a schema lacks to be the control plane, one line each';

CREATE FUNCTION run_ops.refuse_control_plane_faults(schema name) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  faults text[] := ARRAY(SELECT run_ops.control_plane_faults(schema));
BEGIN
  IF cardinality(faults) > 0 THEN
    RAISE EXCEPTION 'schema "%" is not a control plane', schema
      USING ERRCODE = 'RO002', DETAIL = array_to_string(faults, E'\n'),
            HINT = 'Bring the tables to the expected shape; more columns than the expected ones do no harm.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_control_plane_faults(name) IS
  'raises one error that lists everything a schema lacks to be the control plane, if there is anything';

CREATE FUNCTION run_ops.control_plane_tables(OUT schema name, OUT owner oid, OUT relation oid)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  SELECT n.nspname INTO schema
    FROM run_ops.control_plane AS p LEFT JOIN pg_class AS c ON c.oid = ANY (p.tables)
    LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
   LIMIT 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no control plane is attached'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Use run_ops.attach_control_plane() with the schema of its tables.';
  END IF;
  PERFORM run_ops.refuse_control_plane_faults(coalesce(schema, '(dropped)'));
  RETURN QUERY
    SELECT n.nspname, c.relowner, c.oid
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = schema
       AND c.relname IN (SELECT k.table_name FROM run_ops.control_plane_column AS k);
END $$;
COMMENT ON FUNCTION run_ops.control_plane_tables() IS
  'the attached control-plane tables, or an error that says what is wrong with them';

-- Attaching -------------------------------------------------------------------

CREATE FUNCTION run_ops.attach_control_plane(schema name DEFAULT 'public') RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t record;
  e record;
BEGIN
  LOCK TABLE run_ops.control_plane IN SHARE ROW EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM run_ops.control_plane) THEN
    RAISE EXCEPTION 'the control plane is attached already, in schema "%"',
        (SELECT c.relnamespace::regnamespace FROM run_ops.control_plane AS p LEFT JOIN pg_class AS c ON c.oid = ANY (p.tables) LIMIT 1)
      USING ERRCODE = 'duplicate_object', HINT = 'run_ops.detach_control_plane() removes it.';
  END IF;
  PERFORM run_ops.refuse_control_plane_faults(schema);
  PERFORM run_ops.refuse_taken_names(format('%I.%I', schema, c.table_name)::regclass,
      '{run_ops_epoch_insert,run_ops_epoch_update,run_ops_epoch_delete,run_ops_epoch_truncate,run_ops_mint_flip,run_ops_mint_stamp,run_ops_cleanup}')
    FROM run_ops.control_plane_column AS c;
  INSERT INTO run_ops.control_plane (tables)
  SELECT array_agg(DISTINCT format('%I.%I', schema, c.table_name)::regclass) FROM run_ops.control_plane_column AS c;
  -- the resolver's queries run as the owner of the tables and name types of this schema
  EXECUTE format('GRANT USAGE ON SCHEMA run_ops TO %I', (
    SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c
     WHERE c.oid = format('%I."RuntimeEnvironment"', schema)::regclass));
  FOR t IN
    SELECT c.table_name, format('%L, %L, %L', c.scope, c.key_column,
             string_agg(c.column_name, ' ' ORDER BY c.position)) AS arguments
      FROM run_ops.control_plane_column AS c GROUP BY c.table_name, c.scope, c.key_column
     ORDER BY c.table_name COLLATE "C"
  LOOP
    FOR e IN
      SELECT * FROM (VALUES
        ('insert', 'REFERENCING NEW TABLE AS rows_after'),
        ('update', 'REFERENCING OLD TABLE AS rows_before NEW TABLE AS rows_after'),
        ('delete', 'REFERENCING OLD TABLE AS rows_before'),
        ('truncate', '')) AS v (event, transition)
    LOOP
      EXECUTE format('CREATE TRIGGER %I AFTER %s ON %I.%I %s FOR EACH STATEMENT EXECUTE FUNCTION run_ops.bump_changed(%s)',
                     'run_ops_epoch_' || e.event, e.event, schema, t.table_name, e.transition, t.arguments);
      -- also for writers that replicate: a cache outside cannot see the row itself
      EXECUTE format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER %I',
                     schema, t.table_name, 'run_ops_epoch_' || e.event);
    END LOOP;
  END LOOP;
  -- what a cache outside remembers may have changed while there were no triggers
  PERFORM run_ops.bump_epoch(c.scope, '*') FROM run_ops.control_plane_column AS c GROUP BY c.scope;
  PERFORM run_ops.install_mint_flip_triggers(schema), run_ops.attach_cleanup(schema);
END $$;
COMMENT ON FUNCTION run_ops.attach_control_plane(name) IS
  'makes the tables of a schema the control plane, after checking all that is needed of them; installs the triggers that bump epochs, stamp flips of the mint kind and ask for cleanup';
REVOKE EXECUTE ON FUNCTION run_ops.attach_control_plane(name) FROM PUBLIC;

CREATE FUNCTION run_ops.detach_control_plane() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t record;
BEGIN
  LOCK TABLE run_ops.control_plane IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM run_ops.control_plane;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no control plane is attached'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  FOR t IN SELECT tgname, tgrelid::regclass AS relation FROM pg_trigger
            WHERE tgfoid IN ('run_ops.bump_changed()'::regprocedure, 'run_ops.enqueue_deleted()'::regprocedure)
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.relation);
  END LOOP;
  PERFORM run_ops.remove_mint_flip_triggers();
  DELETE FROM run_ops.cache_epoch;
END $$;
COMMENT ON FUNCTION run_ops.detach_control_plane() IS
  'removes the triggers and the epochs of the control plane and forgets where it is; its tables stay as they are';
REVOKE EXECUTE ON FUNCTION run_ops.detach_control_plane() FROM PUBLIC;

-- What the answers look like ----------------------------------------------------
-- Types of their own: a migration of a table does not change them.

CREATE TYPE run_ops.resolved_env AS (
  id text, type text, project_id text, organization_id text, archived_at timestamp,
  parent_environment_type text, maximum_concurrency_limit integer,
  concurrency_limit_burst_factor numeric);
COMMENT ON TYPE run_ops.resolved_env IS
  'an environment as runs need it; organization_id is that of its project';

CREATE TYPE run_ops.env_project AS (
  id text, slug text, name text, external_ref text, engine text, deleted_at timestamp,
  default_worker_group_id text, organization_id text, builder_project_id text, default_runtime text);
COMMENT ON TYPE run_ops.env_project IS 'the project of an environment; default_runtime is NULL when it is not a known one';
CREATE TYPE run_ops.env_organization AS (
  id text, slug text, title text, stream_basin_name text, maximum_concurrency_limit integer,
  runs_enabled boolean, maximum_dev_queue_size integer, maximum_deployed_queue_size integer,
  feature_flags jsonb, api_rate_limiter_config jsonb, batch_rate_limit_config jsonb,
  batch_queue_concurrency_config jsonb);
COMMENT ON TYPE run_ops.env_organization IS 'the organization of an environment';
CREATE TYPE run_ops.env_user AS (id text, display_name text, name text);
COMMENT ON TYPE run_ops.env_user IS 'the user of an organization''s member';
CREATE TYPE run_ops.env_org_member AS (user_id text, "user" run_ops.env_user);
COMMENT ON TYPE run_ops.env_org_member IS 'the member whose development environment it is';
CREATE TYPE run_ops.env_parent AS (id text, api_key text);
COMMENT ON TYPE run_ops.env_parent IS 'the environment of which this one is a branch';
CREATE TYPE run_ops.authenticated_env AS (
  id text, slug text, type text, api_key text, organization_id text, project_id text,
  org_member_id text, parent_environment_id text, branch_name text, archived_at timestamp,
  paused boolean, shortcode text, maximum_concurrency_limit integer,
  concurrency_limit_burst_factor double precision, built_in_environment_variable_overrides jsonb,
  created_at timestamp, updated_at timestamp, git jsonb,
  project run_ops.env_project, organization run_ops.env_organization,
  org_member run_ops.env_org_member, parent_environment run_ops.env_parent);
COMMENT ON TYPE run_ops.authenticated_env IS
  'an environment with its project, organization, member and parent, and its API key';

CREATE TYPE run_ops.locked_deployment AS (
  friendly_id text, short_code text, version text, runtime text, runtime_version text, git jsonb);
COMMENT ON TYPE run_ops.locked_deployment IS 'the deployment of a worker';
CREATE TYPE run_ops.locked_task_worker AS (
  id text, version text, sdk_version text, cli_version text, supports_lazy_attempts boolean,
  deployment run_ops.locked_deployment);
COMMENT ON TYPE run_ops.locked_task_worker IS 'the worker of a task, with its deployment if it has one';
CREATE TYPE run_ops.locked_task AS (
  id text, file_path text, export_name text, slug text, machine_config jsonb, worker run_ops.locked_task_worker);
COMMENT ON TYPE run_ops.locked_task IS 'the task of a worker that a run is locked by';
CREATE TYPE run_ops.locked_version AS (
  version text, sdk_version text, runtime text, runtime_version text, supports_lazy_attempts boolean);
COMMENT ON TYPE run_ops.locked_version IS 'the worker that a run is locked to';
CREATE TYPE run_ops.run_locked_worker AS (locked_by run_ops.locked_task, locked_to_version run_ops.locked_version);
COMMENT ON TYPE run_ops.run_locked_worker IS 'what a run is locked by and to; either part may be NULL';

CREATE TYPE run_ops.worker AS (
  id text, project_id text, runtime_environment_id text, version text, metadata jsonb,
  created_at timestamp, updated_at timestamp, content_hash text, friendly_id text, cli_version text,
  sdk_version text, supports_lazy_attempts boolean, worker_group_id text, engine text, runtime text,
  runtime_version text);
COMMENT ON TYPE run_ops.worker IS 'a worker';
CREATE TYPE run_ops.worker_task AS (
  id text, slug text, machine_config jsonb, retry_config jsonb, max_duration_in_seconds integer);
COMMENT ON TYPE run_ops.worker_task IS 'a task of a worker';
CREATE TYPE run_ops.worker_queue AS (id text, name text);
COMMENT ON TYPE run_ops.worker_queue IS 'a queue of a worker';
CREATE TYPE run_ops.worker_deployment AS (id text, friendly_id text, image_reference text, image_platform text);
COMMENT ON TYPE run_ops.worker_deployment IS 'the deployment of a worker';
CREATE TYPE run_ops.worker_version AS (
  worker run_ops.worker, tasks run_ops.worker_task[], queues run_ops.worker_queue[],
  deployment run_ops.worker_deployment);
COMMENT ON TYPE run_ops.worker_version IS
  'the worker that runs of an environment start on, its tasks by slug, its queues by name, its deployment if it has one';

-- The questions --------------------------------------------------------------------
-- A query gets arrays of keys and returns: the position of the key, the answer,
-- whether the answer depends on nothing but the rows named next (an absent row
-- has no version), and tableoid, ctid, xmin of each of these rows.  ONLY, and
-- every row through a unique key: then one snapshot sees one version of it.

CREATE FUNCTION run_ops.control_plane_query(question text, schema text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $q$
SELECT format(CASE question

WHEN 'env' THEN $$
  SELECT k.n,
         ROW(e.id, e.type::text, e."projectId", p."organizationId", e."archivedAt", parent.type::text,
             e."maximumConcurrencyLimit", e."concurrencyLimitBurstFactor")::run_ops.resolved_env,
         e."parentEnvironmentId" IS NULL OR parent.id IS NOT NULL,
         e.tableoid, e.ctid, e.xmin, p.tableoid, p.ctid, p.xmin, parent.tableoid, parent.ctid, parent.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."RuntimeEnvironment" AS e ON e.id = k.id
    JOIN ONLY %1$I."Project" AS p ON p.id = e."projectId"
    LEFT JOIN ONLY %1$I."RuntimeEnvironment" AS parent ON parent.id = e."parentEnvironmentId" $$

-- authenticated_env is NULL for a deleted project, event_env is not
WHEN 'authenticated_env' THEN
  replace(run_ops.control_plane_query('event_env', schema), 'CASE WHEN true', 'CASE WHEN p."deletedAt" IS NULL')

WHEN 'event_env' THEN $$
  SELECT k.n,
         CASE WHEN true THEN
         ROW(e.id, e.slug, e.type::text, e."apiKey", e."organizationId", e."projectId", e."orgMemberId",
             e."parentEnvironmentId", e."branchName", e."archivedAt", e.paused, e.shortcode,
             e."maximumConcurrencyLimit", e."concurrencyLimitBurstFactor"::double precision,
             e."builtInEnvironmentVariableOverrides", e."createdAt", e."updatedAt", e.git,
             ROW(p.id, p.slug, p.name, p."externalRef", p.engine::text, p."deletedAt", p."defaultWorkerGroupId",
                 p."organizationId", p."builderProjectId",
                 CASE WHEN p."defaultRuntime" IN ('node', 'node-22', 'bun') THEN p."defaultRuntime" END
                )::run_ops.env_project,
             ROW(o.id, o.slug, o.title, o."streamBasinName", o."maximumConcurrencyLimit", o."runsEnabled",
                 o."maximumDevQueueSize", o."maximumDeployedQueueSize", o."featureFlags", o."apiRateLimiterConfig",
                 o."batchRateLimitConfig", o."batchQueueConcurrencyConfig")::run_ops.env_organization,
             CASE WHEN m.id IS NOT NULL THEN
               ROW(m."userId", ROW(u.id, u."displayName", u.name)::run_ops.env_user)::run_ops.env_org_member END,
             CASE WHEN parent.id IS NOT NULL THEN ROW(parent.id, parent."apiKey")::run_ops.env_parent END
            )::run_ops.authenticated_env END,
         (e."orgMemberId" IS NULL OR u.id IS NOT NULL) AND (e."parentEnvironmentId" IS NULL OR parent.id IS NOT NULL),
         e.tableoid, e.ctid, e.xmin, p.tableoid, p.ctid, p.xmin, o.tableoid, o.ctid, o.xmin,
         m.tableoid, m.ctid, m.xmin, u.tableoid, u.ctid, u.xmin, parent.tableoid, parent.ctid, parent.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."RuntimeEnvironment" AS e ON e.id = k.id
    JOIN ONLY %1$I."Project" AS p ON p.id = e."projectId"
    JOIN ONLY %1$I."Organization" AS o ON o.id = e."organizationId"
    LEFT JOIN ONLY %1$I."OrgMember" AS m ON m.id = e."orgMemberId"
    LEFT JOIN ONLY %1$I."User" AS u ON u.id = m."userId"
    LEFT JOIN ONLY %1$I."RuntimeEnvironment" AS parent ON parent.id = e."parentEnvironmentId" $$

WHEN 'env_exists' THEN $$
  SELECT k.n, true, true, e.tableoid, e.ctid, e.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."RuntimeEnvironment" AS e ON e.id = k.id $$

-- For mint_kind.c: what the flags of the environment's organization say
WHEN 'mint_flags' THEN $$
  SELECT k.n,
         jsonb_build_object('organization', e."organizationId", 'flags', run_ops.mint_flags(o."featureFlags")),
         o.id IS NOT NULL, e.tableoid, e.ctid, e.xmin, o.tableoid, o.ctid, o.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."RuntimeEnvironment" AS e ON e.id = k.id
    LEFT JOIN ONLY %1$I."Organization" AS o ON o.id = e."organizationId" $$

-- A worker without a deployment may get one: not cached
WHEN 'locked_task' THEN $$
  SELECT k.n,
         ROW(t.id, t."filePath", t."exportName", t.slug, t."machineConfig",
             ROW(w.id, w.version, w."sdkVersion", w."cliVersion", w."supportsLazyAttempts",
                 CASE WHEN d.id IS NOT NULL THEN
                   ROW(d."friendlyId", d."shortCode", d.version, d.runtime, d."runtimeVersion", d.git
                      )::run_ops.locked_deployment END
                )::run_ops.locked_task_worker
            )::run_ops.locked_task,
         d.id IS NOT NULL,
         t.tableoid, t.ctid, t.xmin, w.tableoid, w.ctid, w.xmin, d.tableoid, d.ctid, d.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."BackgroundWorkerTask" AS t ON t.id = k.id
    JOIN ONLY %1$I."BackgroundWorker" AS w ON w.id = t."workerId"
    LEFT JOIN ONLY %1$I."WorkerDeployment" AS d ON d."workerId" = w.id $$

WHEN 'locked_version' THEN $$
  SELECT k.n,
         ROW(w.version, w."sdkVersion", w.runtime, w."runtimeVersion", w."supportsLazyAttempts"
            )::run_ops.locked_version,
         true, w.tableoid, w.ctid, w.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."BackgroundWorker" AS w ON w.id = k.id $$

-- Depends on sets of rows (the newest worker, the newest deployment): not cached
WHEN 'worker_version' THEN $$
  SELECT k.n,
         ROW(ROW(w.id, w."projectId", w."runtimeEnvironmentId", w.version, w.metadata, w."createdAt",
                 w."updatedAt", w."contentHash", w."friendlyId", w."cliVersion", w."sdkVersion",
                 w."supportsLazyAttempts", w."workerGroupId", w.engine::text, w.runtime, w."runtimeVersion"
                )::run_ops.worker,
             ARRAY(SELECT ROW(t.id, t.slug, t."machineConfig", t."retryConfig", t."maxDurationInSeconds"
                             )::run_ops.worker_task
                     FROM ONLY %1$I."BackgroundWorkerTask" AS t
                    WHERE t."workerId" = w.id AND (k.task_slug IS NULL OR t.slug = k.task_slug)
                    ORDER BY t.slug COLLATE "C"),
             ARRAY(SELECT ROW(q.id, q.name)::run_ops.worker_queue
                     FROM ONLY %1$I."_BackgroundWorkerToTaskQueue" AS l
                     JOIN ONLY %1$I."TaskQueue" AS q ON q.id = l."B"
                    WHERE l."A" = w.id
                      AND CASE WHEN k.queue_id IS NOT NULL THEN q.id = k.queue_id
                               ELSE k.queue_name IS NULL OR q.name = k.queue_name END
                    ORDER BY q.name COLLATE "C"),
             CASE WHEN d.id IS NOT NULL THEN
               ROW(d.id, d."friendlyId", d."imageReference", d."imagePlatform")::run_ops.worker_deployment END
            )::run_ops.worker_version,
         false
    FROM unnest($1, $2, $3, $4, $5, $6) WITH ORDINALITY
           AS k (environment_id, worker_id, type, task_slug, queue_id, queue_name, n)
    LEFT JOIN LATERAL (
      SELECT c."workerId", c.type::text
        FROM ONLY %1$I."WorkerDeploymentPromotion" AS promotion
        JOIN ONLY %1$I."WorkerDeployment" AS c ON c.id = promotion."deploymentId"
       WHERE promotion."environmentId" = k.environment_id AND promotion.label = 'current'
         AND k.worker_id IS NULL) AS current ON true
    JOIN ONLY %1$I."BackgroundWorker" AS w
      ON w."runtimeEnvironmentId" = k.environment_id
     AND w.id = CASE
           WHEN k.worker_id IS NOT NULL THEN k.worker_id
           WHEN k.type = 'DEVELOPMENT' THEN
             (SELECT newest.id FROM ONLY %1$I."BackgroundWorker" AS newest
               WHERE newest."runtimeEnvironmentId" = k.environment_id
               ORDER BY newest."createdAt" DESC, newest.id COLLATE "C" DESC LIMIT 1)
           WHEN k.type IN ('STAGING', 'PREVIEW', 'PRODUCTION')
                AND current."workerId" IS NOT NULL AND current.type <> 'MANAGED' THEN
             (SELECT newest."workerId" FROM ONLY %1$I."WorkerDeployment" AS newest
               WHERE newest."environmentId" = k.environment_id AND newest.type::text = 'MANAGED'
               ORDER BY newest."createdAt" DESC, newest.id COLLATE "C" DESC LIMIT 1)
           ELSE current."workerId" END
    LEFT JOIN ONLY %1$I."WorkerDeployment" AS d
      ON d."workerId" = w.id AND NOT (k.worker_id IS NULL AND k.type IS NOT DISTINCT FROM 'DEVELOPMENT') $$
END, schema)
$q$;
COMMENT ON FUNCTION run_ops.control_plane_query(text, text) IS
  'the query behind each question about the control plane';

-- The resolver ----------------------------------------------------------------------
-- STABLE: an answer is of the calling query's snapshot.  Nothing for PUBLIC:
-- the tables are read as their owner, and answers contain API keys.

CREATE FUNCTION run_ops.resolve_env(environment_id text) RETURNS run_ops.resolved_env
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_env';
COMMENT ON FUNCTION run_ops.resolve_env(text) IS
  'an environment, also an archived one or one of a deleted project; NULL when there is none';
CREATE FUNCTION run_ops.resolve_envs(environment_ids text[])
  RETURNS TABLE (environment_id text, env run_ops.resolved_env)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_env_set';
COMMENT ON FUNCTION run_ops.resolve_envs(text[]) IS
  'resolve_env() of each element, in its order; one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_authenticated_env(environment_id text) RETURNS run_ops.authenticated_env
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_authenticated_env';
COMMENT ON FUNCTION run_ops.resolve_authenticated_env(text) IS
  'an environment with all that authentication needs; NULL when there is none or its project is deleted';
CREATE FUNCTION run_ops.resolve_authenticated_envs(environment_ids text[])
  RETURNS TABLE (environment_id text, env run_ops.authenticated_env)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_authenticated_env_set';
COMMENT ON FUNCTION run_ops.resolve_authenticated_envs(text[]) IS
  'resolve_authenticated_env() of each element, in its order; one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_event_env(environment_id text) RETURNS run_ops.authenticated_env
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_event_env';
COMMENT ON FUNCTION run_ops.resolve_event_env(text) IS
  'as resolve_authenticated_env(), but also for a deleted project: its runs still have events';
CREATE FUNCTION run_ops.resolve_event_envs(environment_ids text[])
  RETURNS TABLE (environment_id text, env run_ops.authenticated_env)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_event_env_set';
COMMENT ON FUNCTION run_ops.resolve_event_envs(text[]) IS
  'resolve_event_env() of each element, in its order; one query for all that are not cached';

CREATE FUNCTION run_ops.env_exists(environment_id text) RETURNS boolean
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_env_exists';
COMMENT ON FUNCTION run_ops.env_exists(text) IS 'true when there is such an environment, else NULL';
CREATE FUNCTION run_ops.envs_exist(environment_ids text[])
  RETURNS TABLE (environment_id text, env_exists boolean)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_env_exists_set';
COMMENT ON FUNCTION run_ops.envs_exist(text[]) IS
  'env_exists() of each element, in its order; one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_locked_task(task_id text) RETURNS run_ops.locked_task
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_task';
COMMENT ON FUNCTION run_ops.resolve_locked_task(text) IS 'a task of a worker; NULL when there is none';
CREATE FUNCTION run_ops.resolve_locked_tasks(task_ids text[])
  RETURNS TABLE (task_id text, task run_ops.locked_task)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_task_set';
COMMENT ON FUNCTION run_ops.resolve_locked_tasks(text[]) IS
  'resolve_locked_task() of each element, in its order; one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_locked_version(worker_id text) RETURNS run_ops.locked_version
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_version';
COMMENT ON FUNCTION run_ops.resolve_locked_version(text) IS 'a worker as its runs need it; NULL when there is none';
CREATE FUNCTION run_ops.resolve_locked_versions(worker_ids text[])
  RETURNS TABLE (worker_id text, version run_ops.locked_version)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_version_set';
COMMENT ON FUNCTION run_ops.resolve_locked_versions(text[]) IS
  'resolve_locked_version() of each element, in its order; one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_run_locked_worker(locked_by_id text, locked_to_version_id text)
  RETURNS run_ops.run_locked_worker
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN ROW(run_ops.resolve_locked_task(locked_by_id),
             run_ops.resolve_locked_version(locked_to_version_id))::run_ops.run_locked_worker;
COMMENT ON FUNCTION run_ops.resolve_run_locked_worker(text, text) IS
  'the task that a run is locked by and the worker it is locked to: never NULL, each part is when its id is or there is no such row';
CREATE FUNCTION run_ops.resolve_run_locked_workers(locked_by_ids text[], locked_to_version_ids text[])
  RETURNS TABLE (locked_by_id text, locked_to_version_id text, locked run_ops.run_locked_worker)
  LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT a.task_id, a.worker_id, ROW(a.task, a.version)::run_ops.run_locked_worker
    FROM ROWS FROM (run_ops.resolve_locked_tasks(coalesce(locked_by_ids, '{}')),
                    run_ops.resolve_locked_versions(coalesce(locked_to_version_ids, '{}')))
           AS a (task_id, task, worker_id, version)
$$;
COMMENT ON FUNCTION run_ops.resolve_run_locked_workers(text[], text[]) IS
  'resolve_run_locked_worker() of each pair, in its order; a shorter or NULL array counts as filled with NULL';

CREATE FUNCTION run_ops.resolve_worker_versions(
    environment_ids text[], worker_ids text[] DEFAULT '{}', types text[] DEFAULT '{}',
    task_slugs text[] DEFAULT '{}', queue_ids text[] DEFAULT '{}', queue_names text[] DEFAULT '{}')
  RETURNS TABLE (environment_id text, version run_ops.worker_version)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_worker_version_set';
COMMENT ON FUNCTION run_ops.resolve_worker_versions(text[], text[], text[], text[], text[], text[]) IS
  'resolve_worker_version() of each environment, in its order, by one query; the other arrays are parallel to the first, or shorter';
CREATE FUNCTION run_ops.resolve_worker_version(
    environment_id text, worker_id text DEFAULT NULL, type text DEFAULT NULL,
    task_slug text DEFAULT NULL, queue_id text DEFAULT NULL, queue_name text DEFAULT NULL)
  RETURNS run_ops.worker_version
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN (SELECT v.version FROM run_ops.resolve_worker_versions(
            ARRAY[environment_id], ARRAY[worker_id], ARRAY[type],
            ARRAY[task_slug], ARRAY[queue_id], ARRAY[queue_name]) AS v);
COMMENT ON FUNCTION run_ops.resolve_worker_version(text, text, text, text, text, text) IS
  'the worker a run starts on: the one of the id, if it is of the environment; the newest one in DEVELOPMENT; else the promoted one, or in STAGING, PREVIEW and PRODUCTION the newest MANAGED one where the promoted is not; never cached; only the named task and queue if any is named';

CREATE FUNCTION run_ops.assert_envs_exist(environment_ids text[]) RETURNS void
  LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  missing text;
BEGIN
  -- a foreign key does the work while there is only one store
  IF NOT run_ops.split_enabled() THEN
    RETURN;
  END IF;
  SELECT string_agg(coalesce(quote_literal(e.environment_id), 'NULL'), ', ') INTO missing
    FROM run_ops.envs_exist(environment_ids) AS e WHERE e.env_exists IS NULL;
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'there is no environment %', missing
      USING ERRCODE = 'foreign_key_violation',
            DETAIL = 'A row of another store may only refer to an environment of the control plane.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.assert_envs_exist(text[]) IS
  'an error that lists the environments that do not exist; does nothing while split is off';
CREATE FUNCTION run_ops.assert_env_exists(environment_id text) RETURNS void
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN run_ops.assert_envs_exist(ARRAY[environment_id]);
COMMENT ON FUNCTION run_ops.assert_env_exists(text) IS
  'an error when the environment does not exist; does nothing while split is off';

-- The run of an event ------------------------------------------------------------

CREATE TYPE run_ops.run_context_status AS ENUM ('found', 'run-not-found', 'environment-unresolved');
COMMENT ON TYPE run_ops.run_context_status IS 'what a run''s context lacks, if anything';
CREATE TYPE run_ops.event_run AS (
  id text, friendly_id text, trace_id text, span_id text, parent_span_id text, created_at timestamp,
  completed_at timestamp, task_identifier text, project_id text, runtime_environment_id text,
  environment_type text, is_test boolean, organization_id text, task_event_store text, run_tags text[],
  batch_id text);
COMMENT ON TYPE run_ops.event_run IS 'a run as its events need it';
CREATE TYPE run_ops.run_context AS (
  status run_ops.run_context_status, run run_ops.event_run, environment run_ops.authenticated_env);
COMMENT ON TYPE run_ops.run_context IS 'a run and its environment, as events need them';

CREATE FUNCTION run_ops.run_contexts(run_ids text[])
  RETURNS TABLE (run_id text, context run_ops.run_context)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  owned    regclass;
  relation text;
  runs     run_ops.event_run[];
  answer   record;
BEGIN
  SELECT format('%I."TaskRun"', t.schema)::regclass INTO owned
    FROM (SELECT DISTINCT schema FROM run_ops.control_plane_tables()) AS t;
  relation := coalesce((SELECT r.view FROM run_ops.routed_table AS r WHERE r.legacy = owned), owned);
  runs := (SELECT a.runs FROM run_ops.as_owner(owned, format($q$
    SELECT array_agg(ROW(x.id::text, x."friendlyId"::text, x."traceId"::text, x."spanId"::text, x."parentSpanId"::text,
                         x."createdAt"::timestamp, x."completedAt"::timestamp, x."taskIdentifier"::text, x."projectId"::text,
                         x."runtimeEnvironmentId"::text, x."environmentType"::text, x."isTest"::boolean,
                         x."organizationId"::text, x."taskEventStore"::text, x."runTags"::text[], x."batchId"::text)::run_ops.event_run)
      FROM %s AS x WHERE x.id %s $q$, relation, run_ops.equals_text(owned, 'id', '$1', true)),
    run_ids) AS a (runs run_ops.event_run[]));
  FOR answer IN
    SELECT k.id,
           ROW(CASE WHEN r.id IS NULL THEN 'run-not-found' WHEN (e.env).id IS NULL THEN 'environment-unresolved'
                    ELSE 'found' END::run_ops.run_context_status,
               r.run, e.env)::run_ops.run_context AS context
      FROM unnest(run_ids) WITH ORDINALITY AS k (id, n)
      LEFT JOIN (SELECT u.id, u AS run FROM unnest(runs) AS u) AS r ON r.id = k.id
      LEFT JOIN run_ops.resolve_event_envs(
                  ARRAY(SELECT DISTINCT u.runtime_environment_id FROM unnest(runs) AS u)) AS e
        ON e.environment_id = (r.run).runtime_environment_id
     ORDER BY k.n
  LOOP
    run_id := answer.id;
    context := answer.context;
    IF context.status = 'environment-unresolved' THEN
      RAISE WARNING 'run % has environment %, which does not exist', run_id, (context.run).runtime_environment_id;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.run_contexts(text[]) IS
  'run_context() of each element, in its order; one query per store and one for the environments';
CREATE FUNCTION run_ops.run_context(run_id text) RETURNS run_ops.run_context
  LANGUAGE sql STABLE
  RETURN (SELECT c.context FROM run_ops.run_contexts(ARRAY[run_id]) AS c);
COMMENT ON FUNCTION run_ops.run_context(text) IS
  'a run, read through its view, and its environment, also of a deleted project; its status tells a missing run from a missing environment, which is a WARNING as well';

DO $$
DECLARE
  f regprocedure;
BEGIN
  FOR f IN SELECT oid FROM pg_catalog.pg_proc
            WHERE pronamespace = 'run_ops'::pg_catalog.regnamespace
              AND proname ~ '^(resolve_.*(env|task|version|worker)s?|envs?_exists?|assert_envs?_exists?|run_contexts?)$'
  LOOP
    EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
  END LOOP;
END $$;
