
-- distinct_database: the proof that a store is another database than this one.
--
-- Addresses prove nothing: a pooler, an alias or another port may lead back.
-- Two witnesses are heard.  The fingerprint, system identifier and database,
-- is the same for a physical copy, which may be another server; the handshake,
-- a lock taken on one side and tried on the other, cannot be fooled by that,
-- and tells a copy from the thing itself.

CREATE FUNCTION run_ops.fingerprint_query() RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN 'SELECT system_identifier::text, current_database() AS database, '
         'pg_is_in_recovery() AS in_recovery FROM pg_control_system()';
COMMENT ON FUNCTION run_ops.fingerprint_query() IS 'a query for the fingerprint of a database: one row, or none';

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
    RETURN jsonb_build_object('error', 'a side gave no fingerprint');
  END IF;
  RETURN jsonb_build_object('legacy', legacy_side, 'store', store_side);
EXCEPTION WHEN OTHERS THEN
  RETURN jsonb_build_object('error', SQLERRM);
END $$;
COMMENT ON FUNCTION run_ops.fingerprints(text) IS
  'the fingerprints of this database and of a store, or the error that kept one back';
REVOKE EXECUTE ON FUNCTION run_ops.fingerprints(text) FROM PUBLIC;

CREATE FUNCTION run_ops.handshake(store text) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  here  bigint := (random() * 4611686018427387904)::bigint;
  there bigint := (random() * 4611686018427387904)::bigint;
  free_there boolean;
  free_here  boolean;
BEGIN
  PERFORM pg_advisory_xact_lock(here);
  SELECT (a ->> 'free')::boolean INTO free_there
    FROM run_ops.ask_store(store, format('SELECT pg_try_advisory_xact_lock(%s) AS free', here)) AS a;
  free_here := run_ops.try_lock_held_there(store, there);
  RETURN jsonb_build_object('lock_free_there', free_there, 'lock_free_here', free_here);
EXCEPTION WHEN OTHERS THEN
  RETURN jsonb_build_object('error', SQLERRM);
END $$;
COMMENT ON FUNCTION run_ops.handshake(text) IS
  'whether an advisory lock held on one side is free on the other, in both directions, or the error that kept it from being tried; free both times means another database';
REVOKE EXECUTE ON FUNCTION run_ops.handshake(text) FROM PUBLIC;

CREATE FUNCTION run_ops.distinct_gate(store text) RETURNS run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  print jsonb := run_ops.fingerprints(store);
  -- a store that does not answer is not waited for a second time
  shake jsonb := CASE WHEN print ? 'error' THEN print ELSE run_ops.handshake(store) END;
  g     run_ops.gate := ('distinct', store, false, NULL, NULL);
  same_print boolean := print -> 'legacy' -> 'system_identifier' = print -> 'store' -> 'system_identifier'
                        AND print -> 'legacy' -> 'database' = print -> 'store' -> 'database';
  evidence text := format('fingerprints %s, handshake %s', print, shake);
BEGIN
  IF print ? 'error' OR shake ? 'error' THEN
    g.detail := format('the probe failed: %s', coalesce(print ->> 'error', shake ->> 'error'));
    g.hint := 'Without an answer of both sides nothing is proven. The roles of both sides need EXECUTE on pg_control_system().';
  ELSIF NOT ((shake ->> 'lock_free_there')::boolean AND (shake ->> 'lock_free_here')::boolean) THEN
    g.detail := format('the store is this very database: system identifier %s, database "%s"; %s',
      print -> 'store' ->> 'system_identifier', print -> 'store' ->> 'database', evidence);
    g.hint := 'Its address leads back here, perhaps through a pooler or an alias.';
  ELSIF same_print AND (print -> 'store' ->> 'in_recovery')::boolean THEN
    g.detail := format('the store is a standby of this database: system identifier %s, database "%s"; %s',
      print -> 'store' ->> 'system_identifier', print -> 'store' ->> 'database', evidence);
    g.hint := 'The store must be a database of its own.';
  ELSIF same_print THEN
    g.gate := 'clone';
    g.detail := format('the store is a physical copy of this database on a server of its own: system identifier %s, database "%s"; %s',
      print -> 'store' ->> 'system_identifier', print -> 'store' ->> 'database', evidence);
    g.hint := format('If that is meant: SELECT run_ops.acknowledge(''clone'', %L, ''why'');', store);
  ELSE
    g.ok := true;
    g.detail := evidence;
  END IF;
  RETURN g;
END $$;
COMMENT ON FUNCTION run_ops.distinct_gate(text) IS
  'the verdict of both witnesses on a store, with their evidence; no answer counts as not distinct';
REVOKE EXECUTE ON FUNCTION run_ops.distinct_gate(text) FROM PUBLIC;

CREATE FUNCTION run_ops.databases_co_resident(store text DEFAULT 'new') RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  print jsonb;
BEGIN
  -- a store that is not attached is not probed
  SELECT run_ops.fingerprints(s.name) INTO print
    FROM run_ops.store AS s WHERE s.name = store AND s.server IS NOT NULL;
  RETURN (print -> 'legacy' ->> 'system_identifier', print -> 'legacy' ->> 'database')
       = (print -> 'store' ->> 'system_identifier', print -> 'store' ->> 'database');
END $$;
COMMENT ON FUNCTION run_ops.databases_co_resident(text) IS
  'advisory: whether a store has the fingerprint of this database; NULL when it is unknown, and nothing is enforced by it';
REVOKE EXECUTE ON FUNCTION run_ops.databases_co_resident(text) FROM PUBLIC;
