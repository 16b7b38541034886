-- A shard: a store "a" beside "new", for ids of version 2 that name it.
\set name shards
\i test/fixtures/two_stores.sql
\set ECHO none
\connect postgres - :store_host :store_port
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_shards_a (FORCE);
CREATE DATABASE regress_shards_a;
\connect regress_shards_a
\i test/fixtures/store.sql
\connect :legacy_db - :legacy_host :legacy_port
SET client_min_messages = warning;
CREATE SERVER a FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host :'store_host', port :'store_port', dbname 'regress_shards_a');
CREATE USER MAPPING FOR CURRENT_USER SERVER a OPTIONS (user :'USER');
RESET client_min_messages;
\set SHOW_CONTEXT never
\set ECHO all
-- One may be attached before the tables, one after them.
SELECT run_ops.attach_store('new', 'new');
SELECT count(*) FROM run_ops.attach_all_tables();
SELECT run_ops.attach_store('a', 'a');
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
SELECT run_ops.acknowledge(gate, object, 'plans were compared') FROM (SELECT DISTINCT gate, object FROM run_ops.check_split() WHERE NOT ok) AS c \g /dev/null
SET client_min_messages = warning;
SELECT run_ops.enable_split();
RESET client_min_messages;
SET search_path = run_ops, public;
SET run_ops_split.cross_store_writes = allow;

-- A run in each store, with a snapshot and a waitpoint beside it.
CREATE TABLE public.ids AS
  SELECT s AS store, id, mint_waitpoint_id(id) AS waitpoint, generate_cuid() AS snapshot
    FROM (VALUES ('legacy', generate_cuid()), ('new', generate_ksuid()), ('new', generate_run_ops_id()), ('a', generate_run_ops_id_v2('a'))) AS i (s, id);
SELECT store, classify_kind(id), resolve_shard(id) = store AS id, select_store_for_waitpoint(id) = store AS placed,
       resolve_shard(waitpoint) = store AS waitpoint, (resolve_unblock_store('RUN', waitpoint)).store = store AS unblocked
  FROM ids ORDER BY store, classify_kind;
INSERT INTO "TaskRun" (id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId", "runtimeEnvironmentId", "projectId", queue, "updatedAt")
  SELECT id, 'run_' || id, 'task', '{}', 't', 's', 'env', 'project', 'q', now() FROM ids;
INSERT INTO "TaskRunExecutionSnapshot" (id, "executionStatus", description, "runId", "runStatus", "updatedAt", "environmentId", "environmentType", "organizationId", "projectId")
  SELECT snapshot, 'RUN_CREATED', store, id, 'PENDING', now(), 'env', 'PRODUCTION', 'org', 'project' FROM ids;
INSERT INTO "Waitpoint" (id, "friendlyId", type, "idempotencyKey", "userProvidedIdempotencyKey", "projectId", "environmentId", "updatedAt")
  SELECT waitpoint, waitpoint, 'MANUAL', waitpoint, false, 'project', 'env', now() FROM ids;
-- each is where it should be, and is found there
CREATE FUNCTION public.rows_in_stores() RETURNS TABLE (store text, runs bigint, snapshots bigint, waitpoints bigint) LANGUAGE sql AS $$
  SELECT 'legacy', (SELECT count(*) FROM public."TaskRun"), (SELECT count(*) FROM public."TaskRunExecutionSnapshot"), (SELECT count(*) FROM public."Waitpoint")
  UNION ALL SELECT 'new', (SELECT count(*) FROM run_ops_new."TaskRun"), (SELECT count(*) FROM run_ops_new."TaskRunExecutionSnapshot"), (SELECT count(*) FROM run_ops_new."Waitpoint")
  UNION ALL SELECT 'a', (SELECT count(*) FROM run_ops_a."TaskRun"), (SELECT count(*) FROM run_ops_a."TaskRunExecutionSnapshot"), (SELECT count(*) FROM run_ops_a."Waitpoint")
$$;
SELECT * FROM rows_in_stores();
SELECT bool_and(locate('"TaskRun"', id) = store AND locate('"Waitpoint"', waitpoint) = store) FROM ids;
SELECT count(*) FROM "TaskRun" AS r JOIN "TaskRunExecutionSnapshot" AS s ON s."runId" = r.id JOIN ids ON ids.id = r.id AND s.description = ids.store;
-- only the store that can hold the id is asked
SELECT id AS shard_id FROM ids WHERE store = 'a' \gset
CREATE FUNCTION public.asked(id text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
  FOR line IN EXECUTE format('EXPLAIN (COSTS OFF) SELECT status FROM "TaskRun" WHERE id = %L', id) LOOP
    IF line LIKE '%Scan%' THEN RETURN NEXT btrim(line); END IF;
  END LOOP;
END $$;
SELECT asked FROM asked(:'shard_id');
EXPLAIN (VERBOSE, COSTS OFF) SELECT "runId" FROM "TaskRunExecutionSnapshot" WHERE "runId" = 'run_0123456789abcdefghijklmna2';

-- rows are locked in every store
SELECT resolve_shard(id) FROM "TaskRun" WHERE queue = 'q' ORDER BY 1 FOR UPDATE;
SELECT count(*) FROM (SELECT FROM "TaskRun" WHERE queue = 'q' ORDER BY "createdAt" LIMIT 3 FOR NO KEY UPDATE SKIP LOCKED) AS r;

-- UPDATE, DELETE, and conflicts.
UPDATE "TaskRun" SET status = 'DEQUEUED', "attemptNumber" = 1 WHERE "runtimeEnvironmentId" = 'env' RETURNING resolve_shard(id), status;
-- a function that reads the view sees the rows from before, also in the store that is changed last
CREATE FUNCTION public.attempts() RETURNS int STABLE LANGUAGE sql AS 'SELECT sum("attemptNumber")::int FROM run_ops."TaskRun"';
UPDATE "TaskRun" SET "attemptNumber" = "attemptNumber" + attempts() RETURNING resolve_shard(id), "attemptNumber";
UPDATE "TaskRun" SET "attemptNumber" = 1 WHERE "attemptNumber" * 4 = attempts() RETURNING resolve_shard(id), "attemptNumber";
UPDATE "Waitpoint" SET status = 'COMPLETED' WHERE status = 'PENDING' RETURNING resolve_shard(id);
UPDATE "TaskRun" SET id = generate_ksuid() WHERE id = :'shard_id';
INSERT INTO "TaskRun" SELECT * FROM "TaskRun" WHERE id = :'shard_id' ON CONFLICT DO NOTHING RETURNING id;
INSERT INTO "TaskRun" SELECT * FROM "TaskRun" WHERE id = :'shard_id' ON CONFLICT (id) DO UPDATE SET queue = 'other' RETURNING queue;
DELETE FROM "TaskRunExecutionSnapshot" WHERE description = 'a' RETURNING description;
SELECT id = :'shard_id' AS shard, queue FROM "TaskRun" WHERE queue <> 'q';
SELECT * FROM rows_in_stores();
-- two shards in a transaction are two databases
SET run_ops_split.cross_store_writes = error;
UPDATE "TaskRun" SET "attemptNumber" = 2 WHERE id IN (SELECT id FROM ids WHERE store <> 'legacy');
SELECT "attemptNumber", count(*) FROM "TaskRun" GROUP BY 1;
SET run_ops_split.cross_store_writes = allow;
-- the write lock of the shard
SELECT store_write_lock('"TaskRun"', 'a');

-- An id of a shard that is not attached is no row of any store.
INSERT INTO "TaskRun" (id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId", "runtimeEnvironmentId", "projectId", queue, "updatedAt")
  VALUES ('run_0123456789abcdefghijklmnb2', 'run', 'task', '{}', 't', 's', 'env', 'project', 'q', now());

-- The shard is down: the others work.
ALTER SERVER a OPTIONS (SET port '1');
UPDATE "TaskRun" SET "attemptNumber" = 3 WHERE id IN (SELECT id FROM ids WHERE store = 'legacy');
UPDATE "TaskRun" SET "attemptNumber" = 3 WHERE id = (SELECT max(id) FROM ids WHERE store = 'new');
\set VERBOSITY terse
DO $$
BEGIN
  UPDATE "TaskRun" SET "attemptNumber" = 3 WHERE id = (SELECT id FROM ids WHERE store = 'a');
EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection THEN RAISE NOTICE 'the shard is down';
END $$;
-- cleanup does what it can
SELECT enqueue_cleanup('environment', '{env}');
CALL cleanup(10, deleted => NULL) \g /dev/null
SELECT store, error IS NOT NULL AS failed FROM cleanup_progress;
ALTER SERVER a OPTIONS (SET port :'store_port');
CALL cleanup(10, deleted => NULL) \g /dev/null
SELECT * FROM rows_in_stores();
SELECT store, deleted FROM cleanup_log WHERE event = 'end' ORDER BY store COLLATE "C";
SELECT count(*) FROM cleanup_queue;

-- New ids are minted for the shard, and no longer; what is there stays there.
SELECT attach_control_plane();
INSERT INTO public."Organization" (id, slug, title, "updatedAt", "featureFlags") VALUES ('org', 'org', 'org', now(), '{"runOpsMintKind": "runOpsId"}');
INSERT INTO public."Project" (id, name, "organizationId", "updatedAt", slug, "externalRef") VALUES ('project', 'project', 'org', now(), 'project', 'project');
INSERT INTO public."RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode)
  VALUES ('env', 'env', 'env', 'org', now(), 'project', 'env', 'env');
CREATE FUNCTION public.start(name text, parent text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
  WITH m AS MATERIALIZED (SELECT run_ops.mint_run_id('env', (SELECT id FROM run_ops."TaskRun" WHERE queue = parent)) AS minted)
  INSERT INTO run_ops."TaskRun" (id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId", "runtimeEnvironmentId", "projectId", queue, "updatedAt")
    SELECT (minted).id, (minted).friendly_id, 'task', '{}', 't', 's', 'env', 'project', name, now() FROM m
    RETURNING run_ops.locate('run_ops."TaskRun"', id)
$$;
SET run_ops_split.mint_enabled = on;
SET run_ops_split.mint_flip_grace = 0;
SELECT start('before');
SELECT set_mint_shards('a') \g /dev/null
SELECT start('root'), start('child of before', 'before');
SELECT start('child', 'root');
SELECT set_mint_shards('') \g /dev/null
SELECT start('after'), start('grandchild', 'child');
SELECT queue, locate('"TaskRun"', id) FROM "TaskRun" ORDER BY queue COLLATE "C";
SELECT * FROM rows_in_stores();
