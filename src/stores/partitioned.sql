
-- partitioned: store tables that are partitioned by the time in their ids.
--
-- Ids that begin with their time sort by it.  So a table of a store can be
-- PARTITION BY RANGE (id): old rows are deleted by dropping a partition, and the
-- primary key stays as it is.  The functions here print SQL, because the owner of
-- the tables in the store decides.

CREATE FUNCTION run_ops.time_floors(kind text, period text, ahead int, after timestamptz, epoch timestamptz)
  RETURNS TABLE (ord int, name text, floor text, ceiling text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
  SELECT i, to_char(t.since, 'YYYYMMDD'), run_ops.id_floor(kind, t.since, epoch), run_ops.id_floor(kind, t.until, epoch)
    FROM generate_series(1, ahead) AS i,
         (VALUES ('day', interval '1 day'), ('week', '1 week'), ('month', '1 month'), ('quarter', '3 months'), ('year', '1 year')) AS p (name, step),
         LATERAL (SELECT date_trunc(p.name, after) + i * p.step, date_trunc(p.name, after) + (i + 1) * p.step) AS t (since, until)
   WHERE p.name = period
$$;
COMMENT ON FUNCTION run_ops.time_floors(text, text, int, timestamptz, timestamptz) IS
  'the periods (UTC) that begin after a time: the lowest id of each, and that of the next; the name is the date of its first day';

CREATE FUNCTION run_ops.partition_query(table_schema name, table_name name) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format($q$
    SELECT pg_get_partkeydef(c.oid) AS partition_key,
           (SELECT jsonb_agg(jsonb_build_object('floor', b.bound[1], 'ceiling', b.bound[2]))
              FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhrelid,
                   LATERAL regexp_match(pg_get_expr(p.relpartbound, p.oid), $r$^FOR VALUES FROM \((?:'(.*)'|MINVALUE)\) TO \((?:'(.*)'|MAXVALUE)\)$r$) AS b (bound)
             WHERE i.inhparent = c.oid AND b.bound IS NOT NULL) AS partitions
      FROM pg_class AS c WHERE c.oid = %L::regclass AND c.relkind = 'p'
    $q$, format('%I.%I', table_schema, table_name))
$$;
COMMENT ON FUNCTION run_ops.partition_query(name, name) IS
  'a query: how a table is partitioned, and the bounds of its partitions if it is by range of one column; a bound that is NULL has no end. No row for a plain table.';

CREATE FUNCTION run_ops.is_past_partitions(t run_ops.routed_table, store text, id text) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  partitions jsonb;
  past       boolean;
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = is_past_partitions.store) THEN
    RETURN false;
  ELSIF store = 'legacy' THEN
    EXECUTE (SELECT format('SELECT q.partitions FROM (%s) AS q WHERE q.partition_key = %L', run_ops.partition_query(n.nspname, c.relname), format('RANGE (%I)', t.route_column))
               FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = t.legacy) INTO partitions;
  ELSE
    partitions := (SELECT a -> 'partitions' FROM run_ops.ask_store(store, run_ops.partition_query(t.store_schema, t.store_table)) AS a
                    WHERE a ->> 'partition_key' = format('RANGE (%I)', coalesce(t.column_names ->> t.route_column, t.route_column)));
  END IF;
  EXECUTE format('SELECT bool_and((p ->> ''floor'')::%1$s > %2$L::%1$s) IS TRUE AND count(*) = count(p ->> ''floor'') FROM jsonb_array_elements($1) AS p',
                 run_ops.column_type(t.legacy, t.route_column), id) INTO past USING coalesce(nullif(partitions, 'null'), '[]');
  RETURN past;
END $$;
COMMENT ON FUNCTION run_ops.is_past_partitions(run_ops.routed_table, text, text) IS
  'whether the table of a store is partitioned by its ids, and all partitions begin after this id, so that its row has been dropped';
REVOKE EXECUTE ON FUNCTION run_ops.is_past_partitions(run_ops.routed_table, text, text) FROM PUBLIC;

-- What a table has beside its columns is asked of the store, as the statements
-- that make it again.  LIKE copies the rest.
CREATE FUNCTION run_ops.partitioning_query(t run_ops.routed_table, key text, bound text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format($q$
    WITH t AS (
      SELECT c.*, format('%%I.%%I', %1$L, %2$L) AS whole, format('%%I.%%I', %1$L, %2$L || '_before') AS before, a.attnum AS key_number
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = %3$L
       WHERE c.oid = format('%%I.%%I', %1$L, %2$L)::regclass),
    i AS (
      -- a unique index of a partitioned table must have the key
      SELECT i.indisunique AND t.key_number <> ALL (i.indkey) AS lost, pg_get_constraintdef(k.oid) AS primary_key,
             replace(pg_get_indexdef(x.oid), format('INDEX %%I ON ', x.relname), 'INDEX ON ') AS definition
        FROM t JOIN pg_index AS i ON i.indrelid = t.oid JOIN pg_class AS x ON x.oid = i.indexrelid
        LEFT JOIN pg_constraint AS k ON k.conindid = x.oid AND k.contype = 'p'),
    -- those that refer to the table, also from itself, are made again after the others, without a long lock
    f AS (
      SELECT k.conname, k.confrelid = t.oid AS refers_here, k.conrelid = t.oid AS from_here, k.conrelid::regclass::text AS child,
             replace(pg_get_constraintdef(k.oid), ' NOT VALID', '') AS definition,
             CASE WHEN (SELECT c.relkind FROM pg_class AS c WHERE c.oid = k.conrelid) <> 'p' THEN ' NOT VALID' ELSE '' END AS not_valid
        FROM t JOIN pg_constraint AS k ON t.oid IN (k.conrelid, k.confrelid) WHERE k.contype = 'f' AND k.conparentid = 0)
    SELECT s.ord, s.statement
      FROM t, LATERAL (
        SELECT -1, format('identity column %%I', a.attname) FROM pg_attribute AS a WHERE a.attrelid = t.oid AND a.attidentity <> ''
        UNION ALL SELECT -1, 'row security' WHERE t.relrowsecurity
        UNION ALL SELECT -1, 'rules' WHERE t.relhasrules
        UNION ALL SELECT -1, 'children that inherit from it' WHERE t.relhassubclass
        UNION ALL SELECT -1, format('publication %%I', p.pubname) FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid WHERE r.prrelid = t.oid
        UNION ALL SELECT DISTINCT -1, format('view %%s, which reads it', w.ev_class::regclass)
          FROM pg_depend AS d JOIN pg_rewrite AS w ON w.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = t.oid AND w.ev_class <> t.oid
        UNION ALL SELECT 10, format('ALTER TABLE %%s ADD CONSTRAINT run_ops_before CHECK (%%I < %%L) NOT VALID', t.whole, %3$L, %4$L)
        UNION ALL SELECT 11, format('ALTER TABLE %%s VALIDATE CONSTRAINT %%I', t.whole, k.conname)
          FROM (SELECT k.conname FROM pg_constraint AS k WHERE k.conrelid = t.oid AND NOT k.convalidated UNION ALL SELECT 'run_ops_before') AS k
        UNION ALL SELECT 12, replace(i.definition, 'CREATE UNIQUE INDEX ON ', 'CREATE INDEX CONCURRENTLY ON ') FROM i WHERE i.lost
        UNION ALL SELECT 20, 'BEGIN'
        UNION ALL SELECT 21, format('ALTER TABLE %%s DROP CONSTRAINT %%I', f.child, f.conname) FROM f WHERE f.refers_here
        UNION ALL SELECT 22, format('DROP TRIGGER %%I ON %%s', g.tgname, t.whole) FROM pg_trigger AS g WHERE g.tgrelid = t.oid AND NOT g.tgisinternal
        UNION ALL SELECT 23, format('ALTER TABLE %%s RENAME TO %%I', t.whole, %2$L || '_before')
        UNION ALL SELECT 24, format('CREATE TABLE %%s (LIKE %%s INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE (%%I)', t.whole, t.before, %3$L)
        UNION ALL SELECT 25, format('ALTER TABLE %%s DROP CONSTRAINT run_ops_before', t.whole)
        UNION ALL SELECT 26, format('ALTER TABLE %%s OWNER TO %%s', t.whole, t.relowner::regrole)
        UNION ALL SELECT 27, format('GRANT %%s ON %%s TO %%s', string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type), t.whole, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
          FROM aclexplode(t.relacl) AS x WHERE x.grantee <> t.relowner GROUP BY x.grantee
        UNION ALL SELECT 28, CASE WHEN i.primary_key IS NOT NULL THEN format('ALTER TABLE %%s ADD %%s', t.whole, i.primary_key)
                                  WHEN i.lost THEN replace(i.definition, 'CREATE UNIQUE INDEX ON ', 'CREATE INDEX ON ') ELSE i.definition END FROM i
        UNION ALL SELECT 29, format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', t.whole, f.conname, f.definition) FROM f WHERE f.from_here AND NOT f.refers_here
        UNION ALL SELECT 30, pg_get_triggerdef(g.oid) FROM pg_trigger AS g WHERE g.tgrelid = t.oid AND NOT g.tgisinternal
        UNION ALL SELECT 31, format('ALTER TABLE %%s ATTACH PARTITION %%s FOR VALUES FROM (MINVALUE) TO (%%L)', t.whole, t.before, %4$L)
        UNION ALL SELECT 33, format('CREATE TABLE %%I.%%I PARTITION OF %%s DEFAULT', %1$L, %2$L || '_default', t.whole)
        UNION ALL SELECT 34, format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s%%s', CASE WHEN f.from_here THEN t.before ELSE f.child END, f.conname, f.definition, f.not_valid) FROM f WHERE f.refers_here
        UNION ALL SELECT 35, 'COMMIT'
        UNION ALL SELECT 36, format('ALTER TABLE %%s VALIDATE CONSTRAINT %%I', CASE WHEN f.from_here THEN t.before ELSE f.child END, f.conname) FROM f WHERE f.refers_here AND f.not_valid <> ''
        UNION ALL SELECT 37, format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', t.whole, f.conname, f.definition) FROM f WHERE f.refers_here AND f.from_here
        UNION ALL SELECT 38, format('ALTER TABLE %%s DROP CONSTRAINT run_ops_before', t.before)
        UNION ALL SELECT 39, format('ANALYZE %%s', t.whole)) AS s (ord, statement)
     ORDER BY s.ord, s.statement
    $q$, t.store_schema, t.store_table, key, bound)
$$;
COMMENT ON FUNCTION run_ops.partitioning_query(run_ops.routed_table, text, text) IS
  'a query for a store: the statements that make its table the first partition of a new one, up to this bound; those with ord -1 are reasons why they cannot';

CREATE FUNCTION run_ops.partition_store_table(view regclass, kind text, period text DEFAULT 'month', ahead int DEFAULT 3, store text DEFAULT 'new', epoch timestamptz DEFAULT 'epoch')
  RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t       run_ops.routed_table := run_ops.routed(view);
  key     text := coalesce(t.column_names ->> t.route_column, t.route_column);
  there   jsonb;
  reasons text;
  first   text;
BEGIN
  IF t.route_column IS NULL OR cardinality(t.key_columns) > 1 THEN
    RAISE EXCEPTION 'table % cannot be partitioned by its ids', t.view
      USING ERRCODE = 'wrong_object_type',
            DETAIL = CASE WHEN t.route_column IS NULL THEN 'The ids of its rows do not tell their store.' ELSE format('Its key is (%s).', array_to_string(t.key_columns, ', ')) END;
  ELSIF period IS NULL OR period NOT IN ('day', 'week', 'month', 'quarter', 'year') OR ahead IS NULL OR ahead < 1 THEN
    RAISE EXCEPTION 'invalid periods'
      USING ERRCODE = 'invalid_parameter_value', DETAIL = 'A period is day, week, month, quarter or year. At least one is created ahead.';
  END IF;
  PERFORM run_ops.id_floor(kind, now(), epoch);
  there := (SELECT a FROM run_ops.ask_store(store, run_ops.partition_query(t.store_schema, t.store_table)) AS a);
  -- the last day of a period is not enough time to run the statements
  first := (SELECT f.floor FROM run_ops.time_floors(kind, period, 1, now() + interval '1 day', epoch) AS f);
  IF there ->> 'partition_key' <> format('RANGE (%I)', key) THEN
    RAISE EXCEPTION 'table %.% of store "%" is partitioned already', t.store_schema, t.store_table, store
      USING ERRCODE = 'wrong_object_type', DETAIL = format('It is partitioned by %s.', there ->> 'partition_key');
  ELSIF there IS NOT NULL THEN
    -- a period is left out if an existing partition has a part of it
    RETURN QUERY EXECUTE format($q$
      SELECT format('CREATE TABLE %%1$I.%%2$I PARTITION OF %%1$I.%%3$I FOR VALUES FROM (%%4$L) TO (%%5$L);', $1, $2 || '_' || f.name, $2, f.floor, f.ceiling)
        FROM run_ops.time_floors($3, $4, $5, now(), $6) AS f
       WHERE NOT EXISTS (SELECT FROM jsonb_array_elements($7) AS p
                          WHERE coalesce((p ->> 'floor')::%1$s < f.ceiling::%1$s, true) AND coalesce((p ->> 'ceiling')::%1$s > f.floor::%1$s, true))
       ORDER BY f.ord $q$, run_ops.column_type(t.legacy, t.route_column))
      USING t.store_schema, t.store_table, kind, period, ahead, epoch, coalesce(nullif(there -> 'partitions', 'null'), '[]');
    RETURN;
  END IF;
  reasons := (SELECT string_agg(a ->> 'statement', ', ') FROM run_ops.ask_store(store, run_ops.partitioning_query(t, key, first)) AS a WHERE (a ->> 'ord')::int < 0);
  IF reasons IS NOT NULL THEN
    RAISE EXCEPTION 'table %.% of store "%" has what a copy of it would not have', t.store_schema, t.store_table, store
      USING ERRCODE = 'feature_not_supported', DETAIL = format('It has: %s.', reasons), HINT = 'Drop this first, and create it again afterwards.';
  END IF;
  RETURN QUERY
    SELECT s.statement || ';'
      FROM (SELECT (a ->> 'ord')::int, a ->> 'statement' FROM run_ops.ask_store(store, run_ops.partitioning_query(t, key, first)) AS a
            UNION ALL
            -- the ids of another kind must not end up in a partition that is dropped because of its time
            SELECT 25, format('ALTER TABLE %I.%I ADD CONSTRAINT run_ops_kind CHECK (char_length(%I) = 27)', t.store_schema, t.store_table, key) WHERE kind = 'ksuid'
            UNION ALL
            SELECT 32, format('CREATE TABLE %I.%I PARTITION OF %I.%I FOR VALUES FROM (%L) TO (%L)',
                              t.store_schema, t.store_table || '_' || f.name, t.store_schema, t.store_table, f.floor, f.ceiling)
              FROM run_ops.time_floors(kind, period, ahead, now() + interval '1 day', epoch) AS f) AS s (ord, statement)
     ORDER BY s.ord, s.statement COLLATE "C";
END $$;
COMMENT ON FUNCTION run_ops.partition_store_table(regclass, text, text, int, text, timestamptz) IS
  'SQL to run in a store, in this order: makes its table the first partition of one that is partitioned by the time in the ids, and adds partitions for the next periods; if the table is partitioned so already, only those that are missing. kind and epoch as for id_floor(); a period is day, week, month, quarter or year.';
REVOKE EXECUTE ON FUNCTION run_ops.partition_store_table(regclass, text, text, int, text, timestamptz) FROM PUBLIC;
