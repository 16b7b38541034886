
-- id_mint: generates ids, reads the creation time in an id, adds a prefix.

CREATE FUNCTION run_ops.generate_cuid() RETURNS text
  LANGUAGE c VOLATILE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_generate_cuid';
COMMENT ON FUNCTION run_ops.generate_cuid() IS
  'a new cuid: 25 characters, LEGACY; sorts roughly by millisecond';

CREATE FUNCTION run_ops.generate_ksuid() RETURNS text
  LANGUAGE c VOLATILE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_generate_ksuid';
COMMENT ON FUNCTION run_ops.generate_ksuid() IS
  'a new ksuid: 27 characters, NEW; sorts by second under COLLATE "C"';

CREATE FUNCTION run_ops.generate_run_ops_id(region text DEFAULT '0') RETURNS text
  LANGUAGE c VOLATILE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_generate_run_ops_id';
COMMENT ON FUNCTION run_ops.generate_run_ops_id(text) IS
  'a new runOpsId of version 1: 26 characters, NEW; sorts by millisecond; the region is one character of a-z0-9; NULL means 0, an unknown region';

CREATE FUNCTION run_ops.generate_run_ops_id_v2(shard text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_generate_run_ops_id_v2';
COMMENT ON FUNCTION run_ops.generate_run_ops_id_v2(text) IS
  'a new runOpsId of version 2: 26 characters, NEW; belongs in the shard, which is one character of a-z0-9; sorts by millisecond';

CREATE FUNCTION run_ops.id_timestamp(id text) RETURNS timestamptz
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_id_timestamp';
COMMENT ON FUNCTION run_ops.id_timestamp(text) IS
  'the creation time in the id; NULL if the id has none';

CREATE FUNCTION run_ops.friendly_id(prefix text, body text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_friendly_id';
COMMENT ON FUNCTION run_ops.friendly_id(text, text) IS
  'the id with the prefix, such as run_...; unchanged if it has that prefix already';

CREATE FUNCTION run_ops.id_body(id text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_id_body';
COMMENT ON FUNCTION run_ops.id_body(text) IS
  'the part of the id that is classified: what follows the first _, or the whole id if it has none';
