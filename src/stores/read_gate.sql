
-- read_gate: whether the views show the other stores, and whether this server
-- may use them.
--
-- The state is one row.  It is never dumped: what it says was proven about
-- this very database, so a restored copy comes up without it.

CREATE FUNCTION run_ops.server_identity() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_server_identity';
COMMENT ON FUNCTION run_ops.server_identity() IS
  'what tells this server and database from every copy of them: system identifier, database, host, data directory';

CREATE FUNCTION run_ops.setting(name text) RETURNS text
  LANGUAGE c STABLE STRICT
  AS 'MODULE_PATHNAME', 'run_ops_setting';
COMMENT ON FUNCTION run_ops.setting(text) IS
  'a setting run_ops_split.<name>, also in a session that has not loaded the library yet';

CREATE TABLE run_ops.split_state (
  singleton       boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  enabled         boolean NOT NULL DEFAULT false,
  identities      text[] NOT NULL DEFAULT '{}',
  opted_in        boolean NOT NULL DEFAULT false,
  native_realtime boolean NOT NULL DEFAULT false,
  superseded      boolean NOT NULL DEFAULT false,
  changed_at      timestamptz,
  CHECK (NOT (enabled AND superseded))
);
COMMENT ON TABLE run_ops.split_state IS
  'whether split mode is on in this very database; never dumped, so that a restored copy comes up with split off';
COMMENT ON COLUMN run_ops.split_state.singleton IS 'there is one row';
COMMENT ON COLUMN run_ops.split_state.enabled IS 'split mode is on, on the servers that identities names';
COMMENT ON COLUMN run_ops.split_state.identities IS
  'servers that may use the stores: where they were attached or split was enabled, and trusted standbys';
COMMENT ON COLUMN run_ops.split_state.opted_in IS 'split mode is wanted, as the operator says; before that no store is asked';
COMMENT ON COLUMN run_ops.split_state.native_realtime IS
  'realtime readers see the rows of every store, as the operator says';
COMMENT ON COLUMN run_ops.split_state.superseded IS
  'split is off and this database holds every row; what the stores hold is older';
COMMENT ON COLUMN run_ops.split_state.changed_at IS 'when split mode was last switched on or off';
INSERT INTO run_ops.split_state DEFAULT VALUES;
GRANT SELECT ON run_ops.split_state TO PUBLIC;

CREATE FUNCTION run_ops.split_enabled() RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_split_enabled';
COMMENT ON FUNCTION run_ops.split_enabled() IS
  'the read gate: whether split mode is on in this database; false in a copy of it';

CREATE FUNCTION run_ops.refuse_in_copy() RETURNS void
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'run_ops_refuse_in_copy';
COMMENT ON FUNCTION run_ops.refuse_in_copy() IS
  'raises an error in a copy of the database that the stores were attached in';
