
-- id_shape: which store holds the row of an id, a function of the id's shape.

CREATE TYPE run_ops.residency AS ENUM ('LEGACY', 'NEW');
COMMENT ON TYPE run_ops.residency IS
  'where the row of an id belongs, as the shape of the id says: LEGACY is the local control-plane database, NEW is a run-ops store';

-- This is an enum and not text: it needs four bytes in an index and no
-- allocation per call, and a misspelled kind is an error instead of a condition
-- that is never true.
CREATE TYPE run_ops.id_kind AS ENUM ('cuid', 'ksuid', 'runOpsId');
COMMENT ON TYPE run_ops.id_kind IS
  'the format of an id body: cuid (25 characters), ksuid (27), runOpsId (26, versioned)';

-- Functions that never fail are LEAKPROOF. So a condition on the id can be
-- tested below a security barrier, and through an index.

CREATE FUNCTION run_ops.owner_engine(id text) RETURNS run_ops.residency
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_owner_engine';
COMMENT ON FUNCTION run_ops.owner_engine(text) IS
  'residency of the id; raises RO001 if the id is unclassifiable';

CREATE FUNCTION run_ops.try_owner_engine(id text) RETURNS run_ops.residency
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_try_owner_engine';
COMMENT ON FUNCTION run_ops.try_owner_engine(text) IS
  'residency of the id; NULL if the id is unclassifiable';

CREATE FUNCTION run_ops.is_classifiable(id text) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_is_classifiable';
COMMENT ON FUNCTION run_ops.is_classifiable(text) IS
  'whether the shape of the id says which store holds its row';

CREATE FUNCTION run_ops.classify_kind(id text) RETURNS run_ops.id_kind
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_classify_kind';
COMMENT ON FUNCTION run_ops.classify_kind(text) IS
  'the format of the id; NULL if the id is unclassifiable';

CREATE FUNCTION run_ops.resolve_shard(id text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_resolve_shard';
COMMENT ON FUNCTION run_ops.resolve_shard(text) IS
  'the name of the store that holds the row of the id: the shard character of a version-2 id, new, or legacy; the row of an unclassifiable id belongs in legacy';

CREATE FUNCTION run_ops.resides(id text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_resides';
COMMENT ON FUNCTION run_ops.resides(text, text) IS
  'whether the shape of the id says that its row belongs in the store; the row of a NULL or unclassifiable id belongs in legacy';

CREATE FUNCTION run_ops.residency_condition(id text, store text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_residency_condition';
COMMENT ON FUNCTION run_ops.residency_condition(text, text) IS
  'the condition run_ops.resides(id, store) as SQL that a store without this extension can evaluate; id is an SQL expression of type text; NULL for legacy';
