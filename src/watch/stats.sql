
-- stats: views for monitoring.
--
-- The extension counts nothing itself.  PostgreSQL already counts the reads and
-- writes of each table, for all sessions and at no cost for a query.  One query
-- reads these counters here and in each store, and the views below show the
-- results.  For a store that does not answer, they show the error.  The time to
-- wait is limited by connect_timeout of its server and
-- run_ops_split.store_timeout.  After that the session does not try the store
-- again for store_timeout, so that several views wait only once.  Each session
-- remembers this itself: the views write nothing.
--
-- Members of pg_monitor may read all views.

CREATE FUNCTION run_ops.contact(server name, OUT answered_at timestamptz, OUT failed_at timestamptz, OUT error text)
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_contact';
COMMENT ON FUNCTION run_ops.contact(name) IS
  'when a server last answered the stat_* views in this session, when it last failed to, and the error; the name of the server is empty for this database';
REVOKE EXECUTE ON FUNCTION run_ops.contact(name) FROM PUBLIC;

CREATE FUNCTION run_ops.remember_contact(server name, error text) RETURNS void
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_remember_contact';
COMMENT ON FUNCTION run_ops.remember_contact(name, text) IS
  'remembers for this session that a server has just answered, or the error if it did not';
REVOKE EXECUTE ON FUNCTION run_ops.remember_contact(name, text) FROM PUBLIC;

CREATE FUNCTION run_ops.stats_query(tables jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- Counters of partitions are added to those of the partitioned table.  The size
  -- of a table that is locked in ACCESS EXCLUSIVE mode is left out, because
  -- reading it would wait for the lock.
  SELECT format($q$
    WITH lock AS MATERIALIZED (
      SELECT l.* FROM pg_locks AS l WHERE NOT l.granted OR l.mode = 'AccessExclusiveLock'
    ), locked AS MATERIALIZED (
      SELECT coalesce(i.indrelid, l.relation) AS relation
        FROM lock AS l LEFT JOIN pg_index AS i ON i.indexrelid = l.relation
       WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
         AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
    SELECT pg_is_in_recovery() AS in_recovery, current_setting('max_connections')::int AS max_connections,
           p.prepared, p.oldest_prepared, w.lock_waits, w.longest_lock_wait,
           (SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]')
              FROM (SELECT a.usename AS role, a.application_name, a.state, count(*) AS connections,
                           min(a.xact_start) AS oldest_transaction
                      FROM pg_stat_activity AS a
                     WHERE a.datname = current_database()
                       AND coalesce(a.backend_type, 'client backend') = 'client backend'
                     GROUP BY 1, 2, 3) AS c) AS connections,
           (SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]')
              FROM (SELECT w.view,
                           CASE WHEN bool_and(c.reltuples >= 0) THEN sum(c.reltuples)::bigint END AS rows,
                           sum(CASE WHEN NOT EXISTS (SELECT FROM locked AS l WHERE l.relation = c.oid)
                                    THEN pg_total_relation_size(c.oid) END)::bigint AS bytes,
                           sum(s.seq_scan + coalesce(s.idx_scan, 0))::bigint AS scans,
                           sum(s.seq_tup_read + coalesce(s.idx_tup_fetch, 0))::bigint AS rows_read,
                           sum(s.n_tup_ins)::bigint AS rows_inserted, sum(s.n_tup_upd)::bigint AS rows_updated,
                           sum(s.n_tup_del)::bigint AS rows_deleted,
                           sum(i.heap_blks_hit + coalesce(i.idx_blks_hit, 0))::bigint AS blocks_hit,
                           sum(i.heap_blks_read + coalesce(i.idx_blks_read, 0))::bigint AS blocks_read
                      FROM jsonb_to_recordset(%L) AS w (view text, schema name, name name)
                      JOIN pg_namespace AS n ON n.nspname = w.schema
                      JOIN pg_class AS r ON r.relnamespace = n.oid AND r.relname = w.name
                      LEFT JOIN LATERAL pg_partition_tree(r.oid) AS p ON true
                      JOIN pg_class AS c ON c.oid = coalesce(p.relid, r.oid) AND c.relkind = 'r'
                      LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
                      LEFT JOIN pg_statio_all_tables AS i ON i.relid = c.oid
                     GROUP BY w.view) AS c) AS tables
      FROM (SELECT count(*) AS prepared, clock_timestamp() - min(x.prepared) AS oldest_prepared
              FROM pg_prepared_xacts AS x
             WHERE x.database = current_database() AND starts_with(x.gid, 'run_ops_split:')) AS p,
           -- the lock of a row names no database
           (SELECT count(*) AS lock_waits, clock_timestamp() - min(l.waitstart) AS longest_lock_wait
              FROM lock AS l JOIN pg_stat_activity AS a USING (pid)
             WHERE NOT l.granted AND a.datname = current_database()) AS w
  $q$, tables)
$$;
COMMENT ON FUNCTION run_ops.stats_query(jsonb) IS
  'a query that returns the counters of a database and of its tables, [{view, schema, name}], in one row';

-- SECURITY DEFINER: only the user mapping of the owner gives access to the stores.
CREATE FUNCTION run_ops.ask_stats(
    OUT store text, OUT server name, OUT stats jsonb,
    OUT last_contact timestamptz, OUT last_error text, OUT last_error_at timestamptz)
  RETURNS SETOF record ROWS 10
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  -- a table may be locked after the query has looked for locks
  SET lock_timeout = '1s'
AS $$
#variable_conflict use_variable
DECLARE
  timeout interval := run_ops.setting('store_timeout');
  queries jsonb := '{}';
  answers jsonb := '{}';
  detail  text;
BEGIN
  FOR store, server IN
    SELECT s.name, s.server FROM run_ops.store AS s, run_ops.contact(coalesce(s.server, '')) AS c
     -- not one that has just failed to answer
     WHERE (c.failed_at > coalesce(c.answered_at, '-infinity') AND clock_timestamp() - c.failed_at < timeout) IS NOT TRUE
  LOOP
    queries := queries || jsonb_build_object(store, run_ops.stats_query((
      SELECT coalesce(jsonb_agg(jsonb_build_object('view', t.view::oid, 'schema', coalesce(n.nspname, t.store_schema),
                                                   'name', coalesce(l.relname, t.store_table))), '[]')
        FROM run_ops.routed_table AS t
        LEFT JOIN (pg_class AS l JOIN pg_namespace AS n ON n.oid = l.relnamespace) ON l.oid = t.legacy AND server IS NULL
       WHERE server IS NULL OR EXISTS (SELECT FROM run_ops.routed_store AS r WHERE (r.view, r.store) = (t.view, store)))));
  END LOOP;
  BEGIN
    PERFORM run_ops.refuse_in_copy();
    answers := (SELECT jsonb_object_agg(a.store, jsonb_build_object('stats', a.answer, 'error', a.error))
                  FROM (SELECT array_agg(q.key), array_agg(q.value) FROM jsonb_each_text(queries) AS q WHERE q.key <> 'legacy') AS q (stores, queries),
                       LATERAL run_ops.ask_stores(q.stores, q.queries, tolerant => true) AS a);
  EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    answers := (SELECT jsonb_object_agg(q, jsonb_build_object('error', concat_ws(': ', SQLERRM, nullif(detail, ''))))
                  FROM jsonb_object_keys(queries) AS q WHERE q <> 'legacy');
  END;
  FOR store, server IN
    SELECT s.name, s.server FROM run_ops.store AS s ORDER BY s.server IS NOT NULL, s.name <> 'new', s.name
  LOOP
    stats := nullif(answers -> store -> 'stats', 'null');
    IF server IS NULL AND queries ? store THEN
      BEGIN
        EXECUTE format('SELECT to_jsonb(q) FROM (%s) AS q', queries ->> store) INTO stats;
        PERFORM run_ops.remember_contact('', NULL);
      EXCEPTION WHEN OTHERS THEN
        PERFORM run_ops.remember_contact('', SQLERRM);
      END;
    ELSIF answers ? store THEN
      PERFORM run_ops.remember_contact(server, regexp_replace(answers -> store ->> 'error', '\s+', ' ', 'g'));
    END IF;
    SELECT * INTO last_contact, last_error_at, last_error FROM run_ops.contact(coalesce(server, ''));
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.ask_stats() IS
  'the counters of each store, or the error';

CREATE VIEW run_ops.stat_stores AS
  SELECT a.store, a.server, a.stats IS NOT NULL AS up, t.rows, t.bytes, c.connections,
         (a.stats OPERATOR(pg_catalog.->>) 'max_connections')::pg_catalog.int4 AS max_connections,
         (a.stats OPERATOR(pg_catalog.->>) 'in_recovery')::pg_catalog.bool AS in_recovery,
         (a.stats OPERATOR(pg_catalog.->>) 'prepared')::pg_catalog.int8 AS prepared,
         (a.stats OPERATOR(pg_catalog.->>) 'oldest_prepared')::pg_catalog.interval AS oldest_prepared,
         a.last_contact, a.last_error, a.last_error_at,
         (a.stats OPERATOR(pg_catalog.->>) 'lock_waits')::pg_catalog.int8 AS lock_waits,
         (a.stats OPERATOR(pg_catalog.->>) 'longest_lock_wait')::pg_catalog.interval AS longest_lock_wait
    FROM run_ops.ask_stats() AS a,
         LATERAL (SELECT pg_catalog.sum(t.rows)::pg_catalog.int8 AS rows, pg_catalog.sum(t.bytes)::pg_catalog.int8 AS bytes
                    FROM pg_catalog.jsonb_to_recordset(a.stats OPERATOR(pg_catalog.->) 'tables') AS t (rows pg_catalog.int8, bytes pg_catalog.int8)) AS t,
         LATERAL (SELECT CASE WHEN a.stats IS NOT NULL THEN coalesce(pg_catalog.sum(c.connections), 0) END::pg_catalog.int8 AS connections
                    FROM pg_catalog.jsonb_to_recordset(a.stats OPERATOR(pg_catalog.->) 'connections') AS c (connections pg_catalog.int8)) AS c;
COMMENT ON VIEW run_ops.stat_stores IS
  'one row for each store: whether it answers, its size, its connections, the last error. Queries every store; connect_timeout of its server and run_ops_split.store_timeout limit the time to wait.';
COMMENT ON COLUMN run_ops.stat_stores.rows IS 'the number of rows of the routed tables, as last estimated by VACUUM or ANALYZE; tables that were never analyzed are not counted';
COMMENT ON COLUMN run_ops.stat_stores.bytes IS 'the size of the routed tables with their indexes and TOAST; tables that are locked in ACCESS EXCLUSIVE mode are not counted';
COMMENT ON COLUMN run_ops.stat_stores.connections IS 'the number of client connections to the database of the store, with the one that runs this query';
COMMENT ON COLUMN run_ops.stat_stores.prepared IS 'the number of transactions of atomic commits that are prepared in the store; a moment later they should be finished';
COMMENT ON COLUMN run_ops.stat_stores.oldest_prepared IS 'for how long the oldest of them has been prepared. More than a few seconds: a crash has left it; run_ops.resolve_in_doubt() finishes it';
COMMENT ON COLUMN run_ops.stat_stores.last_contact IS 'when the store last answered one of these views in this session';
COMMENT ON COLUMN run_ops.stat_stores.lock_waits IS 'how many sessions of the database of the store wait for a lock there, those of its other clients included';
COMMENT ON COLUMN run_ops.stat_stores.longest_lock_wait IS 'for how long the first of them has waited; NULL if none waits';
COMMENT ON COLUMN run_ops.stat_stores.last_error IS 'why the store last failed to answer in this session; kept after it answers again';

CREATE VIEW run_ops.stat_routing AS
  SELECT t.view, a.store, s.rows, s.bytes, s.scans, s.rows_read, s.rows_inserted, s.rows_updated, s.rows_deleted,
         s.blocks_hit, s.blocks_read
    FROM run_ops.ask_stats() AS a
    JOIN run_ops.routed_table AS t
      ON a.server IS NULL OR EXISTS (SELECT FROM run_ops.routed_store AS r
                                      WHERE r.view OPERATOR(pg_catalog.=) t.view AND r.store OPERATOR(pg_catalog.=) a.store)
    LEFT JOIN LATERAL pg_catalog.jsonb_to_recordset(a.stats OPERATOR(pg_catalog.->) 'tables') AS s (
                view pg_catalog.oid, rows pg_catalog.int8, bytes pg_catalog.int8, scans pg_catalog.int8,
                rows_read pg_catalog.int8, rows_inserted pg_catalog.int8, rows_updated pg_catalog.int8,
                rows_deleted pg_catalog.int8, blocks_hit pg_catalog.int8, blocks_read pg_catalog.int8)
      ON s.view OPERATOR(pg_catalog.=) t.view;
COMMENT ON VIEW run_ops.stat_routing IS
  'reads and writes of each routed table in each store, as counted by PostgreSQL there, by all clients and with or without the view; NULL for a store that does not answer';
COMMENT ON COLUMN run_ops.stat_routing.rows IS 'the number of rows, as last estimated by VACUUM or ANALYZE; NULL if the table was never analyzed';
COMMENT ON COLUMN run_ops.stat_routing.scans IS 'the number of scans of the table and of its indexes';

CREATE VIEW run_ops.stat_connections AS
  SELECT a.store, c.role, c.application_name, c.state, c.connections, c.oldest_transaction
    FROM run_ops.ask_stats() AS a,
         LATERAL pg_catalog.jsonb_to_recordset(a.stats OPERATOR(pg_catalog.->) 'connections') AS c (
           role pg_catalog.name, application_name pg_catalog.text, state pg_catalog.text,
           connections pg_catalog.int8, oldest_transaction pg_catalog.timestamptz);
COMMENT ON VIEW run_ops.stat_connections IS
  'the client connections to the database of each store, by role, application_name and state. State and transaction are NULL for roles that the user of the user mapping may not see; with pg_read_all_stats in the store it sees all.';

CREATE VIEW run_ops.stat_cache AS
  SELECT c.slot, c.entries, c.hits, c.revalidations, c.misses, c.evictions, c.cache_bytes,
         pg_catalog.round((c.hits OPERATOR(pg_catalog.+) c.revalidations)::pg_catalog.numeric
           OPERATOR(pg_catalog./) nullif(c.hits OPERATOR(pg_catalog.+) c.revalidations OPERATOR(pg_catalog.+) c.misses, 0), 4) AS hit_ratio
    FROM run_ops.cache_stats() AS c;
COMMENT ON VIEW run_ops.stat_cache IS
  'run_ops.cache_stats() with the hit ratio; each session has its own cache, and this view shows that of the current session';

CREATE TABLE run_ops.cache_lookup ();
COMMENT ON TABLE run_ops.cache_lookup IS
  'an empty table whose statistics count the cache lookups of all sessions, for run_ops.stat_cache_lookups';

CREATE VIEW run_ops.stat_cache_lookups AS
  SELECT l.hits, l.misses, pg_catalog.round(l.hits::pg_catalog.numeric OPERATOR(pg_catalog./) nullif(l.hits OPERATOR(pg_catalog.+) l.misses, 0), 4) AS hit_ratio
    FROM (SELECT pg_catalog.pg_stat_get_tuples_returned(c.oid) AS hits, pg_catalog.pg_stat_get_tuples_fetched(c.oid) AS misses
            FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) 'run_ops.cache_lookup'::pg_catalog.regclass) AS l;
COMMENT ON VIEW run_ops.stat_cache_lookups IS
  'the cache hits and misses of all sessions since the last reset of statistics. A session reports its hits together with its next miss, or when there are a hundred.';

-- The wires ------------------------------------------------------------------------

CREATE VIEW run_ops.stat_wire AS
  SELECT w.*, (1000 OPERATOR(pg_catalog.*) w.answer_seconds OPERATOR(pg_catalog./) nullif(w.answers, 0)) AS mean_ms
    FROM run_ops.wire_counters() AS w;
COMMENT ON VIEW run_ops.stat_wire IS
  'what all sessions did on their connections to each store, since the server has started. It has rows only if run_ops_split is in shared_preload_libraries.';
COMMENT ON COLUMN run_ops.stat_wire.connections IS 'how many connections were opened';
COMMENT ON COLUMN run_ops.stat_wire.failures IS 'how often the store could not be reached, or a connection was lost';
COMMENT ON COLUMN run_ops.stat_wire.pauses IS 'how many statements were refused because the store had failed in their session just before';
COMMENT ON COLUMN run_ops.stat_wire.answers IS 'how many answers have begun to arrive';
COMMENT ON COLUMN run_ops.stat_wire.answer_seconds IS 'how long sessions have waited for them: a round trip, and what the store does until it sends the first row';
COMMENT ON COLUMN run_ops.stat_wire.up_to IS 'times in seconds';
COMMENT ON COLUMN run_ops.stat_wire.answers_up_to IS 'how many answers took at most that time';
COMMENT ON COLUMN run_ops.stat_wire.mean_ms IS 'the mean time of an answer';

CREATE VIEW run_ops.stat_wire_errors AS
  SELECT w.store, w.sqlstate, w.errors FROM run_ops.wire_error_counters() AS w;
COMMENT ON VIEW run_ops.stat_wire_errors IS
  'how often each store has reported an error to a session, by SQLSTATE, since the server has started. It has rows only if run_ops_split is in shared_preload_libraries.';

-- Work in progress ----------------------------------------------------------------

CREATE FUNCTION run_ops.time_left(rows_left bigint, rows_done bigint, elapsed interval) RETURNS interval
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN CASE WHEN rows_left OPERATOR(pg_catalog.=) 0 THEN '0'::pg_catalog.interval
              ELSE elapsed OPERATOR(pg_catalog./) nullif(rows_done, 0)::pg_catalog.float8 OPERATOR(pg_catalog.*) rows_left::pg_catalog.float8 END;
COMMENT ON FUNCTION run_ops.time_left(bigint, bigint, interval) IS
  'how long the rest takes at the speed so far; NULL if that is not known';

CREATE VIEW run_ops.stat_progress AS
  SELECT 'cleanup' AS operation, pg_catalog.concat_ws(' ', p.scope, p.id) AS object, p.store,
         coalesce(p.rows_deleted, 0)::pg_catalog.int8 AS rows_done, false AS finished,
         p.started_at, coalesce(p.failed_at, p.started_at, p.requested_at) AS changed_at, p.error,
         p.rows_left, run_ops.time_left(p.rows_left, p.rows_done, pg_catalog.now() OPERATOR(pg_catalog.-) p.started_at) AS time_left
    FROM run_ops.cleanup_progress AS p
  UNION ALL
  SELECT CASE WHEN c.forward THEN 'move strays' ELSE 'repatriate' END, c.view::pg_catalog.text, c.store,
         c.copied, c.finished, c.started_at, c.changed_at, NULL,
         e.rows_left, run_ops.time_left(e.rows_left, c.compared, c.changed_at OPERATOR(pg_catalog.-) c.started_at)
    FROM run_ops.copy_progress AS c,
         LATERAL (SELECT CASE WHEN c.finished THEN 0 WHEN c.expected IS NOT NULL THEN greatest(c.expected OPERATOR(pg_catalog.-) c.compared, 0) END AS rows_left) AS e
  UNION ALL
  SELECT 'remove leftovers', l.view::pg_catalog.text, l.store, l.removed, l.finished, NULL, l.changed_at, NULL, NULL, NULL
    FROM run_ops.leftover AS l;
COMMENT ON VIEW run_ops.stat_progress IS
  'cleanups that are queued or running, and the progress of run_ops.repatriate(), run_ops.move_strays() and run_ops.remove_leftovers() in each table';
COMMENT ON COLUMN run_ops.stat_progress.rows_done IS 'the number of rows deleted, copied or removed';
COMMENT ON COLUMN run_ops.stat_progress.rows_left IS 'the number of rows that are still to be compared in this pass, or deleted, as far as statistics of the tables tell; NULL if that is not known. No table is read for it.';
COMMENT ON COLUMN run_ops.stat_progress.time_left IS 'how long that takes at the speed so far; NULL if one of both is not known';
COMMENT ON COLUMN run_ops.stat_progress.finished IS 'whether the current pass has reached the end of this table';

CREATE VIEW run_ops.stat_cleanup AS
  SELECT s.name AS store, pg_catalog.count(q.id) AS queued, pg_catalog.count(q.error) AS failing,
         pg_catalog.min(q.requested_at) AS oldest,
         (pg_catalog.array_agg(q.error ORDER BY q.failed_at DESC) FILTER (WHERE q.error IS NOT NULL))[1] AS error
    FROM run_ops.store AS s LEFT JOIN run_ops.cleanup_queue AS q ON q.store OPERATOR(pg_catalog.=) s.name
   GROUP BY s.name;
COMMENT ON VIEW run_ops.stat_cleanup IS
  'the cleanup queue of each store: how many environments and projects have rows to delete, how many cleanups fail, and the last error';

-- Gates ---------------------------------------------------------------------------

CREATE TABLE run_ops.recorded_gate (
  gate text, object text, ok boolean, detail text, hint text,
  checked_at timestamptz NOT NULL
);
COMMENT ON TABLE run_ops.recorded_gate IS 'the results of the last run_ops.record_check()';
COMMENT ON COLUMN run_ops.recorded_gate.gate IS 'the gate';
COMMENT ON COLUMN run_ops.recorded_gate.object IS 'the object that was checked; empty if there is only one';
COMMENT ON COLUMN run_ops.recorded_gate.ok IS 'whether the gate holds; NULL if it could not be checked, and then it fails as well';
COMMENT ON COLUMN run_ops.recorded_gate.detail IS 'what was found';
COMMENT ON COLUMN run_ops.recorded_gate.hint IS 'what to do';
COMMENT ON COLUMN run_ops.recorded_gate.checked_at IS 'when the gate was checked';

CREATE FUNCTION run_ops.record_check() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gates run_ops.gate[] := ARRAY(SELECT g FROM run_ops.check_split() AS g);
BEGIN
  LOCK TABLE run_ops.recorded_gate IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM run_ops.recorded_gate;
  INSERT INTO run_ops.recorded_gate SELECT g.*, clock_timestamp() FROM unnest(gates) AS g;
  RETURN QUERY SELECT g.* FROM unnest(gates) AS g WHERE g.ok IS NOT TRUE;
END $$;
COMMENT ON FUNCTION run_ops.record_check() IS
  'runs run_ops.check_split(), stores the results for run_ops.stat_gates, and returns the failing gates. Call it from cron, but not often: it reads whole tables to find strays.';

CREATE VIEW run_ops.stat_gates AS
  SELECT a.gate, a.object, a.ok, a.detail, a.hint, pg_catalog.now() AS checked_at
    FROM run_ops.local_gates() AS g, run_ops.acknowledged(g) AS a
  UNION ALL
  SELECT r.gate, r.object, r.ok, r.detail, r.hint, r.checked_at FROM run_ops.recorded_gate AS r
   WHERE r.gate OPERATOR(pg_catalog.<>) ALL (ARRAY['opted in', 'server', 'store', 'complete', 'attached', 'preload', 'hidden name', 'search path', 'refreshed', 'key', 'identity', 'foreign key', 'foreign key index', 'realtime'])
      OR r.object OPERATOR(pg_catalog.~~) '% in store "%';
COMMENT ON VIEW run_ops.stat_gates IS
  'the gates of split mode: gates that check this database only as of now, gates that query stores or read tables as of the last run_ops.record_check()';

-- Plans: which stores a query accesses -----------------------------------------------

CREATE FUNCTION run_ops.plan_relations(plans jsonb)
  RETURNS TABLE (view regclass, store text, relation text, node text, only_if text, remote_sql text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH RECURSIVE node AS (
    SELECT p.value -> 'Plan' AS n, NULL::text AS only_if, ARRAY[p.ord] AS path
      FROM jsonb_array_elements(plans) WITH ORDINALITY AS p (value, ord)
    UNION ALL
    SELECT c.value,
           -- an InitPlan computes values for the filter, so the filter does not apply to it
           CASE WHEN c.value ->> 'Parent Relationship' = 'InitPlan' THEN node.only_if
                ELSE nullif(concat_ws(' AND ', node.only_if, node.n ->> 'One-Time Filter'), '') END,
           node.path || c.ord
      FROM node, jsonb_array_elements(node.n -> 'Plans') WITH ORDINALITY AS c (value, ord)
  ), copy AS (
    SELECT t.view, 'legacy' AS store, t.legacy AS relation FROM run_ops.routed_table AS t
    UNION ALL SELECT r.view, r.store, r.foreign_table FROM run_ops.routed_store AS r
    UNION ALL SELECT t.view, NULL, t.view FROM run_ops.routed_table AS t
  ), named AS (
    SELECT node.*, x.relation
      FROM node, LATERAL (
        SELECT format('%I.%I', node.n ->> 'Schema', node.n ->> 'Relation Name')
         WHERE node.n ? 'Relation Name'
        UNION ALL
        -- a join that runs in a store is one node with several relations
        SELECT f.oid::regclass::text FROM pg_class AS f
         WHERE f.relkind = 'f' AND node.n ? 'Relations'
           AND translate(node.n ->> 'Relations', ' ', ')') LIKE '%(' || replace(f.oid::regclass::text, '_', '\_') || ')%') AS x (relation)
  )
  SELECT c.view,
         CASE WHEN c.relation IS NOT NULL THEN c.store
              WHEN r.relkind = 'f' THEN (SELECT s.name FROM pg_foreign_table AS f JOIN pg_foreign_server AS v ON v.oid = f.ftserver
                                           JOIN run_ops.store AS s ON s.server = v.srvname WHERE f.ftrelid = r.oid)
              ELSE 'legacy' END,
         n.relation, coalesce(nullif(n.n ->> 'Operation', 'Select'), n.n ->> 'Node Type'),
         nullif(concat_ws(' AND ', n.only_if, n.n ->> 'One-Time Filter'), ''), n.n ->> 'Remote SQL'
    FROM named AS n LEFT JOIN pg_class AS r ON r.oid = to_regclass(n.relation)
    LEFT JOIN copy AS c ON c.relation = coalesce(pg_partition_root(r.oid), r.oid)
   ORDER BY n.path, n.relation
$$;
COMMENT ON FUNCTION run_ops.plan_relations(jsonb) IS
  'the relations in the output of EXPLAIN (FORMAT JSON, VERBOSE), and the store of each';

-- No SET search_path, because the query needs that of the caller; nothing else
-- here depends on it.  A cursor accepts only one statement, so that the query
-- cannot append another statement to EXPLAIN.
CREATE FUNCTION run_ops.explain(query text)
  RETURNS TABLE (view regclass, store text, relation text, node text, only_if text, remote_sql text)
  LANGUAGE plpgsql
AS $$
DECLARE
  explanation pg_catalog.refcursor;
  plans       pg_catalog.json;
BEGIN
  OPEN explanation FOR EXECUTE pg_catalog.concat('EXPLAIN (FORMAT JSON, VERBOSE) ', query);
  FETCH explanation INTO plans;
  CLOSE explanation;
  RETURN QUERY SELECT * FROM run_ops.plan_relations(plans::pg_catalog.jsonb);
END $$;
COMMENT ON FUNCTION run_ops.explain(text) IS
  'which stores a query accesses: one row for each table in its plan, with its view and store. only_if is a condition that decides at each execution whether the table is read at all. store is NULL for a write through the view, where each row decides. The query is planned, but not run.';

-- SECURITY DEFINER: the caller need not be able to read the tables.  It learns the
-- store of a row, and nothing of its contents.
CREATE FUNCTION run_ops.whereabouts(view regclass, id text) RETURNS text
  LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT run_ops.locate(view, id) $$;
COMMENT ON FUNCTION run_ops.whereabouts(regclass, text) IS
  'run_ops.locate() for roles that may not read the tables, see run_ops.grant_viewer()';

-- Sessions that wait ---------------------------------------------------------------

-- The wait event is that of every extension: without the library in
-- shared_preload_libraries a session may wait for something else.
CREATE VIEW run_ops.stat_waits AS
  SELECT a.pid, a.usename AS role, a.application_name, w.store, w.waits_for,
         coalesce(w.since, a.query_start) AS since, a.xact_start AS transaction_since, a.query
    FROM pg_catalog.pg_stat_activity AS a LEFT JOIN run_ops.wire_waits() AS w ON w.pid OPERATOR(pg_catalog.=) a.pid
   WHERE a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() AND a.state OPERATOR(pg_catalog.=) 'active'
     AND a.wait_event_type OPERATOR(pg_catalog.=) 'Extension';
COMMENT ON VIEW run_ops.stat_waits IS
  'sessions of this database that wait for a store now. store is NULL if run_ops_split is not in shared_preload_libraries, or if the session waits in another extension.';
COMMENT ON COLUMN run_ops.stat_waits.waits_for IS 'connection, answer or commit';
COMMENT ON COLUMN run_ops.stat_waits.since IS 'since when the store has been silent; if store is NULL, when the statement began';

-- Privileges -------------------------------------------------------------------------

REVOKE EXECUTE ON FUNCTION run_ops.ask_stats(), run_ops.whereabouts(regclass, text), run_ops.mint_flips(), run_ops.mint_kinds(), run_ops.record_check(), run_ops.wire_waits(), run_ops.wire_counters(), run_ops.wire_error_counters() FROM PUBLIC;
GRANT USAGE ON SCHEMA run_ops TO pg_monitor;
GRANT EXECUTE ON FUNCTION run_ops.ask_stats(), run_ops.mint_flips(), run_ops.mint_kinds(), run_ops.wire_waits(), run_ops.wire_counters(), run_ops.wire_error_counters() TO pg_monitor;
GRANT SELECT ON run_ops.stat_stores, run_ops.stat_routing, run_ops.stat_connections, run_ops.stat_progress,
  run_ops.stat_cleanup, run_ops.stat_gates, run_ops.stat_cache_lookups, run_ops.stat_wire, run_ops.stat_wire_errors, run_ops.stat_waits TO pg_monitor;
GRANT SELECT ON run_ops.stat_cache TO PUBLIC;
-- it reads whole tables, like the functions of pgstattuple
GRANT EXECUTE ON FUNCTION run_ops.record_check() TO pg_stat_scan_tables;
