
-- stores: which databases hold run-ops rows, and which tables are reached
-- through one view.  What is written here was configured by an operator, so
-- it travels with pg_dump; relations are kept as regclass, so it follows a
-- rename and is dumped by name.

CREATE TABLE run_ops.store (
  name   text PRIMARY KEY CHECK (name OPERATOR(pg_catalog.~) '^(legacy|new|[a-z0-9])$'),
  server name UNIQUE,
  CHECK ((name OPERATOR(pg_catalog.=) 'legacy') OPERATOR(pg_catalog.=) (server IS NULL))
);
COMMENT ON TABLE run_ops.store IS
  'databases that hold run-ops rows: legacy is this one, new and the shards a-z, 0-9 are foreign servers';
COMMENT ON COLUMN run_ops.store.server IS 'foreign server of the store; NULL for legacy';
INSERT INTO run_ops.store VALUES ('legacy', NULL);

CREATE TYPE run_ops.routing AS ENUM ('shape', 'anchor', 'store');
COMMENT ON TYPE run_ops.routing IS
  'how a row finds its store: shape = by its own id, anchor = by a column that holds a shaped id, store = it is where it was put';

CREATE TABLE run_ops.routed_table (
  view           regclass PRIMARY KEY,
  legacy         regclass NOT NULL UNIQUE,
  routing        run_ops.routing NOT NULL,
  route_column   name CHECK ((routing OPERATOR(pg_catalog.=) 'store') OPERATOR(pg_catalog.=) (route_column IS NULL)),
  key_columns    name[] NOT NULL,
  store_schema   name NOT NULL,
  store_table    name NOT NULL,
  column_names   jsonb NOT NULL,
  store_defaults jsonb NOT NULL
);
COMMENT ON TABLE run_ops.routed_table IS
  'tables that exist in every store and are reached through one view';
COMMENT ON COLUMN run_ops.routed_table.legacy IS 'the table in this database';
COMMENT ON COLUMN run_ops.routed_table.route_column IS
  'the column whose shape tells the store; NULL or unclassifiable values belong to legacy';
COMMENT ON COLUMN run_ops.routed_table.key_columns IS 'columns that identify a row in every store';
COMMENT ON COLUMN run_ops.routed_table.column_names IS
  'columns named otherwise in the stores: {local name: name in the store}';
COMMENT ON COLUMN run_ops.routed_table.store_defaults IS
  'columns that only the stores have: {name in the store: SQL expression that fills it}';

CREATE TABLE run_ops.routed_store (
  view          regclass REFERENCES run_ops.routed_table ON DELETE CASCADE,
  store         text REFERENCES run_ops.store,
  foreign_table regclass NOT NULL UNIQUE,
  PRIMARY KEY (view, store)
);
COMMENT ON TABLE run_ops.routed_store IS 'the foreign table of a routed table in each store but legacy';

SELECT pg_catalog.pg_extension_config_dump('run_ops.store', 'WHERE name <> ''legacy''');
SELECT pg_catalog.pg_extension_config_dump('run_ops.routed_table', '');
SELECT pg_catalog.pg_extension_config_dump('run_ops.routed_store', '');
GRANT SELECT ON run_ops.store, run_ops.routed_table, run_ops.routed_store TO PUBLIC;

CREATE FUNCTION run_ops.routed(relation regclass) RETURNS run_ops.routed_table
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  found_table run_ops.routed_table;
BEGIN
  SELECT * INTO found_table FROM run_ops.routed_table AS t
   WHERE relation IN (t.view, t.legacy);
  IF NOT FOUND THEN
    RAISE EXCEPTION '% is not a routed table', coalesce(relation::text, 'NULL')
      USING ERRCODE = 'undefined_object',
            HINT = 'run_ops.routed_table lists the views; run_ops.attach_table() makes one.';
  END IF;
  RETURN found_table;
END $$;
COMMENT ON FUNCTION run_ops.routed(regclass) IS
  'the registry row of a routed table, named by its view or by its local table; an error when it is none';

-- Asking a store ------------------------------------------------------------

CREATE FUNCTION run_ops.dblink_schema() RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT quote_ident(n.nspname)
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
   WHERE e.extname = 'dblink'
$$;
COMMENT ON FUNCTION run_ops.dblink_schema() IS 'the schema of extension dblink, quoted';

CREATE FUNCTION run_ops.ask_store(store text, query text, patience text DEFAULT NULL) RETURNS SETOF jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  store_server  name;
  reason        text;
BEGIN
  SELECT s.server INTO store_server FROM run_ops.store AS s WHERE s.name = store;
  -- The store's own settings must not change what names and types look like.
  -- LOCAL, for a pooler hands the connection on as it is
  query := format('SET LOCAL statement_timeout = %L; SET LOCAL search_path = pg_catalog; '
                  'SET LOCAL datestyle = ''ISO, YMD''; SET LOCAL timezone = ''UTC''; SET LOCAL intervalstyle = ''postgres''; '
                  'SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = ''hex''; SELECT to_jsonb(q) FROM (%s) AS q',
                  coalesce(patience, run_ops.setting('store_timeout')), query);
  RETURN QUERY EXECUTE
    format('SELECT answer FROM %s.dblink(%L, %L) AS t (answer jsonb)', run_ops.dblink_schema(), store_server, query);
EXCEPTION
  WHEN sqlclient_unable_to_establish_sqlconnection THEN
    GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
    RAISE EXCEPTION 'store "%" cannot be reached', store
      USING ERRCODE = 'sqlclient_unable_to_establish_sqlconnection', DETAIL = reason,
            HINT = format('Check the options of server %I and the user mapping of %I.',
                          store_server, current_user);
END $$;
COMMENT ON FUNCTION run_ops.ask_store(text, text, text) IS
  'rows of a query run in a store over a connection of its own, outside the current transaction; an error when the store cannot be reached, or does not answer within patience (run_ops_split.store_timeout unless said, 0 for ever)';
REVOKE EXECUTE ON FUNCTION run_ops.ask_store(text, text, text) FROM PUBLIC;

-- What must be equal on both sides --------------------------------------------
-- One query describes a database, one a table; the same text runs here and in
-- the store, under the same search_path, and the answers are compared as text.

CREATE FUNCTION run_ops.database_facts_query() RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- through jsonb, for columns that some versions lack
  SELECT $q$
    SELECT f.aspect, ''::text AS name, lower(replace(f.fact, '-', '')) AS fact
      FROM pg_database AS db, to_jsonb(db) AS d,
           LATERAL (VALUES
             ('encoding', pg_encoding_to_char(db.encoding)::text),
             ('collation', d ->> 'datcollate'),
             ('character type', d ->> 'datctype'),
             ('locale provider', coalesce(d ->> 'datlocprovider', 'c')),
             ('locale', coalesce(d ->> 'datlocale', d ->> 'daticulocale'))) AS f (aspect, fact)
     WHERE db.datname = current_database() AND f.fact IS NOT NULL
  $q$
$$;
COMMENT ON FUNCTION run_ops.database_facts_query() IS
  'a query that describes what must be equal in two databases: rows of aspect, name, fact';

CREATE FUNCTION run_ops.table_facts_query(table_schema name, table_name name, local_names jsonb)
  RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format($q$
    WITH col AS (
      SELECT a.*, coalesce(%3$L::jsonb ->> a.attname::text, a.attname::text) AS local_name
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid
       WHERE n.nspname = %1$L AND c.relname = %2$L AND c.relkind IN ('r', 'p')
         AND a.attnum > 0 AND NOT a.attisdropped)
    SELECT 'column' AS aspect, local_name AS name,
           concat_ws(' ', format_type(atttypid, atttypmod),
             CASE WHEN attcollation <> t.typcollation THEN 'COLLATE ' || attcollation::regcollation END,
             CASE WHEN attnotnull THEN 'NOT NULL' END,
             CASE WHEN attgenerated <> '' THEN 'GENERATED AS' WHEN d.adbin IS NOT NULL THEN 'DEFAULT' END,
             pg_get_expr(d.adbin, d.adrelid),
             CASE WHEN attidentity <> '' THEN 'IDENTITY' END) AS fact
      FROM col JOIN pg_type AS t ON t.oid = atttypid
      LEFT JOIN pg_attrdef AS d ON d.adrelid = attrelid AND d.adnum = attnum
    UNION ALL
    SELECT DISTINCT 'label of ' || format_type(e.enumtypid, NULL), quote_literal(e.enumlabel), 'present'
      FROM col JOIN pg_type AS t ON t.oid = atttypid
      JOIN pg_enum AS e ON e.enumtypid IN (t.oid, t.typelem)
    UNION ALL
    SELECT DISTINCT 'unique key', k.columns, 'present'
      FROM pg_index AS i, LATERAL (
             SELECT string_agg(quote_ident(local_name), ', ' ORDER BY local_name) AS columns,
                    bool_and(attnotnull) AS all_not_null, count(*) AS n
               FROM col WHERE attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS k
     WHERE i.indrelid = (SELECT DISTINCT attrelid FROM col)
       AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
       AND k.all_not_null AND k.n = i.indnkeyatts
  $q$, table_schema, table_name, local_names)
$$;
COMMENT ON FUNCTION run_ops.table_facts_query(name, name, jsonb) IS
  'a query that describes what must be equal in two copies of a table: rows of aspect, name, fact; local_names maps names in the store to local ones';

CREATE FUNCTION run_ops.differences(store text, legacy_query text, store_query text)
  RETURNS TABLE (aspect text, name text, legacy_fact text, store_fact text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY EXECUTE format($q$
    SELECT aspect, name, l.fact, s.fact
      FROM (%s) AS l
      FULL JOIN (SELECT f.aspect, f.name, f.fact
                   FROM run_ops.ask_store($1, $2) AS j,
                        jsonb_to_record(j) AS f (aspect text, name text, fact text)) AS s
     USING (aspect, name)
     WHERE l.fact IS DISTINCT FROM s.fact
     ORDER BY aspect, name $q$, legacy_query) USING store, store_query;
END $$;
COMMENT ON FUNCTION run_ops.differences(text, text, text) IS
  'facts that are not the same here and in the store';
REVOKE EXECUTE ON FUNCTION run_ops.differences(text, text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.difference_text(store text, aspect text, name text, legacy_fact text, store_fact text)
  RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN pg_catalog.format('%s: %s in legacy, %s in store "%s"',
    pg_catalog.concat_ws(' ', aspect, nullif(name, '')),
    coalesce(legacy_fact, 'missing'), coalesce(store_fact, 'missing'), store);
COMMENT ON FUNCTION run_ops.difference_text(text, text, text, text, text) IS
  'one row of run_ops.differences() as a line for people';

CREATE FUNCTION run_ops.database_differences(store text) RETURNS SETOF text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.difference_text(store, d.aspect, d.name, d.legacy_fact, d.store_fact)
    FROM run_ops.differences(store, run_ops.database_facts_query(),
                             run_ops.database_facts_query()) AS d
$$;
COMMENT ON FUNCTION run_ops.database_differences(text) IS
  'what differs between this database and the store: encoding and collation must be equal, or sorted pages merge wrongly';
REVOKE EXECUTE ON FUNCTION run_ops.database_differences(text) FROM PUBLIC;

CREATE FUNCTION run_ops.table_differences(store text, t run_ops.routed_table) RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  legacy_query text := (SELECT run_ops.table_facts_query(n.nspname, c.relname, '{}')
                          FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                         WHERE c.oid = t.legacy);
  store_query  text := run_ops.table_facts_query(t.store_schema, t.store_table,
    (SELECT coalesce(jsonb_object_agg(value, key), '{}') FROM jsonb_each_text(t.column_names)));
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.ask_store(store, store_query)) THEN
    RETURN NEXT format('table %I.%I: missing in store "%s"', t.store_schema, t.store_table, store);
    RETURN;
  END IF;
  RETURN QUERY
    SELECT run_ops.difference_text(store, d.aspect, d.name, d.legacy_fact, d.store_fact)
      FROM run_ops.differences(store, legacy_query, store_query) AS d
     WHERE NOT (d.legacy_fact IS NULL
                -- a stricter store loses nothing; its own columns may be filled
                AND (d.aspect = 'unique key' OR t.store_defaults ? d.name));
END $$;
COMMENT ON FUNCTION run_ops.table_differences(text, run_ops.routed_table) IS
  'what differs between a local table and its copy in the store, by name: columns, labels of enums, unique keys; the order of columns and labels may differ';
REVOKE EXECUTE ON FUNCTION run_ops.table_differences(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_differences(what text, lines text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF cardinality(lines) > 0 THEN
    RAISE EXCEPTION '%', what
      USING ERRCODE = 'RO002', DETAIL = array_to_string(lines, E'\n'),
            HINT = 'Bring both sides to the same shape, then try again.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_differences(text, text[]) IS
  'raises one error that lists every difference, if there is one';

-- Stores ------------------------------------------------------------------------

CREATE FUNCTION run_ops.lock_registry() RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  LOCK TABLE run_ops.store, run_ops.routed_table, run_ops.routed_store IN SHARE ROW EXCLUSIVE MODE
$$;
COMMENT ON FUNCTION run_ops.lock_registry() IS
  'lets one session at a time change what is attached; readers go on';

CREATE FUNCTION run_ops.store_schema(store text) RETURNS name
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ('run_ops_' OPERATOR(pg_catalog.||) store)::pg_catalog.name;
COMMENT ON FUNCTION run_ops.store_schema(text) IS 'the local schema that holds the foreign tables of a store';

CREATE FUNCTION run_ops.attach_store(name text, server name) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  wrapper name;
  routed  run_ops.routed_table;
BEGIN
  IF name IS NULL OR name !~ '^(new|[a-z0-9])$' THEN
    RAISE EXCEPTION 'invalid store name %', coalesce(quote_ident(name), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'A store is "new", or a shard named by one character of [a-z0-9]; "legacy" is this database.';
  END IF;
  PERFORM run_ops.lock_registry();
  IF EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = name) THEN
    RAISE EXCEPTION 'store "%" is attached already', name
      USING ERRCODE = 'duplicate_object', HINT = 'run_ops.detach_store() removes it.';
  END IF;
  IF EXISTS (SELECT FROM run_ops.store AS s WHERE s.server = server) THEN
    RAISE EXCEPTION 'server "%" is attached already as store "%"', server,
        (SELECT s.name FROM run_ops.store AS s WHERE s.server = server)
      USING ERRCODE = 'duplicate_object',
            DETAIL = 'Every store must be a database of its own, or its rows would be seen twice.';
  END IF;
  SELECT w.fdwname INTO wrapper
    FROM pg_foreign_server AS f JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
   WHERE f.srvname = server;
  IF wrapper IS NULL THEN
    RAISE EXCEPTION 'server % does not exist', coalesce(quote_ident(server), 'NULL')
      USING ERRCODE = 'undefined_object',
            HINT = 'Create it with CREATE SERVER ... FOREIGN DATA WRAPPER run_ops_fdw.';
  END IF;
  IF wrapper = 'postgres_fdw' THEN
    RAISE NOTICE 'server "%" uses postgres_fdw', server
      USING DETAIL = 'Its connection is opened when a plan starts: with a generic plan, a lookup of a LEGACY id fails while the store is down.',
            HINT = 'A server of run_ops_fdw connects only when a row is asked for, and takes the same options.';
  ELSIF wrapper = 'run_ops_fdw' AND EXISTS (
      SELECT FROM pg_foreign_server AS f, pg_options_to_table(f.srvoptions) AS o
       WHERE f.srvname = server AND o.option_name = 'use_remote_estimate' AND o.option_value::boolean) THEN
    RAISE NOTICE 'server "%" has use_remote_estimate on', server
      USING DETAIL = 'The planner then asks the store: with a generic plan, a lookup of a LEGACY id fails while the store is down.',
            HINT = 'Leave it off; columns marked as indexed and ANALYZE of the foreign tables serve joins as well.';
  ELSIF wrapper <> 'run_ops_fdw' THEN
    RAISE EXCEPTION 'server "%" uses foreign-data wrapper "%"', server, wrapper
      USING ERRCODE = 'wrong_object_type',
            HINT = 'A store is a server of run_ops_fdw or of postgres_fdw.';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_user_mappings AS m
                  WHERE m.srvname = server AND m.usename IN (current_user, 'public')) THEN
    RAISE EXCEPTION 'role "%" has no user mapping for server "%"', current_user, server
      USING ERRCODE = 'undefined_object',
            DETAIL = 'The views read the store as the role that attaches it.',
            HINT = format('CREATE USER MAPPING FOR %I SERVER %I OPTIONS (user ''...'', password ''...'');',
                          current_user, server);
  END IF;

  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.server IS NOT NULL) THEN
    PERFORM run_ops.bind_server();
  END IF;
  INSERT INTO run_ops.store VALUES (name, server);
  PERFORM run_ops.refuse_differences(format('store "%s" does not match this database', name),
    ARRAY(SELECT run_ops.database_differences(name)));
  EXECUTE format('CREATE SCHEMA %I', run_ops.store_schema(name));
  FOR routed IN SELECT * FROM run_ops.routed_table LOOP
    PERFORM run_ops.import_table(name, routed);
    PERFORM run_ops.build_view(routed, run_ops.split_enabled());
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.attach_store(text, name) IS
  'registers a foreign server as store "new" or as a shard, after comparing encoding and collation; the caller needs a user mapping for it';
REVOKE EXECUTE ON FUNCTION run_ops.attach_store(text, name) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_while_split(doing text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF run_ops.split_enabled() THEN
    RAISE EXCEPTION 'cannot % while split is on', doing
      USING ERRCODE = 'object_in_use',
            DETAIL = 'Rows of the store would disappear from the views.',
            HINT = 'run_ops.disable_split() is the way back.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_while_split(text) IS 'raises an error while split is on';

CREATE FUNCTION run_ops.detach_store(name text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  foreign_table regclass;
BEGIN
  PERFORM run_ops.lock_registry();
  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = name AND s.server IS NOT NULL) THEN
    RAISE EXCEPTION 'store % is not attached', coalesce(quote_ident(name), 'NULL')
      USING ERRCODE = 'undefined_object', HINT = 'run_ops.store lists the stores.';
  END IF;
  PERFORM run_ops.refuse_while_split(format('detach store "%s"', name));
  FOR foreign_table IN
    DELETE FROM run_ops.routed_store AS r WHERE r.store = name RETURNING r.foreign_table
  LOOP
    EXECUTE format('DROP FOREIGN TABLE %s', foreign_table);
  END LOOP;
  EXECUTE format('DROP SCHEMA %I', run_ops.store_schema(name));
  DELETE FROM run_ops.store AS s WHERE s.name = name;
END $$;
COMMENT ON FUNCTION run_ops.detach_store(text) IS
  'forgets a store and drops its foreign tables; its rows stay where they are; refused while split is on';
REVOKE EXECUTE ON FUNCTION run_ops.detach_store(text) FROM PUBLIC;

-- Routed tables -----------------------------------------------------------------

CREATE VIEW run_ops.known_routing AS
  SELECT legacy_table::name, routing::run_ops.routing, route_column::name, store_table::name,
         column_names::jsonb, store_defaults::jsonb
    FROM (VALUES
      ('TaskRun',                  'shape',  'id',             'TaskRun',                  '{}', '{}'),
      ('BatchTaskRun',             'shape',  'id',             'BatchTaskRun',             '{}', '{}'),
      ('BatchTaskRunItem',         'anchor', 'batchTaskRunId', 'BatchTaskRunItem',         '{}', '{}'),
      ('BatchTaskRunError',        'anchor', 'batchTaskRunId', 'BatchTaskRunError',        '{}', '{}'),
      ('TaskRunAttempt',           'anchor', 'taskRunId',      'TaskRunAttempt',           '{}', '{}'),
      ('TaskRunExecutionSnapshot', 'anchor', 'runId',          'TaskRunExecutionSnapshot', '{}', '{}'),
      ('TaskRunDependency',        'anchor', 'taskRunId',      'TaskRunDependency',        '{}', '{}'),
      ('TaskRunWaitpoint',         'anchor', 'taskRunId',      'TaskRunWaitpoint',         '{}', '{}'),
      ('Checkpoint',               'anchor', 'runId',          'Checkpoint',               '{}', '{}'),
      ('CheckpointRestoreEvent',   'anchor', 'runId',          'CheckpointRestoreEvent',   '{}', '{}'),
      ('TaskRunCheckpoint',        'store',  NULL,             'TaskRunCheckpoint',        '{}', '{}'),
      ('TaskRunTag',               'store',  NULL,             'TaskRunTag',               '{}', '{}'),
      ('Waitpoint',                'store',  NULL,             'Waitpoint',                '{}', '{}'),
      ('WaitpointTag',             'store',  NULL,             'WaitpointTag',             '{}', '{}'),
      ('_WaitpointRunConnections', 'anchor', 'A',              'WaitpointRunConnection',
        '{"A": "taskRunId", "B": "waitpointId"}', '{"id": "run_ops.generate_cuid()"}'),
      ('_completedWaitpoints',     'store',  NULL,             'CompletedWaitpoint',
        '{"A": "snapshotId", "B": "waitpointId"}', '{"id": "run_ops.generate_cuid()"}'))
      AS known (legacy_table, routing, route_column, store_table, column_names, store_defaults);
COMMENT ON VIEW run_ops.known_routing IS
  'how the tables of the run graph find their store; attach_table() takes what it is not told from here';
GRANT SELECT ON run_ops.known_routing TO PUBLIC;

CREATE FUNCTION run_ops.key_of(legacy regclass) RETURNS name[]
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT k.columns
    FROM pg_index AS i, LATERAL (
           SELECT array_agg(a.attname ORDER BY a.attnum) AS columns, bool_and(a.attnotnull) AS all_not_null
             FROM pg_attribute AS a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS k
   WHERE i.indrelid = legacy AND i.indisunique AND i.indisvalid AND i.indimmediate
     AND i.indpred IS NULL AND i.indexprs IS NULL AND k.all_not_null
   ORDER BY i.indisprimary DESC, cardinality(k.columns), i.indexrelid
   LIMIT 1
$$;
COMMENT ON FUNCTION run_ops.key_of(regclass) IS
  'the columns that identify a row: the primary key, else the smallest unique index over columns that are NOT NULL; NULL when there is none';

CREATE FUNCTION run_ops.propose_routing(
    legacy regclass, routing run_ops.routing, route_column name,
    store_schema name, store_table name, column_names jsonb, store_defaults jsonb)
  RETURNS run_ops.routed_table
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t     run_ops.routed_table;
  known run_ops.known_routing;
  c     pg_class;
BEGIN
  SELECT * INTO c FROM pg_class WHERE oid = legacy;
  IF c.relkind IS NULL OR c.relkind NOT IN ('r', 'p') OR c.relpersistence = 't' THEN
    RAISE EXCEPTION '% is not a table that can be routed', coalesce(legacy::text, 'NULL')
      USING ERRCODE = 'wrong_object_type', DETAIL = 'It must be an ordinary or partitioned table of this database.';
  END IF;
  SELECT * INTO known FROM run_ops.known_routing AS k WHERE k.legacy_table = c.relname;
  t.legacy := legacy;
  t.routing := coalesce(routing, known.routing);
  t.route_column := CASE WHEN t.routing <> 'store' THEN coalesce(route_column,
    CASE WHEN t.routing = known.routing THEN known.route_column WHEN t.routing = 'shape' THEN 'id' END) END;
  IF t.routing IS NULL THEN
    -- a dependent of a run or a batch usually names it
    SELECT 'anchor', a.attname INTO t.routing, t.route_column
      FROM unnest(ARRAY['runId', 'taskRunId', 'batchTaskRunId', 'run_id', 'task_run_id', 'batch_task_run_id'])
             WITH ORDINALITY AS anchor (name, ord)
      JOIN pg_attribute AS a ON a.attname = anchor.name AND a.attrelid = legacy
           AND a.attnotnull AND NOT a.attisdropped AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)
     ORDER BY anchor.ord LIMIT 1;
  END IF;
  t.key_columns := run_ops.key_of(legacy);
  t.store_schema := coalesce(store_schema,
    (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = c.relnamespace));
  t.store_table := coalesce(store_table, known.store_table, c.relname);
  t.column_names := coalesce(column_names, known.column_names, '{}');
  t.store_defaults := coalesce(store_defaults, known.store_defaults, '{}');
  RETURN t;
END $$;
COMMENT ON FUNCTION run_ops.propose_routing(regclass, run_ops.routing, name, name, name, jsonb, jsonb) IS
  'what attach_table() would register: what it is told, else what run_ops.known_routing knows, else an anchor found by its name; routing is NULL when nothing fits';

CREATE FUNCTION run_ops.refuse_table_differences(tables run_ops.routed_table[], stores text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t           run_ops.routed_table;
  store       text;
  lines       text[] := '{}';
BEGIN
  FOREACH t IN ARRAY tables LOOP
    FOREACH store IN ARRAY stores LOOP
      lines := lines || ARRAY(SELECT format('%s: %s', t.legacy, d)
                                FROM run_ops.table_differences(store, t) AS d);
    END LOOP;
  END LOOP;
  PERFORM run_ops.refuse_differences(
    format('%s not match in every store',
           CASE cardinality(tables) WHEN 1 THEN format('table %s does', tables[1].legacy)
                                    ELSE 'tables do' END), lines);
END $$;
COMMENT ON FUNCTION run_ops.refuse_table_differences(run_ops.routed_table[], text[]) IS
  'raises one error that lists every difference of these tables in these stores';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_table_differences(run_ops.routed_table[], text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.import_table(store text, t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  foreign_table text := format('%I.%I', run_ops.store_schema(store), t.store_table);
  store_server  name := (SELECT s.server FROM run_ops.store AS s WHERE s.name = store);
  item          record;
BEGIN
  PERFORM run_ops.refuse_table_differences(ARRAY[t], ARRAY[store]);
  EXECUTE format('IMPORT FOREIGN SCHEMA %I LIMIT TO (%I) FROM SERVER %I INTO %I OPTIONS (import_default ''true'')',
                 t.store_schema, t.store_table, store_server, run_ops.store_schema(store));
  FOR item IN SELECT * FROM jsonb_each_text(t.column_names) LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s RENAME COLUMN %I TO %I', foreign_table, item.value, item.key);
  END LOOP;
  FOR item IN SELECT * FROM jsonb_each_text(t.store_defaults) LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s ALTER COLUMN %I SET DEFAULT %s', foreign_table, item.key, item.value);
  END LOOP;
  -- rows go to the store in batches, unless the server says how
  IF NOT EXISTS (SELECT FROM pg_foreign_server AS f, unnest(f.srvoptions) AS o
                  WHERE f.srvname = store_server AND o LIKE 'batch_size=%') THEN
    EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (ADD batch_size ''1000'')', foreign_table);
  END IF;
  IF (SELECT w.fdwname FROM pg_foreign_server AS f JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
       WHERE f.srvname = store_server) = 'run_ops_fdw' THEN
    -- what the store can look up quickly: the leading columns of its indexes
    FOR item IN
      SELECT coalesce(local.key, answer ->> 'attname') AS name
        FROM run_ops.ask_store(store, format(
               'SELECT DISTINCT a.attname FROM pg_index AS i '
               'JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] '
               'WHERE i.indrelid = %L::regclass AND i.indisvalid AND i.indpred IS NULL',
               format('%I.%I', t.store_schema, t.store_table))) AS answer
        LEFT JOIN jsonb_each_text(t.column_names) AS local ON local.value = answer ->> 'attname'
    LOOP
      EXECUTE format('ALTER FOREIGN TABLE %s ALTER COLUMN %I OPTIONS (ADD indexed ''true'')',
                     foreign_table, item.name);
    END LOOP;
    IF cardinality(t.key_columns) = 1 THEN
      EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (ADD key %L)', foreign_table, t.key_columns[1]);
    END IF;
  END IF;
  INSERT INTO run_ops.routed_store VALUES (t.view, store, foreign_table::regclass);
END $$;
COMMENT ON FUNCTION run_ops.import_table(text, run_ops.routed_table) IS
  'makes the foreign table of a routed table in one store, after comparing both sides';
REVOKE EXECUTE ON FUNCTION run_ops.import_table(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_unroutable(t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  missing text;
BEGIN
  IF t.routing IS NULL THEN
    RAISE EXCEPTION 'no routing is known for table %', t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Say how its rows find their store: routing => ''shape'', ''anchor'' with route_column, or ''store''.';
  ELSIF t.routing = 'anchor' AND t.route_column IS NULL THEN
    RAISE EXCEPTION 'routing "anchor" of table % needs a route_column', t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'It is the column that holds the id of the run or batch that the row belongs to.';
  ELSIF t.key_columns IS NULL THEN
    RAISE EXCEPTION 'table % has no key', t.legacy
      USING ERRCODE = 'invalid_table_definition',
            DETAIL = 'A routed table needs a primary key, or a unique index over columns that are NOT NULL.';
  ELSIF t.routing = 'shape' AND t.key_columns <> ARRAY[t.route_column] THEN
    RAISE EXCEPTION 'routing "shape" of table % needs "%" to be its key', t.legacy, t.route_column
      USING ERRCODE = 'invalid_table_definition',
            DETAIL = format('Its key is (%s).', (SELECT string_agg(quote_ident(k), ', ') FROM unnest(t.key_columns) AS k));
  ELSIF t.route_column IS NOT NULL AND NOT EXISTS (
      SELECT FROM pg_attribute AS a
       WHERE a.attrelid = t.legacy AND a.attname = t.route_column AND a.attnum > 0
         AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)) THEN
    RAISE EXCEPTION 'table % has no text column "%"', t.legacy, t.route_column
      USING ERRCODE = 'undefined_column', DETAIL = 'The route column holds ids as text.';
  END IF;
  SELECT string_agg(quote_ident(m.name), ', ') INTO missing
    FROM jsonb_object_keys(t.column_names) AS m (name)
   WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = t.legacy AND a.attname = m.name AND a.attnum > 0);
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'column_names of table % names columns that it does not have: %', t.legacy, missing
      USING ERRCODE = 'undefined_column',
            DETAIL = 'column_names maps names of this table to names in the store.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_unroutable(run_ops.routed_table) IS
  'raises an error when a table cannot be routed as said';

CREATE FUNCTION run_ops.attach_table(
    legacy         regclass,
    routing        run_ops.routing DEFAULT NULL,
    route_column   name DEFAULT NULL,
    store_schema   name DEFAULT NULL,
    store_table    name DEFAULT NULL,
    column_names   jsonb DEFAULT NULL,
    store_defaults jsonb DEFAULT NULL,
    view_schema    name DEFAULT 'run_ops',
    view_name      name DEFAULT NULL)
  RETURNS regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t           run_ops.routed_table;
  view_text   text;
  grant_row   record;
  store       text;
BEGIN
  t := run_ops.propose_routing(legacy, routing, route_column, store_schema, store_table,
                               column_names, store_defaults);
  PERFORM run_ops.refuse_unroutable(t);
  PERFORM run_ops.lock_registry();
  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.server IS NOT NULL) THEN
    RAISE EXCEPTION 'no store is attached'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Use run_ops.attach_store() first.';
  END IF;
  IF EXISTS (SELECT FROM run_ops.routed_table AS r WHERE r.legacy = legacy) THEN
    RAISE EXCEPTION 'table % is routed already', legacy
      USING ERRCODE = 'duplicate_object',
            HINT = 'run_ops.refresh_table() follows a migration; run_ops.detach_table() undoes.';
  END IF;
  view_text := format('%I.%I', view_schema,
    coalesce(view_name, (SELECT c.relname FROM pg_class AS c WHERE c.oid = legacy)));
  IF to_regclass(view_text) IS NOT NULL THEN
    RAISE EXCEPTION 'relation % exists already', view_text
      USING ERRCODE = 'duplicate_table',
            HINT = 'Give another view_schema or view_name for the view.';
  END IF;

  EXECUTE format('CREATE VIEW %s AS %s', view_text, run_ops.view_query(t, false));
  t.view := view_text::regclass;
  INSERT INTO run_ops.routed_table SELECT t.*;
  FOR store IN SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL ORDER BY s.name LOOP
    PERFORM run_ops.import_table(store, t);
  END LOOP;
  PERFORM run_ops.build_view(t, run_ops.split_enabled());

  -- who could use the table can use the view
  FOR grant_row IN
    SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
      FROM pg_class AS c, aclexplode(c.relacl) AS a
     WHERE c.oid = legacy AND a.grantee <> c.relowner
       AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', view_schema, grant_row.grantee);
    EXECUTE format('GRANT %s ON %s TO %s', grant_row.privilege_type, view_text, grant_row.grantee);
  END LOOP;
  IF (SELECT c.relrowsecurity FROM pg_class AS c WHERE c.oid = legacy) THEN
    RAISE WARNING 'row security of table % does not reach the readers of view %', legacy, view_text
      USING DETAIL = format('The view reads the table as role %I.', current_user);
  END IF;
  RETURN t.view;
END $$;
COMMENT ON FUNCTION run_ops.attach_table(regclass, run_ops.routing, name, name, name, jsonb, jsonb, name, name) IS
  'makes a table reachable through one view of the same name and columns, after comparing it with its copy in every store; what is not said is taken from run_ops.known_routing';
REVOKE EXECUTE ON FUNCTION run_ops.attach_table(regclass, run_ops.routing, name, name, name, jsonb, jsonb, name, name) FROM PUBLIC;

CREATE FUNCTION run_ops.attach_all_tables(
    legacy_schema name DEFAULT 'public', store_schema name DEFAULT NULL, view_schema name DEFAULT 'run_ops')
  RETURNS SETOF run_ops.routed_table
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  stores    text[] := ARRAY(SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL ORDER BY s.name);
  in_stores text[];
  tables    run_ops.routed_table[];
  t         run_ops.routed_table;
BEGIN
  IF stores = '{}' THEN
    RAISE EXCEPTION 'no store is attached'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Use run_ops.attach_store() first.';
  END IF;
  SELECT array_agg(DISTINCT answer ->> 'relname') INTO in_stores
    FROM unnest(stores) AS store, LATERAL run_ops.ask_store(store, format(
      'SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace '
      'WHERE n.nspname = %L AND c.relkind IN (''r'', ''p'')', coalesce(store_schema, legacy_schema))) AS answer;
  SELECT array_agg(p ORDER BY c.relname) INTO tables
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace,
         LATERAL run_ops.propose_routing(c.oid, NULL, NULL, store_schema, NULL, NULL, NULL) AS p
   WHERE n.nspname = legacy_schema AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     AND c.relpersistence <> 't' AND p.store_table = ANY (in_stores)
     AND NOT EXISTS (SELECT FROM run_ops.routed_table AS r WHERE r.legacy = c.oid);
  FOREACH t IN ARRAY coalesce(tables, '{}') LOOP
    IF t.routing IS NULL THEN
      RAISE NOTICE 'table % is left out', t.legacy
        USING DETAIL = 'It exists on both sides, but nothing tells how its rows find their store.',
              HINT = 'Attach it with run_ops.attach_table(), naming its routing.';
      tables := array_remove(tables, t);
    ELSE
      PERFORM run_ops.refuse_unroutable(t);
    END IF;
  END LOOP;
  -- all differences of all tables in one error, before anything is made
  PERFORM run_ops.refuse_table_differences(coalesce(tables, '{}'), stores);
  FOREACH t IN ARRAY coalesce(tables, '{}') LOOP
    t.view := run_ops.attach_table(t.legacy, t.routing, t.route_column, t.store_schema,
      t.store_table, t.column_names, t.store_defaults, view_schema);
    RETURN NEXT t;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.attach_all_tables(name, name, name) IS
  'attaches every table of the schema that a store has as well and that is not routed yet; returns what it attached';
REVOKE EXECUTE ON FUNCTION run_ops.attach_all_tables(name, name, name) FROM PUBLIC;

CREATE FUNCTION run_ops.refresh_table(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t       run_ops.routed_table;
  old     run_ops.routed_store;
  renamed record;
BEGIN
  PERFORM run_ops.lock_registry();
  t := run_ops.routed(view);
  -- a view keeps the name that a column had when the view was made
  FOR renamed IN
    SELECT v.attname AS old_name, l.attname AS new_name
      FROM (SELECT attname, row_number() OVER (ORDER BY attnum) AS n FROM pg_attribute
             WHERE attrelid = t.view AND attnum > 0) AS v
      JOIN (SELECT attname, row_number() OVER (ORDER BY attnum) AS n FROM pg_attribute
             WHERE attrelid = t.legacy AND attnum > 0 AND NOT attisdropped) AS l USING (n)
     WHERE v.attname <> l.attname
  LOOP
    EXECUTE format('ALTER VIEW %s RENAME COLUMN %I TO %I', t.view, renamed.old_name, renamed.new_name);
  END LOOP;
  -- the new foreign table takes the place of the old one, which the view may still use
  FOR old IN DELETE FROM run_ops.routed_store AS r WHERE r.view = t.view RETURNING * LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s RENAME TO %I', old.foreign_table,
                   'replaced_' || old.foreign_table::oid);
    PERFORM run_ops.import_table(old.store, t);
    PERFORM run_ops.build_view(t, run_ops.split_enabled());
    EXECUTE format('DROP FOREIGN TABLE %s', old.foreign_table);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.refresh_table(regclass) IS
  'follows a migration that added or renamed a column on every side; the view keeps its place, its grants and its dependents';
REVOKE EXECUTE ON FUNCTION run_ops.refresh_table(regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.detach_table(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t             run_ops.routed_table;
  foreign_table regclass;
BEGIN
  PERFORM run_ops.lock_registry();
  t := run_ops.routed(view);
  PERFORM run_ops.refuse_while_split(format('detach %s', t.view));
  EXECUTE format('DROP VIEW %s', t.view);
  FOR foreign_table IN SELECT r.foreign_table FROM run_ops.routed_store AS r WHERE r.view = t.view LOOP
    EXECUTE format('DROP FOREIGN TABLE %s', foreign_table);
  END LOOP;
  DELETE FROM run_ops.routed_table AS r WHERE r.view = t.view;
END $$;
COMMENT ON FUNCTION run_ops.detach_table(regclass) IS
  'drops the view and the foreign tables of a routed table; the table and all rows stay as they are; refused while split is on';
REVOKE EXECUTE ON FUNCTION run_ops.detach_table(regclass) FROM PUBLIC;
