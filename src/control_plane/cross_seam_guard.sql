
-- cross_seam_guard: the store in which a waitpoint is unblocked, and the store of
-- a new waitpoint.

CREATE TYPE run_ops.route_kind AS ENUM ('MANUAL', 'DATETIME', 'RESUME_TOKEN', 'IDEMPOTENCY_REUSE', 'RUN');
COMMENT ON TYPE run_ops.route_kind IS
  'why a waitpoint is unblocked';

CREATE VIEW run_ops.unblock_route AS
  SELECT site, kind::run_ops.route_kind AS route_kind, symbol
    FROM (VALUES
      ('index.public',                 'RESUME_TOKEN',      'completeWaitpoint of the engine'),
      ('index.public.delegate',        'RESUME_TOKEN',      'completeWaitpoint, delegated to the waitpoint system'),
      ('index.finishWaitpoint',        'DATETIME',          'job finishWaitpoint'),
      ('wp.sink',                      'RUN',               'completeWaitpoint of the waitpoint system'),
      ('wp.blockAndComplete',          'RUN',               'blockRunAndCompleteWaitpoint'),
      ('wp.getOrCreate',               'IDEMPOTENCY_REUSE', 'getOrCreateRunWaitpoint'),
      ('batch.tryCompleteBatch',       'RUN',               'tryCompleteBatch'),
      ('batch.expireBatch',            'RUN',               'expireBatch'),
      ('ttl.expireRun',                'RUN',               'expireRun'),
      ('runAttempt.succeeded',         'RUN',               'attemptSucceeded'),
      ('runAttempt.cancel',            'RUN',               'cancelRun'),
      ('runAttempt.permanentlyFail',   'RUN',               'permanentlyFailRun'))
      AS route (site, kind, symbol);
COMMENT ON VIEW run_ops.unblock_route IS
  'the places in the run engine that unblock a waitpoint, and the route kind that each passes to resolve_unblock_store()';

CREATE VIEW run_ops.read_route AS
  SELECT t.view, c.name AS column_name,
         CASE WHEN c.name OPERATOR(pg_catalog.=) ANY (ARRAY[t.route_column, t.same_shape]) THEN 'owner' ELSE 'every store' END AS stores
    FROM run_ops.routed_table AS t,
         LATERAL (SELECT t.route_column UNION SELECT t.same_shape UNION SELECT pg_catalog.unnest(t.key_columns)) AS c (name)
   WHERE c.name IS NOT NULL;
COMMENT ON VIEW run_ops.read_route IS
  'which stores a lookup through a view queries: only the owner of the row, or every store. A lookup by a column that is not listed queries every store.';
GRANT SELECT ON run_ops.unblock_route, run_ops.read_route TO PUBLIC;

CREATE FUNCTION run_ops.resolve_unblock_store(
    INOUT route_kind text, waitpoint_id text,
    tree_owner run_ops.residency DEFAULT NULL,
    cross_tree_idempotency boolean DEFAULT false,
    legacy_parent boolean DEFAULT false,
    OUT store text, OUT residency run_ops.residency, OUT pinned_reason text)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  IF NOT run_ops.split_enabled() THEN
    store := 'legacy';
    residency := 'LEGACY';
    RETURN;
  END IF;
  IF route_kind IS NULL OR route_kind <> ALL (enum_range(NULL::run_ops.route_kind)::text[]) THEN
    RAISE EXCEPTION 'unknown route kind %', coalesce(quote_literal(route_kind), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = format('Route kinds are %s.', array_to_string(enum_range(NULL::run_ops.route_kind), ', ')),
            HINT = 'SELECT * FROM run_ops.unblock_route;';
  ELSIF waitpoint_id IS NULL THEN
    RAISE EXCEPTION 'waitpoint id is NULL' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  residency := run_ops.owner_engine(waitpoint_id);
  pinned_reason := CASE WHEN tree_owner = 'LEGACY' THEN 'non-tree-owned'
                        WHEN cross_tree_idempotency THEN 'cross-tree-idempotency'
                        WHEN legacy_parent THEN 'legacy-parent-descendant' END;
  store := CASE WHEN pinned_reason IS NULL THEN run_ops.resolve_shard(waitpoint_id) ELSE 'legacy' END;
END $$;
COMMENT ON FUNCTION run_ops.resolve_unblock_store(text, text, run_ops.residency, boolean, boolean) IS
  'the store in which to unblock a waitpoint, the residency of its id, and the reason if it is pinned to legacy. While split is on, raises an error for an unknown route kind or an unclassifiable id.';

CREATE FUNCTION run_ops.select_store_for_waitpoint(
    waiting_run_id text, completed_by_run_id text DEFAULT NULL, completed_by_batch_id text DEFAULT NULL)
  RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  owner_id text := coalesce(waiting_run_id, completed_by_run_id, completed_by_batch_id);
BEGIN
  IF owner_id IS NULL OR NOT run_ops.split_enabled() THEN
    RETURN 'legacy';
  END IF;
  PERFORM run_ops.owner_engine(owner_id);  -- raises an error if the id is unclassifiable
  RETURN run_ops.resolve_shard(owner_id);
END $$;
COMMENT ON FUNCTION run_ops.select_store_for_waitpoint(text, text, text) IS
  'the store of a new waitpoint: that of the waiting run, otherwise that of the run or batch that completes it, otherwise legacy. Raises an error for an unclassifiable id while split is on.';

CREATE FUNCTION run_ops.mint_waitpoint_id(run_id text) RETURNS text
  LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  shard text := run_ops.resolve_shard(run_id);
BEGIN
  PERFORM run_ops.owner_engine(run_id);  -- raises an error if the id is unclassifiable
  RETURN CASE run_ops.classify_kind(run_id)
    WHEN 'cuid' THEN run_ops.generate_cuid()
    WHEN 'ksuid' THEN run_ops.generate_ksuid()
    ELSE CASE WHEN length(shard) = 1 THEN run_ops.generate_run_ops_id_v2(shard)
              ELSE run_ops.generate_run_ops_id() END END;
END $$;
COMMENT ON FUNCTION run_ops.mint_waitpoint_id(text) IS
  'generates an id of the same kind and shard as the id of the run. A row with this id is inserted into the store of the run; use it for Waitpoint and other tables with routing "store".';
