-- Cleanup: what belongs to a deleted environment goes away in every store.
\set name cleanup
\i test/fixtures/two_stores.sql
\set ECHO none
SET client_min_messages = warning;
SELECT run_ops.attach_store('new', 'new');
SELECT count(*) FROM run_ops.attach_all_tables() \g /dev/null
\set side legacy
\set orgs 2
\set runs 400
\i test/fixtures/generate.sql
\connect :store_db - :store_host :store_port
\set side new
\i test/fixtures/generate.sql
\connect :legacy_db - :legacy_host :legacy_port
RESET client_min_messages;
\set ECHO all
SELECT run_ops.swap_views(true);
SELECT run_ops.attach_cleanup();

-- Rows of each table and store that name an environment, and all rows.
CREATE FUNCTION counts(environment text) RETURNS TABLE (store text, tables bigint, of_environment bigint, rows bigint) LANGUAGE plpgsql AS $$
DECLARE
  c record; n bigint; e bigint;
BEGIN
  FOR store, tables IN SELECT s.name, 0 FROM run_ops.store AS s ORDER BY 1 LOOP
    of_environment := 0; rows := 0;
    FOR c IN SELECT x.relation, t.legacy FROM run_ops.routed_table AS t, run_ops.copies(t) AS x WHERE x.store = counts.store LOOP
      EXECUTE format('SELECT count(*), count(*) FILTER (WHERE to_jsonb(x) ->> ''runtimeEnvironmentId'' = $1 OR to_jsonb(x) ->> ''environmentId'' = $1) FROM %s AS x', c.relation)
        INTO n, e USING environment;
      tables := tables + (n > 0)::int; rows := rows + n; of_environment := of_environment + e;
    END LOOP;
    RETURN NEXT;
  END LOOP;
END $$;
SELECT "runtimeEnvironmentId" AS env FROM "TaskRun" GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1 \gset
CREATE TABLE before AS SELECT * FROM counts(:'env');
SELECT * FROM before ORDER BY store;
SELECT view, column_name, count(*) FROM run_ops.in_doubt() GROUP BY 1, 2 ORDER BY 1, 2;

-- Deleting it asks for the cleanup, in the same transaction.
BEGIN;
DELETE FROM "RuntimeEnvironment" WHERE id = :'env';
ROLLBACK;
SELECT count(*) FROM run_ops.cleanup_queue;
DELETE FROM "RuntimeEnvironment" WHERE id = :'env';
SELECT scope, id = :'env' AS env, store, started_at, rows_deleted FROM run_ops.cleanup_progress ORDER BY store;

-- One batch is one transaction.  When it begins, the statistics tell how many rows
-- of tables with the id of an environment are to be deleted.
ANALYZE;
SELECT 1 AS x FROM dblink('new', 'ANALYZE') AS t (x text);
SELECT run_ops.expected_cleanup('environment', :'env', s) AS expected, run_ops.expected_cleanup('environment', 'none', s) AS of_another FROM unnest(ARRAY['legacy', 'new']) AS s;
CREATE TABLE batch AS SELECT * FROM run_ops.cleanup_batch(5);
-- which runs come first is not defined, and so is how many rows belong to them
SELECT b.store, b.deleted -> 'TaskRun' AS runs, b.error, (SELECT sum(value::int) FROM jsonb_each_text(b.deleted)) = o.rows - n.rows AS with_all_that_belongs
  FROM batch AS b JOIN before AS o USING (store) JOIN counts(:'env') AS n USING (store);
SELECT p.store, p.rows_done, p.rows_left, s.rows_left = p.rows_left AS same, s.time_left IS NOT NULL AS has_time_left,
       (SELECT sum(count) FROM (SELECT count(*) FROM "TaskRun" WHERE "runtimeEnvironmentId" = :'env' UNION ALL SELECT count(*) FROM "BatchTaskRun" WHERE "runtimeEnvironmentId" = :'env'
          UNION ALL SELECT count(*) FROM "Waitpoint" WHERE "environmentId" = :'env' UNION ALL SELECT count(*) FROM "TaskRunCheckpoint" WHERE "runtimeEnvironmentId" = :'env'
          UNION ALL SELECT count(*) FROM "WaitpointTag" WHERE "environmentId" = :'env') AS c) AS there_are
  FROM run_ops.cleanup_progress AS p JOIN run_ops.stat_progress AS s USING (store) WHERE p.started_at IS NOT NULL;
SELECT store, rows_deleted > 5 AS some FROM run_ops.cleanup_progress WHERE started_at IS NOT NULL;
-- the first batch began with its transaction, and counts
SELECT p.started_at <= l.at AS since FROM run_ops.cleanup_progress AS p JOIN run_ops.cleanup_log AS l USING (scope, id, store);
SELECT run_ops.time_left(175, 5, '10 s'), run_ops.time_left(0, 5, '10 s') AS none, run_ops.time_left(175, 0, '10 s') AS unknown, run_ops.time_left(NULL, 5, '10 s') AS unknown;
CALL run_ops.cleanup(batch_size => 7);
SELECT * FROM run_ops.cleanup_queue;
SELECT store, event, deleted FROM run_ops.cleanup_log ORDER BY store, event DESC;
-- nothing is left of it, and nothing else has gone: what the log says is what is missing
SELECT n.store, n.of_environment, b.rows - n.rows AS missing,
       (SELECT sum(value::int) FROM run_ops.cleanup_log AS l, jsonb_each_text(l.deleted)
         WHERE l.store = n.store AND key <> 'BulkActionItem') AS logged
  FROM counts(:'env') AS n JOIN before AS b USING (store) ORDER BY store;
SELECT view, column_name, count(*) FROM run_ops.in_doubt() GROUP BY 1, 2 ORDER BY 1, 2;
-- once more: nothing to do
CALL run_ops.cleanup();
SELECT run_ops.cleanup_environment(:'env');

-- A project is its environments.
SELECT id AS project FROM "Project" ORDER BY id LIMIT 1 \gset
SELECT store, sum(value::int) > 100 AS many
  FROM jsonb_each(run_ops.cleanup_project(:'project')) AS s (store, counts), jsonb_each_text(counts) GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM run_ops."TaskRun" WHERE "projectId" = :'project';
-- an organization is its projects
SELECT id AS org FROM "Organization" ORDER BY id LIMIT 1 \gset
DELETE FROM "Organization" WHERE id = :'org';
SELECT scope, store, count(*) FROM run_ops.cleanup_queue GROUP BY 1, 2 ORDER BY 1, 2;
CALL run_ops.cleanup(time_limit => '0');
SELECT scope, store, count(*) FROM run_ops.cleanup_queue GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) FROM run_ops."TaskRun" WHERE "organizationId" = :'org';

-- One store is down: the other one's rows go, the rest stays queued with the reason.
SELECT run_ops.enqueue_cleanup('environment', ARRAY(SELECT id FROM "RuntimeEnvironment" ORDER BY id LIMIT 2));
SELECT srvoptions[2] AS port FROM pg_foreign_server WHERE srvname = 'new' \gset
ALTER SERVER new OPTIONS (SET port '1');
CALL run_ops.cleanup(1000);
SELECT store, rows_deleted, failed_at IS NOT NULL AS failed, regexp_replace(error, '".*', '...') AS error FROM run_ops.cleanup_progress ORDER BY store, id;
SELECT run_ops.cleanup_environment(id) FROM "RuntimeEnvironment" ORDER BY id LIMIT 1;

-- Tables of another schema, with a key rule.
ALTER SERVER new OPTIONS (SET port :'store_port');
DO $$
DECLARE
  tables text := $t$
    CREATE SCHEMA shop;
    CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer_id int NOT NULL);
    CREATE TABLE shop.payments (id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES shop.orders);
    CREATE TABLE shop.refunds (id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES shop.orders, payment_id bigint REFERENCES shop.payments)$t$;
BEGIN
  PERFORM run_ops.swap_views(false);
  EXECUTE tables;
  PERFORM run_ops.tell_store('new', tables);
END $$;
CREATE TABLE shop.customers (id int PRIMARY KEY);
SELECT run_ops.create_boundary_rule('shop.order_store', 'bigint', '100');
CREATE SCHEMA routed;
SELECT legacy, view FROM run_ops.attach_tree('shop.orders', 'shop.order_store(bigint)', 'routed');
SELECT run_ops.register_cleanup('shop.customers', 'shop.orders', 'no_such');
SELECT run_ops.register_cleanup('shop.customers', 'shop.customers', 'id');
SELECT run_ops.register_cleanup('shop.customers', 'routed.orders', 'customer_id');
SELECT parent, table_name, column_name FROM run_ops.cleanup_dependent WHERE parent LIKE 'shop.%' ORDER BY 1, 2, 3;
SELECT run_ops.swap_views(true);
SET run_ops_split.cross_store_writes = allow;
INSERT INTO shop.customers VALUES (1), (2);
INSERT INTO routed.orders VALUES (1, 1), (2, 2), (101, 1), (102, 2);
INSERT INTO routed.payments SELECT id, id FROM routed.orders;
INSERT INTO routed.refunds SELECT id, id, id FROM routed.orders;
DELETE FROM run_ops.cleanup_queue;
ALTER TABLE shop.customers RENAME TO clients;
DELETE FROM shop.clients WHERE id = 1;
SELECT scope, id, store FROM run_ops.cleanup_queue ORDER BY 1, 2, 3;
CALL run_ops.cleanup();
SELECT id FROM routed.orders ORDER BY id;
SELECT count(*) FROM routed.refunds;
SELECT run_ops.unregister_cleanup('shop.clients');
DELETE FROM shop.clients;
SELECT count(*) FROM run_ops.cleanup_queue;
-- a table that the run graph has already keeps its name in the queue, and its trigger
CREATE VIEW cleaned AS SELECT tgrelid::regclass AS owner, tgargs FROM pg_trigger WHERE tgname = 'run_ops_cleanup';
SELECT * FROM cleaned ORDER BY owner::text;
SELECT run_ops.register_cleanup('"Project"', 'shop.orders', 'customer_id');
SELECT * FROM run_ops.registered_cleanup;
SELECT run_ops.unregister_cleanup('"Project"'), run_ops.unregister_cleanup('"RuntimeEnvironment"');
SELECT * FROM cleaned ORDER BY owner::text;
-- A batch reads its own row of the queue, however long that is.
DELETE FROM run_ops.cleanup_queue;
INSERT INTO run_ops.cleanup_queue (scope, id, store) SELECT 'environment', 'gone ' || i, 'legacy' FROM generate_series(1, 5000) AS i;
ANALYZE run_ops.cleanup_queue;
DISCARD PLANS;
BEGIN;
SELECT store, deleted, error FROM run_ops.cleanup_batch();
SELECT seq_tup_read < 1000 AND idx_tup_fetch < 1000 AS few FROM pg_stat_xact_all_tables WHERE relid = 'run_ops.cleanup_queue'::regclass;
ROLLBACK;
