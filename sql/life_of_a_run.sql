-- A whole life of a run, as the run engine writes it, through the views: its
-- history reads the same with split off, with split on, and when split mode
-- flips in between; for runs of either kind, and for a child of the other kind.
\set name life_of_a_run
\i test/fixtures/two_stores.sql
SET client_min_messages = warning;
SELECT run_ops.attach_store('new', 'new');
SELECT count(*) FROM run_ops.attach_all_tables();
SET search_path = run_ops, public;

-- An id of a kind; all but runs, batches and their waitpoints have cuids.
CREATE FUNCTION public.id(kind text, name text) RETURNS text IMMUTABLE LANGUAGE sql
  RETURN CASE kind WHEN 'cuid' THEN 'c' || left(md5(name), 24) ELSE left(md5(name), 27) END;

CREATE FUNCTION public.expect(rows bigint, expected bigint, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF rows <> expected THEN
    RAISE EXCEPTION '%: % rows instead of %', what, rows, expected;
  END IF;
END $$;

CREATE FUNCTION public.snapshot(run text, is_now text, waitpoint text DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
  -- the snapshot and its links are one statement: no reader sees one without the other
  WITH s AS (
    INSERT INTO "TaskRunExecutionSnapshot" (id, "executionStatus", description, "runId", "runStatus", "updatedAt",
                                            "environmentId", "environmentType", "organizationId", "projectId")
    SELECT public.id('cuid', run || is_now), is_now::"TaskRunExecutionStatus", '', run, r.status, now(), 'env', 'PRODUCTION', 'org', 'project'
      FROM "TaskRun" AS r WHERE r.id = run RETURNING id)
  INSERT INTO "_completedWaitpoints" SELECT s.id, waitpoint FROM s WHERE waitpoint IS NOT NULL
$$;

CREATE FUNCTION public.trigger_run(run text, parent text, batch text, key text) RETURNS void LANGUAGE sql AS $$
  INSERT INTO "TaskRun" (id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId", "runtimeEnvironmentId", "projectId",
                         queue, "updatedAt", "parentTaskRunId", "batchId", "idempotencyKey", engine)
  VALUES (run, 'run_' || run, 'task', '{}', 't', 's', 'env', 'project', 'q', now(), parent, batch, key, 'V2')
$$;

CREATE PROCEDURE public.live(step int, kind text, child_kind text) LANGUAGE plpgsql AS $$
DECLARE
  run   text := id(kind, kind || child_kind || 'run');
  child text := id(child_kind, kind || child_kind || 'child');
  batch text := id(kind, kind || child_kind || 'batch');
  token text := id(kind, kind || child_kind || 'token');
  n     bigint;
BEGIN
  CASE step
  WHEN 1 THEN  -- triggered, with an idempotency key that is then used again
    PERFORM trigger_run(run, NULL, NULL, run), snapshot(run, 'RUN_CREATED');
    PERFORM expect(count(*), 1, 'found by key') FROM "TaskRun" WHERE "idempotencyKey" = run AND "taskIdentifier" = 'task';
    BEGIN
      PERFORM trigger_run(id(kind, run || 'again'), NULL, NULL, run);
      RAISE EXCEPTION 'one key, two runs';
    EXCEPTION WHEN unique_violation THEN NULL;
    END;
  WHEN 2 THEN  -- dequeued by one worker, not by a second one
    UPDATE "TaskRun" SET status = 'DEQUEUED', "lockedAt" = now() WHERE id = run AND status = 'PENDING';
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM expect(n, 1, 'dequeued'), snapshot(run, 'PENDING_EXECUTING');
    UPDATE "TaskRun" SET status = 'DEQUEUED' WHERE id = run AND status = 'PENDING';
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM expect(n, 0, 'dequeued twice');
  WHEN 3 THEN  -- executes, and triggers a batch of 100, whose children are of the batch's kind
    UPDATE "TaskRun" SET status = 'EXECUTING', "attemptNumber" = coalesce("attemptNumber", 0) + 1 WHERE id = run;
    PERFORM snapshot(run, 'EXECUTING');
    INSERT INTO "BatchTaskRun" (id, "friendlyId", "runtimeEnvironmentId", "runCount", "updatedAt")
    VALUES (batch, 'batch_' || batch, 'env', 100, now());
    PERFORM trigger_run(id(kind, run || i), run, batch, NULL) FROM generate_series(1, 100) AS i;
    INSERT INTO "BatchTaskRunItem" (id, "batchTaskRunId", "taskRunId", "updatedAt")
    SELECT id('cuid', 'item' || r.id), batch, r.id, now() FROM "TaskRun" AS r WHERE r."batchId" = batch;
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM expect(n, 100, 'items');
  WHEN 4 THEN  -- waits for a child
    PERFORM trigger_run(child, CASE WHEN kind = child_kind THEN run END, NULL, NULL);
    INSERT INTO "Waitpoint" (id, "friendlyId", type, "idempotencyKey", "userProvidedIdempotencyKey", "projectId", "environmentId", "updatedAt",
                             "completedByTaskRunId")
    VALUES (token, 'waitpoint_' || token, 'RUN', token, false, 'project', 'env', now(), child);
    INSERT INTO "TaskRunWaitpoint" (id, "taskRunId", "waitpointId", "projectId", "updatedAt")
    VALUES (id('cuid', run || 'edge'), run, token, 'project', now());
    INSERT INTO "_WaitpointRunConnections" VALUES (run, token);
    PERFORM snapshot(run, 'EXECUTING_WITH_WAITPOINTS');
    PERFORM expect(count(*), 1, 'pending') FROM "TaskRunWaitpoint" AS e JOIN "Waitpoint" AS w ON w.id = e."waitpointId"
      WHERE e."taskRunId" = run AND w.status = 'PENDING';
  WHEN 5 THEN  -- the child completes, and with it the waitpoint, once
    UPDATE "TaskRun" SET status = 'COMPLETED_SUCCESSFULLY', output = '"done"' WHERE id = child;
    FOR again IN 0 .. 1 LOOP
      UPDATE "Waitpoint" SET status = 'COMPLETED', output = '"done"' WHERE id = token AND status = 'PENDING';
      GET DIAGNOSTICS n = ROW_COUNT;
      PERFORM expect(n, 1 - again, 'completed');
    END LOOP;
  WHEN 6 THEN  -- the run resumes: it finds what it waited for
    DELETE FROM "TaskRunWaitpoint" WHERE "taskRunId" = run;
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM expect(n, 1, 'edges deleted'), snapshot(run, 'QUEUED_EXECUTING', token);
    PERFORM expect(count(*), 1, 'completed waitpoints of the snapshot')
       FROM "_completedWaitpoints" AS l JOIN "Waitpoint" AS w ON w.id = l."B"
      WHERE l."A" = id('cuid', run || 'QUEUED_EXECUTING') AND w.status = 'COMPLETED';
  WHEN 7 THEN  -- the batch completes
    UPDATE "TaskRun" SET status = 'COMPLETED_SUCCESSFULLY' WHERE "batchId" = batch AND "runtimeEnvironmentId" = 'env';
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM expect(n, 100, 'children completed');
    UPDATE "BatchTaskRunItem" SET status = 'COMPLETED' WHERE "batchTaskRunId" = batch AND status = 'PENDING';
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM expect(n, 100, 'items completed');
    UPDATE "BatchTaskRun" SET status = 'COMPLETED', "completedCount" = 100 WHERE id = batch AND "runCount" = 100;
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM expect(n, 1, 'batch completed');
  WHEN 8 THEN  -- the end
    UPDATE "TaskRun" SET status = 'COMPLETED_SUCCESSFULLY', output = '42' WHERE id = run;
    PERFORM snapshot(run, 'FINISHED');
  END CASE;
END $$;

-- Everything to be seen, but for times.
CREATE TABLE public.history (mode text, view text, line jsonb);
CREATE PROCEDURE public.remember(mode text) LANGUAGE plpgsql AS $$
DECLARE
  v regclass;
BEGIN
  FOR v IN SELECT r.view FROM run_ops.routed_table AS r LOOP
    EXECUTE format('INSERT INTO public.history SELECT %L, %L, to_jsonb(x) - ''{createdAt,updatedAt,lockedAt}''::text[] FROM %s AS x', mode, v, v);
  END LOOP;
END $$;
CREATE PROCEDURE public.forget() LANGUAGE plpgsql AS $$
DECLARE
  v regclass;
BEGIN
  FOREACH v IN ARRAY ARRAY['"_completedWaitpoints"', '"_WaitpointRunConnections"', '"TaskRunExecutionSnapshot"', '"Waitpoint"',
                           '"BatchTaskRunItem"', '"TaskRun"', '"BatchTaskRun"']::regclass[] LOOP
    EXECUTE format('DELETE FROM %s', v);
  END LOOP;
END $$;
SET run_ops_split.cross_store_writes = allow;

-- Split off.
DO $$
DECLARE step int; k record;
BEGIN
  FOR k IN SELECT kind, child FROM (VALUES ('cuid'), ('ksuid')) AS a (kind), (VALUES ('cuid'), ('ksuid')) AS b (child) LOOP
    FOR step IN 1 .. 8 LOOP
      CALL live(step, k.kind, k.child);
    END LOOP;
  END LOOP;
END $$;
CALL remember('off');
SELECT view, count(*) FROM history GROUP BY 1 ORDER BY 1;
CALL forget();

-- Split on.
SELECT run_ops.swap_views(true);
DO $$
DECLARE step int; k record;
BEGIN
  FOR k IN SELECT kind, child FROM (VALUES ('cuid'), ('ksuid')) AS a (kind), (VALUES ('cuid'), ('ksuid')) AS b (child) LOOP
    FOR step IN 1 .. 8 LOOP
      CALL live(step, k.kind, k.child);
    END LOOP;
  END LOOP;
END $$;
CALL remember('on');
-- each in its place
SELECT view, store, count(*) FROM (
    SELECT t.view, c.store, (xpath('//n/text()', query_to_xml(format('SELECT count(*) AS n FROM %s', c.relation), true, true, '')))[1]::text::int AS count
      FROM run_ops.routed_table AS t, run_ops.copies(t) AS c) AS s,
  LATERAL generate_series(1, s.count) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT t.view, s.* FROM run_ops.routed_table AS t, run_ops.find_strays(t.view) AS s;
SELECT count(*) FROM run_ops.in_doubt();
CALL forget();

-- Flipping: a LEGACY run lives on with split off at every second step; a NEW one
-- rests until split is on again.
DO $$
DECLARE step int; k record;
BEGIN
  FOR step IN 1 .. 8 LOOP
    IF step % 2 = 1 THEN
      PERFORM run_ops.swap_views(false);
      CALL live(step, 'cuid', 'cuid');
      PERFORM run_ops.swap_views(true);
    ELSE
      CALL live(step, 'cuid', 'cuid');
    END IF;
    FOR k IN SELECT kind, child FROM (VALUES ('cuid'), ('ksuid')) AS a (kind), (VALUES ('cuid'), ('ksuid')) AS b (child)
              WHERE (kind, child) <> ('cuid', 'cuid') LOOP
      CALL live(step, k.kind, k.child);
    END LOOP;
  END LOOP;
END $$;
CALL remember('flipping');

-- The same history in all.
SELECT mode, count(*) FROM history GROUP BY 1 ORDER BY 1;
SELECT view, line, array_agg(mode) FROM history GROUP BY 1, 2 HAVING count(*) <> 3;
