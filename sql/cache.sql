-- The cache of the session: exact in every snapshot, bounded, and visible.
\set name cache
\i test/fixtures/two_stores.sql
\set ECHO none
\set side legacy
\set orgs 2
\set runs 40
\i test/fixtures/generate.sql
-- ANALYZE would empty the cache
SELECT format('ALTER TABLE %s SET (autovacuum_enabled = false)', oid::regclass) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' \gexec
\set ECHO all
SELECT run_ops.attach_control_plane('public');
SELECT id AS env FROM "RuntimeEnvironment" WHERE "branchName" = 'feature/4' \gset
SELECT id AS dev FROM "RuntimeEnvironment" WHERE "orgMemberId" IS NOT NULL ORDER BY "createdAt", id LIMIT 1 \gset
CREATE VIEW stats AS SELECT slot, entries, hits, revalidations, misses, evictions FROM run_ops.cache_stats();

-- The first question asks the tables; the second, in the same snapshot, nothing;
-- one in another snapshot looks at the rows of the answer.
SELECT run_ops.cache_reset();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT (run_ops.resolve_env(:'env')).type;
SELECT (run_ops.resolve_env(:'env')).type;
COMMIT;
SELECT (run_ops.resolve_env(:'env')).type;
SELECT * FROM stats;

-- A change of one of the rows makes it ask again; of another row, not.
UPDATE "RuntimeEnvironment" SET paused = true WHERE id = :'dev';
SELECT (run_ops.resolve_env(:'env')).type;
UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 6 WHERE id = :'env';
SELECT (run_ops.resolve_env(:'env')).maximum_concurrency_limit;
SELECT * FROM stats;

-- Own changes are seen, and forgotten with them.
BEGIN;
UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 7 WHERE id = :'env';
SELECT (run_ops.resolve_env(:'env')).maximum_concurrency_limit;
SAVEPOINT s;
UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 8 WHERE id = :'env';
SELECT (run_ops.resolve_env(:'env')).maximum_concurrency_limit;
ROLLBACK TO s;
SELECT (run_ops.resolve_env(:'env')).maximum_concurrency_limit;
ROLLBACK;
SELECT (run_ops.resolve_env(:'env')).maximum_concurrency_limit;
-- within one statement, its own changes are not
WITH u AS (UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 9 WHERE id = :'env' RETURNING id)
SELECT (run_ops.resolve_env(u.id)).maximum_concurrency_limit FROM u;
SELECT (run_ops.resolve_env(:'env')).maximum_concurrency_limit;
-- a function sees what it has done itself
DO $$ DECLARE env text := (SELECT id FROM "RuntimeEnvironment" WHERE "branchName" = 'feature/4'); BEGIN
  UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 10 WHERE id = env;
  RAISE NOTICE 'inside: %', (run_ops.resolve_env(env)).maximum_concurrency_limit;
  RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
  RAISE NOTICE 'rolled back: %', (run_ops.resolve_env(env)).maximum_concurrency_limit;
END $$;

-- The second TRUNCATE of a transaction leaves the file: the same place, the
-- same transaction, another row.
BEGIN;
CREATE TEMP TABLE env AS SELECT * FROM "RuntimeEnvironment" WHERE id = :'dev';
SET LOCAL client_min_messages = warning;
TRUNCATE "RuntimeEnvironment" CASCADE;
INSERT INTO "RuntimeEnvironment" SELECT * FROM env;
SELECT (run_ops.resolve_env(:'dev')).maximum_concurrency_limit;
UPDATE env SET "maximumConcurrencyLimit" = 11;
TRUNCATE "RuntimeEnvironment" CASCADE;
INSERT INTO "RuntimeEnvironment" SELECT * FROM env;
SELECT (run_ops.resolve_env(:'dev')).maximum_concurrency_limit;
ROLLBACK;
SELECT (run_ops.resolve_env(:'dev')).maximum_concurrency_limit;

-- L5, L6: an absence is not remembered.
SELECT run_ops.resolve_env('later');
INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "pkApiKey", shortcode, "organizationId", "projectId", "updatedAt")
  SELECT 'later', 'later', 'later', 'later', 'later', "organizationId", "projectId", '2026-01-01'
    FROM "RuntimeEnvironment" WHERE id = :'env';
SELECT (run_ops.resolve_env('later')).type;
-- nor is an answer that lacks a row that another refers to
SET session_replication_role = replica;
DELETE FROM "User" WHERE id = (SELECT "userId" FROM "OrgMember" JOIN "RuntimeEnvironment" AS e ON e."orgMemberId" = "OrgMember".id WHERE e.id = :'dev')
  RETURNING id AS "user" \gset
RESET session_replication_role;
SELECT (e.org_member).user_id IS NOT NULL AS member, ((e.org_member)."user").name FROM run_ops.resolve_authenticated_env(:'dev') AS e;
INSERT INTO "User" (id, email, name, "authenticationMethod", "updatedAt") VALUES (:'user', 'back', 'back', 'MAGIC_LINK', '2026-01-01');
SELECT (e.org_member).user_id IS NOT NULL AS member, ((e.org_member)."user").name FROM run_ops.resolve_authenticated_env(:'dev') AS e;

-- L7, L8: every column that an answer can contain.  Each is changed in turn,
-- with the answers cached, and changed back by a rollback.
DROP INDEX "RuntimeEnvironment_projectId_type_staging_preview_root_key";
CREATE FUNCTION answers() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT string_agg(concat(
           run_ops.resolve_env(e.id), run_ops.resolve_authenticated_env(e.id),
           run_ops.resolve_run_locked_worker(
             (SELECT min(id) FROM "BackgroundWorkerTask" WHERE "workerId" = d."workerId"), d."workerId"),
           run_ops.resolve_worker_version(e.id, NULL, e.type::text)), ' ' ORDER BY e.id)
    FROM "RuntimeEnvironment" AS e LEFT JOIN LATERAL (
           SELECT "workerId" FROM "WorkerDeployment" WHERE "environmentId" = e.id ORDER BY id LIMIT 1) AS d ON true $$;
CREATE FUNCTION unseen_columns() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  c      record;
  before text := answers();
  after  text;
BEGIN
  FOR c IN SELECT * FROM run_ops.control_plane_column WHERE column_name <> 'id' ORDER BY table_name, position LOOP
    BEGIN
      -- without foreign keys and triggers: what refers may refer to nothing
      SET LOCAL session_replication_role = replica;
      EXECUTE format('UPDATE %I SET %I = ' || CASE c.type
          WHEN 'text' THEN CASE c.column_name WHEN 'defaultRuntime' THEN '''bun''' ELSE 'concat(%2$I, ctid)' END
          WHEN 'boolean' THEN 'NOT %2$I'
          WHEN 'jsonb' THEN '''{"changed": 1}'''
          WHEN 'timestamp' THEN 'coalesce(%2$I, ''2026-05-05'') + ''1 day'''
          WHEN 'enum' THEN 'CASE %2$I WHEN enum_last(%2$I) THEN enum_first(%2$I) ELSE enum_last(%2$I) END'
          ELSE 'coalesce(%2$I, 0) + 1' END, c.table_name, c.column_name);
      after := answers();
      RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
      IF after = before THEN
        RETURN NEXT format('%s.%s', c.table_name, c.column_name);
      END IF;
    END;
    ASSERT answers() = before, format('%s.%s is not forgotten', c.table_name, c.column_name);
  END LOOP;
END $$;
-- these cannot change an answer here, or only whose it is
SELECT * FROM unseen_columns();

-- Bounded by its memory: the entries that were used longest ago make room (L10, L11).
SELECT run_ops.cache_reset();
SELECT array_agg(id ORDER BY id) AS ids FROM (SELECT id FROM "RuntimeEnvironment" ORDER BY id LIMIT 20) AS e \gset
SELECT count(run_ops.resolve_env((:'ids'::text[])[i])) FROM generate_series(1, 20) AS i;
SELECT entries, evictions FROM stats WHERE slot = 'env';
SELECT cache_bytes / 20 BETWEEN 200 AND 1000 AS of_one FROM run_ops.cache_stats() WHERE slot = 'env';
-- so much as is left over for half of them
SELECT (cache_bytes / 2048) || 'kB' AS half FROM run_ops.cache_stats() WHERE slot = 'env' \gset
SET run_ops_split.cache_memory = :'half';
SELECT run_ops.cache_reset();
SELECT count(run_ops.resolve_env((:'ids'::text[])[i])) FROM generate_series(1, 20) AS i;
SELECT entries BETWEEN 7 AND 10 AS half, entries + evictions, misses FROM stats WHERE slot = 'env';
SELECT cache_bytes <= 1024 * left(:'half', -2)::int AS within FROM run_ops.cache_stats() WHERE slot = 'env';
-- the last ones are there, the first ones are not
SELECT (run_ops.resolve_env((:'ids'::text[])[20])).id IS NOT NULL AS last, (run_ops.resolve_env((:'ids'::text[])[1])).id IS NOT NULL AS first;
SELECT misses FROM stats WHERE slot = 'env';
-- the slots share it
SELECT count(run_ops.env_exists((:'ids'::text[])[i])) FROM generate_series(1, 20) AS i;
SELECT slot, entries > 0 AS has_entries FROM run_ops.cache_stats() WHERE entries > 0 OR evictions > 0 ORDER BY slot;
RESET run_ops_split.cache_memory;

-- An entry is read anew at an age.
SELECT run_ops.cache_reset();
SET run_ops_split.cache_ttl = '1s';
SELECT (run_ops.resolve_env(:'env')).type;
SELECT pg_sleep(1.1);
SELECT (run_ops.resolve_env(:'env')).type;
SELECT entries, revalidations, misses FROM stats WHERE slot = 'env';
RESET run_ops_split.cache_ttl;
-- Off: the same answers.  Long keys: not cached.
SET run_ops_split.cache = off;
SELECT (run_ops.resolve_env(:'env')).type, run_ops.resolve_env(repeat('x', 1000));
RESET run_ops_split.cache;
SELECT run_ops.resolve_env(repeat('x', 1000));
SELECT run_ops.cache_reset();
SELECT sum(entries) AS entries, sum(hits + misses) AS asked FROM run_ops.cache_stats();

-- Tables may be made anew more often than the cache can count.
SELECT (run_ops.resolve_env(:'env')).type;
DO $$ BEGIN
  FOR i IN 1 .. 40 LOOP
    CREATE TABLE anew (LIKE "FeatureFlag" INCLUDING ALL);
    DROP TABLE "FeatureFlag";
    ALTER TABLE anew RENAME TO "FeatureFlag";
    ASSERT (SELECT bool_and((run_ops.resolve_env(id)).id = id AND (run_ops.resolve_authenticated_env(id)).id = id)
              FROM "RuntimeEnvironment");
  END LOOP;
END $$;
SELECT (run_ops.resolve_env(:'env')).type;

-- Parallel workers answer as well.
BEGIN;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL max_parallel_workers_per_gather = 1;
SET LOCAL min_parallel_table_scan_size = 0;
UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 77;
EXPLAIN (COSTS OFF) SELECT count(*) FROM "RuntimeEnvironment" AS e WHERE (run_ops.resolve_env(e.id)).maximum_concurrency_limit = 77;
SELECT count(*) FROM "RuntimeEnvironment" AS e WHERE (run_ops.resolve_env(e.id)).maximum_concurrency_limit = 77;
ROLLBACK;
