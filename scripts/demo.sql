\pset footer off
\set SHOW_CONTEXT never
\set QUIET on
\echo
\echo '== 1. This is the control plane.  The other PostgreSQL is to hold new run-ops rows.'
\echo
CREATE EXTENSION run_ops_split CASCADE;
CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw
  OPTIONS (host :'store_host', port :'store_port', dbname 'run_ops');
CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user 'postgres');

\echo
\echo '== 2. Attach the store, and all tables that exist on both sides.'
\echo
SELECT run_ops.attach_store('new', 'new');
CREATE SCHEMA routed;
SELECT view, routing, route_column FROM run_ops.attach_all_tables(view_schema => 'routed');

\echo '== 3. Split off, a view is the plain table.  Every gate must hold before split goes on.'
\echo
EXPLAIN (COSTS OFF) SELECT * FROM routed."TaskRun" WHERE id = 'run_1';
SELECT count(*) AS runs_here FROM routed."TaskRun";
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
SELECT gate, count(*) AS checks, bool_and(ok) AS ok FROM run_ops.check_split() GROUP BY gate ORDER BY gate;
SELECT object, detail FROM run_ops.check_split() WHERE NOT ok;
\echo '-- the real schemas differ in these; known and accepted'
SELECT run_ops.acknowledge(gate, object, 'plans were compared') FROM run_ops.check_split() WHERE NOT ok \g /dev/null
SELECT run_ops.enable_split();
SELECT count(*) AS runs_in_both FROM routed."TaskRun";

\echo '== 4. Mint an id of each kind: the format of an id decides the store of its row.'
\echo
SELECT run_ops.friendly_id('run', run_ops.generate_cuid()) AS old_id,
       run_ops.friendly_id('run', run_ops.generate_run_ops_id()) AS new_id \gset
SELECT id, run_ops.classify_kind(id), run_ops.owner_engine(id), run_ops.id_timestamp(id) IS NOT NULL AS has_time
  FROM (VALUES (:'old_id'), (:'new_id')) AS minted (id);

\echo '== 5. Both are inserted into the view, each goes to its store; one view reads both.'
\echo
\echo '-- one transaction over two databases is not atomic, and says so'
INSERT INTO routed."TaskRun" (id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId",
    queue, "runtimeEnvironmentId", "projectId", "createdAt", "updatedAt")
  SELECT minted.id, minted.id, 'demo', '{}', 't', 's', 'q', e.id, e."projectId", '2030-01-01', now()
    FROM (VALUES (:'old_id'), (:'new_id')) AS minted (id),
         (SELECT * FROM "RuntimeEnvironment" ORDER BY id LIMIT 1) AS e
  RETURNING id, status;
SELECT run_ops.locate('routed."TaskRun"', :'old_id') AS old_id_is_in,
       run_ops.locate('routed."TaskRun"', :'new_id') AS new_id_is_in;
\echo '-- the two newest runs of all, joined to the control plane'
SELECT r.id, run_ops.owner_engine(r.id), e.slug AS environment, o.slug AS organization
  FROM routed."TaskRun" AS r
  JOIN "RuntimeEnvironment" AS e ON e.id = r."runtimeEnvironmentId"
  JOIN "Organization" AS o ON o.id = e."organizationId"
 ORDER BY r."createdAt" DESC LIMIT 2;

\echo '== 6. Only the store that can hold the id is asked.'
\echo
EXPLAIN (COSTS OFF) SELECT status FROM routed."TaskRun" WHERE id = :'old_id';
EXPLAIN (COSTS OFF, VERBOSE) SELECT status FROM routed."TaskRun" WHERE id = :'new_id';
\echo '-- ids of both kinds: each store is asked once'
EXPLAIN (COSTS OFF) SELECT status FROM routed."TaskRun" WHERE id IN (:'old_id', :'new_id');
\echo '-- a generic plan decides at each execution'
SET plan_cache_mode = force_generic_plan;
PREPARE run (text) AS SELECT status FROM routed."TaskRun" WHERE id = $1;
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE run (:'old_id');

\echo '== 7. Flip an organization: its new ids are minted for the new store.'
\echo
SELECT run_ops.attach_control_plane('public');
SET run_ops_split.mint_enabled = on;
\echo '-- the previous kind stays in force for 90 seconds, so that all writers cross at once; not here'
SET run_ops_split.mint_flip_grace = 0;
SELECT e.id AS environment, e."organizationId" AS organization
  FROM "RuntimeEnvironment" AS e JOIN "Organization" AS o ON o.id = e."organizationId"
 WHERE o."featureFlags" IS NULL ORDER BY e.id LIMIT 1 \gset
SELECT run_ops.resolve_mint_kind(:'environment');
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "runOpsId"}' WHERE id = :'organization';
SELECT "featureFlags" FROM "Organization" WHERE id = :'organization';
SELECT run_ops.resolve_mint_kind(:'environment');
SELECT friendly_id, run_ops.owner_engine(id) FROM run_ops.mint_run_id(:'environment');
\echo '-- a child goes where its parent is, whatever the flag says'
SELECT friendly_id, run_ops.owner_engine(id) FROM run_ops.mint_run_id(:'environment', :'old_id');

\echo '== 8. The way back: rows of the store come home, then the views are the plain tables again.'
\echo
\set ON_ERROR_STOP off
SELECT run_ops.disable_split();
\set ON_ERROR_STOP on
\echo '-- two tags of one name, one in each store, cannot both come home: one has to go'
DELETE FROM routed."TaskRunTag" AS t USING routed."TaskRunTag" AS o
 WHERE o."projectId" = t."projectId" AND o.name = t.name AND o.id > t.id;
DELETE FROM routed."WaitpointTag" AS t USING routed."WaitpointTag" AS o
 WHERE o."environmentId" = t."environmentId" AND o.name = t.name AND o.id > t.id;
\echo '-- in batches while the application runs; the rest is copied while writes are blocked, and verified'
DO $$
DECLARE complete boolean;
BEGIN
  LOOP
    SELECT r.done INTO complete FROM run_ops.repatriate(50) AS r;
    COMMIT;
    EXIT WHEN complete;
  END LOOP;
END $$;
SELECT run_ops.disable_split(repatriated => true);
SELECT count(*) AS runs_here FROM routed."TaskRun";
SELECT action FROM run_ops.audit_log ORDER BY at;
