\pset footer off
\set QUIET on
\echo
\echo '== 1. This is the control plane.  The other PostgreSQL is to hold new run-ops rows.'
\echo
CREATE EXTENSION run_ops_split CASCADE;
CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw
  OPTIONS (host :'store_host', port :'store_port', dbname 'run_ops');
CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user 'postgres');

\echo
\echo '== 2. Attach the store, and every table that both sides have.'
\echo
SELECT run_ops.attach_store('new', 'new');
SELECT view, routing, route_column FROM run_ops.attach_all_tables();

\echo '== 3. Split off, a view is the plain table.  Split on, it shows both stores.'
\echo
EXPLAIN (COSTS OFF) SELECT * FROM run_ops."TaskRun" WHERE id = 'run_1';
SELECT count(*) AS runs_here FROM run_ops."TaskRun";
SELECT run_ops.swap_views(true);
SELECT count(*) AS runs_in_both FROM run_ops."TaskRun";

\echo '== 4. Mint an id of each kind: the shape of an id says where its row lives.'
\echo
SELECT run_ops.friendly_id('run', run_ops.generate_cuid()) AS old_id,
       run_ops.friendly_id('run', run_ops.generate_ksuid()) AS new_id \gset
SELECT id, run_ops.classify_kind(id), run_ops.owner_engine(id), run_ops.id_timestamp(id) IS NOT NULL AS has_time
  FROM (VALUES (:'old_id'), (:'new_id')) AS minted (id);

\echo '== 5. A row for each, in its own store; one view reads both.'
\echo
CREATE TEMP TABLE template AS SELECT * FROM "TaskRun" ORDER BY id LIMIT 1;
UPDATE template SET "friendlyId" = 'demo_1', "idempotencyKey" = NULL, "oneTimeUseToken" = NULL, "createdAt" = '2030-01-01';
UPDATE template SET id = :'old_id';
INSERT INTO public."TaskRun" SELECT * FROM template;
UPDATE template SET id = :'new_id';
SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS columns
  FROM pg_attribute WHERE attrelid = 'template'::regclass AND attnum > 0 \gset
\set ECHO none
INSERT INTO run_ops_new."TaskRun" (:columns) SELECT :columns FROM template;
\set ECHO queries
SELECT run_ops.locate('run_ops."TaskRun"', :'old_id') AS old_id_is_in,
       run_ops.locate('run_ops."TaskRun"', :'new_id') AS new_id_is_in;
\echo '-- the two newest runs of all, joined to the control plane'
SELECT r.id, run_ops.owner_engine(r.id), e.slug AS environment, o.slug AS organization
  FROM run_ops."TaskRun" AS r
  JOIN "RuntimeEnvironment" AS e ON e.id = r."runtimeEnvironmentId"
  JOIN "Organization" AS o ON o.id = e."organizationId"
 ORDER BY r."createdAt" DESC LIMIT 2;

\echo '== 6. Only the store that can hold the id is asked.'
\echo
EXPLAIN (COSTS OFF) SELECT status FROM run_ops."TaskRun" WHERE id = :'old_id';
EXPLAIN (COSTS OFF, VERBOSE) SELECT status FROM run_ops."TaskRun" WHERE id = :'new_id';
\echo '-- ids of both kinds: each store is asked once'
EXPLAIN (COSTS OFF) SELECT status FROM run_ops."TaskRun" WHERE id IN (:'old_id', :'new_id');
\echo '-- a generic plan decides at each execution'
SET plan_cache_mode = force_generic_plan;
PREPARE run (text) AS SELECT status FROM run_ops."TaskRun" WHERE id = $1;
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE run (:'old_id');

\echo '== 7. Flip an organization: its new ids are minted for the new store.'
\echo
SELECT run_ops.install_mint_flip_triggers('public');
SET run_ops_split.mint_enabled = on;
\echo '-- the previous kind stays in force for 90 seconds, so that all writers cross at once; not here'
SET run_ops_split.mint_flip_grace = 0;
SELECT e.id AS environment, e."organizationId" AS organization
  FROM "RuntimeEnvironment" AS e JOIN "Organization" AS o ON o.id = e."organizationId"
 WHERE o."featureFlags" IS NULL ORDER BY e.id LIMIT 1 \gset
SELECT run_ops.resolve_mint_kind(:'environment');
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "ksuid"}' WHERE id = :'organization';
SELECT "featureFlags" FROM "Organization" WHERE id = :'organization';
SELECT run_ops.resolve_mint_kind(:'environment');
SELECT friendly_id, run_ops.owner_engine(id) FROM run_ops.mint_run_id(:'environment');
\echo '-- a child goes where its parent is, whatever the flag says'
SELECT friendly_id, run_ops.owner_engine(id) FROM run_ops.mint_run_id(:'environment', :'old_id');

\echo '== 8. The way back: the views are the plain tables again, nothing was moved.'
\echo
SELECT run_ops.swap_views(false);
SELECT count(*) AS runs_here FROM run_ops."TaskRun";
