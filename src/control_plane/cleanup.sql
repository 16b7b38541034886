
-- cleanup: removes the rows of deleted environments and projects from every
-- store, because foreign keys cannot refer to another database.
--
-- The main idea: the queue has a row for each store.  A batch is one transaction
-- that takes one row of the queue and writes to this store only.  It deletes the
-- rows that it finds, so it may be repeated at any time.  Only a procedure can
-- commit after each batch: run_ops.cleanup().

CREATE TABLE run_ops.cleanup_queue (
  scope        text NOT NULL,
  id           text NOT NULL,
  store        text NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  started_at   timestamptz,
  deleted      jsonb NOT NULL DEFAULT '{}',
  failed_at    timestamptz,
  error        text,
  expected     bigint,
  PRIMARY KEY (scope, id, store)
);
-- the order in which run_ops.cleanup_batch() takes rows
CREATE INDEX cleanup_queue_order ON run_ops.cleanup_queue (failed_at NULLS FIRST, requested_at, scope, id, store);
COMMENT ON TABLE run_ops.cleanup_queue IS
  'the environments, projects and the like whose rows must be deleted, for each store; the row is removed when no such row is left in the store';
COMMENT ON COLUMN run_ops.cleanup_queue.scope IS 'environment, project, or that of run_ops.registered_cleanup';
COMMENT ON COLUMN run_ops.cleanup_queue.id IS 'the id of the environment, project or other row that was deleted';
COMMENT ON COLUMN run_ops.cleanup_queue.store IS 'the store in which the rows must be deleted';
COMMENT ON COLUMN run_ops.cleanup_queue.requested_at IS 'when the cleanup was requested';
COMMENT ON COLUMN run_ops.cleanup_queue.started_at IS 'when the first batch began; NULL before';
COMMENT ON COLUMN run_ops.cleanup_queue.deleted IS 'the number of rows deleted so far: {table: count}';
COMMENT ON COLUMN run_ops.cleanup_queue.failed_at IS 'when the last batch failed; NULL if it did not';
COMMENT ON COLUMN run_ops.cleanup_queue.error IS 'why the last batch failed; the batch will be tried again';
COMMENT ON COLUMN run_ops.cleanup_queue.expected IS 'the rows of the tables of run_ops.cleanup_root that are to be deleted, as the statistics of the store told when the first batch began; NULL if they do not tell';

CREATE TABLE run_ops.cleanup_log (
  at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  scope   text NOT NULL,
  id      text NOT NULL,
  store   text NOT NULL,
  event   text NOT NULL,
  deleted jsonb
);
COMMENT ON TABLE run_ops.cleanup_log IS
  'the start and end of each cleanup in each store, with the number of rows deleted from each table';
COMMENT ON COLUMN run_ops.cleanup_log.at IS 'when the cleanup started or ended';
COMMENT ON COLUMN run_ops.cleanup_log.scope IS 'environment, project, or that of run_ops.registered_cleanup';
COMMENT ON COLUMN run_ops.cleanup_log.id IS 'the id of the environment, project or other row that was deleted';
COMMENT ON COLUMN run_ops.cleanup_log.store IS 'the store';
COMMENT ON COLUMN run_ops.cleanup_log.event IS 'start or end';
COMMENT ON COLUMN run_ops.cleanup_log.deleted IS 'at the end, the number of rows deleted: {table: count}';


-- Which rows belong to which -------------------------------------------------------

CREATE TABLE run_ops.registered_cleanup (
  owner       regclass,
  dependent   regclass,
  column_name name,
  scope       text NOT NULL,
  PRIMARY KEY (owner, dependent, column_name)
);
COMMENT ON TABLE run_ops.registered_cleanup IS 'the calls of run_ops.register_cleanup()';
COMMENT ON COLUMN run_ops.registered_cleanup.owner IS 'the table whose deleted rows are cleaned up after';
COMMENT ON COLUMN run_ops.registered_cleanup.dependent IS 'the local table of the routed table whose rows are deleted then';
COMMENT ON COLUMN run_ops.registered_cleanup.column_name IS 'its column with the id of the deleted row';
COMMENT ON COLUMN run_ops.registered_cleanup.scope IS 'the name of the owner in the queue';
SELECT pg_catalog.pg_extension_config_dump('run_ops.registered_cleanup',
  'WHERE run_ops.is_relation(owner, ''{r,p}'') AND run_ops.is_relation(dependent, ''{r,p}'')');

-- The tables of the run graph have the names that they have in any schema, others
-- have theirs with the schema.

CREATE VIEW run_ops.cleanup_root AS
  SELECT ord, scope, table_name, column_name::name
    FROM (VALUES
      (1, 'environment', 'TaskRun',           'runtimeEnvironmentId'),
      (2, 'environment', 'BatchTaskRun',      'runtimeEnvironmentId'),
      (3, 'environment', 'Waitpoint',         'environmentId'),
      (4, 'environment', 'TaskRunCheckpoint', 'runtimeEnvironmentId'),
      (5, 'environment', 'WaitpointTag',      'environmentId'),
      (6, 'project',     'TaskRunTag',        'projectId')) AS root (ord, scope, table_name, column_name)
  UNION ALL
  SELECT 1000, r.scope, r.dependent::text, r.column_name FROM run_ops.registered_cleanup AS r;
COMMENT ON VIEW run_ops.cleanup_root IS
  'the tables with a column for the environment, project or other scope, in the order in which they are cleaned up';

CREATE VIEW run_ops.cleanup_dependent AS
  SELECT ord, parent, table_name, column_name::name
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
      (17, 'Waitpoint',                '_WaitpointRunConnections', 'B')) AS dependent (ord, parent, table_name, column_name)
  UNION ALL
  SELECT 1000, f.confrelid::regclass::text, f.conrelid::regclass::text, a.attname
    FROM pg_catalog.pg_constraint AS f
    JOIN run_ops.routed_table AS child ON child.legacy OPERATOR(pg_catalog.=) f.conrelid
    JOIN run_ops.routed_table AS parent ON parent.legacy OPERATOR(pg_catalog.=) f.confrelid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) f.conrelid AND a.attnum OPERATOR(pg_catalog.=) f.conkey[1]
    JOIN pg_catalog.pg_attribute AS k ON k.attrelid OPERATOR(pg_catalog.=) f.confrelid AND k.attnum OPERATOR(pg_catalog.=) f.confkey[1]
     AND ARRAY[k.attname] OPERATOR(pg_catalog.=) parent.key_columns
   WHERE f.contype OPERATOR(pg_catalog.=) 'f' AND pg_catalog.cardinality(f.conkey) OPERATOR(pg_catalog.=) 1
     AND f.conrelid OPERATOR(pg_catalog.<>) f.confrelid;
COMMENT ON VIEW run_ops.cleanup_dependent IS
  'the tables whose rows are deleted before the row to which they refer. Most of them also have foreign keys, but these exist in some stores only, and would delete rows without counting them.';

-- Queue ------------------------------------------------------------------------

CREATE VIEW run_ops.cleanup_progress AS
  SELECT q.scope, q.id, q.store, q.requested_at, q.started_at,
         d.deleted AS rows_deleted, q.failed_at, q.error, d.of_roots AS rows_done,
         CASE WHEN q.expected IS NOT NULL THEN greatest(q.expected OPERATOR(pg_catalog.-) coalesce(d.of_roots, 0), 0) END AS rows_left
    FROM run_ops.cleanup_queue AS q,
         LATERAL (SELECT pg_catalog.sum(e.value::pg_catalog.int8) AS deleted,
                         (pg_catalog.sum(e.value::pg_catalog.int8) FILTER (WHERE EXISTS (
                           SELECT FROM run_ops.cleanup_root AS r WHERE r.scope OPERATOR(pg_catalog.=) q.scope AND r.table_name OPERATOR(pg_catalog.=) e.key)))::pg_catalog.int8 AS of_roots
                    FROM pg_catalog.jsonb_each_text(q.deleted) AS e) AS d;
COMMENT ON VIEW run_ops.cleanup_progress IS
  'the cleanups that are queued, running or failed; rows_done and rows_left are rows with the id itself, without those that refer to them';

CREATE FUNCTION run_ops.expected_cleanup(scope text, id text, store text) RETURNS bigint
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  parts text;
BEGIN
  -- Like the planner: a value is one of the most common ones, or as frequent as the
  -- others on average.  The names are those of the place where the query runs.
  parts := (
    SELECT string_agg(format('(%L, %L, %L)', n.schema, n.relation, n.column_name), ', ')
      FROM run_ops.cleanup_root AS r, LATERAL run_ops.table_in_store(r.table_name, store) AS x
      JOIN run_ops.routed_table AS t ON t.legacy = x.legacy JOIN pg_class AS c ON c.oid = t.legacy,
           LATERAL (SELECT CASE store WHEN 'legacy' THEN c.relnamespace::regnamespace::text ELSE t.store_schema END AS schema,
                           CASE store WHEN 'legacy' THEN c.relname ELSE t.store_table END AS relation,
                           CASE store WHEN 'legacy' THEN r.column_name::text ELSE coalesce(t.column_names ->> r.column_name, r.column_name) END AS column_name) AS n
     WHERE r.scope = scope AND x.relation IS NOT NULL);
  RETURN (SELECT (a ->> 'n')::bigint FROM run_ops.ask_place(store, format($q$
    SELECT round(sum(c.reltuples * coalesce(s.common[array_position(s.vals, %L)],
             (1 - coalesce((SELECT sum(f) FROM unnest(s.common) AS f), 0))
               / greatest(CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * c.reltuples ELSE s.n_distinct END - coalesce(cardinality(s.vals), 0), 1)))) AS n
      FROM (VALUES %s) AS w (schema, name, column_name)
      JOIN pg_namespace AS n ON n.nspname = w.schema JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.name
      JOIN (SELECT p.*, p.most_common_vals::text::text[] AS vals, p.most_common_freqs AS common FROM pg_stats AS p) AS s
        ON s.schemaname = w.schema AND s.tablename = w.name AND s.attname = w.column_name
     WHERE c.reltuples >= 0 $q$, id, parts)) AS a WHERE parts IS NOT NULL);
END $$;
COMMENT ON FUNCTION run_ops.expected_cleanup(text, text, text) IS
  'how many rows with the id of an environment, project and the like a store has, according to its statistics; NULL if it has none';
REVOKE EXECUTE ON FUNCTION run_ops.expected_cleanup(text, text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.enqueue_cleanup(scope text, ids text[]) RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO run_ops.cleanup_queue (scope, id, store)
  SELECT enqueue_cleanup.scope, i, s.name FROM unnest(ids) AS i, run_ops.store AS s
  ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION run_ops.enqueue_cleanup(text, text[]) IS
  'adds environments or projects to the cleanup queue, for every store';
REVOKE EXECUTE ON FUNCTION run_ops.enqueue_cleanup(text, text[]) FROM PUBLIC;

-- SECURITY DEFINER: a role that may delete an environment need not have
-- privileges on the queue, and must not be able to add anything else to it.
-- format() uses the output function of the type of id.  A cast could be a
-- function of the owner of the table, and would run with these privileges.
CREATE FUNCTION run_ops.enqueue_deleted() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.enqueue_cleanup(TG_ARGV[0], ARRAY(SELECT format('%s', d.id) FROM deleted AS d));
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.enqueue_deleted() IS
  'trigger: adds deleted environments or projects to the cleanup queue, in the transaction that deletes them';
REVOKE EXECUTE ON FUNCTION run_ops.enqueue_deleted() FROM PUBLIC;

CREATE FUNCTION run_ops.queue_deleted(owner regclass, scope text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.refuse_taken_names(owner, '{run_ops_cleanup}');
  EXECUTE format('CREATE OR REPLACE TRIGGER run_ops_cleanup AFTER DELETE ON %s '
                 'REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION run_ops.enqueue_deleted(%L)', owner, scope);
END $$;
COMMENT ON FUNCTION run_ops.queue_deleted(regclass, text) IS 'creates the trigger that adds deleted rows of a table to the cleanup queue';
REVOKE EXECUTE ON FUNCTION run_ops.queue_deleted(regclass, text) FROM PUBLIC;

CREATE FUNCTION run_ops.attach_cleanup(control_plane_schema name DEFAULT 'public') RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- deleting an organization deletes its projects, and those their environments
  SELECT run_ops.queue_deleted(format('%I."RuntimeEnvironment"', control_plane_schema)::regclass, 'environment');
  SELECT run_ops.queue_deleted(format('%I."Project"', control_plane_schema)::regclass, 'project');
$$;
COMMENT ON FUNCTION run_ops.attach_cleanup(name) IS
  'creates the triggers that add deleted environments and projects to the cleanup queue; deleting an organization deletes its projects and environments';
REVOKE EXECUTE ON FUNCTION run_ops.attach_cleanup(name) FROM PUBLIC;

-- For other tables

CREATE FUNCTION run_ops.register_cleanup(owner regclass, dependent regclass, column_name name) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t     run_ops.routed_table := run_ops.routed(dependent);
  -- that of its trigger, if it has one
  scope text := coalesce((SELECT convert_from(substr(g.tgargs, 1, length(g.tgargs) - 1), getdatabaseencoding()) FROM pg_trigger AS g
                           WHERE g.tgrelid = owner AND g.tgfoid = 'run_ops.enqueue_deleted()'::regprocedure), owner::text);
BEGIN
  IF cardinality(t.key_columns) > 1 OR run_ops.column_type(t.legacy, column_name) IS NULL THEN
    RAISE EXCEPTION 'rows of % cannot be cleaned up by column "%"', t.legacy, column_name
      USING ERRCODE = 'wrong_object_type', DETAIL = 'The table needs this column, and a key of one column.';
  ELSIF run_ops.column_type(owner, 'id') IS NULL THEN
    RAISE EXCEPTION 'table % has no column "id"', owner USING ERRCODE = 'undefined_column';
  END IF;
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.queue_deleted(owner, scope);
  INSERT INTO run_ops.registered_cleanup VALUES (owner, t.legacy, column_name, scope) ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION run_ops.register_cleanup(regclass, regclass, name) IS
  'from now on, when rows of table owner are deleted, run_ops.cleanup() deletes the rows of a routed table whose column has their id, and what refers to these by foreign keys of one column, in every store';
REVOKE EXECUTE ON FUNCTION run_ops.register_cleanup(regclass, regclass, name) FROM PUBLIC;

CREATE FUNCTION run_ops.unregister_cleanup(owner regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  gone text[];
BEGIN
  PERFORM run_ops.lock_registry();
  WITH d AS (DELETE FROM run_ops.registered_cleanup AS r WHERE r.owner = unregister_cleanup.owner RETURNING r.scope)
  SELECT array_agg(d.scope) INTO gone FROM d;
  -- the run graph may need the trigger
  IF gone IS NOT NULL AND NOT EXISTS (SELECT FROM run_ops.cleanup_root AS r WHERE r.scope = ANY (gone)) THEN
    EXECUTE format('DROP TRIGGER run_ops_cleanup ON %s', unregister_cleanup.owner);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.unregister_cleanup(regclass) IS
  'ends what run_ops.register_cleanup() began: deleting rows of table owner deletes nothing else any more';
REVOKE EXECUTE ON FUNCTION run_ops.unregister_cleanup(regclass) FROM PUBLIC;

-- One batch --------------------------------------------------------------------

CREATE FUNCTION run_ops.add_counts(a jsonb, b jsonb) RETURNS jsonb
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(jsonb_object_agg(key, n), '{}')
    FROM (SELECT key, sum(value::bigint) AS n
            FROM (SELECT * FROM jsonb_each_text(a) UNION ALL SELECT * FROM jsonb_each_text(b)) AS c
           GROUP BY key) AS s
$$;
COMMENT ON FUNCTION run_ops.add_counts(jsonb, jsonb) IS 'adds two objects of counts, {name: count}';

CREATE FUNCTION run_ops.table_in_store(table_name text, store text, OUT relation regclass, OUT key name, OUT legacy regclass)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT c.relation, CASE WHEN cardinality(t.key_columns) = 1 THEN t.key_columns[1] END, t.legacy
    FROM run_ops.routed_table AS t JOIN pg_class AS l ON l.oid = t.legacy, LATERAL run_ops.copies(t) AS c
   WHERE table_in_store.table_name IN (l.relname, t.legacy::text) AND c.store = table_in_store.store
$$;
COMMENT ON FUNCTION run_ops.table_in_store(text, text) IS
  'finds a routed table in a store by the name of the local table, with its schema or without; returns the relation, its key if that is one column, and the local table';

CREATE FUNCTION run_ops.delete_rows(owned regclass, relation regclass, condition text, ids text[]) RETURNS bigint
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT a.n FROM run_ops.as_owner(owned,
    format('WITH deleted AS (DELETE FROM %s AS x WHERE %s RETURNING 1) SELECT count(*) FROM deleted', relation, condition),
    ids) AS a (n bigint)
$$;
COMMENT ON FUNCTION run_ops.delete_rows(regclass, regclass, text, text[]) IS
  'deletes the rows of a relation that meet a condition on the ids, $1, and returns their number; triggers and functions of the relation run as the owner of relation owned';
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
  'deletes rows of a table in one store, and first the rows that belong to them; returns {table: count}';
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
  'deletes the BulkActionItem rows of the control plane that refer to these runs, in whatever store the runs are; returns {table: count}';
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
  PERFORM run_ops.refuse_incomplete() WHERE store <> 'legacy';
  -- The commands below run as the owner of a table.  A deferred trigger would run
  -- at commit as the caller, so PostgreSQL refuses deferred triggers there.
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
  'deletes up to batch_size rows of an environment or project from the first table in the store that has any, with the rows that belong to them; returns {table: count}, or NULL if none is left';
REVOKE EXECUTE ON FUNCTION run_ops.delete_batch(text, text, text, int) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_batch(
    batch_size int DEFAULT 1000, failed_before timestamptz DEFAULT 'infinity',
    wanted jsonb DEFAULT NULL,
    OUT store text, OUT deleted jsonb, OUT error text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  job   run_ops.cleanup_queue;
  began timestamptz := clock_timestamp();
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
  -- The store commits first.  After a crash between the two commits the batch is
  -- repeated and finds nothing, and its counts are missing from the log.
  PERFORM set_config('run_ops_split.cross_store_writes', 'allow', true);
  BEGIN
    job.expected := coalesce(job.expected, run_ops.expected_cleanup(job.scope, job.id, job.store));
    deleted := run_ops.delete_batch(job.scope, job.id, job.store, batch_size);
  EXCEPTION WHEN OTHERS THEN
    error := SQLERRM;
    UPDATE run_ops.cleanup_queue AS q
       SET started_at = coalesce(q.started_at, began), failed_at = clock_timestamp(), error = SQLERRM
     WHERE (q.scope, q.id, q.store) = (job.scope, job.id, job.store);
    RETURN;
  END;
  IF deleted IS NULL THEN
    DELETE FROM run_ops.cleanup_queue AS q WHERE (q.scope, q.id, q.store) = (job.scope, job.id, job.store);
    INSERT INTO run_ops.cleanup_log (scope, id, store, event, deleted)
    VALUES (job.scope, job.id, job.store, 'end', job.deleted);
  ELSE
    UPDATE run_ops.cleanup_queue AS q
       SET started_at = coalesce(q.started_at, began), deleted = run_ops.add_counts(q.deleted, deleted),
           expected = job.expected, failed_at = NULL, error = NULL
     WHERE (q.scope, q.id, q.store) = (job.scope, job.id, job.store);
  END IF;
  deleted := coalesce(deleted, '{}');
END $$;
COMMENT ON FUNCTION run_ops.cleanup_batch(int, timestamptz, jsonb) IS
  'runs one batch of the next cleanup that no other session is running, only of those in wanted ({scope: [id, ...]}) if given. Returns its store, and {table: count} of the rows deleted or the error; store is NULL if there is nothing to do.';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_batch(int, timestamptz, jsonb) FROM PUBLIC;

-- All batches ------------------------------------------------------------------

CREATE FUNCTION run_ops.merge_batch(result jsonb, store text, deleted jsonb, error text) RETURNS jsonb
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT jsonb_set(result, ARRAY[store],
           CASE WHEN error IS NULL
                THEN coalesce(result -> store, '{}') || run_ops.add_counts((result -> store) - 'error', deleted)
                ELSE coalesce(result -> store, '{}') || jsonb_build_object('error', error) END)
$$;
COMMENT ON FUNCTION run_ops.merge_batch(jsonb, text, jsonb, text) IS
  'adds one batch to the result of a cleanup, {store: {table: count}}';

-- No SET search_path: PostgreSQL does not allow such a procedure to commit.
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
  'processes the cleanup queue in batches, with a commit after each, until the queue is empty or the time limit is reached; returns {store: {table: count}}. Call it regularly, for example by pg_cron or cron; several sessions may run it at the same time.';
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
        USING DETAIL = batch.error, HINT = 'To clean up the other stores, and retry this one later: CALL run_ops.cleanup();';
    END IF;
    EXIT WHEN batch.store IS NULL;
    result := run_ops.merge_batch(result, batch.store, batch.deleted, NULL);
  END LOOP;
  RETURN result;
END $$;
COMMENT ON FUNCTION run_ops.cleanup_now(jsonb) IS
  'cleans up {scope: [id, ...]} in the current transaction, and sets its constraints to immediate. Raises an error if a store fails, and skips cleanups that another session is running.';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_now(jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_environment(id text) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
  RETURN run_ops.cleanup_now(pg_catalog.jsonb_build_object('environment', pg_catalog.jsonb_build_array(id)));
COMMENT ON FUNCTION run_ops.cleanup_environment(text) IS
  'deletes the run-ops rows of one environment from every store, in the current transaction; returns {store: {table: count}}';
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
  'deletes the run-ops rows of one project and of its environments from every store, in the current transaction; returns {store: {table: count}}. Rows of environments that were deleted before are deleted by run_ops.cleanup().';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_project(text, name) FROM PUBLIC;
