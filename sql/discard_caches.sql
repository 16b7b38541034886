-- What is held across a change of the catalog.  Where PostgreSQL can, it forgets
-- all that it knows of the catalog whenever it may (debug_discard_caches), in
-- scripts/check-assert: then what was forgotten is not used any more.  Elsewhere
-- the catalog changes under plans, cursors, statements and answers.
\set name discard_caches
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TABLE run (id text PRIMARY KEY, note text DEFAULT 'none', n int);
CREATE TABLE step (id text PRIMARY KEY, "runId" text, n int);
CREATE TABLE tag (id text PRIMARY KEY, n int);
SELECT 1 AS x FROM dblink('new', $$
  CREATE TABLE run (n int, id text PRIMARY KEY, note text DEFAULT 'none');
  CREATE TABLE step (id text PRIMARY KEY, "runId" text, n int);
  CREATE TABLE tag (id text PRIMARY KEY, n int) $$) AS t (x text);
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'), run_ops.attach_table('tag', 'store');
SELECT run_ops.swap_views(true);
INSERT INTO "Organization" (id, slug, title, "updatedAt", "featureFlags") VALUES ('org', 'o', 'o', now(), '{"runOpsMintKind": "ksuid"}');
INSERT INTO "Project" (id, name, "organizationId", "updatedAt", slug, "externalRef") VALUES ('proj', 'p', 'org', now(), 'p', 'p');
INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode)
  SELECT id, id, id, 'org', now(), 'proj', id, id FROM unnest('{env,env2}'::text[]) AS id;
SELECT run_ops.attach_control_plane('public');
SET run_ops_split.cross_store_writes = allow;
\set cuid run_cl8dq15ad30lcaohivaab68x4
\set cuid2 run_cl8dq15ad30lcaohivaab68x5
\set ksuid run_37dGaqAyHnlXVhBy5x4pckK50bA
\set ksuid2 run_37dGaqAyHnlXVhBy5x4pckK50bB

SELECT count(set_config(name, '1', false)) AS discarding FROM pg_settings WHERE name = 'debug_discard_caches' AND max_val <> '0' \gset

-- Writes: of one store and of both, with defaults, NULLs and RETURNING.
INSERT INTO run_ops.run (id, n) VALUES (:'cuid', 1), (:'ksuid', 1) RETURNING *;
INSERT INTO run_ops.run VALUES (:'cuid2', NULL, 2), (:'ksuid2', NULL, 2) RETURNING *;
INSERT INTO run_ops.step VALUES ('s1', :'cuid', 1), ('s2', :'ksuid', 2), ('s3', :'ksuid2', 3);
INSERT INTO run_ops.tag VALUES ('t1', 1);
UPDATE run_ops.run SET n = n + 10 WHERE n = 1 RETURNING id, n;
UPDATE run_ops.step SET n = n + 10;
WITH i AS (INSERT INTO run_ops.run (id) VALUES ('run_37dGaqAyHnlXVhBy5x4pckK50bC') RETURNING id)
  INSERT INTO run_ops.step SELECT 'inner', id, 4 FROM i RETURNING id;
DELETE FROM run_ops.step WHERE id = 'inner';
DELETE FROM run_ops.run WHERE id = 'run_37dGaqAyHnlXVhBy5x4pckK50bC' RETURNING id;
INSERT INTO run_ops.step VALUES ('s2', :'ksuid', 20) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n RETURNING n;
SELECT run_ops.lock_row('run_ops.run', :'ksuid'), run_ops.locate('run_ops.run', :'cuid');
INSERT INTO run_ops.run (id) VALUES (:'cuid'), (:'ksuid') ON CONFLICT DO NOTHING;
INSERT INTO run_ops.run (id) VALUES (:'cuid2'), ('run_short');
DO $$ BEGIN
  UPDATE run_ops.run SET n = 0;
  INSERT INTO run_ops.run (id) VALUES ('run_37dGaqAyHnlXVhBy5x4pckK50bA');
EXCEPTION WHEN unique_violation THEN
  RAISE NOTICE 'sum of n: %', (SELECT sum(n) FROM run_ops.run);
END $$;

-- The catalog changes within a statement that writes.
CREATE FUNCTION change_of_catalog() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  CREATE TEMP TABLE scratch ();
  EXECUTE format('COMMENT ON VIEW run_ops.run IS %L', NEW.id);
  ALTER SERVER new OPTIONS (ADD fetch_size '7');
  ALTER SERVER new OPTIONS (DROP fetch_size);
  DROP TABLE scratch;
  RETURN NEW;
END $$;
CREATE TRIGGER change_of_catalog BEFORE INSERT OR UPDATE ON run FOR EACH ROW EXECUTE FUNCTION change_of_catalog();
UPDATE run_ops.run SET note = 'changed' RETURNING id, note;
INSERT INTO run_ops.run (id, n) SELECT format('run_%s%s', CASE i % 2 WHEN 0 THEN repeat('c', 23) ELSE repeat('k', 25) END, 10 + i), i
  FROM generate_series(1, 6) AS i RETURNING id;
DELETE FROM run_ops.run WHERE id LIKE 'run\_ccc%' OR id LIKE 'run\_kkk%';
DROP TRIGGER change_of_catalog ON run;

-- Reads: pruned with constants, in custom and in generic plans.
SELECT * FROM run_ops.run ORDER BY id COLLATE "C";
SELECT note FROM run_ops.run WHERE id = :'ksuid';
SELECT note FROM run_ops.run WHERE id = :'cuid' AND (id = :'cuid' OR note = 'new');
SELECT id FROM run_ops.run WHERE id IN (:'ksuid', :'cuid', 'x', NULL) ORDER BY id COLLATE "C";
SELECT r, s.n FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id WHERE r.id = :'ksuid';
PREPARE by_id (text) AS SELECT id, note, n FROM run_ops.run WHERE id = $1;
PREPARE by_ids (text[]) AS SELECT id FROM run_ops.run WHERE id = ANY ($1) ORDER BY id COLLATE "C";
SET plan_cache_mode = force_custom_plan;
EXECUTE by_id (:'ksuid');
EXECUTE by_ids (ARRAY[:'ksuid', :'cuid']);
SET plan_cache_mode = force_generic_plan;
EXECUTE by_id (:'cuid');
EXECUTE by_id (:'ksuid');
EXECUTE by_ids (ARRAY[:'ksuid', :'cuid']);
-- a column more, the views as they are with split off, and back
SELECT dblink_exec('new', 'ALTER TABLE run ADD COLUMN more int DEFAULT 7');
ALTER TABLE run ADD COLUMN more int DEFAULT 7;
SELECT run_ops.refresh_table('run');
EXECUTE by_id (:'ksuid');
UPDATE run_ops.run SET more = 8 WHERE n = 2 RETURNING id, more;
SELECT run_ops.swap_views(false);
EXECUTE by_id (:'ksuid');
EXECUTE by_id (:'cuid');
SELECT run_ops.swap_views(true);
EXECUTE by_id (:'ksuid');
RESET plan_cache_mode;

-- Rows of the store by the key of another table, one after the other.
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT s.id, r.n FROM step AS s JOIN run_ops.run AS r ON r.id = s."runId" ORDER BY s.id;
SELECT id, (SELECT n FROM run_ops.run AS r WHERE r.id = u.wanted) FROM unnest(ARRAY[:'cuid', :'ksuid', 'x']) WITH ORDINALITY AS u (wanted, id);
RESET enable_hashjoin;
RESET enable_mergejoin;
-- a cursor while the catalog changes
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM run_ops.run ORDER BY id COLLATE "C";
FETCH 1 FROM c;
ALTER TABLE tag ADD COLUMN scratch int;
SAVEPOINT s;
COMMENT ON VIEW run_ops.run IS 'changed';
FETCH 2 FROM c;
ROLLBACK TO s;
FETCH ALL FROM c;
ROLLBACK;
-- PL/pgSQL keeps its plans: the first five are custom ones
CREATE FUNCTION notes(ids text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  wanted text;
BEGIN
  FOREACH wanted IN ARRAY ids LOOP
    RETURN NEXT (SELECT r.note FROM run_ops.run AS r WHERE r.id = wanted);
    UPDATE run_ops.run SET n = 5 WHERE id = wanted;
  END LOOP;
END $$;
SELECT array_agg(n) FROM notes(ARRAY[:'cuid', :'ksuid', :'cuid', :'ksuid', :'cuid', :'ksuid', :'cuid']) AS n;

-- Answers about the control plane: asked, remembered, looked at again.
SELECT (run_ops.resolve_env('env')).type, (run_ops.resolve_env('env')).type, (run_ops.resolve_authenticated_env('env2')).type;
SELECT environment_id, (env).type FROM run_ops.resolve_envs('{env,none,env2}');
UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 50 WHERE id = 'env';
SELECT (run_ops.resolve_env('env')).maximum_concurrency_limit, run_ops.env_exists('env'), run_ops.resolve_env('none');
-- the catalog and the row change within a statement that asks
CREATE FUNCTION changed(i int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE "FeatureFlag" ADD COLUMN c%s int', i);
  UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = i WHERE id = 'env';
  RETURN (run_ops.resolve_env('env')).maximum_concurrency_limit;
END $$;
SELECT changed(i), (run_ops.resolve_env('env2')).type FROM generate_series(1, 3) AS i;
SELECT run_ops.invalidate_environment('env2');
SELECT DISTINCT scope FROM run_ops.cache_epoch ORDER BY 1;
-- and what is minted there; a flip has its grace
SET run_ops_split.mint_enabled = on;
SELECT run_ops.resolve_mint_kind('env'), run_ops.classify_kind((run_ops.mint_run_id('env')).id),
       run_ops.classify_kind((run_ops.mint_run_id('env2', :'cuid')).id);
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "cuid"}';
SELECT run_ops.resolve_mint_kind('env');
RESET debug_discard_caches;
