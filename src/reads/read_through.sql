
-- read_through: one view over the tables of all stores.
--
-- With split off, the view shows the local table only.  With split on, it is a
-- union.  Its leaves have plain columns and no WHERE, so that PostgreSQL
-- flattens them into one Append.  A filter above the union removes each row
-- that is not in the store where its id belongs.

CREATE FUNCTION run_ops.column_list(relation regclass, prefix text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(prefix || quote_ident(a.attname), ', ' ORDER BY a.attnum)
    FROM pg_attribute AS a
   WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION run_ops.column_list(regclass, text) IS
  'the columns of a relation in their order, quoted, each with the prefix before it';

CREATE FUNCTION run_ops.copies(t run_ops.routed_table)
  RETURNS TABLE (store text, relation regclass, precedence int)
  LANGUAGE sql STABLE ROWS 2 SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'legacy', t.legacy, 2
  UNION ALL
  SELECT r.store, r.foreign_table, CASE r.store WHEN 'new' THEN 0 ELSE 1 END
    FROM run_ops.routed_store AS r WHERE r.view = t.view
$$;
COMMENT ON FUNCTION run_ops.copies(run_ops.routed_table) IS
  'the local table and the foreign tables of a routed table, by store; the lowest precedence is queried first';

CREATE FUNCTION run_ops.view_query(t run_ops.routed_table, split boolean) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  columns text := run_ops.column_list(t.legacy, '');
  keys    text;
  same    text;
BEGIN
  IF NOT split THEN
    RETURN format('SELECT %s FROM %s', columns, t.legacy);
  ELSIF t.routing <> 'store' THEN
    RETURN format('SELECT %s FROM (SELECT %s, ''legacy''::text AS run_ops_store FROM %s%s) AS u WHERE %s',
      run_ops.column_list(t.legacy, 'u.'), columns, t.legacy,
      (SELECT string_agg(format(' UNION ALL SELECT %s, %L::text FROM %s', columns, c.store, c.relation),
                         '' ORDER BY c.precedence, c.store)
         FROM run_ops.copies(t) AS c WHERE c.store <> 'legacy'),
      CASE WHEN t.key_rule IS NULL
           THEN format('run_ops.resides(u.%I, u.run_ops_store%s)', t.route_column, ', u.' || quote_ident(t.same_shape))
           ELSE format('run_ops.stored_in(%s, u.run_ops_store)', run_ops.names_store(t, format('u.%I', t.route_column))) END);
  END IF;
  SELECT string_agg(quote_ident(k), ', '), string_agg(format('y.%1$I %2$s x.%1$I', k, run_ops.equality_operator(t.legacy, k)), ' AND ')
    INTO keys, same FROM unnest(t.key_columns) AS k;
  -- Only the local table leaves out keys, with one anti join for all stores: the
  -- number of relations in the plan grows with that of the stores.
  RETURN (
    SELECT format('SELECT %s FROM (%sSELECT %s FROM %s AS x%s) AS u WHERE run_ops.refuse_locks(u.%I)',
             run_ops.column_list(t.legacy, 'u.'),
             string_agg(format('SELECT %s FROM %s AS x UNION ALL ', run_ops.column_list(t.legacy, 'x.'), c.relation),
                        '' ORDER BY c.precedence, c.store),
             run_ops.column_list(t.legacy, 'x.'), t.legacy,
             format(' WHERE NOT EXISTS (SELECT FROM (%s) AS y WHERE %s)',
                    string_agg(format('SELECT %s FROM %s AS y', keys, c.relation), ' UNION ALL ' ORDER BY c.precedence, c.store), same),
             t.key_columns[1])
      FROM run_ops.copies(t) AS c WHERE c.store <> 'legacy');
END $$;
COMMENT ON FUNCTION run_ops.view_query(run_ops.routed_table, boolean) IS
  'the query of the view of a routed table with split off or on';

CREATE FUNCTION run_ops.has_union_rule(view oid) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT EXISTS (SELECT FROM pg_rewrite AS w
                  WHERE w.ev_class = has_union_rule.view AND w.rulename = 'refuse_on_conflict'
                    AND w.ev_type = '2' AND w.ev_qual::text = '<>' AND pg_get_ruledef(w.oid) LIKE '% DO NOTHING;')
$$;
COMMENT ON FUNCTION run_ops.has_union_rule(oid) IS
  'whether a view has the rule that build_view() creates for a union';

CREATE FUNCTION run_ops.view_comment(t run_ops.routed_table, split boolean) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE
    WHEN NOT split THEN format('%s; split is off', t.legacy)
    WHEN t.routing = 'store' THEN format(
      '%s in every store; a row does not say which store it is in, so each read queries all stores. A local row is not shown if '
      'a store has its key: the keys of the local rows that a query reads are sent to all stores', t.legacy)
    WHEN t.key_rule IS NOT NULL THEN format('%s in every store; a rule over "%s" names the store of a row', t.legacy, t.route_column)
    ELSE format('%s in every store; the shape of "%s" tells the store of a row%s', t.legacy, t.route_column,
                ', and so does that of "' || t.same_shape || '"') END
$$;
COMMENT ON FUNCTION run_ops.view_comment(run_ops.routed_table, boolean) IS 'the comment of the view of a routed table with split off or on';

CREATE FUNCTION run_ops.has_query(view regclass, query text) RETURNS boolean
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_has_query';
COMMENT ON FUNCTION run_ops.has_query(regclass, text) IS
  'whether a view has this query; names that have changed since it was created make no difference';

CREATE FUNCTION run_ops.is_own_comment(comment text) RETURNS boolean
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN comment LIKE '%; split is off' OR comment LIKE '% in every store; a row does not say %'
      OR comment LIKE '% in every store; the shape of "%" tells the store of a row%'
      OR comment LIKE '% in every store; a rule over "%" names the store of a row';
COMMENT ON FUNCTION run_ops.is_own_comment(text) IS
  'whether a comment is one that build_view() gives a view; others are the user''s';

CREATE FUNCTION run_ops.build_view(t run_ops.routed_table, split boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- keep security_barrier and security_invoker: the operator sets them
  options text := (SELECT ' WITH (' || string_agg(o, ', ') || ')'
                     FROM pg_class AS c, unnest(c.reloptions) AS o WHERE c.oid = t.view AND o LIKE 'security%');
BEGIN
  PERFORM run_ops.refuse_taken_names(t) WHERE split;
  EXECUTE format('CREATE OR REPLACE VIEW %s%s AS %s', t.view, options, run_ops.view_query(t, split));
  IF coalesce(run_ops.is_own_comment(obj_description(t.view, 'pg_class')), true) THEN
    EXECUTE format('COMMENT ON VIEW %s IS %L', t.view, run_ops.view_comment(t, split));
  END IF;
  UPDATE run_ops.routed_table AS r SET view_name = t.view::text WHERE r.view = t.view AND r.view_name <> t.view::text;
  -- In a session without the library, a rule that does nothing makes PostgreSQL
  -- refuse INSERT ... ON CONFLICT.  The triggers of the view would ignore the clause.
  IF split THEN
    EXECUTE format('CREATE OR REPLACE RULE refuse_on_conflict AS ON UPDATE TO %s DO ALSO NOTHING', t.view);
  ELSIF run_ops.has_union_rule(t.view) THEN
    EXECUTE format('DROP RULE refuse_on_conflict ON %s', t.view);
  END IF;
  PERFORM run_ops.build_triggers(t, split);
END $$;
COMMENT ON FUNCTION run_ops.build_view(run_ops.routed_table, boolean) IS
  'gives the view of a routed table its definition for split off or on; a comment and defaults that a user has set stay';
REVOKE EXECUTE ON FUNCTION run_ops.build_view(run_ops.routed_table, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.swap_views(split boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table;
BEGIN
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.bind_server() WHERE split;
  UPDATE run_ops.split_state SET enabled = split WHERE enabled <> split;
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE run_ops.is_relation(r.legacy, '{r,p}') ORDER BY r.view LOOP
    PERFORM run_ops.build_view(run_ops.create_dropped_view(t), split);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.swap_views(boolean) IS
  'switches the views of all routed tables, and the state that split_enabled() shows, in the transaction of the caller; checks no gate';
REVOKE EXECUTE ON FUNCTION run_ops.swap_views(boolean) FROM PUBLIC;

-- For support staff and for tests ---------------------------------------------

CREATE FUNCTION run_ops.locate(view regclass, id text, retention interval DEFAULT NULL) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t         run_ops.routed_table := run_ops.routed(view);
  -- the own id of a row that is anchored by a key rule says nothing
  residency run_ops.residency := CASE WHEN t.key_rule IS NULL THEN run_ops.try_owner_engine(id)
                                      WHEN t.routing = 'anchor' THEN NULL
                                      WHEN run_ops.store_of(t, id) = 'legacy' THEN 'LEGACY' ELSE 'NEW' END;
  condition text;
  hit       text;
BEGIN
  IF id IS NULL THEN
    RETURN NULL;
  ELSIF cardinality(t.key_columns) > 1 THEN
    RAISE EXCEPTION 'rows of % are not identified by one id', t.view
      USING ERRCODE = 'wrong_object_type',
            DETAIL = format('Its key is (%s).', array_to_string(t.key_columns, ', '));
  END IF;
  IF residency IS NULL AND t.key_rule IS NULL THEN
    RAISE WARNING 'id "%" is unclassifiable', left(id, 64)
      USING DETAIL = format('It has %s characters. Its row is searched for like that of a LEGACY id.', length(id));
  END IF;
  condition := format('x.%I %s', t.key_columns[1], run_ops.equals_text(t.legacy, t.key_columns[1], '$1'));
  BEGIN
    -- Of several stores that have the row, "new" is the first, also for a LEGACY
    -- id: a row there is the newer one.  All are asked at the same time.
    hit := (SELECT a.hit FROM run_ops.as_owner(t.legacy, (
              SELECT string_agg(format('SELECT %L::text, %s FROM %s AS x WHERE %s', c.store, c.precedence, c.relation, condition), ' UNION ALL ')
                FROM run_ops.copies(t) AS c
               WHERE CASE WHEN NOT run_ops.split_enabled() THEN c.store = 'legacy'
                          WHEN residency = 'NEW' THEN c.store = run_ops.store_of(t, id)
                          ELSE true END) || ' ORDER BY 2, 1 LIMIT 1', id) AS a (hit text, precedence int));
  EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection OR connection_failure THEN
    -- the view shows the row here, whatever the store has
    IF residency = 'LEGACY' AND t.routing = 'shape' THEN
      hit := (SELECT a.hit FROM run_ops.as_owner(t.legacy, format('SELECT ''legacy''::text FROM %s AS x WHERE %s', t.legacy, condition), id) AS a (hit text));
    END IF;
    IF hit IS NULL THEN
      RAISE;
    END IF;
    RAISE WARNING '%', SQLERRM USING DETAIL = 'The view shows the row of this database.';
  END;
  IF hit IS NOT NULL THEN
    RETURN hit;
  END IF;
  IF run_ops.split_enabled() AND residency IS DISTINCT FROM 'NEW' AND t.key_rule IS NULL
     AND run_ops.id_timestamp(id) < now() - retention THEN
    RETURN 'past-retention';
  ELSIF t.routing = 'shape' AND residency IS NOT NULL
        AND run_ops.is_past_partitions(t, CASE WHEN run_ops.split_enabled() THEN run_ops.store_of(t, id) ELSE 'legacy' END, id) THEN
    RETURN 'past-retention';
  END IF;
  RETURN 'not-found';
END $$;
COMMENT ON FUNCTION run_ops.locate(regclass, text, interval) IS
  'the store that holds the row of an id, or not-found, or past-retention if the row is missing, and its LEGACY id is older than the retention or its table is partitioned by ids and has no partition as old as this one; NEW ids are looked up in their store only, all others in every store, legacy last';

CREATE FUNCTION run_ops.find_strays(view regclass)
  RETURNS TABLE (store text, key jsonb, belongs_to text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t    run_ops.routed_table := run_ops.routed(view);
  id   text := 'x.' || quote_ident(t.route_column);
  keys text := (SELECT string_agg(format('%1$L, x.%1$I', k), ', ') FROM unnest(t.key_columns) AS k);
BEGIN
  PERFORM run_ops.refuse_incomplete();
  IF t.routing = 'store' THEN
    -- The keys of all copies at once, because the pairs of stores would be many.  A
    -- row of another store than the first one that has its key is a stray.
    RETURN QUERY SELECT a.* FROM run_ops.as_owner(t.legacy, (SELECT format(
        'SELECT x.run_ops_store, jsonb_build_object(%s), x.run_ops_first FROM (SELECT *, first_value(run_ops_store) '
        'OVER (PARTITION BY %s ORDER BY run_ops_place) AS run_ops_first FROM (%s) AS r) AS x WHERE x.run_ops_store <> x.run_ops_first',
        keys, (SELECT string_agg(format('r.%I', k), ', ') FROM unnest(t.key_columns) AS k),
        string_agg(format('SELECT %L::text AS run_ops_store, %s AS run_ops_place, %s FROM %s AS x', c.store, c.place,
                          (SELECT string_agg(format('x.%I', k), ', ') FROM unnest(t.key_columns) AS k), c.relation), ' UNION ALL ' ORDER BY c.place))
        FROM (SELECT *, row_number() OVER (ORDER BY o.precedence, o.store) AS place FROM run_ops.copies(t) AS o) AS c)) AS a (store text, key jsonb, belongs_to text);
    RETURN;
  END IF;
  -- The second condition says the same in SQL that the store can evaluate, so
  -- that the store sends strays only.
  RETURN QUERY SELECT a.* FROM run_ops.as_owner(t.legacy, (SELECT string_agg(format(
    'SELECT %L::text, jsonb_build_object(%s), coalesce(%s, ''legacy''::text) FROM %s AS x WHERE NOT %s%s',
    c.store, keys, run_ops.names_store(t, id), c.relation, run_ops.in_store(t, id, c.store),
    CASE WHEN c.store <> 'legacy' AND t.key_rule IS NULL THEN
           format(' AND (NOT (%s) OR %s IS NULL)', run_ops.in_store_there(t, id, c.store), id) END), ' UNION ALL ' ORDER BY c.store)
    FROM run_ops.copies(t) AS c)) AS a (store text, key jsonb, belongs_to text);
END $$;
COMMENT ON FUNCTION run_ops.find_strays(regclass) IS
  'rows in the wrong store while split is on: the shape of their id says that they belong in another store, so that the view does not show them; or, with routing "store", another store has a row with the same key, so that the view does not show the local row, or shows the rows of both stores. Reads the whole table in every store.';
REVOKE EXECUTE ON FUNCTION run_ops.find_strays(regclass) FROM PUBLIC;
