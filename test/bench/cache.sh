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

# transactions a second of pgbench, each client with environments of its own,
# all of one organization
sql -c "CREATE TABLE busy AS SELECT id, row_number() OVER () AS n FROM (SELECT id FROM \"RuntimeEnvironment\" ORDER BY id LIMIT 64) AS e;
        UPDATE \"RuntimeEnvironment\" SET \"organizationId\" = (SELECT min(id) FROM \"Organization\") WHERE id IN (SELECT id FROM busy)"
one=$(mktemp) busy=$(mktemp)
cat >"$one" <<'SQL'
\set n random(1, 64)
UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = "maximumConcurrencyLimit" + 1 WHERE id = (SELECT id FROM busy WHERE n = :n);
SQL
cat >"$busy" <<'SQL'
\set n random(1, 8)
UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = "maximumConcurrencyLimit" + 1 WHERE id = (SELECT id FROM busy WHERE n = :client_id * 8 + :n);
SQL
latency() { # script, clients, notify
  PGOPTIONS="-c run_ops_split.cache_notify=$3" pgbench -n -M prepared -c "$2" -j 2 -t "$((1200 / $2))" -f "$1" 2>/dev/null |
    sed -n 's/^latency average = \(.*\) ms/\1/p'
}
bulk() {
  sql -c "VACUUM \"RuntimeEnvironment\"" -c "DO \$\$ DECLARE t timestamptz; BEGIN t := clock_timestamp();
    UPDATE \"RuntimeEnvironment\" SET \"maximumConcurrencyLimit\" = \"maximumConcurrencyLimit\" + 1;
    RAISE NOTICE '%', extract(epoch FROM clock_timestamp() - t) * 1000; END \$\$" 2>&1 | sed 's/.*NOTICE: *//'
}
least() { sort -g | head -n 1; }
measure() { # name
  for run in 1 2 3; do latency "$one" 1 on; done | least >"$1.one" 
  for run in 1 2 3; do latency "$one" 1 off; done | least >"$1.one_quiet" 
  for run in 1 2 3; do latency "$busy" 8 on; done | least >"$1.busy" 
  for run in 1 2 3; do latency "$busy" 8 off; done | least >"$1.busy_quiet" 
  for run in 1 2 3; do bulk; done | least >"$1.bulk" 
}
dir=$(mktemp -d)
measure "$dir/with"
sql -c "SELECT run_ops.detach_control_plane()" >/dev/null
measure "$dir/without"
row() { awk -v a="$(cat "$dir/with.$2")" -v b="$(cat "$dir/without.$2")" -v w="$1" -v t="$3" 'BEGIN { printf "%s|without triggers|%s|%.2f\n", w, t, a / b }'; }
row 'control-plane UPDATE of one row' one 'at most 1.50'
row 'control-plane UPDATE of one row, cache_notify off' one_quiet 'at most 1.50'
row '8 clients, environments of one organization' busy 'at most 1.50'
row '8 clients, environments of one organization, cache_notify off' busy_quiet 'at most 1.50'
row 'control-plane bulk UPDATE of 10,000 rows' bulk 'at most 1.25'
rm -rf "$dir" "$one" "$busy"
