
-- split_mode: switching split on and off, and who did it.

CREATE TABLE run_ops.audit_log (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  role   name NOT NULL DEFAULT SESSION_USER,
  action text NOT NULL,
  detail jsonb NOT NULL
);
COMMENT ON TABLE run_ops.audit_log IS 'every change of split mode and of what it rests on';
COMMENT ON COLUMN run_ops.audit_log.id IS 'the order of the lines';
COMMENT ON COLUMN run_ops.audit_log.at IS 'when it was done';
COMMENT ON COLUMN run_ops.audit_log.role IS 'who did it: the role of the session';
COMMENT ON COLUMN run_ops.audit_log.action IS 'configure, acknowledge, withdraw acknowledgement, trust standby, move strays, enable split, remove leftovers or disable split';
COMMENT ON COLUMN run_ops.audit_log.detail IS 'with what';
COMMENT ON SEQUENCE run_ops.audit_log_id_seq IS 'numbers the lines of run_ops.audit_log';

CREATE FUNCTION run_ops.audit(action text, detail jsonb) RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO run_ops.audit_log (action, detail) VALUES (action, detail)
$$;
COMMENT ON FUNCTION run_ops.audit(text, jsonb) IS 'writes one line of run_ops.audit_log';
REVOKE EXECUTE ON FUNCTION run_ops.audit(text, jsonb) FROM PUBLIC;

CREATE TYPE run_ops.gate AS (gate text, object text, ok boolean, detail text, hint text);
COMMENT ON TYPE run_ops.gate IS
  'a condition for split mode: ok is NULL where it could not be checked, which counts as failing';

CREATE TABLE run_ops.acknowledgement (
  gate   text,
  object text,
  reason text NOT NULL,
  role   name NOT NULL DEFAULT SESSION_USER,
  at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
  PRIMARY KEY (gate, object)
);
COMMENT ON TABLE run_ops.acknowledgement IS
  'failing gates that an operator accepts by name; travels with a dump';
COMMENT ON COLUMN run_ops.acknowledgement.gate IS 'the gate, as run_ops.check_split() names it';
COMMENT ON COLUMN run_ops.acknowledgement.object IS 'the object, as run_ops.check_split() names it';
COMMENT ON COLUMN run_ops.acknowledgement.reason IS 'why it is accepted';
COMMENT ON COLUMN run_ops.acknowledgement.role IS 'who accepted it';
COMMENT ON COLUMN run_ops.acknowledgement.at IS 'when it was accepted';
SELECT pg_catalog.pg_extension_config_dump('run_ops.acknowledgement', '');
GRANT SELECT ON run_ops.acknowledgement TO PUBLIC;

-- The functions from here to the end of the file that carry SECURITY DEFINER
-- do so because only the owner of the views can replace them and only its
-- user mapping reaches the stores: a role that is granted EXECUTE may change
-- the mode without being given either.

CREATE FUNCTION run_ops.bind_server() RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  UPDATE run_ops.split_state SET identities = ARRAY[run_ops.server_identity()], enabled = false
   WHERE run_ops.server_identity() <> ALL (identities)
$$;
COMMENT ON FUNCTION run_ops.bind_server() IS
  'lets this server use the stores, and no other that is not one of the known ones with it';
REVOKE EXECUTE ON FUNCTION run_ops.bind_server() FROM PUBLIC;

CREATE FUNCTION run_ops.trust_standby(identity text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF identity IS NULL OR identity !~ '^[0-9]+/[0-9]+@.*#[0-9a-f]+$' THEN
    RAISE EXCEPTION 'invalid server identity %', coalesce(quote_literal(identity), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Ask the standby: SELECT run_ops.server_identity();';
  END IF;
  UPDATE run_ops.split_state SET identities = identities || identity
   WHERE identity <> ALL (identities);
  PERFORM run_ops.audit('trust standby', jsonb_build_object('identity', identity));
END $$;
COMMENT ON FUNCTION run_ops.trust_standby(text) IS
  'lets a standby read the stores, and use them on after its promotion; any other copy of this database stays suspended';

CREATE FUNCTION run_ops.acknowledge(gate text, object text, reason text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  IF gate IS NULL OR gate <> ALL (run_ops.acknowledgeable_gates()) THEN
    RAISE EXCEPTION 'gate % cannot be acknowledged', coalesce(quote_literal(gate), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = format('Gates that can be: %s.', array_to_string(run_ops.acknowledgeable_gates(), ', '));
  END IF;
  INSERT INTO run_ops.acknowledgement AS a VALUES (gate, object, reason)
  ON CONFLICT ON CONSTRAINT acknowledgement_pkey DO UPDATE
     SET reason = excluded.reason, role = excluded.role, at = excluded.at;
  PERFORM run_ops.audit('acknowledge', jsonb_build_object('gate', gate, 'object', object, 'reason', reason));
END $$;
COMMENT ON FUNCTION run_ops.acknowledge(text, text, text) IS
  'accepts a failing gate for one object, as run_ops.check_split() names them';

CREATE FUNCTION run_ops.withdraw_acknowledgement(gate text, object text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  DELETE FROM run_ops.acknowledgement AS a WHERE a.gate = gate AND a.object = object;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'gate % is not acknowledged for %', quote_literal(gate), quote_literal(object)
      USING ERRCODE = 'undefined_object', HINT = 'run_ops.acknowledgement lists what is.';
  END IF;
  PERFORM run_ops.audit('withdraw acknowledgement', jsonb_build_object('gate', gate, 'object', object));
END $$;
COMMENT ON FUNCTION run_ops.withdraw_acknowledgement(text, text) IS
  'takes back an acknowledgement; split mode stays as it is, run_ops.check_split() shows the gate again';

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
  'says that split mode is wanted, and whether realtime readers see the rows of every store; NULL leaves as it is';

-- The realtime interlock in its other direction: while split is on, no reader
-- that follows this database alone is switched on.

CREATE FUNCTION run_ops.refuse_local_readers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  blind run_ops.gate;
BEGIN
  SELECT a.* INTO blind FROM run_ops.realtime_gates() AS g, run_ops.acknowledged(g) AS a
   WHERE a.ok IS NOT TRUE LIMIT 1;
  IF FOUND AND run_ops.split_enabled() THEN
    RAISE EXCEPTION '% would not see the rows of the stores while split is on', blind.object
      USING ERRCODE = 'object_in_use', DETAIL = blind.detail, HINT = blind.hint;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_local_readers() IS
  'raises an error when split is on and a realtime reader follows this database alone, unless acknowledged';

-- SECURITY DEFINER: who makes a publication need not have rights on schema run_ops.
CREATE FUNCTION run_ops.guard_publications() RETURNS event_trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.refuse_local_readers();
END $$;
COMMENT ON FUNCTION run_ops.guard_publications() IS
  'event trigger: no publication of a routed table while split is on, unless acknowledged';
CREATE EVENT TRIGGER run_ops_guard_publications ON ddl_command_end
  WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
  EXECUTE FUNCTION run_ops.guard_publications();
COMMENT ON EVENT TRIGGER run_ops_guard_publications IS
  'the realtime interlock while split is on; a replication slot that needs no publication is found by run_ops.check_split()';

-- Switching -------------------------------------------------------------------

CREATE FUNCTION run_ops.close_writes() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  views text := (SELECT string_agg(t.view::text, ', ' ORDER BY t.view) FROM run_ops.routed_table AS t);
BEGIN
  IF views IS NOT NULL THEN
    -- the lock reaches the local tables under the views as well
    EXECUTE 'LOCK TABLE ' || views || ' IN SHARE MODE';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.close_writes() IS
  'waits for the writers of all routed tables and keeps new ones out until the transaction ends; readers go on';
REVOKE EXECUTE ON FUNCTION run_ops.close_writes() FROM PUBLIC;

CREATE FUNCTION run_ops.attempt_switch(split boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  moved boolean := split AND (SELECT s.superseded FROM run_ops.split_state AS s);
BEGIN
  PERFORM run_ops.close_writes();
  -- What is moved by the switch is relied upon from then on.
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
     SET enabled = split, superseded = NOT split AND (repatriated OR superseded), changed_at = clock_timestamp();
  PERFORM run_ops.forget_leftovers() WHERE NOT split;
  PERFORM run_ops.swap_views(split);
  IF moved OR repatriated THEN
    PERFORM run_ops.forget_changes(split);
    DELETE FROM run_ops.settled_row;
    DELETE FROM run_ops.copy_progress;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.attempt_switch(boolean, boolean) IS
  'one attempt to switch: closes writes, moves what has to be moved, swaps the views';
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
  'switches the views in attempts that wait shortly for their locks and give way between them';
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
            HINT = 'run_ops.check_split() shows every gate and the way to pass it.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_failing_gates(text, run_ops.gate[]) IS
  'raises one error that lists every gate that does not hold, if there is one';

CREATE FUNCTION run_ops.enable_split() RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
  gates    run_ops.gate[];
  unlocked text;
  was_on   boolean := (SELECT s.enabled FROM run_ops.split_state AS s);
BEGIN
  PERFORM run_ops.lock_registry();
  IF run_ops.split_enabled() THEN
    RAISE NOTICE 'split is on already';
    RETURN;
  END IF;
  PERFORM run_ops.refuse_taken_names(t) FROM run_ops.routed_table AS t;
  PERFORM run_ops.bind_server();
  PERFORM run_ops.in_attempts('SELECT run_ops.forget_changes()') WHERE EXISTS (SELECT FROM run_ops.change_notes AS n WHERE n.forward IS NULL);
  -- In a copy made with split on the views and the write lock are those of
  -- split on, and so is what waits to come home.
  UPDATE run_ops.split_state AS s SET enabled = was_on WHERE s.enabled <> was_on;
  gates := ARRAY(SELECT g FROM run_ops.check_split() AS g);
  PERFORM run_ops.refuse_failing_gates('cannot enable split mode', gates);
  PERFORM run_ops.record_row_changers(s.name) FROM run_ops.store AS s WHERE s.server IS NOT NULL;
  IF (SELECT s.superseded FROM run_ops.split_state AS s) THEN
    PERFORM run_ops.prepare_switch(true), run_ops.refuse_stranded();
  END IF;
  PERFORM run_ops.switch_split(true, false);
  IF EXISTS (SELECT FROM run_ops.leftover) THEN
    RAISE NOTICE 'rows that moved to a store are still here, out of sight'
      USING HINT = 'run_ops.remove_leftovers() until done removes them.';
  END IF;
  unlocked := (SELECT string_agg(DISTINCT g.object, ', ') FROM unnest(gates) AS g
                WHERE g.gate = 'write lock' AND g.hint IS NOT NULL);
  IF unlocked IS NOT NULL THEN
    RAISE NOTICE 'tables have no write lock in a store'
      USING DETAIL = unlocked, HINT = 'run_ops.check_split() has the SQL to run there.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.enable_split() IS
  'switches split mode on for every session, when every gate of run_ops.check_split() holds';

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
            HINT = 'run_ops.repatriate() copies them here, then disable_split(repatriated => true); disable_split(force => true) leaves them out.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_hidden_rows() IS
  'raises an error that counts the rows of each table in each store, if there are any';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_hidden_rows() FROM PUBLIC;

CREATE FUNCTION run_ops.disable_split(force boolean DEFAULT false, repatriated boolean DEFAULT false)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  IF force AND repatriated THEN
    RAISE EXCEPTION 'force and repatriated exclude each other'
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'Either rows of the stores are left out, or they are all here.';
  END IF;
  PERFORM run_ops.lock_registry();
  IF NOT force THEN
    PERFORM run_ops.refuse_in_copy();
  END IF;
  IF (SELECT s.superseded OR NOT (s.enabled OR force OR repatriated) FROM run_ops.split_state AS s) THEN
    RAISE NOTICE 'split is off already';
    RETURN;
  ELSIF NOT force AND NOT repatriated THEN
    PERFORM run_ops.refuse_hidden_rows();
  END IF;
  PERFORM run_ops.clear_leftovers(force, repatriated);
  IF repatriated THEN
    PERFORM run_ops.refuse_conflicts();
    PERFORM run_ops.prepare_switch(false);
  END IF;
  IF force AND EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE c.copied > 0 AND NOT c.forward) THEN
    RAISE WARNING 'rows that run_ops.repatriate() copied are shown as they were then'
      USING DETAIL = 'What was changed in the stores since is left out.';
  END IF;
  PERFORM run_ops.switch_split(false, repatriated);
  IF NOT force AND NOT repatriated THEN
    -- again, now that nobody can add one
    PERFORM run_ops.await_store_writers();
    PERFORM run_ops.refuse_hidden_rows();
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.disable_split(boolean, boolean) IS
  'switches split mode off for every session; refused while rows of the stores would disappear, unless forced; repatriated => true copies what run_ops.repatriate() has not copied yet, verifies and switches';

CREATE VIEW run_ops.split_status AS
  SELECT CASE WHEN run_ops.split_enabled() THEN 'on'
              WHEN run_ops.server_identity() OPERATOR(pg_catalog.=) ANY (s.identities) THEN 'off'
              -- a union view keeps a rule that a plain one does not have
              WHEN EXISTS (SELECT FROM run_ops.routed_table AS t WHERE run_ops.has_union_rule(t.view)) THEN 'suspended'
              ELSE 'off' END AS split,
         CASE WHEN run_ops.split_enabled() THEN NULL
              WHEN NOT EXISTS (SELECT FROM run_ops.store WHERE server IS NOT NULL) THEN 'no store is attached'
              WHEN run_ops.server_identity() OPERATOR(pg_catalog.<>) ALL (s.identities)
              THEN 'this is a copy of the database that the stores were attached in'
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
  'split mode for people: on, off or suspended (a copy), and why; contacts no store';
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
  'lets a role change split mode: EXECUTE on run_ops.admin_functions() and a look at the audit log';

CREATE FUNCTION run_ops.admin_functions() RETURNS text[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ARRAY[
    'run_ops.check_split()', 'run_ops.enable_split()', 'run_ops.disable_split(boolean, boolean)',
    'run_ops.configure_split(boolean, boolean)', 'run_ops.trust_standby(text)',
    'run_ops.acknowledge(text, text, text)', 'run_ops.withdraw_acknowledgement(text, text)',
    'run_ops.repatriate(integer)', 'run_ops.verify_repatriation()', 'run_ops.repatriation_conflicts()',
    'run_ops.move_strays(integer)', 'run_ops.remove_leftovers(integer, boolean)'];
COMMENT ON FUNCTION run_ops.admin_functions() IS
  'the functions that change split mode; nobody but their owner may call them unless granted';
