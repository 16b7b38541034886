# Lookups through a union with a table of run_ops_fdw, against the same union
# over postgres_fdw.
run_sql() { psql -XAtqv ON_ERROR_STOP=1 -f - ; }

run_sql <<'SQL'
\getenv store_host RUN_OPS_STORE_HOST
\getenv store_port RUN_OPS_STORE_PORT
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
SET jit = off;
SELECT format('host=%s port=%s dbname=postgres', :'store_host', :'store_port') AS store \gset
SELECT dblink_exec(:'store', $$
  CREATE SCHEMA bench_lazy_fdw;
  CREATE TABLE bench_lazy_fdw.run AS
    SELECT 'run_' || lpad(g::text, 27, '0') AS id, 'DONE' AS status, repeat('x', 100) AS payload FROM generate_series(1, 200000) g;
  ALTER TABLE bench_lazy_fdw.run ADD PRIMARY KEY (id);
  ANALYZE bench_lazy_fdw.run;
$$) \gset ignored_
CREATE TABLE run AS
  SELECT 'run_' || lpad(g::text, 25, '0') AS id, 'DONE' AS status, repeat('x', 100) AS payload FROM generate_series(1, 200000) g;
ALTER TABLE run ADD PRIMARY KEY (id);
CREATE SERVER lazy FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host :'store_host', port :'store_port', dbname 'postgres');
CREATE SERVER stock FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'store_host', port :'store_port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER lazy;
CREATE USER MAPPING FOR CURRENT_USER SERVER stock;
CREATE FOREIGN TABLE lazy (id text OPTIONS (indexed 'true'), status text, payload text)
  SERVER lazy OPTIONS (schema_name 'bench_lazy_fdw', table_name 'run');
CREATE FOREIGN TABLE stock (id text, status text, payload text)
  SERVER stock OPTIONS (schema_name 'bench_lazy_fdw', table_name 'run');
CREATE TABLE wanted AS SELECT 'run_' || lpad((g * 7)::text, 25, '0') AS id FROM generate_series(1, 100) g;
CREATE TABLE wanted_new AS SELECT 'run_' || lpad((g * 7)::text, 27, '0') AS id FROM generate_series(1, 100) g;
VACUUM ANALYZE run, wanted, wanted_new;
ANALYZE lazy, stock;
DO $$
DECLARE
  wrapper text;
BEGIN
  FOREACH wrapper IN ARRAY ARRAY['lazy', 'stock'] LOOP
    EXECUTE format($view$
      CREATE VIEW %1$I AS
        SELECT id, status FROM (SELECT id, status, 'legacy' AS store FROM run
                                UNION ALL
                                SELECT id, status, 'new' FROM %2$I) u
         WHERE run_ops.resides(u.id, u.store)$view$, wrapper || '_runs', wrapper);
  END LOOP;
END $$;
SQL

# Latency of single lookups, each a transaction of its own.
latency() {
  printf '%s\n' '\set n random(1, 200000)' \
    "SELECT status FROM $1 WHERE id = 'run_' || lpad((:n)::int::text, 25, '0');" >"$script"
  PGOPTIONS="-c plan_cache_mode=force_generic_plan" \
    pgbench -n -M prepared -T 1 -f "$script" 2>/dev/null | sed -n 's/^latency average = \(.*\) ms/\1/p'
}
best() { for _ in 1 2 3 4 5; do latency "$1"; done | sort -n | head -n 1; }
script=$(mktemp)
trap 'rm -f "$script"' EXIT
lazy=$(best lazy_runs) stock=$(best stock_runs)
awk -v lazy="$lazy" -v stock="$stock" 'BEGIN {
  printf "LEGACY lookup, generic plan|the union over postgres_fdw|below 1|%.2f\n", lazy / stock
}'

run_sql <<'SQL'
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
SET jit = off;
SELECT 'join of 100 LEGACY ids', 'the union over postgres_fdw', 'below 1',
       bench.ratio('SELECT count(status) FROM wanted JOIN lazy_runs USING (id)',
                   'SELECT count(status) FROM wanted JOIN stock_runs USING (id)', 5);
SELECT 'join of 100 NEW ids', 'the union over postgres_fdw', 'below 1',
       bench.ratio('SELECT count(status) FROM wanted_new JOIN lazy_runs USING (id)',
                   'SELECT count(status) FROM wanted_new JOIN stock_runs USING (id)', 5);
SQL
