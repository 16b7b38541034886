-- What the role of the application needs besides its rights on the tables,
-- which the views take over when they are made.
GRANT USAGE ON SCHEMA run_ops TO app;
GRANT SELECT ON run_ops.split_status TO app;
GRANT EXECUTE ON FUNCTION run_ops.resolve_authenticated_env(text) TO app;
