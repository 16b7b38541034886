
-- table_tree: a table with what refers to it, attached at once.
--
-- The rows of an order are in the store of the order.  So a table that refers to a
-- routed table by the column that decides there has a column that decides as well:
-- the one that refers to it.

CREATE FUNCTION run_ops.table_tree(root regclass)
  RETURNS TABLE (depth int, legacy regclass, routing run_ops.routing, route_column name, refused text)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  keys    name[] := run_ops.key_of(root);
  deciding   jsonb := '{}';  -- the deciding columns of the tables so far, by their OIDs
  nearest jsonb;
  child   record;
BEGIN
  IF keys IS NULL THEN
    RAISE EXCEPTION 'table % has no key', root
      USING ERRCODE = 'invalid_table_definition',
            DETAIL = 'A routed table needs a primary key, or a unique index on columns that are NOT NULL.';
  END IF;
  depth := 0; legacy := root;
  SELECT t.routing, t.route_column INTO routing, route_column FROM run_ops.routed_table AS t WHERE t.legacy = root;
  IF NOT FOUND THEN
    routing := CASE cardinality(keys) WHEN 1 THEN 'shape' ELSE 'anchor' END;
    route_column := keys[1];
  END IF;
  RETURN NEXT;
  nearest := jsonb_build_object(root::oid::text, route_column);
  WHILE nearest <> '{}' LOOP
    deciding := deciding || nearest;
    depth := depth + 1;
    nearest := '{}';
    -- of several references the one that can decide, and then the first
    FOR child IN
      SELECT DISTINCT ON (f.conrelid::regclass::text COLLATE "C") f.conrelid::regclass AS relation, f.confrelid::regclass AS parent, a.attname,
             CASE WHEN a.attname IS NULL THEN
                    format('it refers to %s by (%s), which does not tell the store of a row there: give it a column with "%s", or attach it with routing => ''store''',
                           f.confrelid::regclass, (SELECT string_agg(quote_ident(c.attname), ', ' ORDER BY c.attnum) FROM pg_attribute AS c
                                                    WHERE c.attrelid = f.confrelid AND c.attnum = ANY (f.confkey)), deciding ->> f.confrelid::oid::text)
                  WHEN NOT a.attnotnull THEN format('"%s" may be NULL, and then would not tell the store of a row', a.attname) END AS refused
        FROM pg_constraint AS f
        LEFT JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[array_position(f.confkey,
               (SELECT p.attnum FROM pg_attribute AS p WHERE p.attrelid = f.confrelid AND p.attname = deciding ->> f.confrelid::oid::text))]
       WHERE f.contype = 'f' AND f.conparentid = 0 AND deciding ->> f.confrelid::oid::text IS NOT NULL AND NOT deciding ? f.conrelid::oid::text
       ORDER BY f.conrelid::regclass::text COLLATE "C", a.attnotnull DESC NULLS LAST, f.conkey, f.oid
    LOOP
      legacy := child.relation; routing := 'anchor'; route_column := child.attname; refused := child.refused;
      RETURN NEXT;
      deciding := deciding || jsonb_build_object(child.relation::oid::text, NULL);
      nearest := nearest || CASE WHEN child.refused IS NULL THEN jsonb_build_object(child.relation::oid::text, child.attname) ELSE '{}' END;
    END LOOP;
    refused := NULL;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.table_tree(regclass) IS
  'a table and all that refers to it, directly or not, with the column that decides the store of a row; refused says why a table has no such column';

CREATE FUNCTION run_ops.attach_tree(root regclass, key_rule regprocedure DEFAULT NULL, view_schema name DEFAULT 'run_ops')
  RETURNS TABLE (legacy regclass, routing run_ops.routing, route_column name, view regclass, refused text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  r record;
BEGIN
  FOR r IN SELECT * FROM run_ops.table_tree(root) LOOP
    legacy := r.legacy; routing := r.routing; route_column := r.route_column; refused := r.refused;
    view := (SELECT t.view FROM run_ops.routed_table AS t WHERE t.legacy = r.legacy);
    IF view IS NULL AND refused IS NULL THEN
      view := run_ops.attach_table(legacy, routing, route_column, view_schema => view_schema, key_rule => key_rule);
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.attach_tree(regclass, regprocedure, name) IS
  'attaches a table and all that refers to it, directly or not, each by the column that decides the store of a row; refused says why a table is not attached; run_ops.table_tree() shows what it would do';
REVOKE EXECUTE ON FUNCTION run_ops.attach_tree(regclass, regprocedure, name) FROM PUBLIC;
