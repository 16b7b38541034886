
-- wire_stats: what happens on the wires of all sessions.

CREATE FUNCTION run_ops.wire_counters(OUT store text, OUT connections int8, OUT failures int8, OUT pauses int8,
    OUT answers int8, OUT answer_seconds float8, OUT up_to float8[], OUT answers_up_to int8[])
  RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_wire_counters';
COMMENT ON FUNCTION run_ops.wire_counters() IS
  'what all sessions of this database did on their connections to each store, since the server has started; no rows unless run_ops_split is in shared_preload_libraries';

CREATE FUNCTION run_ops.wire_error_counters(OUT store text, OUT sqlstate text, OUT errors int8)
  RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_wire_error_counters';
COMMENT ON FUNCTION run_ops.wire_error_counters() IS
  'how often each store has reported an error to a session of this database, since the server has started; no rows unless run_ops_split is in shared_preload_libraries';

CREATE FUNCTION run_ops.wire_waits(OUT pid int, OUT store text, OUT waits_for text, OUT since timestamptz)
  RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_wire_waits';
COMMENT ON FUNCTION run_ops.wire_waits() IS
  'what each session of this database has last waited for; pg_stat_activity says whether it waits now. No rows unless run_ops_split is in shared_preload_libraries';
