
-- distinct_database: proves that a store is another database than this one.
--
-- Addresses prove nothing: a pooler, an alias or another port may lead back to
-- this database.  So there are two checks.  The fingerprint is the system
-- identifier and the name of the database; a physical copy on another server has
-- the same fingerprint.  The handshake takes a lock on one side and tries it on
-- the other side; so it distinguishes a copy from this database itself.

CREATE FUNCTION run_ops.fingerprint_query() RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN 'SELECT system_identifier::text, current_database() AS database, '
         'pg_is_in_recovery() AS in_recovery FROM pg_control_system()';
COMMENT ON FUNCTION run_ops.fingerprint_query() IS 'a query for the fingerprint of a database, in one row';

CREATE FUNCTION run_ops.fingerprints(store text) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  legacy_side jsonb;
  store_side  jsonb;
BEGIN
  EXECUTE format('SELECT to_jsonb(q) FROM (%s) AS q', run_ops.fingerprint_query()) INTO legacy_side;
  SELECT * INTO store_side FROM run_ops.ask_store(store, run_ops.fingerprint_query());
  IF legacy_side IS NULL OR store_side IS NULL THEN
    RETURN jsonb_build_object('error', 'one of the databases returned no fingerprint');
  END IF;
  RETURN jsonb_build_object('legacy', legacy_side, 'store', store_side);
EXCEPTION WHEN OTHERS THEN
  RETURN jsonb_build_object('error', SQLERRM);
END $$;
COMMENT ON FUNCTION run_ops.fingerprints(text) IS
  'the fingerprints of this database and of a store, or the error';
REVOKE EXECUTE ON FUNCTION run_ops.fingerprints(text) FROM PUBLIC;

CREATE FUNCTION run_ops.handshakes(stores text[]) RETURNS TABLE (store text, result jsonb)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  here bigint := hashtextextended(format('%s %s', pg_backend_pid(), clock_timestamp()), 0);
BEGIN
  PERFORM pg_advisory_xact_lock(here);
  RETURN QUERY
    SELECT t.store, CASE WHEN coalesce(t.error, h.error) IS NOT NULL THEN jsonb_build_object('error', coalesce(t.error, h.error))
                         ELSE jsonb_build_object('lock_free_there', t.answer -> 'free', 'lock_free_here', h.is_free) END
      FROM run_ops.ask_stores(stores, ARRAY[format('SELECT pg_try_advisory_xact_lock_shared(%s) AS free', here)], tolerant => true) AS t
      JOIN run_ops.try_locks_held_there(stores, ARRAY(SELECT (random() * 4611686018427387904)::bigint FROM unnest(stores))) AS h USING (store);
END $$;
COMMENT ON FUNCTION run_ops.handshakes(text[]) IS
  'for each store, whether an advisory lock that one side holds is free on the other side, in both directions, or the error. Two different databases do not share locks, so it is free in both.';
REVOKE EXECUTE ON FUNCTION run_ops.handshakes(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.granting_proof(store text) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  query text := 'SELECT format(''GRANT EXECUTE ON FUNCTION %s TO %I;'', string_agg(f, '', ''), current_user) AS sql '
                'FROM unnest(ARRAY[''pg_control_system()'', ''pg_advisory_xact_lock(bigint)'', ''pg_try_advisory_xact_lock_shared(bigint)'']) AS f '
                'WHERE NOT has_function_privilege(f, ''EXECUTE'') HAVING count(*) > 0';
  here  text;
  there text;
BEGIN
  EXECUTE query INTO here;
  there := (SELECT a ->> 'sql' FROM run_ops.ask_store(store, query) AS a);
  RETURN nullif(concat_ws(' ', 'Run in this database: ' || here, format('Run in store "%s": ', store) || there), '');
EXCEPTION WHEN OTHERS THEN
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.granting_proof(text) IS
  'SQL that grants the privileges which both checks need, here and in a store; NULL if none is missing';
REVOKE EXECUTE ON FUNCTION run_ops.granting_proof(text) FROM PUBLIC;

CREATE FUNCTION run_ops.distinct_gate(store text, handshake jsonb) RETURNS run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  fingerprints jsonb := run_ops.fingerprints(store);
  g     run_ops.gate := ('distinct', store, false, NULL, NULL);
  same_fingerprint boolean := fingerprints -> 'legacy' -> 'system_identifier' = fingerprints -> 'store' -> 'system_identifier'
                        AND fingerprints -> 'legacy' -> 'database' = fingerprints -> 'store' -> 'database';
  evidence text := format('fingerprints %s, handshake %s', fingerprints, handshake);
BEGIN
  IF fingerprints ? 'error' OR handshake ? 'error' THEN
    g.detail := format('could not be checked: %s', coalesce(fingerprints ->> 'error', handshake ->> 'error'));
    g.hint := coalesce(run_ops.granting_proof(store), 'Fix the connection to the store first.');
  ELSIF NOT ((handshake ->> 'lock_free_there')::boolean AND (handshake ->> 'lock_free_here')::boolean) THEN
    g.detail := format('the store is this database itself: system identifier %s, database "%s"; %s',
      fingerprints -> 'store' ->> 'system_identifier', fingerprints -> 'store' ->> 'database', evidence);
    g.hint := 'The options of the server lead back to this database, perhaps through a pooler or an alias. '
           || 'Correct them: ' || run_ops.altering_server(store, '{"host": "...", "dbname": "..."}');
  ELSIF same_fingerprint AND (fingerprints -> 'store' ->> 'in_recovery')::boolean THEN
    g.detail := format('the store is a standby of this database: system identifier %s, database "%s"; %s',
      fingerprints -> 'store' ->> 'system_identifier', fingerprints -> 'store' ->> 'database', evidence);
    g.hint := 'The store must be a separate database. Have the server lead there: ' || run_ops.altering_server(store, '{"host": "...", "dbname": "..."}');
  ELSIF same_fingerprint THEN
    g.gate := 'clone';
    g.detail := format('the store is a physical copy of this database on another server: system identifier %s, database "%s"; %s',
      fingerprints -> 'store' ->> 'system_identifier', fingerprints -> 'store' ->> 'database', evidence);
    g.hint := 'If this is intended, delete from the store what belongs to this database only.';
  ELSE
    g.ok := true;
    g.detail := evidence;
  END IF;
  RETURN g;
END $$;
COMMENT ON FUNCTION run_ops.distinct_gate(text, jsonb) IS
  'the gate "distinct" or "clone" for a store, after its handshake: the result of both checks, with evidence. Fails if one of them could not be made.';
REVOKE EXECUTE ON FUNCTION run_ops.distinct_gate(text, jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.databases_co_resident(store text DEFAULT 'new') RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  fingerprints jsonb;
BEGIN
  -- only attached stores are contacted
  SELECT run_ops.fingerprints(s.name) INTO fingerprints
    FROM run_ops.store AS s WHERE s.name = store AND s.server IS NOT NULL;
  RETURN (fingerprints -> 'legacy' ->> 'system_identifier', fingerprints -> 'legacy' ->> 'database')
       = (fingerprints -> 'store' ->> 'system_identifier', fingerprints -> 'store' ->> 'database');
END $$;
COMMENT ON FUNCTION run_ops.databases_co_resident(text) IS
  'whether a store has the fingerprint of this database; NULL if unknown. For information only: nothing depends on it.';
REVOKE EXECUTE ON FUNCTION run_ops.databases_co_resident(text) FROM PUBLIC;
