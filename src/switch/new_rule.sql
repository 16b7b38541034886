
-- new_rule: another key rule for tables that are attached, while split is off.
--
-- After the way back all rows are in this database.  A new boundary beyond their
-- ids leaves them here for good: the way forward copies nothing, and leaves
-- nothing over.  The stores then have only older copies, so they must be emptied
-- first.  That is left to the operator, because it deletes rows.

CREATE FUNCTION run_ops.stores_have_rows() RETURNS boolean
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(bool_or((a.answer ->> 'found')::boolean), false)
    FROM (SELECT array_agg(q.store), array_agg(q.query)
            FROM (SELECT s.store, format('SELECT %s AS found', string_agg(format('EXISTS (SELECT FROM %I.%I)', t.store_schema, t.store_table), ' OR '))
                    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view GROUP BY s.store) AS q (store, query)) AS q (stores, queries),
         LATERAL run_ops.ask_stores(q.stores, q.queries, '0') AS a
$$;
COMMENT ON FUNCTION run_ops.stores_have_rows() IS 'whether a routed table has a row in any store';
REVOKE EXECUTE ON FUNCTION run_ops.stores_have_rows() FROM PUBLIC;

CREATE FUNCTION run_ops.set_key_rule(root regclass, key_rule regprocedure) RETURNS SETOF regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
  t     run_ops.routed_table := run_ops.routed(root);
  tree  run_ops.routed_table[];
  store text;
  found jsonb;
BEGIN
  IF t.key_rule IS NULL OR key_rule IS NULL THEN
    RAISE EXCEPTION 'cannot set the key rule of %', t.view
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = CASE WHEN key_rule IS NULL THEN 'The rule must not be NULL.' ELSE 'No key rule decides the store of its rows.' END;
  END IF;
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.refuse_in_copy();
  PERFORM run_ops.refuse_incomplete();
  PERFORM run_ops.refuse_while_split('set a key rule');
  -- the rows of these tables stay together
  tree := ARRAY(SELECT run_ops.with_key_rule(r, key_rule)
                  FROM run_ops.table_tree(t.legacy) AS d JOIN run_ops.routed_table AS r ON r.legacy = d.legacy
                 WHERE r.key_rule = t.key_rule ORDER BY d.depth, r.view::text);
  FOR store, found IN
    SELECT a.store, a.answer FROM run_ops.ask_stores(ARRAY(SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL ORDER BY s.name), ARRAY[(
             SELECT format('SELECT %s AS rows, EXISTS (SELECT FROM pg_constraint AS c WHERE c.conname = ''run_ops_write_lock'' AND c.conrelid IN (%s)) AS locks',
                           string_agg(format('EXISTS (SELECT FROM %I.%I)', r.store_schema, r.store_table), ' OR '),
                           string_agg(format('%L::regclass', format('%I.%I', r.store_schema, r.store_table)), ', '))
               FROM unnest(tree) AS r)], '0') AS a
  LOOP
    IF (found ->> 'rows')::boolean AND NOT (SELECT s.superseded FROM run_ops.split_state AS s) THEN
      RAISE EXCEPTION 'another key rule could hide rows of store "%"', store
        USING ERRCODE = 'object_in_use',
              HINT = 'Copy them here first: repeat until done SELECT * FROM run_ops.repatriate(); and then: SELECT run_ops.disable_split(repatriated => true);';
    ELSIF (found ->> 'rows')::boolean OR (found ->> 'locks')::boolean THEN
      RAISE EXCEPTION 'tables of store "%" are still as the old key rule needs them', store
        USING ERRCODE = 'object_in_use',
              DETAIL = CASE WHEN (found ->> 'rows')::boolean THEN 'They have older copies of rows. All rows are in this database.'
                            ELSE 'They have write locks.' END,
              HINT = format('Run in store "%s": TRUNCATE %s; %s', store, (SELECT string_agg(format('%I.%I', r.store_schema, r.store_table), ', ') FROM unnest(tree) AS r),
                            (SELECT string_agg(format('ALTER TABLE %I.%I DROP CONSTRAINT IF EXISTS run_ops_write_lock;', r.store_schema, r.store_table), ' ') FROM unnest(tree) AS r));
    END IF;
  END LOOP;
  UPDATE run_ops.routed_table AS r SET key_rule = n.key_rule FROM unnest(tree) AS n WHERE r.view = n.view;
  IF NOT run_ops.stores_have_rows() THEN
    -- no row has two versions any more, so nothing has to be compared
    PERFORM run_ops.stop_tracking();
    DELETE FROM run_ops.copy_progress;
    UPDATE run_ops.split_state SET superseded = false, moving = false;
  END IF;
  PERFORM run_ops.audit('set key rule', jsonb_build_object('root', t.view, 'key_rule', (tree[1]).key_rule));
  RETURN QUERY SELECT r.view FROM unnest(tree) AS r;
END $$;
COMMENT ON FUNCTION run_ops.set_key_rule(regclass, regprocedure) IS
  'sets another key rule for an attached table and for those that refer to it and have the same rule, while split is off and the stores have no rows of them; returns their views. With a boundary beyond all ids, split can be enabled again without moving rows.';
REVOKE EXECUTE ON FUNCTION run_ops.set_key_rule(regclass, regprocedure) FROM PUBLIC;
