
-- split_mode: whether the views show the other stores.

CREATE TABLE run_ops.split_state (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  enabled   boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE run_ops.split_state IS
  'whether split mode is on in this very database; never dumped, so that a restored copy comes up with split off';
INSERT INTO run_ops.split_state DEFAULT VALUES;
GRANT SELECT ON run_ops.split_state TO PUBLIC;

CREATE FUNCTION run_ops.split_enabled() RETURNS boolean
  LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
  RETURN (SELECT s.enabled FROM run_ops.split_state AS s);
COMMENT ON FUNCTION run_ops.split_enabled() IS 'the read gate: whether split mode is on';
