
-- table_gates: gates that compare a table with its copy in a store, or that look
-- at its rows: indexes, identity columns, ids, and what guards a row.
--
-- A definition is compared as text, with the column names of one side.

CREATE FUNCTION run_ops.renamed(definition text, names jsonb) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  item record;
BEGIN
  -- through temporary names, because two columns may have exchanged their names
  FOR item IN SELECT row_number() OVER (ORDER BY key) AS n, key, value FROM jsonb_each_text(names) LOOP
    definition := CASE WHEN quote_ident(item.key) LIKE '"%' THEN replace(definition, quote_ident(item.key), format(E'\x01%s\x01', item.n))
                       ELSE regexp_replace(definition, format('(?<![\w"$''])%s(?![\w"$(''])', item.key), format(E'\x01%s\x01', item.n), 'g') END;
  END LOOP;
  FOR item IN SELECT row_number() OVER (ORDER BY key) AS n, value FROM jsonb_each_text(names) LOOP
    definition := replace(definition, format(E'\x01%s\x01', item.n), quote_ident(item.value));
  END LOOP;
  RETURN definition;
END $$;
COMMENT ON FUNCTION run_ops.renamed(text, jsonb) IS
  'a definition with other names of columns: {name in the definition: other name}';

-- Indexes ------------------------------------------------------------------------

CREATE FUNCTION run_ops.index_facts_query(table_schema name, table_name name, ignored name[]) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- Storage parameters are left out, and the indexes with which this database
  -- counts strays (run_ops.stray_index()).
  SELECT format($q$
    SELECT DISTINCT CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END
             || regexp_replace(substring(pg_get_indexdef(i.indexrelid) FROM ' USING (.*)'), ' WITH \([^()]*\)', '')
             || CASE WHEN i.indisunique AND NOT i.indimmediate THEN ' DEFERRABLE' ELSE '' END AS definition
      FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = %L AND c.relname = %L AND i.indisvalid
       AND coalesce(pg_get_expr(i.indpred, i.indrelid) !~ '^\(NOT run_ops\.resides\([^()]*\)\)$', true)
       AND NOT EXISTS (SELECT FROM pg_attribute AS a
                        WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]) AND a.attname = ANY (%L))
    $q$, table_schema, table_name, ignored)
$$;
COMMENT ON FUNCTION run_ops.index_facts_query(name, name, name[]) IS
  'a query for the indexes of a table, as their definitions say them: UNIQUE, method, columns, condition. Leaves out those on ignored columns.';

CREATE FUNCTION run_ops.index_is_implied(narrow text, wide text) RETURNS boolean
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- the parts of a definition: method and columns, INCLUDE, WHERE
  WITH part AS (
    SELECT d.ord, m.part
      FROM (VALUES (1, narrow), (2, regexp_replace(wide, '^UNIQUE | DEFERRABLE$', '', 'g'))) AS d (ord, definition),
           LATERAL regexp_match(d.definition, '^(btree \(.*?)\)( INCLUDE \([^()]*\))?(?: NULLS NOT DISTINCT)?( WHERE .*)?$') AS m (part))
  SELECT narrow = wide OR EXISTS (
    SELECT FROM part AS n JOIN part AS w ON n.ord = 1 AND w.ord = 2
     WHERE (w.part[1] = n.part[1] OR starts_with(w.part[1], n.part[1] || ', '))
       AND coalesce(n.part[2] = w.part[2], n.part[2] IS NULL)
       AND coalesce(n.part[3] = w.part[3], w.part[3] IS NULL))
$$;
COMMENT ON FUNCTION run_ops.index_is_implied(text, text) IS
  'whether an index with the definition "wide" serves what one with the definition "narrow" does: the same columns and more, for the same rows or more. A unique index is implied by itself only.';

CREATE FUNCTION run_ops.creating_index(place text, definition text, without_lock boolean) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN definition LIKE '% DEFERRABLE' THEN
                format('ALTER TABLE %s ADD UNIQUE%s %s;', place, substring(definition FROM ' NULLS NOT DISTINCT'),
                       replace(regexp_replace(definition, '^UNIQUE btree ', ''), ' NULLS NOT DISTINCT', ''))
              ELSE format('CREATE %sINDEX %sON %s USING %s;', substring(definition FROM '^UNIQUE '), CASE WHEN without_lock THEN 'CONCURRENTLY ' END,
                          place, regexp_replace(definition, '^UNIQUE ', '')) END
$$;
COMMENT ON FUNCTION run_ops.creating_index(text, text, boolean) IS 'SQL that creates an index with a definition of run_ops.index_facts_query() on a table';

CREATE FUNCTION run_ops.local_indexes(t run_ops.routed_table) RETURNS text[]
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  definitions text[];
BEGIN
  EXECUTE (SELECT format('SELECT array_agg(q.definition ORDER BY q.definition) FROM (%s) AS q', run_ops.index_facts_query(n.nspname, c.relname, '{}'))
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = t.legacy) INTO definitions;
  RETURN coalesce(definitions, '{}');
END $$;
COMMENT ON FUNCTION run_ops.local_indexes(run_ops.routed_table) IS 'the definitions of the indexes of a local table';

CREATE FUNCTION run_ops.store_indexes(store text, t run_ops.routed_table) RETURNS text[]
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(array_agg(run_ops.renamed(a ->> 'definition', r.names) ORDER BY 1), '{}')
    FROM (SELECT jsonb_object_agg(value, key) FROM jsonb_each_text(t.column_names)) AS r (names),
         run_ops.ask_store(store, run_ops.index_facts_query(t.store_schema, t.store_table,
           ARRAY(SELECT jsonb_object_keys(t.store_defaults)))) AS a
$$;
COMMENT ON FUNCTION run_ops.store_indexes(text, run_ops.routed_table) IS
  'the definitions of the indexes of a table in a store, with the column names of this database';
REVOKE EXECUTE ON FUNCTION run_ops.store_indexes(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.index_gates(store text, t run_ops.routed_table) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  WITH side AS MATERIALIZED (SELECT run_ops.local_indexes(t) AS here, run_ops.store_indexes(index_gates.store, t) AS there)
  SELECT 'index', format('%s %s', t.legacy, d.name), false,
         CASE WHEN d.is_here THEN format('missing in store "%s"', index_gates.store)
              ELSE format('missing in this database, exists in store "%s"', index_gates.store) END,
         CASE WHEN d.is_here AND u.unique <> '' AND u.definition !~ format('(?<![\w"])%s(?![\w"])', substring(p.partition_key FROM '\((.*)\)')) THEN
                format('The table there is partitioned by %s, and a unique index must have these columns.', p.partition_key)
              WHEN d.is_here THEN
                format('Run in store "%s": %s', index_gates.store,
                  run_ops.creating_index(format('%I.%I', t.store_schema, t.store_table), run_ops.renamed(d.name, t.column_names), p.partition_key IS NULL))
              -- from the store, which may be hostile: one statement at most
              WHEN u.definition !~ ';' THEN run_ops.creating_index(t.legacy::text, d.name, true) END
    FROM side,
         LATERAL (SELECT h, true FROM unnest(side.here) AS h
                   WHERE NOT EXISTS (SELECT FROM unnest(side.there) AS o WHERE run_ops.index_is_implied(h, o))
                  UNION ALL
                  SELECT o, false FROM unnest(side.there) AS o
                   WHERE NOT EXISTS (SELECT FROM unnest(side.here) AS h WHERE run_ops.index_is_implied(o, h))) AS d (name, is_here),
         LATERAL (SELECT CASE WHEN d.name LIKE 'UNIQUE %' THEN 'UNIQUE ' ELSE '' END, regexp_replace(d.name, '^UNIQUE ', '')) AS u ("unique", definition),
         LATERAL (SELECT (SELECT a ->> 'partition_key' FROM run_ops.ask_store(index_gates.store, run_ops.partition_query(t.store_schema, t.store_table)) AS a
                           WHERE d.is_here)) AS p (partition_key)
   ORDER BY d.name
$$;
COMMENT ON FUNCTION run_ops.index_gates(text, run_ops.routed_table) IS
  'the indexes of a table that exist on one side only, and that no wider index of the other side implies';
REVOKE EXECUTE ON FUNCTION run_ops.index_gates(text, run_ops.routed_table) FROM PUBLIC;

-- Foreign keys without an index ---------------------------------------------------
-- This gate never fails: what is missing makes deletions slow, with split off as
-- well.

CREATE FUNCTION run_ops.unindexed_keys_query(parents text[]) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format($q$
    SELECT format('%%I of %%s', f.conname, f.conrelid::regclass) AS name, f.confrelid::regclass::text AS parent,
           format('CREATE INDEX %%sON %%s (%%s);', CASE WHEN c.relkind = 'r' THEN 'CONCURRENTLY ' ELSE '' END, f.conrelid::regclass,
             (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.ord)
                FROM unnest(f.conkey) WITH ORDINALITY AS k (attnum, ord)
                JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum)) AS statement
      FROM pg_constraint AS f JOIN pg_class AS c ON c.oid = f.conrelid
      JOIN pg_class AS p ON p.oid = f.confrelid JOIN pg_namespace AS n ON n.oid = p.relnamespace
     -- conenforced exists from PostgreSQL 18 on
     WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
       AND format('%%I.%%I', n.nspname, p.relname) = ANY (%L::text[])
       AND NOT EXISTS (SELECT FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_am AS m ON m.oid = x.relam
                        WHERE i.indrelid = f.conrelid AND i.indisvalid AND m.amname IN ('btree', 'hash')
                          AND (i.indkey::int2[])[0:cardinality(f.conkey) - 1] @> f.conkey
                          -- a foreign key looks for values that are not null
                          AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) IN (
                                 SELECT format('(%%I IS NOT NULL)', a.attname) FROM pg_attribute AS a
                                  WHERE a.attrelid = f.conrelid AND a.attnum = ANY (f.conkey))))
     ORDER BY 1 $q$, parents)
$$;
COMMENT ON FUNCTION run_ops.unindexed_keys_query(text[]) IS
  'a query for the foreign keys that refer to these tables from columns without an index: name, table, and the statement that creates the index';

CREATE FUNCTION run_ops.local_key_index_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY EXECUTE format('SELECT ''foreign key index'', k.name, true, format(%L, k.parent), k.statement FROM (%s) AS k',
    'its columns have no index, so each DELETE of a row of %s reads the whole table',
    run_ops.unindexed_keys_query(ARRAY(SELECT t.legacy::text FROM run_ops.routed_table AS t)));
END $$;
COMMENT ON FUNCTION run_ops.local_key_index_gates() IS
  'foreign keys that refer to a local table from columns without an index; never fails, the hint has the SQL that creates the index';

CREATE FUNCTION run_ops.store_key_index_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'foreign key index', format('%s in store "%s"', k ->> 'name', store_key_index_gates.store), true,
         format('its columns have no index, so each DELETE of a row of %s reads the whole table', k ->> 'parent'),
         format('Run in store "%s": %s', store_key_index_gates.store, k ->> 'statement')
    FROM run_ops.ask_store(store_key_index_gates.store, run_ops.unindexed_keys_query(ARRAY(
           SELECT format('%I.%I', t.store_schema, t.store_table) FROM run_ops.routed_table AS t))) AS k
$$;
COMMENT ON FUNCTION run_ops.store_key_index_gates(text) IS
  'foreign keys that refer to a routed table in a store from columns without an index; never fails, the hint has the SQL that creates the index';
REVOKE EXECUTE ON FUNCTION run_ops.store_key_index_gates(text) FROM PUBLIC;

-- Keys ----------------------------------------------------------------------------
-- attach_table() requires a key, and NOT NULL of a column with a key rule.  The gate
-- "columns" holds the stores to what this database has.

CREATE FUNCTION run_ops.never_null(t run_ops.routed_table) RETURNS name[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN t.key_columns OPERATOR(pg_catalog.||) CASE WHEN t.key_rule IS NOT NULL THEN ARRAY[t.route_column] END;
COMMENT ON FUNCTION run_ops.never_null(run_ops.routed_table) IS
  'the columns of a routed table that must be NOT NULL: its key, and the column of a key rule';

CREATE FUNCTION run_ops.key_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'key', format('%s.%I', t.legacy, a.attname), false,
         CASE WHEN a.attname = ANY (t.key_columns) THEN 'it may be NULL, but it is part of the key, which identifies a row'
              ELSE 'it may be NULL, but its value says which store has the row' END,
         format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', t.legacy, a.attname)
    FROM run_ops.routed_table AS t JOIN pg_attribute AS a ON a.attrelid = t.legacy
   WHERE a.attname = ANY (run_ops.never_null(t)) AND NOT a.attnotnull
  UNION ALL
  SELECT 'key', t.legacy::text, false, format('no unique index makes (%s) its key', run_ops.key_option(t)),
         format('CREATE UNIQUE INDEX %sON %s (%s);', CASE WHEN c.relkind = 'r' THEN 'CONCURRENTLY ' END, t.legacy, run_ops.key_option(t))
    FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.legacy
   WHERE NOT EXISTS (
     SELECT FROM pg_index AS i
      WHERE i.indrelid = t.legacy AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
        AND NOT EXISTS (SELECT FROM pg_attribute AS a
                         WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) AND a.attname <> ALL (t.key_columns)))
$$;
COMMENT ON FUNCTION run_ops.key_gates() IS
  'local tables whose key is no key any more, and columns that may be NULL although they identify a row or say which store has it';

-- Identity columns ----------------------------------------------------------------

CREATE FUNCTION run_ops.identity_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'identity', format('%s.%I', t.legacy, a.attname), false,
         'it is GENERATED ALWAYS, but one sequence must generate the values for every store',
         format('ALTER TABLE %s ALTER COLUMN %I SET GENERATED BY DEFAULT;', t.legacy, a.attname)
    FROM run_ops.routed_table AS t JOIN pg_attribute AS a ON a.attrelid = t.legacy
   WHERE a.attidentity = 'a' AND NOT a.attisdropped
   ORDER BY t.view::text, a.attnum
$$;
COMMENT ON FUNCTION run_ops.identity_gates() IS
  'columns of local tables that are GENERATED ALWAYS AS IDENTITY, with which split cannot be enabled';

CREATE FUNCTION run_ops.store_identity_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'identity', format('%s.%I in store "%s"', t.legacy, coalesce(n.key, i ->> 'name'), store_identity_gates.store), false,
         'it is GENERATED ALWAYS, so the store does not accept the values that this database generates',
         format('Run in store "%s": ALTER TABLE %I.%I ALTER COLUMN %I SET GENERATED BY DEFAULT;', store_identity_gates.store,
                t.store_schema, t.store_table, i ->> 'name')
    FROM run_ops.ask_store(store_identity_gates.store,
           'SELECT n.nspname AS schema, c.relname AS table, a.attname AS name FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid '
           'JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE a.attidentity = ''a'' AND NOT a.attisdropped') AS i
    JOIN run_ops.routed_table AS t ON t.store_schema = i ->> 'schema' AND t.store_table = i ->> 'table'
    LEFT JOIN LATERAL jsonb_each_text(t.column_names) AS n ON n.value = i ->> 'name'
   WHERE NOT t.store_defaults ? (i ->> 'name')
   ORDER BY t.view::text, i ->> 'name'
$$;
COMMENT ON FUNCTION run_ops.store_identity_gates(text) IS
  'columns of a store that are GENERATED ALWAYS AS IDENTITY, so that the store refuses the values of this database';
REVOKE EXECUTE ON FUNCTION run_ops.store_identity_gates(text) FROM PUBLIC;

-- What guards a row here and not in a store -----------------------------------------

CREATE FUNCTION run_ops.guards_query(table_schema name, table_name name) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- to_jsonb(), because conenforced exists from PostgreSQL 18 on
  SELECT format($q$
    WITH RECURSIVE whole AS (
      SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %1$L AND c.relname = %2$L),
    -- the table, and what its partitions have of their own
    rel AS (
      SELECT whole.oid, NULL::text AS part FROM whole
      UNION ALL
      SELECT p.relid, p.relid::regclass::text FROM whole, pg_partition_tree(whole.oid) AS p WHERE p.level > 0),
    type AS (
      SELECT a.atttypid AS oid FROM pg_attribute AS a JOIN whole ON a.attrelid = whole.oid WHERE a.attnum > 0 AND NOT a.attisdropped
      UNION
      SELECT u.oid FROM type JOIN pg_type AS t ON t.oid = type.oid LEFT JOIN pg_range AS r ON r.rngtypid = t.oid,
             unnest(ARRAY[t.typelem, t.typbasetype, r.rngsubtype]
                    || ARRAY(SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)) AS u (oid)
       WHERE u.oid <> 0),
    con AS (
      SELECT c.*, regexp_replace(pg_get_constraintdef(c.oid), '( NO INHERIT)?( NOT VALID)?$', '') AS def
        FROM pg_constraint AS c
       WHERE (c.conrelid IN (SELECT rel.oid FROM rel) OR c.contypid IN (SELECT type.oid FROM type))
         AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true) AND c.conname NOT IN ('run_ops_write_lock', 'run_ops_same_shape')
         AND c.conparentid = 0 AND (c.contype <> 'c' OR c.coninhcount = 0 OR c.conrelid IN (SELECT whole.oid FROM whole)))
    SELECT CASE con.contype WHEN 'c' THEN 'CHECK' ELSE 'EXCLUDE' END AS kind, con.conname::text AS name, con.def AS definition,
           NULL::text AS subject, NULL::text AS columns, NULL::text AS parent, NULL::text AS parent_columns, rel.part
      FROM con JOIN rel ON con.conrelid = rel.oid WHERE con.contype IN ('c', 'x')
    UNION ALL
    SELECT 'UNIQUE', c.relname, substring(pg_get_indexdef(c.oid) FROM ' USING (.*)'), NULL, NULL, NULL, NULL, rel.part
      FROM rel JOIN pg_index AS i ON i.indrelid = rel.oid AND i.indisunique AND i.indisvalid JOIN pg_class AS c ON c.oid = i.indexrelid
     WHERE NOT EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhrelid = c.oid)
    UNION ALL
    SELECT 'DOMAIN', con.conname, con.def, con.contypid::regtype::text, NULL, NULL, NULL, NULL
      FROM con JOIN type ON con.contypid = type.oid WHERE con.contype = 'c'
    UNION ALL
    SELECT 'DOMAIN', '', 'NOT NULL', t.oid::regtype::text, NULL, NULL, NULL, NULL
      FROM type JOIN pg_type AS t USING (oid) WHERE t.typtype = 'd' AND t.typnotnull
    UNION ALL
    SELECT 'FOREIGN KEY', con.conname, substr(con.def, length(format('FOREIGN KEY (%%s) REFERENCES %%s(%%s)', k.columns, con.confrelid::regclass, k.parent_columns)) + 1),
           NULL, k.columns, con.confrelid::regclass::text, k.parent_columns, rel.part
      FROM con JOIN rel ON con.conrelid = rel.oid,
           LATERAL (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.ord), string_agg(quote_ident(p.attname), ', ' ORDER BY u.ord)
                      FROM unnest(con.conkey, con.confkey) WITH ORDINALITY AS u (child, parent, ord)
                      JOIN pg_attribute AS a ON a.attrelid = con.conrelid AND a.attnum = u.child
                      JOIN pg_attribute AS p ON p.attrelid = con.confrelid AND p.attnum = u.parent) AS k (columns, parent_columns)
     WHERE con.contype = 'f'
    UNION ALL
    SELECT 'TRIGGER', g.tgname, pg_get_triggerdef(g.oid), g.tgfoid::regprocedure::text, NULL, g.tgrelid::regclass::text, NULL, rel.part
      FROM pg_trigger AS g JOIN rel ON g.tgrelid = rel.oid JOIN pg_proc AS p ON p.oid = g.tgfoid
     WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND g.tgenabled <> 'D' AND p.pronamespace::regnamespace::text !~ '^run_ops(_|$)' $q$,
    table_schema, table_name)
$$;
COMMENT ON FUNCTION run_ops.guards_query(name, name) IS
  'a query for what PostgreSQL tests or runs when a row of a table is written: CHECK and EXCLUDE constraints, unique indexes, constraints of domains, foreign keys, triggers; part is NULL, or the partition that alone has it';

CREATE FUNCTION run_ops.missing_guards(store text, t run_ops.routed_table)
  RETURNS TABLE (kind text, name text, subject text, definition text, part text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  there text := format('%I.%I', t.store_schema, t.store_table);
  query text := (SELECT run_ops.guards_query(n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                  WHERE c.oid = t.legacy);
BEGIN
  RETURN QUERY EXECUTE format($q$
    WITH here AS (
      SELECT g.kind, g.name, g.subject, g.part,
             CASE g.kind
               WHEN 'FOREIGN KEY' THEN format('FOREIGN KEY (%%s) REFERENCES %%I.%%I(%%s)%%s', run_ops.renamed(g.columns, $3), p.store_schema, p.store_table,
                                              run_ops.renamed(g.parent_columns, p.column_names), g.definition)
               WHEN 'TRIGGER' THEN run_ops.renamed(replace(g.definition, format(' ON %%s ', g.parent), format(' ON %%s ', $4)), $3)
               WHEN 'DOMAIN' THEN g.definition
               ELSE run_ops.renamed(g.definition, $3) END AS definition
        FROM (%s) AS g LEFT JOIN run_ops.routed_table AS p ON p.legacy::text = g.parent
       WHERE (g.kind <> 'FOREIGN KEY' OR p.view IS NOT NULL)
         -- unique indexes of the table have the gate "index"
         AND (g.kind <> 'UNIQUE' OR g.part IS NOT NULL)),
    there AS MATERIALIZED (
      SELECT s.* FROM run_ops.ask_store($1, $2) AS j,
             jsonb_to_record(j) AS s (kind text, name text, subject text, definition text, columns text, parent text, parent_columns text, part text))
    SELECT h.kind, h.name, h.subject, h.definition, h.part
      FROM here AS h
     WHERE NOT EXISTS (
       SELECT FROM there AS s
        WHERE s.kind = h.kind AND (s.part IS NULL OR h.part IS NOT NULL)
          AND CASE s.kind
                WHEN 'FOREIGN KEY' THEN h.definition = format('FOREIGN KEY (%%s) REFERENCES %%s(%%s)%%s', s.columns, s.parent, s.parent_columns, s.definition)
                WHEN 'TRIGGER' THEN replace(h.definition, 'TRIGGER ' || quote_ident(h.name), '') = replace(replace(s.definition, format(' ON %%s ', s.parent), format(' ON %%s ', $4)), 'TRIGGER ' || quote_ident(s.name), '')
                WHEN 'DOMAIN' THEN h.subject = s.subject AND h.definition = s.definition
                ELSE h.definition = s.definition END)
     ORDER BY h.kind, h.name, h.definition $q$, query)
    USING store, run_ops.guards_query(t.store_schema, t.store_table), t.column_names, there;
END $$;
COMMENT ON FUNCTION run_ops.missing_guards(text, run_ops.routed_table) IS
  'what guards a row of a local table or of one of its partitions, but not of its copy in a store; definitions have the names of the store';
REVOKE EXECUTE ON FUNCTION run_ops.missing_guards(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.guard_gates(store text, t run_ops.routed_table) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'guard',
         CASE m.kind WHEN 'DOMAIN' THEN format('%s of domain %s in %s', coalesce(nullif(quote_ident(m.name), '""'), m.definition), m.subject, t.legacy)
                     ELSE format('%s %I of %s', CASE m.kind WHEN 'TRIGGER' THEN 'trigger' ELSE m.kind END, m.name, coalesce(m.part, t.legacy::text)) END, false,
         format('missing in store "%s", whose rows are not subject to it', guard_gates.store),
         CASE WHEN m.part IS NOT NULL THEN
                format('Only this partition of %s has it. If the store is to have it: create it on its table, or on its partition with the same rows.', t.legacy)
              ELSE format('Run in store "%s": %s', guard_gates.store, CASE m.kind
           WHEN 'DOMAIN' THEN format('ALTER DOMAIN %s %s;', m.subject, CASE WHEN m.name = '' THEN 'SET NOT NULL'
                                     ELSE format('ADD CONSTRAINT %I %s NOT VALID', m.name, m.definition) END)
           WHEN 'TRIGGER' THEN
             -- with its function, unless the store has one of that name
             (SELECT concat(CASE WHEN NOT (a ->> 'found')::boolean THEN pg_get_functiondef(m.subject::regprocedure) || E';\n' END, m.definition, ';')
                FROM run_ops.ask_store(guard_gates.store, format('SELECT to_regprocedure(%L) IS NOT NULL AS found', m.subject)) AS a)
           ELSE format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s%s;', t.store_schema, t.store_table, m.name, m.definition,
                       CASE WHEN m.kind <> 'EXCLUDE' THEN ' NOT VALID' END) END) END
    FROM run_ops.missing_guards(guard_gates.store, t) AS m
$$;
COMMENT ON FUNCTION run_ops.guard_gates(text, run_ops.routed_table) IS
  'constraints and triggers of a local table that its copy in a store does not have';
REVOKE EXECUTE ON FUNCTION run_ops.guard_gates(text, run_ops.routed_table) FROM PUBLIC;

-- Ids ----------------------------------------------------------------------------

CREATE FUNCTION run_ops.id_scheme(id text) RETURNS text
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
  -- A ULID or TypeID of this time begins with 01, a runOpsId with 05 or more.
  SELECT CASE WHEN body ~* '^01[0-9a-hjkmnp-tv-z]{24}$' THEN 'ULID'
              WHEN id ~* '^([^_]*_)?[0-9a-f]{8}(-?)[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{12}$' THEN 'UUID'
              -- classified by its length alone
              WHEN run_ops.is_classifiable(id) AND body !~ '^[0-9A-Za-z]*$' THEN 'other' END
    FROM run_ops.id_body(id) AS body
$$;
COMMENT ON FUNCTION run_ops.id_scheme(text) IS
  'the scheme of ids that generates such ids, if it is not one of run_ops.id_kind; NULL otherwise';

CREATE FUNCTION run_ops.id_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t     run_ops.routed_table;
  share text;
  n     record;
BEGIN
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE r.routing <> 'store' AND r.key_rule IS NULL AND run_ops.is_complete(r) ORDER BY r.view LOOP
    -- of a large table, about a million rows
    share := (SELECT format(' TABLESAMPLE SYSTEM (%s)', round((1e8 / sum(c.reltuples))::numeric, 4))
                FROM run_ops.parts(t.legacy) AS p JOIN pg_class AS c ON c.oid = p AND c.relkind = 'r' HAVING sum(c.reltuples) > 1e6);
    SELECT * INTO n FROM run_ops.as_owner(t.legacy, format(
      'SELECT count(*), count(*) FILTER (WHERE s.scheme IS NULL), count(*) FILTER (WHERE s.scheme IS NOT NULL), '
      'string_agg(DISTINCT s.scheme, '', ''), count(*) FILTER (WHERE NOT run_ops.resides(x.id, ''legacy'')) '
      'FROM (SELECT %1$I::text AS id FROM %2$s%3$s) AS x, LATERAL (SELECT run_ops.id_scheme(x.id)) AS s (scheme) '
      -- first what leaves out almost every row
      'WHERE (NOT run_ops.is_classifiable(x.id) OR run_ops.classify_kind(x.id) = ''runOpsId''::run_ops.id_kind OR x.id !~ ''^[0-9A-Za-z_]*$'') '
      'AND (NOT run_ops.is_classifiable(x.id) OR s.scheme IS NOT NULL)', t.route_column, t.legacy, share))
      AS a (total bigint, shapeless bigint, others bigint, schemes text, misread bigint);
    CONTINUE WHEN n.total = 0;
    RETURN NEXT ROW('ids', t.legacy::text, false,
      concat_ws('; ', CASE WHEN share IS NOT NULL THEN 'in a sample of about a million rows' END,
        CASE WHEN n.shapeless > 0 THEN format('%s rows have an id of no known shape in "%s"', n.shapeless, t.route_column) END,
        CASE WHEN n.others > 0 THEN format('%s rows have an id that looks like one of another scheme (%s), of which %s would be taken for NEW ids',
                                           n.others, n.schemes, n.misread) END,
        'while split is on, an INSERT of an id of no known shape is refused'),
      format('Attach the table in a way that does not depend on ids: SELECT run_ops.detach_table(%L); SELECT run_ops.attach_table(%L, routing => ''store'', view_schema => %L, view_name => %L);',
             t.view, t.legacy, (SELECT c.relnamespace::regnamespace::text FROM pg_class AS c WHERE c.oid = t.view),
             (SELECT c.relname FROM pg_class AS c WHERE c.oid = t.view)))::run_ops.gate;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.id_gates() IS
  'ids in local tables that have no known shape, and those that look like ids of another scheme, so that their shape would say nothing about their store; reads whole tables, or a sample of large ones';
REVOKE EXECUTE ON FUNCTION run_ops.id_gates() FROM PUBLIC;

-- Collations ----------------------------------------------------------------------

CREATE FUNCTION run_ops.collation_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'collation', format('%s in store "%s"', d.collation_name, collation_gates.store), false,
         format('%s in legacy, %s in store "%s"; the store is not asked for an order or a range of %s', min(d.here), min(d.there), collation_gates.store,
                string_agg(format('%s.%I', t.legacy, d.column_name), ', ' ORDER BY t.view::text, d.column_name)),
         CASE WHEN NOT bool_or(d.same_definition) THEN
           format('Run in store "%s": ALTER COLLATION %s RENAME TO %I; CREATE COLLATION %s (%s); %s;', collation_gates.store,
                  d.collation_name,
                  (SELECT run_ops.spare_name(n.name::name, '_replaced', array_agg((a ->> 'name')::name)) FROM run_ops.ask_store(collation_gates.store, 'SELECT collname AS name FROM pg_collation') AS a),
                  d.collation_name, min(d.options), string_agg(
                    format('ALTER TABLE %I.%I ALTER COLUMN %I TYPE %s COLLATE %s', t.store_schema, t.store_table, d.store_column, d.type, d.collation_name),
                    '; ' ORDER BY t.view::text, d.column_name)) END
    FROM run_ops.differing_orders(collation_gates.store) AS d JOIN run_ops.routed_table AS t USING (view),
         LATERAL (SELECT p[cardinality(p)] FROM parse_ident(d.collation_name) AS p) AS n (name)
   -- another default collation, or another name: the gates database and columns say so
   WHERE d.same_definition OR d.collation_name <> '"default"' AND NOT EXISTS (
           SELECT FROM run_ops.table_differences(collation_gates.store, t) AS x WHERE starts_with(x, format('column %s: ', d.column_name)))
   GROUP BY d.collation_name, n.name
   ORDER BY d.collation_name
$$;
COMMENT ON FUNCTION run_ops.collation_gates(text) IS
  'collations of routed tables whose definition or library version is another one in a store';
REVOKE EXECUTE ON FUNCTION run_ops.collation_gates(text) FROM PUBLIC;

-- Columns ------------------------------------------------------------------------

CREATE FUNCTION run_ops.equalizing(store text, t run_ops.routed_table, is_missing boolean) RETURNS text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- What is missing on one side is added there.  If both sides have a column, the
  -- store follows this database.  A fact is: type, NOT NULL, DEFAULT.
  WITH difference AS (
    SELECT d.*, quote_ident(coalesce(t.column_names ->> d.name, d.name)) AS column_there, quote_ident(d.name) AS column_here,
           format('%I.%I', t.store_schema, t.store_table) AS there, t.legacy::text AS here,
           regexp_match(d.legacy_fact, p.pattern) AS wanted, regexp_match(d.store_fact, p.pattern) AS found
      FROM (SELECT '^(.*?)( NOT NULL)?(?: DEFAULT (.*))?$') AS p (pattern),
           run_ops.differences(equalizing.store,
             (SELECT run_ops.table_facts_query(n.nspname, c.relname, '{}') FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = t.legacy),
             run_ops.table_facts_query(t.store_schema, t.store_table, (SELECT coalesce(jsonb_object_agg(value, key), '{}') FROM jsonb_each_text(t.column_names)))) AS d
     WHERE NOT (d.legacy_fact IS NULL AND (d.aspect = 'unique key' OR t.store_defaults ? d.name))
       AND NOT (d.aspect = 'unique key' AND d.name <> run_ops.key_name(t))
       -- of a table that is missing, the types are not known
       AND NOT (is_missing AND d.aspect LIKE 'label of %')
       AND concat(d.legacy_fact, d.store_fact) !~ ' (GENERATED AS|IDENTITY)'),
  statement AS (
    SELECT d.store_fact IS NULL OR d.aspect = 'column' AND d.legacy_fact IS NOT NULL AS in_store, d.aspect, d.name, s.sql
      FROM difference AS d, LATERAL unnest(CASE
        WHEN d.aspect = 'column' AND d.store_fact IS NULL THEN ARRAY[format('ALTER TABLE %s ADD COLUMN %s %s;', d.there, d.column_there, d.legacy_fact)]
        WHEN concat(d.name, d.store_fact) ~ ';' THEN '{}'  -- a store may be hostile
        WHEN d.aspect = 'column' AND d.legacy_fact IS NULL THEN ARRAY[format('ALTER TABLE %s ADD COLUMN %s %s;', d.here, d.column_here, d.store_fact)]
        WHEN d.aspect = 'column' THEN ARRAY[
          CASE WHEN d.wanted[3] IS DISTINCT FROM d.found[3] AND d.found[3] IS NOT NULL THEN format('ALTER TABLE %s ALTER COLUMN %s DROP DEFAULT;', d.there, d.column_there) END,
          CASE WHEN d.wanted[1] <> d.found[1] THEN format('ALTER TABLE %s ALTER COLUMN %s TYPE %s;', d.there, d.column_there, d.wanted[1]) END,
          CASE WHEN d.wanted[3] IS DISTINCT FROM d.found[3] AND d.wanted[3] IS NOT NULL THEN
            format('ALTER TABLE %s ALTER COLUMN %s SET DEFAULT %s;', d.there, d.column_there, d.wanted[3]) END,
          -- a column that must be NOT NULL has a gate of its own
          CASE WHEN d.wanted[2] IS DISTINCT FROM d.found[2] AND (d.wanted[2] IS NOT NULL OR d.name <> ALL (run_ops.never_null(t))) THEN
            format('ALTER TABLE %s ALTER COLUMN %s %s NOT NULL;', d.there, d.column_there, CASE WHEN d.wanted[2] IS NULL THEN 'DROP' ELSE 'SET' END) END]
        WHEN d.aspect LIKE 'label of %' THEN ARRAY[format('ALTER TYPE %s ADD VALUE %s;', substr(d.aspect, length('label of ') + 1), d.name)]
        WHEN d.aspect = 'unique key' THEN ARRAY[format('CREATE UNIQUE INDEX CONCURRENTLY ON %s (%s);', d.there, run_ops.renamed(d.name, t.column_names))] END) AS s (sql)
     WHERE s.sql IS NOT NULL)
  SELECT nullif(concat_ws(' ',
    (SELECT format('Run in this database: %s', string_agg(s.sql, ' ' ORDER BY s.aspect, s.name)) FROM statement AS s WHERE NOT s.in_store HAVING count(*) > 0),
    (SELECT format('Run in store "%s": %s%s', equalizing.store, CASE WHEN is_missing THEN format('CREATE TABLE %I.%I (); ', t.store_schema, t.store_table) END,
                   string_agg(s.sql, ' ' ORDER BY s.aspect, s.name)) FROM statement AS s WHERE s.in_store HAVING count(*) > 0)), '')
$$;
COMMENT ON FUNCTION run_ops.equalizing(text, run_ops.routed_table, boolean) IS
  'SQL after which a table and its copy in a store, which may be missing, have the same columns, enum labels and unique keys; generated columns are left out';
REVOKE EXECUTE ON FUNCTION run_ops.equalizing(text, run_ops.routed_table, boolean) FROM PUBLIC;
