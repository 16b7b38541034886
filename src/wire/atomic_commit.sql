
-- atomic_commit: transactions that write to several databases and commit in all
-- of them or in none.

CREATE FUNCTION run_ops.prepared_outcome(name text) RETURNS text
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_prepared_outcome';
COMMENT ON FUNCTION run_ops.prepared_outcome(text) IS
  'what this database knows of the transaction under whose name a store has prepared its part: "committed", "rolled back", "in progress", or "undecided: " and why';
REVOKE EXECUTE ON FUNCTION run_ops.prepared_outcome(text) FROM PUBLIC;
