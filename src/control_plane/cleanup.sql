
-- cleanup: what belongs to a deleted environment or project goes away in
-- every store, where foreign keys cannot reach.
--
-- The one idea: the queue has a row for each store.  A batch is one
-- transaction that takes one row of the queue and writes to its store only;
-- it deletes what it finds, so it may be repeated at any time.  Doing it in
-- batches with a commit after each needs a procedure: run_ops.cleanup().

CREATE TABLE run_ops.cleanup_queue (
  scope        text NOT NULL CHECK (scope OPERATOR(pg_catalog.=) ANY (ARRAY['environment', 'project'])),
  id           text NOT NULL,
  store        text NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  started_at   timestamptz,
  deleted      jsonb NOT NULL DEFAULT '{}',
  failed_at    timestamptz,
  error        text,
  PRIMARY KEY (scope, id, store)
);
COMMENT ON TABLE run_ops.cleanup_queue IS
  'environments and projects whose rows are to be deleted, for each store; a row goes when nothing is left there';
COMMENT ON COLUMN run_ops.cleanup_queue.scope IS 'environment or project';
COMMENT ON COLUMN run_ops.cleanup_queue.id IS 'which one';
COMMENT ON COLUMN run_ops.cleanup_queue.store IS 'the store in which rows are to be deleted';
COMMENT ON COLUMN run_ops.cleanup_queue.requested_at IS 'when it was deleted from the control plane';
COMMENT ON COLUMN run_ops.cleanup_queue.started_at IS 'when the first batch was taken; NULL while it waits';
COMMENT ON COLUMN run_ops.cleanup_queue.deleted IS 'rows deleted so far: {table: count}';
COMMENT ON COLUMN run_ops.cleanup_queue.failed_at IS 'when a batch last failed; NULL when the last one did not';
COMMENT ON COLUMN run_ops.cleanup_queue.error IS 'why the last batch failed; it is tried again';

CREATE TABLE run_ops.cleanup_log (
  at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  scope   text NOT NULL,
  id      text NOT NULL,
  store   text NOT NULL,
  event   text NOT NULL,
  deleted jsonb
);
COMMENT ON TABLE run_ops.cleanup_log IS
  'start and end of each cleanup, with the rows deleted, by store and table';
COMMENT ON COLUMN run_ops.cleanup_log.at IS 'when it happened';
COMMENT ON COLUMN run_ops.cleanup_log.scope IS 'environment or project';
COMMENT ON COLUMN run_ops.cleanup_log.id IS 'which one';
COMMENT ON COLUMN run_ops.cleanup_log.store IS 'in which store';
COMMENT ON COLUMN run_ops.cleanup_log.event IS 'start or end';
COMMENT ON COLUMN run_ops.cleanup_log.deleted IS 'rows deleted in all, at the end: {table: count}';

CREATE VIEW run_ops.cleanup_progress AS
  SELECT q.scope, q.id, q.store, q.requested_at, q.started_at,
         (SELECT pg_catalog.sum(d.value::pg_catalog.int8) FROM pg_catalog.jsonb_each_text(q.deleted) AS d) AS rows_deleted,
         q.failed_at, q.error
    FROM run_ops.cleanup_queue AS q;
COMMENT ON VIEW run_ops.cleanup_progress IS 'what is being cleaned up, and what could not be';

-- What belongs to what, by the names of the local tables ---------------------

CREATE VIEW run_ops.cleanup_root AS
  SELECT ord, scope, table_name, column_name
    FROM (VALUES
      (1, 'environment', 'TaskRun',           'runtimeEnvironmentId'),
      (2, 'environment', 'BatchTaskRun',      'runtimeEnvironmentId'),
      (3, 'environment', 'Waitpoint',         'environmentId'),
      (4, 'environment', 'TaskRunCheckpoint', 'runtimeEnvironmentId'),
      (5, 'environment', 'WaitpointTag',      'environmentId'),
      (6, 'project',     'TaskRunTag',        'projectId')) AS root (ord, scope, table_name, column_name);
COMMENT ON VIEW run_ops.cleanup_root IS
  'tables whose rows name their environment or project, in the order in which they are cleaned up';

CREATE VIEW run_ops.cleanup_dependent AS
  SELECT ord, parent, table_name, column_name
    FROM (VALUES
      (1,  'TaskRun',                  'TaskRunExecutionSnapshot', 'runId'),
      (2,  'TaskRun',                  'TaskRunWaitpoint',         'taskRunId'),
      (3,  'TaskRun',                  '_WaitpointRunConnections', 'A'),
      (4,  'TaskRun',                  'BatchTaskRunItem',         'taskRunId'),
      (5,  'TaskRun',                  'TaskRunDependency',        'taskRunId'),
      (6,  'TaskRun',                  'CheckpointRestoreEvent',   'runId'),
      (7,  'TaskRun',                  'Checkpoint',               'runId'),
      (8,  'TaskRun',                  'TaskRunAttempt',           'taskRunId'),
      (9,  'TaskRunExecutionSnapshot', '_completedWaitpoints',     'A'),
      (10, 'CheckpointRestoreEvent',   'BatchTaskRun',             'checkpointEventId'),
      (11, 'CheckpointRestoreEvent',   'TaskRunDependency',        'checkpointEventId'),
      (12, 'TaskRunAttempt',           'BatchTaskRun',             'dependentTaskAttemptId'),
      (13, 'BatchTaskRun',             'BatchTaskRunItem',         'batchTaskRunId'),
      (14, 'BatchTaskRun',             'BatchTaskRunError',        'batchTaskRunId'),
      (15, 'Waitpoint',                'TaskRunWaitpoint',         'waitpointId'),
      (16, 'Waitpoint',                '_completedWaitpoints',     'B'),
      (17, 'Waitpoint',                '_WaitpointRunConnections', 'B'))
      AS dependent (ord, parent, table_name, column_name);
COMMENT ON VIEW run_ops.cleanup_dependent IS
  'tables whose rows go before the row they name; foreign keys would take most of them uncounted, and exist in some stores only';

-- Queue ------------------------------------------------------------------------

CREATE FUNCTION run_ops.enqueue_cleanup(scope text, ids text[]) RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO run_ops.cleanup_queue (scope, id, store)
  SELECT enqueue_cleanup.scope, i, s.name FROM unnest(ids) AS i, run_ops.store AS s
  ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION run_ops.enqueue_cleanup(text, text[]) IS
  'asks for the cleanup of environments or projects in every store';
REVOKE EXECUTE ON FUNCTION run_ops.enqueue_cleanup(text, text[]) FROM PUBLIC;

-- SECURITY DEFINER: who may delete an environment need not have rights on the
-- queue, and must not be able to put anything else into it.  format() takes
-- the output function of the type of id: a cast could be one that the owner of
-- the table has made, and would run with these rights.
CREATE FUNCTION run_ops.enqueue_deleted() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.enqueue_cleanup(TG_ARGV[0], ARRAY(SELECT format('%s', d.id) FROM deleted AS d));
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.enqueue_deleted() IS
  'puts deleted environments or projects into the cleanup queue, in the transaction that deletes them';
REVOKE EXECUTE ON FUNCTION run_ops.enqueue_deleted() FROM PUBLIC;

CREATE FUNCTION run_ops.attach_cleanup(control_plane_schema name DEFAULT 'public') RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  item record;
BEGIN
  -- deleting an organization deletes its projects, and those their environments
  FOR item IN SELECT * FROM (VALUES ('RuntimeEnvironment', 'environment'), ('Project', 'project')) AS t (name, scope) LOOP
    PERFORM run_ops.refuse_taken_names(format('%I.%I', control_plane_schema, item.name)::regclass, '{run_ops_cleanup}');
    EXECUTE format('CREATE OR REPLACE TRIGGER run_ops_cleanup AFTER DELETE ON %I.%I '
                   'REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION run_ops.enqueue_deleted(%L)',
                   control_plane_schema, item.name, item.scope);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.attach_cleanup(name) IS
  'makes the deletion of environments and projects (and so of organizations) ask for their cleanup';
REVOKE EXECUTE ON FUNCTION run_ops.attach_cleanup(name) FROM PUBLIC;

-- One batch --------------------------------------------------------------------

CREATE FUNCTION run_ops.add_counts(a jsonb, b jsonb) RETURNS jsonb
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(jsonb_object_agg(key, n), '{}')
    FROM (SELECT key, sum(value::bigint) AS n
            FROM (SELECT * FROM jsonb_each_text(a) UNION ALL SELECT * FROM jsonb_each_text(b)) AS c
           GROUP BY key) AS s
$$;
COMMENT ON FUNCTION run_ops.add_counts(jsonb, jsonb) IS 'sums of counts by name';

CREATE FUNCTION run_ops.table_in_store(table_name text, store text, OUT relation regclass, OUT key name, OUT legacy regclass)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT c.relation, CASE WHEN cardinality(t.key_columns) = 1 THEN t.key_columns[1] END, t.legacy
    FROM run_ops.routed_table AS t JOIN pg_class AS l ON l.oid = t.legacy, LATERAL run_ops.copies(t) AS c
   WHERE l.relname = table_in_store.table_name AND c.store = table_in_store.store
$$;
COMMENT ON FUNCTION run_ops.table_in_store(text, text) IS
  'a routed table in a store, by the name of the local table, its key if that is one column, and the local table';

CREATE FUNCTION run_ops.delete_rows(owned regclass, relation regclass, condition text, ids text[]) RETURNS bigint
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT a.n FROM run_ops.as_owner(owned,
    format('WITH deleted AS (DELETE FROM %s AS x WHERE %s RETURNING 1) SELECT count(*) FROM deleted', relation, condition),
    ids) AS a (n bigint)
$$;
COMMENT ON FUNCTION run_ops.delete_rows(regclass, regclass, text, text[]) IS
  'deletes rows of a relation that meet a condition on the ids, $1, and counts them; what is attached to the rows runs as the owner of another relation';
REVOKE EXECUTE ON FUNCTION run_ops.delete_rows(regclass, regclass, text, text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.delete_with_dependents(store text, table_name text, column_name text, ids text[]) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t         record;
  condition text;
  deleted   jsonb := '{}';
  dependent record;
  keys      text[];
  n         bigint;
BEGIN
  SELECT * INTO t FROM run_ops.table_in_store(table_name, store);
  IF t.relation IS NULL THEN
    RETURN deleted;
  END IF;
  condition := format('x.%I %s', column_name, run_ops.equals_text(t.legacy, column_name, '$1', true));
  IF EXISTS (SELECT FROM run_ops.cleanup_dependent AS d WHERE d.parent = table_name) THEN
    IF t.key = column_name THEN
      keys := ids;
    ELSE
      keys := (SELECT a.keys FROM run_ops.as_owner(t.legacy,
                 format('SELECT array_agg(x.%I::text) FROM %s AS x WHERE %s', t.key, t.relation, condition), ids) AS a (keys text[]));
    END IF;
    IF keys IS NULL THEN
      RETURN deleted;
    END IF;
    FOR dependent IN SELECT * FROM run_ops.cleanup_dependent AS d WHERE d.parent = table_name ORDER BY d.ord LOOP
      deleted := run_ops.add_counts(deleted,
        run_ops.delete_with_dependents(store, dependent.table_name, dependent.column_name, keys));
    END LOOP;
  END IF;
  n := run_ops.delete_rows(t.legacy, t.relation, condition, ids);
  IF n > 0 THEN
    deleted := run_ops.add_counts(deleted, jsonb_build_object(table_name, n));
  END IF;
  RETURN deleted;
END $$;
COMMENT ON FUNCTION run_ops.delete_with_dependents(text, text, text, text[]) IS
  'deletes rows of a table in one store, and before them what belongs to them; returns {table: count}';
REVOKE EXECUTE ON FUNCTION run_ops.delete_with_dependents(text, text, text, text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.delete_bulk_action_items(run_ids text[]) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  items regclass := (SELECT to_regclass(format('%I.%I', n.nspname, 'BulkActionItem'))
                       FROM run_ops.table_in_store('TaskRun', 'legacy') AS t
                       JOIN pg_class AS c ON c.oid = t.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace);
  n     bigint := 0;
BEGIN
  IF items IS NOT NULL THEN
    n := run_ops.delete_rows(items, items, format('x."sourceRunId" %s OR x."destinationRunId" %s',
      run_ops.equals_text(items, 'sourceRunId', '$1', true), run_ops.equals_text(items, 'destinationRunId', '$1', true)), run_ids);
  END IF;
  RETURN CASE WHEN n > 0 THEN jsonb_build_object('BulkActionItem', n) ELSE '{}' END;
END $$;
COMMENT ON FUNCTION run_ops.delete_bulk_action_items(text[]) IS
  'deletes what bulk actions of the control plane remember of runs, whatever store these are in';
REVOKE EXECUTE ON FUNCTION run_ops.delete_bulk_action_items(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.delete_batch(scope text, id text, store text, batch_size int) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  root    record;
  keys    text[];
  deleted jsonb := '{}';
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = store) THEN
    RAISE EXCEPTION 'store "%" is not attached', store USING ERRCODE = 'undefined_object';
  END IF;
  -- What is put off to the commit would run there as the caller, so where a
  -- command runs as the owner of a table, PostgreSQL refuses to put anything off.
  SET CONSTRAINTS ALL IMMEDIATE;
  FOR root IN
    SELECT r.table_name, r.column_name, t.relation, t.key, t.legacy
      FROM run_ops.cleanup_root AS r, LATERAL run_ops.table_in_store(r.table_name, store) AS t
     WHERE r.scope = scope AND t.relation IS NOT NULL ORDER BY r.ord
  LOOP
    keys := (SELECT a.keys FROM run_ops.as_owner(root.legacy,
      format('SELECT array_agg(k) FROM (SELECT x.%I::text AS k FROM %s AS x WHERE x.%I %s LIMIT $2) AS b',
             root.key, root.relation, root.column_name, run_ops.equals_text(root.legacy, root.column_name, '$1')),
      id, batch_size) AS a (keys text[]));
    CONTINUE WHEN keys IS NULL;
    IF root.table_name = 'TaskRun' THEN
      deleted := run_ops.delete_bulk_action_items(keys);
    END IF;
    RETURN run_ops.add_counts(deleted,
      run_ops.delete_with_dependents(store, root.table_name, root.key, keys));
  END LOOP;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.delete_batch(text, text, text, int) IS
  'deletes up to batch_size rows of the first table that has any of the environment or project in the store, with what belongs to them; returns {table: count}, NULL when nothing is left';
REVOKE EXECUTE ON FUNCTION run_ops.delete_batch(text, text, text, int) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_batch(
    batch_size int DEFAULT 1000, failed_before timestamptz DEFAULT 'infinity',
    wanted jsonb DEFAULT NULL,
    OUT store text, OUT deleted jsonb, OUT error text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  job run_ops.cleanup_queue;
BEGIN
  SELECT * INTO job FROM run_ops.cleanup_queue AS q
   WHERE (q.failed_at IS NULL OR q.failed_at < failed_before)
     AND (wanted IS NULL OR wanted -> q.scope ? q.id)
   ORDER BY q.failed_at NULLS FIRST, q.requested_at, q.scope, q.id, q.store
   LIMIT 1 FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  store := job.store;
  IF job.started_at IS NULL THEN
    INSERT INTO run_ops.cleanup_log (scope, id, store, event) VALUES (job.scope, job.id, job.store, 'start');
  END IF;
  -- The store commits first: a crash after that repeats a batch that then
  -- finds nothing, and its counts are missing from the log.
  PERFORM set_config('run_ops_split.cross_store_writes', 'allow', true);
  BEGIN
    deleted := run_ops.delete_batch(job.scope, job.id, job.store, batch_size);
  EXCEPTION WHEN OTHERS THEN
    error := SQLERRM;
    UPDATE run_ops.cleanup_queue AS q
       SET started_at = coalesce(q.started_at, clock_timestamp()), failed_at = clock_timestamp(), error = SQLERRM
     WHERE (q.scope, q.id, q.store) = (job.scope, job.id, job.store);
    RETURN;
  END;
  IF deleted IS NULL THEN
    DELETE FROM run_ops.cleanup_queue AS q WHERE (q.scope, q.id, q.store) = (job.scope, job.id, job.store);
    INSERT INTO run_ops.cleanup_log (scope, id, store, event, deleted)
    VALUES (job.scope, job.id, job.store, 'end', job.deleted);
  ELSE
    UPDATE run_ops.cleanup_queue AS q
       SET started_at = coalesce(q.started_at, clock_timestamp()), deleted = run_ops.add_counts(q.deleted, deleted),
           failed_at = NULL, error = NULL
     WHERE (q.scope, q.id, q.store) = (job.scope, job.id, job.store);
  END IF;
  deleted := coalesce(deleted, '{}');
END $$;
COMMENT ON FUNCTION run_ops.cleanup_batch(int, timestamptz, jsonb) IS
  'one batch of the next cleanup, of those in wanted ({scope: [id, ...]}) if given, that no other session is at: its store, and the rows deleted by table, or the error; store is NULL when there is nothing to do';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_batch(int, timestamptz, jsonb) FROM PUBLIC;

-- The whole --------------------------------------------------------------------

CREATE FUNCTION run_ops.merge_batch(result jsonb, store text, deleted jsonb, error text) RETURNS jsonb
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT jsonb_set(result, ARRAY[store],
           CASE WHEN error IS NULL
                THEN coalesce(result -> store, '{}') || run_ops.add_counts((result -> store) - 'error', deleted)
                ELSE coalesce(result -> store, '{}') || jsonb_build_object('error', error) END)
$$;
COMMENT ON FUNCTION run_ops.merge_batch(jsonb, text, jsonb, text) IS
  'the result of a cleanup, {store: {table: count}}, with one more batch in it';

-- No SET search_path: PostgreSQL does not let such a procedure commit.
CREATE PROCEDURE run_ops.cleanup(
    batch_size int DEFAULT 1000, time_limit interval DEFAULT '1 hour', INOUT deleted jsonb DEFAULT '{}')
  LANGUAGE plpgsql
AS $$
DECLARE
  started pg_catalog.timestamptz := pg_catalog.clock_timestamp();
  batch   pg_catalog.record;
BEGIN
  LOOP
    SELECT * INTO batch FROM run_ops.cleanup_batch(batch_size, started);
    EXIT WHEN batch.store IS NULL;
    deleted := run_ops.merge_batch(deleted, batch.store, batch.deleted, batch.error);
    COMMIT;
    EXIT WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) (started OPERATOR(pg_catalog.+) time_limit);
  END LOOP;
END $$;
COMMENT ON PROCEDURE run_ops.cleanup(int, interval, jsonb) IS
  'works the cleanup queue off, in batches that are committed one by one, until it is empty or the time is over; gives {store: {table: count}}; several sessions may do so at once; to be called regularly, as by pg_cron or cron';
REVOKE EXECUTE ON PROCEDURE run_ops.cleanup(int, interval, jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_now(wanted jsonb) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  result jsonb := '{}';
  batch  record;
BEGIN
  PERFORM run_ops.enqueue_cleanup(w.key, ARRAY(SELECT jsonb_array_elements_text(w.value))) FROM jsonb_each(wanted) AS w;
  LOOP
    SELECT * INTO batch FROM run_ops.cleanup_batch(wanted => wanted);
    IF batch.error IS NOT NULL THEN
      RAISE EXCEPTION 'cannot clean up store "%"', batch.store
        USING DETAIL = batch.error, HINT = 'run_ops.cleanup() does what it can, and leaves the rest in its queue.';
    END IF;
    EXIT WHEN batch.store IS NULL;
    result := run_ops.merge_batch(result, batch.store, batch.deleted, NULL);
  END LOOP;
  RETURN result;
END $$;
COMMENT ON FUNCTION run_ops.cleanup_now(jsonb) IS
  'cleans up {scope: [id, ...]} in the caller''s transaction, which checks all constraints at once from then on; an error when a store fails; leaves to other sessions what they are at';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_now(jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_environment(id text) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
  RETURN run_ops.cleanup_now(pg_catalog.jsonb_build_object('environment', pg_catalog.jsonb_build_array(id)));
COMMENT ON FUNCTION run_ops.cleanup_environment(text) IS
  'deletes the run-ops rows of one environment from every store, in the caller''s transaction; gives {store: {table: count}}';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_environment(text) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_project(id text, control_plane_schema name DEFAULT 'public') RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  relation     regclass := format('%I."RuntimeEnvironment"', control_plane_schema);
  environments jsonb;
BEGIN
  environments := (SELECT a.ids FROM run_ops.as_owner(relation,
    format('SELECT jsonb_agg(e.id::text) FROM %s AS e WHERE e."projectId" %s',
           relation, run_ops.equals_text(relation, 'projectId', '$1')), id) AS a (ids jsonb));
  RETURN run_ops.cleanup_now(jsonb_build_object('environment', coalesce(environments, '[]'), 'project', jsonb_build_array(id)));
END $$;
COMMENT ON FUNCTION run_ops.cleanup_project(text, name) IS
  'deletes the run-ops rows of one project and of its environments from every store, in the caller''s transaction; gives {store: {table: count}}; environments that are gone already are in the queue';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_project(text, name) FROM PUBLIC;
