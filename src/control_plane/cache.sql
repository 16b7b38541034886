
-- cache: what the cache of this session holds.

CREATE FUNCTION run_ops.cache_stats(
    OUT slot text, OUT entries bigint, OUT hits bigint, OUT revalidations bigint,
    OUT misses bigint, OUT evictions bigint, OUT cache_bytes bigint)
  RETURNS SETOF record LANGUAGE c VOLATILE
  AS 'MODULE_PATHNAME', 'run_ops_cache_stats';
COMMENT ON FUNCTION run_ops.cache_stats() IS
  'the cache of this session, one row per slot in use: hits without looking at a row, hits after looking at the rows they came from, misses, and entries that made room; cache_bytes is of the whole cache';

CREATE FUNCTION run_ops.cache_reset() RETURNS void LANGUAGE c VOLATILE
  AS 'MODULE_PATHNAME', 'run_ops_cache_reset';
COMMENT ON FUNCTION run_ops.cache_reset() IS
  'empties the cache of this session and sets its counters to 0; never needed for right answers';
