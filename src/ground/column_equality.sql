
-- column_equality: compares the values of a column in generated queries.

CREATE FUNCTION run_ops.equality_operator(relation regclass, column_name name) RETURNS text
  LANGUAGE c STABLE STRICT
  AS 'MODULE_PATHNAME', 'run_ops_equality_operator';
COMMENT ON FUNCTION run_ops.equality_operator(regclass, name) IS
  'the operator by which unique indexes compare the values of a column, as text for a query: OPERATOR(pg_catalog.=) for most types; with search_path = pg_catalog, = would be another operator for types of extensions';

CREATE FUNCTION run_ops.compared_type(relation regclass, column_name name) RETURNS text
  LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
AS $$
  WITH RECURSIVE y AS (
    SELECT a.atttypid AS oid FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = column_name
    UNION ALL
    SELECT t.typbasetype FROM y JOIN pg_type AS t ON t.oid = y.oid AND t.typtype = 'd')
  -- -1 is no length; a plain "character" would be one character
  SELECT format_type(y.oid, -1) FROM y JOIN pg_type AS t ON t.oid = y.oid AND t.typtype <> 'd'
$$;
COMMENT ON FUNCTION run_ops.compared_type(regclass, name) IS
  'the type of a column, without its length; for a domain, its base type';

CREATE FUNCTION run_ops.equals_text(relation regclass, column_name name, value text, many boolean DEFAULT false) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format(CASE WHEN many THEN '%s ANY (CAST(%s AS %s[]))' ELSE '%s CAST(%s AS %s)' END,
                run_ops.equality_operator(relation, column_name), value, run_ops.compared_type(relation, column_name))
$$;
COMMENT ON FUNCTION run_ops.equals_text(regclass, name, text, boolean) IS
  'the text that follows a column in a query, to compare the column with an expression of type text, or with each element of an array';

CREATE FUNCTION run_ops.plain_column(relation regclass, column_name name, written text, OUT expression text, OUT type text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- A value of a built-in type, or of a domain over one, is compared as it is,
  -- so that indexes can be used. Equality and order of any other type depend on
  -- the schema of the type, so its values are compared as text.
  WITH RECURSIVE base AS (
    SELECT a.atttypid AS oid, a.atttypmod AS modifier FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = column_name
    UNION ALL
    SELECT y.typbasetype, y.typtypmod FROM base AS b JOIN pg_type AS y ON y.oid = b.oid WHERE y.typtype = 'd')
  SELECT CASE WHEN y.typnamespace = 'pg_catalog'::regnamespace THEN written
              ELSE format('CASE WHEN %1$s IS NOT NULL THEN format(''%%s'', %1$s) END', written) END,
         CASE WHEN y.typnamespace = 'pg_catalog'::regnamespace THEN format_type(b.oid, b.modifier) ELSE 'text' END
    FROM base AS b JOIN pg_type AS y ON y.oid = b.oid WHERE y.typtype <> 'd'
$$;
COMMENT ON FUNCTION run_ops.plain_column(regclass, name, text) IS
  'how a column of a local table is compared and ordered, here and in a store: the expression made of the column as written, and the type of its values';
