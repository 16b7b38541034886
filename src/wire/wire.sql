
-- wire: the connections of a session to stores.

CREATE FUNCTION run_ops.store_connections()
  RETURNS TABLE (store text, server name, role name, in_transaction boolean, pid integer)
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_store_connections';
COMMENT ON FUNCTION run_ops.store_connections() IS
  'the connections that this session has to stores, whether a transaction is open there, and the process that serves them, as the store or a pooler before it has announced it; postgres_fdw_get_connections() does not list them';

CREATE FUNCTION run_ops.disconnect_stores() RETURNS bigint
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_disconnect_stores';
COMMENT ON FUNCTION run_ops.disconnect_stores() IS
  'closes the connections that this session has to stores, except those that its transaction uses; returns how many it has closed';
