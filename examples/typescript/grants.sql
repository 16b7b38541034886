-- The privileges that the role of the application needs in addition to those on
-- the tables.  attach_all_tables() grants the privileges on a table on its view
-- as well.
GRANT USAGE ON SCHEMA routed, run_ops TO app;
GRANT SELECT ON run_ops.split_status TO app;
GRANT EXECUTE ON FUNCTION run_ops.resolve_authenticated_env(text) TO app;
