
-- seam_pruning: planner support, so that only the store is planned that can
-- hold the ids a query asks for.

CREATE FUNCTION run_ops.resides_support(internal) RETURNS internal
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_resides_support';
COMMENT ON FUNCTION run_ops.resides_support(internal) IS
  'planner support of run_ops.resides(): leaves out stores that cannot hold the ids asked for, and refuses FOR UPDATE or SHARE on a union of stores';

ALTER FUNCTION run_ops.resides(text, text) SUPPORT run_ops.resides_support;

CREATE FUNCTION run_ops.resides_selectivity(internal) RETURNS internal
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_resides_selectivity';
COMMENT ON FUNCTION run_ops.resides_selectivity(internal) IS
  'planner support of run_ops.id_resides(): nearly every row is where it belongs';

CREATE FUNCTION run_ops.refuse_locks_support(internal) RETURNS internal
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_refuse_locks_support';
COMMENT ON FUNCTION run_ops.refuse_locks_support(internal) IS
  'planner support of run_ops.refuse_locks()';

-- What the planner puts in place of resides(): they are not looked at
-- again, so they may stand in a plan.

CREATE FUNCTION run_ops.id_resides(id text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF SUPPORT run_ops.resides_selectivity
  AS 'MODULE_PATHNAME', 'run_ops_resides';
COMMENT ON FUNCTION run_ops.id_resides(text, text) IS
  'run_ops.resides() as it stands in a plan, after pruning';

CREATE FUNCTION run_ops.any_id_resides(ids text[], store text) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_any_id_resides';
COMMENT ON FUNCTION run_ops.any_id_resides(text[], text) IS
  'whether one of the ids belongs into the store; stands in a plan before a store is asked for a set of ids';

CREATE FUNCTION run_ops.own_ids(ids text[], store text) RETURNS text[]
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_own_ids';
COMMENT ON FUNCTION run_ops.own_ids(text[], text) IS
  'those of the ids that belong into the store; what a store is asked for of a set of ids';

CREATE FUNCTION run_ops.refuse_locks("any") RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE SUPPORT run_ops.refuse_locks_support
  AS 'MODULE_PATHNAME', 'run_ops_refuse_locks';
COMMENT ON FUNCTION run_ops.refuse_locks("any") IS
  'true; as a condition on a column of a union it makes FOR UPDATE or SHARE an error, which would lock nothing there';
