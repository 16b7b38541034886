
-- kept_objects: the objects that a routed table consists of, and the extension.
--
-- The registry knows them by OID.  While split is on, an event trigger refuses to
-- drop one, and kept_objects.c refuses to drop the extension.  What is gone all the
-- same is reported by the gate "complete", and the call in its hint mends it:
-- refresh_table() creates everything again but the local table, and detach_table()
-- works without any of it.  So nothing that is dropped or changed leads to a state
-- without a way out.

CREATE FUNCTION run_ops.recreating(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- a server of another wrapper can have no such foreign tables
  SELECT coalesce((SELECT s.sql FROM run_ops.routed_store AS r, run_ops.replacing_server(r.store) AS s (sql)
                    WHERE r.view = t.view AND s.sql IS NOT NULL ORDER BY r.store LIMIT 1),
                  format('SELECT run_ops.refresh_table(%L);', t.legacy))
$$;
COMMENT ON FUNCTION run_ops.recreating(run_ops.routed_table) IS
  'SQL that creates the view and the foreign tables of a routed table again';

CREATE FUNCTION run_ops.missing_parts(t run_ops.routed_table) RETURNS TABLE (detail text, hint text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'its table does not exist any more',
         format('SELECT run_ops.detach_table(%L); If the table exists again under another OID, attach it then.', t.view)
   WHERE NOT run_ops.is_relation(t.legacy, '{r,p}')
  UNION ALL
  SELECT format('view %s does not exist any more', t.view_name), m.hint
    FROM run_ops.recreating(t) AS m (hint)
   WHERE run_ops.is_relation(t.legacy, '{r,p}') AND NOT run_ops.is_relation(t.view, '{v}')
  UNION ALL
  SELECT format('its foreign table in store "%s" does not exist any more', r.store), m.hint
    FROM run_ops.recreating(t) AS m (hint), run_ops.routed_store AS r JOIN run_ops.store AS s ON s.name = r.store JOIN pg_foreign_server AS f ON f.srvname = s.server
   WHERE r.view = t.view AND run_ops.is_relation(t.legacy, '{r,p}') AND NOT run_ops.is_relation(r.foreign_table, '{f}')
$$;
COMMENT ON FUNCTION run_ops.missing_parts(run_ops.routed_table) IS
  'the relations of a routed table that do not exist any more, and what to do; those whose server does not exist either are left out';

CREATE FUNCTION run_ops.missing_servers() RETURNS TABLE (store text, detail text, hint text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT s.name, format('server "%s" does not exist', s.server),
         coalesce(
           (SELECT format('ALTER SERVER %I RENAME TO %I;', f.srvname, s.server)
              FROM run_ops.routed_store AS r JOIN pg_foreign_table AS c ON c.ftrelid = r.foreign_table JOIN pg_foreign_server AS f ON f.oid = c.ftserver
             WHERE r.store = s.name LIMIT 1),
           format('%sSELECT run_ops.detach_store(%L); To use the store again, create the server and its user mapping first, then attach it.',
             CASE WHEN run_ops.split_enabled() THEN 'SELECT run_ops.disable_split(force => true); ' END, s.name))
    FROM run_ops.store AS s
   WHERE s.server IS NOT NULL AND NOT EXISTS (SELECT FROM pg_foreign_server AS f WHERE f.srvname = s.server)
  UNION ALL
  -- only in a copy whose registry was not restored as a whole
  SELECT DISTINCT r.store, 'it has tables, but is not attached', format('SELECT run_ops.attach_store(%L, %L);', r.store,
           coalesce((SELECT f.srvname FROM pg_foreign_table AS c JOIN pg_foreign_server AS f ON f.oid = c.ftserver WHERE c.ftrelid = min(r.foreign_table::oid)), '...'))
    FROM run_ops.routed_store AS r
   WHERE NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = r.store)
   GROUP BY r.store
$$;
COMMENT ON FUNCTION run_ops.missing_servers() IS 'the stores whose server does not exist, or that have routed tables but are not attached, and what to do';

CREATE FUNCTION run_ops.is_complete(t run_ops.routed_table) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.is_relation(t.legacy, '{r,p}') AND run_ops.is_relation(t.view, '{v}')
     AND NOT EXISTS (SELECT FROM run_ops.routed_store AS r WHERE r.view = t.view AND NOT run_ops.is_relation(r.foreign_table, '{f}'))
$$;
COMMENT ON FUNCTION run_ops.is_complete(run_ops.routed_table) IS 'whether the view and all tables of a routed table exist';

CREATE FUNCTION run_ops.refuse_incomplete() RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  lines text;
  hints text;
BEGIN
  SELECT string_agg(p.detail, E'\n'), (array_agg(p.hint))[1] INTO lines, hints
    FROM (SELECT format('store "%s": %s', m.store, m.detail) AS detail, m.hint FROM run_ops.missing_servers() AS m
          UNION ALL
          SELECT format('%s: %s', t.view_name, p.detail), p.hint FROM run_ops.routed_table AS t, run_ops.missing_parts(t) AS p) AS p;
  IF lines IS NOT NULL THEN
    RAISE EXCEPTION 'objects of routed tables do not exist any more'
      USING ERRCODE = 'undefined_object', DETAIL = lines,
            HINT = concat(hints, CASE WHEN run_ops.split_enabled() THEN ' If the stores are lost: SELECT run_ops.disable_split(force => true);' END);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_incomplete() IS
  'raises an error with all objects of routed tables that do not exist any more, if there are any, and the call that mends the first one';

CREATE FUNCTION run_ops.refuse_without_table(t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF NOT run_ops.is_relation(t.legacy, '{r,p}') THEN
    RAISE EXCEPTION 'the table of view % does not exist any more', t.view_name
      USING ERRCODE = 'undefined_table', HINT = format('SELECT run_ops.detach_table(%L);', t.view);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_without_table(run_ops.routed_table) IS 'raises an error if the local table of a routed table does not exist any more';

-- The gate -----------------------------------------------------------------------

CREATE FUNCTION run_ops.unlike_created(t run_ops.routed_table) RETURNS TABLE (detail text, hint text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('foreign table %s reads another table of its store', r.foreign_table), format('SELECT run_ops.refresh_table(%L);', t.view)
    FROM run_ops.routed_store AS r JOIN run_ops.store AS s ON s.name = r.store JOIN pg_foreign_table AS f ON f.ftrelid = r.foreign_table
    JOIN pg_foreign_server AS e ON e.oid = f.ftserver,
         LATERAL (SELECT jsonb_object_agg(o.option_name, o.option_value) FROM pg_options_to_table(f.ftoptions) AS o) AS o (options)
   WHERE r.view = t.view
     AND (e.srvname <> s.server OR options ->> 'schema_name' IS DISTINCT FROM t.store_schema OR options ->> 'table_name' IS DISTINCT FROM t.store_table
          OR options ->> 'key' IS DISTINCT FROM run_ops.key_option(t))
  UNION ALL
  SELECT format('role "%s", which owns view %s, has no user mapping for server "%s"', o.rolname, t.view, s.server),
         CASE WHEN EXISTS (SELECT FROM pg_user_mappings AS m WHERE m.srvname = s.server AND m.usename IN (x.rolname, 'public'))
              THEN format('ALTER VIEW %s OWNER TO %I;', t.view, x.rolname)
              ELSE format('CREATE USER MAPPING FOR %I SERVER %I OPTIONS (user ''...'', password ''...'');', o.rolname, s.server) END
    FROM run_ops.routed_store AS r JOIN run_ops.store AS s ON s.name = r.store
    JOIN pg_class AS c ON c.oid = t.view JOIN pg_roles AS o ON o.oid = c.relowner,
         (pg_extension AS e JOIN pg_roles AS x ON x.oid = e.extowner AND e.extname = 'run_ops_split')
   WHERE r.view = t.view AND NOT EXISTS (SELECT FROM pg_user_mappings AS m WHERE m.srvname = s.server AND m.usename IN (o.rolname, 'public'))
  UNION ALL
  SELECT format('role "%s", which owns view %s, lacks privileges on %s', o.rolname, t.view, c.relation),
         format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I;', c.relation, o.rolname)
    FROM run_ops.copies(t) AS c JOIN pg_class AS v ON v.oid = t.view JOIN pg_roles AS o ON o.oid = v.relowner
   WHERE NOT (SELECT bool_and(has_table_privilege(o.oid, c.relation, p)) FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p)
$$;
COMMENT ON FUNCTION run_ops.unlike_created(run_ops.routed_table) IS
  'what somebody has changed of the objects of a routed table that exist: options of foreign tables, owners and privileges; and what to do. view_faults() looks at the view and the triggers.';

CREATE FUNCTION run_ops.complete_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'complete', m.store, false, m.detail, m.hint FROM run_ops.missing_servers() AS m
  UNION ALL
  SELECT 'complete', t.view_name, false, p.detail, p.hint FROM run_ops.routed_table AS t, run_ops.missing_parts(t) AS p
  UNION ALL
  SELECT 'complete', t.view_name, false, p.detail, p.hint
    FROM run_ops.routed_table AS t, run_ops.unlike_created(t) AS p WHERE run_ops.is_complete(t)
$$;
COMMENT ON FUNCTION run_ops.complete_gates() IS
  'objects of routed tables that were dropped or changed: views, tables, foreign tables, servers, user mappings, owners';

-- The guards -----------------------------------------------------------------------

-- SECURITY DEFINER: a role that drops something need not have privileges on schema
-- run_ops.
CREATE FUNCTION run_ops.guard_routed_tables() RETURNS event_trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gone record;
BEGIN
  SELECT d.object_type, d.object_identity, t.view_name INTO gone
    FROM pg_event_trigger_dropped_objects() AS d
    JOIN run_ops.routed_table AS t
      ON d.objid IN (t.view, t.legacy) OR d.objid IN (SELECT r.foreign_table FROM run_ops.routed_store AS r WHERE r.view = t.view)
   WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
   ORDER BY d.original DESC, d.object_identity LIMIT 1;
  IF NOT FOUND THEN
    RETURN;
  ELSIF run_ops.split_enabled() THEN
    RAISE EXCEPTION 'cannot drop % % while split is on', gone.object_type, gone.object_identity
      USING ERRCODE = 'object_in_use', DETAIL = format('View %s needs it.', gone.view_name),
            HINT = format('Switch split off first, with run_ops.disable_split(), then: SELECT run_ops.detach_table(%L);', gone.view_name);
  END IF;
  -- its last name, under which refresh_table() creates it again
  UPDATE run_ops.routed_table AS t SET view_name = d.object_identity
    FROM pg_event_trigger_dropped_objects() AS d
   WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.objid = t.view AND d.object_identity <> t.view_name;
END $$;
COMMENT ON FUNCTION run_ops.guard_routed_tables() IS
  'event trigger: refuses to drop a view, table or foreign table of a routed table while split is on; with split off, remembers the name of the view';
CREATE EVENT TRIGGER run_ops_guard_routed_tables ON sql_drop EXECUTE FUNCTION run_ops.guard_routed_tables();
COMMENT ON EVENT TRIGGER run_ops_guard_routed_tables IS
  'refuses to drop a view, table or foreign table of a routed table while split is on, by whatever command';

CREATE FUNCTION run_ops.guard_drop() RETURNS event_trigger
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_guard_drop';
COMMENT ON FUNCTION run_ops.guard_drop() IS
  'event trigger: loads the library, which refuses to drop the extension while split is on or the local tables have leftovers';
CREATE EVENT TRIGGER run_ops_guard_drop ON ddl_command_start WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
  EXECUTE FUNCTION run_ops.guard_drop();
COMMENT ON EVENT TRIGGER run_ops_guard_drop IS 'refuses to drop the extension while split is on or the local tables have leftovers';

CREATE FUNCTION run_ops.guard_schema() RETURNS event_trigger
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF to_regnamespace('run_ops') IS NULL THEN
    RAISE EXCEPTION 'cannot rename schema run_ops'
      USING ERRCODE = 'object_in_use', DETAIL = 'The functions of extension run_ops_split refer to it by its name.',
            HINT = 'Views may be in another schema: ALTER VIEW ... SET SCHEMA ...';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.guard_schema() IS 'event trigger: refuses to rename the schema of the extension';
CREATE EVENT TRIGGER run_ops_guard_schema ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA') EXECUTE FUNCTION run_ops.guard_schema();
COMMENT ON EVENT TRIGGER run_ops_guard_schema IS 'refuses to rename the schema of the extension';
