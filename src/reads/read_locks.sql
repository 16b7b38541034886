
-- read_locks: locks one row behind a view over several stores, also where
-- SELECT ... FOR UPDATE is refused.

CREATE FUNCTION run_ops.lock_copy(view regclass, relation regclass, id text, mode text, wait text) RETURNS boolean
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_lock_copy';
COMMENT ON FUNCTION run_ops.lock_copy(regclass, regclass, text, text, text) IS
  'locks the row of a routed table in one of the tables behind its view; false if the table has no such row, or if it is skipped because it is locked; called by run_ops.lock_row()';

CREATE FUNCTION run_ops.lock_row(view regclass, id text, mode text DEFAULT 'update', wait text DEFAULT 'wait') RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t    run_ops.routed_table := run_ops.routed(view);
  copy record;
BEGIN
  IF mode IS NULL OR mode NOT IN ('update', 'no key update', 'share', 'key share') THEN
    RAISE EXCEPTION 'invalid lock mode %', coalesce(quote_literal(mode), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'Modes are update, no key update, share and key share.';
  ELSIF wait IS NULL OR wait NOT IN ('wait', 'nowait', 'skip locked') THEN
    RAISE EXCEPTION 'invalid lock wait %', coalesce(quote_literal(wait), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'It is wait, nowait or skip locked.';
  ELSIF cardinality(t.key_columns) > 1 THEN
    RAISE EXCEPTION 'rows of % are not identified by one id', t.view
      USING ERRCODE = 'wrong_object_type',
            DETAIL = format('Its key is (%s).', array_to_string(t.key_columns, ', '));
  END IF;
  -- the stores from which the view can show the row, in the order of the view
  FOR copy IN
    SELECT c.relation FROM run_ops.copies(t) AS c
     WHERE CASE WHEN NOT run_ops.split_enabled() THEN c.store = 'legacy'
                WHEN t.routing = 'shape' THEN c.store = coalesce(run_ops.store_of(t, id), 'legacy')
                ELSE true END
     ORDER BY c.precedence, c.store
  LOOP
    IF run_ops.lock_copy(t.view, copy.relation, id, mode, wait) THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
END $$;
COMMENT ON FUNCTION run_ops.lock_row(regclass, text, text, text) IS
  'locks the row of a routed table in its store until the end of the transaction, as FOR UPDATE does; other modes are no key update, share and key share; wait is wait, nowait (55P03 if the row is locked) or skip locked (false); false if there is no such row; needs SELECT and UPDATE on the view, and with security_invoker on its tables';
