
-- split_mode: switching split on and off, and the audit log.

CREATE TABLE run_ops.audit_log (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  role   name NOT NULL DEFAULT SESSION_USER,
  action text NOT NULL,
  detail jsonb NOT NULL
);
COMMENT ON TABLE run_ops.audit_log IS 'every change of split mode, of its configuration, of acknowledgements and of the shards for new ids';
COMMENT ON COLUMN run_ops.audit_log.id IS 'the order of the rows';
COMMENT ON COLUMN run_ops.audit_log.at IS 'when the action was done';
COMMENT ON COLUMN run_ops.audit_log.role IS 'who did it: the session user';
COMMENT ON COLUMN run_ops.audit_log.action IS 'configure, acknowledge, withdraw acknowledgement, trust standby, set mint shards, set key rule, move strays, enable split, remove leftovers or disable split';
COMMENT ON COLUMN run_ops.audit_log.detail IS 'the arguments or results of the action';
COMMENT ON SEQUENCE run_ops.audit_log_id_seq IS 'the ids of run_ops.audit_log';

CREATE FUNCTION run_ops.audit(action text, detail jsonb) RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO run_ops.audit_log (action, detail) VALUES (action, detail)
$$;
COMMENT ON FUNCTION run_ops.audit(text, jsonb) IS 'adds a row to run_ops.audit_log';
REVOKE EXECUTE ON FUNCTION run_ops.audit(text, jsonb) FROM PUBLIC;

CREATE TYPE run_ops.gate AS (gate text, object text, ok boolean, detail text, hint text);
COMMENT ON TYPE run_ops.gate IS
  'the result of one gate, a condition for split mode: ok is NULL if it could not be checked, and then the gate fails as well';

CREATE TABLE run_ops.acknowledgement (
  gate   text,
  object text,
  reason text NOT NULL,
  role   name NOT NULL DEFAULT SESSION_USER,
  at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
  PRIMARY KEY (gate, object)
);
COMMENT ON TABLE run_ops.acknowledgement IS
  'the failing gates that an operator has accepted; pg_dump dumps them';
COMMENT ON COLUMN run_ops.acknowledgement.gate IS 'the gate, as in run_ops.check_split()';
COMMENT ON COLUMN run_ops.acknowledgement.object IS 'the object, as in run_ops.check_split()';
COMMENT ON COLUMN run_ops.acknowledgement.reason IS 'why it was accepted';
COMMENT ON COLUMN run_ops.acknowledgement.role IS 'who accepted it';
COMMENT ON COLUMN run_ops.acknowledgement.at IS 'when it was accepted';
SELECT pg_catalog.pg_extension_config_dump('run_ops.acknowledgement', '');
GRANT SELECT ON run_ops.acknowledgement TO PUBLIC;

-- Why functions from here to the end of the file are SECURITY DEFINER: only the
-- owner of the views can replace them, and only its user mapping gives access to
-- the stores.  A role with EXECUTE on these functions can change the mode
-- without having either.

CREATE FUNCTION run_ops.bind_server() RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  UPDATE run_ops.split_state SET identities = ARRAY[run_ops.server_identity()], enabled = false
   WHERE run_ops.server_identity() <> ALL (identities)
$$;
COMMENT ON FUNCTION run_ops.bind_server() IS
  'makes this server the only one that may use the stores, and sets split off, unless the server may already use them';
REVOKE EXECUTE ON FUNCTION run_ops.bind_server() FROM PUBLIC;

CREATE FUNCTION run_ops.trust_standby(identity text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF identity IS NULL OR identity !~ '^[0-9]+/[0-9]+@.*#[0-9a-f]+$' THEN
    RAISE EXCEPTION 'invalid server identity %', coalesce(quote_literal(identity), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Run on the standby: SELECT run_ops.server_identity();';
  END IF;
  UPDATE run_ops.split_state SET identities = identities || identity
   WHERE identity <> ALL (identities);
  PERFORM run_ops.audit('trust standby', jsonb_build_object('identity', identity));
END $$;
COMMENT ON FUNCTION run_ops.trust_standby(text) IS
  'lets a standby read the stores, and use them after its promotion; in any other copy of this database split stays suspended';

CREATE FUNCTION run_ops.acknowledge(gate text, object text, reason text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  IF gate IS NULL OR gate <> ALL (run_ops.acknowledgeable_gates()) THEN
    RAISE EXCEPTION 'gate % cannot be acknowledged', coalesce(quote_literal(gate), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = format('These gates can be acknowledged: %s.', array_to_string(run_ops.acknowledgeable_gates(), ', '));
  END IF;
  INSERT INTO run_ops.acknowledgement AS a VALUES (gate, object, reason)
  ON CONFLICT ON CONSTRAINT acknowledgement_pkey DO UPDATE
     SET reason = excluded.reason, role = excluded.role, at = excluded.at;
  PERFORM run_ops.audit('acknowledge', jsonb_build_object('gate', gate, 'object', object, 'reason', reason));
END $$;
COMMENT ON FUNCTION run_ops.acknowledge(text, text, text) IS
  'accepts that a gate fails for one object; gate and object are those of run_ops.check_split()';

CREATE FUNCTION run_ops.withdraw_acknowledgement(gate text, object text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  DELETE FROM run_ops.acknowledgement AS a WHERE a.gate = gate AND a.object = object;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'gate % is not acknowledged for %', quote_literal(gate), quote_literal(object)
      USING ERRCODE = 'undefined_object', HINT = 'SELECT gate, object FROM run_ops.acknowledgement;';
  END IF;
  PERFORM run_ops.audit('withdraw acknowledgement', jsonb_build_object('gate', gate, 'object', object));
END $$;
COMMENT ON FUNCTION run_ops.withdraw_acknowledgement(text, text) IS
  'removes an acknowledgement, so that run_ops.check_split() reports the gate as failing again; does not change split mode';

CREATE FUNCTION run_ops.configure_split(opted_in boolean DEFAULT NULL, native_realtime boolean DEFAULT NULL)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  IF NOT opted_in THEN
    PERFORM run_ops.refuse_while_split('opt out');
  END IF;
  UPDATE run_ops.split_state AS s
     SET opted_in = coalesce(opted_in, s.opted_in),
         native_realtime = coalesce(native_realtime, s.native_realtime);
  PERFORM run_ops.refuse_local_readers();
  PERFORM run_ops.audit('configure', jsonb_strip_nulls(
    jsonb_build_object('opted_in', opted_in, 'native_realtime', native_realtime)));
END $$;
COMMENT ON FUNCTION run_ops.configure_split(boolean, boolean) IS
  'sets whether split mode is opted in to, and whether realtime readers see the rows of every store; NULL leaves a value unchanged';

-- The gate "realtime" is checked when split is enabled.  The next functions
-- check it while split is on: no reader may be added that follows this
-- database only.

CREATE FUNCTION run_ops.refuse_local_readers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  blind run_ops.gate;
BEGIN
  SELECT a.* INTO blind FROM run_ops.realtime_gates() AS g, run_ops.acknowledged(g) AS a
   WHERE a.ok IS NOT TRUE LIMIT 1;
  IF FOUND AND run_ops.split_enabled() THEN
    RAISE EXCEPTION '% would not include the rows of the stores while split is on', blind.object
      USING ERRCODE = 'object_in_use', DETAIL = upper(left(blind.detail, 1)) || substr(blind.detail, 2) || '.', HINT = blind.hint;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_local_readers() IS
  'raises an error if split is on and a realtime reader follows this database only, unless an operator has acknowledged it';

-- SECURITY DEFINER: a role that creates a publication need not have privileges
-- on schema run_ops.
CREATE FUNCTION run_ops.guard_publications() RETURNS event_trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.refuse_local_readers();
END $$;
COMMENT ON FUNCTION run_ops.guard_publications() IS
  'event trigger: refuses a publication of a routed table while split is on, unless an operator has acknowledged it';
CREATE EVENT TRIGGER run_ops_guard_publications ON ddl_command_end
  WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
  EXECUTE FUNCTION run_ops.guard_publications();
COMMENT ON EVENT TRIGGER run_ops_guard_publications IS
  'refuses publications of routed tables while split is on; replication slots that need no publication are reported by run_ops.check_split()';

-- Switching -------------------------------------------------------------------

CREATE FUNCTION run_ops.block_writes() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  views text := (SELECT string_agg(t.view::text, ', ' ORDER BY t.view) FROM run_ops.routed_table AS t WHERE run_ops.is_relation(t.view, '{v}'));
BEGIN
  IF views IS NOT NULL THEN
    -- LOCK TABLE on a view also locks the local table of the view
    EXECUTE 'LOCK TABLE ' || views || ' IN SHARE MODE';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.block_writes() IS
  'waits for transactions that write to a routed table, and blocks writes to all of them until the transaction ends; does not block reads';
REVOKE EXECUTE ON FUNCTION run_ops.block_writes() FROM PUBLIC;

CREATE FUNCTION run_ops.attempt_switch(split boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  moved boolean := split AND (SELECT s.superseded OR s.moving FROM run_ops.split_state AS s);
BEGIN
  PERFORM run_ops.block_writes();
  -- A crash must not undo the switch: clients rely on it once it is committed.
  PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
  IF moved THEN
    PERFORM run_ops.finish_move_to_stores();
  ELSIF split THEN
    PERFORM run_ops.refuse_failing_gates('cannot enable split mode',
      ARRAY(SELECT g FROM run_ops.local_stray_gates() AS g));
  ELSIF repatriated THEN
    PERFORM run_ops.finish_repatriation();
  END IF;
  UPDATE run_ops.split_state
     SET enabled = split, superseded = NOT split AND (repatriated OR superseded), moving = NOT split AND NOT repatriated AND moving,
         changed_at = clock_timestamp();
  PERFORM run_ops.forget_leftovers() WHERE NOT split;
  PERFORM run_ops.swap_views(split);
  PERFORM run_ops.drop_restored_work();
  IF moved OR repatriated THEN
    PERFORM run_ops.stop_tracking(split);
    DELETE FROM run_ops.row_to_check;
    DELETE FROM run_ops.copy_progress;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.attempt_switch(boolean, boolean) IS
  'one attempt to switch: blocks writes, moves the rows that are not moved yet, and replaces the views';
REVOKE EXECUTE ON FUNCTION run_ops.attempt_switch(boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.switch_split(split boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  attempts int;
  seconds  numeric;
BEGIN
  SELECT * INTO attempts, seconds
    FROM run_ops.in_attempts(format('SELECT run_ops.attempt_switch(%L, %L)', split, repatriated));
  PERFORM run_ops.audit(CASE WHEN split THEN 'enable split' ELSE 'disable split' END,
    jsonb_build_object('repatriated', repatriated, 'attempt', attempts, 'locked_ms', round(seconds * 1000, 1)));
END $$;
COMMENT ON FUNCTION run_ops.switch_split(boolean, boolean) IS
  'switches split on or off in several attempts, each of which waits only briefly for its locks, and adds a row to the audit log';
REVOKE EXECUTE ON FUNCTION run_ops.switch_split(boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_failing_gates(what text, gates run_ops.gate[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  failing text := (SELECT string_agg(concat_ws(' ', g.gate, nullif(g.object, '')) || ': ' || g.detail, E'\n')
                     FROM unnest(gates) AS g WHERE g.ok IS NOT TRUE);
BEGIN
  IF failing IS NOT NULL THEN
    RAISE EXCEPTION '%', what
      USING ERRCODE = 'RO003', DETAIL = failing,
            HINT = 'SELECT * FROM run_ops.check_split() WHERE ok IS NOT TRUE;';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_failing_gates(text, run_ops.gate[]) IS
  'raises one error with all gates that fail, if there are any';

CREATE FUNCTION run_ops.undone(command text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  EXECUTE command;
  RAISE EXCEPTION 'to be undone' USING ERRCODE = 'UNDO0';
EXCEPTION WHEN SQLSTATE 'UNDO0' THEN NULL;
END $$;
COMMENT ON FUNCTION run_ops.undone(text) IS 'runs a command and undoes what it has changed here; its errors and notices remain';
REVOKE EXECUTE ON FUNCTION run_ops.undone(text) FROM PUBLIC;

CREATE FUNCTION run_ops.announce_switch(split boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  copies  boolean := repatriated OR split AND (SELECT s.superseded OR s.moving FROM run_ops.split_state AS s);
  reason  text;
  lines   text[] := '{}';
  r       record;
  n       record;
  since   timestamptz;
  work    bigint := 0;  -- rows
  placed  bigint := 0;
  sampled bigint := 0;
  spent   interval := '0';
  -- what any switch takes: as the fastest one so far, or about 15 ms for each view
  blocked interval := coalesce(
    (SELECT min((a.detail ->> 'locked_ms')::float8) FROM run_ops.audit_log AS a WHERE a.action IN ('enable split', 'disable split')) * interval '1 ms',
    (SELECT count(*) FROM run_ops.routed_table) * interval '15 ms');
BEGIN
  since := clock_timestamp();
  IF copies THEN
    reason := run_ops.reason_to_compare_all(split);
    IF reason IS NULL THEN
      work := (SELECT sum((a ->> 'n')::bigint) FROM run_ops.tracked_places(split) AS p, LATERAL run_ops.ask_place(p, 'SELECT count(*) AS n FROM run_ops_changes.note') AS a);
      lines := lines || format('%s tracked changes would be compared, those before the switch while the service runs.', work);
    END IF;
    FOR r IN SELECT t, c.store, c.n FROM run_ops.store_row_counts() AS c JOIN run_ops.routed_table AS t USING (view) LOOP
      work := work + CASE WHEN reason IS NULL THEN 0 ELSE r.n END;
      placed := placed + CASE (r.t).routing WHEN 'store' THEN r.n ELSE 0 END;
      -- how long it takes to compare some of the rows
      since := clock_timestamp();
      SELECT * INTO n FROM run_ops.next_range(run_ops.mirror_of(r.t, r.store, split), NULL, 1000, split);
      PERFORM run_ops.range_differs(n.part, NULL, n.upto);
      spent := spent + (clock_timestamp() - since);
      sampled := sampled + least(r.n, 1000);
    END LOOP;
    IF reason IS NOT NULL THEN
      lines := lines || format('All %s rows would be compared while writes are blocked. %s', work, reason);
    END IF;
    IF placed > 0 THEN
      lines := lines || format('%s rows of tables with routing "store" would be %s while writes are blocked.', placed,
                               CASE WHEN split THEN 'deleted from the local tables' ELSE 'put into the local tables' END);
    END IF;
    blocked := blocked + spent / greatest(sampled, 1) * (work + placed);
  ELSIF split THEN
    -- strays are counted while writes are blocked
    PERFORM FROM run_ops.local_stray_gates();
    blocked := blocked + (clock_timestamp() - since);
    lines := lines || 'No row would be moved.'::text;
  ELSE
    lines := lines || 'No row would be copied.'::text;
  END IF;
  IF NOT split AND EXISTS (SELECT FROM run_ops.leftover) THEN
    lines := lines || 'Leftovers would be removed before.'::text;
  END IF;
  RAISE NOTICE 'split can be switched %', CASE WHEN split THEN 'on' ELSE 'off' END
    USING DETAIL = array_to_string(lines || format('Writes would be blocked for about %s ms.', round(extract(epoch FROM blocked) * 1000)), E'\n'),
          HINT = 'After the switch, locked_ms in run_ops.audit_log tells for how long writes were blocked.';
END $$;
COMMENT ON FUNCTION run_ops.announce_switch(boolean, boolean) IS
  'raises a notice with the rows that a switch would move or compare, and an estimate of how long it would block writes';
REVOKE EXECUTE ON FUNCTION run_ops.announce_switch(boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_to_enable(dry_run boolean) RETURNS run_ops.gate[]
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gates  run_ops.gate[];
  was_on boolean := (SELECT s.enabled FROM run_ops.split_state AS s);
BEGIN
  PERFORM run_ops.refuse_taken_names(t) FROM run_ops.routed_table AS t;
  PERFORM run_ops.bind_server();
  -- a restored database does not have the setting
  PERFORM run_ops.preload();
  PERFORM run_ops.in_attempts('SELECT run_ops.stop_tracking()')
    WHERE NOT dry_run AND EXISTS (SELECT FROM run_ops.change_tracking AS n WHERE n.forward IS NULL);
  -- In a copy that was made with split on, bind_server() has set it off.  But
  -- the views, the write lock and repatriated rows are still those of split on,
  -- and the gates must judge them so.
  UPDATE run_ops.split_state AS s SET enabled = was_on WHERE s.enabled <> was_on;
  -- the views are made anew
  gates := ARRAY(SELECT a FROM run_ops.gates() AS g, run_ops.acknowledged(g) AS a WHERE g.gate <> 'view');
  PERFORM run_ops.refuse_failing_gates('cannot enable split mode', gates);
  PERFORM run_ops.follow_orders() WHERE NOT dry_run;
  IF (SELECT s.superseded OR s.moving FROM run_ops.split_state AS s) THEN
    PERFORM run_ops.prepare_switch(true) WHERE NOT dry_run;
    PERFORM run_ops.refuse_stranded();
  END IF;
  RETURN gates;
END $$;
COMMENT ON FUNCTION run_ops.refuse_to_enable(boolean) IS
  'does all that enable_split() does before the switch, and raises its errors; returns the gates. dry_run: without what cannot be undone, or locks tables';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_to_enable(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.enable_split(dry_run boolean DEFAULT false) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
  gates    run_ops.gate[];
  unlocked text;
BEGIN
  PERFORM run_ops.lock_registry() WHERE NOT dry_run;
  IF run_ops.split_enabled() THEN
    RAISE NOTICE 'split is already on';
    RETURN;
  ELSIF dry_run THEN
    PERFORM run_ops.undone('SELECT run_ops.refuse_to_enable(true), run_ops.announce_switch(true, false)');
    RETURN;
  END IF;
  gates := run_ops.refuse_to_enable(false);
  PERFORM run_ops.switch_split(true, false);
  IF EXISTS (SELECT FROM run_ops.leftover) THEN
    RAISE NOTICE 'rows that moved to a store are still in the local tables, but the views do not show them'
      USING HINT = 'To remove them, repeat until done: SELECT * FROM run_ops.remove_leftovers();';
  END IF;
  unlocked := (SELECT string_agg(DISTINCT g.object, ', ') FROM unnest(gates) AS g
                WHERE g.gate = 'write lock' AND g.detail LIKE 'missing in store %');
  IF unlocked IS NOT NULL THEN
    RAISE NOTICE 'tables have no write lock in a store'
      USING DETAIL = unlocked, HINT = 'For the SQL to run in the store: SELECT object, hint FROM run_ops.check_split() WHERE gate = ''write lock'';';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.enable_split(boolean) IS
  'switches split on for all sessions; raises an error if a gate of run_ops.check_split() fails. dry_run => true raises the same errors, changes nothing, and tells for how long writes would be blocked.';

CREATE FUNCTION run_ops.refuse_hidden_rows() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  hidden text := (SELECT string_agg(format('%s: %s in store "%s"', r.view, r.n, r.store), E'\n' ORDER BY r.view, r.store)
                    FROM run_ops.store_row_counts() AS r WHERE r.n > 0);
BEGIN
  IF hidden IS NOT NULL THEN
    RAISE EXCEPTION 'rows of the stores would disappear from the views'
      USING ERRCODE = 'object_in_use', DETAIL = hidden,
            HINT = 'To copy them here, repeat until done: SELECT * FROM run_ops.repatriate(); and then: SELECT run_ops.disable_split(repatriated => true); To leave them out: SELECT run_ops.disable_split(force => true);';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_hidden_rows() IS
  'raises an error with the number of rows of each table in each store, if there are any';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_hidden_rows() FROM PUBLIC;

CREATE FUNCTION run_ops.disable_split(force boolean DEFAULT false, repatriated boolean DEFAULT false, dry_run boolean DEFAULT false)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  IF force AND repatriated THEN
    RAISE EXCEPTION 'force and repatriated cannot be used together'
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'force leaves the rows of the stores out, repatriated requires all of them to be copied here.';
  END IF;
  PERFORM run_ops.lock_registry() WHERE NOT dry_run;
  IF NOT force THEN
    PERFORM run_ops.refuse_in_copy();
    PERFORM run_ops.refuse_incomplete();
  END IF;
  IF (SELECT s.superseded OR NOT (s.enabled OR force OR repatriated) FROM run_ops.split_state AS s) THEN
    RAISE NOTICE 'split is already off';
    RETURN;
  ELSIF NOT force AND NOT repatriated THEN
    PERFORM run_ops.refuse_hidden_rows();
  END IF;
  PERFORM run_ops.clear_leftovers(force, repatriated) WHERE NOT dry_run;
  IF repatriated THEN
    PERFORM run_ops.refuse_conflicts() WHERE dry_run OR run_ops.reason_to_compare_all(false) IS NOT NULL;
    PERFORM run_ops.prepare_switch(false) WHERE NOT dry_run;
    PERFORM run_ops.refuse_conflicts() WHERE EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE c.skipped > 0);
  END IF;
  IF force AND EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE c.copied > 0 AND NOT c.forward) THEN
    RAISE WARNING 'the views show rows of the stores as they were when run_ops.repatriate() copied them'
      USING DETAIL = 'Later changes in the stores are left out.';
  END IF;
  IF dry_run THEN
    PERFORM run_ops.undone(format('SELECT run_ops.announce_switch(false, %L)', repatriated));
    RETURN;
  END IF;
  PERFORM run_ops.switch_split(false, repatriated);
  IF NOT force AND NOT repatriated THEN
    -- once more, because now that writes are blocked no row can be added
    PERFORM run_ops.await_store_writers();
    PERFORM run_ops.refuse_hidden_rows();
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.disable_split(boolean, boolean, boolean) IS
  'switches split off for all sessions; raises an error if rows of the stores would disappear from the views. repatriated => true copies the rows that run_ops.repatriate() has not copied yet, and verifies all. force => true leaves the rows of the stores out. dry_run => true raises the same errors, except those about rows that are only copied or removed by the switch, changes nothing, and tells for how long writes would be blocked.';

CREATE VIEW run_ops.split_status AS
  SELECT CASE WHEN run_ops.split_enabled() THEN 'on'
              WHEN run_ops.server_identity() OPERATOR(pg_catalog.=) ANY (s.identities) THEN 'off'
              -- only the views for split on have this rule
              WHEN EXISTS (SELECT FROM run_ops.routed_table AS t WHERE run_ops.has_union_rule(t.view)) THEN 'suspended'
              ELSE 'off' END AS split,
         CASE WHEN run_ops.split_enabled() THEN NULL
              WHEN NOT EXISTS (SELECT FROM run_ops.store WHERE server IS NOT NULL) THEN 'no store is attached'
              WHEN run_ops.server_identity() OPERATOR(pg_catalog.<>) ALL (s.identities)
              THEN 'this is a copy of the database in which the stores were attached'
              WHEN NOT s.opted_in THEN 'not opted in'
              WHEN s.superseded THEN 'disabled, with all rows repatriated'
              ELSE 'configured but not enabled' END AS reason,
         s.changed_at,
         ARRAY(SELECT r.name FROM run_ops.store AS r WHERE r.server IS NOT NULL) AS stores,
         (SELECT pg_catalog.count(*) FROM run_ops.routed_table) AS routed_tables,
         s.native_realtime,
         run_ops.server_identity() AS this_server,
         s.identities AS bound_to
    FROM run_ops.split_state AS s;
COMMENT ON VIEW run_ops.split_status IS
  'whether split is on, off or suspended (in a copy), and why; does not contact a store';
GRANT SELECT ON run_ops.split_status TO PUBLIC;

CREATE FUNCTION run_ops.grant_admin(role regrole) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  admin text;
BEGIN
  FOREACH admin IN ARRAY run_ops.admin_functions() LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', admin, role);
  END LOOP;
  EXECUTE format('GRANT USAGE ON SCHEMA run_ops TO %s', role);
  EXECUTE format('GRANT SELECT ON run_ops.audit_log TO %s', role);
END $$;
COMMENT ON FUNCTION run_ops.grant_admin(regrole) IS
  'lets a role change split mode and the shards for new ids: grants EXECUTE on run_ops.admin_functions() and SELECT on the audit log';

CREATE FUNCTION run_ops.grant_viewer(role regrole) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  seen text;
BEGIN
  EXECUTE format('GRANT USAGE ON SCHEMA run_ops TO %s', role);
  FOREACH seen IN ARRAY run_ops.viewer_functions() LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', seen, role);
  END LOOP;
  FOR seen IN SELECT c.oid::regclass FROM pg_class AS c
               WHERE c.relnamespace = 'run_ops'::regnamespace AND (starts_with(c.relname, 'stat_') OR c.relname IN ('audit_log', 'cleanup_progress')) LOOP
    EXECUTE format('GRANT SELECT ON %s TO %s', seen, role);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.grant_viewer(regrole) IS
  'lets a role see the state, the gates, the statistics and the audit log, but no row of a routed table: grants EXECUTE on run_ops.viewer_functions(), and SELECT on the stat_* views, run_ops.cleanup_progress and the audit log. run_ops.record_check() stores its result; nothing else can be changed.';

CREATE FUNCTION run_ops.viewer_functions() RETURNS text[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ARRAY['run_ops.ask_stats()', 'run_ops.mint_flips()', 'run_ops.mint_kinds()', 'run_ops.next_step(text)',
    'run_ops.record_check()', 'run_ops.whereabouts(regclass, text)', 'run_ops.wire_waits()', 'run_ops.wire_counters()', 'run_ops.wire_error_counters()'];
COMMENT ON FUNCTION run_ops.viewer_functions() IS
  'the functions that show the state of split mode and statistics of stores; only their owner and roles with run_ops.grant_viewer() may call all of them';

CREATE FUNCTION run_ops.admin_functions() RETURNS text[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ARRAY[
    'run_ops.check_split()', 'run_ops.next_step(text)', 'run_ops.enable_split(boolean)', 'run_ops.disable_split(boolean, boolean, boolean)',
    'run_ops.configure_split(boolean, boolean)', 'run_ops.trust_standby(text)',
    'run_ops.acknowledge(text, text, text)', 'run_ops.withdraw_acknowledgement(text, text)',
    'run_ops.repatriate(integer)', 'run_ops.verify_repatriation()', 'run_ops.repatriation_conflicts()',
    'run_ops.move_strays(integer)', 'run_ops.move_conflicts()', 'run_ops.remove_leftovers(integer, boolean)',
    'run_ops.resolve_in_doubt()', 'run_ops.set_mint_shards(text)'];
COMMENT ON FUNCTION run_ops.admin_functions() IS
  'the functions that check and change split mode and the shards for new ids; only their owner and roles with run_ops.grant_admin() may call them';
