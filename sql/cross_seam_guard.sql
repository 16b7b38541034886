-- The cross-seam guard: where a waitpoint may be unblocked.
\set name cross_seam_guard
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
SET client_min_messages = warning;
SELECT count(*) FROM run_ops.attach_all_tables();
RESET client_min_messages;

-- Split off: everything is legacy, and nothing is looked at.
SELECT * FROM run_ops.resolve_unblock_store('NONSENSE', 'short', 'NEW', true);
SELECT run_ops.select_store_for_waitpoint('37dGaqAyHnlXVhBy5x4pckK50bA');

SELECT run_ops.swap_views(true);
SELECT * FROM run_ops.resolve_unblock_store('MANUAL', 'waitpoint_37dGaqAyHnlXVhBy5x4pckK50bA');
SELECT * FROM run_ops.resolve_unblock_store('RUN', 'waitpoint_37dGaqAyHnlXVhBy5x4pckK50bA', legacy_parent => true);
SELECT * FROM run_ops.resolve_unblock_store('RUN', 'waitpoint_0123456789abcdefghijklmna2');
SELECT * FROM run_ops.resolve_unblock_store('manual', 'short');
SELECT * FROM run_ops.resolve_unblock_store(NULL, 'short');
SELECT * FROM run_ops.resolve_unblock_store('MANUAL', 'short');
SELECT * FROM run_ops.resolve_unblock_store('MANUAL', NULL);

-- The table of cases, for the 27-character ids and the 26-character ones.
CREATE TABLE vector (
  n int, split text, route_kind text, waitpoint_id_pr text, waitpoint_id_head text, id_shape text,
  tree_owner_residency run_ops.residency, cross_tree_idempotency boolean, legacy_parent boolean,
  pr_store text, pr_residency run_ops.residency, pr_pinned_reason text, pr_error text,
  head_store text, head_residency text, head_pinned_reason text, head_error text, note text);
\copy vector FROM 'test/data/cross_seam_vectors.csv' (FORMAT csv, HEADER)
CREATE FUNCTION answered(v vector, waitpoint_id text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  r record;
BEGIN
  SELECT * INTO r FROM run_ops.resolve_unblock_store(coalesce(v.route_kind, ''), waitpoint_id, v.tree_owner_residency,
                                                     v.cross_tree_idempotency, v.legacy_parent);
  RETURN concat_ws(' ', r.store, r.residency, r.pinned_reason);
EXCEPTION
  WHEN SQLSTATE 'RO001' THEN RETURN 'ERROR unclassifiable id';
  WHEN invalid_parameter_value THEN RETURN 'ERROR unknown route kind';
END $$;
CREATE VIEW wrong AS
  SELECT v.n, id, coalesce(pr_error, concat_ws(' ', pr_store, pr_residency, pr_pinned_reason)) AS expected, answered(v, id)
    FROM vector AS v, unnest(ARRAY[waitpoint_id_pr, waitpoint_id_head]) AS id
   WHERE split = CASE WHEN run_ops.split_enabled() THEN 'on' ELSE 'off' END
     AND answered(v, id) IS DISTINCT FROM coalesce(pr_error, concat_ws(' ', pr_store, pr_residency, pr_pinned_reason));
SELECT split, pr_error, count(*) FROM vector GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM wrong;
SELECT run_ops.swap_views(false);
SELECT * FROM wrong;
SELECT run_ops.swap_views(true);

-- The catalogs: one list of route kinds, and which stores each lookup queries.
SELECT * FROM run_ops.unblock_route ORDER BY site;
SELECT * FROM run_ops.read_route ORDER BY view::text, column_name;

-- A new waitpoint goes beside the run that waits.
\set cuid cl8dq15ad30lcaohivaab68x4
\set ksuid 37dGaqAyHnlXVhBy5x4pckK50bA
SELECT run_ops.select_store_for_waitpoint(:'ksuid', :'cuid'), run_ops.select_store_for_waitpoint(NULL, :'cuid'),
       run_ops.select_store_for_waitpoint(NULL, NULL, :'ksuid'), run_ops.select_store_for_waitpoint(NULL),
       run_ops.select_store_for_waitpoint('run_0123456789abcdefghijklmna2');
SELECT run_ops.select_store_for_waitpoint('short');
SELECT kind, run_ops.classify_kind(minted), run_ops.resolve_shard(minted)
  FROM (VALUES ('cuid', :'cuid'), ('ksuid', :'ksuid'), ('v1', 'run_0123456789abcdefghijklmna1'),
               ('v2', 'run_0123456789abcdefghijklmna2')) AS r (kind, id),
       run_ops.mint_waitpoint_id(id) AS minted ORDER BY kind;
SELECT run_ops.mint_waitpoint_id('short');
-- Its id says so, or the run or batch that completes it, or it stays in legacy.
SET run_ops_split.cross_store_writes = allow;
INSERT INTO run_ops."TaskRun" (id, payload, "runtimeEnvironmentId", "projectId", "updatedAt", "taskIdentifier", "friendlyId", "spanId", "traceId", queue)
  SELECT id, '', 'e', 'p', now(), 't', 'run_' || id, 's', 't', 'q' FROM unnest(ARRAY[:'cuid', :'ksuid']) AS id;
PREPARE waitpoint AS INSERT INTO run_ops."Waitpoint"
    (id, "friendlyId", type, "idempotencyKey", "userProvidedIdempotencyKey", "projectId", "environmentId", "updatedAt", "completedByTaskRunId")
  VALUES ($1, $1, 'MANUAL', $1, false, 'p', 'e', now(), $2);
EXECUTE waitpoint ('token', NULL);
EXECUTE waitpoint ('cuid of a NEW run', :'ksuid');
EXECUTE waitpoint ('cuid of a LEGACY run', :'cuid');
EXECUTE waitpoint ('waitpoint_37dGaqAyHnlXVhBy5x4pckK50bB', NULL);
SELECT 'legacy' AS store, id FROM "Waitpoint" UNION ALL SELECT 'new', id FROM run_ops_new."Waitpoint" ORDER BY 1, 2;
-- wherever it is, it is found there
UPDATE run_ops."Waitpoint" SET status = 'COMPLETED' WHERE status = 'PENDING' RETURNING id;
DELETE FROM run_ops."Waitpoint" WHERE id LIKE 'cuid%';
SELECT 'legacy' AS store, id, status FROM "Waitpoint" UNION ALL SELECT 'new', id, status FROM run_ops_new."Waitpoint" ORDER BY 1, 2;
-- The link rows of a snapshot, whose id is a cuid in every store, follow the snapshot.
INSERT INTO run_ops."TaskRunExecutionSnapshot" (id, "executionStatus", description, "runId", "runStatus", "updatedAt", "environmentId", "environmentType", "organizationId", "projectId")
  VALUES ('snapshot here', 'QUEUED', '', :'cuid', 'PENDING', now(), 'e', 'PRODUCTION', 'o', 'p'),
         ('snapshot there', 'QUEUED', '', :'ksuid', 'PENDING', now(), 'e', 'PRODUCTION', 'o', 'p');
INSERT INTO run_ops."_completedWaitpoints" VALUES ('snapshot here', 'token'), ('snapshot there', 'token');
SELECT 'legacy' AS store, "A" FROM "_completedWaitpoints" UNION ALL SELECT 'new', "A" FROM run_ops_new."CompletedWaitpoint" ORDER BY 1;
DELETE FROM run_ops."_completedWaitpoints" RETURNING "A", "B";
