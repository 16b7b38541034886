
-- lazy_fdw: a postgres_fdw that connects when the first row is requested.

CREATE FUNCTION run_ops.run_ops_fdw_handler() RETURNS pg_catalog.fdw_handler
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_fdw_handler';
COMMENT ON FUNCTION run_ops.run_ops_fdw_handler() IS
  'handler of run_ops_fdw: that of postgres_fdw, except that a scan begins when its first row is requested';

CREATE FUNCTION run_ops.run_ops_fdw_validator(options text[], catalog oid) RETURNS void
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_fdw_validator';
COMMENT ON FUNCTION run_ops.run_ops_fdw_validator(text[], oid) IS
  'validator of run_ops_fdw: accepts the options of postgres_fdw, the column option indexed and the table option key';

CREATE FOREIGN DATA WRAPPER run_ops_fdw
  HANDLER run_ops.run_ops_fdw_handler
  VALIDATOR run_ops.run_ops_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER run_ops_fdw IS
  'a postgres_fdw that connects when the first row is requested, and can look up rows by columns with the option indexed';
