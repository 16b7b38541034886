-- One screen that says how split mode is doing.  In psql:
--
--   \i observability/status.sql                 once
--   \set every 2
--   \i observability/status.sql                 again every 2 seconds, until Ctrl-C; as scripts/dashboard does
--
-- \set color off leaves the colors out.  Nothing is written and no table is
-- read in full: gates that need that are shown as run_ops.record_check() found
-- them last.  The role needs pg_monitor.
\if :{?color} \else \set color on \endif
SELECT current_setting('server_encoding') = 'UTF8' AS unicode \gset
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
WITH ink AS (
  SELECT CASE WHEN on_terminal THEN E'\033[32m' ELSE '' END AS green, CASE WHEN on_terminal THEN E'\033[31m' ELSE '' END AS red,
         CASE WHEN on_terminal THEN E'\033[33m' ELSE '' END AS yellow, CASE WHEN on_terminal THEN E'\033[1m' ELSE '' END AS bold,
         CASE WHEN on_terminal THEN E'\033[0m' ELSE '' END AS plain
    FROM (SELECT :'color' = 'on' AS on_terminal) AS o
), split AS (
  SELECT s.*, CASE s.split WHEN 'on' THEN ink.green WHEN 'off' THEN ink.yellow ELSE ink.red END AS color
    FROM run_ops.split_status AS s, ink
), routing AS MATERIALIZED (
  SELECT * FROM run_ops.stat_routing
), stores AS MATERIALIZED (
  SELECT row_number() OVER () AS ord, s.*, r.reads, r.writes, r.hit_ratio
    FROM run_ops.stat_stores AS s
    LEFT JOIN (SELECT store, sum(rows_read) AS reads, sum(rows_inserted + rows_updated + rows_deleted) AS writes,
                      sum(blocks_hit) / nullif(sum(blocks_hit + blocks_read), 0) AS hit_ratio
                 FROM routing GROUP BY store) AS r USING (store)
), gates AS MATERIALIZED (
  SELECT * FROM run_ops.stat_gates
), flips AS MATERIALIZED (
  SELECT f.*, row_number() OVER (ORDER BY f.becomes_at, f.organization) AS ord FROM run_ops.mint_flips() AS f
), work AS MATERIALIZED (
  SELECT p.*, row_number() OVER (ORDER BY p.error IS NULL, p.changed_at DESC, p.object, p.store) AS ord
    FROM run_ops.stat_progress AS p WHERE p.operation = 'cleanup'
), tables AS MATERIALIZED (
  SELECT c.relname AS view, sum(rows) AS rows, sum(rows) FILTER (WHERE store = 'legacy') AS legacy,
         sum(rows) FILTER (WHERE store <> 'legacy') AS stored,
         row_number() OVER (ORDER BY sum(rows) DESC NULLS LAST, c.relname) AS ord
    FROM routing JOIN pg_class AS c ON c.oid = view GROUP BY view, c.relname
), line (section, ord, text) AS (
  SELECT 0, 0, E'\033[H\033[2J' || plain FROM ink WHERE :{?every} AND bold <> ''
  UNION ALL
  SELECT 1, 0, format('%s %-30s%-40s%28s%s', ink.bold,
                      'run_ops_split ' || (SELECT extversion FROM pg_extension WHERE extname = 'run_ops_split'),
                      current_database(), to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS'), ink.plain) FROM ink
  UNION ALL
  SELECT 1, 1, format(' split is %s%s%s%s, %s tables, stores: %s', s.color || ink.bold, upper(s.split), ink.plain,
                      CASE WHEN s.reason IS NULL THEN ' since ' || to_char(s.changed_at, 'YYYY-MM-DD HH24:MI') END,
                      s.routed_tables, array_to_string('legacy'::text || s.stores, ', ')) FROM split AS s, ink
  UNION ALL SELECT 1, 2, '   ' || reason FROM split WHERE reason IS NOT NULL
  UNION ALL SELECT 2, 0, ''
  UNION ALL
  SELECT 2, 1, format('%s STORE     STATE            ROWS      SIZE  CONNECTIONS     ROWS READ  ROWS WRITTEN  HIT   CONTACT%s', ink.bold, ink.plain) FROM ink
  UNION ALL
  SELECT 2, 1 + s.ord, CASE WHEN s.up THEN
      format(' %s %-8s%-7s%14s%10s%13s%14s%14s%6s  %s', ink.green || :'good' || ink.plain, s.store, CASE WHEN s.in_recovery THEN 'standby' ELSE 'up' END,
             to_char(s.rows, 'FM999,999,999,999'), pg_size_pretty(s.bytes), s.connections || ' / ' || s.max_connections,
             to_char(s.reads, 'FM999,999,999,999'), to_char(s.writes, 'FM999,999,999,999'), to_char(100 * s.hit_ratio, 'FM990') || ' %', 'now')
    ELSE format(' %s %-8s%-7s%14s%10s%13s%14s%14s%6s  %s', ink.red || :'bad', s.store, 'DOWN', :'dot', :'dot', :'dot', :'dot', :'dot', :'dot',
                coalesce(to_char(s.last_contact, 'HH24:MI:SS'), '-') || ink.plain) END
    FROM stores AS s, ink
  UNION ALL
  SELECT 2, 1 + s.ord + 0.1 * n, format('   %s%s%s', ink.red, substr(s.last_error, 1 + 95 * (n - 1), 95), ink.plain)
    FROM stores AS s, generate_series(1, 2) AS n, ink WHERE NOT s.up AND length(s.last_error) > 95 * (n - 1)
  UNION ALL SELECT 3, 0, ''
  UNION ALL
  SELECT 3, 1, format('%s GATES%s     %s %s hold   %s%s%s   %s', ink.bold, ink.plain, ink.green || :'good' || ink.plain,
                      count(*) FILTER (WHERE ok), CASE WHEN bool_and(ok) THEN '' ELSE ink.red END,
                      CASE WHEN bool_and(ok) THEN 'none fails' ELSE :'bad' || ' ' || count(*) FILTER (WHERE ok IS NOT TRUE) || ' fail' END, ink.plain,
                      CASE WHEN bool_or(gate = 'reachable')
                           THEN 'stores and strays as of ' || to_char(min(checked_at), 'YYYY-MM-DD HH24:MI')
                           ELSE 'stores and strays not checked yet: SELECT run_ops.record_check()' END)
    FROM gates, ink GROUP BY ink.bold, ink.plain, ink.green, ink.red
  UNION ALL
  SELECT * FROM (SELECT 3, 1 + row_number() OVER (ORDER BY gate, object),
         left(format('   %s%s %-12s%s %s: %s', ink.red, :'bad', gate, ink.plain, object, detail), 98 + length(ink.red || ink.plain))
    FROM gates, ink WHERE ok IS NOT TRUE AND gate <> 'strays' ORDER BY 2 LIMIT 6) AS failing
  UNION ALL
  SELECT 3, 9, format('%s STRAYS%s    %s', ink.bold, ink.plain,
                      coalesce(ink.red || left(string_agg(object || ': ' || detail, ', ' ORDER BY object) FILTER (WHERE ok IS NOT TRUE), 88) || ink.plain,
                               CASE WHEN count(gate) > 0 THEN 'none' ELSE 'not counted' END))
    FROM ink LEFT JOIN gates ON gate = 'strays' GROUP BY ink.bold, ink.plain, ink.red
  UNION ALL
  SELECT 4, 0, format('%s MINTING%s   %s, grace %s   %s', ink.bold, ink.plain,
                      CASE WHEN run_ops.setting('mint_enabled')::boolean THEN 'flags are read' ELSE 'flags are not read: cuid' END,
                      run_ops.setting('mint_flip_grace'),
                      coalesce((SELECT 'organizations: ' || string_agg(kind || ' ' || organizations, ', ' ORDER BY kind) FROM run_ops.mint_kinds()),
                               'no control plane is attached')) FROM ink
  UNION ALL
  SELECT 4, 0.5, left(format('   shards for new runOpsIds: %s%s', CASE active WHEN '{}' THEN 'none' ELSE array_to_string(active, ', ') END,
                      CASE WHEN in_force <> active THEN format('; in force: %s', CASE in_force WHEN '{}' THEN 'none' ELSE array_to_string(in_force, ', ') END) END), 98)
    FROM run_ops.mint_shards, run_ops.mint_shards_in_force() AS in_force WHERE active <> '{}'
  UNION ALL
  SELECT 4, ord, format('   %s%-30s %s %s %s%s   in %s', ink.yellow, coalesce(left(organization, 30), 'all that have no flag'), in_force, :'arrow',
                        coalesce(becomes::text, 'the global kind'), ink.plain, date_trunc('second', becomes_at - clock_timestamp()))
    FROM flips, ink WHERE ord <= 5
  UNION ALL
  SELECT 4, 6, format('   %s more', count(*) - 5) FROM flips HAVING count(*) > 5
  UNION ALL
  SELECT 5, 0, format('%s CLEANUP%s   %s', ink.bold, ink.plain, (SELECT string_agg(format('%s: %s%s', c.store,
                      CASE WHEN c.queued = 0 THEN 'nothing to do' ELSE c.queued || ' waiting since ' || date_trunc('second', clock_timestamp() - c.oldest) END,
                      CASE WHEN c.failing > 0 THEN format(', %s%s failing%s', ink.red, c.failing, ink.plain) ELSE '' END),
                      '   ' ORDER BY c.store <> 'legacy', c.store) FROM run_ops.stat_cleanup AS c)) FROM ink
  UNION ALL
  SELECT 5, ord, format('   %-50s in %-7s%14s rows deleted%s', left(object, 50), store, to_char(rows_done, 'FM999,999,999,999'),
                        CASE WHEN error IS NOT NULL THEN E'\n     ' || ink.red || left(error, 93) || ink.plain ELSE '' END)
    FROM work, ink WHERE ord <= 5
  UNION ALL
  SELECT 5, 6, format('   %s more', count(*) - 5) FROM work HAVING count(*) > 5
  UNION ALL
  SELECT 5, 7, format('%s COPY%s      %s: %s of %s tables done, %s rows copied, last batch %s ago', ink.bold, ink.plain, p.operation,
                      count(*) FILTER (WHERE p.finished), count(*), to_char(sum(p.rows_done), 'FM999,999,999,999'),
                      date_trunc('second', clock_timestamp() - max(p.changed_at)))
    FROM run_ops.stat_progress AS p, ink WHERE p.operation <> 'cleanup' GROUP BY p.operation, ink.bold, ink.plain
  UNION ALL
  SELECT 6, 0, format('%s CACHE%s     %s', ink.bold, ink.plain,
                      coalesce(format('%s %% of %s lookups by all sessions', round(100 * hit_ratio, 1), to_char(hits + misses, 'FM999,999,999,999')),
                               'not used yet'))
    FROM run_ops.stat_cache_lookups, ink
  UNION ALL SELECT 7, 0, ''
  UNION ALL
  SELECT 7, 1, format('%s TABLE                                 LEGACY%52s%s', ink.bold, 'STORES', ink.plain) FROM ink
  UNION ALL
  SELECT 7, 1 + ord, format(' %-28s%16s  %s%s%s%s%s %s', left(view, 28), coalesce(to_char(legacy, 'FM999,999,999,999'), '?'),
                            ink.yellow, coalesce(repeat(:'full', share), repeat(' ', 33)), ink.green, repeat(:'empty', 33 - share), ink.plain,
                            lpad(CASE WHEN stored IS NOT NULL THEN to_char(stored, 'FM999,999,999,999') ELSE '?' END, 15))
    FROM (SELECT t.*, round(33 * coalesce(legacy, 0) / nullif(rows, 0))::int AS share FROM tables AS t) AS t, ink WHERE ord <= 8
)
SELECT text FROM line ORDER BY section, ord
\if :{?every}
\watch :every
\else
\g (format=unaligned tuples_only=on pager=off)
\endif
