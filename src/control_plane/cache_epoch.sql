
-- cache_epoch: tells caches outside the database what has changed.
-- Epochs are valid for this database only, so pg_dump dumps neither the table
-- nor the sequence.

CREATE SEQUENCE run_ops.cache_epoch_value;
COMMENT ON SEQUENCE run_ops.cache_epoch_value IS
  'the values of epochs: a sequence never returns a number twice, not even after a rollback';

CREATE TABLE run_ops.committed_epoch (
  scope text,
  key   text,
  epoch bigint NOT NULL,
  CONSTRAINT committed_epoch_pkey PRIMARY KEY (scope, key)
) WITH (fillfactor = 70);
COMMENT ON TABLE run_ops.committed_epoch IS
  'the epochs behind run_ops.cache_epoch, which a transaction writes at its end';
COMMENT ON COLUMN run_ops.committed_epoch.scope IS 'the kind of row';
COMMENT ON COLUMN run_ops.committed_epoch.key IS 'the key of the row, or * for all rows of the scope';
COMMENT ON COLUMN run_ops.committed_epoch.epoch IS 'the number; each transaction that changes the row replaces it by a new one';

CREATE FUNCTION run_ops.pending_epochs() RETURNS TABLE (scope text, key text, epoch bigint)
  LANGUAGE c ROWS 1
  AS 'MODULE_PATHNAME', 'run_ops_pending_epochs';
COMMENT ON FUNCTION run_ops.pending_epochs() IS
  'the keys that this transaction has changed, each with a number that nobody gets again';

CREATE VIEW run_ops.cache_epoch AS
  SELECT scope, key, epoch FROM run_ops.pending_epochs()
  UNION ALL
  SELECT c.scope, c.key, c.epoch FROM run_ops.committed_epoch AS c
   WHERE NOT EXISTS (SELECT FROM run_ops.pending_epochs() AS p
                      WHERE p.scope OPERATOR(pg_catalog.=) c.scope AND p.key OPERATOR(pg_catalog.=) c.key);
COMMENT ON VIEW run_ops.cache_epoch IS
  'a number for each row of the control plane, which changes with the row. A value that is cached together with the epochs of its rows is valid while these epochs are the same. A transaction that has changed a row reads another number each time, so what it caches is never valid.';
COMMENT ON COLUMN run_ops.cache_epoch.scope IS 'the kind of row';
COMMENT ON COLUMN run_ops.cache_epoch.key IS 'the key of the row, or * for all rows of the scope';
COMMENT ON COLUMN run_ops.cache_epoch.epoch IS 'the number; each change replaces it by a new one';
GRANT SELECT ON run_ops.cache_epoch TO PUBLIC;

-- Epochs are written from C, without checking privileges: a role that may write to a
-- control-plane table need not have privileges on run_ops.committed_epoch.
CREATE FUNCTION run_ops.bump_changed() RETURNS trigger LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_bump_changed';
COMMENT ON FUNCTION run_ops.bump_changed() IS
  'trigger with the arguments scope, key column, and resolved columns separated by blanks: gives a new epoch, at the end of the transaction, to the rows whose resolved columns a statement has changed';

REVOKE EXECUTE ON FUNCTION run_ops.bump_changed() FROM PUBLIC;

CREATE FUNCTION run_ops.bump_epoch(scope text, key text) RETURNS void
  LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'run_ops_bump_epoch';
COMMENT ON FUNCTION run_ops.bump_epoch(text, text) IS
  'gives one key a new epoch at the end of the transaction, and notifies channel run_ops_cache';
REVOKE EXECUTE ON FUNCTION run_ops.bump_epoch(text, text) FROM PUBLIC;

-- SECURITY DEFINER: a role can be granted this function alone, without
-- bump_epoch(), which changes epochs of every scope
CREATE FUNCTION run_ops.invalidate_environment(id text) RETURNS void
  LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$ SELECT run_ops.bump_epoch('environment', id) $$;
COMMENT ON FUNCTION run_ops.invalidate_environment(text) IS
  'invalidates an environment in caches outside the database; the cache of the extension does not need this';
REVOKE EXECUTE ON FUNCTION run_ops.invalidate_environment(text) FROM PUBLIC;

-- SECURITY DEFINER for the same reason
CREATE FUNCTION run_ops.invalidate_organization(id text) RETURNS void
  LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$ SELECT run_ops.bump_epoch('organization', id) $$;
COMMENT ON FUNCTION run_ops.invalidate_organization(text) IS
  'invalidates an organization and everything in it in caches outside the database; the cache of the extension does not need this';
REVOKE EXECUTE ON FUNCTION run_ops.invalidate_organization(text) FROM PUBLIC;
