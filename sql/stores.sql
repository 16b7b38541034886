-- Stores and routed tables: how two databases become one.
\set name stores
\i test/fixtures/two_stores.sql

-- The local database is a store from the beginning.
SELECT * FROM run_ops.store;

-- A table is attached to stores, so a store comes first.
SELECT run_ops.attach_table('public."TaskRun"');
SELECT run_ops.attach_all_tables();

-- Names of stores are reserved words and single characters.
SELECT run_ops.attach_store('legacy', 'new');
SELECT run_ops.attach_store('A', 'new');
SELECT run_ops.attach_store('', 'new');
SELECT run_ops.attach_store(NULL, 'new');
SELECT run_ops.attach_store('new', 'nowhere');
SELECT run_ops.attach_store('new', NULL);

-- A server of another wrapper, of postgres_fdw, without a user mapping, or
-- one that cannot be reached.
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER other FOREIGN DATA WRAPPER other;
SELECT run_ops.attach_store('new', 'other');
CREATE SERVER stock FOREIGN DATA WRAPPER postgres_fdw
  OPTIONS (host '/nonexistent', port '1', dbname 'nowhere');
\set VERBOSITY terse
SELECT run_ops.attach_store('new', 'stock');
DROP SERVER stock;
CREATE SERVER stock FOREIGN DATA WRAPPER run_ops_fdw
  OPTIONS (host '/nonexistent', port '1', dbname 'nowhere');
DO $$
BEGIN
  PERFORM run_ops.attach_store('new', 'stock');
EXCEPTION WHEN undefined_object THEN
  RAISE NOTICE '%', replace(SQLERRM, current_user, 'me');
END $$;
CREATE USER MAPPING FOR CURRENT_USER SERVER stock;
SELECT run_ops.attach_store('new', 'stock');
\set VERBOSITY default

-- The store.
SELECT run_ops.attach_store('new', 'new');
SELECT * FROM run_ops.store ORDER BY name;
SELECT run_ops.attach_store('new', 'stock');
SELECT run_ops.attach_store('a', 'new');

-- Every table that both sides have, each with its routing.
SELECT view, routing, route_column, key_columns, store_table
  FROM run_ops.attach_all_tables() ORDER BY view::text;
-- nothing is left to attach
SELECT * FROM run_ops.attach_all_tables();
SELECT run_ops.attach_table('"TaskRun"');

-- The columns of a view are those of the table, in its order, although the
-- store has another; those that are named otherwise in the store are mapped.
SELECT count(*) AS columns, bool_and(v.attname = l.attname AND v.atttypid = l.atttypid) AS same
  FROM (SELECT *, row_number() OVER (ORDER BY attnum) AS n FROM pg_attribute
         WHERE attrelid = 'run_ops."TaskRun"'::regclass AND attnum > 0) AS v
  FULL JOIN (SELECT *, row_number() OVER (ORDER BY attnum) AS n FROM pg_attribute
              WHERE attrelid = 'public."TaskRun"'::regclass AND attnum > 0 AND NOT attisdropped) AS l USING (n);
SELECT attname, attfdwoptions FROM pg_attribute
 WHERE attrelid = 'run_ops_new."WaitpointRunConnection"'::regclass AND attnum > 0 ORDER BY attnum;

-- Split is off: a view is the plain table.
EXPLAIN (COSTS OFF) SELECT * FROM run_ops."TaskRun" WHERE id = 'run_x';
SELECT obj_description('run_ops."TaskRun"'::regclass);

-- A migration on both sides: the view follows when told.
ALTER TABLE "WaitpointTag" ADD COLUMN "colour" text;
ALTER TABLE "WaitpointTag" RENAME COLUMN name TO label;
SELECT run_ops.refresh_table('run_ops."WaitpointTag"');
SELECT 1 AS x FROM dblink('new', 'ALTER TABLE "WaitpointTag" ADD COLUMN "colour" text; ALTER TABLE "WaitpointTag" RENAME COLUMN name TO label') AS t (x text);
SELECT run_ops.refresh_table('run_ops."WaitpointTag"');
SELECT id, label, colour FROM run_ops."WaitpointTag";
SELECT attname FROM pg_attribute WHERE attrelid = 'run_ops_new."WaitpointTag"'::regclass AND attnum > 0 ORDER BY attnum;

-- A key that has another name in the store keeps it there.
ALTER TABLE "_WaitpointRunConnections" RENAME "A" TO run;
SELECT run_ops.refresh_table('run_ops."_WaitpointRunConnections"');
SELECT route_column, key_columns, column_names FROM run_ops.routed_table WHERE legacy = '"_WaitpointRunConnections"'::regclass;
ALTER TABLE "_WaitpointRunConnections" RENAME run TO "A";
SELECT run_ops.refresh_table('run_ops."_WaitpointRunConnections"');

-- Who could use the table can use the view.
CREATE ROLE regress_reader;
GRANT SELECT ON "TaskRunTag" TO regress_reader;
GRANT SELECT (id, "projectId") ON "WaitpointTag" TO regress_reader;
SELECT run_ops.detach_table('run_ops."TaskRunTag"'), run_ops.detach_table('run_ops."WaitpointTag"');
SELECT run_ops.attach_table('"TaskRunTag"'), run_ops.attach_table('"WaitpointTag"');
SET ROLE regress_reader;
SELECT count(*) FROM run_ops."TaskRunTag";
SELECT count("projectId") FROM run_ops."WaitpointTag";
SELECT count("environmentId") FROM run_ops."WaitpointTag";
SELECT run_ops.detach_table('run_ops."TaskRunTag"');
SELECT run_ops.attach_store('b', 'new');
RESET ROLE;
REVOKE ALL ON SCHEMA run_ops FROM regress_reader;
REVOKE ALL ON run_ops."TaskRunTag", "TaskRunTag", run_ops."WaitpointTag", "WaitpointTag" FROM regress_reader;
DROP ROLE regress_reader;

-- What is not a routed table.
SELECT run_ops.detach_table('"Project"');
SELECT run_ops.detach_table(NULL);
SELECT run_ops.refresh_table('pg_class');

-- Detaching leaves tables and rows alone; then everything can be attached anew.
SELECT run_ops.detach_table(view) FROM run_ops.routed_table WHERE legacy = '"Waitpoint"'::regclass;
SELECT to_regclass('run_ops."Waitpoint"'), to_regclass('run_ops_new."Waitpoint"'), to_regclass('"Waitpoint"');
SELECT run_ops.detach_store('nothing');
SELECT run_ops.detach_store('legacy');
SELECT run_ops.detach_store('new');
SELECT to_regnamespace('run_ops_new'), count(*) FROM run_ops.routed_table;
SELECT run_ops.attach_store('new', 'new');
SELECT count(*) FROM run_ops.routed_store;
SELECT run_ops.attach_table('"Waitpoint"');
