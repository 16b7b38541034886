
-- read_locks: row locks through a view over several stores, where FOR UPDATE
-- is refused because it would lock nothing.

CREATE FUNCTION run_ops.lock_copy(view regclass, id text, mode text) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t    run_ops.routed_table := run_ops.routed(view);
  copy record;
  hit  boolean;
BEGIN
  IF mode IS NULL OR mode NOT IN ('update', 'no key update', 'share', 'key share') THEN
    RAISE EXCEPTION 'invalid lock mode %', coalesce(quote_literal(mode), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'Modes are update, no key update, share and key share; a store cannot be asked for NOWAIT or SKIP LOCKED.',
            HINT = 'Set lock_timeout here and in the store to bound the wait.';
  ELSIF cardinality(t.key_columns) > 1 THEN
    RAISE EXCEPTION 'rows of % are not identified by one id', t.view
      USING ERRCODE = 'wrong_object_type',
            DETAIL = format('Its key is (%s).', array_to_string(t.key_columns, ', '));
  END IF;
  -- the stores that can show the row, in the order in which the view does
  FOR copy IN
    SELECT c.store, c.relation FROM run_ops.copies(t) AS c
     WHERE CASE WHEN NOT run_ops.split_enabled() THEN c.store = 'legacy'
                WHEN t.routing = 'shape' THEN run_ops.resides(id, c.store)
                ELSE true END
     ORDER BY c.precedence, c.store
  LOOP
    EXECUTE format('SELECT true FROM %s AS x WHERE x.%I = $1%s FOR %s', copy.relation, t.key_columns[1],
        CASE WHEN t.routing = 'anchor' AND run_ops.split_enabled()
             THEN format(' AND run_ops.resides(x.%I, %L)', t.route_column, copy.store) END,
        mode)
      INTO hit USING id;
    IF hit THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
END $$;
COMMENT ON FUNCTION run_ops.lock_copy(regclass, text, text) IS
  'locks the row of a routed table in the store that shows it, with the rights of the caller on its table there; false when there is no such row';

-- SECURITY DEFINER: as with the view, who has rights on it needs none on the
-- tables behind it.
CREATE FUNCTION run_ops.lock_row_as_owner(view regclass, id text, mode text) RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- current_user is the owner of this function here
  role name := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
  IF NOT (has_any_column_privilege(role, view, 'SELECT') AND has_any_column_privilege(role, view, 'UPDATE'))
     OR run_ops.has_security_invoker(view) THEN
    RAISE EXCEPTION 'permission denied for view %', view
      USING ERRCODE = 'insufficient_privilege', DETAIL = 'Locking a row needs SELECT and UPDATE.';
  END IF;
  RETURN run_ops.lock_copy(view, id, mode);
END $$;
COMMENT ON FUNCTION run_ops.lock_row_as_owner(regclass, text, text) IS
  'what run_ops.lock_row() does for a view without security_invoker';

CREATE FUNCTION run_ops.has_security_invoker(view regclass) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce((SELECT bool_or(o.option_value::boolean)
                     FROM pg_class AS c, pg_options_to_table(c.reloptions) AS o
                    WHERE c.oid = view AND o.option_name = 'security_invoker'), false)
$$;
COMMENT ON FUNCTION run_ops.has_security_invoker(regclass) IS
  'whether a view reads its tables with the rights of the caller';

CREATE FUNCTION run_ops.lock_row(view regclass, id text, mode text DEFAULT 'update') RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  routed_view regclass := (run_ops.routed(view)).view;
BEGIN
  IF run_ops.has_security_invoker(routed_view) THEN
    RETURN run_ops.lock_copy(routed_view, id, mode);
  END IF;
  RETURN run_ops.lock_row_as_owner(routed_view, id, mode);
END $$;
COMMENT ON FUNCTION run_ops.lock_row(regclass, text, text) IS
  'locks the row of a routed table in its store until the end of the transaction, as FOR UPDATE does (or no key update, share, key share; a foreign store knows update and share only and takes the stronger); false when there is no such row; needs SELECT and UPDATE on the view, with security_invoker on its tables, and fails with 40001 when the row changed there after this transaction first read from that store';
