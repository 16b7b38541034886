
-- rights: whose rights a command runs with.

CREATE FUNCTION run_ops.as_owner(relation regclass, command text, VARIADIC arguments "any") RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_as_owner';
CREATE FUNCTION run_ops.as_owner(relation regclass, command text) RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_as_owner';
COMMENT ON FUNCTION run_ops.as_owner(regclass, text, "any") IS
  'executes a command with access to tables as the caller, while triggers, casts, checks and whatever else the owner of the relation has attached run as that owner; without the rights of the owner, all runs as the caller';
COMMENT ON FUNCTION run_ops.as_owner(regclass, text) IS
  'run_ops.as_owner() of a command without arguments';
