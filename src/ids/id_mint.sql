
-- id_mint: new ids, the creation time inside an id, and the friendly form.

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
  'a new runOpsId of version 1: 26 characters, NEW; sorts by millisecond; the region is one character of a-z0-9, 0 when NULL';

CREATE FUNCTION run_ops.generate_run_ops_id_v2(shard text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_generate_run_ops_id_v2';
COMMENT ON FUNCTION run_ops.generate_run_ops_id_v2(text) IS
  'a new runOpsId of version 2: 26 characters, NEW, in the shard named by one character of a-z0-9; sorts by millisecond';

CREATE FUNCTION run_ops.id_timestamp(id text) RETURNS timestamptz
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_id_timestamp';
COMMENT ON FUNCTION run_ops.id_timestamp(text) IS
  'the creation time inside the id, NULL where none can be read';

CREATE FUNCTION run_ops.friendly_id(prefix text, body text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_friendly_id';
COMMENT ON FUNCTION run_ops.friendly_id(text, text) IS
  'the id with its prefix, such as run_...; unchanged when it has that prefix already';

CREATE FUNCTION run_ops.id_body(id text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_id_body';
COMMENT ON FUNCTION run_ops.id_body(text) IS
  'what the classification looks at: the id after its first _, or all of it when there is none';
