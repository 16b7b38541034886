
-- both_sides: comparing this database and its tables with their copies in a
-- store.

-- What must be equal on both sides --------------------------------------------
-- One query describes a database, another one a table.  The same query runs in
-- this database and in the store, with the same search_path, and the results
-- are compared as text.

CREATE FUNCTION run_ops.database_facts_query() RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- to_jsonb(), because some columns do not exist in all PostgreSQL versions
  SELECT $q$
    SELECT f.aspect, ''::text AS name, lower(replace(f.fact, '-', '')) AS fact
      FROM pg_database AS db, to_jsonb(db) AS d,
           LATERAL (VALUES
             ('encoding', pg_encoding_to_char(db.encoding)::text),
             ('collation', d ->> 'datcollate'),
             ('character type', d ->> 'datctype'),
             ('locale provider', coalesce(d ->> 'datlocprovider', 'c')),
             ('locale', coalesce(d ->> 'datlocale', d ->> 'daticulocale'))) AS f (aspect, fact)
     WHERE db.datname = current_database() AND f.fact IS NOT NULL
  $q$
$$;
COMMENT ON FUNCTION run_ops.database_facts_query() IS
  'a query for the properties that must be equal in both databases: rows of (aspect, name, fact)';

CREATE FUNCTION run_ops.table_facts_query(table_schema name, table_name name, local_names jsonb)
  RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format($q$
    WITH col AS (
      SELECT a.*, coalesce(%3$L::jsonb ->> a.attname::text, a.attname::text) AS local_name
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid
       WHERE n.nspname = %1$L AND c.relname = %2$L AND c.relkind IN ('r', 'p')
         AND a.attnum > 0 AND NOT a.attisdropped)
    SELECT 'column' AS aspect, local_name AS name,
           concat_ws(' ', format_type(atttypid, atttypmod),
             CASE WHEN attcollation <> t.typcollation THEN 'COLLATE ' || attcollation::regcollation END,
             CASE WHEN attnotnull THEN 'NOT NULL' END,
             CASE WHEN attgenerated <> '' THEN 'GENERATED AS' WHEN d.adbin IS NOT NULL THEN 'DEFAULT' END,
             pg_get_expr(d.adbin, d.adrelid),
             CASE WHEN attidentity <> '' THEN 'IDENTITY' END) AS fact
      FROM col JOIN pg_type AS t ON t.oid = atttypid
      LEFT JOIN pg_attrdef AS d ON d.adrelid = attrelid AND d.adnum = attnum
    UNION ALL
    SELECT DISTINCT 'label of ' || format_type(e.enumtypid, NULL), quote_literal(e.enumlabel), 'present'
      FROM col JOIN pg_type AS t ON t.oid = atttypid
      JOIN pg_enum AS e ON e.enumtypid IN (t.oid, t.typelem)
    UNION ALL
    SELECT DISTINCT 'unique key', k.columns, 'present'
      FROM pg_index AS i, LATERAL (
             SELECT string_agg(quote_ident(local_name), ', ' ORDER BY local_name) AS columns,
                    bool_and(attnotnull) AS all_not_null, count(*) AS n
               FROM col WHERE attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS k
     WHERE i.indrelid = (SELECT DISTINCT attrelid FROM col)
       AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
       AND k.all_not_null AND k.n = i.indnkeyatts
  $q$, table_schema, table_name, local_names)
$$;
COMMENT ON FUNCTION run_ops.table_facts_query(name, name, jsonb) IS
  'a query for the properties that must be equal in both copies of a table: rows of (aspect, name, fact). local_names maps column names in the store to local ones.';

CREATE FUNCTION run_ops.differences(store text, legacy_query text, store_query text)
  RETURNS TABLE (aspect text, name text, legacy_fact text, store_fact text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY EXECUTE format($q$
    SELECT aspect, name, l.fact, s.fact
      FROM (%s) AS l
      FULL JOIN (SELECT f.aspect, f.name, f.fact
                   FROM run_ops.ask_store($1, $2) AS j,
                        jsonb_to_record(j) AS f (aspect text, name text, fact text)) AS s
     USING (aspect, name)
     WHERE l.fact IS DISTINCT FROM s.fact
     ORDER BY aspect, name $q$, legacy_query) USING store, store_query;
END $$;
COMMENT ON FUNCTION run_ops.differences(text, text, text) IS
  'runs one query in this database and one in a store, and returns the facts that are not equal';
REVOKE EXECUTE ON FUNCTION run_ops.differences(text, text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.difference_text(store text, aspect text, name text, legacy_fact text, store_fact text)
  RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN pg_catalog.format('%s: %s in legacy, %s in store "%s"',
    pg_catalog.concat_ws(' ', aspect, nullif(name, '')),
    coalesce(legacy_fact, 'missing'), coalesce(store_fact, 'missing'), store);
COMMENT ON FUNCTION run_ops.difference_text(text, text, text, text, text) IS
  'describes one row of run_ops.differences() as text';

CREATE FUNCTION run_ops.database_differences(store text) RETURNS SETOF text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.difference_text(store, d.aspect, d.name, d.legacy_fact, d.store_fact)
    FROM run_ops.differences(store, run_ops.database_facts_query(),
                             run_ops.database_facts_query()) AS d
$$;
COMMENT ON FUNCTION run_ops.database_differences(text) IS
  'what differs between this database and a store. Encoding and collation must be equal; otherwise sorted results of both would be merged in the wrong order.';
REVOKE EXECUTE ON FUNCTION run_ops.database_differences(text) FROM PUBLIC;

CREATE FUNCTION run_ops.table_differences(store text, t run_ops.routed_table) RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  legacy_query text := (SELECT run_ops.table_facts_query(n.nspname, c.relname, '{}')
                          FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                         WHERE c.oid = t.legacy);
  store_query  text := run_ops.table_facts_query(t.store_schema, t.store_table,
    (SELECT coalesce(jsonb_object_agg(value, key), '{}') FROM jsonb_each_text(t.column_names)));
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.ask_store(store, store_query)) THEN
    RETURN NEXT format('table %I.%I: missing in store "%s"', t.store_schema, t.store_table, store);
    RETURN;
  END IF;
  RETURN QUERY
    SELECT run_ops.difference_text(store, d.aspect, d.name, d.legacy_fact, d.store_fact)
      FROM run_ops.differences(store, legacy_query, store_query) AS d
     WHERE NOT (d.legacy_fact IS NULL
                -- more unique keys in the store do no harm, and the columns
                -- that only the store has may have a default
                AND (d.aspect = 'unique key' OR t.store_defaults ? d.name));
END $$;
COMMENT ON FUNCTION run_ops.table_differences(text, run_ops.routed_table) IS
  'what differs between a local table and its copy in a store: columns, enum labels, unique keys. They are compared by name; the order of columns and labels may differ.';
REVOKE EXECUTE ON FUNCTION run_ops.table_differences(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_differences(what text, lines text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF cardinality(lines) > 0 THEN
    RAISE EXCEPTION '%', what
      USING ERRCODE = 'RO002', DETAIL = array_to_string(lines, E'\n'),
            HINT = 'Make both sides equal, then try again.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_differences(text, text[]) IS
  'raises one error with all differences, unless the list is empty';
