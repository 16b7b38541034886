
-- cache_epoch: telling caches outside the database what has changed.
-- What was proven about this very database does not travel with a dump, so
-- neither table nor sequence is marked for it.

CREATE SEQUENCE run_ops.cache_epoch_value;
COMMENT ON SEQUENCE run_ops.cache_epoch_value IS
  'epochs; a sequence never gives a number twice, not even after a rollback';

CREATE TABLE run_ops.cache_epoch (
  scope text,
  key   text,
  epoch bigint NOT NULL,
  CONSTRAINT cache_epoch_pkey PRIMARY KEY (scope, key)
) WITH (fillfactor = 70);
COMMENT ON TABLE run_ops.cache_epoch IS
  'a number per row of the control plane that changes with the row: a value remembered with the epochs of its rows holds while they are the same; key * stands for all keys of the scope';
COMMENT ON COLUMN run_ops.cache_epoch.scope IS 'the kind of row';
COMMENT ON COLUMN run_ops.cache_epoch.key IS 'the key of the row, or * for all of the scope';
COMMENT ON COLUMN run_ops.cache_epoch.epoch IS 'the number; it is replaced, never counted up';
GRANT SELECT ON run_ops.cache_epoch TO PUBLIC;

-- Writes epochs below privileges and search_path: who may write a control-plane
-- table need not be allowed to write epochs at will.
CREATE FUNCTION run_ops.bump_changed() RETURNS trigger LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_bump_changed';
COMMENT ON FUNCTION run_ops.bump_changed() IS
  'trigger (scope, key column, resolved columns in one text): bumps the epochs of the rows whose resolved columns a statement has changed';

REVOKE EXECUTE ON FUNCTION run_ops.bump_changed() FROM PUBLIC;

CREATE FUNCTION run_ops.bump_epoch(scope text, key text) RETURNS void
  LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'run_ops_bump_epoch';
COMMENT ON FUNCTION run_ops.bump_epoch(text, text) IS
  'gives one key a new epoch and tells the listeners of run_ops_cache at commit';
REVOKE EXECUTE ON FUNCTION run_ops.bump_epoch(text, text) FROM PUBLIC;

-- SECURITY DEFINER: may be granted alone, without bump_epoch() for any scope
CREATE FUNCTION run_ops.invalidate_environment(id text) RETURNS void
  LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$ SELECT run_ops.bump_epoch('environment', id) $$;
COMMENT ON FUNCTION run_ops.invalidate_environment(text) IS
  'makes caches outside the database forget an environment; the cache of the extension needs no telling';
REVOKE EXECUTE ON FUNCTION run_ops.invalidate_environment(text) FROM PUBLIC;

-- SECURITY DEFINER: as above
CREATE FUNCTION run_ops.invalidate_organization(id text) RETURNS void
  LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$ SELECT run_ops.bump_epoch('organization', id) $$;
COMMENT ON FUNCTION run_ops.invalidate_organization(text) IS
  'makes caches outside the database forget everything of an organization, and nothing of any other';
REVOKE EXECUTE ON FUNCTION run_ops.invalidate_organization(text) FROM PUBLIC;
