
-- read_replica: what is known of a replica of a store, which the server option
-- read_from names.

CREATE FUNCTION run_ops.replica_of(store text) RETURNS name
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT o.option_value FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server, pg_options_to_table(f.srvoptions) AS o
   WHERE s.name = replica_of.store AND o.option_name = 'read_from'
$$;
COMMENT ON FUNCTION run_ops.replica_of(text) IS 'the foreign server of the replica of a store; NULL if it has none';

CREATE FUNCTION run_ops.replica_state(server name, OUT lag_ms float8, OUT system_identifier text, OUT database text)
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_replica_state';
COMMENT ON FUNCTION run_ops.replica_state(name) IS
  'how far a replica lags behind, in milliseconds, and of which server it is a copy; lag_ms is NULL if the server is not a standby';
REVOKE EXECUTE ON FUNCTION run_ops.replica_state(name) FROM PUBLIC;
