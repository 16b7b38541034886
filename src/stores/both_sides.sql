
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
             ('locale', coalesce(d ->> 'datlocale', d ->> 'daticulocale')),
             ('collation rules', d ->> 'daticurules')) AS f (aspect, fact)
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
    WITH RECURSIVE col AS (
      SELECT a.*, coalesce(%3$L::jsonb ->> a.attname::text, a.attname::text) AS local_name
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid
       WHERE n.nspname = %1$L AND c.relname = %2$L AND c.relkind IN ('r', 'p')
         AND a.attnum > 0 AND NOT a.attisdropped),
    -- the types of columns, and those of which they are made
    type AS (
      SELECT atttypid AS oid FROM col
      UNION
      SELECT u.oid
        FROM type JOIN pg_type AS t ON t.oid = type.oid LEFT JOIN pg_range AS r ON r.rngtypid = t.oid,
             unnest(ARRAY[t.typelem, t.typbasetype, r.rngsubtype]
                    || ARRAY(SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)) AS u (oid)
       WHERE u.oid <> 0)
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
    SELECT 'label of ' || format_type(e.enumtypid, NULL), quote_literal(e.enumlabel), 'present'
      FROM type JOIN pg_enum AS e ON e.enumtypid = type.oid
    UNION ALL
    -- of a type that both sides have by its name
    SELECT 'type', format_type(t.oid, NULL),
           CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
             ELSE (SELECT format('(%%s)', string_agg(format('%%I %%s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum))
                     FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) END
      FROM type JOIN pg_type AS t USING (oid)
     WHERE t.typtype IN ('c', 'd') AND t.typnamespace <> 'pg_catalog'::regnamespace
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

CREATE FUNCTION run_ops.key_name(t run_ops.routed_table) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(quote_ident(k), ', ' ORDER BY k::text) FROM unnest(t.key_columns) AS k
$$;
COMMENT ON FUNCTION run_ops.key_name(run_ops.routed_table) IS 'the key of a routed table, as run_ops.table_facts_query() names unique keys';

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
    RETURN NEXT format('table %I.%I: ', t.store_schema, t.store_table) || coalesce(
      (SELECT format('is not a table in store "%s", but a %s', store, a ->> 'kind')
         FROM run_ops.ask_store(store, format($q$SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE c.relkind::text END AS kind
                                                   FROM pg_class AS c WHERE c.oid = to_regclass(%L)$q$, format('%I.%I', t.store_schema, t.store_table))) AS a),
      format('missing in store "%s"', store));
    RETURN;
  END IF;
  RETURN QUERY
    SELECT run_ops.difference_text(store, d.aspect, d.name, d.legacy_fact, d.store_fact)
      FROM run_ops.differences(store, legacy_query, store_query) AS d
     WHERE NOT (d.legacy_fact IS NULL
                -- more unique keys in the store do no harm, and the columns
                -- that only the store has may have a default
                -- and types of their own
                AND (d.aspect IN ('unique key', 'type') OR t.store_defaults ? d.name))
           -- other unique keys than that by which rows are named have the gate "index"
       AND NOT (d.aspect = 'unique key' AND d.name <> run_ops.key_name(t));
END $$;
COMMENT ON FUNCTION run_ops.table_differences(text, run_ops.routed_table) IS
  'what differs between a local table and its copy in a store: columns, definitions and labels of their types, unique keys. They are compared by name; the order of columns and labels may differ.';
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

-- In which order both sides have texts ------------------------------------------
-- A collation is its definition, and the version of the library that implements
-- it.  If one of them differs, foreign tables are marked, and a store is not
-- asked for an order or a range; see store_order.c.

CREATE FUNCTION run_ops.collations_query(tables text[]) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- to_jsonb(), because some columns do not exist in all PostgreSQL versions
  SELECT format($q$
    WITH col AS (
      SELECT format('%%I.%%I', n.nspname, c.relname) AS relation, a.attname, format_type(a.atttypid, a.atttypmod) AS type,
             -- jsonb is ordered as text is by default
             CASE WHEN 'jsonb'::regtype IN (t.oid, t.typbasetype) THEN 100::oid ELSE a.attcollation END AS collation_oid
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type AS t ON t.oid = a.atttypid
       WHERE format('%%I.%%I', n.nspname, c.relname) = ANY (%L)),
    def AS (
      SELECT l.oid, l.oid::regcollation::text AS name, coalesce(l.collisdeterministic, true) AS deterministic,
             pg_collation_actual_version(l.oid) AS version, d.*
        FROM pg_collation AS l, LATERAL (SELECT to_jsonb(l), (SELECT to_jsonb(b) FROM pg_database AS b WHERE b.datname = current_database())) AS j (l, b),
             LATERAL (SELECT CASE l.collprovider WHEN 'd' THEN coalesce(b ->> 'datlocprovider', 'c') ELSE l.collprovider::text END AS provider,
                             CASE l.collprovider WHEN 'd' THEN b ->> 'datcollate' ELSE j.l ->> 'collcollate' END AS lc_collate,
                             CASE l.collprovider WHEN 'd' THEN b ->> 'datctype' ELSE j.l ->> 'collctype' END AS lc_ctype,
                             CASE l.collprovider WHEN 'd' THEN coalesce(b ->> 'datlocale', b ->> 'daticulocale')
                                                 ELSE coalesce(j.l ->> 'colllocale', j.l ->> 'colliculocale', j.l ->> 'collcollate') END AS locale,
                             CASE l.collprovider WHEN 'd' THEN b ->> 'daticurules' ELSE j.l ->> 'collicurules' END AS rules) AS d
       WHERE l.oid IN (SELECT col.collation_oid FROM col))
    SELECT col.relation, col.attname AS column, col.type, def.name AS collation_name,
           CASE WHEN def.provider <> 'i' AND def.lc_collate IN ('C', 'POSIX') OR def.provider = 'b' AND def.locale = 'C' THEN 'C'
                ELSE concat_ws(' ', CASE def.provider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
                       CASE WHEN def.provider = 'c' THEN lower(replace(def.lc_collate, '-', '')) ELSE def.locale END,
                       CASE WHEN def.provider = 'c' AND def.lc_ctype <> def.lc_collate THEN lower(replace(def.lc_ctype, '-', '')) END,
                       def.rules, CASE WHEN NOT def.deterministic THEN 'nondeterministic' END) END AS definition,
           -- before PostgreSQL 15 the default collation has no version of its own
           coalesce(def.version, CASE WHEN def.oid = 100 THEN (
             SELECT max(pg_collation_actual_version(s.oid)) FROM pg_collation AS s
              WHERE s.collprovider = 'c' AND s.collcollate = def.lc_collate AND s.collencoding IN (-1, pg_char_to_encoding(getdatabaseencoding()))) END) AS version,
           concat_ws(', ', format('provider = %%s', CASE def.provider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END),
             CASE WHEN def.provider = 'c' THEN format('lc_collate = %%L, lc_ctype = %%L', def.lc_collate, def.lc_ctype) ELSE format('locale = %%L', def.locale) END,
             'rules = ' || quote_literal(nullif(def.rules, '')), CASE WHEN NOT def.deterministic THEN 'deterministic = false' END) AS options
      FROM col JOIN def ON def.oid = col.collation_oid $q$, tables)
$$;
COMMENT ON FUNCTION run_ops.collations_query(text[]) IS
  'a query for the collation of each column of these tables that has one: its name, definition and actual version, and the options with which it can be created';

CREATE FUNCTION run_ops.differing_orders(store text)
  RETURNS TABLE (view regclass, foreign_table regclass, column_name name, store_column name, type text, collation_name text, same_definition boolean,
                 here text, there text, options text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY EXECUTE format($q$
    WITH here AS (%s),
    there AS (SELECT s.* FROM run_ops.ask_store($1, $2) AS j,
                     jsonb_to_record(j) AS s (relation text, "column" text, collation_name text, definition text, version text))
    SELECT t.view, r.foreign_table, h."column"::name, s."column"::name, h.type, h.collation_name, h.definition = s.definition AND h.collation_name = s.collation_name,
           concat_ws(' version ', h.definition, h.version), concat_ws(' version ', s.definition, s.version), h.options
      FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS r ON r.view = t.view AND r.store = $1
      JOIN here AS h ON h.relation = t.legacy::text
      JOIN there AS s ON s.relation = format('%%I.%%I', t.store_schema, t.store_table)
                     AND s."column" = coalesce(t.column_names ->> h."column"::text, h."column")
     WHERE h.definition <> s.definition OR h.version IS DISTINCT FROM s.version
     ORDER BY 1::text, 3 $q$, run_ops.collations_query(ARRAY(SELECT t.legacy::text FROM run_ops.routed_table AS t)))
    USING store, run_ops.collations_query(ARRAY(SELECT format('%I.%I', t.store_schema, t.store_table) FROM run_ops.routed_table AS t));
END $$;
COMMENT ON FUNCTION run_ops.differing_orders(text) IS
  'the columns of routed tables whose collation is another one in the store, by its definition or by the version of its library';
REVOKE EXECUTE ON FUNCTION run_ops.differing_orders(text) FROM PUBLIC;

CREATE FUNCTION run_ops.mark_orders(store text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  item record;
BEGIN
  FOR item IN
    SELECT r.foreign_table, a.attname, d.column_name IS NOT NULL AS differs
      FROM run_ops.routed_store AS r
      JOIN pg_attribute AS a ON a.attrelid = r.foreign_table AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN run_ops.differing_orders(mark_orders.store) AS d ON d.foreign_table = r.foreign_table AND d.column_name = a.attname
     WHERE r.store = mark_orders.store
       AND (d.column_name IS NOT NULL) <> EXISTS (SELECT FROM pg_options_to_table(a.attfdwoptions) AS o WHERE o.option_name = 'order_differs')
  LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s ALTER COLUMN %I OPTIONS (%s)', item.foreign_table, item.attname,
                   CASE WHEN item.differs THEN 'ADD order_differs ''true''' ELSE 'DROP order_differs' END);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.mark_orders(text) IS
  'marks the columns of foreign tables whose order differs in the store, so that the store is not asked for an order or a range of their values';
REVOKE EXECUTE ON FUNCTION run_ops.mark_orders(text) FROM PUBLIC;

CREATE FUNCTION run_ops.order_differs(t run_ops.routed_table, column_name name) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT EXISTS (SELECT FROM run_ops.routed_store AS r
                   JOIN pg_attribute AS a ON a.attrelid = r.foreign_table, pg_options_to_table(a.attfdwoptions) AS o
                  WHERE r.view = t.view AND a.attname = order_differs.column_name AND o.option_name = 'order_differs' AND o.option_value::boolean)
$$;
COMMENT ON FUNCTION run_ops.order_differs(run_ops.routed_table, name) IS
  'whether a column is marked as having another order in one of the stores';
