
-- leftovers: rows that have moved to a store and are still in the local table.
--
-- If the switch deleted these rows, the time for which it blocks writes would
-- grow with their number.  So the switch leaves them in the local table.  It has
-- verified that the store has each of them, and from then on they are only older
-- copies, which the view does not show because their id belongs to the store.
-- They are removed afterwards, in batches.
--
-- Until then they must not have any effect.  A constraint could see them: they
-- still have their unique values, they still satisfy foreign keys, and actions
-- of foreign keys still apply to them.  A leftover may be removed at any time,
-- so a trigger removes it before the constraint is checked.  The switch deletes
-- the rows itself if such a trigger is not possible (can_leave_rows()), or if
-- the view would show them because no id decides (routing "store").
--
-- There are no leftovers while rows are being repatriated.  Both are local
-- copies of rows of a store, and nothing would distinguish those to remove from
-- those to keep.

CREATE TABLE run_ops.leftover (
  view       regclass,
  store      text,
  position   jsonb,
  finished   boolean NOT NULL DEFAULT false,
  removed    bigint NOT NULL DEFAULT 0,
  changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  PRIMARY KEY (view, store)
);
COMMENT ON TABLE run_ops.leftover IS
  'the tables that may still have rows which have moved to a store; pg_dump dumps this table, because it dumps those rows';
COMMENT ON COLUMN run_ops.leftover.view IS 'the routed table';
COMMENT ON COLUMN run_ops.leftover.store IS 'the store that has the rows';
COMMENT ON COLUMN run_ops.leftover.position IS 'the last key that run_ops.remove_leftovers() has processed';
COMMENT ON COLUMN run_ops.leftover.finished IS 'whether run_ops.remove_leftovers() has reached the end of this table';
COMMENT ON COLUMN run_ops.leftover.removed IS 'the number of rows removed';
COMMENT ON COLUMN run_ops.leftover.changed_at IS 'when the last batch was removed';
SELECT pg_catalog.pg_extension_config_dump('run_ops.leftover', 'WHERE run_ops.is_relation(view, ''{v}'')');

CREATE FUNCTION run_ops.can_leave_rows(t run_ops.routed_table) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT t.routing <> 'store'
     AND NOT EXISTS (
       SELECT FROM pg_constraint AS f
        WHERE f.contype = 'f' AND f.conparentid = 0 AND t.legacy IN (f.conrelid, f.confrelid)
          AND (f.conrelid NOT IN (SELECT r.legacy FROM run_ops.routed_table AS r)
               OR f.confrelid NOT IN (SELECT r.legacy FROM run_ops.routed_table AS r)))
     -- a unique index must be on plain columns that are compared with "=" of pg_catalog
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
  'whether rows that moved to a store may stay in the local table for a while without any effect';

CREATE FUNCTION run_ops.leftover_condition(t run_ops.routed_table, alias text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce('(' || string_agg(run_ops.in_store(t, format('%s.%I', alias, t.route_column), l.store), ' OR ') || ')', 'false')
    FROM run_ops.leftover AS l WHERE l.view = t.view
$$;
COMMENT ON FUNCTION run_ops.leftover_condition(run_ops.routed_table, text) IS
  'an SQL condition: a local row is a leftover';

CREATE FUNCTION run_ops.equals_any(relation regclass, columns name[]) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(format('%s = (u.v ->> %s)::%s', e.expression, ord - 1, e.type), ' AND ' ORDER BY ord)
    FROM unnest(columns) WITH ORDINALITY AS u (c, ord), LATERAL run_ops.plain_column(relation, u.c, format('x.%I', u.c)) AS e
$$;
COMMENT ON FUNCTION run_ops.equals_any(regclass, name[]) IS
  'an SQL condition: these columns of x equal the elements of the array u.v';

CREATE FUNCTION run_ops.referred_values(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(DISTINCT format('%L, %s', c, e.expression), ', ')
    FROM run_ops.foreign_keys() AS k, unnest(k.parent_columns) AS c, LATERAL run_ops.plain_column(t.legacy, c, format('x.%I', c)) AS e
   WHERE k.parent_table = t.legacy
$$;
COMMENT ON FUNCTION run_ops.referred_values(run_ops.routed_table) IS
  'the names and values of the columns of row x to which foreign keys refer, as arguments of jsonb_build_object(); NULL if there are none';

-- session_replication_role is replica, because the row still exists in the store:
-- its removal here must fire no other trigger.  Leftovers that refer to it are
-- removed as well, so that each committed state can be dumped and restored.

-- SECURITY DEFINER: the triggers below call it as the owner of their table, who
-- need not be allowed to delete rows of another table.  It can only remove
-- leftovers.
CREATE FUNCTION run_ops.drop_leftovers(relation regclass, columns name[], vals jsonb[], strict boolean DEFAULT true)
  RETURNS TABLE (view regclass, store text, key text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
AS $$
#variable_conflict use_variable
DECLARE
  t      run_ops.routed_table := run_ops.routed(relation);
  gone   jsonb[] := '{}';
  named  jsonb[];
  others bigint;
  r      record;
  f      record;
BEGIN
  FOR r IN
    SELECT * FROM run_ops.as_owner(t.legacy, format(
      'DELETE FROM %s AS x USING unnest($1) AS u (v) WHERE %s AND %s RETURNING %s, %s, jsonb_build_object(%s)',
      t.legacy, run_ops.leftover_condition(t, 'x'), run_ops.equals_any(t.legacy, columns), run_ops.names_store(t, format('x.%I', t.route_column)),
      run_ops.key_expression(t, 'x'), run_ops.referred_values(t)), vals) AS q (store text, key text, referred jsonb)
  LOOP
    gone := gone || r.referred;
    view := t.view; store := r.store; key := r.key;
    RETURN NEXT;
  END LOOP;
  FOR f IN SELECT * FROM run_ops.foreign_keys() AS k WHERE gone <> '{}' AND k.parent_table = t.legacy LOOP
    named := run_ops.values_of(gone, f.parent_columns);
    CONTINUE WHEN (f.child).routing = 'store' AND NOT strict;
    IF (f.child).routing <> 'store' THEN
      RETURN QUERY SELECT * FROM run_ops.drop_leftovers(f.child_table, f.child_columns, named, strict);
    END IF;
    CONTINUE WHEN NOT strict;
    SELECT q.n INTO others FROM run_ops.as_owner(f.child_table, format('SELECT count(*) FROM %s AS x, unnest($1) AS u (v) WHERE %s',
      f.child_table, run_ops.equals_any(f.child_table, f.child_columns)), named) AS q (n bigint);
    PERFORM run_ops.raise_orphans(ARRAY[format('%s rows of %s violate foreign key %I', others, f.child_table, f.conname)]) WHERE others > 0;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.drop_leftovers(regclass, name[], jsonb[], boolean) IS
  'removes the leftovers of a local table with these values in these columns, and the leftovers that refer to them; returns the removed rows with their store. If strict, raises an error if another row refers to one.';
REVOKE EXECUTE ON FUNCTION run_ops.drop_leftovers(regclass, name[], jsonb[], boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.values_of(objects jsonb[], columns name[]) RETURNS jsonb[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT array_agg(DISTINCT v)
    FROM unnest(objects) AS o, LATERAL (SELECT jsonb_agg(o -> c::text ORDER BY ord) AS v FROM unnest(columns) WITH ORDINALITY AS u (c, ord)) AS a
$$;
COMMENT ON FUNCTION run_ops.values_of(jsonb[], name[]) IS 'the distinct values of these columns in JSON objects, as arrays';

-- The triggers --------------------------------------------------------------------

CREATE FUNCTION run_ops.leftover_rules()
  RETURNS TABLE (t run_ops.routed_table, trigger_name text, fires text, staying boolean, leftovers run_ops.routed_table, columns name[], row_name text, row_columns name[])
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH f AS MATERIALIZED (SELECT * FROM run_ops.foreign_keys()),
       left_in AS MATERIALIZED (SELECT DISTINCT l.view FROM run_ops.leftover AS l)
  -- A row that is no leftover removes leftovers with the same unique values.  A
  -- unique index with the route column needs no trigger: the ids differ.
  SELECT t, '~run_ops_unique', 'BEFORE INSERT OR UPDATE', true, t, k.columns, 'NEW', k.columns
    FROM run_ops.routed_table AS t JOIN left_in USING (view) JOIN pg_index AS i ON i.indrelid = t.legacy AND i.indisunique, LATERAL (
           SELECT array_agg(a.attname ORDER BY a.attnum) AS columns FROM pg_attribute AS a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS k
   WHERE t.route_column <> ALL (k.columns)
  UNION ALL
  -- A leftover must not satisfy the foreign keys of a row.
  SELECT f.child, '0_run_ops_refers', 'AFTER INSERT OR UPDATE', true, f.parent, f.parent_columns, 'NEW', f.child_columns
    FROM f JOIN left_in ON left_in.view = (f.parent).view
   WHERE NOT run_ops.along_the_route(f.child, f.child_columns, f.parent, f.parent_columns)
  UNION ALL
  -- No action of a foreign key may apply to a leftover.
  SELECT f.parent, '0_run_ops_referred', 'AFTER UPDATE OR DELETE', false, f.child, f.child_columns, 'OLD', f.parent_columns
    FROM f JOIN left_in ON left_in.view = (f.child).view
$$;
COMMENT ON FUNCTION run_ops.leftover_rules() IS
  'the leftovers that must be removed when a row of table t is written, and the trigger that does it: those whose columns equal row_columns of the row. staying: only if the row is no leftover itself.';

CREATE FUNCTION run_ops.along_the_route(child run_ops.routed_table, child_columns name[], parent run_ops.routed_table, parent_columns name[])
  RETURNS boolean
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(child_columns = ARRAY[child.route_column] AND parent_columns = ARRAY[parent.route_column], false)
$$;
COMMENT ON FUNCTION run_ops.along_the_route(run_ops.routed_table, name[], run_ops.routed_table, name[]) IS
  'whether both rows of a foreign key are always in the same store, because it compares the columns that decide the store';

CREATE FUNCTION run_ops.guard_leftovers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
  g record;
BEGIN
  EXECUTE run_ops.renew_schema('run_ops_leftovers');
  COMMENT ON SCHEMA run_ops_leftovers IS
    'trigger functions that remove leftovers before a constraint sees them, until run_ops.remove_leftovers() has removed all';
  FOR g IN
    WITH condition AS MATERIALIZED (
      SELECT t.view, run_ops.leftover_condition(t, 'x') AS on_x, run_ops.leftover_condition(t, 'NEW') AS on_new FROM run_ops.routed_table AS t)
    SELECT r.t, r.trigger_name, r.fires, format('run_ops_leftovers.%I', r.trigger_name || '_' || (r.t).legacy::oid) AS function_name,
           string_agg(format(
             ' IF (TG_OP IN (''INSERT'', ''DELETE'') OR (%s) IS DISTINCT FROM (%s))%s THEN '
             'PERFORM FROM run_ops.drop_leftovers(%L::regclass, %L::name[], ARRAY[jsonb_build_array(%s)], %L); END IF;',
             c.olds, c.news,
             -- EXISTS is cheaper than the call, but needs privileges on the table
             CASE WHEN mine.relowner = theirs.relowner
                  THEN format(' AND EXISTS (SELECT FROM %s AS x WHERE %s AND %s)', (r.leftovers).legacy, there.on_x, c.equal) END,
             (r.leftovers).legacy, r.columns, c.vals,
             -- not strict: a row that refers to a leftover violates the foreign key anyway
             r.trigger_name <> '0_run_ops_refers'), '') AS body,
           CASE WHEN r.staying AND (r.t).routing <> 'store' THEN format('WHEN (NOT %s)', here.on_new) END AS condition,
           mine.relowner::regrole AS owner
      FROM run_ops.leftover_rules() AS r
      JOIN condition AS here ON here.view = (r.t).view JOIN condition AS there ON there.view = (r.leftovers).view
      JOIN pg_class AS mine ON mine.oid = (r.t).legacy JOIN pg_class AS theirs ON theirs.oid = (r.leftovers).legacy,
           LATERAL (SELECT string_agg(e.old, ', ' ORDER BY ord) AS olds, string_agg(e.new, ', ' ORDER BY ord) AS news,
                           string_agg(CASE r.row_name WHEN 'OLD' THEN e.old ELSE e.new END, ', ' ORDER BY ord) AS vals,
                           string_agg(format('%s = %s', e.x, CASE r.row_name WHEN 'OLD' THEN e.old ELSE e.new END), ' AND ' ORDER BY ord) AS equal
                      FROM unnest(r.columns, r.row_columns) WITH ORDINALITY AS u (c, o, ord),
                           LATERAL (SELECT (run_ops.plain_column((r.t).legacy, o, format('OLD.%I', o))).expression AS old,
                                           (run_ops.plain_column((r.t).legacy, o, format('NEW.%I', o))).expression AS new,
                                           (run_ops.plain_column((r.leftovers).legacy, c, format('x.%I', c))).expression AS x) AS e) AS c
     GROUP BY r.t, r.trigger_name, r.fires, r.staying, here.on_new, mine.relowner
  LOOP
    -- SECURITY DEFINER: a role that writes a row need not be allowed to delete
    -- other rows.  The function runs as the owner of the table, because the owner
    -- may have created the types of its columns.
    EXECUTE format('CREATE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
                   g.function_name, format('BEGIN%s RETURN NEW; END', g.body));
    EXECUTE format('ALTER FUNCTION %s() OWNER TO %s', g.function_name, g.owner);
    EXECUTE format('GRANT USAGE ON SCHEMA run_ops TO %s', g.owner);
    EXECUTE format('GRANT EXECUTE ON FUNCTION run_ops.drop_leftovers(regclass, name[], jsonb[], boolean) TO %s', g.owner);
    -- Triggers fire in the order of their names.  These fire after triggers that
    -- may change the row, and before the triggers of foreign keys.
    EXECUTE format('CREATE TRIGGER %I %s ON %s FOR EACH ROW %s EXECUTE FUNCTION %s()',
                   g.trigger_name, g.fires, (g.t).legacy, g.condition, g.function_name);
    -- Unique indexes are checked in every session, foreign keys not if
    -- session_replication_role is replica.
    EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', (g.t).legacy,
                   CASE WHEN g.trigger_name = '~run_ops_unique' THEN 'ALWAYS' ELSE '' END, g.trigger_name);
    -- otherwise every write would fail after DROP EXTENSION
    EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION run_ops_split', g.trigger_name, (g.t).legacy);
    EXECUTE format('ALTER FUNCTION %s() DEPENDS ON EXTENSION run_ops_split', g.function_name);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.guard_leftovers() IS
  'creates the triggers that remove a leftover before a constraint sees it';
REVOKE EXECUTE ON FUNCTION run_ops.guard_leftovers() FROM PUBLIC;

CREATE FUNCTION run_ops.forget_leftovers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
BEGIN
  DROP SCHEMA IF EXISTS run_ops_leftovers CASCADE;
  DELETE FROM run_ops.leftover;
END $$;
COMMENT ON FUNCTION run_ops.forget_leftovers() IS 'drops the triggers for leftovers and empties run_ops.leftover; all leftovers must have been removed';
REVOKE EXECUTE ON FUNCTION run_ops.forget_leftovers() FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_leftovers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF EXISTS (SELECT FROM run_ops.leftover) THEN
    RAISE EXCEPTION 'rows that moved to a store are still in the local tables'
      USING ERRCODE = 'object_in_use', DETAIL = 'They could not be distinguished from other rows any more.',
            HINT = 'To remove them, repeat until done: SELECT * FROM run_ops.remove_leftovers(); If the stores are lost: SELECT run_ops.disable_split(force => true);';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_leftovers() IS 'raises an error if the local tables may have leftovers';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_leftovers() FROM PUBLIC;

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
  -- Only parents whose store is decided by an id: with routing "store" it is
  -- known only when finish_move_to_stores() deletes the rows, which checks them.
  FOR f IN SELECT * FROM run_ops.foreign_keys() AS k
            WHERE (k.parent).routing <> 'store' AND NOT run_ops.along_the_route(k.child, k.child_columns, k.parent, k.parent_columns) LOOP
    keys := (SELECT array_agg(q.key) FROM run_ops.as_owner(run_ops.weaker_owner(f.child_table, f.parent_table), format(
      'SELECT %s FROM %s AS x JOIN %s AS y ON %s WHERE (%s) AND NOT (%s) LIMIT 10000',
      run_ops.key_expression(f.child, 'x'), f.child_table, f.parent_table, f.equal,
      (SELECT string_agg(run_ops.belongs_condition(f.parent, r.store, 'y'), ' OR ') FROM run_ops.routed_store AS r WHERE r.view = (f.parent).view),
      (SELECT string_agg(run_ops.belongs_condition(f.child, r.store, 'x'), ' OR ') FROM run_ops.routed_store AS r WHERE r.view = (f.child).view))) AS q (key text));
    -- a row without a deciding id moves as well if the store has its key
    FOR s IN SELECT r.store FROM run_ops.routed_store AS r WHERE r.view = (f.child).view AND (f.child).routing = 'store' LOOP
      CONTINUE WHEN keys IS NULL;
      m := run_ops.only_keys(run_ops.mirror_of(f.child, s, true), keys);
      keys := (SELECT array_agg(k) FROM unnest(keys) AS k
                WHERE k NOT IN (SELECT a ->> 'key' FROM run_ops.ask_store(s, run_ops.range_query(m.there_from, m.there_keys, '''''', NULL, NULL)) AS a));
    END LOOP;
    IF keys IS NOT NULL THEN
      lines := lines || format('%s rows of %s violate foreign key %I', cardinality(keys), f.child_table, f.conname);
    END IF;
  END LOOP;
  PERFORM run_ops.raise_orphans(lines) WHERE lines <> '{}';
END $$;
COMMENT ON FUNCTION run_ops.refuse_stranded() IS
  'raises an error if rows that stay here refer to rows that will move; runs before writes are blocked';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_stranded() FROM PUBLIC;

CREATE FUNCTION run_ops.finish_move_to_stores() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
  SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  r    record;
  f    record;
  m    run_ops.mirror;
  there jsonb[];
  gone jsonb[];
BEGIN
  PERFORM run_ops.finish_copy(true);
  -- copied rows are not checked by an index that is deferrable
  PERFORM run_ops.refuse_move_conflicts() WHERE (SELECT s.moving FROM run_ops.split_state AS s)
      AND EXISTS (SELECT FROM run_ops.routed_table AS t WHERE run_ops.has_deferrable_index(t.legacy));
  -- otherwise each row that is deleted here would be tracked as a change
  PERFORM run_ops.stop_tracking(false);
  INSERT INTO run_ops.leftover (view, store)
  SELECT t.view, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view WHERE run_ops.can_leave_rows(t);
  FOR r IN SELECT t, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            WHERE NOT run_ops.can_leave_rows(t) LOOP
    m := run_ops.mirror_of(r.t, r.store, true);
    -- Not through the foreign table, which would show the store as of the first
    -- attempt in this transaction.
    there := CASE (r.t).routing WHEN 'store' THEN ARRAY(SELECT * FROM run_ops.ask_store(r.store, format('SELECT %s FROM %s',
      (SELECT string_agg(format('(%s)::text AS k%s', k, ord), ', ' ORDER BY ord) FROM unnest(m.there_keys) WITH ORDINALITY AS u (k, ord)),
      m.there_from), '0')) END;
    WITH gone AS MATERIALIZED (
      SELECT * FROM run_ops.as_owner((r.t).legacy, format('DELETE FROM %s AS x %s RETURNING %s, jsonb_build_object(%s)', m.here,
          CASE (r.t).routing WHEN 'store' THEN format('USING unnest($2) AS a WHERE %s',
             (SELECT string_agg(format('%s = (a ->> %L)::%s', k, 'k' || ord, m.key_types[ord]), ' AND ')
                FROM unnest(m.here_keys) WITH ORDINALITY AS u (k, ord)))
           ELSE 'WHERE ' || run_ops.in_store(r.t, format('x.%I', (r.t).route_column), r.store) END,
          run_ops.key_expression(r.t, 'x'), run_ops.referred_values(r.t)), r.store, there) AS q (key text, r jsonb)
    ), settled AS (INSERT INTO run_ops.row_to_check SELECT (r.t).view, g.key FROM gone AS g)
    SELECT array_agg(g.r) INTO gone FROM gone AS g WHERE g.r <> '{}';
    FOR f IN SELECT * FROM run_ops.foreign_keys() AS k WHERE gone IS NOT NULL AND k.parent_table = (r.t).legacy LOOP
      PERFORM FROM run_ops.drop_leftovers(f.child_table, f.child_columns, run_ops.values_of(gone, f.parent_columns), false);
    END LOOP;
  END LOOP;
  PERFORM run_ops.refuse_remaining_orphans();
  PERFORM run_ops.guard_leftovers() WHERE EXISTS (SELECT FROM run_ops.leftover);
END $$;
COMMENT ON FUNCTION run_ops.finish_move_to_stores() IS
  'copies the rows that move_strays() has not copied yet, verifies that the stores have all rows, and deletes those rows here that cannot stay as leftovers; writes must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.finish_move_to_stores() FROM PUBLIC;

CREATE FUNCTION run_ops.raise_leftovers(lines text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'rows that moved to a store cannot be removed from the local tables'
    USING ERRCODE = 'object_in_use', DETAIL = array_to_string(lines, E'\n'),
          HINT = 'Correct rows that refer to these rows through the views. If the store lost a row, insert it through the view. If a row was deleted in the store: SELECT * FROM run_ops.remove_leftovers(deleted => true);';
END $$;
COMMENT ON FUNCTION run_ops.raise_leftovers(text[]) IS 'raises the error with the reasons why leftovers cannot be removed';
REVOKE EXECUTE ON FUNCTION run_ops.raise_leftovers(text[]) FROM PUBLIC;

-- Removing ----------------------------------------------------------------------------

CREATE FUNCTION run_ops.leftover_keys(l run_ops.leftover, above jsonb, batch_size int) RETURNS text[]
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.next_keys(run_ops.mirror_of(run_ops.routed(l.view), l.store, true), above, batch_size)
$$;
COMMENT ON FUNCTION run_ops.leftover_keys(run_ops.leftover, jsonb, int) IS 'the keys of the next leftovers, in the order of the keys';
REVOKE EXECUTE ON FUNCTION run_ops.leftover_keys(run_ops.leftover, jsonb, int) FROM PUBLIC;

CREATE FUNCTION run_ops.lacking_keys(view regclass, store text, keys text[]) RETURNS text[]
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  m run_ops.mirror := run_ops.only_keys(run_ops.mirror_of(run_ops.routed(view), store, true), keys);
BEGIN
  RETURN ARRAY(SELECT unnest(keys) EXCEPT
               SELECT a ->> 'key' FROM run_ops.ask_store(store, run_ops.range_query(m.there_from, m.there_keys, '''''', NULL, NULL)) AS a);
END $$;
COMMENT ON FUNCTION run_ops.lacking_keys(regclass, text, text[]) IS 'the keys for which a store has no row now';
REVOKE EXECUTE ON FUNCTION run_ops.lacking_keys(regclass, text, text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.remove_proven(l run_ops.leftover, keys text[], strict boolean, deleted boolean) RETURNS bigint
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t       run_ops.routed_table := run_ops.routed(l.view);
  r       record;
  lacking text[];
  removed bigint := 0;
BEGIN
  -- For the leftovers that were removed because they refer to one, it has not
  -- been checked yet whether the store has them.
  FOR r IN
    SELECT d.view, d.store, count(*) AS n, array_agg(d.key) FILTER (WHERE d.view <> l.view OR d.key <> ALL (keys)) AS others
      FROM run_ops.drop_leftovers(t.legacy, t.key_columns, keys::jsonb[], strict) AS d GROUP BY d.view, d.store ORDER BY d.view::text, d.store
  LOOP
    removed := removed + r.n;
    lacking := CASE WHEN r.others IS NULL OR deleted THEN '{}' ELSE run_ops.lacking_keys(r.view, r.store, r.others) END;
    IF lacking <> '{}' THEN
      RAISE EXCEPTION 'a row would be lost' USING ERRCODE = 'foreign_key_violation',
        DETAIL = format('a row of %s refers to it, and store "%s" does not have %s', r.view, r.store, lacking[1]);
    END IF;
  END LOOP;
  RETURN removed;
END $$;
COMMENT ON FUNCTION run_ops.remove_proven(run_ops.leftover, text[], boolean, boolean) IS
  'removes leftovers by key, and the leftovers that refer to them. Raises an error if the store does not have one of the latter, unless deleted is true.';
REVOKE EXECUTE ON FUNCTION run_ops.remove_proven(run_ops.leftover, text[], boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.remove_keys(l run_ops.leftover, keys text[], strict boolean, deleted boolean, OUT removed bigint, OUT reason text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  known text[] := keys;
  lacking text[];
  key   text;
BEGIN
  -- A row that the store does not have is kept, because no other copy exists.
  -- It was deleted or lost in the store, or written here past the write lock.
  IF keys <> '{}' AND NOT deleted THEN
    lacking := run_ops.lacking_keys(l.view, l.store, keys);
    known := ARRAY(SELECT k FROM unnest(keys) AS k WHERE k <> ALL (lacking));
    reason := format('%s: store "%s" does not have %s', l.view, l.store, lacking[1]) WHERE lacking <> '{}';
  END IF;
  removed := 0;
  BEGIN
    removed := run_ops.remove_proven(l, known, strict, deleted);
  EXCEPTION WHEN foreign_key_violation THEN
    FOREACH key IN ARRAY known LOOP
      BEGIN
        removed := removed + run_ops.remove_proven(l, ARRAY[key], true, deleted);
      EXCEPTION WHEN foreign_key_violation THEN
        GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
        reason := format('%s: cannot remove %s: %s', l.view, key, reason);
      END;
    END LOOP;
  END;
END $$;
COMMENT ON FUNCTION run_ops.remove_keys(run_ops.leftover, text[], boolean, boolean) IS
  'removes leftovers by key, and returns their number and a reason if some were kept. Keeps a leftover that its store does not have now, unless deleted is true, and if strict, one to which another row refers.';
REVOKE EXECUTE ON FUNCTION run_ops.remove_keys(run_ops.leftover, text[], boolean, boolean) FROM PUBLIC;

-- deadlock_timeout is short, so that this session and not a client detects a
-- deadlock.
CREATE FUNCTION run_ops.remove_batch(batch_size int, strict boolean, deleted boolean DEFAULT false) RETURNS TABLE (view regclass, store text, removed bigint, done boolean)
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
  -- Referencing tables first: then few rows must be removed together with the
  -- row that they refer to.
  SELECT x.* INTO l FROM run_ops.leftover AS x JOIN run_ops.routed_table AS t ON t.view = x.view
   WHERE NOT x.finished
   ORDER BY (SELECT count(*) FROM run_ops.foreign_keys() AS f WHERE f.parent_table = t.legacy), x.view, x.store LIMIT 1 FOR UPDATE OF x;
  IF FOUND THEN
    keys := run_ops.leftover_keys(l, l.position, batch_size);
    SELECT * INTO batch FROM run_ops.remove_keys(l, keys, strict, deleted);
    UPDATE run_ops.leftover AS x
       SET position = coalesce(keys[cardinality(keys)]::jsonb, x.position), finished = cardinality(keys) < batch_size,
           removed = x.removed + batch.removed, changed_at = clock_timestamp()
     WHERE (x.view, x.store) = (l.view, l.store);
    RETURN QUERY SELECT l.view, l.store, batch.removed, false;
    RETURN;
  END IF;
  -- The leftovers that were kept are tried again: the reason may no longer exist.
  FOR l IN SELECT * FROM run_ops.leftover AS x ORDER BY x.view, x.store FOR UPDATE LOOP
    keys := run_ops.leftover_keys(l, NULL, batch_size);
    CONTINUE WHEN keys = '{}';
    SELECT * INTO batch FROM run_ops.remove_keys(l, keys, strict, deleted);
    -- nothing removed and no reason: a client has removed them just now
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
COMMENT ON FUNCTION run_ops.remove_batch(int, boolean, boolean) IS
  'removes one batch of leftovers; done is true if none is left. strict => false does not check foreign keys, because they are checked after the repatriation.';
REVOKE EXECUTE ON FUNCTION run_ops.remove_batch(int, boolean, boolean) FROM PUBLIC;

-- One table for each call, so that a transaction locks only one.
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
  'to be called after all leftovers are removed: drops the triggers of one table, and returns true when all tables are done';
REVOKE EXECUTE ON FUNCTION run_ops.end_leftovers() FROM PUBLIC;

-- SECURITY DEFINER for the reason given in split_mode.sql.
CREATE FUNCTION run_ops.remove_leftovers(batch_size int DEFAULT 1000, deleted boolean DEFAULT false)
  RETURNS TABLE (view regclass, store text, removed bigint, done boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  PERFORM run_ops.refuse_in_copy();
  PERFORM run_ops.refuse_incomplete();
  SELECT * INTO view, store, removed, done FROM run_ops.remove_batch(batch_size, true, deleted);
  done := done AND run_ops.end_leftovers();
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION run_ops.remove_leftovers(int, boolean) IS
  'removes the local rows that have moved to a store, if the store still has them, one batch for each call, while the application runs. Call it until done, after enable_split(). deleted => true also removes rows that the store does not have, because they were deleted there.';

CREATE FUNCTION run_ops.clear_leftovers(force boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
AS $$
DECLARE
  t run_ops.routed_table;
  n bigint := 0;
  removed bigint;
BEGIN
  IF NOT force THEN
    LOOP
      EXIT WHEN (SELECT b.done FROM run_ops.remove_batch(10000, NOT repatriated) AS b);
    END LOOP;
    RETURN;
  END IF;
  FOR t IN SELECT * FROM run_ops.routed_table AS r
            WHERE r.view IN (SELECT l.view FROM run_ops.leftover AS l) AND run_ops.is_relation(r.legacy, '{r,p}') LOOP
    SELECT q.n INTO removed FROM run_ops.as_owner(t.legacy, format('WITH gone AS (DELETE FROM %s AS x WHERE %s RETURNING 1) SELECT count(*) FROM gone',
      t.legacy, run_ops.leftover_condition(t, 'x'))) AS q (n bigint);
    n := n + removed;
  END LOOP;
  PERFORM run_ops.refuse_orphans() WHERE n > 0;
END $$;
COMMENT ON FUNCTION run_ops.clear_leftovers(boolean, boolean) IS
  'removes all leftovers before split is disabled, because the views would show them again; does not query a store if forced';
REVOKE EXECUTE ON FUNCTION run_ops.clear_leftovers(boolean, boolean) FROM PUBLIC;
