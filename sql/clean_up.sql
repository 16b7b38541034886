-- The last test drops the databases and roles of the tests before it, so that
-- nothing of them is left in a server where the extension is tried.
\set ECHO none
\getenv store_host RUN_OPS_STORE_HOST
\getenv store_port RUN_OPS_STORE_PORT
\set legacy_host :HOST
\set legacy_port :PORT
\connect postgres
\o /dev/null
\i test/fixtures/drop_databases.sql
\o
SELECT count(*) AS databases_left FROM pg_database WHERE pg_get_userbyid(datdba) = current_user
   AND (datname ~ '^(mint_|regress_)' OR shobj_description(oid, 'pg_database') LIKE '%run_ops_split%');
SELECT count(*) AS roles_left FROM pg_roles WHERE rolname ~ '^(regress_|run_ops_fdw_reader)';
\if :{?store_port}
\connect postgres - :store_host :store_port
\o /dev/null
\i test/fixtures/drop_databases.sql
\o
\endif
