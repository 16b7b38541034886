
-- leftovers: rows that have moved to a store and are still here.
--
-- Deleting them while writes are closed would close writes for longer the more
-- rows there are.  So the switch leaves them: it has proven that the store has
-- each, and from then on the store's are the rows and these are older copies,
-- which the view does not show, for their shape belongs to the store.  They are
-- removed afterwards, in batches.
--
-- Until then nobody may notice them.  What would notice a hidden row is a
-- constraint: a unique value it still has, a foreign key it still satisfies,
-- an action of a foreign key that still reaches it.  As a leftover may go at
-- any time, a trigger removes it before the constraint looks.  Where that
-- cannot be said in a trigger (can_leave_rows()), and where no shape hides the
-- row (routing "store"), rows are deleted by the switch.
--
-- There are none while rows are being repatriated: both would be copies of rows
-- of a store, one to be removed and the other to stay.

CREATE TABLE run_ops.leftover (
  view       regclass REFERENCES run_ops.routed_table ON DELETE CASCADE,
  store      text REFERENCES run_ops.store ON DELETE CASCADE,
  shape      text,
  position   jsonb,
  finished   boolean NOT NULL DEFAULT false,
  removed    bigint NOT NULL DEFAULT 0,
  changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  PRIMARY KEY (view, store)
);
COMMENT ON TABLE run_ops.leftover IS
  'tables that may still have rows which have moved to a store; travels with a dump, as those rows do';
COMMENT ON COLUMN run_ops.leftover.view IS 'the routed table';
COMMENT ON COLUMN run_ops.leftover.store IS 'the store that has the rows';
COMMENT ON COLUMN run_ops.leftover.shape IS
  'what run_ops.leftover_shape() was then; while it is that, a row that the store lacks was deleted there';
COMMENT ON COLUMN run_ops.leftover.position IS 'the key up to which run_ops.remove_leftovers() has come';
COMMENT ON COLUMN run_ops.leftover.finished IS 'it has come to the end of this table';
COMMENT ON COLUMN run_ops.leftover.removed IS 'rows removed in all';
COMMENT ON COLUMN run_ops.leftover.changed_at IS 'when the last batch was removed';
SELECT pg_catalog.pg_extension_config_dump('run_ops.leftover', '');

CREATE FUNCTION run_ops.can_leave_rows(t run_ops.routed_table) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT t.routing <> 'store'
     AND NOT EXISTS (
       SELECT FROM pg_constraint AS f
        WHERE f.contype = 'f' AND f.conparentid = 0 AND t.legacy IN (f.conrelid, f.confrelid)
          AND (f.conrelid NOT IN (SELECT r.legacy FROM run_ops.routed_table AS r)
               OR f.confrelid NOT IN (SELECT r.legacy FROM run_ops.routed_table AS r)))
     -- what is unique must be plain columns that are equal by pg_catalog's "="
     AND NOT EXISTS (
       SELECT FROM pg_index AS i, to_jsonb(i) AS j
        WHERE i.indrelid = t.legacy
          AND (i.indisexclusion
               OR i.indisunique AND (
                 i.indexprs IS NOT NULL OR (j ->> 'indnullsnotdistinct')::boolean
                 OR EXISTS (SELECT FROM pg_collation AS c WHERE c.oid = ANY (i.indcollation) AND NOT c.collisdeterministic)
                 OR EXISTS (SELECT FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid
                             WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                               AND y.typnamespace <> 'pg_catalog'::regnamespace AND y.typtype <> 'e'))))
$$;
COMMENT ON FUNCTION run_ops.can_leave_rows(run_ops.routed_table) IS
  'whether rows that moved to a store may stay in the local table for a while without being noticed';

CREATE FUNCTION run_ops.leftover_condition(t run_ops.routed_table, alias text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce('(' || string_agg(format('run_ops.resides(%s.%I, %L)', alias, t.route_column, l.store), ' OR ') || ')', 'false')
    FROM run_ops.leftover AS l WHERE l.view = t.view
$$;
COMMENT ON FUNCTION run_ops.leftover_condition(run_ops.routed_table, text) IS
  'a condition on a local row: it is one that has moved to a store';

CREATE FUNCTION run_ops.leftover_shape(store text) RETURNS text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- xmin and the timeline for the reason given in changed_rows.sql
  SELECT md5(a::text || string_agg(concat_ws(' ', p.relid::oid, g.oid, g.xmin, g.tgenabled), ',' ORDER BY p.relid::oid))
    FROM run_ops.ask_store(store, format('SELECT f.*, left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline FROM (%s) AS f',
                                         run_ops.fingerprint_query())) AS a,
         run_ops.leftover AS l JOIN run_ops.routed_table AS t ON t.view = l.view,
         LATERAL (SELECT t.legacy AS relid UNION SELECT q.relid FROM pg_partition_tree(t.legacy) AS q) AS p
    LEFT JOIN pg_trigger AS g ON g.tgrelid = p.relid AND g.tgname = 'run_ops_write_lock' AND g.tgfoid = 'run_ops.refuse_stray()'::regprocedure
   WHERE l.store = leftover_shape.store
   GROUP BY a
$$;
COMMENT ON FUNCTION run_ops.leftover_shape(text) IS
  'a hash of what tells whether a leftover of a store is one: the write locks here, which database the store is, and its timeline';
REVOKE EXECUTE ON FUNCTION run_ops.leftover_shape(text) FROM PUBLIC;

CREATE FUNCTION run_ops.equals_any(relation regclass, columns name[]) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(format('x.%I = (u.v ->> %s)::%s', c, ord - 1, format_type(a.atttypid, a.atttypmod)), ' AND ' ORDER BY ord)
    FROM unnest(columns) WITH ORDINALITY AS u (c, ord)
    JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = u.c
$$;
COMMENT ON FUNCTION run_ops.equals_any(regclass, name[]) IS
  'a condition: these columns of x are the elements of the array u.v';

CREATE FUNCTION run_ops.referred_values(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(DISTINCT format('%L, x.%1$I', c), ', ')
    FROM run_ops.foreign_keys() AS k, unnest(k.parent_columns) AS c WHERE k.parent_table = t.legacy
$$;
COMMENT ON FUNCTION run_ops.referred_values(run_ops.routed_table) IS
  'what foreign keys refer to in a row x, as names and values; NULL when none do';

-- As a replica: nothing else is to follow a row that only ceases to be here.
-- Leftovers that refer to it do, so that whatever is committed can be dumped
-- and restored.

CREATE FUNCTION run_ops.drop_leftovers(relation regclass, columns name[], vals jsonb[], strict boolean DEFAULT true) RETURNS bigint
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
AS $$
DECLARE
  t      run_ops.routed_table := run_ops.routed(relation);
  gone   jsonb[];
  named  jsonb[];
  n      bigint;
  others bigint;
  f      record;
BEGIN
  EXECUTE format('WITH gone AS (DELETE FROM %s AS x USING unnest($1) AS u (v) WHERE %s AND %s RETURNING jsonb_build_object(%s) AS r) '
                 'SELECT count(*), array_agg(r) FROM gone',
    t.legacy, run_ops.leftover_condition(t, 'x'), run_ops.equals_any(t.legacy, columns), run_ops.referred_values(t)) INTO n, gone USING vals;
  FOR f IN SELECT * FROM run_ops.foreign_keys() AS k WHERE n > 0 AND k.parent_table = t.legacy LOOP
    named := run_ops.values_of(gone, f.parent_columns);
    n := n + run_ops.drop_leftovers(f.child_table, f.child_columns, named, strict);
    CONTINUE WHEN NOT strict;
    EXECUTE format('SELECT count(*) FROM %s AS x, unnest($1) AS u (v) WHERE %s',
                   f.child_table, run_ops.equals_any(f.child_table, f.child_columns)) INTO others USING named;
    PERFORM run_ops.raise_orphans(ARRAY[format('%s rows of %s break foreign key %I', others, f.child_table, f.conname)]) WHERE others > 0;
  END LOOP;
  RETURN n;
END $$;
COMMENT ON FUNCTION run_ops.drop_leftovers(regclass, name[], jsonb[], boolean) IS
  'removes the leftovers of a local table with these values in these columns, and those that refer to them; when strict, an error where another row refers to one; how many';
REVOKE EXECUTE ON FUNCTION run_ops.drop_leftovers(regclass, name[], jsonb[], boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.values_of(objects jsonb[], columns name[]) RETURNS jsonb[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT array_agg(DISTINCT v)
    FROM unnest(objects) AS o, LATERAL (SELECT jsonb_agg(o -> c::text ORDER BY ord) AS v FROM unnest(columns) WITH ORDINALITY AS u (c, ord)) AS a
$$;
COMMENT ON FUNCTION run_ops.values_of(jsonb[], name[]) IS 'what the objects have in these columns, as arrays, each once';

-- The triggers --------------------------------------------------------------------

CREATE FUNCTION run_ops.leftover_rules()
  RETURNS TABLE (t run_ops.routed_table, trigger_name text, fires text, staying boolean, leftovers run_ops.routed_table, columns name[], row_name text, row_columns name[])
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH f AS MATERIALIZED (SELECT * FROM run_ops.foreign_keys()),
       left_in AS MATERIALIZED (SELECT DISTINCT l.view FROM run_ops.leftover AS l)
  -- A row that stays clears the way for its unique values.  A unique key with
  -- the route column in it cannot clash: the shapes differ.
  SELECT t, '~run_ops_unique', 'BEFORE INSERT OR UPDATE', true, t, k.columns, 'NEW', k.columns
    FROM run_ops.routed_table AS t JOIN left_in USING (view) JOIN pg_index AS i ON i.indrelid = t.legacy AND i.indisunique, LATERAL (
           SELECT array_agg(a.attname ORDER BY a.attnum) AS columns FROM pg_attribute AS a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS k
   WHERE t.route_column <> ALL (k.columns)
  UNION ALL
  -- No leftover satisfies its foreign keys.
  SELECT f.child, '0_run_ops_refers', 'AFTER INSERT OR UPDATE', true, f.parent, f.parent_columns, 'NEW', f.child_columns
    FROM f JOIN left_in ON left_in.view = (f.parent).view
   WHERE NOT run_ops.along_the_route(f.child, f.child_columns, f.parent, f.parent_columns)
  UNION ALL
  -- No action of a foreign key reaches one.
  SELECT f.parent, '0_run_ops_referred', 'AFTER UPDATE OR DELETE', false, f.child, f.child_columns, 'OLD', f.parent_columns
    FROM f JOIN left_in ON left_in.view = (f.child).view
$$;
COMMENT ON FUNCTION run_ops.leftover_rules() IS
  'which leftovers a row of table t removes when it is written, and by which trigger: those that have in columns what the row has in row_columns; staying: only a row that is no leftover itself';

CREATE FUNCTION run_ops.along_the_route(child run_ops.routed_table, child_columns name[], parent run_ops.routed_table, parent_columns name[])
  RETURNS boolean
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(child_columns = ARRAY[child.route_column] AND parent_columns = ARRAY[parent.route_column], false)
$$;
COMMENT ON FUNCTION run_ops.along_the_route(run_ops.routed_table, name[], run_ops.routed_table, name[]) IS
  'whether a foreign key keeps both of its rows in one store, as it compares what tells the store';

CREATE FUNCTION run_ops.guard_leftovers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
  g record;
BEGIN
  DROP SCHEMA IF EXISTS run_ops_leftovers CASCADE;
  CREATE SCHEMA run_ops_leftovers;
  COMMENT ON SCHEMA run_ops_leftovers IS
    'triggers that keep rows from being noticed that moved to a store and are still here, until run_ops.remove_leftovers() has removed them';
  FOR g IN
    WITH condition AS MATERIALIZED (
      SELECT t.view, run_ops.leftover_condition(t, 'x') AS on_x, run_ops.leftover_condition(t, 'NEW') AS on_new FROM run_ops.routed_table AS t)
    SELECT r.t, r.trigger_name, r.fires, format('run_ops_leftovers.%I', r.trigger_name || '_' || (r.t).legacy::oid) AS function_name,
           string_agg(format(
             ' IF (TG_OP IN (''INSERT'', ''DELETE'') OR (%s) IS DISTINCT FROM (%s)) AND EXISTS (SELECT FROM %s AS x WHERE %s AND %s) THEN '
             'PERFORM run_ops.drop_leftovers(%L, %L, ARRAY[jsonb_build_array(%s)], %L); END IF;',
             c.olds, c.news, (r.leftovers).legacy, there.on_x, c.equal, (r.leftovers).legacy, r.columns, c.vals,
             -- what refers to one fails by itself
             r.trigger_name <> '0_run_ops_refers'), '') AS body,
           CASE WHEN r.staying AND (r.t).routing <> 'store' THEN format('WHEN (NOT %s)', here.on_new) END AS condition
      FROM run_ops.leftover_rules() AS r
      JOIN condition AS here ON here.view = (r.t).view JOIN condition AS there ON there.view = (r.leftovers).view,
           LATERAL (SELECT string_agg(format('OLD.%I', o), ', ' ORDER BY ord) AS olds, string_agg(format('NEW.%I', o), ', ' ORDER BY ord) AS news,
                           string_agg(format('%s.%I', r.row_name, o), ', ' ORDER BY ord) AS vals,
                           string_agg(format('x.%I = %s.%I', c, r.row_name, o), ' AND ' ORDER BY ord) AS equal
                      FROM unnest(r.columns, r.row_columns) WITH ORDINALITY AS u (c, o, ord)) AS c
     GROUP BY r.t, r.trigger_name, r.fires, r.staying, here.on_new
  LOOP
    -- SECURITY DEFINER: who writes a row need not be allowed to delete others.
    EXECUTE format('CREATE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
                   g.function_name, format('BEGIN%s RETURN NEW; END', g.body));
    -- By their names they come after what may change the row, and before what
    -- looks at foreign keys.
    EXECUTE format('CREATE TRIGGER %I %s ON %s FOR EACH ROW %s EXECUTE FUNCTION %s()',
                   g.trigger_name, g.fires, (g.t).legacy, g.condition, g.function_name);
    -- Unique is unique whoever writes; no foreign key is looked at as a replica.
    EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', (g.t).legacy,
                   CASE WHEN g.trigger_name = '~run_ops_unique' THEN 'ALWAYS' ELSE '' END, g.trigger_name);
    -- or every write would fail after DROP EXTENSION
    EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION run_ops_split', g.trigger_name, (g.t).legacy);
    EXECUTE format('ALTER FUNCTION %s() DEPENDS ON EXTENSION run_ops_split', g.function_name);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.guard_leftovers() IS
  'makes the triggers that remove a leftover before a constraint would notice it';
REVOKE EXECUTE ON FUNCTION run_ops.guard_leftovers() FROM PUBLIC;

CREATE FUNCTION run_ops.forget_leftovers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
BEGIN
  DROP SCHEMA IF EXISTS run_ops_leftovers CASCADE;
  DELETE FROM run_ops.leftover;
END $$;
COMMENT ON FUNCTION run_ops.forget_leftovers() IS 'ends all that is done about leftovers; none may be left';
REVOKE EXECUTE ON FUNCTION run_ops.forget_leftovers() FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_leftovers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF EXISTS (SELECT FROM run_ops.leftover) THEN
    RAISE EXCEPTION 'rows that moved to a store are still here'
      USING ERRCODE = 'object_in_use', DETAIL = 'Nothing would tell them from rows any more.',
            HINT = 'run_ops.remove_leftovers() until done removes them; without the stores, run_ops.disable_split(force => true).';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_leftovers() IS 'raises an error while the local tables may have rows that moved to a store';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_leftovers() FROM PUBLIC;

CREATE FUNCTION run_ops.guard_drop() RETURNS event_trigger
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_guard_drop';
COMMENT ON FUNCTION run_ops.guard_drop() IS
  'event trigger: loads the library, which refuses to drop the extension while the local tables have rows that moved to a store';
CREATE EVENT TRIGGER run_ops_guard_drop ON ddl_command_start WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
  EXECUTE FUNCTION run_ops.guard_drop();
COMMENT ON EVENT TRIGGER run_ops_guard_drop IS 'keeps the extension while the local tables have rows that moved to a store';

-- The switch ------------------------------------------------------------------------

CREATE FUNCTION run_ops.refuse_stranded() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  f     record;
  s     text;
  m     run_ops.mirror;
  keys  text[];
  lines text[] := '{}';
BEGIN
  -- Without a shape, rows are known to move when they are deleted: see there.
  FOR f IN SELECT * FROM run_ops.foreign_keys() AS k
            WHERE (k.parent).routing <> 'store' AND NOT run_ops.along_the_route(k.child, k.child_columns, k.parent, k.parent_columns) LOOP
    EXECUTE format('SELECT array_agg(key) FROM (SELECT %s AS key FROM %s AS x JOIN %s AS y ON %s WHERE (%s) AND NOT (%s) LIMIT 10000) AS k',
      run_ops.key_expression(f.child), f.child_table, f.parent_table, f.equal,
      (SELECT string_agg(run_ops.belongs_condition(f.parent, r.store, 'y'), ' OR ') FROM run_ops.routed_store AS r WHERE r.view = (f.parent).view),
      (SELECT string_agg(run_ops.belongs_condition(f.child, r.store, 'x'), ' OR ') FROM run_ops.routed_store AS r WHERE r.view = (f.child).view))
      INTO keys;
    -- what the store has goes there again
    FOR s IN SELECT r.store FROM run_ops.routed_store AS r WHERE r.view = (f.child).view AND (f.child).routing = 'store' LOOP
      CONTINUE WHEN keys IS NULL;
      m := run_ops.only_keys(run_ops.mirror_of(f.child, s, true), keys);
      keys := (SELECT array_agg(k) FROM unnest(keys) AS k
                WHERE k NOT IN (SELECT a ->> 'key' FROM run_ops.ask_store(s, run_ops.range_query(m.there_from, m.there_keys, '''''', NULL, NULL)) AS a));
    END LOOP;
    IF keys IS NOT NULL THEN
      lines := lines || format('%s rows of %s break foreign key %I', cardinality(keys), f.child_table, f.conname);
    END IF;
  END LOOP;
  PERFORM run_ops.raise_orphans(lines) WHERE lines <> '{}';
END $$;
COMMENT ON FUNCTION run_ops.refuse_stranded() IS
  'refuses to move rows that rows refer to which stay here; while the service runs';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_stranded() FROM PUBLIC;

CREATE FUNCTION run_ops.finish_move_to_stores() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
  SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  r    record;
  f    record;
  m    run_ops.mirror;
  gone jsonb[];
BEGIN
  PERFORM run_ops.finish_copy(true);
  -- or each row that is deleted here would be noted
  PERFORM run_ops.forget_changes(false);
  INSERT INTO run_ops.leftover (view, store)
  SELECT t.view, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view WHERE run_ops.can_leave_rows(t);
  FOR r IN SELECT t, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            WHERE NOT run_ops.can_leave_rows(t) LOOP
    m := run_ops.mirror_of(r.t, r.store, true);
    -- Asked anew: a foreign table would show the store as it was at the first
    -- attempt of this transaction.
    EXECUTE format('WITH gone AS (DELETE FROM %s AS x %s RETURNING %s AS key, jsonb_build_object(%s) AS r), '
                   'settled AS (INSERT INTO run_ops.settled_row SELECT $3, key FROM gone) SELECT array_agg(r) FROM gone WHERE r <> ''{}''', m.here,
        CASE (r.t).routing WHEN 'store' THEN format('USING run_ops.ask_store($1, $2, ''0'') AS a WHERE %s',
           (SELECT string_agg(format('%s = (a ->> %L)::%s', k, 'k' || ord, m.key_types[ord]), ' AND ')
              FROM unnest(m.here_keys) WITH ORDINALITY AS u (k, ord)))
         ELSE format('WHERE run_ops.resides(x.%I, $1)', (r.t).route_column) END,
        run_ops.key_expression(r.t), run_ops.referred_values(r.t))
      INTO gone
      USING r.store, format('SELECT %s FROM %s',
        (SELECT string_agg(format('%s::text AS k%s', k, ord), ', ' ORDER BY ord) FROM unnest(m.there_keys) WITH ORDINALITY AS u (k, ord)),
        m.there_from), (r.t).view;
    FOR f IN SELECT * FROM run_ops.foreign_keys() AS k WHERE gone IS NOT NULL AND k.parent_table = (r.t).legacy LOOP
      PERFORM run_ops.drop_leftovers(f.child_table, f.child_columns, run_ops.values_of(gone, f.parent_columns), false);
    END LOOP;
  END LOOP;
  PERFORM run_ops.refuse_settled_orphans();
  PERFORM run_ops.guard_leftovers() WHERE EXISTS (SELECT FROM run_ops.leftover);
END $$;
COMMENT ON FUNCTION run_ops.finish_move_to_stores() IS
  'copies what move_strays() left, proves that it is in the stores, and deletes it here where it cannot be left for later; writes must be closed';
REVOKE EXECUTE ON FUNCTION run_ops.finish_move_to_stores() FROM PUBLIC;

CREATE FUNCTION run_ops.trusted_leftovers() RETURNS text[]
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(array_agg(d.store) FILTER (WHERE d.shape = run_ops.leftover_shape(d.store)), '{}')
    FROM (SELECT DISTINCT l.store, l.shape FROM run_ops.leftover AS l) AS d
$$;
COMMENT ON FUNCTION run_ops.trusted_leftovers() IS 'the stores whose leftovers here are all known to be such';
REVOKE EXECUTE ON FUNCTION run_ops.trusted_leftovers() FROM PUBLIC;

CREATE FUNCTION run_ops.trust_leftovers(stores text[]) RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  WITH s AS MATERIALIZED (SELECT d.store, run_ops.leftover_shape(d.store) AS shape
                            FROM (SELECT DISTINCT l.store FROM run_ops.leftover AS l WHERE l.store = ANY (stores)) AS d)
  UPDATE run_ops.leftover AS l SET shape = s.shape FROM s WHERE s.store = l.store
$$;
COMMENT ON FUNCTION run_ops.trust_leftovers(text[]) IS
  'remembers the shape of now, as every leftover of these stores is known to be one';
REVOKE EXECUTE ON FUNCTION run_ops.trust_leftovers(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.raise_leftovers(lines text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'rows that moved to a store cannot be removed here'
    USING ERRCODE = 'object_in_use', DETAIL = array_to_string(lines, E'\n'),
          HINT = 'Correct rows that refer to one through the views. One that its store does not have was deleted there, or lost: delete it here, or insert it through the view.';
END $$;
COMMENT ON FUNCTION run_ops.raise_leftovers(text[]) IS 'the error that says why leftovers cannot be removed';
REVOKE EXECUTE ON FUNCTION run_ops.raise_leftovers(text[]) FROM PUBLIC;

-- Removing ----------------------------------------------------------------------------

CREATE FUNCTION run_ops.leftover_keys(l run_ops.leftover, above jsonb, batch_size int) RETURNS text[]
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  m    run_ops.mirror := run_ops.mirror_of(run_ops.routed(l.view), l.store, true);
  keys text[];
BEGIN
  EXECUTE format('SELECT array_agg(key) FROM (%s ORDER BY %s LIMIT %s) AS k',
                 run_ops.range_query(m.here_from, m.here_keys, '''''', above, NULL), array_to_string(m.here_keys, ', '), batch_size) INTO keys;
  RETURN coalesce(keys, '{}');
END $$;
COMMENT ON FUNCTION run_ops.leftover_keys(run_ops.leftover, jsonb, int) IS 'the keys of the next leftovers, in their order';
REVOKE EXECUTE ON FUNCTION run_ops.leftover_keys(run_ops.leftover, jsonb, int) FROM PUBLIC;

CREATE FUNCTION run_ops.remove_keys(l run_ops.leftover, keys text[], strict boolean, OUT removed bigint, OUT reason text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  t     run_ops.routed_table := run_ops.routed(l.view);
  m     run_ops.mirror;
  known text[] := keys;
  key   text;
BEGIN
  -- Written past the write lock, or lost by its store?  Then it is the only one.
  IF strict AND keys <> '{}' AND run_ops.leftover_shape(l.store) IS DISTINCT FROM l.shape THEN
    m := run_ops.only_keys(run_ops.mirror_of(t, l.store, true), keys);
    known := ARRAY(SELECT a ->> 'key' FROM run_ops.ask_store(l.store, run_ops.range_query(m.there_from, m.there_keys, '''''', NULL, NULL)) AS a);
    reason := (SELECT format('%s: store "%s" does not have %s', t.legacy, l.store, k) FROM unnest(keys) AS k WHERE k <> ALL (known) LIMIT 1);
  END IF;
  removed := 0;
  BEGIN
    removed := run_ops.drop_leftovers(t.legacy, t.key_columns, known::jsonb[], strict);
  EXCEPTION WHEN foreign_key_violation THEN
    FOREACH key IN ARRAY known LOOP
      BEGIN
        removed := removed + run_ops.drop_leftovers(t.legacy, t.key_columns, ARRAY[key::jsonb]);
      EXCEPTION WHEN foreign_key_violation THEN
        GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
        reason := format('%s: without %s, %s', t.legacy, key, reason);
      END;
    END LOOP;
  END;
END $$;
COMMENT ON FUNCTION run_ops.remove_keys(run_ops.leftover, text[], boolean) IS
  'removes leftovers by key, when strict but for those that another row refers to and those that may be no leftovers: how many, and why not one of the others';
REVOKE EXECUTE ON FUNCTION run_ops.remove_keys(run_ops.leftover, text[], boolean) FROM PUBLIC;

-- A deadlock ends here and not in a client.
CREATE FUNCTION run_ops.remove_batch(batch_size int, strict boolean) RETURNS TABLE (view regclass, store text, removed bigint, done boolean)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET deadlock_timeout = '10ms'
AS $$
#variable_conflict use_column
DECLARE
  l     run_ops.leftover;
  keys  text[];
  batch record;
  lines text[] := '{}';
BEGIN
  IF batch_size IS NULL OR batch_size < 1 THEN
    RAISE EXCEPTION 'batch_size must be at least 1' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- What refers to others goes first: then little follows what it refers to.
  SELECT x.* INTO l FROM run_ops.leftover AS x JOIN run_ops.routed_table AS t ON t.view = x.view
   WHERE NOT x.finished
   ORDER BY (SELECT count(*) FROM run_ops.foreign_keys() AS f WHERE f.parent_table = t.legacy), x.view, x.store LIMIT 1 FOR UPDATE OF x;
  IF FOUND THEN
    keys := run_ops.leftover_keys(l, l.position, batch_size);
    SELECT * INTO batch FROM run_ops.remove_keys(l, keys, strict);
    UPDATE run_ops.leftover AS x
       SET position = coalesce(keys[cardinality(keys)]::jsonb, x.position), finished = cardinality(keys) < batch_size,
           removed = x.removed + batch.removed, changed_at = clock_timestamp()
     WHERE (x.view, x.store) = (l.view, l.store);
    RETURN QUERY SELECT l.view, l.store, batch.removed, false;
    RETURN;
  END IF;
  -- What had to stay is tried again: the reason may be gone by now.
  FOR l IN SELECT * FROM run_ops.leftover AS x ORDER BY x.view, x.store FOR UPDATE LOOP
    keys := run_ops.leftover_keys(l, NULL, batch_size);
    CONTINUE WHEN keys = '{}';
    SELECT * INTO batch FROM run_ops.remove_keys(l, keys, strict);
    -- or a client has removed them just now
    IF batch.removed > 0 OR batch.reason IS NULL THEN
      UPDATE run_ops.leftover AS x SET removed = x.removed + batch.removed, changed_at = clock_timestamp()
       WHERE (x.view, x.store) = (l.view, l.store);
      RETURN QUERY SELECT l.view, l.store, batch.removed, false;
      RETURN;
    END IF;
    lines := lines || batch.reason;
  END LOOP;
  PERFORM run_ops.raise_leftovers(lines) WHERE lines <> '{}';
  RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, true;
END $$;
COMMENT ON FUNCTION run_ops.remove_batch(int, boolean) IS
  'removes a batch of leftovers; done when none is left; not strict: rows are coming home, and all that is here is older';
REVOKE EXECUTE ON FUNCTION run_ops.remove_batch(int, boolean) FROM PUBLIC;

-- One table a call, that is, a transaction: nobody waits for more than one.
CREATE FUNCTION run_ops.end_leftovers() RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  commands text := (
    SELECT string_agg(format('DROP TRIGGER %I ON %s', g.tgname, g.tgrelid::regclass), '; ')
      FROM pg_trigger AS g JOIN pg_proc AS p ON p.oid = g.tgfoid
     WHERE p.pronamespace = to_regnamespace('run_ops_leftovers') AND g.tgparentid = 0
     GROUP BY g.tgrelid ORDER BY g.tgrelid LIMIT 1);
BEGIN
  IF commands IS NOT NULL THEN
    PERFORM run_ops.in_attempts(commands);
    RETURN false;
  ELSIF EXISTS (SELECT FROM run_ops.leftover) THEN
    PERFORM run_ops.audit('remove leftovers', (SELECT jsonb_object_agg(concat_ws(' ', l.view, l.store), l.removed) FROM run_ops.leftover AS l));
    PERFORM run_ops.forget_leftovers();
  END IF;
  RETURN true;
END $$;
COMMENT ON FUNCTION run_ops.end_leftovers() IS
  'when no leftover is left: removes the triggers of one table, and says whether all are gone';
REVOKE EXECUTE ON FUNCTION run_ops.end_leftovers() FROM PUBLIC;

-- SECURITY DEFINER for the reason given in split_mode.sql.
CREATE FUNCTION run_ops.remove_leftovers(batch_size int DEFAULT 1000)
  RETURNS TABLE (view regclass, store text, removed bigint, done boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  PERFORM run_ops.refuse_in_copy();
  SELECT * INTO view, store, removed, done FROM run_ops.remove_batch(batch_size, true);
  done := done AND run_ops.end_leftovers();
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION run_ops.remove_leftovers(int) IS
  'removes rows here that have moved to a store, one batch a call, while the service runs; call it until done, after enable_split()';

CREATE FUNCTION run_ops.clear_leftovers(force boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
AS $$
DECLARE
  t run_ops.routed_table;
  n bigint := 0;
  removed bigint;
  trusted boolean := force OR repatriated OR NOT EXISTS (SELECT FROM run_ops.leftover AS l WHERE l.store <> ALL (run_ops.trusted_leftovers()));
BEGIN
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE r.view IN (SELECT l.view FROM run_ops.leftover AS l) LOOP
    EXECUTE format('DELETE FROM %s AS x WHERE %s', t.legacy, run_ops.leftover_condition(t, 'x'));
    GET DIAGNOSTICS removed = ROW_COUNT;
    n := n + removed;
    -- the stores are empty
    PERFORM run_ops.raise_leftovers(ARRAY[format('%s: no store has %s of its rows', t.legacy, removed)]) WHERE removed > 0 AND NOT trusted;
  END LOOP;
  -- when rows come home, foreign keys are checked then
  PERFORM run_ops.refuse_orphans() WHERE n > 0 AND NOT repatriated;
END $$;
COMMENT ON FUNCTION run_ops.clear_leftovers(boolean, boolean) IS
  'removes every leftover before split is disabled, or it would be shown again; asks no store when forced';
REVOKE EXECUTE ON FUNCTION run_ops.clear_leftovers(boolean, boolean) FROM PUBLIC;

-- Who may change the mode: see run_ops.grant_admin().
DO $$
DECLARE
  admin text;
BEGIN
  FOREACH admin IN ARRAY run_ops.admin_functions() || 'run_ops.grant_admin(regrole)'::text LOOP
    EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', admin);
  END LOOP;
END $$;
