
-- changed_rows: tracks which rows change while rows are copied between a store
-- and this database, so that only those are compared while writes are blocked.
--
-- A trigger inserts the key of every row that is written into a table of notes,
-- in the same transaction.  So after a complete pass only rows with a note can
-- differ.  A note is removed after the copy of its row has been committed here.
--
-- Some changes fire no trigger: a trigger that was disabled for a while,
-- TRUNCATE, a table that was rewritten or migrated, a server that was restored
-- or failed over.  Two values that are stored with the notes reveal each of
-- them: a token with the number of batches whose notes were removed, and a hash
-- of the tables and triggers.  If one of them is not as expected, all rows are
-- compared again.

CREATE TABLE run_ops.change_tracking (
  place      text PRIMARY KEY REFERENCES run_ops.store ON DELETE CASCADE,
  forward    boolean,
  token      text NOT NULL,
  definitions text NOT NULL,
  drained    bigint NOT NULL DEFAULT 0,
  ids        bigint[] NOT NULL DEFAULT '{}',
  drained_by xid8,
  error      text
);
COMMENT ON TABLE run_ops.change_tracking IS
  'the databases in which schema run_ops_changes collects the keys of changed rows while rows are copied';
COMMENT ON COLUMN run_ops.change_tracking.place IS 'the store whose changes are tracked; legacy: this database';
COMMENT ON COLUMN run_ops.change_tracking.forward IS 'true: for run_ops.move_strays(); false: for run_ops.repatriate(); NULL: no longer used, to be removed';
COMMENT ON COLUMN run_ops.change_tracking.token IS 'the token that schema run_ops_changes must still have';
COMMENT ON COLUMN run_ops.change_tracking.definitions IS 'a hash of the tracked tables and their triggers, from when tracking began';
COMMENT ON COLUMN run_ops.change_tracking.drained IS 'the number of batches of changed rows that were copied';
COMMENT ON COLUMN run_ops.change_tracking.ids IS 'the notes of the last batch, which are removed once the batch is committed';
COMMENT ON COLUMN run_ops.change_tracking.error IS 'why the last call of run_ops.repatriate() or run_ops.move_strays() could not start tracking';
COMMENT ON COLUMN run_ops.change_tracking.drained_by IS 'the transaction that copied the last batch';

CREATE TABLE run_ops.row_to_check (view regclass REFERENCES run_ops.routed_table ON UPDATE CASCADE ON DELETE CASCADE, key text);
COMMENT ON TABLE run_ops.row_to_check IS
  'the rows whose foreign keys are checked while writes are blocked; has rows only within the transaction that switches';
COMMENT ON COLUMN run_ops.row_to_check.view IS 'the routed table';
COMMENT ON COLUMN run_ops.row_to_check.key IS 'the key of the row';

-- A place is a store or this database.  The same SQL runs in both.

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
COMMENT ON FUNCTION run_ops.ask_place(text, text) IS 'runs a query in a store or in this database';
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
  'an SQL expression for the key of a row with this alias, as text. names maps local column names to other ones in the table that is read.';

CREATE FUNCTION run_ops.tracked_places(going_forward boolean) RETURNS SETOF text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT s.name FROM run_ops.store AS s, run_ops.split_state AS x
   -- while split_state.moving is true, only what changes here is moved
   WHERE s.server IS NULL OR NOT (going_forward AND x.moving) ORDER BY s.server IS NULL, s.name
$$;
COMMENT ON FUNCTION run_ops.tracked_places(boolean) IS 'the places in which changes are tracked while rows are copied, this database last';

CREATE FUNCTION run_ops.tracked_tables(place text, going_forward boolean)
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
  -- only the copying writes to staging tables, but one may have been created again
  SELECT t.view, run_ops.staging_table(t, s.store)::text, NULL, NULL, false
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
   WHERE place = 'legacy' AND t.routing = 'store' AND NOT going_forward
$$;
COMMENT ON FUNCTION run_ops.tracked_tables(text, boolean) IS
  'the tables of a place from which and to which rows are copied, and whether they get a trigger';
REVOKE EXECUTE ON FUNCTION run_ops.tracked_tables(text, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.tracking_commands(place text, going_forward boolean, token text) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t        record;
  commands text := run_ops.renew_schema('run_ops_changes') || format(
    '; COMMENT ON SCHEMA run_ops_changes IS %L; '
    'CREATE TABLE run_ops_changes.note (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, relation bigint NOT NULL, key text NOT NULL); '
    'COMMENT ON TABLE run_ops_changes.note IS ''keys of rows that have changed while run_ops_split copies rows''', token || ' 0');
BEGIN
  FOR t IN SELECT * FROM run_ops.tracked_tables(place, going_forward) AS n WHERE n.has_trigger LOOP
    -- SECURITY DEFINER: a role that writes to the table need not have privileges
    -- on the notes.  The function must belong to the owner of the table, who may
    -- have created the types and casts of the key; so its owner is changed if
    -- the role that creates it is a member of that owner.  The settings make the
    -- text of a key the same for all sessions.
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
             CASE WHEN t.route_column IS NULL THEN 'true' ELSE 'NOT ' || run_ops.in_store(run_ops.routed(t.view), format('r.%I', t.route_column), 'legacy') END,
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
      -- otherwise every write would fail after DROP EXTENSION
      commands := commands || format('; ALTER TRIGGER run_ops_changes ON %s DEPENDS ON EXTENSION run_ops_split; '
                                     'ALTER FUNCTION run_ops_changes.%I() DEPENDS ON EXTENSION run_ops_split; '
                                     'GRANT USAGE ON SCHEMA run_ops TO %s', t.relation, 'note_' || t.view::oid,
                                     (SELECT c.relowner::regrole FROM pg_class AS c WHERE c.oid = t.relation::regclass));
    END IF;
    -- On the side from which rows are copied, the trigger must fire in every
    -- session.  On the other side it must not fire for the copying itself, which
    -- runs with session_replication_role = replica.
    IF (place = 'legacy') = going_forward THEN
      commands := commands || format('; ALTER TABLE %s ENABLE ALWAYS TRIGGER run_ops_changes', t.relation);
    END IF;
    -- A partition has the triggers of its table, but a child that inherits has not.
    commands := commands || format('; DO %L', format($q$
        DECLARE
          child pg_catalog.regclass;
        BEGIN
          FOR child IN
            WITH RECURSIVE heir (oid) AS (
              SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent OPERATOR(pg_catalog.=) %1$L::pg_catalog.regclass
              UNION SELECT i.inhrelid FROM heir JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) heir.oid)
            SELECT c.oid FROM heir JOIN pg_catalog.pg_class AS c USING (oid) WHERE NOT c.relispartition
          LOOP
            EXECUTE pg_catalog.format('CREATE TRIGGER run_ops_changes AFTER INSERT OR UPDATE OR DELETE ON %%s FOR EACH ROW EXECUTE FUNCTION run_ops_changes.%%I()', child, %2$L);
            IF %3$L THEN
              EXECUTE pg_catalog.format('ALTER TABLE %%s ENABLE ALWAYS TRIGGER run_ops_changes', child);
            END IF;
            IF %4$L THEN
              EXECUTE pg_catalog.format('ALTER TRIGGER run_ops_changes ON %%s DEPENDS ON EXTENSION run_ops_split', child);
            END IF;
          END LOOP;
        END $q$, t.relation, 'note_' || t.view::oid, (place = 'legacy') = going_forward, place = 'legacy'));
  END LOOP;
  RETURN commands;
END $$;
COMMENT ON FUNCTION run_ops.tracking_commands(text, boolean, text) IS
  'the SQL commands that create the triggers which track changed rows in a place';
REVOKE EXECUTE ON FUNCTION run_ops.tracking_commands(text, boolean, text) FROM PUBLIC;

CREATE FUNCTION run_ops.tracked_definitions(place text, going_forward boolean) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- xmin shows that a trigger was disabled and enabled again.  The name of the
  -- WAL file begins with the timeline, which changes when a server is restored
  -- or a standby is promoted.
  SELECT a FROM run_ops.ask_place(place, format($q$
    SELECT obj_description(to_regnamespace('run_ops_changes')::oid, 'pg_namespace') AS token,
           left(pg_walfile_name(pg_current_wal_lsn()), 8) || md5(string_agg(concat_ws(' ', c.oid, pg_relation_filenode(c.oid),
             (SELECT string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.attmissingval), ',' ORDER BY a.attnum)
                FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
             (SELECT string_agg(concat_ws(' ', g.oid, g.xmin, g.tgenabled, f.oid, f.xmin), ',')
                FROM pg_trigger AS g JOIN pg_proc AS f ON f.oid = g.tgfoid WHERE g.tgrelid = c.oid AND g.tgname = 'run_ops_changes')),
             E'\n' ORDER BY c.oid)) AS definitions
      FROM (WITH RECURSIVE tree (oid) AS (
              SELECT to_regclass(u.name)::oid FROM unnest(%L::text[]) AS u (name)
              UNION SELECT i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid)
            SELECT tree.oid FROM tree WHERE tree.oid IS NOT NULL) AS c $q$,
    ARRAY(SELECT n.relation FROM run_ops.tracked_tables(place, going_forward) AS n ORDER BY 1) || 'run_ops_changes.note'::text)) AS a
$$;
COMMENT ON FUNCTION run_ops.tracked_definitions(text, boolean) IS
  'the token of a place, and a hash of the definitions of its tracked tables and their triggers';
REVOKE EXECUTE ON FUNCTION run_ops.tracked_definitions(text, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.start_tracking(going_forward boolean) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  place text;
  token text := gen_random_uuid();
  -- once it has failed, the next calls do not keep the copying waiting for it
  attempts int := CASE WHEN EXISTS (SELECT FROM run_ops.change_tracking AS n WHERE n.error IS NOT NULL) THEN 1
                       ELSE run_ops.setting('swap_attempts')::int END;
BEGIN
  DELETE FROM run_ops.change_tracking;
  -- this database last, because its locks are held until the transaction ends
  FOR place IN SELECT * FROM run_ops.tracked_places(going_forward) LOOP
    PERFORM run_ops.in_attempts(format('SELECT run_ops.tell_place(%L, %L)', place, run_ops.tracking_commands(place, going_forward, token)), attempts);
    INSERT INTO run_ops.change_tracking (place, forward, token, definitions)
      VALUES (place, going_forward, token, run_ops.tracked_definitions(place, going_forward) ->> 'definitions');
  END LOOP;
  RETURN true;
EXCEPTION WHEN OTHERS THEN
  RAISE NOTICE 'cannot track changes in store "%": the final switch will compare all rows and block writes for longer', place
    USING DETAIL = SQLERRM, HINT = 'Each call tries it again. Copying goes on, and begins again from the start once it succeeds.';
  INSERT INTO run_ops.change_tracking (place, token, definitions, error) VALUES (place, '', '', SQLERRM)
  ON CONFLICT ON CONSTRAINT change_tracking_pkey DO UPDATE SET forward = NULL, error = excluded.error;
  RETURN false;
END $$;
COMMENT ON FUNCTION run_ops.start_tracking(boolean) IS
  'starts tracking changed rows in every store and here; if this fails, remembers the reason, raises a notice and returns false';
REVOKE EXECUTE ON FUNCTION run_ops.start_tracking(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.tracking_gap(going_forward boolean) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  p     record;
  found_place jsonb;
  gap   text;
BEGIN
  PERFORM run_ops.ask_alike(ARRAY(SELECT s FROM run_ops.tracked_places(going_forward) AS s WHERE s <> 'legacy'));
  FOR p IN SELECT s.name, n.* FROM run_ops.tracked_places(going_forward) AS s (name)
             LEFT JOIN run_ops.change_tracking AS n ON n.place = s.name AND n.forward = going_forward LOOP
    IF p.token IS NULL THEN
      gap := format('Changes in store "%s" were not tracked%s.', p.name,
        (SELECT ': ' || n.error FROM run_ops.change_tracking AS n WHERE n.place = p.name));
      EXIT;
    END IF;
    found_place := run_ops.tracked_definitions(p.name, going_forward);
    IF found_place ->> 'token' IS NULL OR found_place ->> 'token' NOT IN (concat_ws(' ', p.token, p.drained), concat_ws(' ', p.token, p.drained - 1)) THEN
      gap := format('The tracking of changes in store "%s" was removed or replaced.', p.name);
    ELSIF found_place ->> 'definitions' IS DISTINCT FROM p.definitions THEN
      gap := format('In store "%s", a table or its trigger was changed, or the server was restored or failed over.', p.name);
    END IF;
    EXIT WHEN gap IS NOT NULL;
  END LOOP;
  PERFORM run_ops.ask_alike('{}');
  RETURN gap;
END $$;
COMMENT ON FUNCTION run_ops.tracking_gap(boolean) IS
  'why not all changed rows may have been tracked; NULL if all were';
REVOKE EXECUTE ON FUNCTION run_ops.tracking_gap(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.reason_to_compare_all(going_forward boolean) RETURNS text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN NOT EXISTS (SELECT FROM run_ops.change_tracking AS n WHERE n.error IS NOT NULL)
               AND EXISTS (SELECT FROM run_ops.routed_store AS r WHERE NOT EXISTS (
                SELECT FROM run_ops.copy_progress AS c WHERE (c.view, c.store, c.forward, c.finished) = (r.view, r.store, going_forward, true)))
              THEN 'Not all rows were copied before the switch.'
              ELSE run_ops.tracking_gap(going_forward) END
$$;
COMMENT ON FUNCTION run_ops.reason_to_compare_all(boolean) IS
  'why the switch must compare all rows; NULL if only the tracked changes can differ from their copies';
REVOKE EXECUTE ON FUNCTION run_ops.reason_to_compare_all(boolean) FROM PUBLIC;

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
COMMENT ON FUNCTION run_ops.only_keys(run_ops.mirror, text[]) IS 'restricts the SQL fragments to the rows with these keys';

CREATE FUNCTION run_ops.drain_notes(batch_size int, going_forward boolean, switching boolean, OUT drained int, OUT most int, OUT unsettled jsonb[])
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  n     run_ops.change_tracking;
  r     record;
  t     run_ops.routed_table;
  store text;
  differing text[];
  taken bigint[];
  notes jsonb;  -- of each place, {place: [note, ...]}
BEGIN
  drained := 0;
  most := 0;
  unsettled := '{}';
  -- Reads the notes of all stores before the first row, so that a row is never
  -- older than its note.
  PERFORM FROM run_ops.change_tracking AS c ORDER BY c.place FOR UPDATE;
  notes := (
    WITH question AS (SELECT c.place, format('SELECT * FROM run_ops_changes.note AS n '
                        'WHERE NOT EXISTS (SELECT FROM unnest(%L::bigint[]) AS d WHERE d = n.id) ORDER BY id LIMIT %s', c.ids, batch_size) AS query
                        FROM run_ops.change_tracking AS c)
    SELECT jsonb_object_agg(a.place, a.notes)
      FROM (SELECT s.store, jsonb_agg(s.answer)
              FROM (SELECT array_agg(q.place), array_agg(q.query) FROM question AS q WHERE q.place <> 'legacy') AS q (places, queries),
                   LATERAL run_ops.ask_stores(q.places, q.queries) AS s GROUP BY s.store
            UNION ALL
            SELECT q.place, jsonb_agg(l) FROM question AS q, LATERAL run_ops.ask_place(q.place, q.query) AS l WHERE q.place = 'legacy' GROUP BY q.place) AS a (place, notes));
  FOR n IN SELECT * FROM run_ops.change_tracking AS c ORDER BY c.place FOR UPDATE LOOP
    -- removes the notes of rows that an earlier transaction has copied
    IF n.ids <> '{}' AND n.drained_by <> pg_current_xact_id() THEN
      PERFORM run_ops.tell_place(n.place, format('DELETE FROM run_ops_changes.note WHERE id = ANY (%L); COMMENT ON SCHEMA run_ops_changes IS %L',
                                                 n.ids, concat_ws(' ', n.token, n.drained)));
      n.ids := '{}';
    END IF;
    taken := '{}';
    FOR r IN
      SELECT (a ->> 'relation')::oid::regclass AS view, array_agg(DISTINCT a ->> 'key') AS keys, array_agg((a ->> 'id')::bigint) AS ids
        FROM jsonb_array_elements(notes -> n.place) AS a
       GROUP BY 1
    LOOP
      taken := taken || r.ids;
      t := run_ops.routed(r.view);
      FOR store IN SELECT s.store FROM run_ops.routed_store AS s WHERE s.view = r.view AND n.place IN ('legacy', s.store) ORDER BY s.store LOOP
        IF NOT run_ops.sync_range(run_ops.only_keys(run_ops.mirror_of(t, store, going_forward), r.keys), NULL, NULL, going_forward) THEN
          differing := CASE WHEN going_forward AND t.routing = 'store' THEN r.keys
            ELSE ARRAY(SELECT * FROM run_ops.unequal_keys(run_ops.only_keys(run_ops.mirror_of(t, store, going_forward), r.keys), NULL, NULL, going_forward)) END;
          unsettled := unsettled || CASE WHEN differing <> '{}' THEN ARRAY[jsonb_build_object('view', r.view::oid, 'store', store, 'keys', differing)] END;
        END IF;
      END LOOP;
      INSERT INTO run_ops.row_to_check SELECT r.view, k FROM unnest(r.keys) AS k WHERE switching;
    END LOOP;
    IF taken <> '{}' THEN
      n.drained := n.drained + (n.drained_by IS DISTINCT FROM pg_current_xact_id())::int;
      n.drained_by := pg_current_xact_id();
    END IF;
    UPDATE run_ops.change_tracking AS c SET ids = n.ids || taken, drained = n.drained, drained_by = n.drained_by WHERE c.place = n.place;
    drained := drained + cardinality(taken);
    most := greatest(most, cardinality(taken));
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.drain_notes(int, boolean, boolean) IS
  'compares and copies the changed rows of one batch of notes from every place; returns the number of notes, the largest number of one place, and the rows that still differ';
REVOKE EXECUTE ON FUNCTION run_ops.drain_notes(int, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.copy_changed_rows(batch_size int, going_forward boolean, switching boolean, OUT copied int, OUT done boolean)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  batch record;
  again bigint;
BEGIN
  SELECT * INTO batch FROM run_ops.drain_notes(batch_size, going_forward, switching);
  -- These rows have changed again, or a unique value prevented the copy, so they
  -- get new notes.
  INSERT INTO run_ops_changes.note (relation, key)
  SELECT (u ->> 'view')::bigint, k FROM unnest(batch.unsettled) AS u, jsonb_array_elements_text(u -> 'keys') AS k;
  GET DIAGNOSTICS again = ROW_COUNT;
  copied := greatest(batch.drained - again, 0);
  -- rows that cannot be copied now come again with each batch
  done := batch.most < batch_size OR copied = 0;
END $$;
COMMENT ON FUNCTION run_ops.copy_changed_rows(int, boolean, boolean) IS
  'copies one batch of changed rows while the application runs; done is true if fewer than a batch were left, or none could be copied';
REVOKE EXECUTE ON FUNCTION run_ops.copy_changed_rows(int, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.finish_changed_rows(going_forward boolean) RETURNS void
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
  -- A unique value of an older row may have prevented a copy.  No older row is
  -- left now, so these rows are copied once more.
  FOREACH u IN ARRAY again LOOP
    IF NOT run_ops.sync_range(
             run_ops.only_keys(run_ops.mirror_of(run_ops.routed((u ->> 'view')::oid), u ->> 'store', going_forward),
                               ARRAY(SELECT jsonb_array_elements_text(u -> 'keys'))), NULL, NULL, going_forward) THEN
      RAISE EXCEPTION 'rows of % differ between this database and store "%"', (u ->> 'view')::oid::regclass, u ->> 'store'
        USING ERRCODE = 'data_exception', DETAIL = format('Rows among these keys still differ after copying: %s.', left(u ->> 'keys', 1000)),
              HINT = 'Another row of this database may have a unique value of theirs: SELECT * FROM run_ops.repatriation_conflicts();';
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.finish_changed_rows(boolean) IS
  'compares and copies all changed rows that are not copied yet; writes must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.finish_changed_rows(boolean) FROM PUBLIC;

-- Foreign keys.  Their triggers do not fire for copied rows, but for all other
-- writes to the local tables.  So the foreign keys are checked in full while
-- the application runs.  While writes are blocked they are checked once more,
-- for rows that violated one before, because not all rows were copied then, and
-- for rows that were copied since.

CREATE FUNCTION run_ops.foreign_keys()
  RETURNS TABLE (conname name, child run_ops.routed_table, parent run_ops.routed_table, child_table regclass, parent_table regclass,
                 refers text, present text, equal text, parent_columns name[], child_columns name[])
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT f.conname, t, p, f.conrelid::regclass, f.confrelid::regclass,
         string_agg(format('x.%I', c.attname), ', '), string_agg(format('x.%I IS NOT NULL', c.attname), ' AND '),
         -- the equality operator of the foreign key
         string_agg(format('y.%I OPERATOR(%I.%s) x.%I', r.attname, n.nspname, o.oprname, c.attname), ' AND '),
         array_agg(r.attname ORDER BY k.ord), array_agg(c.attname ORDER BY k.ord)
    FROM pg_constraint AS f JOIN run_ops.routed_table AS t ON t.legacy = f.conrelid
    LEFT JOIN run_ops.routed_table AS p ON p.legacy = f.confrelid,
         unnest(f.conkey, f.confkey, f.conpfeqop) WITH ORDINALITY AS k (child, parent, operator, ord)
    JOIN pg_attribute AS c ON c.attnum = k.child
    JOIN pg_attribute AS r ON r.attnum = k.parent
    JOIN pg_operator AS o ON o.oid = k.operator JOIN pg_namespace AS n ON n.oid = o.oprnamespace
   -- conenforced exists from PostgreSQL 18 on
   WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true) AND c.attrelid = f.conrelid AND r.attrelid = f.confrelid
   GROUP BY f.oid, f.conname, t, p, f.conrelid, f.confrelid
$$;
COMMENT ON FUNCTION run_ops.foreign_keys() IS
  'the enforced foreign keys of the local tables, with SQL conditions on x, the referencing row, and y, the referenced row';

CREATE FUNCTION run_ops.rows_at_home(t run_ops.routed_table, relation regclass) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('(SELECT %s FROM %s%s)', run_ops.column_list(relation, ''), relation,
    (SELECT string_agg(format(' UNION ALL SELECT %s FROM run_ops_repatriated.%I', run_ops.column_list(relation, ''), relation::oid || '_' || s.store), '')
       FROM run_ops.routed_store AS s WHERE s.view = t.view AND to_regclass(format('run_ops_repatriated.%I', relation::oid || '_' || s.store)) IS NOT NULL))
$$;
COMMENT ON FUNCTION run_ops.rows_at_home(run_ops.routed_table, regclass) IS
  'a subquery for the rows of a local table and of its staging tables';

CREATE FUNCTION run_ops.record_orphans() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  f record;
  n bigint;
BEGIN
  FOR f IN SELECT * FROM run_ops.foreign_keys() LOOP
    INSERT INTO run_ops.row_to_check SELECT (f.child).view, q.key
      FROM run_ops.as_owner(run_ops.weaker_owner(f.child_table, f.parent_table),
             format('SELECT %s FROM %s AS x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s) LIMIT 10000',
                    run_ops.key_expression(f.child, 'x'), run_ops.rows_at_home(f.child, f.child_table), f.present,
                    run_ops.rows_at_home(f.parent, f.parent_table), f.equal)) AS q (key text);
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n = 10000 THEN
      PERFORM run_ops.raise_orphans(ARRAY[format('%s or more rows of %s violate foreign key %I', n, f.child_table, f.conname)]);
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.record_orphans() IS
  'checks all foreign keys while the application runs, and adds rows that violate one to run_ops.row_to_check';
REVOKE EXECUTE ON FUNCTION run_ops.record_orphans() FROM PUBLIC;

-- Few rows are looked up in large tables, but the planner does not know that
-- they are few.  So MATERIALIZED fixes the order of the steps, and
-- enable_seqscan = off prevents reading a whole table that has an index.
CREATE FUNCTION run_ops.refuse_remaining_orphans() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $$
DECLARE
  f     record;
  came  bigint;
  left_behind bigint;
  lines text[] := '{}';
  owner regclass;
  settled text := 'WITH s AS MATERIALIZED (SELECT DISTINCT key FROM run_ops.row_to_check WHERE view = $1), ';
BEGIN
  FOR f IN SELECT * FROM run_ops.foreign_keys() LOOP
    owner := run_ops.weaker_owner(f.child_table, f.parent_table);
    -- the rows to check, as referencing rows
    SELECT q.n INTO came FROM run_ops.as_owner(owner,
      format('%s x AS MATERIALIZED (SELECT %s FROM s JOIN %s AS x ON %s) '
             'SELECT count(*) FROM x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
             settled, f.refers, f.child_table, run_ops.key_equals(f.child, (f.child).key_columns, (f.child).key_columns),
             f.present, f.parent_table, f.equal), (f.child).view) AS q (n bigint);
    -- deleted rows among those to check, and the rows that still refer to them
    left_behind := 0;
    IF f.parent_columns <@ (f.parent).key_columns THEN
      SELECT q.n INTO left_behind FROM run_ops.as_owner(owner,
        format('%s gone AS MATERIALIZED (SELECT key FROM s WHERE NOT EXISTS (SELECT FROM %s AS x WHERE %s)), '
               'x AS MATERIALIZED (SELECT %s FROM gone AS s JOIN %s AS x ON %s) '
               'SELECT count(*) FROM x WHERE NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
               settled, f.parent_table, run_ops.key_equals(f.parent, (f.parent).key_columns, (f.parent).key_columns),
               f.refers, f.child_table, run_ops.key_equals(f.parent, f.parent_columns, f.child_columns), f.parent_table, f.equal),
        (f.parent).view) AS q (n bigint);
    ELSIF EXISTS (SELECT FROM run_ops.row_to_check AS s WHERE s.view = (f.parent).view) THEN
      SELECT q.n INTO left_behind FROM run_ops.as_owner(owner,
        format('SELECT count(*) FROM %s AS x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
               f.child_table, f.present, f.parent_table, f.equal)) AS q (n bigint);
    END IF;
    -- greatest(), because both counts may include the same row
    IF came + left_behind > 0 THEN
      lines := lines || format('%s rows of %s violate foreign key %I', greatest(came, left_behind), f.child_table, f.conname);
    END IF;
  END LOOP;
  PERFORM run_ops.raise_orphans(lines) WHERE lines <> '{}';
END $$;
COMMENT ON FUNCTION run_ops.refuse_remaining_orphans() IS
  'raises an error if the rows in run_ops.row_to_check, or rows that refer to them, violate a foreign key; writes must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_remaining_orphans() FROM PUBLIC;

CREATE FUNCTION run_ops.key_equals(t run_ops.routed_table, key_columns name[], columns name[]) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(format('%s = (s.key::jsonb ->> %s)::%s', e.expression, array_position(t.key_columns, u.k) - 1, e.type), ' AND ')
    FROM unnest(key_columns, columns) AS u (k, c), LATERAL run_ops.plain_column(t.legacy, u.k, format('x.%I', u.c)) AS e
$$;
COMMENT ON FUNCTION run_ops.key_equals(run_ops.routed_table, name[], name[]) IS
  'an SQL condition: the columns of x equal these key columns in the key s.key';

CREATE FUNCTION run_ops.prepare_switch(going_forward boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF run_ops.reason_to_compare_all(going_forward) IS NOT NULL THEN
    RETURN;
  END IF;
  PERFORM FROM run_ops.change_tracking FOR UPDATE;  -- no other session copies from here on
  DELETE FROM run_ops.row_to_check;
  FOR pass IN 1 .. 2 LOOP
    FOR batch IN 1 .. 1000 LOOP
      EXIT WHEN (SELECT c.done FROM run_ops.copy_changed_rows(1000, going_forward, true) AS c);
    END LOOP;
    PERFORM run_ops.record_orphans() WHERE pass = 1 AND NOT going_forward;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.prepare_switch(boolean) IS
  'copies changed rows and checks foreign keys before the switch, so that little is left to do while writes are blocked';
REVOKE EXECUTE ON FUNCTION run_ops.prepare_switch(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.stop_tracking(in_stores boolean DEFAULT true) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  n run_ops.change_tracking;
BEGIN
  UPDATE run_ops.change_tracking SET forward = NULL;
  FOR n IN SELECT * FROM run_ops.change_tracking AS c WHERE c.place = 'legacy' OR in_stores LOOP
    BEGIN
      PERFORM run_ops.tell_place(n.place, 'DROP SCHEMA IF EXISTS run_ops_changes CASCADE');
      DELETE FROM run_ops.change_tracking AS c WHERE c.place = n.place;
    EXCEPTION WHEN OTHERS THEN
      RAISE NOTICE 'cannot stop tracking changes in store "%"', n.place
        USING DETAIL = SQLERRM, HINT = 'Run in the store: DROP SCHEMA run_ops_changes CASCADE;';
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.stop_tracking(boolean) IS
  'stops tracking changed rows. in_stores => false stops it only here; the notes in the stores are ignored from then on and removed later.';
REVOKE EXECUTE ON FUNCTION run_ops.stop_tracking(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.drop_restored_work() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
  staging regclass;
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.change_tracking AS c WHERE c.place = 'legacy') THEN
    DROP SCHEMA IF EXISTS run_ops_changes CASCADE;
  END IF;
  FOR staging IN
    SELECT c.oid FROM pg_class AS c
     WHERE c.relnamespace = to_regnamespace('run_ops_repatriated') AND c.relkind = 'r'
       AND NOT EXISTS (SELECT FROM run_ops.routed_table AS t WHERE starts_with(c.relname, t.legacy::oid || '_'))
  LOOP
    EXECUTE format('DROP TABLE %s', staging);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.drop_restored_work() IS
  'drops the triggers that track changes, and the staging tables, that a dump has brought from its original without the state that belongs to them';
REVOKE EXECUTE ON FUNCTION run_ops.drop_restored_work() FROM PUBLIC;
