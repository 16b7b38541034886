
-- read_gate: whether the views show the rows of all stores, and whether this
-- server may use the stores.
--
-- The state is one row.  pg_dump does not dump it: the facts in it were checked
-- for this database only, so a restored copy starts with split off.

CREATE FUNCTION run_ops.server_identity() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_server_identity';
COMMENT ON FUNCTION run_ops.server_identity() IS
  'identifies this server and database and distinguishes them from every copy: system identifier, database, host and data directory';

CREATE FUNCTION run_ops.setting(name text) RETURNS text
  LANGUAGE c STABLE STRICT
  AS 'MODULE_PATHNAME', 'run_ops_setting';
COMMENT ON FUNCTION run_ops.setting(text) IS
  'the value of setting run_ops_split.<name>; loads the library if the session has not loaded it yet';

CREATE TABLE run_ops.split_state (
  singleton       boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  enabled         boolean NOT NULL DEFAULT false,
  identities      text[] NOT NULL DEFAULT '{}',
  opted_in        boolean NOT NULL DEFAULT false,
  native_realtime boolean NOT NULL DEFAULT false,
  superseded      boolean NOT NULL DEFAULT false,
  moving          boolean NOT NULL DEFAULT false,
  changed_at      timestamptz,
  CHECK (NOT (enabled AND (superseded OR moving)))
);
COMMENT ON TABLE run_ops.split_state IS
  'the state of split mode in this database. pg_dump does not dump it, so a restored copy starts with split off.';
COMMENT ON COLUMN run_ops.split_state.singleton IS 'always true: the table has one row';
COMMENT ON COLUMN run_ops.split_state.enabled IS 'whether split mode is on, on the servers listed in identities';
COMMENT ON COLUMN run_ops.split_state.identities IS
  'the servers that may use the stores: the one on which the first store was attached or split was enabled, and trusted standbys';
COMMENT ON COLUMN run_ops.split_state.opted_in IS 'whether the operator has opted in to split mode; until then check_split() does not contact a store';
COMMENT ON COLUMN run_ops.split_state.native_realtime IS
  'whether realtime readers see the rows of every store, as declared by the operator';
COMMENT ON COLUMN run_ops.split_state.superseded IS
  'whether this database has every row while split is off, and the stores have older versions';
COMMENT ON COLUMN run_ops.split_state.moving IS
  'whether run_ops.move_strays() moves local rows to stores that have other rows, after split was disabled with force; of a row that both have, the local version is the newer one';
COMMENT ON COLUMN run_ops.split_state.changed_at IS 'when split mode was last switched on or off';
INSERT INTO run_ops.split_state DEFAULT VALUES;
GRANT SELECT ON run_ops.split_state TO PUBLIC;

CREATE FUNCTION run_ops.split_enabled() RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_split_enabled';
COMMENT ON FUNCTION run_ops.split_enabled() IS
  'whether split mode is on in this database; false in a copy of the database';

CREATE FUNCTION run_ops.refuse_in_copy() RETURNS void
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'run_ops_refuse_in_copy';
COMMENT ON FUNCTION run_ops.refuse_in_copy() IS
  'raises an error if this is a copy of the database in which the stores were attached';
