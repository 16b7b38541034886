
-- seam_pruning: planner support; a plan contains only the stores that can hold
-- the ids a query asks for.

CREATE FUNCTION run_ops.resides_support(internal) RETURNS internal
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_resides_support';
COMMENT ON FUNCTION run_ops.resides_support(internal) IS
  'planner support of run_ops.resides() and run_ops.stored_in(): removes stores that cannot hold the ids asked for from the plan, and refuses FOR UPDATE or SHARE on a union of stores';

ALTER FUNCTION run_ops.resides(text, text) SUPPORT run_ops.resides_support;

CREATE FUNCTION run_ops.resides(id text, store text, same_shape text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF SUPPORT run_ops.resides_support
  AS 'MODULE_PATHNAME', 'run_ops_resides';
COMMENT ON FUNCTION run_ops.resides(text, text, text) IS
  'the same as run_ops.resides(id, store); the third argument tells the planner another column whose conditions select a store: see run_ops.declare_same_shape()';

CREATE FUNCTION run_ops.stored_in(named text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF SUPPORT run_ops.resides_support
  AS 'MODULE_PATHNAME', 'run_ops_stored_in';
COMMENT ON FUNCTION run_ops.stored_in(text, text) IS
  'whether a key rule has named this store; a rule that gives NULL names legacy; views have it as their filter';

CREATE FUNCTION run_ops.resides_selectivity(internal) RETURNS internal
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_resides_selectivity';
COMMENT ON FUNCTION run_ops.resides_selectivity(internal) IS
  'planner support of run_ops.id_resides() and run_ops.id_stored_in(): estimates that they are true for every row';

CREATE FUNCTION run_ops.refuse_locks_support(internal) RETURNS internal
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_refuse_locks_support';
COMMENT ON FUNCTION run_ops.refuse_locks_support(internal) IS
  'planner support of run_ops.refuse_locks()';

-- These functions replace resides() and stored_in() in a plan. The planner does not simplify
-- them again.

CREATE FUNCTION run_ops.id_resides(id text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF SUPPORT run_ops.resides_selectivity
  AS 'MODULE_PATHNAME', 'run_ops_resides';
COMMENT ON FUNCTION run_ops.id_resides(text, text) IS
  'the same as run_ops.resides(); replaces it in plans after pruning';

CREATE FUNCTION run_ops.any_id_resides(ids text[], store text) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_any_id_resides';
COMMENT ON FUNCTION run_ops.any_id_resides(text[], text) IS
  'whether one of the ids belongs in the store; a plan tests it before it queries the store for a set of ids';

CREATE FUNCTION run_ops.own_ids(ids text[], store text) RETURNS text[]
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_own_ids';
COMMENT ON FUNCTION run_ops.own_ids(text[], text) IS
  'those of the ids that belong in the store; a plan sends only these to the store';

CREATE FUNCTION run_ops.id_stored_in(named text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF SUPPORT run_ops.resides_selectivity
  AS 'MODULE_PATHNAME', 'run_ops_stored_in';
COMMENT ON FUNCTION run_ops.id_stored_in(text, text) IS
  'the same as run_ops.stored_in(); replaces it in plans after pruning';

CREATE FUNCTION run_ops.any_stored_in(stored boolean[], store text) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_any_stored_in';
COMMENT ON FUNCTION run_ops.any_stored_in(boolean[], text) IS
  'whether one of several ids is one of the store by a key rule; a plan tests it before it queries the store for a set of ids';

CREATE FUNCTION run_ops.refuse_locks("any") RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE SUPPORT run_ops.refuse_locks_support
  AS 'MODULE_PATHNAME', 'run_ops_refuse_locks';
COMMENT ON FUNCTION run_ops.refuse_locks("any") IS
  'always true; as a condition on a column of a union it makes FOR UPDATE or SHARE an error, because they would lock nothing there';
