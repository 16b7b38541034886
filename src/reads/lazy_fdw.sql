
-- lazy_fdw: postgres_fdw that connects only when a row is needed.

CREATE FUNCTION run_ops.run_ops_fdw_handler() RETURNS pg_catalog.fdw_handler
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_fdw_handler';
COMMENT ON FUNCTION run_ops.run_ops_fdw_handler() IS
  'handler of run_ops_fdw: postgres_fdw''s, but a scan begins with the first row asked for';

CREATE FUNCTION run_ops.run_ops_fdw_validator(options text[], catalog oid) RETURNS void
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_fdw_validator';
COMMENT ON FUNCTION run_ops.run_ops_fdw_validator(text[], oid) IS
  'validator of run_ops_fdw: every option of postgres_fdw, the column option indexed and the table option key';

CREATE FOREIGN DATA WRAPPER run_ops_fdw
  HANDLER run_ops.run_ops_fdw_handler
  VALIDATOR run_ops.run_ops_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER run_ops_fdw IS
  'postgres_fdw that connects only when a row is needed, and looks up rows by columns declared indexed';
