
-- id_shape: where the row of an id lives, told from the shape of the id alone.

CREATE FUNCTION run_ops.resides(id text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE SUPPORT run_ops.resides_support
  AS 'MODULE_PATHNAME', 'run_ops_resides';
COMMENT ON FUNCTION run_ops.resides(text, text) IS
  'whether the shape of the id says that its row belongs into the store; a NULL or unclassifiable id belongs to legacy';
