
-- resolve_prepared: finishes what atomic commits have left in a store.

CREATE FUNCTION run_ops.resolve_prepared(server name, role oid)
  RETURNS TABLE (name text, prepared_since timestamptz, outcome text)
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_resolve_prepared';
COMMENT ON FUNCTION run_ops.resolve_prepared(name, oid) IS
  'finishes the prepared transactions of this extension in the database of a server that the user of a role''s user mapping may finish; one row for each. Does not check whether this database is a copy.';
REVOKE EXECUTE ON FUNCTION run_ops.resolve_prepared(name, oid) FROM PUBLIC;
