
-- routed_tables: attaching, refreshing and detaching the tables that exist in
-- every store and are reached through one view.

-- What is known of tables by their names.  A preset fills these tables, such as
-- that of the control plane.

CREATE TABLE run_ops.known_routing (
  legacy_table   name PRIMARY KEY,
  routing        run_ops.routing NOT NULL,
  route_column   name,
  store_table    name NOT NULL,
  column_names   jsonb NOT NULL,
  store_defaults jsonb NOT NULL,
  same_shape     name
);
COMMENT ON TABLE run_ops.known_routing IS
  'the routing of tables that are known by their names, which attach_table() uses for arguments that are not given';
COMMENT ON COLUMN run_ops.known_routing.legacy_table IS 'the name of the table in this database';
COMMENT ON COLUMN run_ops.known_routing.routing IS 'how the store of a row is found';
COMMENT ON COLUMN run_ops.known_routing.route_column IS 'the column that decides the store';
COMMENT ON COLUMN run_ops.known_routing.store_table IS 'the name of the table in the stores';
COMMENT ON COLUMN run_ops.known_routing.column_names IS 'the columns that have another name in the stores: {local name: name in the store}';
COMMENT ON COLUMN run_ops.known_routing.store_defaults IS 'the columns that only the stores have: {name in the store: SQL expression for the value}';
COMMENT ON COLUMN run_ops.known_routing.same_shape IS 'another column whose values have the shape of the id; NULL if there is none';

CREATE TABLE run_ops.known_anchor (
  column_name name PRIMARY KEY,
  ord         int NOT NULL
);
COMMENT ON TABLE run_ops.known_anchor IS
  'names of columns that usually have the id of the row to which a row belongs; attach_table() uses the first one that a table has, if nothing else is known';
COMMENT ON COLUMN run_ops.known_anchor.column_name IS 'the name of the column';
COMMENT ON COLUMN run_ops.known_anchor.ord IS 'the order in which the columns are looked for';

GRANT SELECT ON run_ops.known_routing, run_ops.known_anchor TO PUBLIC;

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
  'the columns that identify a row: the primary key, otherwise the smallest unique index on columns that are NOT NULL; NULL if there is none';

CREATE FUNCTION run_ops.known_same_shape(t run_ops.routed_table) RETURNS name
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT k.same_shape
    FROM run_ops.known_routing AS k
    JOIN pg_class AS c ON c.relname = k.legacy_table
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = k.same_shape AND a.attnum > 0
     AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)
   WHERE c.oid = t.legacy AND k.routing = t.routing AND k.route_column = t.route_column
$$;
COMMENT ON FUNCTION run_ops.known_same_shape(run_ops.routed_table) IS
  'the column that has the shape of the id according to run_ops.known_routing; NULL if the table has none';

CREATE FUNCTION run_ops.heirs(legacy regclass) RETURNS SETOF regclass
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT i.inhrelid::regclass FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
   WHERE i.inhparent = heirs.legacy AND NOT c.relispartition ORDER BY c.relname COLLATE "C"
$$;
COMMENT ON FUNCTION run_ops.heirs(regclass) IS
  'the tables that inherit from a local table and are no partitions of it: they have neither its key nor the triggers of this extension';

CREATE FUNCTION run_ops.parts(relation regclass) RETURNS SETOF regclass
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- pg_partition_tree() has no row for a table that is not partitioned
  SELECT relation UNION SELECT p.relid FROM pg_partition_tree(relation) AS p
$$;
COMMENT ON FUNCTION run_ops.parts(regclass) IS 'a table and its partitions';

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
    RAISE EXCEPTION '% cannot be a routed table', coalesce(legacy::text, 'NULL')
      USING ERRCODE = 'wrong_object_type', DETAIL = 'A routed table must be an ordinary or partitioned table of this database, and not temporary.';
  END IF;
  SELECT * INTO known FROM run_ops.known_routing AS k WHERE k.legacy_table = c.relname;
  t.legacy := legacy;
  t.routing := coalesce(routing, known.routing);
  t.route_column := CASE WHEN t.routing <> 'store' THEN coalesce(route_column,
    CASE WHEN t.routing = known.routing THEN known.route_column WHEN t.routing = 'shape' THEN 'id' END) END;
  IF t.routing IS NULL THEN
    SELECT 'anchor', a.attname INTO t.routing, t.route_column
      FROM run_ops.known_anchor AS anchor
      JOIN pg_attribute AS a ON a.attname = anchor.column_name AND a.attrelid = legacy
           AND a.attnotnull AND NOT a.attisdropped AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)
     ORDER BY anchor.ord LIMIT 1;
  END IF;
  t.key_columns := run_ops.key_of(legacy);
  t.store_schema := coalesce(store_schema,
    (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = c.relnamespace));
  t.store_table := coalesce(store_table, known.store_table, c.relname);
  t.column_names := coalesce(column_names, known.column_names, '{}');
  t.store_defaults := coalesce(store_defaults, known.store_defaults, '{}');
  t.same_shape := run_ops.known_same_shape(t);
  RETURN t;
END $$;
COMMENT ON FUNCTION run_ops.propose_routing(regclass, run_ops.routing, name, name, name, jsonb, jsonb) IS
  'the row that attach_table() would register: from the arguments, otherwise from run_ops.known_routing, otherwise with an anchor column that is found by its name. routing is NULL if none of these is known.';

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
  'raises one error with all differences of these tables in these stores, if there are any';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_table_differences(run_ops.routed_table[], text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.key_option(t run_ops.routed_table) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.ord) FROM unnest(t.key_columns) WITH ORDINALITY AS k (name, ord)
$$;
COMMENT ON FUNCTION run_ops.key_option(run_ops.routed_table) IS 'the option key of the foreign tables of a routed table';

CREATE FUNCTION run_ops.import_table(store text, t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  foreign_table text := format('%I.%I', run_ops.foreign_schema(store), t.store_table);
  store_server  name := (SELECT s.server FROM run_ops.store AS s WHERE s.name = store);
  item          record;
BEGIN
  PERFORM run_ops.refuse_table_differences(ARRAY[t], ARRAY[store]);
  PERFORM run_ops.refuse_unproven_shape(t, store);
  PERFORM run_ops.make_own_schema(run_ops.foreign_schema(store));
  -- A restored schema without its registry, or DROP EXTENSION, has left a foreign
  -- table.  Its view may be a union that reads it.
  IF run_ops.is_relation(to_regclass(foreign_table), '{f}') THEN
    PERFORM run_ops.build_view(t, false);
    EXECUTE format('DROP FOREIGN TABLE %s', foreign_table);
  END IF;
  EXECUTE format('IMPORT FOREIGN SCHEMA %I LIMIT TO (%I) FROM SERVER %I INTO %I OPTIONS (import_default ''true'', import_generated ''false'')',
                 t.store_schema, t.store_table, store_server, run_ops.foreign_schema(store));
  FOR item IN SELECT * FROM jsonb_each_text(t.column_names) LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s RENAME COLUMN %I TO %I', foreign_table, item.value, item.key);
  END LOOP;
  FOR item IN SELECT * FROM jsonb_each_text(t.store_defaults) LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s ALTER COLUMN %I SET DEFAULT %s', foreign_table, item.key, item.value);
  END LOOP;
  -- A generated column of the store must be a generated column of the foreign
  -- table as well; otherwise INSERT would write it.  Its expression is not
  -- copied: PostgreSQL would evaluate constant parts of it now, as the current
  -- user, with functions that the owner of the table has chosen.  The store
  -- computes the value.
  FOR item IN
    SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, o.option_value AS store_name,
           (SELECT format('COLLATE %I.%I', n.nspname, l.collname)
              FROM pg_type AS y, pg_collation AS l JOIN pg_namespace AS n ON n.oid = l.collnamespace
             WHERE y.oid = a.atttypid AND l.oid = a.attcollation AND y.typcollation <> a.attcollation) AS collation
      FROM run_ops.ask_store(store, format(
             'SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = %L::regclass AND a.attgenerated <> %L AND NOT a.attisdropped',
             format('%I.%I', t.store_schema, t.store_table), '')) AS answer
      JOIN pg_attribute AS a ON a.attrelid = foreign_table::regclass AND a.attnum > 0
      JOIN LATERAL pg_options_to_table(a.attfdwoptions) AS o ON o.option_name = 'column_name' AND o.option_value = answer ->> 'attname'
  LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s DROP COLUMN %I, ADD COLUMN %2$I %s OPTIONS (column_name %L) %s GENERATED ALWAYS AS (NULL) STORED',
                   foreign_table, item.name, item.type, item.store_name, item.collation);
  END LOOP;
  -- rows are sent to the store in batches, unless the server has its own setting
  IF NOT EXISTS (SELECT FROM pg_foreign_server AS f, unnest(f.srvoptions) AS o
                  WHERE f.srvname = store_server AND o LIKE 'batch_size=%') THEN
    EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (ADD batch_size ''1000'')', foreign_table);
  END IF;
  -- the planner must know which columns are indexed in the store: the first
  -- column of each index
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
  EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (ADD key %L)', foreign_table, run_ops.key_option(t));
  INSERT INTO run_ops.routed_store VALUES (t.view, store, foreign_table::regclass);
  PERFORM run_ops.mark_orders(store);
END $$;
COMMENT ON FUNCTION run_ops.import_table(text, run_ops.routed_table) IS
  'creates the foreign table of a routed table in one store, and compares both sides first';
REVOKE EXECUTE ON FUNCTION run_ops.import_table(text, run_ops.routed_table) FROM PUBLIC;

-- A trigger of this extension is recognized by its function, never by its name
-- alone.

CREATE FUNCTION run_ops.refuse_taken_names(relation regclass, names name[]) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  taken record;
BEGIN
  -- PostgreSQL creates a trigger of a partitioned table in each partition
  SELECT g.tgname AS name, g.tgrelid::regclass AS place INTO taken
    FROM pg_trigger AS g
   WHERE g.tgrelid IN (SELECT * FROM run_ops.parts(relation))
     AND g.tgname = ANY (names)
     AND NOT EXISTS (SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
                      WHERE d.classid = 'pg_proc'::regclass AND d.objid = g.tgfoid AND d.refclassid = 'pg_extension'::regclass
                        AND d.deptype IN ('e', 'x') AND e.extname = 'run_ops_split')
   ORDER BY g.tgname, g.tgrelid LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'trigger "%" of % has a name that run_ops_split needs', taken.name, taken.place
      USING ERRCODE = 'duplicate_object', DETAIL = 'run_ops_split must create a trigger of this name, and this one is not its own.',
            HINT = format('ALTER TRIGGER %I ON %s RENAME TO %I;', taken.name, taken.place,
                          run_ops.spare_name(taken.name, '_of_others', ARRAY(SELECT g.tgname FROM pg_trigger AS g)));
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_taken_names(regclass, name[]) IS
  'raises an error if a relation has a trigger with one of these names that does not belong to this extension';

CREATE FUNCTION run_ops.refuse_taken_names(t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.refuse_taken_names(t.legacy, '{run_ops_write_lock,run_ops_changes,~run_ops_unique,0_run_ops_refers,0_run_ops_referred}');
  PERFORM run_ops.refuse_taken_names(t.view,
    '{run_ops_begin,run_ops_route,run_ops_write,run_ops_replica_begin,run_ops_replica_route,run_ops_replica_write}');
  IF EXISTS (SELECT FROM pg_rewrite AS w WHERE w.ev_class = t.view AND w.rulename = 'refuse_on_conflict') AND NOT run_ops.has_union_rule(t.view) THEN
    RAISE EXCEPTION 'rule "refuse_on_conflict" of % has a name that run_ops_split needs', t.view
      USING ERRCODE = 'duplicate_object', DETAIL = 'run_ops_split must create a rule of this name, and this one is not its own.',
            HINT = format('ALTER RULE refuse_on_conflict ON %s RENAME TO %I;', t.view,
                          run_ops.spare_name('refuse_on_conflict', '_of_others', ARRAY(SELECT w.rulename FROM pg_rewrite AS w)));
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_taken_names(run_ops.routed_table) IS
  'raises an error if a trigger or rule of somebody else has a name that a routed table needs';

CREATE FUNCTION run_ops.refuse_unroutable(t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  missing text;
BEGIN
  PERFORM run_ops.refuse_taken_names(t);
  IF t.routing IS NULL THEN
    RAISE EXCEPTION 'no routing is known for table %', t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Specify routing => ''shape'', or ''anchor'' with route_column, or ''store''.';
  ELSIF t.routing = 'anchor' AND t.route_column IS NULL THEN
    RAISE EXCEPTION 'routing "anchor" of table % needs a route_column', t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'The route column has the id of the run or batch that the row belongs to.';
  ELSIF t.key_columns IS NULL THEN
    RAISE EXCEPTION 'table % has no key', t.legacy
      USING ERRCODE = 'invalid_table_definition',
            DETAIL = 'A routed table needs a primary key, or a unique index on columns that are NOT NULL.';
  ELSIF t.routing = 'shape' AND t.key_columns <> ARRAY[t.route_column] THEN
    RAISE EXCEPTION 'routing "shape" of table % needs column "%" as its key', t.legacy, t.route_column
      USING ERRCODE = 'invalid_table_definition',
            DETAIL = format('Its key is (%s).', (SELECT string_agg(quote_ident(k), ', ') FROM unnest(t.key_columns) AS k));
  ELSIF t.route_column IS NOT NULL AND NOT EXISTS (
      SELECT FROM pg_attribute AS a
       WHERE a.attrelid = t.legacy AND a.attname = t.route_column AND a.attnum > 0
         AND (t.key_rule IS NOT NULL OR a.atttypid IN ('text'::regtype, 'varchar'::regtype))) THEN
    RAISE EXCEPTION 'table % has no text column "%"', t.legacy, t.route_column
      USING ERRCODE = 'undefined_column', DETAIL = 'Without a key rule, the route column must be of type text or varchar.',
            HINT = 'For ids of other types, specify key_rule, a function that names the store of an id.';
  ELSIF t.key_rule IS NOT NULL AND NOT EXISTS (
      SELECT FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid
       WHERE a.attrelid = t.legacy AND a.attname = t.route_column AND a.attnotnull
         AND CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype,
               'uuid'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bytea'::regtype)) THEN
    RAISE EXCEPTION 'column "%" of table % cannot have a key rule', t.route_column, t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'It must be NOT NULL, and of type text, varchar, char, uuid, smallint, int, bigint or bytea, or of a domain over one of these.';
  ELSIF t.same_shape IS NOT NULL AND (t.route_column IS NULL OR t.same_shape = t.route_column) THEN
    RAISE EXCEPTION 'column "%" of table % cannot be declared to have the shape of the id', t.same_shape, t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = CASE WHEN t.route_column IS NULL THEN 'With routing "store", the shape of an id does not tell the store.'
                          ELSE 'It is the id itself.' END;
  ELSIF t.same_shape IS NOT NULL AND NOT EXISTS (
      SELECT FROM pg_attribute AS a
       WHERE a.attrelid = t.legacy AND a.attname = t.same_shape AND a.attnum > 0
         AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)) THEN
    RAISE EXCEPTION 'table % has no text column "%"', t.legacy, t.same_shape
      USING ERRCODE = 'undefined_column', DETAIL = 'A column with the shape of the id must be of type text or varchar.';
  END IF;
  SELECT string_agg(quote_ident(m.name), ', ') INTO missing
    FROM jsonb_object_keys(t.column_names) AS m (name)
   WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = t.legacy AND a.attname = m.name AND a.attnum > 0);
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'column_names of table % names columns that it does not have: %', t.legacy, missing
      USING ERRCODE = 'undefined_column',
            DETAIL = 'column_names maps column names of this table to column names in the store.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_unroutable(run_ops.routed_table) IS
  'raises an error if a table cannot have this routing';

CREATE FUNCTION run_ops.hidden_names(schema oid) RETURNS TABLE (object text, hidden_by text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- a composite type has an entry in pg_class as well
  WITH own AS (
    SELECT d.classid, d.objid FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
     WHERE e.extname = 'run_ops_split' AND d.deptype = 'e')
  SELECT format('%I.%I', n.nspname, c.relname), format('%s of run_ops_split', o.oid::regclass)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_class AS o ON o.relname = c.relname AND o.relkind IN ('r', 'v', 'S', 'c')
   WHERE n.oid = hidden_names.schema AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
     AND (('pg_class'::regclass, o.oid) IN (SELECT * FROM own) OR ('pg_type'::regclass, o.reltype) IN (SELECT * FROM own))
  UNION ALL
  SELECT format('%I.%I', n.nspname, y.typname), format('type %s of run_ops_split', o.oid::regtype)
    FROM pg_type AS y JOIN pg_namespace AS n ON n.oid = y.typnamespace JOIN pg_type AS o ON o.typname = y.typname AND o.typelem = 0
   WHERE n.oid = hidden_names.schema AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = y.typrelid AND c.relkind <> 'c')
     AND (('pg_type'::regclass, o.oid) IN (SELECT * FROM own) OR ('pg_class'::regclass, o.typrelid) IN (SELECT * FROM own))
  UNION ALL
  -- a call with literals may mean a function whose types are only similar
  SELECT p.oid::regprocedure::text, format('function %s of run_ops_split', o.oid::regprocedure)
    FROM pg_proc AS p JOIN pg_proc AS o ON o.proname = p.proname AND o.pronargs = p.pronargs
   WHERE p.pronamespace = hidden_names.schema AND ('pg_proc'::regclass, o.oid) IN (SELECT * FROM own)
     AND NOT EXISTS (SELECT FROM unnest(p.proargtypes, o.proargtypes) AS u (theirs, ours) JOIN pg_type AS t ON t.oid = u.theirs JOIN pg_type AS x ON x.oid = u.ours
                      WHERE t.typcategory <> x.typcategory)
$$;
COMMENT ON FUNCTION run_ops.hidden_names(oid) IS
  'tables, types and functions of a schema that have the name of one in schema run_ops, which stands in front of them if search_path has that schema first';

CREATE FUNCTION run_ops.preload_statement() RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('ALTER DATABASE %I SET session_preload_libraries = %s', current_database(),
                concat_ws(', ', (SELECT string_agg(quote_literal(trim(BOTH '" ' FROM l.name)), ', ' ORDER BY l.ord)
                                   FROM unnest(string_to_array(p.libraries, ',')) WITH ORDINALITY AS l (name, ord)
                                  WHERE trim(BOTH '" ' FROM l.name) <> ''), quote_literal('run_ops_split')))
    FROM (SELECT coalesce((SELECT substr(c, length('session_preload_libraries=') + 1)
                             FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c
                            WHERE s.setdatabase = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
                              AND s.setrole = 0 AND c LIKE 'session\_preload\_libraries=%'),
                          -- superusers and members of pg_read_all_settings see it
                          (SELECT g.reset_val FROM pg_settings AS g WHERE g.name = 'session_preload_libraries'))) AS p (libraries)
   WHERE concat_ws(',', p.libraries, (SELECT g.setting FROM pg_settings AS g WHERE g.name = 'shared_preload_libraries')) !~ '\mrun_ops_split\M'
$$;
COMMENT ON FUNCTION run_ops.preload_statement() IS
  'the statement by which new sessions of this database load the library from their start; NULL if they do';

CREATE FUNCTION run_ops.preload() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  statement text := run_ops.preload_statement();
BEGIN
  IF statement IS NOT NULL THEN
    EXECUTE statement;
  END IF;
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$;
COMMENT ON FUNCTION run_ops.preload() IS
  'lets new sessions of this database load the library from their start; without the right to do so, nothing happens, and the gate preload says it';
REVOKE EXECUTE ON FUNCTION run_ops.preload() FROM PUBLIC;

CREATE FUNCTION run_ops.with_key_rule(t run_ops.routed_table, rule regprocedure) RETURNS run_ops.routed_table
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  column_type regtype := run_ops.column_type(t.legacy, t.route_column);
  unknown     text;
BEGIN
  IF t.route_column IS NULL THEN
    RAISE EXCEPTION 'a key rule needs a column of table %', t.legacy
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Specify routing => ''shape'', or ''anchor'' with route_column.';
  END IF;
  t.key_rule := run_ops.rule_expression(rule, column_type);
  t.same_shape := NULL;
  -- what the rule has as constants, and what it says of rows: of all, or of some of a large table
  SELECT string_agg(DISTINCT quote_literal(a.name), ', ') INTO unknown
    FROM (SELECT unnest(run_ops.rule_names(t.key_rule, column_type))
          UNION
          SELECT q.name FROM run_ops.as_owner(t.legacy, format('SELECT DISTINCT coalesce(%s, ''legacy'') FROM (SELECT %I FROM %s LIMIT 100000) AS x',
             run_ops.names_store(t, format('x.%I', t.route_column)), t.route_column, t.legacy)) AS q (name text)) AS a (name)
   WHERE NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = a.name);
  IF unknown IS NOT NULL THEN
    RAISE EXCEPTION 'key rule % names stores that are not attached', rule
      USING ERRCODE = 'undefined_object', DETAIL = format('It names %s.', unknown),
            HINT = 'Attach them first, with run_ops.attach_store().';
  END IF;
  RETURN t;
END $$;
COMMENT ON FUNCTION run_ops.with_key_rule(run_ops.routed_table, regprocedure) IS
  'the row of run_ops.routed_table with the expression of this function as its rule; raises an error if the function cannot be one, or names a store that is not attached for an existing row';
REVOKE EXECUTE ON FUNCTION run_ops.with_key_rule(run_ops.routed_table, regprocedure) FROM PUBLIC;

CREATE FUNCTION run_ops.copy_privileges(of regclass, relation regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  granted record;
BEGIN
  FOR granted IN
    SELECT format('GRANT USAGE ON SCHEMA %I TO %s', n.nspname, r.grantee) AS usage,
           format('GRANT %s%s ON %s TO %s%s', a.privilege_type, ' (' || quote_ident(a.attname) || ')', relation, r.grantee,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END) AS command
      FROM (SELECT c.relowner, NULL::name AS attname, x.* FROM pg_class AS c, aclexplode(c.relacl) AS x WHERE c.oid = copy_privileges.of
            UNION ALL
            SELECT c.relowner, t.attname, x.* FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid, aclexplode(t.attacl) AS x
             WHERE c.oid = copy_privileges.of AND t.attnum > 0
               AND EXISTS (SELECT FROM pg_attribute AS b WHERE b.attrelid = relation AND b.attname = t.attname)) AS a,
           (pg_class AS v JOIN pg_namespace AS n ON n.oid = v.relnamespace),
           LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END) AS r (grantee)
     WHERE v.oid = relation AND a.grantee <> a.relowner AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
  LOOP
    EXECUTE granted.usage;
    EXECUTE granted.command;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.copy_privileges(regclass, regclass) IS
  'grants the privileges that roles have on one relation or its columns on another relation as well, with USAGE of its schema';
REVOKE EXECUTE ON FUNCTION run_ops.copy_privileges(regclass, regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.create_view(t run_ops.routed_table) RETURNS regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  taken regclass := to_regclass(t.view_name);
BEGIN
  -- A view that DROP EXTENSION or a restored schema has left is used again.  Its
  -- definition is not lost: it is one of the two that every routed table has.
  IF taken IS NOT NULL AND NOT EXISTS (
       SELECT FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner
        WHERE c.oid = taken AND c.relkind = 'v' AND (r.rolsuper OR r.rolname = current_user)
          AND NOT EXISTS (SELECT FROM run_ops.routed_table AS o WHERE o.view = c.oid)
          AND (run_ops.has_union_rule(c.oid) OR obj_description(c.oid, 'pg_class') = run_ops.view_comment(t, false))) THEN
    RAISE EXCEPTION 'relation % already exists', t.view_name
      USING ERRCODE = 'duplicate_table',
            HINT = CASE WHEN t.view IS NULL THEN 'Specify another view_schema or view_name for the view, or drop or rename the relation.'
                        ELSE format('ALTER TABLE %s RENAME TO %I;', taken, run_ops.spare_name((parse_ident(t.view_name))[2], '_of_others',
                               ARRAY(SELECT c.relname FROM pg_class AS c UNION SELECT y.typname FROM pg_type AS y))) END;
  END IF;
  -- its schema may be gone, too
  IF taken IS NULL AND t.view IS NOT NULL AND NOT EXISTS (SELECT FROM pg_namespace AS n WHERE n.nspname = (parse_ident(t.view_name))[1]) THEN
    EXECUTE format('CREATE SCHEMA %I', (parse_ident(t.view_name))[1]);
  END IF;
  EXECUTE format('CREATE OR REPLACE VIEW %s AS %s', t.view_name, run_ops.view_query(t, false));
  -- roles with privileges on the table get the same privileges on the view
  PERFORM run_ops.copy_privileges(t.legacy, t.view_name::regclass);
  RETURN t.view_name::regclass;
END $$;
COMMENT ON FUNCTION run_ops.create_view(run_ops.routed_table) IS
  'creates the view of a routed table with its definition for split off, or takes over one that the extension has created before';
REVOKE EXECUTE ON FUNCTION run_ops.create_view(run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.has_more_columns(t run_ops.routed_table) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT (SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = t.view AND a.attnum > 0)
       > (SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = t.legacy AND a.attnum > 0 AND NOT a.attisdropped)
$$;
COMMENT ON FUNCTION run_ops.has_more_columns(run_ops.routed_table) IS 'whether somebody has added columns to the view of a routed table';

CREATE FUNCTION run_ops.create_dropped_view(t run_ops.routed_table) RETURNS run_ops.routed_table
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  dropped  regclass := t.view;
  is_wide  boolean := run_ops.has_more_columns(t);
  kept     record;
  users    text;
  command  text;
BEGIN
  IF is_wide OR NOT run_ops.is_relation(dropped, '{v}') THEN
    IF is_wide THEN  -- CREATE OR REPLACE VIEW cannot drop a column
      SELECT c.*, r.rolname, obj_description(c.oid, 'pg_class') AS comment INTO kept
        FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner WHERE c.oid = dropped;
      t.view_name := dropped::text;
      EXECUTE format('ALTER VIEW %s RENAME TO %I', dropped, 'replaced_' || dropped::oid);
    END IF;
    t.view := run_ops.create_view(t);
    UPDATE run_ops.routed_table AS r SET view = t.view WHERE r.view = dropped;
    UPDATE run_ops.routed_store AS r SET view = t.view WHERE r.view = dropped;
    UPDATE run_ops.leftover AS l SET view = t.view WHERE l.view = dropped;
    IF is_wide THEN
      PERFORM run_ops.copy_privileges(dropped, t.view);
      IF kept.reloptions IS NOT NULL THEN
        EXECUTE format('ALTER VIEW %s SET (%s)', t.view, array_to_string(kept.reloptions, ', '));
      END IF;
      EXECUTE format('COMMENT ON VIEW %s IS %L', t.view, kept.comment);
      FOR command IN
        SELECT c.command
          FROM pg_attribute AS a JOIN pg_attribute AS n ON n.attrelid = t.view AND n.attname = a.attname AND n.attnum > 0
          LEFT JOIN run_ops.view_default AS o ON o.view = dropped AND o."position" = a.attnum,
               unnest(ARRAY[
                 'ALTER VIEW %1$s ALTER COLUMN %2$I SET DEFAULT ' || replace(nullif(run_ops.default_of(dropped, a.attnum), o.expression), '%', '%%'),
                 'COMMENT ON COLUMN %1$s.%2$I IS ' || replace(quote_literal(col_description(dropped, a.attnum)), '%', '%%')]) AS f (pattern),
               LATERAL format(f.pattern, t.view, a.attname) AS c (command)
         WHERE a.attrelid = dropped AND a.attnum > 0 AND f.pattern IS NOT NULL
      LOOP
        EXECUTE command;
      END LOOP;
      EXECUTE format('ALTER VIEW %s OWNER TO %I', t.view, kept.rolname);
      BEGIN
        EXECUTE format('DROP VIEW %s', dropped);
      EXCEPTION WHEN dependent_objects_still_exist THEN
        GET STACKED DIAGNOSTICS users = PG_EXCEPTION_DETAIL;
        RAISE EXCEPTION 'somebody has added columns to view %, and other objects depend on it', t.view
          USING ERRCODE = 'dependent_objects_still_exist', DETAIL = replace(users, dropped::text, t.view::text),
                HINT = format('The view must be dropped and created again. Drop these objects, then: SELECT run_ops.refresh_table(%L);', t.view);
      END;
    END IF;
    DELETE FROM run_ops.view_default AS o WHERE o.view = dropped;
    -- the changes that were tracked so far have the old OID
    UPDATE run_ops.change_tracking SET forward = NULL;
    UPDATE run_ops.copy_progress SET finished = false, position = NULL;
  END IF;
  RETURN t;
END $$;
COMMENT ON FUNCTION run_ops.create_dropped_view(run_ops.routed_table) IS
  'creates the view of a routed table again if it was dropped, or if somebody has added columns to it, and returns the routed table with the new view';
REVOKE EXECUTE ON FUNCTION run_ops.create_dropped_view(run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.attach_table(
    legacy         regclass,
    routing        run_ops.routing DEFAULT NULL,
    route_column   name DEFAULT NULL,
    store_schema   name DEFAULT NULL,
    store_table    name DEFAULT NULL,
    column_names   jsonb DEFAULT NULL,
    store_defaults jsonb DEFAULT NULL,
    view_schema    name DEFAULT 'run_ops',
    view_name      name DEFAULT NULL,
    same_shape     name DEFAULT NULL,
    key_rule       regprocedure DEFAULT NULL)
  RETURNS regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t           run_ops.routed_table;
  store       text;
  strays      bigint;
  hidden      text;
BEGIN
  t := run_ops.propose_routing(legacy, routing, route_column, store_schema, store_table,
                               column_names, store_defaults);
  t.same_shape := coalesce(same_shape, t.same_shape);
  IF key_rule IS NOT NULL THEN
    IF same_shape IS NOT NULL THEN
      RAISE EXCEPTION 'same_shape and key_rule exclude each other'
        USING ERRCODE = 'invalid_parameter_value', DETAIL = 'With a key rule, the shape of an id does not tell the store.';
    END IF;
    t := run_ops.with_key_rule(t, key_rule);
  END IF;
  PERFORM run_ops.refuse_unroutable(t);
  PERFORM run_ops.lock_registry();
  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.server IS NOT NULL) THEN
    RAISE EXCEPTION 'no store is attached'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SELECT run_ops.attach_store(''new'', ''...'');';
  END IF;
  IF EXISTS (SELECT FROM run_ops.routed_table AS r WHERE r.legacy = legacy) THEN
    RAISE EXCEPTION 'table % is already a routed table', legacy
      USING ERRCODE = 'duplicate_object',
            HINT = format('After a migration: SELECT run_ops.refresh_table(%L);', legacy);
  END IF;
  t.view_name := format('%I.%I', view_schema,
    coalesce(view_name, (SELECT c.relname FROM pg_class AS c WHERE c.oid = legacy)));
  -- what known_routing says is declared now if it is proven already
  IF same_shape IS NULL AND EXISTS (SELECT FROM run_ops.store AS s, LATERAL run_ops.unproven_same_shape(t, s.name)) THEN
    t.same_shape := NULL;
  END IF;
  PERFORM run_ops.refuse_unproven_shape(t, 'legacy');
  t.view := run_ops.create_view(t);
  INSERT INTO run_ops.routed_table SELECT t.*;
  FOR store IN SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL ORDER BY s.name LOOP
    PERFORM run_ops.import_table(store, t);
  END LOOP;
  PERFORM run_ops.build_view(t, run_ops.split_enabled());
  -- the write lock exists by now, so that no stray can be added after the count
  IF run_ops.split_enabled() AND t.routing <> 'store' THEN
    strays := (SELECT a.n FROM run_ops.as_owner(legacy,
      format('SELECT count(*) FROM %s AS x WHERE NOT %s', legacy, run_ops.in_store(t, format('x.%I', t.route_column), 'legacy'))) AS a (n bigint));
    IF strays > 0 THEN
      RAISE EXCEPTION 'table % has rows that belong to a store', legacy
        USING ERRCODE = 'object_not_in_prerequisite_state',
              DETAIL = format('%s rows would disappear from the view: those WHERE NOT %s.', strays, run_ops.in_store(t, quote_ident(t.route_column), 'legacy')),
              HINT = 'Move these rows to the store yourself. Or switch split off with run_ops.repatriate() and run_ops.disable_split(repatriated => true), attach the table, and enable split again, which moves them.';
    END IF;
  END IF;

  IF (SELECT c.relrowsecurity FROM pg_class AS c WHERE c.oid = legacy) THEN
    RAISE WARNING 'row security policies of table % do not apply to the users of view %', legacy, t.view_name
      USING DETAIL = format('The view accesses the table as role %I.', current_user),
            HINT = format('From PostgreSQL 15 on: ALTER VIEW %s SET (security_invoker = true); callers then need privileges on the tables of the view, and a user mapping.', t.view_name);
  END IF;
  PERFORM run_ops.preload();
  IF view_schema = 'run_ops' AND NOT EXISTS (SELECT FROM run_ops.routed_table AS r JOIN pg_class AS v ON v.oid = r.view
                                              WHERE r.view <> t.view AND v.relnamespace = 'run_ops'::regnamespace) THEN
    FOR hidden IN SELECT string_agg(h.object, ', ' ORDER BY h.object) FROM pg_class AS c, run_ops.hidden_names(c.relnamespace) AS h
                   WHERE c.oid = legacy HAVING count(*) > 0 LOOP
      RAISE WARNING 'tables, types or functions of run_ops_split have names of the application'
        USING DETAIL = format('Where search_path has schema run_ops first, they stand in front of: %s.', hidden),
              HINT = 'Attach the tables with a view_schema that holds nothing but the views.';
    END LOOP;
  END IF;
  RETURN t.view;
END $$;
COMMENT ON FUNCTION run_ops.attach_table(regclass, run_ops.routing, name, name, name, jsonb, jsonb, name, name, name, regprocedure) IS
  'creates a view for a table, with the same name and columns, through which the rows of all stores are reached. Compares the table with its copy in every store first. Arguments that are not given are taken from run_ops.known_routing.';
REVOKE EXECUTE ON FUNCTION run_ops.attach_table(regclass, run_ops.routing, name, name, name, jsonb, jsonb, name, name, name, regprocedure) FROM PUBLIC;

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
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SELECT run_ops.attach_store(''new'', ''...'');';
  END IF;
  SELECT array_agg(DISTINCT a.answer ->> 'relname') INTO in_stores
    FROM run_ops.ask_stores(stores, ARRAY[format(
      'SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace '
      'WHERE n.nspname = %L AND c.relkind IN (''r'', ''p'')', coalesce(store_schema, legacy_schema))]) AS a;
  SELECT array_agg(p ORDER BY c.relname) INTO tables
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace,
         LATERAL run_ops.propose_routing(c.oid, NULL, NULL, store_schema, NULL, NULL, NULL) AS p
   WHERE n.nspname = legacy_schema AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     AND c.relpersistence <> 't' AND p.store_table = ANY (in_stores)
     AND NOT EXISTS (SELECT FROM run_ops.routed_table AS r WHERE r.legacy = c.oid);
  FOREACH t IN ARRAY coalesce(tables, '{}') LOOP
    IF t.routing IS NULL THEN
      RAISE NOTICE 'table % is not attached', t.legacy
        USING DETAIL = 'It exists in this database and in a store, but its routing is not known.',
              HINT = format('SELECT run_ops.attach_table(%L, routing => ''...'', route_column => ''...'');', t.legacy);
      tables := array_remove(tables, t);
    ELSE
      PERFORM run_ops.refuse_unroutable(t);
    END IF;
  END LOOP;
  -- reports all differences of all tables in one error, before the first view is created
  PERFORM run_ops.refuse_table_differences(coalesce(tables, '{}'), stores);
  FOREACH t IN ARRAY coalesce(tables, '{}') LOOP
    t.view := run_ops.attach_table(t.legacy, t.routing, t.route_column, t.store_schema,
      t.store_table, t.column_names, t.store_defaults, view_schema);
    RETURN NEXT run_ops.routed(t.view);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.attach_all_tables(name, name, name) IS
  'attaches every table of the schema that also exists in a store and is not a routed table yet; returns the tables it attached';
REVOKE EXECUTE ON FUNCTION run_ops.attach_all_tables(name, name, name) FROM PUBLIC;

CREATE FUNCTION run_ops.attempt_refresh(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t       run_ops.routed_table;
  old     run_ops.routed_store[];
  store   text;
  names   jsonb;
  renamed record;
  granted record;
BEGIN
  t := run_ops.routed(view);
  PERFORM run_ops.refuse_without_table(t);
  -- The triggers for leftovers are created anew in all tables.  Writers are kept out
  -- first, as by the switch: each of them uses several tables, and would be in a
  -- deadlock with this.
  PERFORM run_ops.block_writes() WHERE EXISTS (SELECT FROM run_ops.leftover);
  t := run_ops.create_dropped_view(t);
  -- Locks only the view, and before the foreign tables.  Queries lock them in
  -- the same order; another order could deadlock.
  EXECUTE format('ALTER VIEW %s OWNER TO %s', t.view, (SELECT c.relowner::regrole FROM pg_class AS c WHERE c.oid = t.view));
  -- A view keeps the name that a column had when the view was created, and so
  -- does the registry.
  names := (SELECT jsonb_object_agg(v.attname, l.attname)
              FROM (SELECT attname, row_number() OVER (ORDER BY attnum) AS n FROM pg_attribute
                     WHERE attrelid = t.view AND attnum > 0) AS v
              JOIN (SELECT attname, row_number() OVER (ORDER BY attnum) AS n FROM pg_attribute
                     WHERE attrelid = t.legacy AND attnum > 0 AND NOT attisdropped) AS l USING (n)
             WHERE v.attname <> l.attname);
  IF names IS NOT NULL THEN
    -- through temporary names, because two columns may have exchanged their names
    FOR renamed IN SELECT key AS old_name, format('run_ops renamed %s', row_number() OVER ()) AS between, value AS new_name
                     FROM jsonb_each_text(names) ORDER BY key LOOP
      EXECUTE format('ALTER VIEW %s RENAME COLUMN %I TO %I', t.view, renamed.old_name, renamed.between);
    END LOOP;
    FOR renamed IN SELECT format('run_ops renamed %s', row_number() OVER ()) AS between, value AS new_name
                     FROM jsonb_each_text(names) ORDER BY key LOOP
      EXECUTE format('ALTER VIEW %s RENAME COLUMN %I TO %I', t.view, renamed.between, renamed.new_name);
    END LOOP;
    UPDATE run_ops.routed_table AS r
       SET route_column = coalesce(names ->> r.route_column, r.route_column),
           same_shape = coalesce(names ->> r.same_shape, r.same_shape),
           key_columns = ARRAY(SELECT coalesce(names ->> k.name, k.name)::name FROM unnest(r.key_columns) WITH ORDINALITY AS k (name, ord) ORDER BY k.ord),
           column_names = (SELECT coalesce(jsonb_object_agg(coalesce(names ->> m.key, m.key), m.value), '{}') FROM jsonb_each(r.column_names) AS m)
     WHERE r.view = t.view
    RETURNING * INTO t;
  END IF;
  -- the view may still use the old foreign tables, so they are dropped after the
  -- new ones have replaced them
  WITH gone AS (DELETE FROM run_ops.routed_store AS r WHERE r.view = t.view RETURNING r.*)
  SELECT array_agg(g) INTO old FROM gone AS g WHERE run_ops.is_relation(g.foreign_table, '{f}');
  FOR i IN 1 .. coalesce(cardinality(old), 0) LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s RENAME TO %I', old[i].foreign_table, 'replaced_' || old[i].foreign_table::oid);
  END LOOP;
  FOR store IN SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL ORDER BY s.name LOOP
    PERFORM run_ops.import_table(store, t);
  END LOOP;
  PERFORM run_ops.build_view(t, run_ops.split_enabled());
  FOR i IN 1 .. coalesce(cardinality(old), 0) LOOP
    -- a view that has another owner, or security_invoker, needs privileges on them
    FOR granted IN
      SELECT r.foreign_table, a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, a.is_grantable
        FROM run_ops.routed_store AS r, pg_class AS c, aclexplode(c.relacl) AS a
       WHERE r.view = t.view AND r.store = old[i].store AND c.oid = old[i].foreign_table AND a.grantee <> c.relowner
    LOOP
      EXECUTE format('GRANT %s ON %s TO %s%s', granted.privilege_type, granted.foreign_table, granted.grantee,
                     CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' END);
    END LOOP;
    EXECUTE format('DROP FOREIGN TABLE %s', old[i].foreign_table);
  END LOOP;
  PERFORM run_ops.guard_leftovers() WHERE EXISTS (SELECT FROM run_ops.leftover);
END $$;
COMMENT ON FUNCTION run_ops.attempt_refresh(regclass) IS
  'one attempt of refresh_table(): creates new foreign tables, lets the view use them, and drops the old ones';
REVOKE EXECUTE ON FUNCTION run_ops.attempt_refresh(regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.refresh_table(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.in_attempts(format('SELECT run_ops.attempt_refresh(%L)', view));
END $$;
COMMENT ON FUNCTION run_ops.refresh_table(regclass) IS
  'updates the view and the foreign tables after a migration has added or renamed columns on all sides; the view keeps its privileges and dependent objects';
REVOKE EXECUTE ON FUNCTION run_ops.refresh_table(regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.detach_table(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t              run_ops.routed_table;
  foreign_tables regclass[];
  relation       regclass;
BEGIN
  PERFORM run_ops.lock_registry();
  t := run_ops.routed(view);
  -- without its table there is nothing to show, and there are no leftovers
  IF run_ops.is_relation(t.legacy, '{r,p}') THEN
    PERFORM run_ops.refuse_while_split(format('detach %s', t.view));
    PERFORM run_ops.refuse_leftovers();  -- exist with split off only in a copy
  END IF;
  WITH gone AS (DELETE FROM run_ops.routed_store AS r WHERE r.view = t.view RETURNING r.foreign_table)
  SELECT array_agg(g.foreign_table) INTO foreign_tables FROM gone AS g;
  DELETE FROM run_ops.leftover AS l WHERE l.view = t.view;
  DELETE FROM run_ops.view_default AS d WHERE d.view = t.view;
  DELETE FROM run_ops.routed_table AS r WHERE r.view = t.view;
  IF run_ops.is_relation(t.view, '{v}') THEN
    EXECUTE format('DROP VIEW %s', t.view);
  END IF;
  FOREACH relation IN ARRAY coalesce(foreign_tables, '{}') LOOP
    IF run_ops.is_relation(relation, '{f}') THEN
      EXECUTE format('DROP FOREIGN TABLE %s', relation);
    END IF;
  END LOOP;
  PERFORM run_ops.guard_leftovers() WHERE EXISTS (SELECT FROM run_ops.leftover);
END $$;
COMMENT ON FUNCTION run_ops.detach_table(regclass) IS
  'drops the view and the foreign tables of a routed table, but does not change the tables themselves. Raises an error while split is on.';
REVOKE EXECUTE ON FUNCTION run_ops.detach_table(regclass) FROM PUBLIC;
