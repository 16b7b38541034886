\echo Use "ALTER EXTENSION run_ops_split UPDATE" to load this file. \quit

-- New objects belong to the owner of the extension, whoever updates it: functions that
-- are SECURITY DEFINER need its user mappings.
SELECT pg_catalog.set_config('role', pg_catalog.pg_get_userbyid(extowner), true)
  FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'run_ops_split';

-- It is a view now.  What was cached with its epochs is no longer valid.
DROP TABLE run_ops.cache_epoch;

DROP FUNCTION run_ops.missing_guards(text, run_ops.routed_table);

-- new statements

DROP FUNCTION run_ops.ask_ahead(text[], text[], interval);
DROP FUNCTION run_ops.try_lock_held_there(text, bigint);
DROP FUNCTION run_ops.handshake(text);
DROP FUNCTION run_ops.distinct_gate(text);
DROP FUNCTION run_ops.keys_of_range(run_ops.mirror, jsonb, jsonb, boolean);
