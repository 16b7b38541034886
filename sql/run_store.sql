-- The statements of a run store on the real schema: what an ORM and its raw
-- queries send, with ids of both stores, each with the answer of a plain table.
--
-- The expected file is what the plain tables give.  With RUN_OPS_PLAIN in the
-- environment nothing is attached, and the same statements run on the tables of
-- the control plane.  The two schemas differ in some foreign keys, and the join
-- tables of the store have none; the statements here do not depend on those.  Only
-- a checkpoint needs a word more where there are views: see there.
\set name run_store
\i test/fixtures/two_stores.sql
\set ECHO none
\i test/fixtures/or_plain_tables.sql
\if :split
SELECT run_ops.attach_store('new', 'new') \g /dev/null
SELECT count(*) FROM run_ops.attach_all_tables() \g /dev/null
SELECT run_ops.swap_views(true) \g /dev/null
\endif
-- the id of a run or batch; one of a waitpoint, snapshot, ... of the same number
CREATE FUNCTION id(store text, k int) RETURNS text IMMUTABLE LANGUAGE sql
  RETURN CASE store WHEN 'legacy' THEN 'c' || lpad(k::text, 24, '0') ELSE lpad(k::text, 24, '0') || 'a1' END;
CREATE FUNCTION cuid(what text, k int) RETURNS text IMMUTABLE LANGUAGE sql
  RETURN 'c' || rpad(what, 14, '0') || lpad(k::text, 10, '0');
CREATE FUNCTION short(id text) RETURNS text IMMUTABLE LANGUAGE sql
  RETURN CASE WHEN id ~ '^c\d{24}$' THEN 'L' || ltrim(substr(id, 2), '0') WHEN length(id) = 26 THEN 'N' || ltrim(left(id, 24), '0') ELSE id END;
-- what an ORM makes of an error: P2002 is 23505, P2003 is 23503
CREATE FUNCTION failure(statement text, OUT code text, OUT on_constraint text, OUT of_table text, OUT of_column text) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE statement;
  code := 'none';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, on_constraint = CONSTRAINT_NAME, of_table = TABLE_NAME, of_column = COLUMN_NAME;
  -- RESTRICT has an SQLSTATE of its own from version 18 on
  code := replace(code, '23001', '23503');
END $$;
SELECT id('legacy', 1) AS l1, id('legacy', 2) AS l2, id('legacy', 3) AS l3, id('legacy', 99) AS l99,
       id('new', 1) AS n1, id('new', 2) AS n2, id('new', 3) AS n3, id('new', 99) AS n99,
       id('legacy', 50) AS lb, id('new', 50) AS nb,
       -- waitpoints: one with an id of each kind, and cuids for runs of each store
       id('legacy', 71) AS lw, id('new', 71) AS nw, cuid('wl', 1) AS lw2, cuid('wn', 1) AS nw2 \gset
\if :split
SET search_path = run_ops, public;
\endif
\set ECHO all

-- # A run and its first snapshot, in one transaction
PREPARE create_run (text, text, text, text, text) AS
  INSERT INTO "TaskRun" (id, "friendlyId", engine, status, "taskIdentifier", payload, "traceId", "spanId", "runtimeEnvironmentId", "projectId", queue,
                         "createdAt", "updatedAt", "idempotencyKey", "batchId", "parentTaskRunId", "runTags")
  VALUES ($1, 'run_' || $1, 'V2', $2::"TaskRunStatus", 'task', '{}', 'trace', 'span' || $1, 'env', 'project', 'queue', '2026-02-01', '2026-02-01', $3, $4, $5, '{a}')
  RETURNING short(id) AS id, status, number, "masterQueue", "bulkActionGroupIds", "completedAt";
PREPARE create_snapshot (text, text, text) AS
  INSERT INTO "TaskRunExecutionSnapshot" (id, engine, "executionStatus", description, "runId", "runStatus", "environmentId", "environmentType", "projectId", "organizationId", "createdAt", "updatedAt", "checkpointId")
  VALUES ($1, 'V2', 'RUN_CREATED', 'created', $2, 'PENDING', 'env', 'PRODUCTION', 'project', 'org', '2026-02-01', '2026-02-01', $3)
  RETURNING id, short("runId") AS run, "isValid", "executionStatus", "checkpointId";
BEGIN;
EXECUTE create_run (:'l1', 'PENDING', 'key', NULL, NULL);
SELECT cuid('sl', 1) AS snapshot \gset
EXECUTE create_snapshot (:'snapshot', :'l1', NULL);
COMMIT;
BEGIN;
EXECUTE create_run (:'n1', 'PENDING', 'key of a new run', NULL, NULL);
SELECT cuid('sn', 1) AS snapshot \gset
EXECUTE create_snapshot (:'snapshot', :'n1', NULL);
COMMIT;
-- several at once, of both stores
INSERT INTO "TaskRun" (id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId", "runtimeEnvironmentId", "projectId", queue, "createdAt", "updatedAt", "parentTaskRunId")
SELECT id(store, k), 'run_' || id(store, k), 'task', '{}', 'trace', 'span' || id(store, k), 'env', 'project', 'queue', '2026-02-01', '2026-02-01', id(store, 1)
  FROM unnest('{legacy,new}'::text[]) AS store, generate_series(2, 3) AS k;
SELECT short(id) AS id, short("parentTaskRunId") AS parent, status, engine FROM "TaskRun" ORDER BY id;

-- Duplicates (P2002): the id, a friendly id, the idempotency key.
SELECT * FROM failure(format('EXECUTE create_run (%L, ''PENDING'', NULL, NULL, NULL)', :'l1'));
SELECT * FROM failure(format('EXECUTE create_run (%L, ''PENDING'', NULL, NULL, NULL)', :'n1'));
SELECT * FROM failure(format('EXECUTE create_run (%L, ''PENDING'', ''key'', NULL, NULL)', :'l99'));
SELECT * FROM failure(format('EXECUTE create_run (%L, ''PENDING'', ''key of a new run'', NULL, NULL)', :'n99'));
SELECT * FROM failure(format('UPDATE "TaskRun" SET "friendlyId" = %L WHERE id = %L', 'run_' || :'n1', :'n2'));
-- What refers to nothing (P2003), and NULL.
PREPARE create_attempt (text, text, int) AS
  INSERT INTO "TaskRunAttempt" (id, "friendlyId", "taskRunId", number, "backgroundWorkerId", "backgroundWorkerTaskId", "runtimeEnvironmentId", "queueId", "createdAt", "updatedAt")
  VALUES ($1, 'attempt_' || $1, $2, $3, 'worker', 'task', 'env', 'queue', '2026-02-01', '2026-02-01') RETURNING id, short("taskRunId") AS run, status;
SELECT * FROM failure(format('EXECUTE create_attempt (%L, %L, 1)', cuid('a', 1), :'l99'));
SELECT * FROM failure(format('EXECUTE create_attempt (%L, %L, 1)', cuid('a', 1), :'n99'));
SELECT * FROM failure(format('UPDATE "TaskRun" SET payload = NULL WHERE id = %L', :'l1'));
SELECT * FROM failure(format('UPDATE "TaskRun" SET payload = NULL WHERE id = %L', :'n1'));
SELECT cuid('al', 1) AS al, cuid('an', 1) AS an \gset
EXECUTE create_attempt (:'al', :'l1', 1);
EXECUTE create_attempt (:'an', :'n1', 1);
SELECT * FROM failure(format('EXECUTE create_attempt (%L, %L, 1)', cuid('a', 2), :'n1'));
-- A row that is not there (P2025): nothing comes back.
PREPARE start_run (text) AS UPDATE "TaskRun" SET status = 'EXECUTING', "startedAt" = '2026-02-01 10:00' WHERE id = $1 AND 1 = 1 RETURNING short(id) AS id, status, "startedAt";
EXECUTE start_run (:'l99');
EXECUTE start_run (:'n99');
EXECUTE start_run (:'l1');
EXECUTE start_run (:'n1');

-- # Lookups
PREPARE by_friendly_id (text) AS SELECT short(id) AS id, status FROM "TaskRun" WHERE "friendlyId" = $1 AND "runtimeEnvironmentId" = 'env' LIMIT 1 OFFSET 0;
SELECT 'run_' || :'l1' AS fl, 'run_' || :'n1' AS fn, 'span' || :'l2' AS sl, 'span' || :'n2' AS sn \gset
EXECUTE by_friendly_id (:'fl');
EXECUTE by_friendly_id (:'fn');
EXECUTE by_friendly_id ('run_nothing');
PREPARE by_key (text, text, text) AS SELECT short(id) AS id, "idempotencyKey" FROM "TaskRun" WHERE "runtimeEnvironmentId" = $1 AND "taskIdentifier" = $2 AND "idempotencyKey" = $3;
EXECUTE by_key ('env', 'task', 'key');
EXECUTE by_key ('env', 'task', 'key of a new run');
EXECUTE by_key ('env', 'other', 'key');
PREPARE by_span (text) AS SELECT short(id) AS id FROM "TaskRun" WHERE "spanId" = $1;
EXECUTE by_span (:'sl');
EXECUTE by_span (:'sn');
-- "include": the rows of other tables, by the ids that the first query has returned
PREPARE by_ids (text[]) AS SELECT short(id) AS id, short("parentTaskRunId") AS parent FROM "TaskRun" WHERE id = ANY ($1) ORDER BY id;
EXECUTE by_ids (ARRAY[:'l1', :'l2', :'n1', :'n3', :'n99']);
SELECT short("runId") AS run, "executionStatus" FROM "TaskRunExecutionSnapshot" WHERE "runId" IN (:'l1', :'n1', :'n2') ORDER BY "runId";
SELECT short(a."taskRunId") AS run, a.number FROM "TaskRunAttempt" AS a WHERE a."taskRunId" = ANY (ARRAY[:'l1', :'n1']) ORDER BY a."taskRunId";

-- # Waiting
PREPARE create_waitpoint (text, text, text, text) AS
  INSERT INTO "Waitpoint" (id, "friendlyId", type, "idempotencyKey", "userProvidedIdempotencyKey", "projectId", "environmentId", "createdAt", "updatedAt", "completedByTaskRunId", tags)
  VALUES ($1, 'waitpoint_' || $1, $2::"WaitpointType", $3, false, 'project', 'env', '2026-02-01', '2026-02-01', $4, '{t}')
  RETURNING short(id) AS id, type, status, "outputIsError";
EXECUTE create_waitpoint (:'lw', 'MANUAL', 'w1', NULL);
EXECUTE create_waitpoint (:'nw', 'MANUAL', 'w2', NULL);
-- cuids, which belong where the run is that completes them
EXECUTE create_waitpoint (:'lw2', 'RUN', 'w3', :'l2');
EXECUTE create_waitpoint (:'nw2', 'RUN', 'w4', :'n2');
SELECT * FROM failure(format('EXECUTE create_waitpoint (%L, ''RUN'', ''w5'', %L)', cuid('wn', 2), :'n2'));
-- What a run waits for, and how much of it is still pending: one statement.
PREPARE block_run (text, text[], text) AS
  WITH inserted AS (
    INSERT INTO "TaskRunWaitpoint" (id, "taskRunId", "waitpointId", "projectId", "createdAt", "updatedAt", "spanIdToComplete", "batchIndex")
    SELECT cuid('e' || right($1, 3), row_number() OVER (ORDER BY w.id)::int + length($3)), $1, w.id, 'project', '2026-02-01', '2026-02-01', $3, NULL
      FROM "Waitpoint" AS w WHERE w.id = ANY ($2)
    ON CONFLICT DO NOTHING
    RETURNING "waitpointId"),
  connected AS (
    INSERT INTO "_WaitpointRunConnections" ("A", "B")
    SELECT $1, w.id FROM "Waitpoint" AS w WHERE w.id = ANY ($2)
    ON CONFLICT DO NOTHING)
  SELECT (SELECT count(*) FROM inserted) AS inserted, count(*) FILTER (WHERE w.status = 'PENDING') AS pending FROM "Waitpoint" AS w WHERE w.id = ANY ($2);
EXECUTE block_run (:'l1', ARRAY[:'lw', :'lw2'], 's');
EXECUTE block_run (:'n1', ARRAY[:'nw'], 's');
-- once more: only what is new
EXECUTE block_run (:'l1', ARRAY[:'lw', :'lw2'], 'again');
EXECUTE block_run (:'n1', ARRAY[:'nw', :'nw2'], 'again');
SELECT short("taskRunId") AS run, short("waitpointId") AS waitpoint, "spanIdToComplete" FROM "TaskRunWaitpoint" ORDER BY "taskRunId", "waitpointId";
SELECT short("A") AS run, short("B") AS waitpoint FROM "_WaitpointRunConnections" ORDER BY "A", "B";
-- The clause is for its statement alone.
SELECT * FROM failure(format('INSERT INTO "TaskRunWaitpoint" (id, "taskRunId", "waitpointId", "projectId", "updatedAt") VALUES (%L, %L, %L, ''project'', ''2026-02-01'')', cuid('e', 9), :'l1', :'lw'));
SELECT * FROM failure(format('INSERT INTO "TaskRunWaitpoint" (id, "taskRunId", "waitpointId", "projectId", "updatedAt") VALUES (%L, %L, %L, ''project'', ''2026-02-01'')', cuid('e', 9), :'n1', :'nw'));

-- A waitpoint completes once.
PREPARE complete_waitpoint (text, text) AS
  UPDATE "Waitpoint" SET status = 'COMPLETED', output = $2, "completedAt" = '2026-02-02' WHERE id = $1 AND status = 'PENDING' RETURNING short(id) AS id, status, output;
EXECUTE complete_waitpoint (:'lw', 'one');
EXECUTE complete_waitpoint (:'lw', 'two');
EXECUTE complete_waitpoint (:'nw', 'one');
EXECUTE complete_waitpoint (:'nw', 'two');
EXECUTE complete_waitpoint (:'nw2', 'one');
EXECUTE complete_waitpoint (:'nw2', 'two');
SELECT short(e."taskRunId") AS run, count(*) FILTER (WHERE w.status = 'PENDING') AS pending, count(*) AS of
  FROM "TaskRunWaitpoint" AS e JOIN "Waitpoint" AS w ON w.id = e."waitpointId" GROUP BY e."taskRunId" ORDER BY e."taskRunId";

-- The run resumes: its next snapshot remembers what it waited for.
SELECT cuid('sl', 1) AS ssl, cuid('sn', 1) AS ssn \gset
PREPARE remember (text, text[]) AS INSERT INTO "_completedWaitpoints" ("A", "B") SELECT $1, w FROM unnest($2) AS w ON CONFLICT DO NOTHING;
EXECUTE remember (:'ssl', ARRAY[:'lw', :'lw2']);
EXECUTE remember (:'ssl', ARRAY[:'lw', :'nw']);
\echo :ROW_COUNT
EXECUTE remember (:'ssn', ARRAY[:'nw', :'nw', :'nw2']);
\echo :ROW_COUNT
SELECT c."A" AS snapshot, short(w.id) AS waitpoint, w.status FROM "_completedWaitpoints" AS c JOIN "Waitpoint" AS w ON w.id = c."B" ORDER BY c."A", w.id;
DELETE FROM "TaskRunWaitpoint" WHERE "taskRunId" = :'l1';
\echo :ROW_COUNT
DELETE FROM "TaskRunWaitpoint" WHERE "taskRunId" = :'n1' AND "waitpointId" = ANY (ARRAY[:'nw', :'nw2']);
\echo :ROW_COUNT

-- # Batches
PREPARE create_batch (text, text) AS
  INSERT INTO "BatchTaskRun" (id, "friendlyId", "runtimeEnvironmentId", "idempotencyKey", "runCount", "expectedCount", "createdAt", "updatedAt")
  VALUES ($1, 'batch_' || $1, 'env', $2, 3, 3, '2026-02-01', '2026-02-01') RETURNING short(id) AS id, status, sealed, "completedCount";
EXECUTE create_batch (:'lb', 'batch');
EXECUTE create_batch (:'nb', 'new batch');
SELECT * FROM failure(format('EXECUTE create_batch (%L, ''new batch'')', :'n99'));
-- createMany, which skips duplicates
PREPARE add_errors (text) AS
  INSERT INTO "BatchTaskRunError" (id, "batchTaskRunId", index, "taskIdentifier", error, "createdAt")
  VALUES (cuid('x' || right($1, 3), 1), $1, 0, 'task', 'one', '2026-02-01'), (cuid('x' || right($1, 3), 2), $1, 1, 'task', 'two', '2026-02-01'),
         (cuid('x' || right($1, 3), 3), $1, 1, 'task', 'three', '2026-02-01')
  ON CONFLICT DO NOTHING;
EXECUTE add_errors (:'lb');
\echo :ROW_COUNT
EXECUTE add_errors (:'lb');
\echo :ROW_COUNT
EXECUTE add_errors (:'nb');
\echo :ROW_COUNT
EXECUTE add_errors (:'nb');
\echo :ROW_COUNT
SELECT short("batchTaskRunId") AS batch, index, error FROM "BatchTaskRunError" ORDER BY "batchTaskRunId", index;
INSERT INTO "BatchTaskRunItem" (id, "batchTaskRunId", "taskRunId", "createdAt", "updatedAt")
SELECT cuid('i' || store, k), id(store, 50), id(store, k), '2026-02-01', '2026-02-01' FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 3) AS k
ON CONFLICT ("batchTaskRunId", "taskRunId") DO NOTHING;
\echo :ROW_COUNT
WITH i AS (
  INSERT INTO "BatchTaskRunItem" (id, "batchTaskRunId", "taskRunId", "createdAt", "updatedAt")
  SELECT cuid('j' || store, k), id(store, 50), id(store, k), '2026-02-01', '2026-02-01' FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 3) AS k
  ON CONFLICT ("batchTaskRunId", "taskRunId") DO UPDATE SET status = 'COMPLETED', "completedAt" = '2026-02-03' WHERE "BatchTaskRunItem".status = 'PENDING' AND "BatchTaskRunItem"."taskRunId" <> id('new', 3)
  RETURNING id, "taskRunId", status)
SELECT id, short("taskRunId") AS run, status FROM i ORDER BY id;
-- counted up, and sealed once
PREPARE count_up (text) AS UPDATE "BatchTaskRun" SET "completedCount" = "completedCount" + 1 WHERE id = $1 RETURNING short(id) AS id, "completedCount", "expectedCount";
EXECUTE count_up (:'lb');
EXECUTE count_up (:'lb');
EXECUTE count_up (:'nb');
EXECUTE count_up (:'nb');
PREPARE seal (text) AS UPDATE "BatchTaskRun" SET sealed = true, "sealedAt" = '2026-02-02' WHERE id = $1 AND sealed = false;
EXECUTE seal (:'lb');
\echo :ROW_COUNT
EXECUTE seal (:'lb');
\echo :ROW_COUNT
EXECUTE seal (:'nb');
\echo :ROW_COUNT
EXECUTE seal (:'nb');
\echo :ROW_COUNT
UPDATE "TaskRun" SET "batchId" = id(CASE length(id) WHEN 25 THEN 'legacy' ELSE 'new' END, 50) WHERE id IN (:'l2', :'n2');
SELECT short(id) AS id, short("batchId") AS batch FROM "TaskRun" WHERE "batchId" IN (:'lb', :'nb') ORDER BY id;
SELECT short(b.id) AS batch, b."completedCount", b.sealed, count(i.*) FILTER (WHERE i.status = 'COMPLETED') AS completed, count(i.*) AS items
  FROM "BatchTaskRun" AS b LEFT JOIN "BatchTaskRunItem" AS i ON i."batchTaskRunId" = b.id GROUP BY b.id, b."completedCount", b.sealed ORDER BY b.id;

-- # Conditional updates
PREPARE set_metadata (text, text, int) AS
  UPDATE "TaskRun" SET metadata = $2, "metadataVersion" = "metadataVersion" + 1 WHERE id = $1 AND "metadataVersion" = $3 RETURNING short(id) AS id, metadata, "metadataVersion";
EXECUTE set_metadata (:'l1', 'a', 1);
EXECUTE set_metadata (:'l1', 'b', 1);
EXECUTE set_metadata (:'n1', 'a', 1);
EXECUTE set_metadata (:'n1', 'b', 1);
EXECUTE set_metadata (:'n1', 'c', 2);
UPDATE "TaskRun" SET status = 'PENDING_VERSION' WHERE id IN (:'l2', :'n2', :'n3');
WITH u AS (UPDATE "TaskRun" SET status = 'PENDING' WHERE id = ANY (ARRAY[:'l1', :'l2', :'n1', :'n2', :'n3']) AND status = 'PENDING_VERSION' RETURNING id) SELECT short(id) FROM u ORDER BY id;
PREPARE add_stream (text, text) AS UPDATE "TaskRun" SET "realtimeStreams" = array_append("realtimeStreams", $2), "runTags" = "runTags" || ARRAY[$2] WHERE id = $1 RETURNING short(id) AS id, "realtimeStreams", "runTags";
EXECUTE add_stream (:'l1', 'one');
EXECUTE add_stream (:'l1', 'two');
EXECUTE add_stream (:'n1', 'one');
EXECUTE add_stream (:'n1', 'two');
UPDATE "TaskRun" SET output = 'done', status = 'COMPLETED_SUCCESSFULLY', "completedAt" = '2026-02-03', "usageDurationMs" = "usageDurationMs" + 5, "costInCents" = "costInCents" + 0.5
 WHERE id IN (:'l3', :'n3') AND status <> 'COMPLETED_SUCCESSFULLY' RETURNING status, "usageDurationMs", "costInCents";

-- # Tags, which are inserted or found
PREPARE tag (text, text) AS
  INSERT INTO "WaitpointTag" AS t (id, name, "environmentId", "projectId", "createdAt") VALUES ($1, $2, 'env', 'project', '2026-02-01')
  ON CONFLICT ("environmentId", name) DO UPDATE SET name = EXCLUDED.name WHERE t."environmentId" = 'env' RETURNING t.id, t.name;
EXECUTE tag ('tag1', 'a');
EXECUTE tag ('tag2', 'b');
EXECUTE tag ('tag3', 'a');
INSERT INTO "TaskRunTag" (id, name, "friendlyId", "projectId", "createdAt") VALUES ('t1', 'x', 'f1', 'project', '2026-02-01'), ('t2', 'y', 'f2', 'project', '2026-02-01'), ('t3', 'x', 'f3', 'project', '2026-02-01')
ON CONFLICT DO NOTHING RETURNING id, name;

-- # Lists
--
-- 60 runs of each store, of which two at a time were created together
INSERT INTO "TaskRun" (id, "friendlyId", status, "taskIdentifier", payload, "traceId", "spanId", "runtimeEnvironmentId", "projectId", queue, "createdAt", "updatedAt")
SELECT id(store, k), 'run_' || id(store, k), (ARRAY['PENDING', 'EXECUTING', 'DEQUEUED', 'EXPIRED', 'CANCELED'])[1 + k % 5]::"TaskRunStatus", 'task' || k % 3, '{}', 't', 's', 'env2', 'project', 'q',
       timestamp '2026-03-01' + k / 2 * interval '1 hour', '2026-03-01'
  FROM unnest('{legacy,new}'::text[]) AS store, generate_series(100, 159) AS k;
-- pages by keyset, filtered by an enum
PREPARE page (timestamp, text, int) AS
  SELECT short(id) AS id, status, "createdAt" FROM "TaskRun"
   WHERE "runtimeEnvironmentId" = 'env2' AND status IN ('EXECUTING', 'DEQUEUED') AND ("createdAt" < $1 OR ("createdAt" = $1 AND id < $2))
   ORDER BY "createdAt" DESC, id DESC LIMIT $3;
EXECUTE page ('2026-12-31', '', 5);
EXECUTE page ('2026-03-04 06:00', '000000000000000000000157a1', 5);
EXECUTE page ('2026-03-03 03:00', :'l99', 5);
PREPARE page_by_row (timestamp, text) AS
  SELECT short(id) AS id, status FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env2' AND status = 'CANCELED' AND ("createdAt", id) < ($1, $2) ORDER BY "createdAt" DESC, id DESC LIMIT 4;
EXECUTE page_by_row ('2026-03-04', '');
-- the order of an enum is that of the control plane's labels
SELECT DISTINCT status FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env2' ORDER BY status;
SELECT short(id) AS id, status FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env2' AND status > 'PENDING' ORDER BY status, id LIMIT 4;
SELECT short(id) AS id, type, status FROM "Waitpoint" WHERE "environmentId" = 'env' AND type = 'MANUAL' AND status = 'COMPLETED' ORDER BY id DESC LIMIT 10;
-- groupBy, count, aggregates
SELECT status, count(*) AS "_count", max("createdAt") AS "_max" FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env2' GROUP BY status HAVING count(*) > 1 ORDER BY status;
SELECT "taskIdentifier", status, count(*) FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env2' AND "createdAt" >= '2026-03-03' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) FROM (SELECT id FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env2' AND status = 'EXECUTING' OFFSET 0) AS sub;
-- raw: UNION ALL, LATERAL
SELECT kind, short(id) AS id FROM (
  SELECT 'run' AS kind, id, "createdAt" FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env'
  UNION ALL SELECT 'batch', id, "createdAt" FROM "BatchTaskRun" WHERE "runtimeEnvironmentId" = 'env') AS u ORDER BY kind, id;
SELECT short(r.id) AS run, s.id AS snapshot, s."executionStatus", a.attempts
  FROM "TaskRun" AS r
  LEFT JOIN LATERAL (SELECT * FROM "TaskRunExecutionSnapshot" AS s WHERE s."runId" = r.id AND s."isValid" ORDER BY s."createdAt" DESC LIMIT 1) AS s ON true
  LEFT JOIN LATERAL (SELECT count(*) AS attempts FROM "TaskRunAttempt" AS a WHERE a."taskRunId" = r.id) AS a ON true
 WHERE r."runtimeEnvironmentId" = 'env' ORDER BY r.id;
-- a cursor
BEGIN;
DECLARE runs CURSOR FOR SELECT short(id) AS id FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env2' ORDER BY "createdAt", id;
FETCH 3 FROM runs;
UPDATE "TaskRun" SET "runtimeEnvironmentId" = 'env3' WHERE id IN (id('legacy', 101), id('new', 101));
FETCH 4 FROM runs;
MOVE 100 FROM runs;
FETCH ALL FROM runs;
ROLLBACK;

-- # Transactions
--
-- interactive, with a savepoint around what may fail
BEGIN;
UPDATE "TaskRun" SET status = 'PAUSED' WHERE id IN (:'l1', :'n1');
SAVEPOINT s;
\set VERBOSITY sqlstate
EXECUTE create_run (:'n1', 'PENDING', NULL, NULL, NULL);
\set VERBOSITY default
ROLLBACK TO s;
UPDATE "TaskRun" SET number = number + 1 WHERE id IN (:'l1', :'n1') AND status = 'PAUSED';
COMMIT;
SELECT short(id) AS id, status, number FROM "TaskRun" WHERE id IN (:'l1', :'n1') ORDER BY id;
BEGIN;
DELETE FROM "BatchTaskRunError" WHERE "batchTaskRunId" IN (:'lb', :'nb');
UPDATE "TaskRun" SET number = 100 WHERE "runtimeEnvironmentId" = 'env2';
ROLLBACK;
SELECT count(*) FROM "BatchTaskRunError";
SELECT count(*) FROM "TaskRun" WHERE number = 100;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT short(id) AS id, number FROM "TaskRun" WHERE id IN (:'l2', :'n2') ORDER BY id;
UPDATE "TaskRun" SET number = (SELECT max(number) + 1 FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env') WHERE id IN (:'l2', :'n2');
COMMIT;
SELECT short(id) AS id, number FROM "TaskRun" WHERE id IN (:'l2', :'n2') ORDER BY id;

-- # A checkpoint
--
-- It has a cuid, and a snapshot refers to it.  The snapshot is in the store of
-- its run, so the checkpoint must be there too.  Its columns do not name the run:
-- run_ops_split.beside does, where there are views.
PREPARE create_checkpoint (text) AS
  INSERT INTO "TaskRunCheckpoint" (id, "friendlyId", type, location, "projectId", "runtimeEnvironmentId", "createdAt", "updatedAt")
  VALUES ($1, 'checkpoint_' || $1, 'DOCKER', 'here', 'project', 'env', '2026-02-01', '2026-02-01') RETURNING id, type;
SELECT cuid('kl', 1) AS kl, cuid('kn', 1) AS kn, cuid('sl', 2) AS sl2, cuid('sn', 2) AS sn2 \gset
BEGIN;
EXECUTE create_checkpoint (:'kl');
EXECUTE create_snapshot (:'sl2', :'l1', :'kl');
COMMIT;
BEGIN;
\set ECHO none
SELECT set_config(name, :'n1', true) FROM pg_settings WHERE name = 'run_ops_split.beside' \g /dev/null
\set ECHO all
EXECUTE create_checkpoint (:'kn');
EXECUTE create_snapshot (:'sn2', :'n1', :'kn');
COMMIT;
SELECT short(s."runId") AS run, s.id AS snapshot, c.id AS checkpoint, c.location FROM "TaskRunExecutionSnapshot" AS s JOIN "TaskRunCheckpoint" AS c ON c.id = s."checkpointId" ORDER BY s.id;
-- the snapshots remain when checkpoints go
DELETE FROM "TaskRunCheckpoint" WHERE id IN (:'kl', :'kn');
\echo :ROW_COUNT
SELECT id, "checkpointId" FROM "TaskRunExecutionSnapshot" WHERE id IN (:'sl2', :'sn2') ORDER BY id;

-- # The end
--
-- Attempts and items go with their runs; a run with snapshots stays.  The join
-- tables of the store have no foreign keys, so the statements name their rows.
SELECT * FROM failure(format('DELETE FROM "TaskRun" WHERE id = %L', :'l1'));
SELECT * FROM failure(format('DELETE FROM "TaskRun" WHERE id = %L', :'n1'));
DELETE FROM "_completedWaitpoints" WHERE "A" IN (:'ssl', :'ssn');
\echo :ROW_COUNT
DELETE FROM "_WaitpointRunConnections" WHERE "A" IN (:'l1', :'n1') AND "B" <> :'nw';
\echo :ROW_COUNT
DELETE FROM "_WaitpointRunConnections" WHERE "A" IN (:'l1', :'n1');
\echo :ROW_COUNT
WITH s AS (DELETE FROM "TaskRunExecutionSnapshot" WHERE "runId" IN (:'l1', :'n1') RETURNING id) SELECT count(*) FROM s;
DELETE FROM "TaskRun" WHERE id IN (:'l1', :'n1');
\echo :ROW_COUNT
SELECT count(*) FROM "TaskRunAttempt";
SELECT short("batchTaskRunId") AS batch, count(*) FROM "BatchTaskRunItem" GROUP BY "batchTaskRunId" ORDER BY 1;
SELECT count(*) FROM "_completedWaitpoints";
SELECT count(*) FROM "_WaitpointRunConnections";
DELETE FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'env2';
\echo :ROW_COUNT
