
-- column_equality: how the values of a column are compared.

CREATE FUNCTION run_ops.equality_operator(relation regclass, column_name name) RETURNS text
  LANGUAGE c STABLE STRICT
  AS 'MODULE_PATHNAME', 'run_ops_equality_operator';
COMMENT ON FUNCTION run_ops.equality_operator(regclass, name) IS
  'the operator by which unique indexes compare the values of a column, to be put between two of them: OPERATOR(pg_catalog.=) for most types; with a search_path of pg_catalog alone, = would be another one for types of extensions';

CREATE FUNCTION run_ops.compared_type(relation regclass, column_name name) RETURNS text
  LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
AS $$
  WITH RECURSIVE y AS (
    SELECT a.atttypid AS oid FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = column_name
    UNION ALL
    SELECT t.typbasetype FROM y JOIN pg_type AS t ON t.oid = y.oid AND t.typtype = 'd')
  -- without a length: character alone would be one character
  SELECT format_type(y.oid, -1) FROM y JOIN pg_type AS t ON t.oid = y.oid AND t.typtype <> 'd'
$$;
COMMENT ON FUNCTION run_ops.compared_type(regclass, name) IS
  'the type of a column, without its length; of a domain what it is made of';

CREATE FUNCTION run_ops.equals_text(relation regclass, column_name name, value text, many boolean DEFAULT false) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format(CASE WHEN many THEN '%s ANY (CAST(%s AS %s[]))' ELSE '%s CAST(%s AS %s)' END,
                run_ops.equality_operator(relation, column_name), value, run_ops.compared_type(relation, column_name))
$$;
COMMENT ON FUNCTION run_ops.equals_text(regclass, name, text, boolean) IS
  'what is to follow a column in a query, to compare it with an expression of type text, or with each element of an array';
