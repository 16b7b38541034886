-- What is going on: sizes, connections, reads and writes of every store, work
-- in progress, flips and gates; and which stores a query asks.
\set name stats
\i test/fixtures/two_stores.sql
CREATE SCHEMA app;
SET search_path = app, public;
CREATE TABLE run (id text PRIMARY KEY, env text);
CREATE TABLE step (id text NOT NULL, "runId" text NOT NULL, PRIMARY KEY (id, "runId")) PARTITION BY HASH ("runId");
CREATE TABLE step_0 PARTITION OF step FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE step_1 PARTITION OF step FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE tag (id text PRIMARY KEY, note text);
SELECT 1 AS x FROM dblink('new', $$
  CREATE SCHEMA app;
  SET search_path = app;
  CREATE TABLE run (id text PRIMARY KEY, env text);
  CREATE TABLE step (id text NOT NULL, "runId" text NOT NULL, PRIMARY KEY (id, "runId"));
  CREATE TABLE tag (id text PRIMARY KEY, note text) $$) AS t (x text);

-- Before anything is attached there is one store.
SELECT store, server, up, rows, bytes, last_error FROM run_ops.stat_stores;
SELECT * FROM run_ops.stat_routing;

SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'), run_ops.attach_table('tag', 'store');
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
SELECT run_ops.enable_split();
\set legacy_id run_cl8dq15ad30lcaohivaab68x4
\set new_id run_37dGaqAyHnlXVhBy5x4pckK50bA
SET run_ops_split.cross_store_writes = allow;
INSERT INTO run_ops.run VALUES (:'legacy_id', 'a'), (:'new_id', 'a'), ('run_37dGaqAyHnlXVhBy5x4pckK50bB', 'a');
INSERT INTO run_ops.step SELECT n, id FROM run_ops.run, generate_series(1, 50) AS n;
UPDATE run_ops.run SET env = 'b' WHERE id = :'new_id';
DELETE FROM run_ops.run WHERE id = 'run_37dGaqAyHnlXVhBy5x4pckK50bB';
ANALYZE;
SELECT 1 AS x FROM dblink('new', 'ANALYZE') AS t (x text);

-- PostgreSQL counts when a session ends, or a moment later.
\c
SET search_path = app, public;
\pset null -
DO $$
BEGIN
  FOR i IN 1..600 LOOP
    EXIT WHEN (SELECT sum(rows_inserted) FROM run_ops.stat_routing) = 153
          AND (SELECT sum(rows_deleted) FROM run_ops.stat_routing) = 1;
    PERFORM pg_sleep(0.1), pg_stat_clear_snapshot();
  END LOOP;
END $$;
SELECT view, store, rows, rows_inserted, rows_updated, rows_deleted,
       scans > 0 AS scanned, rows_read > 0 AS read, bytes >= 8192 AS bytes, blocks_hit >= 0 AS hit, blocks_read >= 0 AS missed
  FROM run_ops.stat_routing ORDER BY view::text, store;
SELECT s.store, s.server, s.up, s.rows, s.bytes = (SELECT sum(r.bytes) FROM run_ops.stat_routing AS r WHERE r.store = s.store) AS all_bytes,
       s.connections >= 0 AS connections, s.max_connections > 0 AS max_connections, s.in_recovery,
       s.last_contact BETWEEN now() - interval '1 minute' AND clock_timestamp() AS contact, s.last_error, s.last_error_at
  FROM run_ops.stat_stores AS s ORDER BY s.store;
-- the size of a table that is being changed is not waited for
SELECT dblink_connect('other', format('dbname=%s host=%s port=%s user=%s', current_database(), :'legacy_host', :'legacy_port', current_user));
SELECT dblink_exec('other', 'BEGIN; LOCK TABLE app.tag');
SELECT view, bytes > 0 AS bytes FROM run_ops.stat_routing WHERE store = 'legacy' ORDER BY view::text;
SELECT store, up, last_error FROM run_ops.stat_stores ORDER BY store;
SELECT dblink_disconnect('other');

-- Looking writes nothing, so it may stand beside writes to a store, and where
-- nothing may be written.
SET run_ops_split.cross_store_writes = error;
BEGIN;
INSERT INTO run_ops_new.tag VALUES ('looked');
SELECT store, up FROM run_ops.stat_stores ORDER BY store;
DELETE FROM run_ops_new.tag WHERE id = 'looked';
SELECT pg_current_xact_id_if_assigned();
COMMIT;
RESET run_ops_split.cross_store_writes;
BEGIN READ ONLY;
SELECT store, up FROM run_ops.stat_stores ORDER BY store;
COMMIT;

-- Who is connected says who it is: the views by an option of the server, what
-- the extension asks by itself by the function that asks.
SELECT a ->> 'application_name' ~ format('^run_ops_split ask_store %s regress_stats$', pg_backend_pid()) AS named
  FROM run_ops.ask_store('new', 'SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()') AS a;
SELECT run_ops.disconnect_stores() > 0 AS disconnected;
ALTER SERVER new OPTIONS (application_name 'run_ops_split views %d%%');
SELECT count(*) FROM run_ops.run;
-- ... and what the views are read by, while nothing is asked
SELECT application_name FROM dblink('new', format('SELECT application_name FROM pg_stat_activity WHERE pid = %s',
  (SELECT pid FROM run_ops.store_connections() WHERE server = 'new'))) AS a (application_name text);
SELECT store, regexp_replace(application_name, '\d+', 'N') AS application_name, state, connections FROM run_ops.stat_connections WHERE application_name LIKE 'run_ops%';

-- Which stores a query asks.
SELECT view, store, relation, node, remote_sql FROM run_ops.explain(format('SELECT env FROM run_ops.run WHERE id = %L', :'legacy_id'));
SELECT view, store, relation, node, remote_sql FROM run_ops.explain(format('SELECT env FROM run_ops.run WHERE id = %L', :'new_id'));
SELECT view, store, relation, node FROM run_ops.explain('SELECT env FROM run_ops.run JOIN tag ON note = env');
SELECT view, store, relation, node, remote_sql FROM run_ops.explain('SELECT count(*) FROM run_ops_new.run');
SELECT view, store, relation FROM run_ops.explain('SELECT FROM run_ops.step') ORDER BY relation;
SELECT view, store, node FROM run_ops.explain(format('UPDATE run_ops.run SET env = NULL WHERE id = %L', :'new_id'));
SELECT view, store, node FROM run_ops.explain('INSERT INTO run_ops.run VALUES (''x'')');
-- a generic plan decides at each execution
SET plan_cache_mode = force_generic_plan;
PREPARE run (text) AS SELECT env FROM run_ops.run WHERE id = $1;
SELECT store, node, only_if FROM run_ops.explain('EXECUTE run (NULL)');
RESET plan_cache_mode;
-- It does not run what it explains, and takes one statement only.
CREATE FUNCTION touched() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'it was run'; END $$;
SELECT * FROM run_ops.explain('DELETE FROM tag WHERE note = touched()');
SELECT * FROM run_ops.explain('SELECT 1; DROP TABLE tag');
SELECT * FROM run_ops.explain('SELECT 1; SELECT 2');
SELECT * FROM run_ops.explain('SELECT 1;');
SELECT * FROM run_ops.explain('ANALYZE DELETE FROM tag');
SELECT * FROM run_ops.explain('(ANALYZE) DELETE FROM tag');
SELECT * FROM run_ops.explain('VACUUM tag');
SELECT * FROM run_ops.explain('COMMIT');
SELECT * FROM run_ops.explain('');
SELECT * FROM run_ops.explain(NULL);
SELECT to_regclass('tag');

-- Work in progress.
SELECT * FROM run_ops.stat_progress;
SELECT * FROM run_ops.repatriate(1) \g /dev/null
SELECT * FROM run_ops.repatriate(1) \g /dev/null
SELECT operation, object, store, rows_done, finished, changed_at IS NOT NULL AS changed FROM run_ops.stat_progress ORDER BY object;
-- what is left, as far as the statistics of the store tell: two calls more, and it
-- is not known of a table that was never analyzed
UPDATE run_ops.copy_progress SET expected = NULL WHERE view = 'run_ops.tag'::regclass;
SELECT * FROM run_ops.repatriate(10) \g /dev/null
SELECT * FROM run_ops.repatriate(10) \g /dev/null
SELECT object, expected, compared, finished, rows_left, time_left >= '0' AS time_left
  FROM run_ops.stat_progress JOIN run_ops.copy_progress AS c USING (store, finished, changed_at) WHERE object = c.view::text ORDER BY object;
SELECT run_ops.time_left(50, 100, '10 s'), run_ops.time_left(0, 0, NULL), run_ops.time_left(NULL, 1, '1 s'), run_ops.time_left(5, 0, '1 s');
SELECT run_ops.enqueue_cleanup('environment', '{e1,e2}');
UPDATE run_ops.cleanup_queue SET failed_at = now(), error = 'no' WHERE id = 'e2' AND store = 'new';
SELECT store, queued, failing, oldest <= now() AS oldest, error FROM run_ops.stat_cleanup ORDER BY store;
SELECT object, store, rows_done, finished, error FROM run_ops.stat_progress WHERE operation = 'cleanup' ORDER BY object, store;
TRUNCATE run_ops.cleanup_queue;

-- Flips of the mint kind whose grace is not over.
SELECT * FROM run_ops.mint_flips();
SELECT * FROM run_ops.mint_kinds() ORDER BY kind;
INSERT INTO public."Organization" (id, slug, title, "featureFlags", "updatedAt")
  VALUES ('o1', 'o1', '', NULL, now()), ('o2', 'o2', '', '{"runOpsMintKind": "ksuid"}', now()), ('o3', 'o3', '', '{}', now());
SELECT run_ops.attach_control_plane('public');
SET run_ops_split.mint_flip_grace = '1h';
SELECT * FROM run_ops.mint_flips();
UPDATE public."Organization" SET "featureFlags" = '{"runOpsMintKind": "ksuid"}' WHERE id = 'o1';
UPDATE public."Organization" SET "featureFlags" = NULL WHERE id = 'o2';
SELECT organization, in_force, becomes, becomes_at - flipped_at AS grace FROM run_ops.mint_flips() ORDER BY organization;
SELECT * FROM run_ops.mint_kinds() ORDER BY kind;
INSERT INTO public."FeatureFlag" (id, key, value) VALUES ('f1', 'runOpsMintKind', '"ksuid"');
SELECT organization, in_force, becomes, becomes_at - flipped_at AS grace FROM run_ops.mint_flips() ORDER BY organization;
SET run_ops_split.mint_flip_grace = 0;
SELECT * FROM run_ops.mint_flips();
SELECT * FROM run_ops.mint_kinds() ORDER BY kind;

-- The caches of all sessions together: what this one adds is what it counted.
INSERT INTO public."Project" (id, slug, name, "externalRef", "organizationId", "updatedAt") VALUES ('p1', 'p1', '', 'p1', 'o1', now());
INSERT INTO public."RuntimeEnvironment" (id, slug, "apiKey", "pkApiKey", shortcode, "organizationId", "projectId", "updatedAt")
  VALUES ('e1', 'e1', 'k', 'pk', 's', 'o1', 'p1', now());
SELECT hits, misses FROM run_ops.stat_cache_lookups \gset before_
SELECT count((run_ops.resolve_env('e1')).id) FROM generate_series(1, 250);
SELECT count((run_ops.resolve_env('e2')).id);
SELECT sum(hits + revalidations) AS hits, sum(misses) AS misses, min(hit_ratio) > 0.9 AS good FROM run_ops.stat_cache;
SELECT sum(hits + revalidations) + :before_hits AS hits, sum(misses) + :before_misses AS misses FROM run_ops.stat_cache \gset
\c
SET search_path = app, public;
SET run_ops_split.mint_flip_grace = 0;
SELECT set_config('test.hits', :'hits', false) IS NULL AS x \gset
DO $$
BEGIN
  FOR i IN 1..600 LOOP
    EXIT WHEN (SELECT hits FROM run_ops.stat_cache_lookups) >= current_setting('test.hits')::bigint;
    PERFORM pg_sleep(0.1), pg_stat_clear_snapshot();
  END LOOP;
END $$;
SELECT hits = :hits AS hits, misses = :misses AS misses, hit_ratio > 0.9 AS good FROM run_ops.stat_cache_lookups;

-- Gates: those of this database as they are now, the others as recorded.
SELECT gate, object, ok FROM run_ops.stat_gates;
INSERT INTO run_ops_new.tag VALUES ('t1');
INSERT INTO tag VALUES ('t1');
SELECT gate, object, detail FROM run_ops.record_check();
SELECT gate, object, ok FROM run_ops.stat_gates WHERE gate NOT IN ('clock', 'write lock') ORDER BY gate, object;
UPDATE run_ops.split_state SET opted_in = false;
SELECT gate, ok, checked_at = now() AS now FROM run_ops.stat_gates WHERE gate IN ('opted in', 'strays') AND NOT ok ORDER BY gate;
-- what has been mended is not among them, although it was recorded
SET client_min_messages = warning;
SET session_replication_role = replica;
DROP FOREIGN TABLE run_ops_new.tag CASCADE;
RESET session_replication_role;
SELECT count(*) AS failing FROM run_ops.record_check() WHERE gate = 'complete';
SELECT run_ops.refresh_table('app.tag');
RESET client_min_messages;
SELECT gate, object FROM run_ops.stat_gates WHERE gate = 'complete';

-- Members of pg_monitor may look, others not.
CREATE ROLE regress_stats_viewer IN ROLE pg_monitor;
CREATE ROLE regress_stats_other;
GRANT USAGE ON SCHEMA run_ops TO regress_stats_other;
SET ROLE regress_stats_viewer;
SELECT (SELECT count(*) FILTER (WHERE up) FROM run_ops.stat_stores) AS stores, (SELECT count(*) FROM run_ops.stat_routing) AS routing,
       (SELECT count(*) > 0 FROM run_ops.stat_connections) AS connections, (SELECT count(*) > 0 FROM run_ops.stat_gates) AS gates,
       (SELECT count(*) FROM run_ops.stat_cleanup) AS cleanup, (SELECT count(*) FROM run_ops.stat_progress) AS progress,
       (SELECT count(*) FROM run_ops.mint_flips()) AS flips, (SELECT sum(organizations) FROM run_ops.mint_kinds()) AS organizations,
       (SELECT count(*) FROM run_ops.stat_waits) AS waits,
       (SELECT count(*) FROM run_ops.record_check()) AS failing, (SELECT split FROM run_ops.split_status) AS split;
SELECT * FROM run_ops.contact('new');
SELECT * FROM run_ops.cleanup_queue;
SELECT run_ops.ask_store('new', 'SELECT 1');
SET ROLE regress_stats_other;
SELECT * FROM run_ops.stat_stores;
SELECT * FROM run_ops.ask_stats();
SELECT * FROM run_ops.mint_flips();
SELECT * FROM run_ops.record_check();
-- what a query asks is no secret, and planned with the rights of who asks
SELECT * FROM run_ops.explain('SELECT FROM app.run');
RESET ROLE;
DROP OWNED BY regress_stats_viewer, regress_stats_other;
DROP ROLE regress_stats_viewer, regress_stats_other;
