
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

CREATE FUNCTION run_ops.weaker_owner(a regclass, b regclass) RETURNS regclass
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN pg_has_role(x.relowner, y.relowner, 'USAGE') THEN b ELSE a END
    FROM pg_class AS x, pg_class AS y WHERE x.oid = a AND y.oid = b
$$;
COMMENT ON FUNCTION run_ops.weaker_owner(regclass, regclass) IS
  'the one of two tables whose owner should execute a command that reads both: if the owner of a has the rights of the owner of b it is b, so that no owner gains any rights, else a';
