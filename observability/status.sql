-- One screen that says how split mode is doing.  In psql:
--
--   \i observability/status.sql                 once
--   \set every 2
--   \i observability/status.sql                 again every 2 seconds, until Ctrl-C; as scripts/dashboard does
--
-- \set color off leaves the colors out; \set columns 120 makes the lines as long,
-- instead of 80.  Nothing is written and no table is read in full: gates that need
-- that are shown as run_ops.record_check() found them last.  The role needs
-- pg_monitor.
\if :{?color} \else \set color on \endif
\if :{?columns} \else \set columns 80 \endif
SELECT current_setting('server_encoding') = 'UTF8' AS unicode, CASE WHEN :columns >= 120 THEN 120 ELSE 80 END AS width \gset
\if :unicode
\set full '█'
\set empty '░'
\set good '●'
\set bad '✗'
\set arrow '→'
\set dot '·'
\else
\set full '#'
\set empty '-'
\set good '*'
\set bad 'x'
\set arrow '->'
\set dot '.'
\endif
\if :{?every}
\pset format unaligned
\pset tuples_only on
\pset pager off
\endif
-- Colors are one character each until a line has been cut to its width.
\set green '\001'
\set red '\002'
\set yellow '\003'
\set bold '\004'
\set plain '\005'
-- The session keeps the counters of the last refresh in a setting of its own.
WITH split AS (
  SELECT s.*, CASE s.split WHEN 'on' THEN :'green' WHEN 'off' THEN :'yellow' ELSE :'red' END AS color
    FROM run_ops.split_status AS s
), routing AS MATERIALIZED (
  SELECT * FROM run_ops.stat_routing
), stores AS MATERIALIZED (
  SELECT row_number() OVER (ORDER BY s.server IS NOT NULL, s.store <> 'new', s.store) AS ord, s.*, r.reads, r.writes, r.hit_ratio, w.answers, w.answer_seconds, w.failures
    FROM run_ops.stat_stores AS s
    LEFT JOIN (SELECT store, sum(rows_read) AS reads, sum(rows_inserted + rows_updated + rows_deleted) AS writes,
                      sum(blocks_hit) / nullif(sum(blocks_hit + blocks_read), 0) AS hit_ratio
                 FROM routing GROUP BY store) AS r USING (store)
    LEFT JOIN run_ops.stat_wire AS w USING (store)
), refresh AS MATERIALIZED (
  SELECT nullif(current_setting('run_ops_dashboard.last', true), '')::jsonb AS last,
         jsonb_build_object('at', extract(epoch FROM clock_timestamp()), 'stores', jsonb_object_agg(store,
           jsonb_build_object('reads', reads, 'writes', writes, 'answers', answers, 'seconds', answer_seconds))) AS this
    FROM stores
), remembered AS MATERIALIZED (
  SELECT set_config('run_ops_dashboard.last', this::text, false) FROM refresh
), change AS (
  -- since the last refresh; on the first one since the counters were reset
  SELECT s.store, c.name,
         CASE WHEN refresh.last IS NULL THEN c.now WHEN c.now >= c.before THEN c.now - c.before END AS value,
         CASE WHEN refresh.last IS NULL THEN 1 ELSE (this ->> 'at')::numeric - (refresh.last ->> 'at')::numeric END AS seconds
    FROM stores AS s, refresh,
         LATERAL (SELECT k.name, (this #>> ARRAY['stores', s.store, k.name])::numeric, (last #>> ARRAY['stores', s.store, k.name])::numeric
                    FROM unnest(ARRAY['reads', 'writes', 'answers', 'seconds']) AS k (name)) AS c (name, now, before)
), figure AS (
  SELECT store, name, value FROM (
    SELECT c.store, c.name, c.value / nullif(c.seconds, 0) FROM change AS c
    UNION ALL
    SELECT s.store, k.name, k.value FROM stores AS s, LATERAL (VALUES ('rows', s.rows), ('failures', s.failures), ('prepared', s.prepared)) AS k (name, value)
     WHERE s.up) AS f (store, name, value)
), text_of AS (
  SELECT store, jsonb_object_agg(name, CASE WHEN value < 10 AND value <> trunc(value) THEN to_char(value, 'FM90.0')
                                            WHEN value < 1e6 THEN to_char(value, 'FM999,990')
                                            WHEN value < 1e9 THEN to_char(value / 1e3, 'FM999,990"k"')
                                            ELSE to_char(value / 1e6, 'FM999,999,990"M"') END) AS f
    FROM figure GROUP BY store
), gates AS MATERIALIZED (
  SELECT * FROM run_ops.stat_gates
), waits AS MATERIALIZED (
  SELECT w.*, row_number() OVER (ORDER BY w.since, w.pid) AS ord FROM run_ops.stat_waits AS w
), remote AS MATERIALIZED (
  SELECT s.ord, s.store, c.age, c.state, c.application_name, s.prepared, s.oldest_prepared
    FROM stores AS s
    LEFT JOIN (SELECT DISTINCT ON (store) store, state, application_name, date_trunc('second', clock_timestamp() - oldest_transaction) AS age
                 FROM run_ops.stat_connections WHERE oldest_transaction < clock_timestamp() - interval '1 second'
                ORDER BY store, oldest_transaction) AS c USING (store)
   WHERE s.server IS NOT NULL AND (c.age IS NOT NULL OR s.prepared > 0)
), flips AS MATERIALIZED (
  SELECT f.*, row_number() OVER (ORDER BY f.becomes_at, f.organization) AS ord FROM run_ops.mint_flips() AS f
), work AS MATERIALIZED (
  SELECT p.*, row_number() OVER (ORDER BY p.error IS NULL, p.changed_at DESC, p.object, p.store) AS ord
    FROM run_ops.stat_progress AS p WHERE p.operation = 'cleanup'
), tables AS MATERIALIZED (
  SELECT *, row_number() OVER (ORDER BY legacy + stored DESC NULLS LAST, greatest(legacy, stored) DESC NULLS LAST, view) AS ord
    FROM (SELECT c.relname AS view, sum(r.rows) FILTER (WHERE store = 'legacy') AS legacy, bool_or(r.rows IS NULL AND s.up) AS never,
                 -- of all stores or of none
                 CASE WHEN bool_and(r.rows IS NOT NULL) FILTER (WHERE store <> 'legacy') THEN sum(r.rows) FILTER (WHERE store <> 'legacy') END AS stored,
                 bool_and(s.up) AS up
            FROM routing AS r JOIN stores AS s USING (store) JOIN pg_class AS c ON c.oid = r.view GROUP BY r.view, c.relname) AS t
), line (section, ord, text) AS (
  SELECT 1, 0, :'bold' || rpad(format(' run_ops_split %s   %s', (SELECT concat(e.extversion, ' (' || nullif(a.default_version, e.extversion) || ' is installed)')
                                                                                    FROM pg_extension AS e LEFT JOIN pg_available_extensions AS a ON a.name = e.extname WHERE e.extname = 'run_ops_split'), current_database()),
                               :width - 20) || to_char(clock_timestamp(), ' YYYY-MM-DD HH24:MI:SS')
  UNION ALL
  SELECT 1, 1, format(' split is %s%s%s%s, %s tables, stores: %s', color || :'bold', upper(split), :'plain',
                      CASE WHEN reason IS NULL THEN ' since ' || to_char(changed_at, 'YYYY-MM-DD HH24:MI') END,
                      routed_tables, array_to_string('legacy'::text || stores, ', ')) FROM split
  UNION ALL SELECT 1, 2, '   ' || reason FROM split WHERE reason IS NOT NULL
  UNION ALL SELECT 2, 0, ''
  UNION ALL
  SELECT 2, 1, format('%s %-11s%-8s%8s%9s%10s%8s%8s%8s%9s%6s%9s%10s%12s', :'bold', 'STORE', 'STATE', 'ROWS', 'SIZE', 'CONNS',
                      'READ' || per, 'WRITE' || per, 'ANSW' || per, 'MEAN', 'HIT', 'FAILED', 'PREPARED', 'CONTACT')
    FROM (SELECT CASE WHEN last IS NULL THEN '' ELSE '/S' END FROM refresh) AS r (per)
  UNION ALL
  SELECT 2, 1 + ord, format(' %s %-9s%-8s%s%8s%9s%10s%8s%8s%8s%9s%6s%9s%10s%12s',
                            CASE WHEN up THEN :'green' || :'good' || :'plain' ELSE :'red' || :'bad' END, left(store, 9),
                            CASE WHEN NOT up THEN 'DOWN' WHEN in_recovery THEN 'standby' ELSE 'up' END, :'plain',
                            coalesce(f ->> 'rows', CASE WHEN up THEN 'unknown' END, :'dot'), coalesce(pg_size_pretty(bytes), :'dot'),
                            coalesce(connections || '/' || max_connections, :'dot'), coalesce(f ->> 'reads', :'dot'), coalesce(f ->> 'writes', :'dot'),
                            coalesce(f ->> 'answers', :'dot'), coalesce(m.mean, :'dot'), coalesce(to_char(100 * hit_ratio, 'FM990"%"'), :'dot'),
                            coalesce(f ->> 'failures', :'dot'), coalesce(f ->> 'prepared', :'dot'),
                            CASE WHEN up THEN 'now' ELSE coalesce(to_char(last_contact, 'HH24:MI:SS'), '-') END)
    FROM stores JOIN text_of USING (store),
         LATERAL (SELECT CASE WHEN ms < 1000 THEN to_char(ms, 'FM990.0" ms"') ELSE to_char(ms / 1000, 'FM99990.0" s"') END
                    FROM (SELECT 1000 * max(value) FILTER (WHERE name = 'seconds') / nullif(max(value) FILTER (WHERE name = 'answers'), 0)
                            FROM change WHERE change.store = stores.store) AS a (ms)) AS m (mean)
  UNION ALL
  SELECT 2, 1 + s.ord + 0.1 * n, '   ' || :'red' || part[1]
    FROM stores AS s, regexp_matches(last_error, '(.{1,' || :width - 4 || '})(?:\s|$)', 'g') WITH ORDINALITY AS p (part, n) WHERE NOT up AND n <= 3
  UNION ALL SELECT 3, 0, ''
  UNION ALL
  SELECT 3, 1, format(' %sWAITING%s   %s', :'bold', :'plain',
                      CASE WHEN count(*) = 0 THEN 'no session waits for a store'
                           ELSE format('%s%s waiting for a store%s, the first for %s', :'yellow', count(*), :'plain',
                                       greatest(date_trunc('second', clock_timestamp() - min(since)), '0')) END) FROM waits
  UNION ALL
  SELECT 3, 1 + ord, format('   %-8s %-9s%-11s%8s  %s', pid, coalesce(left(store, 8), '?'), waits_for, greatest(date_trunc('second', clock_timestamp() - since), '0'),
                            regexp_replace(query, '\s+', ' ', 'g')) FROM waits WHERE ord <= 5
  UNION ALL SELECT 3, 7, format('   %s more', count(*) - 5) FROM waits HAVING count(*) > 5
  UNION ALL
  SELECT 3, 8, format(' %sREMOTE%s    no transaction is older than a second or prepared', :'bold', :'plain') WHERE NOT EXISTS (SELECT FROM remote)
  UNION ALL
  SELECT 3, 8 + ord, format(' %s%-10s%s%s: %s', :'bold', CASE WHEN row_number() OVER (ORDER BY ord) = 1 THEN 'REMOTE' END, :'plain', store,
                            concat_ws('; ', 'oldest transaction ' || age || ', ' || concat_ws(', ', state, nullif(application_name, '')),
                                      CASE WHEN prepared > 0 THEN format('%s%s in doubt%s, prepared for %s', :'red', prepared, :'plain', date_trunc('second', oldest_prepared)) END))
    FROM remote
  UNION ALL
  -- columns that 0.1.0 does not have
  SELECT 3, 1000, format(' %sLOCKS%s     %s', :'bold', :'plain', string_agg(format('%s: %s%s waiting%s, the first for %s', store, :'yellow', w.n, :'plain', date_trunc('second', w.longest)), '   ' ORDER BY ord))
    FROM stores, LATERAL (SELECT (to_jsonb(stores) ->> 'lock_waits')::int AS n, (to_jsonb(stores) ->> 'longest_lock_wait')::interval AS longest) AS w
   WHERE w.n > 0 HAVING count(*) > 0
  UNION ALL
  SELECT 4, 1, format(' %sGATES%s     %s %s hold   %s   %s', :'bold', :'plain', :'green' || :'good' || :'plain', count(*) FILTER (WHERE ok),
                      CASE WHEN bool_and(ok) THEN 'none fails' ELSE :'red' || :'bad' || ' ' || count(*) FILTER (WHERE ok IS NOT TRUE) || ' fail' || :'plain' END,
                      'stores and strays as of ' || to_char(min(checked_at) FILTER (WHERE gate = 'reachable'), 'YYYY-MM-DD HH24:MI')) FROM gates
  UNION ALL
  SELECT 4, 2, '   stores and strays were not checked yet: SELECT run_ops.record_check()' WHERE NOT EXISTS (SELECT FROM gates WHERE gate = 'reachable')
  UNION ALL
  SELECT * FROM (SELECT 4, 2 + row_number() OVER (ORDER BY gate, object), format('   %s%s %-12s%s %s: %s', :'red', :'bad', gate, :'plain', object, detail)
    FROM gates WHERE ok IS NOT TRUE AND gate <> 'strays' ORDER BY 2 LIMIT 6) AS failing
  UNION ALL
  SELECT 4, 9, format(' %sSTRAYS%s    %s', :'bold', :'plain',
                      coalesce(:'red' || string_agg(concat_ws(': ', nullif(object, ''), detail), ', ' ORDER BY object) FILTER (WHERE ok IS NOT TRUE),
                               CASE WHEN count(*) > 0 THEN 'none' ELSE 'not counted' END)) FROM gates WHERE gate = 'strays'
  UNION ALL
  SELECT 5, 0, format(' %sMINTING%s   %s, grace %s   %s', :'bold', :'plain',
                      CASE WHEN run_ops.setting('mint_enabled')::boolean THEN 'flags are read' ELSE 'flags are not read: cuid' END,
                      run_ops.setting('mint_flip_grace'),
                      coalesce((SELECT 'organizations: ' || string_agg(kind || ' ' || organizations, ', ' ORDER BY kind) FROM run_ops.mint_kinds()),
                               'no control plane is attached'))
  UNION ALL
  SELECT 5, 0.5, format('   shards for new runOpsIds: %s%s', CASE active WHEN '{}' THEN 'none' ELSE array_to_string(active, ', ') END,
                      CASE WHEN in_force <> active THEN format('; in force: %s', CASE in_force WHEN '{}' THEN 'none' ELSE array_to_string(in_force, ', ') END) END)
    FROM run_ops.mint_shards, run_ops.mint_shards_in_force() AS in_force WHERE active <> '{}'
  UNION ALL
  SELECT 5, ord, format('   %s%-28s %s %s %s%s   in %s', :'yellow', coalesce(left(organization, 28), 'all that have no flag'), in_force, :'arrow',
                        coalesce(becomes::text, 'the global kind'), :'plain', date_trunc('second', becomes_at - clock_timestamp()))
    FROM flips WHERE ord <= 5
  UNION ALL
  SELECT 5, 6, format('   %s more', count(*) - 5) FROM flips HAVING count(*) > 5
  UNION ALL
  SELECT 6, 0, format(' %sCLEANUP%s   %s', :'bold', :'plain', coalesce(string_agg(format('%s: %s waiting for %s%s', store, queued,
                      date_trunc('second', clock_timestamp() - oldest), CASE WHEN failing > 0 THEN format(', %s%s failing%s', :'red', failing, :'plain') END),
                      '   ' ORDER BY store <> 'legacy', store) FILTER (WHERE queued > 0), 'nothing to do')) FROM run_ops.stat_cleanup
  UNION ALL
  SELECT 6, ord, format('   %-38s in %-9s%10s rows deleted', left(object, 38), store, to_char(rows_done, 'FM999,999,999')) FROM work WHERE ord <= 5
  UNION ALL
  SELECT 6, ord + 0.5, '     ' || :'red' || error FROM work WHERE ord <= 5 AND error IS NOT NULL
  UNION ALL
  SELECT 6, 6, format('   %s more', count(*) - 5) FROM work HAVING count(*) > 5
  UNION ALL
  SELECT 6, 7, format(' %sCOPY%s      %s: %s of %s tables, %s rows, last batch %s ago', :'bold', :'plain', operation, count(*) FILTER (WHERE finished), count(*),
                      to_char(sum(rows_done), 'FM999,999,999,999'), date_trunc('second', clock_timestamp() - max(changed_at)))
    FROM run_ops.stat_progress WHERE operation <> 'cleanup' GROUP BY operation
  UNION ALL
  SELECT 7, 0, format(' %sCACHE%s     %s', :'bold', :'plain',
                      CASE WHEN hit_ratio IS NULL THEN 'not used yet'
                           ELSE format('%s %% of %s lookups by all sessions', round(100 * hit_ratio, 1), to_char(hits + misses, 'FM999,999,999,999')) END)
    FROM run_ops.stat_cache_lookups
  UNION ALL SELECT 8, 0, ''
  UNION ALL
  SELECT 8, 1, format('%s %-25s%14s%*s', :'bold', 'TABLE', 'LEGACY', :width - 41, 'STORES')
  UNION ALL
  SELECT 8, 1 + ord, format(' %-24s %14s  %s%s%s%s%s %15s', left(view, 24), coalesce(to_char(legacy, 'FM99,999,999,999'), 'never analyzed'),
                            :'yellow', coalesce(repeat(:'full', share), repeat(' ', :width - 61)), :'green', repeat(:'empty', :width - 61 - share), :'plain',
                            coalesce(to_char(stored, 'FM99,999,999,999'), CASE WHEN up THEN 'never analyzed' ELSE '?' END))
    FROM (SELECT *, round((:width - 61) * legacy / nullif(legacy + stored, 0))::int AS share FROM tables) AS t WHERE ord <= 8
  UNION ALL
  SELECT 8, 10, format('   %s more%s', count(*), ', never analyzed: ' || nullif(count(*) FILTER (WHERE never), 0)) FROM tables WHERE ord > 8 HAVING count(*) > 0
), cut AS (
  SELECT section, ord, rtrim(substring(text FROM '^(?:[\x01-\x05]*[^\x01-\x05]){0,' || :width || '}')) || :'plain' AS text FROM line
)
SELECT CASE WHEN :'color' = 'on'
            THEN CASE WHEN :{?every} AND row_number() OVER (ORDER BY section, ord) = 1 THEN E'\033[H\033[2J' ELSE '' END
                 || replace(replace(replace(replace(replace(text, :'green', E'\033[32m'), :'red', E'\033[31m'),
                                            :'yellow', E'\033[33m'), :'bold', E'\033[1m'), :'plain', E'\033[0m')
            ELSE translate(text, :'green' || :'red' || :'yellow' || :'bold' || :'plain', '') END
  FROM cut, remembered ORDER BY section, ord
\if :{?every}
\watch :every
\else
\g (format=unaligned tuples_only=on pager=off)
\endif
