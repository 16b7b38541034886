
-- repatriate: copying rows from the stores into this database, and back into
-- the stores.
--
-- The same code runs in both directions.  Each side computes a hash of a range
-- of keys, and only if the hashes differ, the rows of the range are compared
-- and copied.  So a pass may stop anywhere and be repeated, the next pass finds
-- rows that the application changes meanwhile, and verification is a pass that
-- copies nothing.  What is hashed and copied is the text of the whole row.
--
-- Back: rows of a store are copied into the local table while split is on.  The
-- view does not show them there, because their id belongs to the store.  If no
-- id decides (routing "store"), they are copied into a staging table.
-- Forward: after that the local tables have all rows, and the stores have older
-- versions (split_state.superseded).  Before split is enabled again, the local
-- rows that belong to a store are copied over the old ones.  leftovers.sql
-- describes how they are removed here afterwards.

CREATE TABLE run_ops.copy_progress (
  view       regclass REFERENCES run_ops.routed_table ON UPDATE CASCADE ON DELETE CASCADE,
  store      text REFERENCES run_ops.store ON DELETE CASCADE,
  forward    boolean NOT NULL,
  position   jsonb,
  finished   boolean NOT NULL DEFAULT false,
  batches    bigint NOT NULL DEFAULT 0,
  copied     bigint NOT NULL DEFAULT 0,
  skipped    bigint NOT NULL DEFAULT 0,
  changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  expected   bigint,
  compared   bigint NOT NULL DEFAULT 0,
  started_at timestamptz,
  PRIMARY KEY (view, store, forward)
);
COMMENT ON TABLE run_ops.copy_progress IS
  'the progress of run_ops.repatriate() and run_ops.move_strays() in their current pass';
COMMENT ON COLUMN run_ops.copy_progress.view IS 'the routed table';
COMMENT ON COLUMN run_ops.copy_progress.store IS 'the store';
COMMENT ON COLUMN run_ops.copy_progress.forward IS 'true: from this database to the store (move_strays); false: from the store to this database (repatriate)';
COMMENT ON COLUMN run_ops.copy_progress.position IS 'the last key that this pass has compared; NULL at its start and end';
COMMENT ON COLUMN run_ops.copy_progress.finished IS 'whether this pass has reached the end of the table';
COMMENT ON COLUMN run_ops.copy_progress.batches IS 'the number of ranges compared, in all passes';
COMMENT ON COLUMN run_ops.copy_progress.copied IS 'the number of rows copied or deleted, in all passes';
COMMENT ON COLUMN run_ops.copy_progress.skipped IS 'how often a row could not be copied here, because another row had its unique value; only then run_ops.disable_split(repatriated => true) and run_ops.next_step(''off'') look for conflicts in whole tables';
COMMENT ON COLUMN run_ops.copy_progress.changed_at IS 'when the last range was compared';
COMMENT ON COLUMN run_ops.copy_progress.expected IS 'the rows that a pass has to compare, as estimated by the store when the first pass began; NULL if that is not known';
COMMENT ON COLUMN run_ops.copy_progress.compared IS 'the number of rows compared in this pass, which is exact until the last range';
COMMENT ON COLUMN run_ops.copy_progress.started_at IS 'when this pass began to compare this table; NULL before';

CREATE TYPE run_ops.mirror AS (
  store text, routing run_ops.routing, legacy regclass, here regclass, there text, columns name[], keys name[], key_types text[],
  here_from text, there_from text, here_keys text[], there_keys text[], here_row text, there_row text,
  there_columns text, there_values text);
COMMENT ON TYPE run_ops.mirror IS
  'SQL fragments for reading the rows of one store on both sides: FROM clause, key columns, text of a row';

CREATE FUNCTION run_ops.column_definitions(relation regclass) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated), ', ' ORDER BY a.attnum)
    FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION run_ops.column_definitions(regclass) IS 'the columns of a relation in their order, as text for comparison; NULL if there are none';
REVOKE EXECUTE ON FUNCTION run_ops.column_definitions(regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.staging_table(t run_ops.routed_table, store text) RETURNS regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
  staging text := format('run_ops_repatriated.%I', (SELECT oid FROM pg_class WHERE oid = t.legacy) || '_' || store);
BEGIN
  PERFORM run_ops.make_own_schema('run_ops_repatriated');
  -- No command if the table exists, so that a read-only transaction may compare.
  -- It has copies only, so after a migration it is created again and refilled.
  IF run_ops.column_definitions(to_regclass(staging)) IS DISTINCT FROM run_ops.column_definitions(t.legacy) THEN
    EXECUTE format('DROP TABLE IF EXISTS %s', staging);
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING GENERATED, PRIMARY KEY (%s))', staging, t.legacy,
                   (SELECT string_agg(quote_ident(k), ', ') FROM unnest(t.key_columns) AS k));
  END IF;
  RETURN staging::regclass;
END $$;
COMMENT ON FUNCTION run_ops.staging_table(run_ops.routed_table, text) IS
  'the table for the copied rows of a table with routing "store", which the view would show in the local table; created if it does not exist, and again if the columns of the local table have changed';
REVOKE EXECUTE ON FUNCTION run_ops.staging_table(run_ops.routed_table, text) FROM PUBLIC;

CREATE FUNCTION run_ops.belongs_condition(t run_ops.routed_table, store text, alias text) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  rules text;
BEGIN
  IF t.routing <> 'store' THEN
    RETURN run_ops.in_store(t, format('%s.%I', alias, t.route_column), store);
  ELSIF length(alias) > 5 THEN
    RETURN 'false';  -- tables that refer to each other in a circle
  END IF;
  -- the key decides if it is classifiable, otherwise the first row that the row
  -- refers to
  rules := (SELECT format('WHEN NOT run_ops.resides(%s.%I, ''legacy'') THEN run_ops.resides(%1$s.%2$I, %3$L) ', alias, a.attname, store)
              FROM pg_attribute AS a
             WHERE a.attrelid = t.legacy AND ARRAY[a.attname] = t.key_columns AND a.atttypid = 'text'::regtype);
  rules := concat(rules, (
    SELECT string_agg(format('WHEN %s.%I IS NOT NULL THEN ', alias, o.column_name)
             || CASE WHEN o.owner IS NULL THEN format('run_ops.resides(%s.%I, %L) ', alias, o.column_name, store)
                     WHEN (o.owner).route_column = o.owner_column
                       THEN run_ops.in_store(o.owner, format('%s.%I', alias, o.column_name), store) || ' '
                     ELSE format('EXISTS (SELECT FROM %1$s AS %2$sy WHERE %2$sy.%3$I = %2$s.%4$I AND %5$s) ', (o.owner).legacy, alias,
                                 o.owner_column, o.column_name, run_ops.belongs_condition(o.owner, store, alias || 'y')) END,
             '' ORDER BY o.ord)
      FROM run_ops.owners(t) AS o));
  RETURN coalesce('CASE ' || nullif(rules, '') || 'ELSE false END', 'false');
END $$;
COMMENT ON FUNCTION run_ops.belongs_condition(run_ops.routed_table, text, text) IS
  'a condition on a local row: whether an INSERT of the row through the view would write it to the store, if all rows that it refers to were in their stores';
REVOKE EXECUTE ON FUNCTION run_ops.belongs_condition(run_ops.routed_table, text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.mirror_of_store(m run_ops.mirror, t run_ops.routed_table, store text, forward boolean) RETURNS run_ops.mirror
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  m.store := store;
  m.here := CASE WHEN t.routing = 'store' AND NOT forward THEN run_ops.staging_table(t, store) ELSE t.legacy END;
  m.here_from := format('%s AS x WHERE ', m.here)
    || CASE WHEN t.routing = 'store' AND NOT forward THEN 'true' ELSE run_ops.belongs_condition(t, store, 'x') END;
  RETURN m;
END $$;
COMMENT ON FUNCTION run_ops.mirror_of_store(run_ops.mirror, run_ops.routed_table, text, boolean) IS
  'the same SQL fragments for the rows of another store';
REVOKE EXECUTE ON FUNCTION run_ops.mirror_of_store(run_ops.mirror, run_ops.routed_table, text, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.mirror_of(t run_ops.routed_table, store text, forward boolean) RETURNS run_ops.mirror
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  m run_ops.mirror;
BEGIN
  PERFORM run_ops.refuse_in_copy();
  -- the lock prevents ALTER TABLE until the last row is read
  EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', t.legacy);
  m.routing := t.routing;
  m.legacy := t.legacy;
  m.there := format('%I.%I', t.store_schema, t.store_table);
  m.there_from := format('%s AS x WHERE true', m.there);
  m.keys := t.key_columns;
  -- both sides must have the keys in the same order
  SELECT array_agg(here.expression || c.collate_clause ORDER BY ord), array_agg(there.expression || c.collate_clause ORDER BY ord),
         array_agg(here.type || c.collate_clause ORDER BY ord)
    INTO m.here_keys, m.there_keys, m.key_types
    FROM unnest(t.key_columns) WITH ORDINALITY AS u (k, ord),
         LATERAL (SELECT CASE WHEN run_ops.order_differs(t, k) THEN ' COLLATE "C"' ELSE '' END) AS c (collate_clause),
         LATERAL run_ops.plain_column(t.legacy, k, format('x.%I', k)) AS here,
         LATERAL run_ops.plain_column(t.legacy, k, format('x.%I', coalesce(t.column_names ->> k::text, k))) AS there;
  SELECT array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE a.attgenerated = ''),
         format('ROW(%s)::text', string_agg(format('x.%I', a.attname), ', ' ORDER BY a.attnum)),
         format('ROW(%s)::text', string_agg(format('x.%I', coalesce(t.column_names ->> a.attname::text, a.attname)), ', ' ORDER BY a.attnum)),
         string_agg(quote_ident(coalesce(t.column_names ->> a.attname::text, a.attname)), ', ' ORDER BY a.attnum)
           FILTER (WHERE a.attgenerated = ''),
         string_agg(format('quote_nullable((%s)::text)', (run_ops.plain_column(t.legacy, a.attname, format('(r.v).%I', a.attname))).expression), ', ' ORDER BY a.attnum)
           FILTER (WHERE a.attgenerated = '')
    INTO m.columns, m.here_row, m.there_row, m.there_columns, m.there_values
    FROM pg_attribute AS a WHERE a.attrelid = t.legacy AND a.attnum > 0 AND NOT a.attisdropped;
  SELECT concat_ws(', ', m.there_columns, string_agg(quote_ident(key), ', ' ORDER BY key)),
         concat_ws(', ', m.there_values, string_agg(format('quote_nullable((%s)::text)', value), ', ' ORDER BY key))
    INTO m.there_columns, m.there_values FROM jsonb_each_text(t.store_defaults);
  RETURN run_ops.mirror_of_store(m, t, store, forward);
END $$;
COMMENT ON FUNCTION run_ops.mirror_of(run_ops.routed_table, text, boolean) IS
  'the SQL fragments for reading the rows of one store on both sides; forward reads the local table instead of the staging table';
REVOKE EXECUTE ON FUNCTION run_ops.mirror_of(run_ops.routed_table, text, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.range_query(source text, keys text[], row_text text, above jsonb, upto jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('SELECT jsonb_build_array(%s)::text AS key, %s AS r FROM %s',
                (SELECT string_agg(format('(%s)::text', k), ', ' ORDER BY ord) FROM unnest(keys) WITH ORDINALITY AS u (k, ord)),
                row_text, source)
      || coalesce((SELECT format(' AND (%s) > (%s)', array_to_string(keys, ', '), string_agg(quote_literal(v), ', ' ORDER BY ord))
                     FROM jsonb_array_elements_text(above) WITH ORDINALITY AS u (v, ord) HAVING count(*) > 0), '')
      || coalesce((SELECT format(' AND (%s) <= (%s)', array_to_string(keys, ', '), string_agg(quote_literal(v), ', ' ORDER BY ord))
                     FROM jsonb_array_elements_text(upto) WITH ORDINALITY AS u (v, ord) HAVING count(*) > 0), '')
$$;
COMMENT ON FUNCTION run_ops.range_query(text, text[], text, jsonb, jsonb) IS
  'a query for keys and row texts in a range: above one key and up to another. NULL means no bound.';

CREATE FUNCTION run_ops.digest_query(range_query text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN pg_catalog.format('SELECT count(*) AS n, coalesce(sum((''x'' || left(md5(r), 15))::bit(60)::bigint), 0)::text AS digest '
                           'FROM (%s) AS rows', range_query);
COMMENT ON FUNCTION run_ops.digest_query(text) IS
  'a query for the number of rows in a range, and a hash of them that does not depend on their order';

CREATE FUNCTION run_ops.least_key(m run_ops.mirror, keys jsonb[]) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT q.key FROM run_ops.as_owner(m.legacy, format('SELECT b FROM unnest($1) AS b WHERE b IS NOT NULL ORDER BY %s LIMIT 1',
    (SELECT string_agg(format('(b ->> %s)::%s', ord - 1, type), ', ' ORDER BY ord)
       FROM unnest(m.key_types) WITH ORDINALITY AS u (type, ord))), keys) AS q (key jsonb)
$$;
COMMENT ON FUNCTION run_ops.least_key(run_ops.mirror, jsonb[]) IS 'the first of these keys, in the order of the table';
REVOKE EXECUTE ON FUNCTION run_ops.least_key(run_ops.mirror, jsonb[]) FROM PUBLIC;

CREATE FUNCTION run_ops.upper_key_query(m run_ops.mirror, above jsonb, upto jsonb, batch_size int) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('SELECT key FROM (%s ORDER BY %s OFFSET %s LIMIT 1) AS k',
                run_ops.range_query(m.there_from, m.there_keys, '''''', above, upto), array_to_string(m.there_keys, ', '), batch_size - 1)
$$;
COMMENT ON FUNCTION run_ops.upper_key_query(run_ops.mirror, jsonb, jsonb, int) IS
  'a query for the upper key of a range in a store, if it is not above another key';
REVOKE EXECUTE ON FUNCTION run_ops.upper_key_query(run_ops.mirror, jsonb, jsonb, int) FROM PUBLIC;

CREATE FUNCTION run_ops.upper_key_here(m run_ops.mirror, above jsonb, upto jsonb, batch_size int) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce((SELECT q.key FROM run_ops.as_owner(m.legacy, format('%s ORDER BY %s OFFSET %s LIMIT 1',
    run_ops.range_query(m.here_from, m.here_keys, '''''', above, upto), array_to_string(m.here_keys, ', '), batch_size - 1)) AS q (key text, r text))::jsonb, upto)
$$;
COMMENT ON FUNCTION run_ops.upper_key_here(run_ops.mirror, jsonb, jsonb, int) IS
  'the upper key of a range here, or another key if that is lower';
REVOKE EXECUTE ON FUNCTION run_ops.upper_key_here(run_ops.mirror, jsonb, jsonb, int) FROM PUBLIC;

CREATE FUNCTION run_ops.upper_key(m run_ops.mirror, above jsonb, batch_size int, going_forward boolean) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  upto jsonb;
BEGIN
  -- The side from which rows are copied first.  On the other side few rows may
  -- belong to the store, among many that do not: so these are read only up to
  -- that key, and each of them in one range, not from each range to the end.
  FOREACH going_forward IN ARRAY ARRAY[going_forward, NOT going_forward] LOOP
    IF going_forward THEN
      upto := run_ops.upper_key_here(m, above, upto, batch_size);
    ELSE
      upto := coalesce((SELECT (a ->> 'key')::jsonb FROM run_ops.ask_store(m.store, run_ops.upper_key_query(m, above, upto, batch_size)) AS a), upto);
    END IF;
  END LOOP;
  RETURN upto;
END $$;
COMMENT ON FUNCTION run_ops.upper_key(run_ops.mirror, jsonb, int, boolean) IS
  'the upper key of a range in which neither side has more than batch_size rows; NULL if no side has that many rows left';
REVOKE EXECUTE ON FUNCTION run_ops.upper_key(run_ops.mirror, jsonb, int, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.next_keys(m run_ops.mirror, above jsonb, batch_size int) RETURNS text[]
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
BEGIN
  RETURN ARRAY(SELECT q.key FROM run_ops.as_owner(m.legacy, format('%s ORDER BY %s LIMIT %s',
    run_ops.range_query(
      -- if no id decides, a row whose key exists in the store belongs there as well
      CASE WHEN m.routing = 'store' THEN format('%s AS x WHERE true', m.here) ELSE m.here_from END,
      m.here_keys, '''''', above, NULL), array_to_string(m.here_keys, ', '), batch_size)) AS q (key text, r text));
END $$;
COMMENT ON FUNCTION run_ops.next_keys(run_ops.mirror, jsonb, int) IS
  'the keys of the next local rows that belong, or may belong, to the store, in the order of the keys';
REVOKE EXECUTE ON FUNCTION run_ops.next_keys(run_ops.mirror, jsonb, int) FROM PUBLIC;

CREATE FUNCTION run_ops.next_range(m run_ops.mirror, above jsonb, batch_size int, going_forward boolean, OUT part run_ops.mirror, OUT upto jsonb)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  keys text[];
BEGIN
  part := m;
  IF NOT (going_forward AND (SELECT s.moving FROM run_ops.split_state AS s)) THEN
    upto := run_ops.upper_key(m, above, batch_size, going_forward);
    RETURN;
  END IF;
  -- the store has rows that are not here, which must stay
  keys := run_ops.next_keys(m, above, batch_size);
  upto := keys[batch_size];
  IF keys = '{}' THEN
    part.here_from := m.here_from || ' AND false';
    part.there_from := m.there_from || ' AND false';
  ELSE
    part := run_ops.only_keys(m, keys);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.next_range(run_ops.mirror, jsonb, int, boolean) IS
  'the next range to compare: its upper key, NULL at the end, and the SQL fragments for its rows; forward while split_state.moving is true, only for the rows that exist here';
REVOKE EXECUTE ON FUNCTION run_ops.next_range(run_ops.mirror, jsonb, int, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.digest_there_query(m run_ops.mirror, above jsonb, upto jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN run_ops.digest_query(run_ops.range_query((m).there_from, (m).there_keys, (m).there_row, above, upto));
COMMENT ON FUNCTION run_ops.digest_there_query(run_ops.mirror, jsonb, jsonb) IS 'a query for the hash of a range in a store';
REVOKE EXECUTE ON FUNCTION run_ops.digest_there_query(run_ops.mirror, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.digest_here(m run_ops.mirror, above jsonb, upto jsonb) RETURNS jsonb
  LANGUAGE sql
  SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
  SELECT to_jsonb(q) FROM run_ops.as_owner(m.legacy,
    run_ops.digest_query(run_ops.range_query(m.here_from, m.here_keys, m.here_row, above, upto))) AS q (n bigint, digest text)
$$;
COMMENT ON FUNCTION run_ops.digest_here(run_ops.mirror, jsonb, jsonb) IS 'the hash of a range here, as a store returns it';
REVOKE EXECUTE ON FUNCTION run_ops.digest_here(run_ops.mirror, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.range_differs(m run_ops.mirror, above jsonb, upto jsonb) RETURNS boolean
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.digest_here(m, above, upto) IS DISTINCT FROM (
    SELECT a FROM run_ops.ask_store(m.store, run_ops.digest_there_query(m, above, upto),
      -- the rows may be long: a store that works is waited for like a query
      run_ops.setting('store_query_timeout')::interval) AS a)
$$;
COMMENT ON FUNCTION run_ops.range_differs(run_ops.mirror, jsonb, jsonb) IS
  'whether the rows of a range differ between the sides; compares only hashes';
REVOKE EXECUTE ON FUNCTION run_ops.range_differs(run_ops.mirror, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.deferrable_index_query(place text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('SELECT EXISTS (SELECT FROM pg_index AS i WHERE NOT i.indimmediate '
                'AND i.indrelid IN (SELECT %1$L::regclass UNION SELECT p.relid FROM pg_partition_tree(%1$L) AS p)) AS found', place)
$$;
COMMENT ON FUNCTION run_ops.deferrable_index_query(text) IS
  'a query for whether a table has a unique index, or an exclusion constraint, that is deferrable: ON CONFLICT does not work with it, and it is not checked if session_replication_role is replica';

CREATE FUNCTION run_ops.has_deferrable_index(relation regclass) RETURNS boolean
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  found boolean;
BEGIN
  EXECUTE run_ops.deferrable_index_query(relation::text) INTO found;
  RETURN found;
END $$;
COMMENT ON FUNCTION run_ops.has_deferrable_index(regclass) IS 'whether a local table has a unique index, or an exclusion constraint, that is deferrable';

-- Rows are copied without triggers: each row is a row of the other side, so
-- triggers have fired for it already.  Foreign keys are triggers as well, and
-- if they form a circle, no order of the INSERTs would satisfy them.

CREATE FUNCTION run_ops.write_here(m run_ops.mirror, gone text[], came text[]) RETURNS void
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
  SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres'
AS $$
DECLARE
  inserted bigint := 0;
  command  text;
  counted  text := 'RETURNING 1) SELECT count(*) FROM i';
  row_text text;
BEGIN
  PERFORM run_ops.allow_strays();
  PERFORM FROM run_ops.as_owner(m.legacy, format('DELETE FROM %s AS x USING unnest($1::jsonb[]) AS g WHERE %s', m.here,
    (SELECT string_agg(format('%s = (g ->> %s)::%s', k, ord - 1, m.key_types[ord]), ' AND ')
       FROM unnest(m.here_keys) WITH ORDINALITY AS u (k, ord))), gone) AS nothing (n int);
  command := format('WITH i AS (INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM (SELECT u::%s AS v FROM unnest($1) AS u) AS r ', m.here,
    (SELECT string_agg(quote_ident(c), ', ' ORDER BY ord) FROM unnest(m.columns) WITH ORDINALITY AS u (c, ord)),
    (SELECT string_agg(format('(r.v).%I', c), ', ' ORDER BY ord) FROM unnest(m.columns) WITH ORDINALITY AS u (c, ord)), m.here);
  -- an older copy may still have a unique value that another row has by now; it is
  -- updated together with its own range
  IF run_ops.split_enabled() AND run_ops.has_deferrable_index(m.here) THEN
    -- ON CONFLICT does not work with such an index
    FOREACH row_text IN ARRAY came LOOP
      BEGIN
        inserted := inserted + (SELECT q.n FROM run_ops.as_owner(m.legacy, command || counted, ARRAY[row_text]) AS q (n bigint));
      EXCEPTION WHEN unique_violation OR exclusion_violation THEN NULL;
      END;
    END LOOP;
  ELSE
    SELECT q.n INTO inserted FROM run_ops.as_owner(m.legacy, concat(command, 'ON CONFLICT ',
      CASE WHEN NOT run_ops.split_enabled() THEN (SELECT format('(%s) ', string_agg(quote_ident(k), ', ')) FROM unnest(m.keys) AS k) END,
      'DO NOTHING ', counted), came) AS q (n bigint);
  END IF;
  UPDATE run_ops.copy_progress AS c SET skipped = c.skipped + cardinality(came) - inserted
    FROM run_ops.routed_table AS t WHERE t.legacy = m.legacy AND (c.view, c.store, c.forward) = (t.view, m.store, false) AND inserted < cardinality(came);
END $$;
COMMENT ON FUNCTION run_ops.write_here(run_ops.mirror, text[], text[]) IS
  'deletes rows by key and inserts rows by text in the local table, without its triggers';
REVOKE EXECUTE ON FUNCTION run_ops.write_here(run_ops.mirror, text[], text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.write_there(m run_ops.mirror, gone text[], came text[]) RETURNS void
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  command text := 'SET LOCAL session_replication_role = replica; ';
  inserted text[];
BEGIN
  IF gone <> '{}' THEN
    command := command || format('DELETE FROM %s AS x WHERE (%s) IN (%s);', m.there, array_to_string(m.there_keys, ', '),
      (SELECT string_agg('(' || (SELECT string_agg(quote_literal(v), ', ' ORDER BY ord)
                                   FROM jsonb_array_elements_text(g::jsonb) WITH ORDINALITY AS u (v, ord)) || ')', ', ')
         FROM unnest(gone) AS g));
  END IF;
  -- ON CONFLICT for the reason given in write_here()
  IF came <> '{}' THEN
    SELECT q.rows INTO inserted FROM run_ops.as_owner(m.legacy, format(
      'SELECT array_agg(''('' || array_to_string(ARRAY[%s], '', '') || '')'') '
      'FROM (SELECT u::%s AS v FROM unnest($1) AS u) AS r', m.there_values, m.here), came) AS q (rows text[]);
    command := command || CASE WHEN (SELECT (a ->> 'found')::boolean FROM run_ops.ask_store(m.store, run_ops.deferrable_index_query(m.there)) AS a)
      THEN format('DO %L;', format($q$
        DECLARE
          one text;
        BEGIN
          FOREACH one IN ARRAY %L::text[] LOOP
            BEGIN
              EXECUTE %L || one;
            EXCEPTION WHEN unique_violation OR exclusion_violation THEN NULL;
            END;
          END LOOP;
        END $q$, inserted, format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES ', m.there, m.there_columns)))
      ELSE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES %s ON CONFLICT DO NOTHING;', m.there, m.there_columns, array_to_string(inserted, ', ')) END;
  END IF;
  PERFORM run_ops.tell_store(m.store, command);
END $$;
COMMENT ON FUNCTION run_ops.write_there(run_ops.mirror, text[], text[]) IS
  'deletes rows by key and inserts rows by text in a store, without its triggers, in a transaction of its own; the mapped user must be allowed to set session_replication_role';
REVOKE EXECUTE ON FUNCTION run_ops.write_there(run_ops.mirror, text[], text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.bounded_query(range_query text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  -- 16 MB, because all rows of a range are in memory at the same time, several
  -- times.  A single row is copied whatever its size.
  RETURN pg_catalog.format('WITH rows AS MATERIALIZED (%s), part AS (SELECT (count(*) * 16777216 / sum(octet_length(r)))::bigint AS n FROM rows '
                           'HAVING count(*) > 1 AND sum(octet_length(r)) > 16777216) '
                           'SELECT key, r FROM rows WHERE NOT EXISTS (SELECT FROM part) UNION ALL SELECT NULL, greatest(n, 1)::text FROM part', range_query);
COMMENT ON FUNCTION run_ops.bounded_query(text) IS
  'a query for the rows of a range; if they are too many bytes, one row with NULL as the key, and how many of the rows are not';

CREATE FUNCTION run_ops.copy_range(m run_ops.mirror, above jsonb, upto jsonb, forward boolean) RETURNS bigint
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  here  jsonb;
  there jsonb;
  gone  text[];
  came  text[];
  part  int;  -- how many rows to copy at once, if all are too many bytes
  middle jsonb;
  copied bigint := 0;
BEGIN
  SELECT coalesce(jsonb_object_agg(a ->> 'key', a ->> 'r') FILTER (WHERE a ->> 'key' IS NOT NULL), '{}'), min(a ->> 'r') FILTER (WHERE a ->> 'key' IS NULL)
    INTO there, part
    FROM run_ops.ask_store(m.store, run_ops.bounded_query(run_ops.range_query(m.there_from, m.there_keys, m.there_row, above, upto)),
                           run_ops.setting('store_query_timeout')::interval) AS a;
  SELECT q.rows, least(part, q.n) INTO here, part FROM run_ops.as_owner(m.legacy, format(
      'SELECT coalesce(jsonb_object_agg(key, r) FILTER (WHERE key IS NOT NULL), ''{}''), (min(r) FILTER (WHERE key IS NULL))::int FROM (%s) AS rows',
      run_ops.bounded_query(concat(
    run_ops.range_query(m.here_from, m.here_keys, m.here_row, above, upto),
    -- if no id decides, a row whose key exists in the store belongs there as well
    CASE WHEN forward AND m.routing = 'store' THEN ' UNION ' || run_ops.range_query(
      format('%s AS x WHERE (%s) IN (SELECT %s FROM jsonb_object_keys($1) AS k)', m.here, array_to_string(m.here_keys, ', '),
             (SELECT string_agg(format('(k::jsonb ->> %s)::%s', ord - 1, type), ', ' ORDER BY ord)
                FROM unnest(m.key_types) WITH ORDINALITY AS u (type, ord))),
      m.here_keys, m.here_row, above, upto) END))), there) AS q (rows jsonb, n int);
  IF part IS NOT NULL THEN
    LOOP
      middle := run_ops.upper_key(m, above, part, forward);
      EXIT WHEN middle IS NULL OR run_ops.least_key(m, ARRAY[upto, middle]) = upto;
      copied := copied + run_ops.copy_range(m, above, middle, forward);
      above := middle;
    END LOOP;
    RETURN copied + run_ops.copy_range(m, above, upto, forward);
  END IF;
  SELECT coalesce(array_agg(key) FILTER (WHERE old.value IS NOT NULL), '{}'),
         coalesce(array_agg(now.value) FILTER (WHERE now.value IS NOT NULL), '{}')
    INTO gone, came
    FROM jsonb_each_text(CASE WHEN forward THEN there ELSE here END) AS old
    FULL JOIN jsonb_each_text(CASE WHEN forward THEN here ELSE there END) AS now USING (key)
   WHERE old.value IS DISTINCT FROM now.value;
  IF forward THEN
    PERFORM run_ops.write_there(m, gone, came) WHERE gone <> '{}' OR came <> '{}';
  ELSIF run_ops.split_enabled() THEN
    PERFORM run_ops.write_here(m, gone, came);
  ELSE
    -- after disable_split(force => true), rows here may be newer than in the store
    PERFORM run_ops.write_here(m, '{}', came);
  END IF;
  RETURN greatest(cardinality(gone), cardinality(came));
END $$;
COMMENT ON FUNCTION run_ops.copy_range(run_ops.mirror, jsonb, jsonb, boolean) IS
  'makes the rows of a range here equal to those in the store, or if forward, those in the store equal to those here; returns the number of rows changed';
REVOKE EXECUTE ON FUNCTION run_ops.copy_range(run_ops.mirror, jsonb, jsonb, boolean) FROM PUBLIC;

-- Passes ------------------------------------------------------------------------

CREATE FUNCTION run_ops.start_progress(going_forward boolean) RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO run_ops.copy_progress (view, store, forward, expected)
  SELECT r.view, r.store, going_forward,
         -- while rows are moved to a store that has others, only those here are compared
         CASE WHEN NOT (going_forward AND s.moving) THEN (
           SELECT (a ->> 'n')::bigint FROM run_ops.ask_store(r.store, format(
             'SELECT CASE WHEN bool_and(c.reltuples >= 0) THEN sum(c.reltuples)::bigint END AS n FROM to_regclass(%L) AS r (oid) '
             'LEFT JOIN LATERAL pg_partition_tree(r.oid) AS p ON true JOIN pg_class AS c ON c.oid = coalesce(p.relid, r.oid) AND c.relkind = ''r''',
             format('%I.%I', t.store_schema, t.store_table))) AS a) END
    FROM run_ops.routed_store AS r JOIN run_ops.routed_table AS t USING (view), run_ops.split_state AS s
   WHERE NOT EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE (c.view, c.store, c.forward) = (r.view, r.store, going_forward))
  ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION run_ops.start_progress(boolean) IS 'adds the missing rows of run_ops.copy_progress for each table and store';
REVOKE EXECUTE ON FUNCTION run_ops.start_progress(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.unequal_keys(m run_ops.mirror, above jsonb, upto jsonb, going_forward boolean) RETURNS SETOF text
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
BEGIN
  IF going_forward AND m.routing = 'store' THEN
    -- what belongs to the store depends on what is there
    RETURN QUERY SELECT q.key FROM run_ops.as_owner(m.legacy, run_ops.range_query(m.here_from, m.here_keys, '''''', above, upto)) AS q (key text, r text);
  ELSE
    RETURN QUERY
      SELECT coalesce(h.key, a ->> 'key')
        FROM run_ops.as_owner(m.legacy, run_ops.range_query(m.here_from, m.here_keys, format('md5(%s)', m.here_row), above, upto)) AS h (key text, r text)
        FULL JOIN run_ops.ask_store(m.store, run_ops.range_query(m.there_from, m.there_keys, format('md5(%s)', m.there_row), above, upto)) AS a ON a ->> 'key' = h.key
       WHERE a ->> 'r' IS DISTINCT FROM h.r;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.unequal_keys(run_ops.mirror, jsonb, jsonb, boolean) IS
  'the keys of a range whose rows differ between the sides, or exist on one side only; forward with routing "store", all keys of the range here';
REVOKE EXECUTE ON FUNCTION run_ops.unequal_keys(run_ops.mirror, jsonb, jsonb, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.copy_batch(batch_size int, going_forward boolean)
  RETURNS TABLE (view regclass, store text, copied bigint, done boolean)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  p    run_ops.copy_progress;
  r    record;
  n    bigint;
  tracked boolean := EXISTS (SELECT FROM run_ops.change_tracking AS c WHERE c.forward = going_forward);
  since timestamptz := clock_timestamp();
  gap text;
BEGIN
  IF batch_size IS NULL OR batch_size < 1 THEN
    RAISE EXCEPTION 'batch_size must be at least 1' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM run_ops.start_progress(going_forward);
  -- Once a pass and not once a range: it is a question for every store.
  IF tracked AND NOT EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE c.forward = going_forward AND NOT c.finished) THEN
    gap := run_ops.tracking_gap(going_forward);
    IF gap IS NOT NULL THEN
      RAISE NOTICE 'comparing all rows again' USING DETAIL = gap;
      UPDATE run_ops.change_tracking SET forward = NULL;
      UPDATE run_ops.copy_progress AS c SET finished = false, position = NULL, compared = 0, started_at = NULL;
      RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, false;
      RETURN;
    END IF;
  ELSIF NOT tracked AND run_ops.start_tracking(going_forward) THEN
    -- An earlier call may have failed to start it, and rows that were copied since
    -- then may have changed.  Returns, so that the triggers are committed before
    -- the first row is copied.
    UPDATE run_ops.copy_progress AS c SET finished = false, position = NULL, compared = 0, started_at = NULL WHERE c.forward = going_forward;
    RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, false;
    RETURN;
  END IF;
  SELECT * INTO p FROM run_ops.copy_progress AS c
   WHERE c.forward = going_forward AND NOT c.finished ORDER BY c.view, c.store LIMIT 1 FOR UPDATE;
  IF NOT FOUND AND tracked THEN
    RETURN QUERY SELECT NULL::regclass, NULL::text, c.copied::bigint, c.done FROM run_ops.copy_changed_rows(batch_size, going_forward, false) AS c;
    RETURN;
  ELSIF NOT FOUND THEN
    -- the next call starts another pass
    UPDATE run_ops.copy_progress AS c SET finished = false, position = NULL, compared = 0, started_at = NULL WHERE c.forward = going_forward;
    RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, true;
    RETURN;
  END IF;
  SELECT * INTO r FROM run_ops.next_range(run_ops.mirror_of(run_ops.routed(p.view), p.store, going_forward), p.position, batch_size, going_forward);
  n := run_ops.copy_range(r.part, p.position, r.upto, going_forward)
    WHERE (r.part).routing = 'store' AND going_forward OR run_ops.range_differs(r.part, p.position, r.upto);
  -- A unique value may have prevented the copy of a row, which will not change
  -- again.  So the rows of this range that still differ are noted as if they had.
  IF tracked AND n > 0 AND NOT run_ops.sync_range(r.part, p.position, r.upto, going_forward) THEN
    INSERT INTO run_ops_changes.note (relation, key)
    SELECT p.view::oid::bigint, k.key FROM run_ops.unequal_keys(r.part, p.position, r.upto, going_forward) AS k (key);
  END IF;
  UPDATE run_ops.copy_progress AS c
     SET position = r.upto, finished = r.upto IS NULL, batches = c.batches + 1, copied = c.copied + coalesce(n, 0),
         compared = c.compared + batch_size, started_at = coalesce(c.started_at, since), changed_at = clock_timestamp()
   WHERE (c.view, c.store, c.forward) = (p.view, p.store, p.forward);
  RETURN QUERY SELECT p.view, p.store, coalesce(n, 0), false;
END $$;
COMMENT ON FUNCTION run_ops.copy_batch(int, boolean) IS
  'compares one range of the current pass, and copies it if it differs; after the pass, copies one batch of the rows that have changed meanwhile. done is true if fewer rows than a batch were left.';
REVOKE EXECUTE ON FUNCTION run_ops.copy_batch(int, boolean) FROM PUBLIC;

-- SECURITY DEFINER, here and below, for the reason given in split_mode.sql.
-- JIT is off, because compiling takes up to a second, and the queries only
-- milliseconds.
CREATE FUNCTION run_ops.repatriate(batch_size int DEFAULT 1000)
  RETURNS TABLE (view regclass, store text, copied bigint, done boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  PERFORM run_ops.refuse_in_copy();
  PERFORM run_ops.refuse_incomplete();
  IF (SELECT s.superseded FROM run_ops.split_state AS s) THEN
    RAISE EXCEPTION 'all rows are already repatriated'
      USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Split is off, this database has all rows, and the stores have older versions.';
  END IF;
  IF EXISTS (SELECT FROM run_ops.leftover) THEN
    -- leftovers are older than the rows of the stores, so they are removed first
    SELECT b.view, b.store, 0, b.done INTO view, store, copied, done FROM run_ops.remove_batch(batch_size, false) AS b;
    PERFORM run_ops.end_leftovers() WHERE done;
    done := false;
    RETURN NEXT;
    RETURN;
  END IF;
  RETURN QUERY SELECT * FROM run_ops.copy_batch(batch_size, false);
END $$;
COMMENT ON FUNCTION run_ops.repatriate(int) IS
  'copies rows of the stores into the local tables, one batch for each call, while the application runs. Call it until done, then call disable_split(repatriated => true).';

CREATE FUNCTION run_ops.move_strays(batch_size int DEFAULT 1000)
  RETURNS TABLE (view regclass, store text, copied bigint, done boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  PERFORM run_ops.refuse_in_copy();
  PERFORM run_ops.refuse_incomplete();
  PERFORM run_ops.refuse_while_split('move strays');
  IF (SELECT s.superseded OR s.moving FROM run_ops.split_state AS s) THEN
    RETURN QUERY SELECT * FROM run_ops.copy_batch(batch_size, true);
    RETURN;
  END IF;
  -- This is committed before the first row is copied.  So after an error or a
  -- crash it is known that the rows here are the newer ones.
  IF run_ops.stores_have_rows() THEN
    PERFORM run_ops.refuse_move_conflicts();
    UPDATE run_ops.split_state SET moving = true;
  ELSE
    UPDATE run_ops.split_state SET superseded = true;
  END IF;
  PERFORM run_ops.audit('move strays', '{}');
  RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, false;
END $$;
COMMENT ON FUNCTION run_ops.move_strays(int) IS
  'copies the local rows that belong to a store there, one batch for each call, while split is off; if the store has rows that are not here, they stay. Call it until done, then call enable_split(), then remove_leftovers() until done.';

CREATE FUNCTION run_ops.verify_repatriation()
  RETURNS TABLE (view regclass, store text, ranges bigint, differing bigint)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
  r      record;
  one    run_ops.mirror;
  m      run_ops.mirror[];
  above  jsonb[];
  upto   jsonb[];
  n      bigint[];
  d      bigint[];
  stores text[];
  going  int[];  -- the stores that have more ranges
BEGIN
  PERFORM run_ops.refuse_incomplete();
  -- a range of each store at the same time
  FOR r IN SELECT t, array_agg(s.store ORDER BY s.store) AS stores FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            GROUP BY t, t.view ORDER BY t.view LOOP
    one := run_ops.mirror_of(r.t, r.stores[1], false);
    m := ARRAY(SELECT run_ops.mirror_of_store(one, r.t, s, false) FROM unnest(r.stores) AS s);
    going := ARRAY(SELECT generate_subscripts(r.stores, 1));
    n := array_fill(0, ARRAY[cardinality(going)]);
    d := n;
    above := array_fill(NULL::jsonb, ARRAY[cardinality(going)]);
    WHILE going <> '{}' LOOP
      stores := ARRAY(SELECT r.stores[i] FROM unnest(going) AS i);
      upto := ARRAY(
        SELECT CASE WHEN i = ANY (going) THEN run_ops.upper_key_here(m[i], above[i], (a.answer ->> 'key')::jsonb, 10000) END
          FROM generate_subscripts(m, 1) AS i
          LEFT JOIN run_ops.ask_stores(stores, ARRAY(SELECT run_ops.upper_key_query(m[i], above[i], NULL, 10000) FROM unnest(going) AS i)) AS a
            ON a.store = r.stores[i]
         ORDER BY i);
      d := ARRAY(
        SELECT d[i] + (i = ANY (going) AND run_ops.digest_here(m[i], above[i], upto[i]) IS DISTINCT FROM a.answer)::int
          FROM generate_subscripts(m, 1) AS i
          LEFT JOIN run_ops.ask_stores(stores, ARRAY(SELECT run_ops.digest_there_query(m[i], above[i], upto[i]) FROM unnest(going) AS i),
                                       run_ops.setting('store_query_timeout')::interval) AS a
            ON a.store = r.stores[i]
         ORDER BY i);
      n := ARRAY(SELECT n[i] + (i = ANY (going))::int FROM generate_subscripts(m, 1) AS i);
      above := upto;
      going := ARRAY(SELECT i FROM unnest(going) AS i WHERE upto[i] IS NOT NULL);
    END LOOP;
    RETURN QUERY SELECT (r.t).view, r.stores[i], n[i], d[i] FROM generate_subscripts(m, 1) AS i;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.verify_repatriation() IS
  'compares all rows of the stores with their copies here, by hashes of ranges. A range differs if some of its rows are not repatriated yet, or were changed since.';

CREATE FUNCTION run_ops.unique_rules(t run_ops.routed_table)
  RETURNS TABLE (unique_index regclass, vals text, condition text, equal text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- Partitions may have indexes of their own.  to_jsonb(), because
  -- indnullsnotdistinct exists from PostgreSQL 15 on.
  SELECT i.indexrelid::regclass, k.vals,
         coalesce(concat_ws(' AND ', pg_get_expr(i.indpred, i.indrelid), CASE WHEN i.indrelid <> t.legacy THEN pg_get_partition_constraintdef(i.indrelid) END), ''),
         k.equal
    FROM pg_index AS i LEFT JOIN pg_constraint AS x ON x.conindid = i.indexrelid AND x.contype = 'x',
         LATERAL (SELECT string_agg(format('%s AS run_ops_%s', pg_get_indexdef(i.indexrelid, n, false), n), ', ' ORDER BY n) AS vals,
                         string_agg(format(CASE WHEN (to_jsonb(i) ->> 'indnullsnotdistinct')::boolean
                                                THEN '(y.run_ops_%1$s OPERATOR(%2$I.%3$s) x.run_ops_%1$s OR y.run_ops_%1$s IS NULL AND x.run_ops_%1$s IS NULL)'
                                                ELSE 'y.run_ops_%1$s OPERATOR(%2$I.%3$s) x.run_ops_%1$s' END, n, s.nspname, o.oprname), ' AND ' ORDER BY n) AS equal,
                         array_agg(a.attname) AS columns
                    FROM generate_series(1, i.indnkeyatts) AS n JOIN pg_opclass AS c ON c.oid = i.indclass[n - 1]
                    LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n - 1]
                    -- the operator of an exclusion constraint, or equality
                    JOIN pg_operator AS o ON o.oid = coalesce(x.conexclop[n], (
                           SELECT m.amopopr FROM pg_amop AS m WHERE (m.amopfamily, m.amoplefttype, m.amoprighttype, m.amopstrategy) = (c.opcfamily, c.opcintype, c.opcintype, 3)))
                    JOIN pg_namespace AS s ON s.oid = o.oprnamespace) AS k
   WHERE i.indrelid IN (SELECT * FROM run_ops.parts(t.legacy)) AND (i.indisunique OR i.indisexclusion)
     AND NOT EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhrelid = i.indexrelid)
     -- rows with the same key are the same row
     AND NOT k.columns @> t.key_columns
   ORDER BY i.indexrelid
$$;
COMMENT ON FUNCTION run_ops.unique_rules(run_ops.routed_table) IS
  'the unique indexes and exclusion constraints of a local table and its partitions: their values as a select list, the rows to which they apply, and a condition that two rows y and x exclude each other';

-- enable_nestloop = off: otherwise the store would be asked once for each local row.
CREATE FUNCTION run_ops.unique_conflicts(going_forward boolean)
  RETURNS TABLE (view regclass, store text, unique_index regclass, store_key jsonb, legacy_key jsonb)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET enable_nestloop = off
AS $$
#variable_conflict use_column
DECLARE
  r record;
BEGIN
  PERFORM run_ops.refuse_incomplete();
  FOR r IN
    SELECT t, s.store, s.foreign_table, u.unique_index, u.vals, 'true' || coalesce(' AND ' || nullif(u.condition, ''), '') AS condition, u.equal
      FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view, LATERAL run_ops.unique_rules(t) AS u
  LOOP
    -- a row with the same key is no conflict: it is the same row
    RETURN QUERY SELECT * FROM run_ops.as_owner((r.t).legacy, (
      SELECT format('SELECT %L::regclass, %L::text, %L::regclass, jsonb_build_object(%s), jsonb_build_object(%s) '
                    'FROM (SELECT *, %6$s FROM %7$s WHERE %8$s) AS y JOIN (SELECT *, %6$s FROM %9$s WHERE %8$s) AS x ON %10$s WHERE (%11$s) <> (%12$s)%13$s',
               (r.t).view, r.store, r.unique_index, string_agg(format('%L, y.%1$I', k), ', '), string_agg(format('%L, x.%1$I', k), ', '),
               r.vals, r.foreign_table, r.condition, (r.t).legacy, r.equal,
               string_agg((run_ops.plain_column((r.t).legacy, k, format('y.%I', k))).expression, ', '),
               string_agg((run_ops.plain_column((r.t).legacy, k, format('x.%I', k))).expression, ', '),
               CASE WHEN going_forward THEN ' AND ' || run_ops.belongs_condition(r.t, r.store, 'x')
                    -- a copy is no conflict: it is updated
                    WHEN run_ops.split_enabled() AND (r.t).routing <> 'store'
                    THEN ' AND NOT ' || run_ops.belongs_condition(r.t, r.store, 'x') END)
        FROM unnest((r.t).key_columns) AS k)) AS q (view regclass, store text, unique_index regclass, store_key jsonb, legacy_key jsonb);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.unique_conflicts(boolean) IS
  'pairs of a row of a store and a local row with the same unique value and different keys. going_forward: only local rows that would move to the store.';
REVOKE EXECUTE ON FUNCTION run_ops.unique_conflicts(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.repatriation_conflicts()
  RETURNS TABLE (view regclass, store text, unique_index regclass, store_key jsonb, legacy_key jsonb)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY SELECT * FROM run_ops.unique_conflicts(false);
END $$;
COMMENT ON FUNCTION run_ops.repatriation_conflicts() IS
  'rows of the stores that cannot be copied here, because a local row has the same unique value; unique constraints are enforced per database';

CREATE FUNCTION run_ops.differing_keys(m run_ops.mirror, keys text[]) RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
BEGIN
  m.here_from := format('%s AS x WHERE true', m.here);
  m := run_ops.only_keys(m, keys);
  RETURN QUERY
    SELECT h.key FROM run_ops.as_owner(m.legacy, run_ops.range_query(m.here_from, m.here_keys, m.here_row, NULL, NULL)) AS h (key text, r text)
      JOIN run_ops.ask_store(m.store, run_ops.range_query(m.there_from, m.there_keys, m.there_row, NULL, NULL)) AS a ON a ->> 'key' = h.key
     WHERE a ->> 'r' <> h.r;
END $$;
COMMENT ON FUNCTION run_ops.differing_keys(run_ops.mirror, text[]) IS 'those of these keys whose rows exist on both sides and differ';
REVOKE EXECUTE ON FUNCTION run_ops.differing_keys(run_ops.mirror, text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.move_conflicts()
  RETURNS TABLE (view regclass, store text, unique_index regclass, store_key jsonb, legacy_key jsonb)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  r    record;
  m    run_ops.mirror;
  keys text[];
BEGIN
  PERFORM run_ops.refuse_in_copy();
  RETURN QUERY SELECT * FROM run_ops.unique_conflicts(true);
  FOR r IN SELECT t, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            -- once rows are moved, the local version is the newer one
            WHERE NOT (SELECT s.superseded OR s.moving OR s.enabled FROM run_ops.split_state AS s) ORDER BY t.view, s.store LOOP
    m := run_ops.mirror_of(r.t, r.store, true);
    keys := NULL;
    LOOP
      keys := run_ops.next_keys(m, keys[cardinality(keys)]::jsonb, 10000);
      EXIT WHEN keys = '{}';
      RETURN QUERY SELECT (r.t).view, r.store, NULL::regclass, k.names, k.names
                     FROM run_ops.differing_keys(m, keys) AS d (key),
                          LATERAL (SELECT jsonb_object_agg(c, d.key::jsonb -> (ord - 1)::int) FROM unnest((r.t).key_columns) WITH ORDINALITY AS u (c, ord)) AS k (names);
    END LOOP;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.move_conflicts() IS
  'local rows that run_ops.move_strays() cannot move to a store: because a row there has the same unique value, or (unique_index is NULL) because the store has another version of the row';

CREATE FUNCTION run_ops.refuse_move_conflicts() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  lines text := (SELECT string_agg(c.line, E'\n')
                   FROM (SELECT format('%s: %s conflicts in %s', c.view, count(*), coalesce('unique index ' || c.unique_index, 'versions of a row')) AS line
                           FROM run_ops.move_conflicts() AS c GROUP BY c.view, c.unique_index ORDER BY c.view, c.unique_index) AS c);
BEGIN
  IF lines IS NOT NULL THEN
    RAISE EXCEPTION 'local rows conflict with rows of a store'
      USING ERRCODE = 'unique_violation', DETAIL = lines,
            HINT = 'To list them: SELECT * FROM run_ops.move_conflicts(); Delete or change one row of each pair: the local one through the view, the other one through the foreign table, which is in the schema of its store, for example run_ops_new.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_move_conflicts() IS
  'raises an error with the number of run_ops.move_conflicts() of each index, if there are any';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_move_conflicts() FROM PUBLIC;

-- While writes are blocked --------------------------------------------------------

CREATE FUNCTION run_ops.await_store_writers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  stores  text[] := ARRAY(SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL);
  -- at first any, then those that were there
  writers text[] := array_fill('{}'::text, ARRAY[cardinality(stores)]);
  started timestamptz := clock_timestamp();
  patience interval := run_ops.setting('swap_lock_timeout');
BEGIN
  -- If a session of this database ended during its commit, its transaction in
  -- the store may still be about to commit.  It holds the locks of its writes
  -- until then.
  LOOP
    SELECT array_agg(a.store ORDER BY a.store), array_agg(translate(a.answer ->> 'writers', '[]"', '{}') ORDER BY a.store) INTO stores, writers
      FROM run_ops.ask_stores(stores, ARRAY(SELECT format(
             'SELECT array_agg(DISTINCT l.virtualtransaction) AS writers FROM pg_locks AS l '
             'WHERE l.locktype = ''relation'' AND l.mode = ''RowExclusiveLock'' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) '
             'AND l.relation IN (SELECT to_regclass(t) FROM unnest(%L::text[]) AS t) AND (%L = ''{}'' OR l.virtualtransaction = ANY (%2$L))',
             ARRAY(SELECT format('%I.%I', t.store_schema, t.store_table) FROM run_ops.routed_table AS t), w.writers)
             FROM unnest(writers) WITH ORDINALITY AS w (writers, ord) ORDER BY w.ord)) AS a
     WHERE a.answer ->> 'writers' IS NOT NULL;
    EXIT WHEN stores IS NULL;
    IF clock_timestamp() - started > patience THEN
      RAISE EXCEPTION 'store "%" has transactions that write to routed tables', stores[1] USING ERRCODE = 'lock_not_available';
    END IF;
    PERFORM pg_sleep(0.01);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.await_store_writers() IS
  'waits until the transactions that are writing to a routed table in a store have ended; writes through the views must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.await_store_writers() FROM PUBLIC;

CREATE FUNCTION run_ops.sync_range(m run_ops.mirror, above jsonb, upto jsonb, forward boolean) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF forward AND m.routing = 'store' THEN
    RETURN run_ops.copy_range(m, above, upto, true) = 0 OR run_ops.copy_range(m, above, upto, true) = 0;
  ELSIF NOT run_ops.range_differs(m, above, upto) THEN
    RETURN true;
  END IF;
  PERFORM run_ops.copy_range(m, above, upto, forward);
  -- after disable_split(force => true), rows here may be newer than in the store
  RETURN NOT (forward OR run_ops.split_enabled()) OR NOT run_ops.range_differs(m, above, upto);
END $$;
COMMENT ON FUNCTION run_ops.sync_range(run_ops.mirror, jsonb, jsonb, boolean) IS
  'copies a range if it differs, and returns whether both sides are equal then';
REVOKE EXECUTE ON FUNCTION run_ops.sync_range(run_ops.mirror, jsonb, jsonb, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.finish_copy(going_forward boolean) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  r     record;
  m     run_ops.mirror;
  n     record;
  above jsonb;
  upto  jsonb;
  again jsonb[];
  reason text;
BEGIN
  PERFORM run_ops.await_store_writers();
  reason := run_ops.reason_to_compare_all(going_forward);
  IF reason IS NULL THEN
    PERFORM run_ops.finish_changed_rows(going_forward);
    RETURN true;
  END IF;
  RAISE NOTICE 'comparing all rows while writes are blocked' USING DETAIL = reason;
  FOR r IN SELECT t, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            ORDER BY t.view, s.store LOOP
    m := run_ops.mirror_of(r.t, r.store, going_forward);
    above := NULL;
    again := '{}';
    LOOP
      SELECT * INTO n FROM run_ops.next_range(m, above, 10000, going_forward);
      upto := n.upto;
      IF NOT run_ops.sync_range(n.part, above, upto, going_forward) THEN
        again := again || jsonb_build_array(above, upto);
      END IF;
      above := upto;
      EXIT WHEN upto IS NULL;
    END LOOP;
    -- A unique value of an older row may have prevented a copy.  No older row is
    -- left now, so these ranges are copied once more.
    FOR i IN 1 .. cardinality(again) LOOP
      above := nullif(again[i] -> 0, 'null');
      upto := nullif(again[i] -> 1, 'null');
      SELECT * INTO n FROM run_ops.next_range(m, above, 10000, going_forward);
      IF NOT run_ops.sync_range(n.part, above, upto, going_forward) THEN
        RAISE EXCEPTION 'rows of % differ between this database and store "%"', (r.t).view, r.store
          USING ERRCODE = 'data_exception',
                DETAIL = format('Rows with keys above %s and up to %s still differ after copying.', coalesce(above::text, 'none'), coalesce(upto::text, 'the last')),
                HINT = 'Another row of this database may have a unique value of theirs: SELECT * FROM run_ops.repatriation_conflicts();';
      END IF;
    END LOOP;
  END LOOP;
  RETURN false;
END $$;
COMMENT ON FUNCTION run_ops.finish_copy(boolean) IS
  'copies the rows that are not copied yet. Copies only the changed rows and returns true if all changes were tracked; otherwise compares all rows and returns false.';
REVOKE EXECUTE ON FUNCTION run_ops.finish_copy(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.raise_orphans(lines text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'rows would refer to rows that do not exist'
    USING ERRCODE = 'foreign_key_violation', DETAIL = array_to_string(lines, E'\n'),
          HINT = 'Correct these rows through the views, or drop the foreign keys.';
END $$;
COMMENT ON FUNCTION run_ops.raise_orphans(text[]) IS 'raises the error for rows that violate foreign keys';
REVOKE EXECUTE ON FUNCTION run_ops.raise_orphans(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_orphans() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  f     record;
  n     bigint;
  lines text[] := '{}';
BEGIN
  FOR f IN SELECT * FROM run_ops.foreign_keys() LOOP
    SELECT q.n INTO n FROM run_ops.as_owner(run_ops.weaker_owner(f.child_table, f.parent_table),
      format('SELECT count(*) FROM %s AS x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
             f.child_table, f.present, f.parent_table, f.equal)) AS q (n bigint);
    IF n > 0 THEN
      lines := lines || format('%s rows of %s violate foreign key %I', n, f.child_table, f.conname);
    END IF;
  END LOOP;
  PERFORM run_ops.raise_orphans(lines) WHERE lines <> '{}';
END $$;
COMMENT ON FUNCTION run_ops.refuse_orphans() IS
  'raises an error if rows of the local tables violate a foreign key; needed because rows are copied without triggers';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_orphans() FROM PUBLIC;

CREATE FUNCTION run_ops.raise_conflicts(lines text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'rows of the stores conflict with rows of this database'
    USING ERRCODE = 'unique_violation', DETAIL = lines,
          HINT = 'To list them: SELECT * FROM run_ops.repatriation_conflicts(); Delete or change one row of each pair through the views.';
END $$;
COMMENT ON FUNCTION run_ops.raise_conflicts(text) IS 'raises the error for rows of the stores that have a unique value of a local row';
REVOKE EXECUTE ON FUNCTION run_ops.raise_conflicts(text) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_conflicts() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  lines text := (SELECT string_agg(c.line, E'\n')
                   FROM (SELECT format('%s: %s conflicts in unique index %s', c.view, count(*), c.unique_index) AS line
                           FROM run_ops.repatriation_conflicts() AS c GROUP BY c.view, c.unique_index ORDER BY c.view, c.unique_index) AS c);
BEGIN
  PERFORM run_ops.raise_conflicts(lines) WHERE lines IS NOT NULL;
END $$;
COMMENT ON FUNCTION run_ops.refuse_conflicts() IS
  'raises an error with the number of run_ops.repatriation_conflicts() of each index, if there are any';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_conflicts() FROM PUBLIC;

CREATE FUNCTION run_ops.finish_repatriation() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
AS $$
DECLARE
  r       record;
  staging regclass;
  keys    text;
  same    text;
  tracked boolean := run_ops.finish_copy(false);
  detail  text;
BEGIN
  -- copied rows are not checked by an index that is deferrable
  PERFORM run_ops.refuse_conflicts() WHERE EXISTS (SELECT FROM run_ops.routed_table AS t WHERE run_ops.has_deferrable_index(t.legacy));
  FOR r IN SELECT t, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            WHERE t.routing = 'store'
            -- if two stores have a key, the row of "new" stays
            ORDER BY t.view, s.store = 'new', s.store LOOP
    staging := run_ops.staging_table(r.t, r.store);
    keys := (SELECT string_agg(quote_ident(k), ', ') FROM unnest((r.t).key_columns) AS k);
    same := (SELECT string_agg(format('x.%I %s y.%1$I', k, run_ops.equality_operator((r.t).legacy, k)), ' AND ') FROM unnest((r.t).key_columns) AS k);
    IF run_ops.split_enabled() THEN
      -- if both had the key, the view showed the row of the store
      PERFORM FROM run_ops.as_owner((r.t).legacy,
        format('DELETE FROM %s AS x USING %s AS y WHERE %s', (r.t).legacy, staging, same)) AS nothing (n int);
    END IF;
    BEGIN
      PERFORM FROM run_ops.as_owner((r.t).legacy, format(
        'INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %2$s FROM %s ON CONFLICT (%s) DO NOTHING', (r.t).legacy,
        (SELECT string_agg(quote_ident(a.attname), ', ') FROM pg_attribute AS a
          WHERE a.attrelid = (r.t).legacy AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), staging, keys)) AS nothing (n int);
    EXCEPTION WHEN unique_violation THEN
      GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
      PERFORM run_ops.raise_conflicts(format('%s: %s %s', (r.t).view, SQLERRM, detail));
    END;
    EXECUTE format('DROP TABLE %s', staging);
  END LOOP;
  PERFORM run_ops.refuse_remaining_orphans() WHERE tracked;
  PERFORM run_ops.refuse_orphans() WHERE NOT tracked;
END $$;
COMMENT ON FUNCTION run_ops.finish_repatriation() IS
  'copies the rows that repatriate() has not copied yet, verifies that all rows of the stores are here, and moves the rows of the staging tables into the local tables; writes must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.finish_repatriation() FROM PUBLIC;

CREATE FUNCTION run_ops.store_row_counts() RETURNS TABLE (view regclass, store text, n bigint)
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT (a.answer ->> 'view')::oid::regclass, a.store, (a.answer ->> 'n')::bigint
    FROM (SELECT array_agg(q.store), array_agg(q.query)
            FROM (SELECT s.store, string_agg(format('SELECT %s AS view, count(*) AS n FROM %I.%I', t.view::oid, t.store_schema, t.store_table), ' UNION ALL ')
                    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view GROUP BY s.store) AS q (store, query)) AS q (stores, queries),
         LATERAL run_ops.ask_stores(q.stores, q.queries, '0') AS a
$$;
COMMENT ON FUNCTION run_ops.store_row_counts() IS 'the number of rows of each routed table in each store';
REVOKE EXECUTE ON FUNCTION run_ops.store_row_counts() FROM PUBLIC;
