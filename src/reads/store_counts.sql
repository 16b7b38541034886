
-- store_counts: counts rows inside each store. A count over the view of several
-- stores fetches every row of the foreign stores, because PostgreSQL does not
-- aggregate below a union. This function queries the stores one by one instead.

CREATE FUNCTION run_ops.store_counts(view regclass, group_column name)
  RETURNS TABLE (store text, value text, count bigint)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t    run_ops.routed_table := run_ops.routed(view);
  copy record;
BEGIN
  FOR copy IN
    SELECT c.store, c.relation FROM run_ops.copies(t) AS c
     WHERE c.store = 'legacy' OR run_ops.split_enabled() ORDER BY c.precedence, c.store
  LOOP
    RETURN QUERY SELECT a.* FROM run_ops.as_owner(t.legacy, format(
      'SELECT %L::text, g.value::text, g.n FROM (SELECT x.%I AS value, count(*) AS n FROM %s AS x GROUP BY 1) AS g',
      copy.store, group_column, copy.relation)) AS a (store text, value text, n bigint);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.store_counts(regclass, name) IS
  'the number of rows of a routed table by store and by value of a column, counted inside each store; includes the rows that find_strays() lists';
