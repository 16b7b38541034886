
-- split_gates: the conditions for switching split on, one row for each.

CREATE FUNCTION run_ops.acknowledgeable_gates() RETURNS text[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ARRAY['attached', 'clone', 'collation', 'foreign key', 'guard', 'hidden name', 'ids', 'index', 'mapping', 'preload', 'realtime', 'search path', 'standby', 'version', 'wrapper'];
COMMENT ON FUNCTION run_ops.acknowledgeable_gates() IS
  'the gates that an operator may acknowledge for an object, because their failure alone cannot lose or duplicate a row';

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
        format('To accept it: SELECT run_ops.acknowledge(%L, %L, ''reason'');', g.gate, g.object));
    END IF;
  END IF;
  RETURN g;
END $$;
COMMENT ON FUNCTION run_ops.acknowledged(run_ops.gate) IS
  'the gate after acknowledgements: ok if an operator has acknowledged it, otherwise with a hint how to';

-- Gates that check this database only ---------------------------------------------

CREATE FUNCTION run_ops.realtime_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'realtime', reader.object, reader.ok, reader.detail, reader.hint
    FROM (
      SELECT 'native realtime' AS object, s.native_realtime AS ok,
             CASE WHEN s.native_realtime THEN 'realtime readers see the rows of every store'
                  ELSE 'realtime readers follow this database only' END AS detail,
             CASE WHEN NOT s.native_realtime THEN
               'Switch the application to its native realtime backend, then: SELECT run_ops.configure_split(native_realtime => true);' END AS hint
        FROM run_ops.split_state AS s
      UNION ALL
      SELECT format('publication %I', p.pubname), false,
             format('it publishes only the local rows of %s', string_agg(DISTINCT t.legacy::text, ', ')),
             'Create a publication in each store as well, and let the subscribers use both.'
        FROM pg_publication_tables AS p
        JOIN pg_namespace AS n ON n.nspname = p.schemaname
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
        JOIN run_ops.routed_table AS t ON t.legacy = coalesce(pg_partition_root(c.oid), c.oid)
       GROUP BY p.pubname
      UNION ALL
      -- pgoutput sends the tables of a publication, other plugins send all tables
      SELECT format('replication slot %I', r.slot_name), false,
             format('its plugin %s sends all tables, but only of this database', r.plugin),
             'Create a slot in each store as well, and let the readers use both.'
        FROM pg_replication_slots AS r
       WHERE r.database = current_database() AND r.plugin <> 'pgoutput'
    ) AS reader
$$;
COMMENT ON FUNCTION run_ops.realtime_gates() IS
  'whether readers follow this database only and would not see the rows of the stores';

CREATE FUNCTION run_ops.version_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- the library in the name: an acknowledgement is for one version
  SELECT 'version', 'library ' || d.library, false, d.detail, d.hint FROM run_ops.library_differs() AS d
$$;
COMMENT ON FUNCTION run_ops.version_gates() IS 'whether the extension and the library of this session have different versions';

CREATE FUNCTION run_ops.server_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'server', '', run_ops.server_identity() = ANY (s.identities) AND NOT pg_is_in_recovery(),
         concat_ws('; ', CASE WHEN pg_is_in_recovery() THEN 'it is a standby' END,
           format('this server is %s, servers that may use the stores: %s', run_ops.server_identity(),
                  coalesce(nullif(array_to_string(s.identities, ', '), ''), 'none'))),
         CASE WHEN pg_is_in_recovery() AND run_ops.server_identity() <> ALL (s.identities) THEN
           format('To let this standby read the stores, and use them after its promotion, run on its primary: SELECT run_ops.trust_standby(%L);', run_ops.server_identity())
              WHEN pg_is_in_recovery() THEN 'Check and switch split on its primary.'
              WHEN run_ops.server_identity() <> ALL (s.identities) THEN
           'A copy of the database does not use the stores of the original. To bind the stores to this server: SELECT run_ops.enable_split();' END
    FROM run_ops.split_state AS s
  UNION ALL
  SELECT 'store', '', s.ok, coalesce('attached: ' || s.names, 'no store is attached'),
         CASE WHEN s.ok THEN NULL
              WHEN s.server IS NOT NULL THEN format('SELECT run_ops.attach_store(''new'', %L);', s.server)
              ELSE 'Create a server that leads to the store, and a user mapping: '
                   'CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host ''...'', dbname ''...''); '
                   'CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user ''...'', password ''...''); '
                   'SELECT run_ops.attach_store(''new'', ''new'');' END
    -- new ids of the known shapes need store "new", key rules need the stores that they name
    FROM (SELECT string_agg(r.name, ', ' ORDER BY r.name) AS names,
                 coalesce(bool_or(r.name = 'new') OR (count(*) > 0 AND (SELECT bool_and(t.key_rule IS NOT NULL) FROM run_ops.routed_table AS t)), false) AS ok,
                 (SELECT f.srvname FROM pg_foreign_server AS f JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
                   WHERE w.fdwname = 'run_ops_fdw' AND f.srvname NOT IN (SELECT x.server FROM run_ops.store AS x WHERE x.server IS NOT NULL)
                   ORDER BY f.srvname <> 'new', f.srvname LIMIT 1) AS server
            FROM run_ops.store AS r WHERE r.server IS NOT NULL) AS s
$$;
COMMENT ON FUNCTION run_ops.server_gates() IS 'whether this server may use the stores, and whether those are attached that ids can name';

CREATE FUNCTION run_ops.attached_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'attached', '', count(*) > 0, format('%s routed tables', count(*)),
         CASE WHEN count(*) > 0 THEN NULL
              WHEN EXISTS (SELECT FROM pg_class AS c, LATERAL run_ops.propose_routing(c.oid, NULL, NULL, NULL, NULL, NULL, NULL) AS p
                            WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p') AND p.routing IS NOT NULL)
              THEN 'To attach all tables that exist on both sides: SELECT * FROM run_ops.attach_all_tables();'
              ELSE 'No table has a name from which its routing is known. To attach a table: '
                   'SELECT run_ops.attach_table(''...'', routing => ''...'', route_column => ''...'');' END
    FROM run_ops.routed_table
  UNION ALL
  SELECT 'attached', t.legacy::text, false, format('it is not attached in store "%s"', s.name),
         format('SELECT run_ops.refresh_table(%L);', t.view)
    FROM run_ops.routed_table AS t, run_ops.store AS s
   WHERE s.server IS NOT NULL AND run_ops.is_complete(t)
     AND NOT EXISTS (SELECT FROM run_ops.routed_store AS r WHERE r.view = t.view AND r.store = s.name)
  UNION ALL
  SELECT 'attached', t.legacy::text, false, format('table %s inherits from it, and has neither its key nor its write lock', h),
         format('ALTER TABLE %s NO INHERIT %s;', h, t.legacy)
    FROM run_ops.routed_table AS t, run_ops.heirs(t.legacy) AS h
  UNION ALL
  SELECT 'attached', c.oid::regclass::text, false, 'it is a run-ops table, but not a routed table',
         format('SELECT run_ops.attach_table(%L);', c.oid::regclass)
    FROM pg_class AS c JOIN run_ops.known_routing AS k ON k.legacy_table = c.relname
   WHERE c.relkind IN ('r', 'p')
     AND c.relnamespace IN (SELECT l.relnamespace FROM run_ops.routed_table AS t JOIN pg_class AS l ON l.oid = t.legacy)
     AND NOT EXISTS (SELECT FROM run_ops.routed_table AS t WHERE t.legacy = c.oid)
$$;
COMMENT ON FUNCTION run_ops.attached_gates() IS
  'whether all run-ops tables are routed tables, and attached in every store';

CREATE FUNCTION run_ops.preload_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'preload', '', false, 'new sessions load the library only while they plan their first statement on a view',
         format('As a superuser: %s;', p) FROM run_ops.preload_statement() AS p
   WHERE p IS NOT NULL AND EXISTS (SELECT FROM run_ops.routed_table)
$$;
COMMENT ON FUNCTION run_ops.preload_gates() IS
  'whether new sessions have the library before their first statement, which otherwise may fail with 40001 if another session changes the same rows';

CREATE FUNCTION run_ops.search_paths() RETURNS TABLE (role oid, place text, path text, schemas name[])
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT d.setrole,
         CASE WHEN d.setrole <> 0 THEN concat('ROLE ', d.setrole::regrole, CASE WHEN d.setdatabase <> 0 THEN format(' IN DATABASE %I', current_database()) END)
              WHEN d.setdatabase <> 0 THEN format('DATABASE %I', current_database()) ELSE 'ROLE ALL' END,
         p.path,
         ARRAY(SELECT coalesce(replace(m.name[1], '""', '"'), lower(m.name[2]))
                 FROM regexp_matches(p.path, '"((?:[^"]|"")*)"|([^",\s]+)', 'g') WITH ORDINALITY AS m (name, ord) ORDER BY m.ord)
    FROM pg_db_role_setting AS d, unnest(d.setconfig) AS c, LATERAL (SELECT substr(c, length('search_path=') + 1) AS path) AS p
   WHERE c LIKE 'search\_path=%' AND d.setdatabase IN (0, (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database()))
$$;
COMMENT ON FUNCTION run_ops.search_paths() IS
  'the search_path that is set for roles, for this database, or for all: whose it is (0: of no single role), as ALTER names it, and the schemas in their order';

CREATE FUNCTION run_ops.search_path_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- who has the schema of the views on its path means the views
  WITH found AS (
    SELECT s.place, s.path, s.schemas, t.view, t.legacy, l.relname, v.relname AS view_name, n.nspname AS schema,
           CASE WHEN s.role <> 0 AND NOT has_schema_privilege(s.role, n.oid, 'USAGE') THEN s.role::regrole END AS strange
      FROM run_ops.search_paths() AS s, run_ops.routed_table AS t
      JOIN pg_class AS l ON l.oid = t.legacy JOIN pg_class AS v ON v.oid = t.view JOIN pg_namespace AS n ON n.oid = v.relnamespace
     WHERE v.relnamespace <> l.relnamespace AND n.nspname = ANY (s.schemas)
       AND t.legacy = (SELECT c.oid FROM unnest(s.schemas) WITH ORDINALITY AS u (name, ord)
                         JOIN pg_namespace AS m ON m.nspname = u.name JOIN pg_class AS c ON c.relnamespace = m.oid AND c.relname = l.relname
                        WHERE s.role = 0 OR has_schema_privilege(s.role, m.oid, 'USAGE') ORDER BY u.ord LIMIT 1)),
  statement AS (
    SELECT DISTINCT f.place, CASE
             WHEN f.relname <> f.view_name THEN format('ALTER VIEW %s RENAME TO %I;', f.view, f.relname)
             WHEN f.strange IS NOT NULL THEN format('GRANT USAGE ON SCHEMA %I TO %s;', f.schema, f.strange)
             ELSE format('ALTER %s SET search_path = %I, %s;', f.place, f.schema,
                    (SELECT string_agg(quote_ident(u.name), ', ' ORDER BY u.ord) FROM unnest(f.schemas) WITH ORDINALITY AS u (name, ord) WHERE u.name <> f.schema)) END AS sql
      FROM found AS f)
  SELECT 'search path', f.place, false,
         format('search_path is %s, and so %s', f.path,
                string_agg(format('%I is table %s in place of view %s', f.relname, f.legacy, f.view), ', ' ORDER BY f.view::text)),
         (SELECT string_agg(s.sql, ' ' ORDER BY s.sql) FROM statement AS s WHERE s.place = f.place)
    FROM found AS f
   GROUP BY f.place, f.path
   ORDER BY f.place
$$;
COMMENT ON FUNCTION run_ops.search_path_gates() IS
  'settings of search_path that have the schema of views, but by which the name of a table leads to the local table and not to its view';

CREATE FUNCTION run_ops.hidden_name_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- whoever has run_ops in front of the schema of the table
  WITH setting AS (
    SELECT s.place, s.path FROM run_ops.search_paths() AS s WHERE 'run_ops' = ANY (s.schemas)
    UNION ALL
    SELECT format('ROUTINE %s', p.oid::regprocedure), substr(c, length('search_path=') + 1)
      FROM pg_proc AS p, unnest(p.proconfig) AS c
     WHERE p.proconfig IS NOT NULL AND c LIKE 'search\_path=%' AND c ~ '\mrun_ops\M'),
  statement AS (
    SELECT 'CREATE SCHEMA IF NOT EXISTS routed;' AS sql, 0 AS ord
    UNION ALL
    SELECT DISTINCT format('GRANT USAGE ON SCHEMA routed TO %s;', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END), 1
      FROM pg_namespace AS n, aclexplode(n.nspacl) AS a WHERE n.nspname = 'run_ops' AND a.privilege_type = 'USAGE' AND a.grantee <> n.nspowner
    UNION ALL
    SELECT format('ALTER VIEW %s SET SCHEMA routed;', t.view), 2
      FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.view WHERE c.relnamespace = 'run_ops'::regnamespace
    UNION ALL
    SELECT format('ALTER %s SET search_path = %s;', s.place, regexp_replace(s.path, '\mrun_ops\M', 'routed')), 3
      FROM setting AS s)
  SELECT 'hidden name', h.object, false, format('%s stands in front of it where search_path has run_ops first', h.hidden_by),
         'Have the views in a schema that holds nothing else: ' || (SELECT string_agg(s.sql, ' ' ORDER BY s.ord, s.sql) FROM statement AS s)
    FROM (SELECT DISTINCT c.relnamespace FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.legacy) AS n,
         LATERAL run_ops.hidden_names(n.relnamespace) AS h
   WHERE EXISTS (SELECT FROM setting)
      OR EXISTS (SELECT FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.view WHERE c.relnamespace = 'run_ops'::regnamespace)
   ORDER BY h.object
$$;
COMMENT ON FUNCTION run_ops.hidden_name_gates() IS
  'tables, types and functions of the application that have the name of one of run_ops_split, while views are in schema run_ops or a search_path has it';

CREATE FUNCTION run_ops.refreshed_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'refreshed', s.foreign_table::text, false,
         format('it does not have these changes of %s: %s', t.legacy, string_agg(DISTINCT quote_ident(a.attname), ', ')),
         format('SELECT run_ops.refresh_table(%L);', t.view)
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s USING (view),
         LATERAL (SELECT c.attname
                    FROM pg_attribute AS c
                   WHERE c.attrelid IN (t.legacy, s.foreign_table) AND c.attnum > 0 AND NOT c.attisdropped
                     -- except columns that only the store has
                     AND NOT t.store_defaults ? c.attname
                   GROUP BY c.attname, c.atttypid, c.atttypmod, c.attcollation
                  HAVING count(*) = 1) AS a
   WHERE run_ops.is_complete(t)
   GROUP BY t.view, t.legacy, s.foreign_table
$$;
COMMENT ON FUNCTION run_ops.refreshed_gates() IS
  'foreign tables whose columns differ from those of the local table after a migration';

CREATE FUNCTION run_ops.standby_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- Which identity is that of which connection cannot be known here.  So it is
  -- only counted: a standby of this server has its system identifier.  A base
  -- backup or pg_receivewal replays nothing, and a walsender of logical
  -- replication is connected to a database.
  SELECT 'standby', '', s.trusted >= s.connected,
         format('%s standbys are connected (%s), and %s are trusted', s.connected, s.names, s.trusted),
         CASE WHEN s.trusted < s.connected THEN
           'A standby that is not trusted cannot read the stores, and refuses writes after its promotion. '
           'Run in this database what each of them returns. Run on each standby: '
           'SELECT format(''SELECT run_ops.trust_standby(%L);'', run_ops.server_identity());' END
    FROM (SELECT count(*) AS connected, string_agg(r.application_name, ', ' ORDER BY r.application_name) AS names,
                 (SELECT count(*) FROM run_ops.split_state AS x, unnest(x.identities) AS i
                   WHERE i <> run_ops.server_identity() AND split_part(i, '@', 1) = split_part(run_ops.server_identity(), '@', 1)) AS trusted
            FROM pg_stat_replication AS r JOIN pg_stat_activity AS a USING (pid)
           WHERE a.datid IS NULL AND r.state <> 'backup' AND r.replay_lsn IS NOT NULL) AS s
   WHERE s.connected > 0
$$;
COMMENT ON FUNCTION run_ops.standby_gates() IS
  'whether as many standbys of this server are trusted as are connected; no row if none is connected, or if this role may not see them (pg_read_all_stats)';

CREATE FUNCTION run_ops.foreign_key_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'foreign key', format('%I of %s', f.conname, f.conrelid::regclass), false,
         format('it connects %s with %s, and only one of them has rows in the stores', f.conrelid::regclass, f.confrelid::regclass),
         format('A foreign key cannot refer to another database. Drop it with a short lock_timeout: ALTER TABLE %s DROP CONSTRAINT %I;',
                f.conrelid::regclass, f.conname)
    FROM pg_constraint AS f
   -- conenforced exists from PostgreSQL 18 on
   WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
     -- one side may be a partition
     AND EXISTS (SELECT FROM run_ops.routed_table AS t WHERE t.legacy = coalesce(pg_partition_root(f.conrelid), f.conrelid))
      <> EXISTS (SELECT FROM run_ops.routed_table AS t WHERE t.legacy = coalesce(pg_partition_root(f.confrelid), f.confrelid))
  UNION ALL
  -- the other way round, a new row of routing "store" goes beside the row to which
  -- it refers
  SELECT 'foreign key', format('%I of %s', f.conname, f.conrelid::regclass), false,
         format('"%s" decides where a row of %s is, but no id decides for %s: a new row there may be in this database, and then the foreign key fails in the store',
                child.route_column, child.legacy, parent.legacy),
         format('Let the application write each row of %s beside its run: SET LOCAL run_ops_split.beside = ''<%s>''; Or drop the foreign key. Run in this database: ALTER TABLE %s DROP CONSTRAINT %I;%s',
                parent.legacy, CASE WHEN child.key_rule IS NULL THEN 'id of the run' ELSE 'name of its store' END, child.legacy, f.conname,
                (SELECT string_agg(format(' Run in store "%s": ALTER TABLE %I.%I DROP CONSTRAINT IF EXISTS %I;', s.store, child.store_schema, child.store_table, f.conname), '' ORDER BY s.store)
                   FROM run_ops.routed_store AS s WHERE s.view = child.view))
    FROM pg_constraint AS f JOIN run_ops.routed_table AS child ON child.legacy = f.conrelid JOIN run_ops.routed_table AS parent ON parent.legacy = f.confrelid
   WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
     AND child.routing <> 'store' AND parent.routing = 'store'
$$;
COMMENT ON FUNCTION run_ops.foreign_key_gates() IS
  'enforced foreign keys between a routed table and a table that is not routed, and from a table whose ids decide to one of routing "store"';

CREATE FUNCTION run_ops.stray_index(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('CREATE INDEX CONCURRENTLY ON %s (%I) WHERE NOT run_ops.resides(%2$I, ''legacy'');', t.legacy, t.route_column)
   WHERE t.key_rule IS NULL
     AND NOT EXISTS (SELECT FROM pg_index AS i
                      WHERE i.indrelid = t.legacy AND i.indisvalid
                        AND pg_get_expr(i.indpred, i.indrelid) = format('(NOT run_ops.resides(%I, ''legacy''::text))', t.route_column))
$$;
COMMENT ON FUNCTION run_ops.stray_index(run_ops.routed_table) IS
  'SQL that creates an index with which strays are counted without reading the whole table; NULL if it exists';

CREATE FUNCTION run_ops.local_stray_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table;
  n bigint;
  -- While split is on, the write lock refuses strays.  So rows that belong to a
  -- store are copies by run_ops.repatriate(), or leftovers.  And what
  -- run_ops.move_strays() copies is moved by the switch.
  bound  boolean := (SELECT run_ops.server_identity() = ANY (s.identities) FROM run_ops.split_state AS s);
  copies boolean := (SELECT s.enabled OR s.moving FROM run_ops.split_state AS s);
  moved  boolean;
BEGIN
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE r.routing <> 'store' AND run_ops.is_relation(r.legacy, '{r,p}') ORDER BY r.view LOOP
    n := (SELECT a.n FROM run_ops.as_owner(t.legacy,
            format('SELECT count(*) FROM %s AS x WHERE NOT %s', t.legacy, run_ops.in_store(t, format('x.%I', t.route_column), 'legacy'))) AS a (n bigint));
    moved := EXISTS (SELECT FROM run_ops.leftover AS l WHERE l.view = t.view);
    RETURN NEXT ROW('strays', t.legacy::text, copies OR moved OR n = 0,
      format(CASE WHEN moved THEN '%s rows that moved to a store are still in the local table'
                  WHEN copies THEN '%s copies of rows of the stores'
                  ELSE '%s rows of the local table belong to a store by their id' END, n),
      CASE WHEN moved THEN 'To remove them, repeat until done: SELECT * FROM run_ops.remove_leftovers();'
           WHEN copies THEN NULL
           WHEN n > 0 THEN
             -- enable_split() would bind this server, but this gate refuses it
             CASE WHEN NOT bound THEN 'To bind the stores to this server: SELECT run_ops.trust_standby(run_ops.server_identity()); ' ELSE '' END
             || 'To copy them to the store, repeat until done: SELECT * FROM run_ops.move_strays(); Then SELECT run_ops.enable_split(); moves them.'
           ELSE 'The check reads the whole table, now and again while writes are blocked. An index avoids this: ' || run_ops.stray_index(t) END)::run_ops.gate;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.local_stray_gates() IS
  'rows of the local tables that belong to a store, so that the views would hide them; reads each whole table unless it has the index of run_ops.stray_index()';
REVOKE EXECUTE ON FUNCTION run_ops.local_stray_gates() FROM PUBLIC;

-- Gates that check a store -----------------------------------------------------------

CREATE FUNCTION run_ops.pooled_gates(store text, pid integer) RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- A pooler announces processes of its own making, so it can be detected, but
  -- not its mode.  The option is right in every mode.
  SELECT 'pooled', store, p.pooled,
         CASE WHEN p.pooled THEN 'a pooler is before it, and the option pooled is set'
              ELSE 'a pooler is before it, but the option pooled is not set' END,
         CASE WHEN NOT p.pooled THEN
           format('In transaction mode, settings of this database would reach other clients of the pooler, and be missing here. %s Then let the pooler open its connections again, with RECONNECT in PgBouncer.',
                  run_ops.altering_server(pooled_gates.store, '{"pooled": "true"}')) END
    FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server,
         LATERAL (SELECT coalesce(bool_or(o.option_value::boolean), false)
                    FROM pg_options_to_table(f.srvoptions) AS o WHERE o.option_name = 'pooled') AS p (pooled)
   WHERE s.name = store
     AND NOT EXISTS (SELECT FROM run_ops.store_connections() AS c WHERE c.server = s.server AND c.pid = pooled_gates.pid)
$$;
COMMENT ON FUNCTION run_ops.pooled_gates(text, integer) IS
  'whether the server of a store has the option pooled, if there is a pooler: no connection of this session was announced as the process that has answered';
REVOKE EXECUTE ON FUNCTION run_ops.pooled_gates(text, integer) FROM PUBLIC;

CREATE FUNCTION run_ops.replica_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  replica name := run_ops.replica_of(store);
  state   record;
  facts   jsonb;
  reason  text;
BEGIN
  IF replica IS NULL THEN
    RETURN;
  END IF;
  BEGIN
    state := run_ops.replica_state(replica);
    SELECT * INTO facts FROM run_ops.ask_store(store, 'SELECT system_identifier::text, current_database() AS database FROM pg_control_system()');
  EXCEPTION
    WHEN undefined_object THEN
      RETURN NEXT ROW('replica', store, false, SQLERRM, format('Create it, or: ALTER SERVER %I OPTIONS (DROP read_from);', (SELECT s.server FROM run_ops.store AS s WHERE s.name = store)))::run_ops.gate;
      RETURN;
    WHEN OTHERS THEN
      RETURN NEXT ROW('replica', store, true, 'it does not answer, so the store is read: ' || SQLERRM, NULL)::run_ops.gate;
      RETURN;
  END;
  reason := CASE WHEN state.system_identifier <> facts ->> 'system_identifier' OR state.database <> facts ->> 'database' THEN 'is not a copy of the store'
                 WHEN state.lag_ms IS NULL THEN 'is not a standby, and so not read' END;
  RETURN NEXT ROW('replica', store, reason IS NULL, format('server "%s" %s', replica, coalesce(reason, format('is %s ms behind', state.lag_ms))),
    CASE WHEN reason IS NOT NULL THEN format('ALTER SERVER %I OPTIONS (DROP read_from);', (SELECT s.server FROM run_ops.store AS s WHERE s.name = store)) END)::run_ops.gate;
END $$;
COMMENT ON FUNCTION run_ops.replica_gates(text) IS
  'whether the replica that the server of a store names is a standby of that store';
REVOKE EXECUTE ON FUNCTION run_ops.replica_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.reachable_gates(stores text[]) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  before timestamptz := clock_timestamp();
  after  timestamptz;
  skew   interval;
  a      record;
  facts  jsonb;
  mapping text;
  allowed interval := run_ops.setting('clock_skew_limit');
BEGIN
  FOR a IN SELECT * FROM run_ops.ask_stores(stores, ARRAY[
      'SELECT clock_timestamp() AS clock, current_setting(''transaction_read_only'')::boolean AS read_only, '
      'current_user AS role, current_database() AS database, '
      '(SELECT source FROM pg_settings WHERE name = ''default_transaction_read_only'') AS source, '
      'pg_is_in_recovery() AS in_recovery, pg_backend_pid() AS pid'], tolerant => true) LOOP
    after := coalesce(after, clock_timestamp());
    facts := a.answer;
    IF facts IS NULL THEN
      mapping := run_ops.altering_mapping(a.store, '{"user": "...", "password": "..."}');
      RETURN NEXT ROW('reachable', a.store, false, a.error,
        CASE WHEN mapping NOT LIKE 'CREATE %' THEN
               format('Start the store, or correct where it is: %s Or as whom it is reached: ', run_ops.altering_server(a.store, '{"host": "...", "dbname": "..."}')) ELSE '' END
        || mapping)::run_ops.gate;
      CONTINUE;
    END IF;
    RETURN NEXT ROW('reachable', a.store, true, 'it answers', NULL)::run_ops.gate;
    RETURN NEXT ROW('writable', a.store, NOT (facts ->> 'read_only')::boolean,
      CASE WHEN (facts ->> 'in_recovery')::boolean THEN 'it is a standby'
           WHEN (facts ->> 'read_only')::boolean THEN 'its transactions are read-only'
           ELSE 'it accepts writes' END,
      CASE WHEN (facts ->> 'in_recovery')::boolean THEN
             'Have the server lead to its primary: ' || run_ops.altering_server(a.store, '{"host": "..."}')
           WHEN (facts ->> 'read_only')::boolean THEN
             format('Run in store "%s": BEGIN READ WRITE; %s; COMMIT;', a.store, CASE facts ->> 'source'
               WHEN 'database' THEN format('ALTER DATABASE %I RESET default_transaction_read_only', facts ->> 'database')
               WHEN 'user' THEN format('ALTER ROLE %I RESET default_transaction_read_only', facts ->> 'role')
               ELSE format('ALTER DATABASE %I SET default_transaction_read_only = off', facts ->> 'database') END) END)::run_ops.gate;
    RETURN QUERY SELECT * FROM run_ops.pooled_gates(a.store, (facts ->> 'pid')::integer);
    RETURN QUERY SELECT * FROM run_ops.replica_gates(a.store);
    -- the clock of the store was read some time between before and after
    skew := greatest((facts ->> 'clock')::timestamptz - after, before - (facts ->> 'clock')::timestamptz, '0');
    RETURN NEXT ROW('clock', a.store, skew <= allowed, format('its clock differs by at least %s, %s are allowed', skew, allowed),
      CASE WHEN skew > allowed THEN 'Synchronize the clocks of both machines with the same time server.' END)::run_ops.gate;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.reachable_gates(text[]) IS
  'whether stores answer, whether their servers have the option pooled if there is a pooler, whether their replicas are some, whether they accept writes and have the same time; only one row for a store that does not answer';
REVOKE EXECUTE ON FUNCTION run_ops.reachable_gates(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.wrapper_gate(store text) RETURNS run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT ROW('wrapper', store, w.fdwname = 'run_ops_fdw', format('server %I uses %s', f.srvname, w.fdwname),
             'With postgres_fdw, a copy of this database could access the store, and lookups of LEGACY ids can fail while the store is down. '
             || run_ops.replacing_server(store))::run_ops.gate
    FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server
    JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
   WHERE s.name = store
$$;
COMMENT ON FUNCTION run_ops.wrapper_gate(text) IS 'whether the server of a store is one of run_ops_fdw';

CREATE FUNCTION run_ops.table_gates(store text, t run_ops.routed_table) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  differing text[] := ARRAY(SELECT run_ops.table_differences(store, t));
  is_missing boolean := coalesce(differing[1] LIKE 'table %: missing%', false);
  denied    jsonb;
BEGIN
  RETURN NEXT ROW('columns', t.legacy::text, differing = '{}',
    coalesce(nullif(array_to_string(differing, '; '), ''), format('equal in store "%s"', store)),
    CASE WHEN differing <> '{}' THEN
      concat_ws(' ', 'Make both sides equal.', run_ops.equalizing(store, t, is_missing)) END)::run_ops.gate;
  IF is_missing THEN
    RETURN;
  END IF;
  RETURN QUERY SELECT * FROM run_ops.index_gates(store, t);
  RETURN QUERY SELECT * FROM run_ops.guard_gates(store, t);
  SELECT a INTO denied
    FROM run_ops.ask_store(store, format(
      'SELECT current_user AS role, string_agg(p, '', '') AS privileges FROM unnest(ARRAY[''SELECT'', ''INSERT'', ''UPDATE'', ''DELETE'']) AS p '
      'WHERE NOT has_table_privilege(%L, p)', format('%I.%I', t.store_schema, t.store_table))) AS a;
  IF denied ->> 'privileges' IS NOT NULL THEN
    RETURN NEXT ROW('writable', format('%s in store "%s"', t.legacy, store), false,
      format('the user of the user mapping does not have privilege %s', denied ->> 'privileges'),
      format('Run in store "%s": GRANT %s ON %I.%I TO %I;', store, denied ->> 'privileges', t.store_schema, t.store_table, denied ->> 'role'))::run_ops.gate;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.table_gates(text, run_ops.routed_table) IS
  'whether a table has the same columns and indexes in a store, and whether the user of the user mapping may write to it';
REVOKE EXECUTE ON FUNCTION run_ops.table_gates(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.write_lock_query() RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN 'SELECT n.nspname AS schema, c.relname AS name, k.convalidated AS validated FROM pg_constraint AS k '
         'JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace '
         'WHERE k.contype = ''c'' AND k.conname = ''run_ops_write_lock'' AND coalesce((to_jsonb(k) ->> ''conenforced'')::boolean, true)';
COMMENT ON FUNCTION run_ops.write_lock_query() IS
  'a query for the tables of a store that have a write lock, and whether all rows meet it';

CREATE FUNCTION run_ops.write_lock_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- This gate never fails: the write lock changes a table of the store, so its
  -- owner decides.  Rows that belong elsewhere have the gate "strays".
  SELECT 'write lock', t.legacy::text, true,
         CASE WHEN l.validated THEN format('exists in store "%s"', s.store)
              WHEN l.name IS NOT NULL THEN format('exists in store "%s", but is not validated, so the whole table is read to find strays', s.store)
              ELSE format('missing in store "%s": a client of the store can write rows that the view does not show', s.store) END,
         CASE WHEN l.validated THEN NULL
              WHEN l.name IS NOT NULL THEN format('Run in store "%s": ALTER TABLE %I.%I VALIDATE CONSTRAINT run_ops_write_lock;', s.store, t.store_schema, t.store_table)
              ELSE format('Run in store "%s": %s;', s.store, run_ops.store_write_lock(t.view, s.store)) END
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s USING (view)
    LEFT JOIN (SELECT a ->> 'schema', a ->> 'name', (a ->> 'validated')::boolean FROM run_ops.ask_store(write_lock_gates.store, run_ops.write_lock_query()) AS a) AS l (schema, name, validated)
      ON l.schema = t.store_schema AND l.name = t.store_table
   WHERE s.store = write_lock_gates.store AND t.route_column IS NOT NULL AND run_ops.is_complete(t)
   ORDER BY t.view::text
$$;
COMMENT ON FUNCTION run_ops.write_lock_gates(text) IS
  'whether the tables of a store refuse rows that belong elsewhere. Never fails; the hint has the SQL that adds a missing write lock.';
REVOKE EXECUTE ON FUNCTION run_ops.write_lock_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.same_shape_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t        run_ops.routed_table;
  place    text := CASE store WHEN 'legacy' THEN 'this database' ELSE format('store "%s"', store) END;
  known    name;
  commands text;
  rows     text;
  n        bigint;
BEGIN
  FOR t IN SELECT r.* FROM run_ops.routed_table AS r, LATERAL run_ops.copies(r) AS c
            WHERE c.store = store AND run_ops.is_complete(r) ORDER BY r.view LOOP
    known := run_ops.known_same_shape(t);
    IF t.same_shape IS NULL THEN
      IF store = 'legacy' AND known IS NOT NULL THEN
        RETURN NEXT ROW('same shape', t.legacy::text, true, format('lookups by "%s" query every store, because it is not declared to have the shape of the id', known),
          (SELECT string_agg(format('Run in %s: %s; ', CASE c.store WHEN 'legacy' THEN 'this database' ELSE format('store "%s"', c.store) END, c.command), '' ORDER BY ord)
             FROM run_ops.same_shape_commands(t.view) WITH ORDINALITY AS c (store, command, ord))
          || format('Run in this database: SELECT run_ops.declare_same_shape(%L);', t.view))::run_ops.gate;
      END IF;
      CONTINUE;
    END IF;
    commands := (SELECT string_agg(c || ';', ' ' ORDER BY ord) FROM run_ops.unproven_same_shape(t, store) WITH ORDINALITY AS u (c, ord));
    IF commands IS NULL THEN
      RETURN NEXT ROW('same shape', t.legacy::text, true, format('a constraint of %s proves that "%s" has the shape of the id', place, t.same_shape), NULL)::run_ops.gate;
      CONTINUE;
    END IF;
    rows := format('FROM %s WHERE NOT (%s)', run_ops.place_in_store(t, store), run_ops.same_shape_condition(t, store));
    IF store = 'legacy' THEN
      n := (SELECT a.n FROM run_ops.as_owner(t.legacy, 'SELECT count(*) ' || rows) AS a (n bigint));
    ELSE
      n := (SELECT (answer ->> 'n')::bigint FROM run_ops.ask_store(store, 'SELECT count(*) AS n ' || rows) AS answer);
    END IF;
    RETURN NEXT ROW('same shape', t.legacy::text, false,
      format('no constraint of %s proves that "%s" has the shape of the id; %s rows do not', place, t.same_shape, n),
      format('%s Or let lookups by "%s" query every store: SELECT run_ops.undeclare_same_shape(%L);',
             CASE WHEN n > 0 THEN format('To find the rows, run in %s: SELECT * %s;', place, rows)
                  ELSE format('Run in %s: %s', place, commands) END, t.same_shape, t.view))::run_ops.gate;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.same_shape_gates(text) IS
  'whether a store proves for each column that is declared to have the shape of the id that it has; also says which known column could be declared';
REVOKE EXECUTE ON FUNCTION run_ops.same_shape_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.mapping_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'mapping', t.legacy::text, false,
         format('the user mapping for store "%s" uses superuser %I, but the table belongs to %I, whose triggers would run as that superuser',
                mapping_gates.store, a ->> 'superuser', a ->> 'owner'),
         concat('Use a role of the store that is not a superuser, and may set session_replication_role, such as the owner of the tables: ',
           run_ops.altering_mapping(mapping_gates.store, jsonb_build_object('user', a ->> 'owner')),
           format(' Run in store "%s": GRANT SET ON PARAMETER session_replication_role TO %I;', mapping_gates.store, a ->> 'owner'))
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
  'tables of a store whose owner could run code there as a superuser, because the user mapping uses a superuser';
REVOKE EXECUTE ON FUNCTION run_ops.mapping_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.atomic_commit_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  atomic boolean := run_ops.setting('cross_store_writes') = 'atomic';
  at_most int := run_ops.prepares_at_most(store);
  left_there jsonb[] := ARRAY(SELECT run_ops.left_in_store(store));
BEGIN
  IF NOT atomic AND left_there = '{}' THEN
    RETURN;
  END IF;
  RETURN NEXT ROW('atomic commit', store, NOT atomic OR at_most > 0,
    format('max_prepared_transactions is %s, and %s transactions are prepared', at_most, cardinality(left_there)),
    CASE WHEN atomic AND at_most = 0 THEN
      (SELECT format('Run in store "%s": ALTER SYSTEM SET max_prepared_transactions = %s; Then restart the store. Or set run_ops_split.cross_store_writes to another value.', store, a ->> 'n')
         FROM run_ops.ask_store(store, 'SELECT current_setting(''max_connections'') AS n') AS a)
         WHEN EXISTS (SELECT FROM unnest(left_there) AS l, run_ops.prepared_outcome(l ->> 'gid') AS o (outcome) WHERE o.outcome IN ('committed', 'rolled back')) THEN
           'To finish what a crash has left: SELECT * FROM run_ops.resolve_in_doubt();' END)::run_ops.gate;
  RETURN QUERY
    SELECT 'in doubt', format('%s in store "%s"', l ->> 'gid', store), false,
           format('prepared at %s by role "%s"; %s', l ->> 'prepared', l ->> 'owner', o.outcome),
           format('Find out whether the transaction was committed in the database that has prepared it. Run in store "%s": COMMIT PREPARED %L; or ROLLBACK PREPARED %2$L;', store, l ->> 'gid')
      FROM unnest(left_there) AS l, run_ops.prepared_outcome(l ->> 'gid') AS o (outcome)
     WHERE o.outcome LIKE 'undecided:%';
END $$;
COMMENT ON FUNCTION run_ops.atomic_commit_gates(text) IS
  'whether a store can prepare transactions, and which of those that are prepared there cannot be decided; no row unless run_ops_split.cross_store_writes is atomic or something is prepared';
REVOKE EXECUTE ON FUNCTION run_ops.atomic_commit_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.recreating_database(store text) RETURNS text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- to_jsonb(), because some columns do not exist in all PostgreSQL versions
  SELECT format('Run in store "%s": CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L%s; '
                'Copy the tables to it, with pg_dump and psql. Run in this database: %s', recreating_database.store,
                n.name, pg_encoding_to_char(db.encoding), db.datcollate, db.datctype,
                CASE WHEN d ->> 'datlocprovider' = 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', coalesce(d ->> 'datlocale', d ->> 'daticulocale'))
                       || coalesce(format(' ICU_RULES %L', d ->> 'daticurules'), '')
                     WHEN d ->> 'datlocprovider' = 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', d ->> 'datlocale')
                     WHEN (a ->> 'version')::int >= 150000 THEN ' LOCALE_PROVIDER libc' ELSE '' END,
                run_ops.altering_server(recreating_database.store, jsonb_build_object('dbname', n.name)))
    FROM pg_database AS db, to_jsonb(db) AS d,
         run_ops.ask_store(recreating_database.store, 'SELECT current_database() AS name, current_setting(''server_version_num'') AS version, (SELECT jsonb_agg(datname) FROM pg_database) AS taken') AS a,
         LATERAL (SELECT run_ops.spare_name((a ->> 'name')::name, '_recreated', ARRAY(SELECT jsonb_array_elements_text(a -> 'taken')::name))) AS n (name)
   WHERE db.datname = current_database()
$$;
COMMENT ON FUNCTION run_ops.recreating_database(text) IS
  'SQL that creates the database of a store again, with the encoding and collation of this one';
REVOKE EXECUTE ON FUNCTION run_ops.recreating_database(text) FROM PUBLIC;

CREATE FUNCTION run_ops.content_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t         run_ops.routed_table;
  differing text[];
BEGIN
  differing := ARRAY(SELECT run_ops.database_differences(store));
  RETURN NEXT ROW('database', store, differing = '{}',
    coalesce(nullif(array_to_string(differing, '; '), ''), 'encoding and collation are equal'),
    CASE WHEN differing <> '{}' THEN 'Sorted results of both databases would be merged in the wrong order. ' || run_ops.recreating_database(store) END)::run_ops.gate;
  FOR t IN SELECT r.* FROM run_ops.routed_table AS r JOIN run_ops.routed_store AS s USING (view)
            WHERE s.store = content_gates.store AND run_ops.is_complete(r) ORDER BY r.view LOOP
    RETURN QUERY SELECT * FROM run_ops.table_gates(store, t);
  END LOOP;
  RETURN QUERY SELECT * FROM run_ops.collation_gates(store);
  RETURN QUERY SELECT * FROM run_ops.store_identity_gates(store);
  RETURN QUERY SELECT * FROM run_ops.store_key_index_gates(store);
  RETURN QUERY SELECT * FROM run_ops.write_lock_gates(store);
  RETURN QUERY SELECT * FROM run_ops.mapping_gates(store);
  RETURN QUERY SELECT * FROM run_ops.atomic_commit_gates(store);
  -- last, because it fails if the store lacks the column
  RETURN QUERY SELECT * FROM run_ops.same_shape_gates(store);
EXCEPTION WHEN OTHERS THEN
  RETURN NEXT ROW('columns', store, NULL, format('not checked: %s', SQLERRM), NULL)::run_ops.gate;
END $$;
COMMENT ON FUNCTION run_ops.content_gates(text) IS 'the gates that compare a store that answers with this database';
REVOKE EXECUTE ON FUNCTION run_ops.content_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.store_gates(stores text[]) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  store     text;
  gates     run_ops.gate[] := ARRAY(SELECT g FROM run_ops.reachable_gates(stores) AS g);
  answering text[] := ARRAY(SELECT g.object FROM unnest(gates) AS g WHERE g.gate = 'reachable' AND g.ok);
  handshakes jsonb := (SELECT jsonb_object_agg(h.store, h.result) FROM run_ops.handshakes(answering) AS h);
BEGIN
  RETURN QUERY SELECT * FROM unnest(gates);
  -- one row has the reason, and is enough
  RETURN QUERY SELECT follows, s, NULL::boolean, 'unreachable', NULL
                 FROM unnest(stores) AS s, unnest(ARRAY['distinct', 'columns']) AS follows WHERE s <> ALL (answering);
  RETURN QUERY SELECT g.* FROM unnest(stores) AS s, run_ops.wrapper_gate(s) AS g WHERE s <> ALL (answering);
  PERFORM run_ops.ask_alike(answering);
  FOREACH store IN ARRAY answering LOOP
    RETURN NEXT run_ops.distinct_gate(store, handshakes -> store);
    RETURN NEXT run_ops.wrapper_gate(store);
    RETURN QUERY SELECT * FROM run_ops.content_gates(store);
  END LOOP;
  PERFORM run_ops.ask_alike('{}');
END $$;
COMMENT ON FUNCTION run_ops.store_gates(text[]) IS 'all gates that query these stores';
REVOKE EXECUTE ON FUNCTION run_ops.store_gates(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_unfit_store(store text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  failing text;
  hints   text;
BEGIN
  SELECT string_agg(concat_ws(' ', a.gate, nullif(a.object, '')) || ': ' || a.detail, E'\n'), string_agg(a.hint, E'\n')
    INTO failing, hints
    FROM run_ops.store_gates(ARRAY[store]) AS g, run_ops.acknowledged(g) AS a WHERE a.ok IS NOT TRUE;
  IF failing IS NOT NULL THEN
    RAISE EXCEPTION 'cannot attach store "%" while split is on', store
      USING ERRCODE = 'RO003', DETAIL = failing, HINT = coalesce(hints, '');
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_unfit_store(text) IS
  'raises one error with all gates of a store that fail, if there are any: while split is on, clients read the store from the moment it is attached';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_unfit_store(text) FROM PUBLIC;

CREATE FUNCTION run_ops.unstraying(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('To list them: SELECT * FROM run_ops.find_strays(%L); ', t.view)
      || CASE WHEN t.routing = 'store' THEN 'To delete the rows of this database, of which the view shows the rows of a store: '
              ELSE 'To bring here those that belong here: ' END
      || string_agg(CASE WHEN t.routing = 'store' THEN
           format('DELETE FROM %s AS x USING %s AS y WHERE %s;', t.legacy, r.foreign_table,
             (SELECT string_agg(format('x.%1$I %2$s y.%1$I', k, run_ops.equality_operator(t.legacy, k)), ' AND ') FROM unnest(t.key_columns) AS k))
         ELSE format('WITH gone AS (DELETE FROM %s AS x WHERE %s RETURNING %s) INSERT INTO %s (%s) SELECT * FROM gone;',
                r.foreign_table, run_ops.in_store(t, format('x.%I', t.route_column), 'legacy'), c.columns, t.legacy, c.columns) END, ' ' ORDER BY r.store)
    FROM run_ops.routed_store AS r,
         LATERAL (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute AS a
                   WHERE a.attrelid = t.legacy AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS c (columns)
   WHERE r.view = t.view
$$;
COMMENT ON FUNCTION run_ops.unstraying(run_ops.routed_table) IS
  'how rows of stores are listed that belong elsewhere, and SQL that brings them where they belong, or deletes the rows that no view shows';

CREATE FUNCTION run_ops.store_stray_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t      run_ops.routed_table;
  n      bigint;
  twice  bigint;
  silent text;
  -- a write lock that is validated is the proof that a table has no strays
  proven text[];
BEGIN
  -- First, because opening the connection of a foreign table may wait without
  -- limit.
  BEGIN
    proven := ARRAY(SELECT format('%s.%I.%I', a.store, a.answer ->> 'schema', a.answer ->> 'name')
                      FROM run_ops.ask_stores(ARRAY(SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL), ARRAY[run_ops.write_lock_query()]) AS a
                     WHERE (a.answer ->> 'validated')::boolean);
  EXCEPTION WHEN OTHERS THEN
    silent := SQLERRM;
  END;
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE run_ops.is_complete(r) ORDER BY r.view LOOP
    IF silent IS NOT NULL THEN
      RETURN NEXT ROW('strays', t.view::text, NULL, format('not checked: %s', silent), NULL)::run_ops.gate;
      CONTINUE;
    ELSIF t.route_column IS NOT NULL AND proven @> ARRAY(SELECT format('%s.%I.%I', s.store, t.store_schema, t.store_table) FROM run_ops.routed_store AS s WHERE s.view = t.view) THEN
      RETURN NEXT ROW('strays', t.view::text, true, 'none: the write lock is validated in each store', NULL)::run_ops.gate;
      CONTINUE;
    END IF;
    BEGIN
      SELECT count(*) FILTER (WHERE CASE t.routing
                WHEN 'store' THEN s.store = 'legacy'
                  -- while rows are moved, both databases have them
                  AND NOT (SELECT x.moving FROM run_ops.split_state AS x)
                ELSE s.store <> 'legacy' END),
             count(*) FILTER (WHERE s.store <> 'legacy' AND t.routing = 'store')
        INTO n, twice FROM run_ops.find_strays(t.view) AS s;
      RETURN NEXT ROW('strays', t.view::text, n + twice = 0,
        format('%s rows that the view would not show', n)
          || CASE WHEN twice > 0 THEN format(', and %s that it would show although another store has their key', twice) ELSE '' END,
        CASE WHEN n + twice > 0 THEN run_ops.unstraying(t) END)::run_ops.gate;
    EXCEPTION WHEN OTHERS THEN
      RETURN NEXT ROW('strays', t.view::text, NULL, format('not checked: %s', SQLERRM), NULL)::run_ops.gate;
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.store_stray_gates() IS
  'rows of the stores that belong elsewhere, and keys that exist in two stores; reads whole tables, but for those with a validated write lock';
REVOKE EXECUTE ON FUNCTION run_ops.store_stray_gates() FROM PUBLIC;

-- All gates -------------------------------------------------------------------------

CREATE FUNCTION run_ops.view_faults(t run_ops.routed_table, split boolean) RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF NOT run_ops.has_query(t.view, run_ops.view_query(t, split)) THEN
    RETURN NEXT CASE WHEN run_ops.has_query(t.view, run_ops.view_query(t, NOT split)) THEN
                       CASE WHEN split THEN 'this view shows local rows only although split is on'
                            ELSE 'this view shows the rows of all stores although split is off' END
                     ELSE 'its query is not the one that run_ops_split has made' END;
  END IF;
  RETURN QUERY
    SELECT format('its column %I has another name than in %s', v.attname, t.legacy)
      FROM pg_attribute AS v
     WHERE v.attrelid = t.view AND v.attnum > 0
       AND NOT EXISTS (SELECT FROM pg_attribute AS l WHERE l.attrelid = t.legacy AND l.attnum > 0 AND l.attname = v.attname);
  IF split <> run_ops.has_union_rule(t.view) THEN
    RETURN NEXT format('rule refuse_on_conflict %s', CASE WHEN split THEN 'is missing' ELSE 'exists although split is off' END);
  END IF;
  RETURN QUERY
    SELECT format('trigger %I of %s %s', coalesce(w.name, g.tgname), coalesce(w.relation, g.tgrelid::regclass),
                  CASE WHEN w.name IS NULL THEN 'is not needed' WHEN g.oid IS NULL THEN 'is missing' ELSE 'is disabled' END)
      FROM (SELECT t.view AS relation, format('run_ops_%s%s', r, p) AS name, CASE r WHEN '' THEN 'O' ELSE 'R' END AS enabled, 'run_ops.route_write()'::regprocedure AS function
              FROM unnest(ARRAY['begin', 'route', 'write']) AS p, unnest(ARRAY['', 'replica_']) AS r WHERE split
            UNION ALL
            SELECT t.legacy, 'run_ops_write_lock', 'A', 'run_ops.refuse_stray()'::regprocedure WHERE split AND t.route_column IS NOT NULL) AS w
      FULL JOIN (SELECT * FROM pg_trigger AS x
                  WHERE x.tgrelid IN (t.view, t.legacy) AND x.tgparentid = 0
                    AND x.tgfoid IN ('run_ops.route_write()'::regprocedure, 'run_ops.refuse_stray()'::regprocedure)) AS g
        ON g.tgrelid = w.relation AND g.tgname = w.name AND g.tgfoid = w.function
     WHERE w.enabled IS DISTINCT FROM g.tgenabled::text
     ORDER BY 1;
  -- once all leftovers are removed, the triggers go one table after the other
  RETURN QUERY
    SELECT DISTINCT format('trigger %I of %s is missing or disabled', r.trigger_name, t.legacy)
      FROM run_ops.leftover_rules() AS r
     WHERE (r.t).view = t.view
       AND (to_regnamespace('run_ops_leftovers') IS NULL OR EXISTS (SELECT FROM run_ops.leftover AS l WHERE NOT l.finished))
       AND NOT EXISTS (SELECT FROM pg_trigger AS g JOIN pg_proc AS p ON p.oid = g.tgfoid
                        WHERE g.tgrelid = t.legacy AND g.tgname = r.trigger_name AND p.pronamespace = to_regnamespace('run_ops_leftovers') AND g.tgenabled IN ('O', 'A'))
     ORDER BY 1;
  RETURN QUERY
    SELECT format('column %I has no default', v.attname)
      FROM run_ops.view_default AS d JOIN pg_attribute AS v ON v.attrelid = d.view AND v.attnum = d."position"
     WHERE d.view = t.view AND split AND NOT v.atthasdef;
EXCEPTION WHEN OTHERS THEN
  RETURN NEXT 'not checked: ' || SQLERRM;
END $$;
COMMENT ON FUNCTION run_ops.view_faults(run_ops.routed_table, boolean) IS
  'in what a view differs from what it must be with split off or on: its query, names of columns, rule, triggers, defaults, and the triggers of its table';

CREATE FUNCTION run_ops.view_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- A restored copy has the views for split on although it is off, and a dump
  -- lacks some triggers.  split_status says that such views are suspended, and
  -- enable_split() creates them again.
  SELECT 'view', t.view::text, false, string_agg(f, '; '),
         format('To create it again: SELECT run_ops.refresh_table(%L);', t.view)
    FROM run_ops.routed_table AS t, LATERAL run_ops.view_faults(t, run_ops.split_enabled()) AS f
   WHERE run_ops.is_complete(t) AND (run_ops.split_enabled() OR NOT run_ops.has_union_rule(t.view))
   GROUP BY t.view
  UNION ALL
  SELECT 'view', t.view::text, false, format('rule %I of somebody else is executed in place of each %s', w.rulename, c.command),
         format('DROP RULE %I ON %s;', w.rulename, t.view)
    FROM run_ops.routed_table AS t JOIN pg_rewrite AS w ON w.ev_class = t.view AND w.is_instead
    JOIN (VALUES ('2', 'UPDATE'), ('3', 'INSERT'), ('4', 'DELETE')) AS c (ev_type, command) ON c.ev_type = w.ev_type::text
   WHERE run_ops.split_enabled()
$$;
COMMENT ON FUNCTION run_ops.view_gates() IS 'views that are not what they must be';

CREATE FUNCTION run_ops.local_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'opted in', '', s.opted_in,
         CASE WHEN s.opted_in THEN 'yes' ELSE 'no; the stores are not checked' END,
         CASE WHEN NOT s.opted_in THEN 'SELECT run_ops.configure_split(opted_in => true);' END
    FROM run_ops.split_state AS s
  UNION ALL SELECT * FROM run_ops.version_gates()
  UNION ALL SELECT * FROM run_ops.server_gates()
  UNION ALL SELECT * FROM run_ops.complete_gates()
  UNION ALL SELECT * FROM run_ops.attached_gates()
  UNION ALL SELECT * FROM run_ops.preload_gates()
  UNION ALL SELECT * FROM run_ops.hidden_name_gates()
  UNION ALL SELECT * FROM run_ops.search_path_gates()
  UNION ALL SELECT * FROM run_ops.refreshed_gates()
  UNION ALL SELECT * FROM run_ops.key_gates()
  UNION ALL SELECT * FROM run_ops.identity_gates()
  UNION ALL SELECT * FROM run_ops.foreign_key_gates()
  UNION ALL SELECT * FROM run_ops.local_key_index_gates()
  UNION ALL SELECT * FROM run_ops.realtime_gates()
$$;
COMMENT ON FUNCTION run_ops.local_gates() IS
  'the gates that neither query a store nor read routed tables, before acknowledgements';

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
  RETURN QUERY SELECT * FROM run_ops.view_gates();
  RETURN QUERY SELECT * FROM run_ops.standby_gates();
  IF state.opted_in THEN
    RETURN QUERY SELECT * FROM run_ops.same_shape_gates('legacy');
    RETURN QUERY SELECT * FROM run_ops.id_gates();
    FOR g IN SELECT * FROM run_ops.store_gates(ARRAY(SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL)) LOOP
      answers := answers AND (g.gate <> 'reachable' OR g.ok);
      RETURN NEXT g;
    END LOOP;
    -- after a repatriation all rows are in this database, and enable_split()
    -- moves those that belong to a store
    IF NOT state.superseded THEN
      RETURN QUERY SELECT * FROM run_ops.local_stray_gates();
      -- a query of a foreign table may wait for a store without limit
      IF answers THEN
        RETURN QUERY SELECT * FROM run_ops.store_stray_gates();
      ELSE
        RETURN NEXT ROW('strays', '', NULL, 'unreachable', NULL)::run_ops.gate;
      END IF;
    END IF;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.gates() IS 'all gates, before acknowledgements';
REVOKE EXECUTE ON FUNCTION run_ops.gates() FROM PUBLIC;

CREATE FUNCTION run_ops.follow_orders() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  old_lock_timeout text := current_setting('lock_timeout');
  stores text[] := ARRAY(SELECT s.name FROM run_ops.store AS s, run_ops.split_state AS x WHERE s.server IS NOT NULL AND x.opted_in);
  store text;
BEGIN
  IF current_setting('transaction_read_only')::boolean THEN
    RETURN;
  END IF;
  PERFORM run_ops.ask_alike(stores);
  FOREACH store IN ARRAY stores LOOP
    BEGIN
      PERFORM set_config('lock_timeout', run_ops.setting('swap_lock_timeout'), true);
      PERFORM run_ops.mark_orders(store);
    -- a store that does not answer has its own gate, and the next check tries again
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  PERFORM run_ops.ask_alike('{}');
  PERFORM set_config('lock_timeout', old_lock_timeout, true);
END $$;
COMMENT ON FUNCTION run_ops.follow_orders() IS
  'marks columns whose order differs in a store by now, as far as foreign tables can be locked';
REVOKE EXECUTE ON FUNCTION run_ops.follow_orders() FROM PUBLIC;

-- SECURITY DEFINER for the reason given in split_mode.sql.
CREATE FUNCTION run_ops.check_split() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  -- as the owner, whose user mapping gives access to the stores
  RETURN QUERY SELECT a.* FROM run_ops.gates() AS g, run_ops.acknowledged(g) AS a;
  -- at the end, because it may lock foreign tables until the transaction ends
  PERFORM run_ops.follow_orders();
END $$;
COMMENT ON FUNCTION run_ops.check_split() IS
  'one row for each gate and object: whether the gate holds, what was found, what to do. Queries every store, and reads whole tables to find strays.';
