
-- control_plane: answers about environments and workers.

CREATE TABLE run_ops.control_plane (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  -- tables instead of their schema, because pg_upgrade does not support columns
  -- of type regnamespace, and a name would not follow a rename
  tables    regclass[] NOT NULL
);
COMMENT ON TABLE run_ops.control_plane IS
  'the attached control-plane tables; empty while no control plane is attached';
COMMENT ON COLUMN run_ops.control_plane.singleton IS 'always true: the table has at most one row';
COMMENT ON COLUMN run_ops.control_plane.tables IS
  'the tables when they were attached; those that still exist determine the schema';
SELECT pg_catalog.pg_extension_config_dump('run_ops.control_plane', '');
GRANT SELECT ON run_ops.control_plane TO PUBLIC;

-- The columns that answers depend on -------------------------------------------

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
  'the columns of the control plane on which answers depend, their types, and the scope and key of the epoch that changes with them';
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
    -- a key is not unique in a partitioned table or a table with children
    SELECT table_name, 0, format('table %I.%I: not an ordinary table', schema, table_name)
      FROM found WHERE relkind <> 'r'
    UNION ALL
    SELECT table_name, 0, format('table %I.%I: owned by %I, but "RuntimeEnvironment" by %I', schema, table_name,
                                 pg_get_userbyid(relowner), pg_get_userbyid(owner))
      FROM found, (SELECT relowner AS owner FROM found WHERE table_name = 'RuntimeEnvironment') AS e
     WHERE relowner <> owner
    UNION ALL
    SELECT f.table_name, c.position, format('column %I.%I.%I: %s', schema, f.table_name, c.column_name,
             CASE WHEN a.attname IS NULL THEN 'missing'
                  ELSE format('type %s instead of %s', format_type(a.atttypid, a.atttypmod), c.type) END)
      FROM found AS f JOIN run_ops.control_plane_column AS c USING (table_name)
      LEFT JOIN (pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid)
        ON a.attrelid = f.oid AND a.attname = c.column_name AND a.attnum > 0 AND NOT a.attisdropped
     WHERE f.relkind = 'r'
       AND NOT coalesce(CASE c.type WHEN 'enum' THEN y.typtype = 'e' ELSE y.oid = to_regtype(c.type) END, false)
    UNION ALL
    SELECT f.table_name, 100, format('column %I.%I.%I: no unique index', schema, f.table_name, u.column_name)
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
  'what is missing or wrong in a schema for the control plane, one line for each';

CREATE FUNCTION run_ops.refuse_control_plane_faults(schema name) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  faults text[] := ARRAY(SELECT run_ops.control_plane_faults(schema));
BEGIN
  IF cardinality(faults) > 0 THEN
    RAISE EXCEPTION 'schema "%" is not a control plane', schema
      USING ERRCODE = 'RO002', DETAIL = array_to_string(faults, E'\n'),
            HINT = 'Correct the tables. Additional columns do no harm.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_control_plane_faults(name) IS
  'raises one error with everything that is missing or wrong in a schema for the control plane, if there is anything';

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
            HINT = 'Name the schema of its tables: SELECT run_ops.attach_control_plane(''public'');';
  END IF;
  PERFORM run_ops.refuse_control_plane_faults(coalesce(schema, '(dropped)'));
  RETURN QUERY
    SELECT n.nspname, c.relowner, c.oid
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = schema
       AND c.relname IN (SELECT k.table_name FROM run_ops.control_plane_column AS k);
END $$;
COMMENT ON FUNCTION run_ops.control_plane_tables() IS
  'the attached control-plane tables; raises an error if something is missing or wrong';

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
    RAISE EXCEPTION 'the control plane is already attached, in schema "%"',
        (SELECT c.relnamespace::regnamespace FROM run_ops.control_plane AS p LEFT JOIN pg_class AS c ON c.oid = ANY (p.tables) LIMIT 1)
      USING ERRCODE = 'duplicate_object', HINT = 'To detach it: SELECT run_ops.detach_control_plane();';
  END IF;
  PERFORM run_ops.refuse_control_plane_faults(schema);
  PERFORM run_ops.refuse_taken_names(format('%I.%I', schema, c.table_name)::regclass,
      '{run_ops_epoch_insert,run_ops_epoch_update,run_ops_epoch_delete,run_ops_epoch_truncate,run_ops_mint_flip,run_ops_mint_stamp,run_ops_cleanup}')
    FROM run_ops.control_plane_column AS c;
  INSERT INTO run_ops.control_plane (tables)
  SELECT array_agg(DISTINCT format('%I.%I', schema, c.table_name)::regclass) FROM run_ops.control_plane_column AS c;
  -- the queries of the resolver functions run as the owner of the tables, and use
  -- types of schema run_ops
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
      -- also when replication writes the table, because caches outside the
      -- database depend on the epochs
      EXECUTE format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER %I',
                     schema, t.table_name, 'run_ops_epoch_' || e.event);
    END LOOP;
  END LOOP;
  -- values in caches outside the database may have changed while there were no triggers
  PERFORM run_ops.bump_epoch(c.scope, '*') FROM run_ops.control_plane_column AS c GROUP BY c.scope;
  PERFORM run_ops.install_mint_flip_triggers(schema), run_ops.attach_cleanup(schema);
  -- an answer that depends on a row that does not exist could not be cached
  INSERT INTO run_ops.mint_shards DEFAULT VALUES ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION run_ops.attach_control_plane(name) IS
  'makes the tables of a schema the control plane, and checks their columns first; creates the triggers that change epochs, record flips of the mint kind, and queue deletions';
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
  DELETE FROM run_ops.committed_epoch;
END $$;
COMMENT ON FUNCTION run_ops.detach_control_plane() IS
  'removes the triggers and epochs of the control plane, and its registration, but does not change its tables';
REVOKE EXECUTE ON FUNCTION run_ops.detach_control_plane() FROM PUBLIC;

-- The types of the answers -------------------------------------------------------
-- Not the row types of the tables, so that a migration does not change them.

CREATE TYPE run_ops.resolved_env AS (
  id text, type text, project_id text, organization_id text, archived_at timestamp,
  parent_environment_type text, maximum_concurrency_limit integer,
  concurrency_limit_burst_factor numeric);
COMMENT ON TYPE run_ops.resolved_env IS
  'an environment, with the columns that runs need; organization_id is that of its project';

CREATE TYPE run_ops.env_project AS (
  id text, slug text, name text, external_ref text, engine text, deleted_at timestamp,
  default_worker_group_id text, organization_id text, builder_project_id text, default_runtime text);
COMMENT ON TYPE run_ops.env_project IS 'the project of an environment; default_runtime is NULL if it is not a known runtime';
CREATE TYPE run_ops.env_organization AS (
  id text, slug text, title text, stream_basin_name text, maximum_concurrency_limit integer,
  runs_enabled boolean, maximum_dev_queue_size integer, maximum_deployed_queue_size integer,
  feature_flags jsonb, api_rate_limiter_config jsonb, batch_rate_limit_config jsonb,
  batch_queue_concurrency_config jsonb);
COMMENT ON TYPE run_ops.env_organization IS 'the organization of an environment';
CREATE TYPE run_ops.env_user AS (id text, display_name text, name text);
COMMENT ON TYPE run_ops.env_user IS 'the user of a member of an organization';
CREATE TYPE run_ops.env_org_member AS (user_id text, "user" run_ops.env_user);
COMMENT ON TYPE run_ops.env_org_member IS 'the member to whom a development environment belongs';
CREATE TYPE run_ops.env_parent AS (id text, api_key text);
COMMENT ON TYPE run_ops.env_parent IS 'the parent of a branch environment';
CREATE TYPE run_ops.authenticated_env AS (
  id text, slug text, type text, api_key text, organization_id text, project_id text,
  org_member_id text, parent_environment_id text, branch_name text, archived_at timestamp,
  paused boolean, shortcode text, maximum_concurrency_limit integer,
  concurrency_limit_burst_factor double precision, built_in_environment_variable_overrides jsonb,
  created_at timestamp, updated_at timestamp, git jsonb,
  project run_ops.env_project, organization run_ops.env_organization,
  org_member run_ops.env_org_member, parent_environment run_ops.env_parent);
COMMENT ON TYPE run_ops.authenticated_env IS
  'an environment with its API key, project, organization, member and parent';

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
COMMENT ON TYPE run_ops.run_locked_worker IS 'the task that a run is locked by and the worker that it is locked to; each may be NULL';

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
  'the worker on which runs of an environment start, its tasks ordered by slug, its queues ordered by name, and its deployment if it has one';

-- The queries ----------------------------------------------------------------------
-- Each query takes arrays of keys.  It returns the position of the key, the
-- answer, whether the answer can be cached, and tableoid, ctid and xmin of the
-- rows on which the answer depends.  The answer cannot be cached if it depends on
-- other rows, or on a row that does not exist.  A query reads each row through a
-- unique key and with ONLY, so that a snapshot sees exactly one version of it.

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

-- authenticated_env is NULL if the project is deleted, event_env is not
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

-- For mint_kind.c: the flags for minting of the environment's organization, and
-- what they and the active shards mean for the environment
WHEN 'mint_flags' THEN $$
  SELECT k.n,
         jsonb_build_object('organization', e."organizationId", 'flags', run_ops.mint_flags(o."featureFlags"),
                            'shards', CASE WHEN s.active <> '{}' THEN run_ops.mint_shard_answer(e.id, o."featureFlags", s) END),
         o.id IS NOT NULL AND s.singleton IS NOT NULL,
         e.tableoid, e.ctid, e.xmin, o.tableoid, o.ctid, o.xmin, s.tableoid, s.ctid, s.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."RuntimeEnvironment" AS e ON e.id = k.id
    LEFT JOIN ONLY %1$I."Organization" AS o ON o.id = e."organizationId"
    LEFT JOIN ONLY run_ops.mint_shards AS s ON s.singleton $$

-- Not cached if the worker has no deployment, because it may get one
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

-- Not cached, because it depends on sets of rows (the newest worker, the newest
-- deployment)
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
  'the query for a kind of answer about the control plane';

-- The resolver functions --------------------------------------------------------------
-- They are STABLE, because an answer is that of the snapshot of the calling query.
-- PUBLIC has no privileges on them, because they read the tables as their owner,
-- and answers contain API keys.

CREATE FUNCTION run_ops.resolve_env(environment_id text) RETURNS run_ops.resolved_env
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_env';
COMMENT ON FUNCTION run_ops.resolve_env(text) IS
  'an environment, even if it is archived or its project is deleted; NULL if it does not exist';
CREATE FUNCTION run_ops.resolve_envs(environment_ids text[])
  RETURNS TABLE (environment_id text, env run_ops.resolved_env)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_env_set';
COMMENT ON FUNCTION run_ops.resolve_envs(text[]) IS
  'resolve_env() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_authenticated_env(environment_id text) RETURNS run_ops.authenticated_env
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_authenticated_env';
COMMENT ON FUNCTION run_ops.resolve_authenticated_env(text) IS
  'an environment with everything that authentication needs; NULL if it does not exist or its project is deleted';
CREATE FUNCTION run_ops.resolve_authenticated_envs(environment_ids text[])
  RETURNS TABLE (environment_id text, env run_ops.authenticated_env)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_authenticated_env_set';
COMMENT ON FUNCTION run_ops.resolve_authenticated_envs(text[]) IS
  'resolve_authenticated_env() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_event_env(environment_id text) RETURNS run_ops.authenticated_env
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_event_env';
COMMENT ON FUNCTION run_ops.resolve_event_env(text) IS
  'like resolve_authenticated_env(), but also for a deleted project, because its runs still have events';
CREATE FUNCTION run_ops.resolve_event_envs(environment_ids text[])
  RETURNS TABLE (environment_id text, env run_ops.authenticated_env)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_event_env_set';
COMMENT ON FUNCTION run_ops.resolve_event_envs(text[]) IS
  'resolve_event_env() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.env_exists(environment_id text) RETURNS boolean
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_env_exists';
COMMENT ON FUNCTION run_ops.env_exists(text) IS 'true if the environment exists, otherwise NULL';
CREATE FUNCTION run_ops.envs_exist(environment_ids text[])
  RETURNS TABLE (environment_id text, env_exists boolean)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_env_exists_set';
COMMENT ON FUNCTION run_ops.envs_exist(text[]) IS
  'env_exists() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_locked_task(task_id text) RETURNS run_ops.locked_task
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_task';
COMMENT ON FUNCTION run_ops.resolve_locked_task(text) IS 'a task of a worker; NULL if it does not exist';
CREATE FUNCTION run_ops.resolve_locked_tasks(task_ids text[])
  RETURNS TABLE (task_id text, task run_ops.locked_task)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_task_set';
COMMENT ON FUNCTION run_ops.resolve_locked_tasks(text[]) IS
  'resolve_locked_task() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_locked_version(worker_id text) RETURNS run_ops.locked_version
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_version';
COMMENT ON FUNCTION run_ops.resolve_locked_version(text) IS 'a worker, with the columns that its runs need; NULL if it does not exist';
CREATE FUNCTION run_ops.resolve_locked_versions(worker_ids text[])
  RETURNS TABLE (worker_id text, version run_ops.locked_version)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_version_set';
COMMENT ON FUNCTION run_ops.resolve_locked_versions(text[]) IS
  'resolve_locked_version() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_run_locked_worker(locked_by_id text, locked_to_version_id text)
  RETURNS run_ops.run_locked_worker
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN ROW(run_ops.resolve_locked_task(locked_by_id),
             run_ops.resolve_locked_version(locked_to_version_id))::run_ops.run_locked_worker;
COMMENT ON FUNCTION run_ops.resolve_run_locked_worker(text, text) IS
  'the task that a run is locked by and the worker that it is locked to. Never NULL itself; a part is NULL if its id is NULL or does not exist.';
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
  'resolve_run_locked_worker() for each pair, in order; a shorter or NULL array is filled up with NULL';

CREATE FUNCTION run_ops.resolve_worker_versions(
    environment_ids text[], worker_ids text[] DEFAULT '{}', types text[] DEFAULT '{}',
    task_slugs text[] DEFAULT '{}', queue_ids text[] DEFAULT '{}', queue_names text[] DEFAULT '{}')
  RETURNS TABLE (environment_id text, version run_ops.worker_version)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_worker_version_set';
COMMENT ON FUNCTION run_ops.resolve_worker_versions(text[], text[], text[], text[], text[], text[]) IS
  'resolve_worker_version() for each environment, in order, with one query; the other arrays correspond to the first, and are filled up with NULL if they are shorter';
CREATE FUNCTION run_ops.resolve_worker_version(
    environment_id text, worker_id text DEFAULT NULL, type text DEFAULT NULL,
    task_slug text DEFAULT NULL, queue_id text DEFAULT NULL, queue_name text DEFAULT NULL)
  RETURNS run_ops.worker_version
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN (SELECT v.version FROM run_ops.resolve_worker_versions(
            ARRAY[environment_id], ARRAY[worker_id], ARRAY[type],
            ARRAY[task_slug], ARRAY[queue_id], ARRAY[queue_name]) AS v);
COMMENT ON FUNCTION run_ops.resolve_worker_version(text, text, text, text, text, text) IS
  'the worker on which a run starts. With worker_id: this worker, if it belongs to the environment. In DEVELOPMENT: the newest worker. Otherwise: the promoted worker; but in STAGING, PREVIEW and PRODUCTION the newest MANAGED one if the promoted worker is not MANAGED. If a task or queue is given, only that one is returned. Never cached.';

CREATE FUNCTION run_ops.assert_envs_exist(environment_ids text[]) RETURNS void
  LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  missing text;
BEGIN
  -- while split is off, a foreign key checks this
  IF NOT run_ops.split_enabled() THEN
    RETURN;
  END IF;
  SELECT string_agg(coalesce(quote_literal(e.environment_id), 'NULL'), ', ') INTO missing
    FROM run_ops.envs_exist(environment_ids) AS e WHERE e.env_exists IS NULL;
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'the control plane has no environment %', missing
      USING ERRCODE = 'foreign_key_violation',
            DETAIL = 'Rows of the stores may only refer to environments of the control plane.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.assert_envs_exist(text[]) IS
  'raises an error with the environments that do not exist; does nothing while split is off';
CREATE FUNCTION run_ops.assert_env_exists(environment_id text) RETURNS void
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN run_ops.assert_envs_exist(ARRAY[environment_id]);
COMMENT ON FUNCTION run_ops.assert_env_exists(text) IS
  'raises an error if the environment does not exist; does nothing while split is off';

-- The run of an event ------------------------------------------------------------

CREATE TYPE run_ops.run_context_status AS ENUM ('found', 'run-not-found', 'environment-unresolved');
COMMENT ON TYPE run_ops.run_context_status IS 'whether the context of a run was found, and what is missing otherwise';
CREATE TYPE run_ops.event_run AS (
  id text, friendly_id text, trace_id text, span_id text, parent_span_id text, created_at timestamp,
  completed_at timestamp, task_identifier text, project_id text, runtime_environment_id text,
  environment_type text, is_test boolean, organization_id text, task_event_store text, run_tags text[],
  batch_id text);
COMMENT ON TYPE run_ops.event_run IS 'a run, with the columns that its events need';
CREATE TYPE run_ops.run_context AS (
  status run_ops.run_context_status, run run_ops.event_run, environment run_ops.authenticated_env);
COMMENT ON TYPE run_ops.run_context IS 'a run and its environment, with the columns that events need';

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
  'run_context() for each element of the array, in order; runs one query for each store and one for the environments';
CREATE FUNCTION run_ops.run_context(run_id text) RETURNS run_ops.run_context
  LANGUAGE sql STABLE
  RETURN (SELECT c.context FROM run_ops.run_contexts(ARRAY[run_id]) AS c);
COMMENT ON FUNCTION run_ops.run_context(text) IS
  'a run, read through its view, and its environment, even if its project is deleted. The status shows whether the run or its environment is missing; a missing environment also raises a WARNING.';

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
