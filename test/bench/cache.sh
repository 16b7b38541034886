# The resolver against the same join in an SQL function, and what the triggers
# of the epochs cost a writer.
sql() { psql -XAtqv ON_ERROR_STOP=1 "$@"; }

sql -f - <<'SQL'
\set side legacy
\set orgs 1000
\set runs 40
\i test/fixtures/control_plane.sql
\i test/fixtures/generate.sql
SELECT run_ops.attach_control_plane('public') \gset ignored_
VACUUM ANALYZE;
CREATE TABLE key_100 AS SELECT id FROM "RuntimeEnvironment" ORDER BY md5(id) LIMIT 100;
CREATE TABLE key_10000 AS SELECT id FROM "RuntimeEnvironment";
VACUUM ANALYZE key_100, key_10000;
CREATE FUNCTION join_env(key text) RETURNS run_ops.resolved_env LANGUAGE sql STABLE AS $$
  SELECT ROW(e.id, e.type::text, e."projectId", p."organizationId", e."archivedAt", parent.type::text,
             e."maximumConcurrencyLimit", e."concurrencyLimitBurstFactor")::run_ops.resolved_env
    FROM "RuntimeEnvironment" e JOIN "Project" p ON p.id = e."projectId"
    LEFT JOIN "RuntimeEnvironment" parent ON parent.id = e."parentEnvironmentId" WHERE e.id = key $$;

-- microseconds a key of the best of some runs, the scan of the keys included;
-- each run in a transaction, and so in a snapshot, of its own
CREATE PROCEDURE per_key(function text, keys text, repeats int, warm boolean, INOUT result numeric) LANGUAGE plpgsql AS $$
DECLARE
  started timestamptz;
  rows    bigint;
BEGIN
  EXECUTE format('SELECT count(*) * %s FROM %I', repeats, keys) INTO rows;
  FOR run IN 1 .. 7 LOOP
    COMMIT;
    IF warm THEN
      EXECUTE format('SELECT count(%s(id)) FROM %I', function, keys);
    END IF;
    started := clock_timestamp();
    EXECUTE format('SELECT count(%s(id)) FROM generate_series(1, %s), %I', function, repeats, keys);
    result := least(result, extract(epoch FROM clock_timestamp() - started) * 1e6 / rows);
  END LOOP;
END $$;
SET jit = off;
SET max_parallel_workers_per_gather = 0;
CALL per_key('join_env', 'key_100', 20, false, NULL) \gset join_
CALL per_key('run_ops.resolve_env', 'key_100', 1000, true, NULL) \gset hit_
CALL per_key('run_ops.resolve_env', 'key_10000', 20, true, NULL) \gset big_
CALL per_key('run_ops.resolve_env', 'key_100', 1, false, NULL) \gset new_
CALL per_key('run_ops.resolve_env', 'key_10000', 1, false, NULL) \gset newbig_
SELECT 'resolver hit, same snapshot, 100 keys', 'the join in an SQL function', 'at least 50 times', round(:join_result / :hit_result);
SELECT 'resolver hit, same snapshot, 10,000 keys', 'the join in an SQL function', 'at least 50 times', round(:join_result / :big_result);
SELECT 'resolver hit, new snapshot, 100 keys', 'the join in an SQL function', 'at least 12 times', round(:join_result / :new_result);
SELECT 'resolver hit, new snapshot, 10,000 keys', 'the join in an SQL function', 'at least 12 times', round(:join_result / :newbig_result);
SQL

# What the triggers cost a writer.  The same table is measured with and without
# them in turn, vacuumed before each run; the least of the rounds counts.
sql -c "CREATE TABLE busy AS SELECT id, row_number() OVER () AS n FROM (SELECT id FROM \"RuntimeEnvironment\" ORDER BY id LIMIT 64) AS e;
        UPDATE \"RuntimeEnvironment\" SET \"organizationId\" = (SELECT min(id) FROM \"Organization\") WHERE id IN (SELECT id FROM busy)" \
    -c "VACUUM ANALYZE busy"
dir=$(mktemp -d)
change='UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = "maximumConcurrencyLimit" + 1'
printf '%s\n' '\set n random(1, 64)' "$change WHERE id = (SELECT id FROM busy WHERE n = :n);" >"$dir/one"
# each client has environments of its own, all of one organization
printf '%s\n' '\set n random(1, 8)' "$change WHERE id = (SELECT id FROM busy WHERE n = :client_id * 8 + :n);" >"$dir/busy"
# and what PostgreSQL itself asks for a NOTIFY: its commits go one by one
printf '%s\n' '\set n random(1, 8)' "WITH u AS ($change WHERE id = (SELECT id FROM busy WHERE n = :client_id * 8 + :n) RETURNING id) SELECT pg_notify('run_ops_cache', 'environment:' || id) FROM u;" >"$dir/notify"
# reads environments that nobody writes, each time in a new snapshot
printf '%s\n' 'SELECT count(run_ops.resolve_authenticated_env(id)) FROM key_100 WHERE id NOT IN (SELECT id FROM busy);' >"$dir/read"

triggers() { # on, quiet (without NOTIFY) or off
  local state=DISABLE
  [ "$1" = off ] || state='ENABLE ALWAYS'
  sql -c "ALTER TABLE \"RuntimeEnvironment\" $state TRIGGER run_ops_epoch_update" \
      -c 'VACUUM "RuntimeEnvironment", run_ops.committed_epoch'
  export PGOPTIONS="-c run_ops_split.cache_notify=$([ "$1" = quiet ] && echo off || echo on)"
}
latency() { sed -n 's/^latency average = \(.*\) ms/\1/p'; }
run() { pgbench -n -M prepared -T 2 "$@"; }
bulk() {
  sql -c "DO \$\$ DECLARE t timestamptz; BEGIN t := clock_timestamp(); $change;
    RAISE NOTICE '%', extract(epoch FROM clock_timestamp() - t) * 1000; END \$\$" 2>&1 | sed 's/.*NOTICE: *//'
}
beside_writer() { # what a reader takes beside 1,000 writes a second
  run -c 4 -R 1000 -T 3 -f "$dir/one" >"$dir/writer" &
  sleep 0.5
  run -c 1 -f "$dir/read" | latency
  wait $!
}
for round in 1 2 3 4 5; do
  for state in on quiet off; do
    triggers $state
    run -c 1 -f "$dir/one" | latency >>"$dir/one.$state"
    run -c 8 -j 2 -f "$dir/busy" | latency >>"$dir/busy.$state"
    [ $state = quiet ] || bulk >>"$dir/bulk.$state"
    [ $state = quiet ] || beside_writer >>"$dir/read.$state"
  done
  run -c 1 -f "$dir/read" | latency >>"$dir/read.alone"
  run -c 8 -j 2 -f "$dir/notify" | latency >>"$dir/busy.notify"
done
triggers on
least() { sort -g "$dir/$1" | head -n 1; }
row() { # work, compared with, target, two files
  awk -v a="$(least "$4")" -v b="$(least "$5")" -v w="$1" -v c="$2" -v t="$3" 'BEGIN { printf "%s|%s|%s|%.2f\n", w, c, t, a / b }'
}
row 'control-plane UPDATE of one row' 'without triggers' 'at most 1.50' one.on one.off
row 'control-plane UPDATE of one row, cache_notify off' 'without triggers' 'at most 1.50' one.quiet one.off
row '8 clients, environments of one organization' 'without triggers' 'at most 1.50' busy.on busy.off
row '8 clients, environments of one organization' 'without triggers, NOTIFY by hand' 'at most 1.50' busy.on busy.notify
row '8 clients, environments of one organization, cache_notify off' 'without triggers' 'at most 1.50' busy.quiet busy.off
row 'control-plane bulk UPDATE of 10,000 rows' 'without triggers' 'at most 1.25' bulk.on bulk.off
row 'reader of other environments beside 1,000 control-plane writes a second' 'the same beside writes without triggers' 'told' read.on read.off
row 'reader of other environments beside 1,000 control-plane writes a second' 'without a writer' 'told' read.on read.alone
printf 'control-plane writes a second beside that reader|asked for|1,000|%.0f\n' "$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$dir/writer")"
rm -rf "$dir"
