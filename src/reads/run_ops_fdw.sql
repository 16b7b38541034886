
-- run_ops_fdw: the planner of postgres_fdw, and an executor of our own.

CREATE FUNCTION run_ops.run_ops_fdw_handler() RETURNS pg_catalog.fdw_handler
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_fdw_handler';
COMMENT ON FUNCTION run_ops.run_ops_fdw_handler() IS
  'handler of run_ops_fdw: the planner of postgres_fdw, and an executor that asks a store when the first row is requested';

CREATE FUNCTION run_ops.run_ops_fdw_validator(options text[], catalog oid) RETURNS void
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_fdw_validator';
COMMENT ON FUNCTION run_ops.run_ops_fdw_validator(text[], oid) IS
  'validator of run_ops_fdw: accepts the options of postgres_fdw except use_remote_estimate and async_capable, the server option pooled, the table option key and the column option indexed';

CREATE FOREIGN DATA WRAPPER run_ops_fdw
  HANDLER run_ops.run_ops_fdw_handler
  VALIDATOR run_ops.run_ops_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER run_ops_fdw IS
  'tables of a store: planned as by postgres_fdw, read and written as one transaction of the store, which is begun when the first row is requested';
