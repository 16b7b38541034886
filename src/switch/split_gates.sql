
-- split_gates: what must hold before split mode may be on, one row each.

CREATE FUNCTION run_ops.acknowledgeable_gates() RETURNS text[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ARRAY['attached', 'clone', 'foreign key', 'index', 'mapping', 'realtime', 'wrapper'];
COMMENT ON FUNCTION run_ops.acknowledgeable_gates() IS
  'gates that an operator may accept as failing, object by object; no row is lost or doubled by any of them alone';

CREATE FUNCTION run_ops.acknowledged(g run_ops.gate) RETURNS run_ops.gate
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  accepted run_ops.acknowledgement;
BEGIN
  IF NOT g.ok AND g.gate = ANY (run_ops.acknowledgeable_gates()) THEN
    SELECT * INTO accepted FROM run_ops.acknowledgement AS a WHERE a.gate = g.gate AND a.object = g.object;
    IF FOUND THEN
      g.ok := true;
      g.detail := format('%s; acknowledged by %s: %s', g.detail, accepted.role, accepted.reason);
      g.hint := NULL;
    ELSE
      g.hint := concat_ws(' ', g.hint,
        format('To accept it: SELECT run_ops.acknowledge(%L, %L, ''why'');', g.gate, g.object));
    END IF;
  END IF;
  RETURN g;
END $$;
COMMENT ON FUNCTION run_ops.acknowledged(run_ops.gate) IS
  'a gate as it stands after what the operator acknowledged';

-- This database alone -----------------------------------------------------------

CREATE FUNCTION run_ops.realtime_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'realtime', reader.object, reader.ok, reader.detail, reader.hint
    FROM (
      SELECT 'native realtime' AS object, s.native_realtime AS ok,
             CASE WHEN s.native_realtime THEN 'realtime readers see the rows of every store'
                  ELSE 'realtime readers follow this database alone' END AS detail,
             CASE WHEN NOT s.native_realtime THEN
               'Switch the application to its native realtime backend, then run_ops.configure_split(native_realtime => true).' END AS hint
        FROM run_ops.split_state AS s
      UNION ALL
      SELECT format('publication %I', p.pubname), false,
             format('it carries %s, of this database alone', string_agg(DISTINCT t.legacy::text, ', ')),
             'Its subscribers need a publication of each store as well.'
        FROM pg_publication_tables AS p
        JOIN pg_namespace AS n ON n.nspname = p.schemaname
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
        JOIN run_ops.routed_table AS t ON t.legacy = coalesce(pg_partition_root(c.oid), c.oid)
       GROUP BY p.pubname
      UNION ALL
      -- pgoutput sends what a publication says, others send every table
      SELECT format('replication slot %I', r.slot_name), false,
             format('its plugin %s sends every table of this database alone', r.plugin),
             'Its readers need a slot of each store as well.'
        FROM pg_replication_slots AS r
       WHERE r.database = current_database() AND r.plugin <> 'pgoutput'
    ) AS reader
$$;
COMMENT ON FUNCTION run_ops.realtime_gates() IS
  'readers that follow this database alone and would not see rows of the stores';

CREATE FUNCTION run_ops.server_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'server', '', run_ops.server_identity() = ANY (s.identities) AND NOT pg_is_in_recovery(),
         concat_ws('; ', CASE WHEN pg_is_in_recovery() THEN 'it is a standby' END,
           format('this is %s, bound to %s', run_ops.server_identity(),
                  coalesce(nullif(array_to_string(s.identities, ', '), ''), 'none'))),
         CASE WHEN run_ops.server_identity() <> ALL (s.identities) THEN
           'A copy of the database does not use the stores of the original. run_ops.enable_split() binds them to this one.' END
    FROM run_ops.split_state AS s
  UNION ALL
  SELECT 'store', '', EXISTS (SELECT FROM run_ops.store AS r WHERE r.name = 'new'),
         coalesce('attached: ' || string_agg(r.name, ', ' ORDER BY r.name), 'none is attached'),
         'run_ops.attach_store(''new'', ...) attaches it.'
    FROM run_ops.store AS r WHERE r.server IS NOT NULL
$$;
COMMENT ON FUNCTION run_ops.server_gates() IS 'whether this server may use stores, and has one';

CREATE FUNCTION run_ops.attached_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'attached', '', count(*) > 0, format('%s routed tables', count(*)),
         'run_ops.attach_all_tables() attaches every table that both sides have.'
    FROM run_ops.routed_table
  UNION ALL
  SELECT 'attached', t.legacy::text, false, format('it is not attached in store "%s"', s.name),
         format('run_ops.refresh_table(%L) attaches it.', t.view)
    FROM run_ops.routed_table AS t, run_ops.store AS s
   WHERE s.server IS NOT NULL
     AND NOT EXISTS (SELECT FROM run_ops.routed_store AS r WHERE r.view = t.view AND r.store = s.name)
  UNION ALL
  SELECT 'attached', c.oid::regclass::text, false, 'a table of the run graph that is not routed',
         'run_ops.attach_table() attaches it.'
    FROM pg_class AS c JOIN run_ops.known_routing AS k ON k.legacy_table = c.relname
   WHERE c.relkind IN ('r', 'p')
     AND c.relnamespace IN (SELECT l.relnamespace FROM run_ops.routed_table AS t JOIN pg_class AS l ON l.oid = t.legacy)
     AND NOT EXISTS (SELECT FROM run_ops.routed_table AS t WHERE t.legacy = c.oid)
$$;
COMMENT ON FUNCTION run_ops.attached_gates() IS
  'whether every table is routed, in every store';

CREATE FUNCTION run_ops.refreshed_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'refreshed', s.foreign_table::text, false,
         format('it was made before %s changed: %s', t.legacy, string_agg(DISTINCT quote_ident(a.attname), ', ')),
         format('SELECT run_ops.refresh_table(%L);', t.view)
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s USING (view),
         LATERAL (SELECT c.attname
                    FROM pg_attribute AS c
                   WHERE c.attrelid IN (t.legacy, s.foreign_table) AND c.attnum > 0 AND NOT c.attisdropped
                     -- a column that the store alone has
                     AND NOT t.store_defaults ? c.attname
                   GROUP BY c.attname, c.atttypid, c.atttypmod, c.attcollation
                  HAVING count(*) = 1) AS a
   GROUP BY t.view, t.legacy, s.foreign_table
$$;
COMMENT ON FUNCTION run_ops.refreshed_gates() IS
  'foreign tables that a migration has left behind';

CREATE FUNCTION run_ops.foreign_key_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'foreign key', format('%I of %s', f.conname, f.conrelid::regclass), false,
         format('it ties %s to %s, and only one of them has rows in the stores', f.conrelid::regclass, f.confrelid::regclass),
         'Foreign keys cannot cross databases: drop it, with a short lock_timeout.'
    FROM pg_constraint AS f
   -- some are not enforced, from version 18 on; others lack the column
   WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
     AND EXISTS (SELECT FROM run_ops.routed_table AS t WHERE t.legacy = f.conrelid)
      <> EXISTS (SELECT FROM run_ops.routed_table AS t WHERE t.legacy = f.confrelid)
$$;
COMMENT ON FUNCTION run_ops.foreign_key_gates() IS
  'enforced foreign keys between a routed table and one that is not';

CREATE FUNCTION run_ops.stray_index(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('CREATE INDEX CONCURRENTLY ON %s (%I) WHERE NOT run_ops.resides(%2$I, ''legacy'');', t.legacy, t.route_column)
   WHERE NOT EXISTS (SELECT FROM pg_index AS i
                      WHERE i.indrelid = t.legacy AND i.indisvalid
                        AND pg_get_expr(i.indpred, i.indrelid) = format('(NOT run_ops.resides(%I, ''legacy''::text))', t.route_column))
$$;
COMMENT ON FUNCTION run_ops.stray_index(run_ops.routed_table) IS
  'SQL that makes the index which counts strays at once; NULL when it is there';

CREATE FUNCTION run_ops.local_stray_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table;
  n bigint;
  -- While split is on, the write lock keeps strays out: what is here are
  -- copies, which run_ops.repatriate() made, or rows that have moved.
  copies boolean := (SELECT s.enabled FROM run_ops.split_state AS s);
  moved  boolean;
BEGIN
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE r.routing <> 'store' ORDER BY r.view LOOP
    n := (SELECT a.n FROM run_ops.as_owner(t.legacy,
            format('SELECT count(*) FROM %s AS x WHERE NOT run_ops.resides(x.%I, ''legacy'')', t.legacy, t.route_column)) AS a (n bigint));
    moved := EXISTS (SELECT FROM run_ops.leftover AS l WHERE l.view = t.view);
    RETURN NEXT ROW('strays', t.legacy::text, copies OR moved OR n = 0,
      format(CASE WHEN moved THEN '%s rows that moved to a store are still here'
                  WHEN copies THEN '%s copies of rows of the stores'
                  ELSE '%s rows here belong to a store by the shape of their id' END, n),
      CASE WHEN moved THEN 'run_ops.remove_leftovers() removes them.'
           WHEN copies THEN NULL
           WHEN n > 0 THEN 'run_ops.move_strays() copies them there; enabling then moves them.'
           ELSE 'The whole table is read, and once more while writes are closed. An index avoids that: ' || run_ops.stray_index(t) END)::run_ops.gate;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.local_stray_gates() IS
  'rows of the local tables that a strict view would hide; reads whole tables, but for those with the index of run_ops.stray_index()';
REVOKE EXECUTE ON FUNCTION run_ops.local_stray_gates() FROM PUBLIC;

-- A store -------------------------------------------------------------------------

CREATE FUNCTION run_ops.reachable_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  facts  jsonb;
  before timestamptz := clock_timestamp();
  after  timestamptz;
  skew   interval;
  allowed interval := run_ops.setting('clock_skew_limit');
BEGIN
  BEGIN
    SELECT * INTO STRICT facts FROM run_ops.ask_store(store,
      'SELECT clock_timestamp() AS clock, current_setting(''transaction_read_only'')::boolean AS read_only, '
      'pg_is_in_recovery() AS in_recovery');
    after := clock_timestamp();
  EXCEPTION WHEN OTHERS THEN
    RETURN NEXT ROW('reachable', store, false, SQLERRM,
      'Check the options of its server and the user mapping; run_ops_split.store_timeout limits the wait.')::run_ops.gate;
    RETURN;
  END;
  RETURN NEXT ROW('reachable', store, true, 'it answers', NULL)::run_ops.gate;
  RETURN NEXT ROW('writable', store, NOT (facts ->> 'read_only')::boolean,
    CASE WHEN (facts ->> 'in_recovery')::boolean THEN 'it is a standby'
         WHEN (facts ->> 'read_only')::boolean THEN 'its transactions are read-only'
         ELSE 'it takes writes' END, NULL)::run_ops.gate;
  -- its clock was read somewhere between before and after
  skew := greatest((facts ->> 'clock')::timestamptz - after, before - (facts ->> 'clock')::timestamptz, '0');
  RETURN NEXT ROW('clock', store, skew <= allowed, format('off by at least %s, %s allowed', skew, allowed),
    CASE WHEN skew > allowed THEN 'Let both machines follow one time server.' END)::run_ops.gate;
END $$;
COMMENT ON FUNCTION run_ops.reachable_gates(text) IS
  'whether a store answers, takes writes, and has the right time; no more than one row when it does not answer';
REVOKE EXECUTE ON FUNCTION run_ops.reachable_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.wrapper_gate(store text) RETURNS run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT ROW('wrapper', store, w.fdwname = 'run_ops_fdw', format('server %I uses %s', f.srvname, w.fdwname),
             CASE WHEN w.fdwname <> 'run_ops_fdw' THEN
               'With postgres_fdw, a copy of this database would reach the store, and LEGACY ids may need it to be up.' END)::run_ops.gate
    FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server
    JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
   WHERE s.name = store
$$;
COMMENT ON FUNCTION run_ops.wrapper_gate(text) IS 'whether a store is reached through run_ops_fdw';

CREATE FUNCTION run_ops.index_facts_query(table_schema name, table_name name, local_names jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- names of columns become local ones inside the definition
  SELECT format($q$
    SELECT DISTINCT 'index' AS aspect,
           CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || %1$s AS name, 'present' AS fact
      FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = %2$L AND c.relname = %3$L AND i.indisvalid
       AND NOT EXISTS (SELECT FROM pg_attribute AS a
                        WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]) AND a.attname = ANY (%4$L))
    $q$,
    coalesce((SELECT string_agg('replace(', '') FROM jsonb_object_keys(local_names - '')), '')
      || $q$substring(pg_get_indexdef(i.indexrelid) FROM ' USING (.*)')$q$
      || coalesce((SELECT string_agg(format(', %L, %L)', quote_ident(key), quote_ident(value)), '')
                     FROM jsonb_each_text(local_names - '')), ''),
    table_schema, table_name, ARRAY(SELECT jsonb_array_elements_text(coalesce(local_names -> '', '[]'))))
$$;
COMMENT ON FUNCTION run_ops.index_facts_query(name, name, jsonb) IS
  'a query that describes the indexes of a table: rows of aspect, name, fact; local_names maps names in the store to local ones, its key '''' lists columns whose indexes do not count';

CREATE FUNCTION run_ops.table_gates(store text, t run_ops.routed_table) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  differing text[] := ARRAY(SELECT run_ops.table_differences(store, t));
  denied    text;
  d         record;
BEGIN
  RETURN NEXT ROW('columns', t.legacy::text, differing = '{}',
    coalesce(nullif(array_to_string(differing, '; '), ''), format('equal in store "%s"', store)),
    CASE WHEN differing <> '{}' THEN 'Bring both sides to the same shape.' END)::run_ops.gate;
  IF differing[1] LIKE 'table %: missing%' THEN
    RETURN;
  END IF;
  FOR d IN
    SELECT * FROM run_ops.differences(store,
      (SELECT run_ops.index_facts_query(n.nspname, c.relname, '{}')
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = t.legacy),
      run_ops.index_facts_query(t.store_schema, t.store_table,
        (SELECT coalesce(jsonb_object_agg(value, key), '{}') FROM jsonb_each_text(t.column_names))
        || jsonb_build_object('', (SELECT coalesce(jsonb_agg(k), '[]') FROM jsonb_object_keys(t.store_defaults) AS k))))
  LOOP
    RETURN NEXT ROW('index', format('%s %s', t.legacy, d.name), false,
      CASE WHEN d.store_fact IS NULL THEN format('missing in store "%s"', store)
           ELSE format('only in store "%s"', store) END,
      'Create it where it is missing.')::run_ops.gate;
  END LOOP;
  SELECT string_agg(a ->> 'privilege', ', ') INTO denied
    FROM run_ops.ask_store(store, format(
      'SELECT p AS privilege FROM unnest(ARRAY[''SELECT'', ''INSERT'', ''UPDATE'', ''DELETE'']) AS p '
      'WHERE NOT has_table_privilege(%L, p)', format('%I.%I', t.store_schema, t.store_table))) AS a;
  IF denied IS NOT NULL THEN
    RETURN NEXT ROW('writable', format('%s in store "%s"', t.legacy, store), false,
      format('the mapped user may not %s', denied), 'Grant it in the store.')::run_ops.gate;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.table_gates(text, run_ops.routed_table) IS
  'whether a table has the same columns and indexes in a store, and may be written there';
REVOKE EXECUTE ON FUNCTION run_ops.table_gates(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.write_lock_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- Never failing: the lock is a change of the store, for its owner to decide,
  -- and rows that do belong elsewhere have a gate of their own.
  SELECT 'write lock', t.legacy::text, true,
         CASE WHEN l.name IS NOT NULL THEN format('set in store "%s"', s.store)
              ELSE format('missing in store "%s": who connects there may write a row that the view does not show', s.store) END,
         CASE WHEN l.name IS NULL THEN format('Run in the store: %s', run_ops.store_write_lock(t.view, s.store)) END
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s USING (view)
    LEFT JOIN (SELECT a ->> 'schema', a ->> 'name' FROM run_ops.ask_store(write_lock_gates.store,
                 'SELECT n.nspname AS schema, c.relname AS name FROM pg_constraint AS k '
                 'JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace '
                 'WHERE k.contype = ''c'' AND k.conname = ''run_ops_write_lock''') AS a) AS l (schema, name)
      ON l.schema = t.store_schema AND l.name = t.store_table
   WHERE s.store = write_lock_gates.store AND t.route_column IS NOT NULL
   ORDER BY t.view::text
$$;
COMMENT ON FUNCTION run_ops.write_lock_gates(text) IS
  'whether the tables of a store refuse rows that belong elsewhere; always holds, the hint has the SQL that is missing';
REVOKE EXECUTE ON FUNCTION run_ops.write_lock_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.mapping_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'mapping', t.legacy::text, false,
         format('in store "%s" the user mapping leads to the superuser %I, and the table is owned by %I, whose triggers would run as that superuser',
                mapping_gates.store, a ->> 'superuser', a ->> 'owner'),
         'Map to a role of the store that is no superuser: the owner of the tables, with SET on parameter session_replication_role.'
    FROM run_ops.ask_store(mapping_gates.store, (
           SELECT format('SELECT u.view, r.rolname AS superuser, pg_get_userbyid(c.relowner) AS owner '
                         'FROM unnest(%L::bigint[], %L::text[]) AS u (view, name) JOIN pg_class AS c ON c.oid = to_regclass(u.name) '
                         'JOIN pg_roles AS r ON r.rolname = current_user '
                         'WHERE r.rolsuper AND NOT pg_has_role(c.relowner, r.oid, ''USAGE'')',
                         array_agg(t.view::oid), array_agg(format('%I.%I', t.store_schema, t.store_table)))
             FROM run_ops.routed_table AS t)) AS a
    JOIN run_ops.routed_table AS t ON t.view = (a ->> 'view')::oid
   ORDER BY t.view::text
$$;
COMMENT ON FUNCTION run_ops.mapping_gates(text) IS
  'tables of a store whose owner could run code there as a superuser, as the user mapping leads to one';
REVOKE EXECUTE ON FUNCTION run_ops.mapping_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.store_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t         run_ops.routed_table;
  differing text[];
  n         bigint;
BEGIN
  RETURN QUERY SELECT * FROM run_ops.reachable_gates(store);
  RETURN NEXT run_ops.distinct_gate(store);
  RETURN NEXT run_ops.wrapper_gate(store);
  BEGIN
    differing := ARRAY(SELECT run_ops.database_differences(store));
    RETURN NEXT ROW('database', store, differing = '{}',
      coalesce(nullif(array_to_string(differing, '; '), ''), 'encoding and collation are equal'),
      CASE WHEN differing <> '{}' THEN 'Sorted pages would be merged wrongly. Create the store''s database anew.' END)::run_ops.gate;
    FOR t IN SELECT r.* FROM run_ops.routed_table AS r JOIN run_ops.routed_store AS s USING (view)
              WHERE s.store = store_gates.store ORDER BY r.view LOOP
      RETURN QUERY SELECT * FROM run_ops.table_gates(store, t);
    END LOOP;
    RETURN QUERY SELECT * FROM run_ops.write_lock_gates(store);
    RETURN QUERY SELECT * FROM run_ops.mapping_gates(store);
  EXCEPTION WHEN OTHERS THEN
    RETURN NEXT ROW('columns', store, NULL, format('not checked: %s', SQLERRM), NULL)::run_ops.gate;
  END;
END $$;
COMMENT ON FUNCTION run_ops.store_gates(text) IS 'every gate that asks one store';
REVOKE EXECUTE ON FUNCTION run_ops.store_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.store_stray_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t      run_ops.routed_table;
  n      bigint;
  silent text;
BEGIN
  -- the connection of a foreign table may be waited for without limit
  BEGIN
    PERFORM run_ops.ask_store(s.name, 'SELECT 1') FROM run_ops.store AS s WHERE s.server IS NOT NULL;
  EXCEPTION WHEN OTHERS THEN
    silent := SQLERRM;
  END;
  FOR t IN SELECT * FROM run_ops.routed_table AS r ORDER BY r.view LOOP
    IF silent IS NOT NULL THEN
      RETURN NEXT ROW('strays', t.view::text, NULL, format('not checked: %s', silent), NULL)::run_ops.gate;
      CONTINUE;
    END IF;
    BEGIN
      n := (SELECT count(*) FROM run_ops.find_strays(t.view) AS s
             WHERE s.store <> 'legacy' OR t.routing = 'store');
      RETURN NEXT ROW('strays', t.view::text, n = 0,
        format('%s rows would not be shown', n),
        CASE WHEN n > 0 THEN format('SELECT * FROM run_ops.find_strays(%L);', t.view) END)::run_ops.gate;
    EXCEPTION WHEN OTHERS THEN
      RETURN NEXT ROW('strays', t.view::text, NULL, format('not checked: %s', SQLERRM), NULL)::run_ops.gate;
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.store_stray_gates() IS
  'rows of the stores that belong elsewhere, and keys that two stores have; reads whole tables';
REVOKE EXECUTE ON FUNCTION run_ops.store_stray_gates() FROM PUBLIC;

-- All of them -----------------------------------------------------------------------

CREATE FUNCTION run_ops.view_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- a union view keeps a rule that a plain one does not have
  SELECT 'view', t.view::text, false,
         format('it is the view for split %s', CASE WHEN s.enabled THEN 'off' ELSE 'on' END),
         'It was replaced by hand, or this is a restored copy: run_ops.enable_split() or run_ops.disable_split(force => true) makes it anew.'
    FROM run_ops.routed_table AS t, run_ops.split_state AS s
   WHERE s.enabled <> run_ops.has_union_rule(t.view)
$$;
COMMENT ON FUNCTION run_ops.view_gates() IS 'views that do not show what the mode says';

CREATE FUNCTION run_ops.local_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'opted in', '', s.opted_in,
         CASE WHEN s.opted_in THEN 'yes' ELSE 'no; no store is asked' END,
         CASE WHEN NOT s.opted_in THEN 'SELECT run_ops.configure_split(opted_in => true);' END
    FROM run_ops.split_state AS s
  UNION ALL SELECT * FROM run_ops.server_gates()
  UNION ALL SELECT * FROM run_ops.attached_gates()
  UNION ALL SELECT * FROM run_ops.refreshed_gates()
  UNION ALL SELECT * FROM run_ops.foreign_key_gates()
  UNION ALL SELECT * FROM run_ops.realtime_gates()
  UNION ALL SELECT g.* FROM run_ops.split_state AS s, run_ops.view_gates() AS g WHERE s.enabled
$$;
COMMENT ON FUNCTION run_ops.local_gates() IS
  'gates that ask no store and read no table, before acknowledgements';

CREATE FUNCTION run_ops.gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  state   run_ops.split_state;
  g       run_ops.gate;
  answers boolean := true;
BEGIN
  SELECT * INTO state FROM run_ops.split_state;
  RETURN QUERY SELECT * FROM run_ops.local_gates();
  IF state.opted_in THEN
    FOR g IN SELECT x.* FROM run_ops.store AS s, run_ops.store_gates(s.name) AS x WHERE s.server IS NOT NULL LOOP
      answers := answers AND (g.gate <> 'reachable' OR g.ok);
      RETURN NEXT g;
    END LOOP;
    -- after a repatriation every row is here, and enabling moves them
    IF NOT state.superseded THEN
      RETURN QUERY SELECT * FROM run_ops.local_stray_gates();
      -- a foreign table may wait for a store without an end
      IF answers THEN
        RETURN QUERY SELECT * FROM run_ops.store_stray_gates();
      ELSE
        RETURN NEXT ROW('strays', '', NULL, 'not checked: a store does not answer', NULL)::run_ops.gate;
      END IF;
    END IF;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.gates() IS 'every gate, before acknowledgements';
REVOKE EXECUTE ON FUNCTION run_ops.gates() FROM PUBLIC;

-- SECURITY DEFINER for the reason given in split_mode.sql.
CREATE FUNCTION run_ops.check_split() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  -- with the rights of the owner, whose user mapping reaches the stores
  RETURN QUERY SELECT a.* FROM run_ops.gates() AS g, run_ops.acknowledged(g) AS a;
END $$;
COMMENT ON FUNCTION run_ops.check_split() IS
  'one row for each gate and object: does it hold, what was found, what to do; asks every store, and reads whole tables for strays';
