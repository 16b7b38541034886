
-- cache: statistics of the cache of this session.

CREATE FUNCTION run_ops.cache_stats(
    OUT slot text, OUT entries bigint, OUT hits bigint, OUT revalidations bigint,
    OUT misses bigint, OUT evictions bigint, OUT cache_bytes bigint)
  RETURNS SETOF record LANGUAGE c VOLATILE
  AS 'MODULE_PATHNAME', 'run_ops_cache_stats';
COMMENT ON FUNCTION run_ops.cache_stats() IS
  'statistics of the cache of this session, one row for each slot in use. hits: answered without reading a row; revalidations: answered after reading the rows on which the answer depends; misses: answered by the query; evictions: entries removed to make room. cache_bytes is the size of the entries of all slots.';

CREATE FUNCTION run_ops.cache_reset() RETURNS void LANGUAGE c VOLATILE
  AS 'MODULE_PATHNAME', 'run_ops_cache_reset';
COMMENT ON FUNCTION run_ops.cache_reset() IS
  'empties the cache of this session and sets its counters to 0; never needed for correct answers';
