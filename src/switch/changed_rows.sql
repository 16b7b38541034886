
-- changed_rows: which rows changed while rows are copied between a store and
-- here, so that only those are compared when writes are closed.
--
-- A trigger notes the key of every row that is written, in the transaction
-- that writes it.  So after a whole pass only noted rows can differ.  A note
-- is removed when the copy of its row has been committed here.
--
-- What is noted is believed while nothing happened that a trigger does not
-- see.  The places where rows are noted carry a token with the number of
-- batches whose notes were removed there, and their tables and triggers are
-- what they were.  A trigger that was switched off for a while, TRUNCATE, a
-- rewritten or migrated table, a server restored or failed over: each shows
-- in one of them, and then every row is compared again.

CREATE TABLE run_ops.change_notes (
  place      text PRIMARY KEY REFERENCES run_ops.store ON DELETE CASCADE,
  forward    boolean,
  token      text NOT NULL,
  shape      text NOT NULL,
  drained    bigint NOT NULL DEFAULT 0,
  ids        bigint[] NOT NULL DEFAULT '{}',
  drained_by xid8
);
COMMENT ON TABLE run_ops.change_notes IS
  'where the keys of changed rows are noted, in schema run_ops_changes of each store and of this database, while rows are copied';
COMMENT ON COLUMN run_ops.change_notes.place IS 'the store whose changes are noted; legacy: this database';
COMMENT ON COLUMN run_ops.change_notes.forward IS 'for run_ops.move_strays(); false: for run_ops.repatriate(); NULL: for nothing any more';
COMMENT ON COLUMN run_ops.change_notes.token IS 'what the place must still have';
COMMENT ON COLUMN run_ops.change_notes.shape IS 'its tables and triggers, as they were when noting began';
COMMENT ON COLUMN run_ops.change_notes.drained IS 'batches of noted rows that were copied';
COMMENT ON COLUMN run_ops.change_notes.ids IS 'the notes of the last batch, to be removed once it is committed';
COMMENT ON COLUMN run_ops.change_notes.drained_by IS 'the transaction that copied the last batch';

CREATE TABLE run_ops.settled_row (view regclass REFERENCES run_ops.routed_table ON DELETE CASCADE, key text);
COMMENT ON TABLE run_ops.settled_row IS
  'rows whose foreign keys are checked when writes are closed; empty but for the transaction that switches';
COMMENT ON COLUMN run_ops.settled_row.view IS 'the routed table';
COMMENT ON COLUMN run_ops.settled_row.key IS 'the key of the row';

-- A place is a store or this database: the same SQL runs in either.

CREATE FUNCTION run_ops.ask_place(place text, query text) RETURNS SETOF jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF place = 'legacy' THEN
    RETURN QUERY EXECUTE format('SELECT to_jsonb(q) FROM (%s) AS q', query);
  ELSE
    RETURN QUERY SELECT * FROM run_ops.ask_store(place, query);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.ask_place(text, text) IS 'asks a store, or this database';
REVOKE EXECUTE ON FUNCTION run_ops.ask_place(text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.tell_place(place text, commands text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
BEGIN
  IF place = 'legacy' THEN
    EXECUTE commands;
  ELSE
    PERFORM run_ops.refuse_in_copy();
    PERFORM run_ops.tell_store(place, format('SET LOCAL lock_timeout = %L; SET LOCAL client_min_messages = warning; %s',
                                             run_ops.setting('swap_lock_timeout'), commands));
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.tell_place(text, text) IS
  'runs commands in a store, in a transaction of their own, or in this database';
REVOKE EXECUTE ON FUNCTION run_ops.tell_place(text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.key_expression(t run_ops.routed_table, alias text, names jsonb DEFAULT '{}') RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('jsonb_build_array(%s)::text', string_agg(format('(%s)::text', c.expression), ', ' ORDER BY ord))
    FROM unnest(t.key_columns) WITH ORDINALITY AS u (k, ord),
         LATERAL run_ops.plain_column(t.legacy, k, format('%s.%I', alias, coalesce(names ->> k::text, k))) AS c
$$;
COMMENT ON FUNCTION run_ops.key_expression(run_ops.routed_table, text, jsonb) IS
  'the text of the key of a row with this alias, as it is noted; names are those of columns that are named otherwise there';

CREATE FUNCTION run_ops.noted_tables(place text, going_forward boolean)
  RETURNS TABLE (view regclass, relation text, key text, route_column name, has_trigger boolean)
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT t.view, format('%I.%I', t.store_schema, t.store_table),
         run_ops.key_expression(t, 'r', t.column_names), NULL::name, true
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view WHERE s.store = place
  UNION ALL
  SELECT t.view, format('%I.%I', n.nspname, c.relname), run_ops.key_expression(t, 'r'), t.route_column, t.routing <> 'store' OR going_forward
    FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.legacy JOIN pg_namespace AS n ON n.oid = c.relnamespace
   WHERE place = 'legacy'
  UNION ALL
  -- where copies wait nobody else writes, but it may be made anew
  SELECT t.view, run_ops.waiting_table(t, s.store)::text, NULL, NULL, false
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
   WHERE place = 'legacy' AND t.routing = 'store' AND NOT going_forward
$$;
COMMENT ON FUNCTION run_ops.noted_tables(text, boolean) IS
  'the tables of a place that rows are copied from and to, and which of them get a trigger';
REVOKE EXECUTE ON FUNCTION run_ops.noted_tables(text, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.noting_commands(place text, going_forward boolean, token text) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t        record;
  commands text := run_ops.renew_schema('run_ops_changes') || format(
    '; COMMENT ON SCHEMA run_ops_changes IS %L; '
    'CREATE TABLE run_ops_changes.note (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, relation bigint NOT NULL, key text NOT NULL); '
    'COMMENT ON TABLE run_ops_changes.note IS ''keys of rows that changed while run_ops_split copies rows''', token || ' 0');
BEGIN
  FOR t IN SELECT * FROM run_ops.noted_tables(place, going_forward) AS n WHERE n.has_trigger LOOP
    -- SECURITY DEFINER: who writes the table need not be allowed to write
    -- notes.  The function is given to the owner of the table, who may have
    -- made the types and casts of the key, where the role that makes it has
    -- the rights of that owner.  The settings make the key the same text
    -- whoever writes.
    commands := commands || format($q$;
      CREATE FUNCTION run_ops_changes.%1$I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
      AS %2$L;
      CREATE TRIGGER run_ops_changes AFTER INSERT OR UPDATE OR DELETE ON %3$s FOR EACH ROW EXECUTE FUNCTION run_ops_changes.%1$I();
      DO %4$L$q$,
      'note_' || t.view::oid,
      format('DECLARE r record; was text; BEGIN '
             'IF TG_OP <> ''INSERT'' THEN r := OLD; IF %1$s THEN was := %2$s; INSERT INTO run_ops_changes.note (relation, key) VALUES (%3$s, was); END IF; END IF; '
             'IF TG_OP <> ''DELETE'' THEN r := NEW; IF %1$s AND was IS DISTINCT FROM %2$s THEN INSERT INTO run_ops_changes.note (relation, key) VALUES (%3$s, %2$s); END IF; END IF; '
             'RETURN NULL; END',
             CASE WHEN t.route_column IS NULL THEN 'true' ELSE format('NOT run_ops.resides(r.%I, ''legacy'')', t.route_column) END,
             t.key, t.view::oid),
      t.relation,
      format($q$
        DECLARE
          owner regrole := (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) %L::pg_catalog.regclass);
        BEGIN
          IF pg_catalog.pg_has_role(owner, 'USAGE') AND owner::pg_catalog.text OPERATOR(pg_catalog.<>) pg_catalog.quote_ident(current_user) THEN
            EXECUTE pg_catalog.format('GRANT USAGE, CREATE ON SCHEMA run_ops_changes TO %%1$s; GRANT INSERT ON run_ops_changes.note TO %%1$s; '
                                      'ALTER FUNCTION run_ops_changes.%%2$I() OWNER TO %%1$s; REVOKE CREATE ON SCHEMA run_ops_changes FROM %%1$s', owner, %L);
          END IF;
        END $q$, t.relation, 'note_' || t.view::oid));
    IF place = 'legacy' THEN
      -- or every write would fail after DROP EXTENSION
      commands := commands || format('; ALTER TRIGGER run_ops_changes ON %s DEPENDS ON EXTENSION run_ops_split; '
                                     'ALTER FUNCTION run_ops_changes.%I() DEPENDS ON EXTENSION run_ops_split; '
                                     'GRANT USAGE ON SCHEMA run_ops TO %s', t.relation, 'note_' || t.view::oid,
                                     (SELECT c.relowner::regrole FROM pg_class AS c WHERE c.oid = t.relation::regclass));
    END IF;
    -- Where rows come from, whoever writes them; where they are copied to, all
    -- but the copying, which runs as a replica.
    IF (place = 'legacy') = going_forward THEN
      commands := commands || format('; ALTER TABLE %s ENABLE ALWAYS TRIGGER run_ops_changes', t.relation);
    END IF;
  END LOOP;
  RETURN commands;
END $$;
COMMENT ON FUNCTION run_ops.noting_commands(text, boolean, text) IS
  'SQL that makes a place note the keys of the rows that change';
REVOKE EXECUTE ON FUNCTION run_ops.noting_commands(text, boolean, text) FROM PUBLIC;

CREATE FUNCTION run_ops.place_shape(place text, going_forward boolean) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- xmin tells a trigger that was switched off and on again; the name of the
  -- WAL begins with the timeline, which changes when a server is restored or
  -- a standby promoted.
  SELECT a FROM run_ops.ask_place(place, format($q$
    SELECT obj_description(to_regnamespace('run_ops_changes')::oid, 'pg_namespace') AS token,
           left(pg_walfile_name(pg_current_wal_lsn()), 8) || md5(string_agg(concat_ws(' ', c.oid, pg_relation_filenode(c.oid),
             (SELECT string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.attmissingval), ',' ORDER BY a.attnum)
                FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
             (SELECT string_agg(concat_ws(' ', g.oid, g.xmin, g.tgenabled, f.oid, f.xmin), ',')
                FROM pg_trigger AS g JOIN pg_proc AS f ON f.oid = g.tgfoid WHERE g.tgrelid = c.oid AND g.tgname = 'run_ops_changes')),
             E'\n' ORDER BY c.oid)) AS shape
      FROM (SELECT r::oid AS oid FROM unnest(%1$L::text[]) AS u (name), to_regclass(name) AS r
            UNION SELECT p.relid::oid FROM unnest(%1$L::text[]) AS u (name), to_regclass(name) AS r, pg_partition_tree(r) AS p) AS c $q$,
    ARRAY(SELECT n.relation FROM run_ops.noted_tables(place, going_forward) AS n ORDER BY 1) || 'run_ops_changes.note'::text)) AS a
$$;
COMMENT ON FUNCTION run_ops.place_shape(text, boolean) IS
  'the token of a place, and a hash of what its tables and triggers are';
REVOKE EXECUTE ON FUNCTION run_ops.place_shape(text, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.note_changes(going_forward boolean) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  p     record;
  token text := gen_random_uuid();
BEGIN
  DELETE FROM run_ops.change_notes;
  -- this database last, for its locks last until the transaction ends
  FOR p IN SELECT s.name FROM run_ops.store AS s ORDER BY s.server IS NULL, s.name LOOP
    PERFORM run_ops.in_attempts(format('SELECT run_ops.tell_place(%L, %L)', p.name, run_ops.noting_commands(p.name, going_forward, token)));
    INSERT INTO run_ops.change_notes (place, forward, token, shape)
      VALUES (p.name, going_forward, token, run_ops.place_shape(p.name, going_forward) ->> 'shape');
  END LOOP;
  RETURN true;
EXCEPTION WHEN OTHERS THEN
  RAISE NOTICE 'changes are not noted: every row will be compared while writes are closed' USING DETAIL = SQLERRM;
  RETURN false;
END $$;
COMMENT ON FUNCTION run_ops.note_changes(boolean) IS
  'begins to note what changes, in every store and here; says false, and a notice why, where that cannot be';
REVOKE EXECUTE ON FUNCTION run_ops.note_changes(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.doubt_in_notes(going_forward boolean) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  p     record;
  found_shape jsonb;
BEGIN
  FOR p IN SELECT s.name, n.* FROM run_ops.store AS s LEFT JOIN run_ops.change_notes AS n ON n.place = s.name AND n.forward = going_forward
            ORDER BY s.server IS NULL, s.name LOOP
    IF p.token IS NULL THEN
      RETURN format('changes of store "%s" were not noted', p.name);
    END IF;
    found_shape := run_ops.place_shape(p.name, going_forward);
    IF found_shape ->> 'token' IS NULL OR found_shape ->> 'token' NOT IN (concat_ws(' ', p.token, p.drained), concat_ws(' ', p.token, p.drained - 1)) THEN
      RETURN format('store "%s" has other notes, or none', p.name);
    ELSIF found_shape ->> 'shape' IS DISTINCT FROM p.shape THEN
      RETURN format('in store "%s" a table or its trigger is not what it was, or the server was restored', p.name);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.doubt_in_notes(boolean) IS
  'why rows that are not noted may have changed; NULL when every change was noted';
REVOKE EXECUTE ON FUNCTION run_ops.doubt_in_notes(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.doubt_in_copies(going_forward boolean) RETURNS text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN EXISTS (SELECT FROM run_ops.routed_store AS r WHERE NOT EXISTS (
                SELECT FROM run_ops.copy_progress AS c WHERE (c.view, c.store, c.forward, c.finished) = (r.view, r.store, going_forward, true)))
              THEN 'not all rows were copied before'
              ELSE run_ops.doubt_in_notes(going_forward) END
$$;
COMMENT ON FUNCTION run_ops.doubt_in_copies(boolean) IS
  'why rows that are not noted may differ from their copies; NULL when none can';
REVOKE EXECUTE ON FUNCTION run_ops.doubt_in_copies(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.only_keys(m run_ops.mirror, keys text[]) RETURNS run_ops.mirror
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  list text := (SELECT string_agg('(' || (SELECT string_agg(quote_literal(v), ', ' ORDER BY ord)
                                            FROM jsonb_array_elements_text(k::jsonb) WITH ORDINALITY AS u (v, ord)) || ')', ', ')
                  FROM unnest(keys) AS k);
BEGIN
  m.here_from := m.here_from || format(' AND (%s) IN (%s)', array_to_string(m.here_keys, ', '), list);
  m.there_from := m.there_from || format(' AND (%s) IN (%s)', array_to_string(m.there_keys, ', '), list);
  RETURN m;
END $$;
COMMENT ON FUNCTION run_ops.only_keys(run_ops.mirror, text[]) IS 'a mirror that shows the rows with these keys only';

CREATE FUNCTION run_ops.drain_notes(batch_size int, going_forward boolean, switching boolean, OUT drained int, OUT most int, OUT unsettled jsonb[])
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  n     run_ops.change_notes;
  r     record;
  t     run_ops.routed_table;
  store text;
  taken bigint[];
BEGIN
  drained := 0;
  most := 0;
  unsettled := '{}';
  FOR n IN SELECT * FROM run_ops.change_notes AS c ORDER BY c.place FOR UPDATE LOOP
    -- what an earlier transaction copied
    IF n.ids <> '{}' AND n.drained_by <> pg_current_xact_id() THEN
      PERFORM run_ops.tell_place(n.place, format('DELETE FROM run_ops_changes.note WHERE id = ANY (%L); COMMENT ON SCHEMA run_ops_changes IS %L',
                                                 n.ids, concat_ws(' ', n.token, n.drained)));
      n.ids := '{}';
    END IF;
    -- The notes first, and then the rows: a row is never older than its note.
    taken := '{}';
    FOR r IN
      SELECT (a ->> 'relation')::oid::regclass AS view, array_agg(DISTINCT a ->> 'key') AS keys, array_agg((a ->> 'id')::bigint) AS ids
        FROM run_ops.ask_place(n.place, format('SELECT * FROM run_ops_changes.note AS n '
               'WHERE NOT EXISTS (SELECT FROM unnest(%L::bigint[]) AS d WHERE d = n.id) ORDER BY id LIMIT %s', n.ids, batch_size)) AS a
       GROUP BY 1
    LOOP
      taken := taken || r.ids;
      t := run_ops.routed(r.view);
      FOR store IN SELECT s.store FROM run_ops.routed_store AS s WHERE s.view = r.view AND n.place IN ('legacy', s.store) ORDER BY s.store LOOP
        IF NOT run_ops.settle_range(run_ops.only_keys(run_ops.mirror_of(t, store, going_forward), r.keys), NULL, NULL, going_forward) THEN
          unsettled := unsettled || jsonb_build_object('view', r.view::oid, 'store', store, 'keys', r.keys);
        END IF;
      END LOOP;
      INSERT INTO run_ops.settled_row SELECT r.view, k FROM unnest(r.keys) AS k WHERE switching;
    END LOOP;
    IF taken <> '{}' THEN
      n.drained := n.drained + (n.drained_by IS DISTINCT FROM pg_current_xact_id())::int;
      n.drained_by := pg_current_xact_id();
    END IF;
    UPDATE run_ops.change_notes AS c SET ids = n.ids || taken, drained = n.drained, drained_by = n.drained_by WHERE c.place = n.place;
    drained := drained + cardinality(taken);
    most := greatest(most, cardinality(taken));
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.drain_notes(int, boolean, boolean) IS
  'compares and copies the rows of one batch of notes of every place: how many notes, the most of one place, and the rows that differ still';
REVOKE EXECUTE ON FUNCTION run_ops.drain_notes(int, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.copy_noted(batch_size int, going_forward boolean, switching boolean, OUT copied int, OUT done boolean)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  batch record;
BEGIN
  SELECT * INTO batch FROM run_ops.drain_notes(batch_size, going_forward, switching);
  -- Changed once more meanwhile, or a unique value stood in the way: noted anew.
  INSERT INTO run_ops_changes.note (relation, key)
  SELECT (u ->> 'view')::bigint, k FROM unnest(batch.unsettled) AS u, jsonb_array_elements_text(u -> 'keys') AS k;
  copied := batch.drained;
  done := batch.most < batch_size;
END $$;
COMMENT ON FUNCTION run_ops.copy_noted(int, boolean, boolean) IS
  'copies a batch of noted rows while the service runs; done when fewer than a batch were left';
REVOKE EXECUTE ON FUNCTION run_ops.copy_noted(int, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.finish_noted(going_forward boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  batch record;
  again jsonb[] := '{}';
  u     jsonb;
BEGIN
  LOOP
    SELECT * INTO batch FROM run_ops.drain_notes(10000, going_forward, true);
    again := again || batch.unsettled;
    EXIT WHEN batch.most < 10000;
  END LOOP;
  -- once more, now that no older row is left that could be in the way
  FOREACH u IN ARRAY again LOOP
    IF NOT run_ops.settle_range(
             run_ops.only_keys(run_ops.mirror_of(run_ops.routed((u ->> 'view')::oid), u ->> 'store', going_forward),
                               ARRAY(SELECT jsonb_array_elements_text(u -> 'keys'))), NULL, NULL, going_forward) THEN
      RAISE EXCEPTION 'rows of % are not the same here and in store "%"', (u ->> 'view')::oid::regclass, u ->> 'store'
        USING ERRCODE = 'data_exception', DETAIL = format('They differ after copying, among keys %s.', left(u ->> 'keys', 1000));
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.finish_noted(boolean) IS
  'compares and copies every row that is still noted; writes must be closed';
REVOKE EXECUTE ON FUNCTION run_ops.finish_noted(boolean) FROM PUBLIC;

-- Foreign keys.  What is copied is not seen by their triggers; every other
-- write of the local tables is.  So they are checked in full while the service
-- runs, and with writes closed once more for the rows that failed then, which
-- may have been halfway, and for those that were copied since.

CREATE FUNCTION run_ops.foreign_keys()
  RETURNS TABLE (conname name, child run_ops.routed_table, parent run_ops.routed_table, child_table regclass, parent_table regclass,
                 refers text, present text, equal text, parent_columns name[], child_columns name[])
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT f.conname, t, p, f.conrelid::regclass, f.confrelid::regclass,
         string_agg(format('x.%I', c.attname), ', '), string_agg(format('x.%I IS NOT NULL', c.attname), ' AND '),
         -- by the operator of the key itself
         string_agg(format('y.%I OPERATOR(%I.%s) x.%I', r.attname, n.nspname, o.oprname, c.attname), ' AND '),
         array_agg(r.attname ORDER BY k.ord), array_agg(c.attname ORDER BY k.ord)
    FROM pg_constraint AS f JOIN run_ops.routed_table AS t ON t.legacy = f.conrelid
    LEFT JOIN run_ops.routed_table AS p ON p.legacy = f.confrelid,
         unnest(f.conkey, f.confkey, f.conpfeqop) WITH ORDINALITY AS k (child, parent, operator, ord)
    JOIN pg_attribute AS c ON c.attnum = k.child
    JOIN pg_attribute AS r ON r.attnum = k.parent
    JOIN pg_operator AS o ON o.oid = k.operator JOIN pg_namespace AS n ON n.oid = o.oprnamespace
   -- some are not enforced, from version 18 on; others lack the column
   WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true) AND c.attrelid = f.conrelid AND r.attrelid = f.confrelid
   GROUP BY f.oid, f.conname, t, p, f.conrelid, f.confrelid
$$;
COMMENT ON FUNCTION run_ops.foreign_keys() IS
  'the enforced foreign keys of the local tables: conditions on x, the row that refers, and y, the row that it refers to';

CREATE FUNCTION run_ops.rows_at_home(t run_ops.routed_table, relation regclass) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('(SELECT %s FROM %s%s)', run_ops.column_list(relation, ''), relation,
    (SELECT string_agg(format(' UNION ALL SELECT %s FROM run_ops_repatriated.%I', run_ops.column_list(relation, ''), relation::oid || '_' || s.store), '')
       FROM run_ops.routed_store AS s WHERE s.view = t.view AND to_regclass(format('run_ops_repatriated.%I', relation::oid || '_' || s.store)) IS NOT NULL))
$$;
COMMENT ON FUNCTION run_ops.rows_at_home(run_ops.routed_table, regclass) IS
  'a local table together with the copies that wait for a place in it';

CREATE FUNCTION run_ops.suspect_orphans() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  f record;
  n bigint;
BEGIN
  FOR f IN SELECT * FROM run_ops.foreign_keys() LOOP
    INSERT INTO run_ops.settled_row SELECT (f.child).view, q.key
      FROM run_ops.as_owner(run_ops.weaker_owner(f.child_table, f.parent_table),
             format('SELECT %s FROM %s AS x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s) LIMIT 10000',
                    run_ops.key_expression(f.child, 'x'), run_ops.rows_at_home(f.child, f.child_table), f.present,
                    run_ops.rows_at_home(f.parent, f.parent_table), f.equal)) AS q (key text);
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n = 10000 THEN
      PERFORM run_ops.raise_orphans(ARRAY[format('%s rows or more of %s break foreign key %I', n, f.child_table, f.conname)]);
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.suspect_orphans() IS
  'checks every foreign key while the service runs, and remembers rows that break one to be looked at again';
REVOKE EXECUTE ON FUNCTION run_ops.suspect_orphans() FROM PUBLIC;

-- Few rows are looked up in large tables, which the planner cannot know: so
-- the order is said, and whole tables are read only where there is no index.
CREATE FUNCTION run_ops.refuse_settled_orphans() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $$
DECLARE
  f     record;
  came  bigint;
  left_behind bigint;
  lines text[] := '{}';
  owner regclass;
  settled text := 'WITH s AS MATERIALIZED (SELECT DISTINCT key FROM run_ops.settled_row WHERE view = $1), ';
BEGIN
  FOR f IN SELECT * FROM run_ops.foreign_keys() LOOP
    owner := run_ops.weaker_owner(f.child_table, f.parent_table);
    -- rows that refer to one
    SELECT q.n INTO came FROM run_ops.as_owner(owner,
      format('%s x AS MATERIALIZED (SELECT %s FROM s JOIN %s AS x ON %s) '
             'SELECT count(*) FROM x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
             settled, f.refers, f.child_table, run_ops.key_equals(f.child, (f.child).key_columns, (f.child).key_columns),
             f.present, f.parent_table, f.equal), (f.child).view) AS q (n bigint);
    -- rows that are gone, and what refers to them
    left_behind := 0;
    IF f.parent_columns <@ (f.parent).key_columns THEN
      SELECT q.n INTO left_behind FROM run_ops.as_owner(owner,
        format('%s gone AS MATERIALIZED (SELECT key FROM s WHERE NOT EXISTS (SELECT FROM %s AS x WHERE %s)), '
               'x AS MATERIALIZED (SELECT %s FROM gone AS s JOIN %s AS x ON %s) '
               'SELECT count(*) FROM x WHERE NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
               settled, f.parent_table, run_ops.key_equals(f.parent, (f.parent).key_columns, (f.parent).key_columns),
               f.refers, f.child_table, run_ops.key_equals(f.parent, f.parent_columns, f.child_columns), f.parent_table, f.equal),
        (f.parent).view) AS q (n bigint);
    ELSIF EXISTS (SELECT FROM run_ops.settled_row AS s WHERE s.view = (f.parent).view) THEN
      SELECT q.n INTO left_behind FROM run_ops.as_owner(owner,
        format('SELECT count(*) FROM %s AS x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
               f.child_table, f.present, f.parent_table, f.equal)) AS q (n bigint);
    END IF;
    -- a row may be among both
    IF came + left_behind > 0 THEN
      lines := lines || format('%s rows of %s break foreign key %I', greatest(came, left_behind), f.child_table, f.conname);
    END IF;
  END LOOP;
  PERFORM run_ops.raise_orphans(lines) WHERE lines <> '{}';
END $$;
COMMENT ON FUNCTION run_ops.refuse_settled_orphans() IS
  'checks the foreign keys of the rows in run_ops.settled_row; writes must be closed';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_settled_orphans() FROM PUBLIC;

CREATE FUNCTION run_ops.key_equals(t run_ops.routed_table, key_columns name[], columns name[]) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(format('%s = (s.key::jsonb ->> %s)::%s', e.expression, array_position(t.key_columns, u.k) - 1, e.type), ' AND ')
    FROM unnest(key_columns, columns) AS u (k, c), LATERAL run_ops.plain_column(t.legacy, u.k, format('x.%I', u.c)) AS e
$$;
COMMENT ON FUNCTION run_ops.key_equals(run_ops.routed_table, name[], name[]) IS
  'a condition: columns of x are what the noted key s.key has for these of its columns';

CREATE FUNCTION run_ops.prepare_switch(going_forward boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF run_ops.doubt_in_copies(going_forward) IS NOT NULL THEN
    RETURN;
  END IF;
  PERFORM FROM run_ops.change_notes FOR UPDATE;  -- from here on no other session copies
  DELETE FROM run_ops.settled_row;
  FOR pass IN 1 .. 2 LOOP
    FOR batch IN 1 .. 1000 LOOP
      EXIT WHEN (SELECT c.done FROM run_ops.copy_noted(1000, going_forward, true) AS c);
    END LOOP;
    PERFORM run_ops.suspect_orphans() WHERE pass = 1 AND NOT going_forward;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.prepare_switch(boolean) IS
  'copies what is noted and checks foreign keys, so that little is left for when writes are closed';
REVOKE EXECUTE ON FUNCTION run_ops.prepare_switch(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.forget_changes(in_stores boolean DEFAULT true) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  n run_ops.change_notes;
BEGIN
  UPDATE run_ops.change_notes SET forward = NULL;
  FOR n IN SELECT * FROM run_ops.change_notes AS c WHERE c.place = 'legacy' OR in_stores LOOP
    BEGIN
      PERFORM run_ops.tell_place(n.place, 'DROP SCHEMA IF EXISTS run_ops_changes CASCADE');
      DELETE FROM run_ops.change_notes AS c WHERE c.place = n.place;
    EXCEPTION WHEN OTHERS THEN
      RAISE NOTICE 'store "%" goes on noting which rows change', n.place
        USING DETAIL = SQLERRM, HINT = 'Run there: DROP SCHEMA run_ops_changes CASCADE;';
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.forget_changes(boolean) IS
  'ends noting what changes; what is left in the stores, where this transaction may have read, is not believed any more and removed later';
REVOKE EXECUTE ON FUNCTION run_ops.forget_changes(boolean) FROM PUBLIC;
