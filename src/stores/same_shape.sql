
-- same_shape: a second column whose values have the shape of the id.
--
-- A run has the id <body> and the friendly id run_<body>.  So a lookup by the
-- friendly id needs only one store, as a lookup by the id does.  That is a claim
-- about rows, and if it were wrong for one row, a lookup would not find it.  So it
-- must be proven, and stay true whoever writes.  A validated CHECK constraint in
-- each database does both: for the store of that database, both columns must tell
-- the same.  A store does not have this extension, so its constraint consists of
-- built-in functions.

CREATE FUNCTION run_ops.same_shape_condition(t run_ops.routed_table, store text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(CASE WHEN store = 'legacy' THEN format('run_ops.resides(%I, ''legacy'')', c.name)
                         ELSE format('(%I IS NOT NULL AND (%s))', c.store_name, coalesce(run_ops.residency_condition(quote_ident(c.store_name), store), 'false')) END,
                    ' = ' ORDER BY c.ord)
    FROM (SELECT u.name, coalesce(t.column_names ->> u.name, u.name) AS store_name, u.ord
            FROM unnest(ARRAY[t.route_column, t.same_shape]) WITH ORDINALITY AS u (name, ord)) AS c
$$;
COMMENT ON FUNCTION run_ops.same_shape_condition(run_ops.routed_table, text) IS
  'an SQL condition for rows of a table in one store: the id and the column with its shape both belong in that store, or neither does';

CREATE FUNCTION run_ops.place_in_store(t run_ops.routed_table, store text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN store = 'legacy' THEN t.legacy::text ELSE format('%I.%I', t.store_schema, t.store_table) END
$$;
COMMENT ON FUNCTION run_ops.place_in_store(run_ops.routed_table, text) IS
  'the name of a routed table in the database of a store';

CREATE FUNCTION run_ops.unproven_same_shape(t run_ops.routed_table, store text) RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  relation  text := run_ops.place_in_store(t, store);
  -- the constraint is recognized by its name and its columns
  query     text := format(
    'SELECT k.convalidated AS validated FROM pg_constraint AS k '
    'WHERE k.conrelid = to_regclass(%L) AND k.contype = ''c'' AND k.conname = ''run_ops_same_shape'' AND NOT k.connoinherit '
    'AND k.conkey @> ARRAY(SELECT a.attnum FROM pg_attribute AS a WHERE a.attrelid = k.conrelid AND a.attname = ANY (%L)) '
    'AND cardinality(k.conkey) = 2',
    relation, ARRAY(SELECT CASE WHEN store = 'legacy' THEN c ELSE coalesce(t.column_names ->> c, c) END
                      FROM unnest(ARRAY[t.route_column, t.same_shape]) AS c));
  validated boolean;
BEGIN
  IF t.same_shape IS NULL THEN
    RETURN;
  ELSIF store = 'legacy' THEN
    EXECUTE query INTO validated;
  ELSE
    validated := (SELECT (answer ->> 'validated')::boolean FROM run_ops.ask_store(store, query) AS answer);
  END IF;
  IF validated IS NULL THEN
    RETURN NEXT format('ALTER TABLE %s ADD CONSTRAINT run_ops_same_shape CHECK (%s) NOT VALID',
                       relation, run_ops.same_shape_condition(t, store));
  END IF;
  IF validated IS NOT TRUE THEN
    RETURN NEXT format('ALTER TABLE %s VALIDATE CONSTRAINT run_ops_same_shape', relation);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.unproven_same_shape(run_ops.routed_table, text) IS
  'the commands that are still to be run in the database of a store, so that it proves that same_shape of a table has the shape of the id; none if it does, or if there is no such column';
REVOKE EXECUTE ON FUNCTION run_ops.unproven_same_shape(run_ops.routed_table, text) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_unproven_shape(t run_ops.routed_table, store text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  commands text := (SELECT string_agg(c || ';', ' ' ORDER BY ord) FROM run_ops.unproven_same_shape(t, store) WITH ORDINALITY AS u (c, ord));
BEGIN
  IF commands IS NOT NULL THEN
    RAISE EXCEPTION 'it is not proven that column "%" of table % has the shape of the id', t.same_shape, t.legacy
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = format('%s lacks a validated constraint.', CASE store WHEN 'legacy' THEN 'This database' ELSE format('Store "%s"', store) END),
            HINT = format('Run there: %s', commands);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_unproven_shape(run_ops.routed_table, text) IS
  'raises an error if the database of a store does not prove that same_shape of a table has the shape of the id';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_unproven_shape(run_ops.routed_table, text) FROM PUBLIC;

CREATE FUNCTION run_ops.with_same_shape(view regclass, column_name name) RETURNS run_ops.routed_table
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table := run_ops.routed(view);
BEGIN
  t.same_shape := coalesce(column_name, t.same_shape, run_ops.known_same_shape(t));
  IF t.same_shape IS NULL THEN
    RAISE EXCEPTION 'no column of table % is known to have the shape of the id', t.legacy
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Specify column_name.';
  END IF;
  PERFORM run_ops.refuse_unroutable(t);
  RETURN t;
END $$;
COMMENT ON FUNCTION run_ops.with_same_shape(regclass, name) IS
  'the row of run_ops.routed_table with this column as same_shape; NULL: the column that is declared, otherwise the one of run_ops.known_routing';

CREATE FUNCTION run_ops.same_shape_commands(view regclass, column_name name DEFAULT NULL)
  RETURNS TABLE (store text, command text)
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT c.store, u.command
    FROM run_ops.with_same_shape(view, column_name) AS t, LATERAL run_ops.copies(t) AS c,
         LATERAL run_ops.unproven_same_shape(t, c.store) WITH ORDINALITY AS u (command, ord)
   ORDER BY c.store, u.ord
$$;
COMMENT ON FUNCTION run_ops.same_shape_commands(regclass, name) IS
  'SQL to run in each database before run_ops.declare_same_shape(): adds a constraint which refuses rows whose id and column name different stores, and validates it; legacy is this database; no row if every database has the constraint';
REVOKE EXECUTE ON FUNCTION run_ops.same_shape_commands(regclass, name) FROM PUBLIC;

CREATE FUNCTION run_ops.set_same_shape(t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  UPDATE run_ops.routed_table AS r SET same_shape = t.same_shape WHERE r.view = t.view;
  PERFORM run_ops.in_attempts(format(
    'SELECT run_ops.build_view(t, run_ops.split_enabled()) FROM run_ops.routed_table AS t WHERE t.view = %L::regclass', t.view));
END $$;
COMMENT ON FUNCTION run_ops.set_same_shape(run_ops.routed_table) IS
  'changes the column that is declared to have the shape of the id, and the view';
REVOKE EXECUTE ON FUNCTION run_ops.set_same_shape(run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.declare_same_shape(view regclass, column_name name DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table;
BEGIN
  PERFORM run_ops.lock_registry();
  t := run_ops.with_same_shape(view, column_name);
  PERFORM run_ops.refuse_unproven_shape(t, c.store) FROM run_ops.copies(t) AS c ORDER BY c.store;
  PERFORM run_ops.set_same_shape(t);
END $$;
COMMENT ON FUNCTION run_ops.declare_same_shape(regclass, name) IS
  'declares that a column has the shape of the id, so that lookups by it query one store; raises an error if a database lacks the constraint that proves it; column_name is by default the one of run_ops.known_routing';
REVOKE EXECUTE ON FUNCTION run_ops.declare_same_shape(regclass, name) FROM PUBLIC;

CREATE FUNCTION run_ops.undeclare_same_shape(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table;
BEGIN
  PERFORM run_ops.lock_registry();
  t := run_ops.routed(view);
  t.same_shape := NULL;
  PERFORM run_ops.set_same_shape(t);
END $$;
COMMENT ON FUNCTION run_ops.undeclare_same_shape(regclass) IS
  'lets lookups by the column that was declared to have the shape of the id query every store again; does not drop the constraints run_ops_same_shape';
REVOKE EXECUTE ON FUNCTION run_ops.undeclare_same_shape(regclass) FROM PUBLIC;
