
-- stores: the databases that hold run-ops rows, and the tables that are reached
-- through one view.  An operator configures both, so pg_dump dumps them.
-- Relations are stored as regclass, so that a renamed relation is still found
-- and is dumped by its name.

CREATE TABLE run_ops.store (
  -- run_ops_NAME is the schema of its foreign tables
  name   text PRIMARY KEY CHECK (name OPERATOR(pg_catalog.~) '^[a-z0-9][a-z0-9_]{0,29}$' AND name OPERATOR(pg_catalog.!~) '^(leftovers|changes|repatriated)$'),
  server name UNIQUE,
  CHECK ((name OPERATOR(pg_catalog.=) 'legacy') OPERATOR(pg_catalog.=) (server IS NULL))
);
COMMENT ON TABLE run_ops.store IS
  'the databases that hold run-ops rows: legacy is this database, the others are foreign servers. Ids name new and the shards a-z, 0-9; key rules name any store.';
COMMENT ON COLUMN run_ops.store.name IS 'the name of the store in all functions and views';
COMMENT ON COLUMN run_ops.store.server IS 'the foreign server of the store; NULL for legacy';
INSERT INTO run_ops.store VALUES ('legacy', NULL);

CREATE FUNCTION run_ops.is_relation(relation oid, kinds "char"[]) RETURNS boolean
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  -- in PL/pgSQL, because it is called hundreds of times by the gates, and planned once
  RETURN EXISTS (SELECT FROM pg_class AS c WHERE c.oid = relation AND c.relkind = ANY (kinds));
END $$;
COMMENT ON FUNCTION run_ops.is_relation(oid, "char"[]) IS 'whether a relation exists and is of one of these kinds, as in pg_class.relkind';

CREATE TYPE run_ops.routing AS ENUM ('shape', 'anchor', 'store');
COMMENT ON TYPE run_ops.routing IS
  'how the store of a row is found: shape = by the id of the row, anchor = by a column with the id of the row it belongs to, store = no id decides, and the row stays where it was inserted';

CREATE TABLE run_ops.routed_table (
  view           regclass PRIMARY KEY,
  legacy         regclass NOT NULL UNIQUE,
  routing        run_ops.routing NOT NULL,
  route_column   name CHECK ((routing OPERATOR(pg_catalog.=) 'store') OPERATOR(pg_catalog.=) (route_column IS NULL)),
  key_columns    name[] NOT NULL,
  store_schema   name NOT NULL,
  store_table    name NOT NULL,
  column_names   jsonb NOT NULL,
  store_defaults jsonb NOT NULL,
  view_name      text NOT NULL,
  same_shape     name CHECK (same_shape OPERATOR(pg_catalog.<>) route_column),
  key_rule       text CHECK (key_rule IS NULL OR (route_column IS NOT NULL AND same_shape IS NULL))
);
COMMENT ON TABLE run_ops.routed_table IS
  'the tables that exist in every store and are reached through one view';
COMMENT ON COLUMN run_ops.routed_table.view IS 'the view that the application queries';
COMMENT ON COLUMN run_ops.routed_table.view_name IS 'the name of the view, with its schema, when the extension last created it, or when it was dropped';
COMMENT ON COLUMN run_ops.routed_table.legacy IS 'the table in this database';
COMMENT ON COLUMN run_ops.routed_table.routing IS 'how the store of a row is found';
COMMENT ON COLUMN run_ops.routed_table.route_column IS
  'the column with the id that decides the store; a row with NULL or an unclassifiable id belongs to legacy';
COMMENT ON COLUMN run_ops.routed_table.key_columns IS 'the columns that identify a row in every store';
COMMENT ON COLUMN run_ops.routed_table.store_schema IS 'the schema of the table in the stores';
COMMENT ON COLUMN run_ops.routed_table.store_table IS 'the name of the table in the stores';
COMMENT ON COLUMN run_ops.routed_table.column_names IS
  'the columns that have another name in the stores: {local name: name in the store}';
COMMENT ON COLUMN run_ops.routed_table.store_defaults IS
  'the columns that only the stores have: {name in the store: SQL expression for the value}';
COMMENT ON COLUMN run_ops.routed_table.same_shape IS
  'another column whose values have the shape of the id in route_column, so that a lookup by it queries one store; NULL if none is declared';

COMMENT ON COLUMN run_ops.routed_table.key_rule IS
  'the SQL expression that names the store of a row, with $1 for route_column; NULL: the shape of the id names it';

-- No table that pg_dump dumps has a foreign key to another one: pg_restore -j
-- restores their data in any order.
CREATE TABLE run_ops.routed_store (
  view          regclass,
  store         text,
  foreign_table regclass NOT NULL UNIQUE,
  PRIMARY KEY (view, store)
);
COMMENT ON TABLE run_ops.routed_store IS 'the foreign table of a routed table in each store except legacy';
COMMENT ON COLUMN run_ops.routed_store.view IS 'the routed table';
COMMENT ON COLUMN run_ops.routed_store.store IS 'the store';
COMMENT ON COLUMN run_ops.routed_store.foreign_table IS 'the foreign table, in schema run_ops_<store>';

SELECT pg_catalog.pg_extension_config_dump('run_ops.store', 'WHERE name <> ''legacy''');
-- An OID whose relation was dropped could be that of another relation after a
-- restore.
SELECT pg_catalog.pg_extension_config_dump('run_ops.routed_table', 'WHERE run_ops.is_relation(view, ''{v}'') AND run_ops.is_relation(legacy, ''{r,p}'')');
SELECT pg_catalog.pg_extension_config_dump('run_ops.routed_store', 'WHERE run_ops.is_relation(view, ''{v}'') AND run_ops.is_relation(foreign_table, ''{f}'')');
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
            HINT = 'run_ops.routed_table lists the views. run_ops.attach_table() creates one.';
  END IF;
  RETURN found_table;
END $$;
COMMENT ON FUNCTION run_ops.routed(regclass) IS
  'the row of run_ops.routed_table for a view or for a local table; raises an error if there is none';

-- The rule of a routed table, as SQL ----------------------------------------------

CREATE FUNCTION run_ops.column_type(relation regclass, column_name name) RETURNS regtype
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = column_name AND a.attnum > 0
$$;
COMMENT ON FUNCTION run_ops.column_type(regclass, name) IS 'the type of a column; NULL if the relation has no such column';

CREATE FUNCTION run_ops.names_store(t run_ops.routed_table, id text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN t.key_rule IS NULL THEN format('run_ops.resolve_shard(%s)', id)
              ELSE format('(%s)', replace(t.key_rule, '$1', id)) END
$$;
COMMENT ON FUNCTION run_ops.names_store(run_ops.routed_table, text) IS
  'an SQL expression: the name of the store of a row of this table; id is an SQL expression with the value of route_column; NULL means legacy';

CREATE FUNCTION run_ops.in_store(t run_ops.routed_table, id text, store text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN t.key_rule IS NULL THEN format('run_ops.resides(%s, %L)', id, store)
              ELSE format('(%s)', run_ops.rule_condition(t.key_rule, run_ops.column_type(t.legacy, t.route_column), id, store)) END
$$;
COMMENT ON FUNCTION run_ops.in_store(run_ops.routed_table, text, text) IS
  'an SQL condition for this database: a row of this table belongs in the store; id is an SQL expression with the value of route_column';

CREATE FUNCTION run_ops.in_store_there(t run_ops.routed_table, id text, store text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN t.key_rule IS NULL THEN coalesce(run_ops.residency_condition(id, store), 'false') ELSE run_ops.in_store(t, id, store) END
$$;
COMMENT ON FUNCTION run_ops.in_store_there(run_ops.routed_table, text, text) IS
  'the condition of run_ops.in_store() for a store, which need not have this extension';

CREATE FUNCTION run_ops.store_of(t run_ops.routed_table, id text) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  result text;
BEGIN
  IF t.key_rule IS NULL THEN
    RETURN run_ops.resolve_shard(id);
  END IF;
  EXECUTE format('SELECT coalesce(%s, ''legacy'')',
                 run_ops.names_store(t, format('%L::%s', id, run_ops.column_type(t.legacy, t.route_column)))) INTO result;
  RETURN result;
END $$;
COMMENT ON FUNCTION run_ops.store_of(run_ops.routed_table, text) IS
  'the name of the store of a row of this table with this value of route_column, as text';

-- Attaching and detaching ------------------------------------------------------

CREATE FUNCTION run_ops.lock_registry() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'cannot change stores, tables or split mode during recovery'
      USING ERRCODE = 'read_only_sql_transaction', DETAIL = 'This server is a standby.',
            HINT = (SELECT g.hint FROM run_ops.server_gates() AS g WHERE g.gate = 'server');
  END IF;
  LOCK TABLE run_ops.store, run_ops.routed_table, run_ops.routed_store IN SHARE ROW EXCLUSIVE MODE;
END $$;
COMMENT ON FUNCTION run_ops.lock_registry() IS
  'lets only one session at a time change stores and routed tables; does not block reads';

CREATE FUNCTION run_ops.in_attempts(command text, most int DEFAULT run_ops.setting('swap_attempts')::pg_catalog.int4, OUT attempts int, OUT seconds numeric)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  old_lock_timeout     text := current_setting('lock_timeout');
  old_deadlock_timeout text := current_setting('deadlock_timeout');
  since timestamptz;
BEGIN
  PERFORM set_config('lock_timeout', run_ops.setting('swap_lock_timeout'), true),
  -- Shorter than lock_timeout, so that this session and not a client detects a
  -- deadlock, and so that an autovacuum worker that blocks it is cancelled.
          set_config('deadlock_timeout', '10ms', true);
  FOR attempt IN 1..most LOOP
    BEGIN
      since := clock_timestamp();
      EXECUTE command;
      attempts := attempt;
      seconds := extract(epoch FROM clock_timestamp() - since);
      EXIT;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
      IF attempt = most THEN
        RAISE EXCEPTION 'could not lock the views in % attempts', most
          USING ERRCODE = 'lock_not_available', DETAIL = SQLERRM,
                HINT = 'A long transaction is using one of the tables. Try again later, or raise run_ops_split.swap_lock_timeout or run_ops_split.swap_attempts.';
      END IF;
      -- the queries that waited for this attempt proceed
      PERFORM pg_sleep(random() * 0.1);
    END;
  END LOOP;
  PERFORM set_config('lock_timeout', old_lock_timeout, true),
          set_config('deadlock_timeout', old_deadlock_timeout, true);
END $$;
COMMENT ON FUNCTION run_ops.in_attempts(text, int) IS
  'runs a command that locks views, in several attempts: each waits only run_ops_split.swap_lock_timeout for its locks, and waiting queries proceed between the attempts. Returns the number of attempts and the duration of the last one in seconds.';
REVOKE EXECUTE ON FUNCTION run_ops.in_attempts(text, int) FROM PUBLIC;

CREATE FUNCTION run_ops.foreign_schema(store text) RETURNS name
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ('run_ops_' OPERATOR(pg_catalog.||) store)::pg_catalog.name;
COMMENT ON FUNCTION run_ops.foreign_schema(text) IS 'the local schema with the foreign tables of a store';

CREATE FUNCTION run_ops.make_own_schema(schema name) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_namespace AS n WHERE n.nspname = schema) THEN
    EXECUTE format('CREATE SCHEMA %I', schema);
  END IF;
  -- An old schema may exist, because DROP EXTENSION does not drop it.  Default
  -- privileges may let others create objects in a new one.
  PERFORM run_ops.refuse_strangers(schema);
END $$;
COMMENT ON FUNCTION run_ops.make_own_schema(name) IS
  'creates a schema for objects of the extension if it does not exist; raises an error if another role owns it or an object in it, or may create objects in it';
REVOKE EXECUTE ON FUNCTION run_ops.make_own_schema(name) FROM PUBLIC;

CREATE FUNCTION run_ops.prepares_at_most(store text) RETURNS int
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT (a ->> 'n')::int
    FROM run_ops.ask_store(store, 'SELECT current_setting(''max_prepared_transactions'') AS n') AS a
$$;
COMMENT ON FUNCTION run_ops.prepares_at_most(text) IS 'max_prepared_transactions of a store';
REVOKE EXECUTE ON FUNCTION run_ops.prepares_at_most(text) FROM PUBLIC;

CREATE FUNCTION run_ops.altering_server(store text, options jsonb) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('ALTER SERVER %I OPTIONS (%s);', s.server,
                string_agg(format('%s %s %L', CASE WHEN o.option_name IS NULL THEN 'ADD' ELSE 'SET' END, w.key, w.value), ', ' ORDER BY w.key DESC))
    FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server, jsonb_each_text(options) AS w
    LEFT JOIN pg_options_to_table(f.srvoptions) AS o ON o.option_name = w.key
   WHERE s.name = altering_server.store
   GROUP BY s.server
$$;
COMMENT ON FUNCTION run_ops.altering_server(text, jsonb) IS
  'the statement that sets options of the server of a store, whether it has them or not';

CREATE FUNCTION run_ops.altering_mapping(store text, options jsonb) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('%s USER MAPPING FOR %s SERVER %I OPTIONS (%s);', CASE WHEN m.umid IS NULL THEN 'CREATE' ELSE 'ALTER' END,
                CASE m.usename WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(coalesce(m.usename, current_user)) END, s.server,
                string_agg(concat_ws(' ', CASE WHEN m.umid IS NOT NULL THEN CASE WHEN o.option_name IS NULL THEN 'ADD' ELSE 'SET' END END,
                                     w.key, quote_literal(w.value)), ', ' ORDER BY w.key DESC))
    FROM run_ops.store AS s
    LEFT JOIN LATERAL (SELECT * FROM pg_user_mappings AS u WHERE u.srvname = s.server AND u.usename IN (current_user, 'public')
                        ORDER BY u.usename = 'public' LIMIT 1) AS m ON true,
         jsonb_each_text(options) AS w
    LEFT JOIN pg_options_to_table(m.umoptions) AS o ON o.option_name = w.key
   WHERE s.name = altering_mapping.store
   GROUP BY s.server, m.umid, m.usename
$$;
COMMENT ON FUNCTION run_ops.altering_mapping(text, jsonb) IS
  'the statement that sets options of the user mapping by which the current user reaches a store, whether it has them or not; creates it if there is none';

CREATE FUNCTION run_ops.replacing_server(store text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('Create a server of run_ops_fdw in its place: ALTER SERVER %1$I RENAME TO %2$I; CREATE SERVER %1$I FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (%3$s); %4$s', s.server,
                run_ops.spare_name(s.server, '_replaced', ARRAY(SELECT o.srvname FROM pg_foreign_server AS o)),
                (SELECT string_agg(format('%I %L', o.option_name, o.option_value), ', ') FROM pg_options_to_table(f.srvoptions) AS o
                  WHERE o.option_name NOT IN ('use_remote_estimate', 'async_capable')),
                concat_ws(' ',
                  (SELECT string_agg(format('CREATE USER MAPPING FOR %s SERVER %I%s;', CASE m.usename WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(m.usename) END, m.srvname, o.options),
                                     ' ' ORDER BY m.usename)
                     FROM pg_user_mappings AS m,
                          LATERAL (SELECT format(' OPTIONS (%s)', string_agg(format('%I %L', o.option_name,
                                            CASE WHEN o.option_name LIKE '%password' THEN '...' ELSE o.option_value END), ', '))
                                     FROM pg_options_to_table(m.umoptions) AS o HAVING count(*) > 0
                                   UNION ALL SELECT '' WHERE m.umoptions IS NULL) AS o (options)
                    WHERE m.srvid = f.oid),
                  'SELECT run_ops.refresh_table(t.legacy) FROM run_ops.routed_table AS t;'))
    FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
   WHERE s.name = replacing_server.store AND w.fdwname <> 'run_ops_fdw'
$$;
COMMENT ON FUNCTION run_ops.replacing_server(text) IS
  'SQL that puts a server of run_ops_fdw in the place of a store''s server of another wrapper, with its options and user mappings but their passwords; NULL if it is one';

CREATE FUNCTION run_ops.attach_store(name text, server name) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  wrapper name;
  stranger name;
BEGIN
  IF name IS NULL OR name !~ '^[a-z0-9][a-z0-9_]{0,29}$' OR name ~ '^(legacy|leftovers|changes|repatriated)$' THEN
    RAISE EXCEPTION 'invalid store name %', coalesce(quote_ident(name), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'The name of a store consists of up to 30 characters of [a-z0-9_]. Ids name "new" and shards of one character, key rules any store. "legacy" is this database; leftovers, changes and repatriated are reserved.';
  END IF;
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.refuse_incomplete();
  IF EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = name) THEN
    RAISE EXCEPTION 'store "%" is already attached', name
      USING ERRCODE = 'duplicate_object', HINT = format('To detach it: SELECT run_ops.detach_store(%L);', name);
  END IF;
  IF EXISTS (SELECT FROM run_ops.store AS s WHERE s.server = server) THEN
    RAISE EXCEPTION 'server "%" is already attached as store "%"', server,
        (SELECT s.name FROM run_ops.store AS s WHERE s.server = server)
      USING ERRCODE = 'duplicate_object',
            DETAIL = 'Each store must be a separate database. Otherwise the views would show its rows twice.';
  END IF;
  SELECT w.fdwname INTO wrapper
    FROM pg_foreign_server AS f JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
   WHERE f.srvname = server;
  IF wrapper IS NULL THEN
    RAISE EXCEPTION 'server % does not exist', coalesce(quote_ident(server), 'NULL')
      USING ERRCODE = 'undefined_object',
            HINT = format('CREATE SERVER %s FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host ''...'', dbname ''...'');',
                          coalesce(quote_ident(server), '...'));
  END IF;
  IF wrapper <> 'run_ops_fdw' THEN
    RAISE EXCEPTION 'server "%" uses foreign-data wrapper "%"', server, wrapper
      USING ERRCODE = 'wrong_object_type',
            HINT = format('Drop the server, and create it again: CREATE SERVER %I FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (...). It takes the options of postgres_fdw.', server);
  END IF;
  SELECT r.rolname INTO stranger
    FROM pg_foreign_server AS f JOIN pg_roles AS r ON r.oid = f.srvowner
   WHERE f.srvname = server AND NOT r.rolsuper AND r.rolname <> current_user
     AND r.oid <> (SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'run_ops_split');
  IF FOUND THEN
    RAISE EXCEPTION 'server "%" is owned by role "%"', server, stranger
      USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'Its owner could lead the connections that are made with your user mapping, and their passwords, to another server.',
            HINT = format('ALTER SERVER %I OWNER TO %I;', server, current_user);
  END IF;
  IF NOT EXISTS (SELECT FROM pg_user_mappings AS m
                  WHERE m.srvname = server AND m.usename IN (current_user, 'public')) THEN
    RAISE EXCEPTION 'role "%" has no user mapping for server "%"', current_user, server
      USING ERRCODE = 'undefined_object',
            DETAIL = 'The views access the store with the user mapping of the role that attaches it.',
            HINT = format('CREATE USER MAPPING FOR %I SERVER %I OPTIONS (user ''...'', password ''...'');',
                          current_user, server);
  END IF;

  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.server IS NOT NULL) THEN
    PERFORM run_ops.bind_server();
  END IF;
  INSERT INTO run_ops.store VALUES (name, server);
  PERFORM run_ops.refuse_differences(format('store "%s" does not match this database', name),
    ARRAY(SELECT run_ops.database_differences(name)));
  IF run_ops.setting('cross_store_writes') = 'atomic' AND run_ops.prepares_at_most(name) = 0 THEN
    RAISE NOTICE 'store "%" cannot prepare transactions', name
      USING DETAIL = 'With run_ops_split.cross_store_writes = atomic, a transaction that writes there and in another database will fail.',
            HINT = 'Set max_prepared_transactions of the store, as many as its max_connections, and restart it.';
  END IF;
  PERFORM run_ops.make_own_schema(run_ops.foreign_schema(name));
  PERFORM run_ops.import_table(name, t) FROM run_ops.routed_table AS t;
  -- before the views are locked, because this asks the store
  PERFORM run_ops.refuse_unfit_store(name) WHERE run_ops.split_enabled();
  -- writers are kept out first, as by the switch: each of them would use several
  -- views, and be in a deadlock with this
  PERFORM run_ops.in_attempts('SELECT run_ops.block_writes(); '
    'SELECT run_ops.build_view(t, run_ops.split_enabled()) FROM run_ops.routed_table AS t ORDER BY t.view');
END $$;
COMMENT ON FUNCTION run_ops.attach_store(text, name) IS
  'registers a foreign server as store "new", as a shard, or as another store that key rules name, and compares encoding and collation first. The caller needs a user mapping for the server. While split is on, the gates of the store must hold.';
REVOKE EXECUTE ON FUNCTION run_ops.attach_store(text, name) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_while_split(doing text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF run_ops.split_enabled() THEN
    RAISE EXCEPTION 'cannot % while split is on', doing
      USING ERRCODE = 'object_in_use',
            DETAIL = 'The rows of the stores would disappear from the views.',
            HINT = 'Switch split off first, with run_ops.disable_split().';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_while_split(text) IS 'raises an error if split is on; the argument completes "cannot ..."';

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
      USING ERRCODE = 'undefined_object', HINT = 'SELECT name FROM run_ops.store WHERE server IS NOT NULL;';
  END IF;
  PERFORM run_ops.refuse_while_split(format('detach store "%s"', name));
  PERFORM run_ops.refuse_mint_shard(name);
  PERFORM run_ops.refuse_leftovers();  -- exist with split off only in a copy
  PERFORM run_ops.stop_tracking();
  FOR foreign_table IN
    DELETE FROM run_ops.routed_store AS r WHERE r.store = name RETURNING r.foreign_table
  LOOP
    IF run_ops.is_relation(foreign_table, '{f}') THEN
      EXECUTE format('DROP FOREIGN TABLE %s', foreign_table);
    END IF;
  END LOOP;
  EXECUTE format('DROP SCHEMA IF EXISTS %I', run_ops.foreign_schema(name));
  DELETE FROM run_ops.leftover AS l WHERE l.store = name;
  DELETE FROM run_ops.store AS s WHERE s.name = name;
END $$;
COMMENT ON FUNCTION run_ops.detach_store(text) IS
  'removes a store from the registry and drops its foreign tables, but does not change the store itself. Raises an error while split is on.';
REVOKE EXECUTE ON FUNCTION run_ops.detach_store(text) FROM PUBLIC;
