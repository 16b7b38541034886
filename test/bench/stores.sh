# What asks several stores, at 10 ms a round trip: three stores against one.
set -euo pipefail
shopt -s inherit_errexit
dir=$(mktemp -d)
chmod 755 "$dir"
host=$RUN_OPS_STORE_HOST
slow_port=5435
gcc -O2 -o "$dir/delay_proxy" test/bench/delay_proxy.c
"$dir/delay_proxy" "$dir/.s.PGSQL.$slow_port" "$host/.s.PGSQL.$RUN_OPS_STORE_PORT" 5000 &
trap 'kill $!; rm -rf "$dir"' EXIT

export PGOPTIONS='-c client_min_messages=error'
sql() { psql -XAtqv ON_ERROR_STOP=1 "$@"; }
in_store() { PGHOST=$host PGPORT=$RUN_OPS_STORE_PORT "$@"; }
one=${PGDATABASE}_one
tables="CREATE TABLE run (id text PRIMARY KEY, n int);
  CREATE INDEX ON run (n);
  CREATE TABLE step (id text PRIMARY KEY, \"runId\" text NOT NULL REFERENCES run, n int);
  CREATE TABLE tag (id text PRIMARY KEY, n int);"

createdb "$one"
sql -d "$one" -c 'CREATE EXTENSION run_ops_split CASCADE'
control_plane() { # database, stores
  local database=$1 store
  shift
  sql -d "$database" -c "$tables"
  for store in "$@"; do
    in_store createdb "${database}_$store"
    in_store sql -d "${database}_$store" -c "$tables
      INSERT INTO tag SELECT '$store ' || i, i FROM generate_series(1, 100) AS i;"
    sql -d "$database" >/dev/null <<SQL
CREATE SERVER $store FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$dir', port '$slow_port', dbname '${database}_$store');
CREATE USER MAPPING FOR CURRENT_USER SERVER $store;
SELECT run_ops.attach_store('$store', '$store');
SQL
  done
  sql -d "$database" >/dev/null <<'SQL'
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'), run_ops.attach_table('tag', 'store');
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
SELECT run_ops.enable_split();
-- the best of some transactions of one session, in milliseconds
CREATE PROCEDURE milliseconds(query text, INOUT result numeric) LANGUAGE plpgsql AS $$
DECLARE
  started timestamptz;
BEGIN
  FOR run IN 0 .. 9 LOOP
    started := clock_timestamp();
    EXECUTE query;
    COMMIT;
    -- the first run opens the connections
    CONTINUE WHEN run = 0;
    result := least(result, extract(epoch FROM clock_timestamp() - started) * 1000);
  END LOOP;
END $$;
SQL
}
control_plane "$one" new
control_plane "$PGDATABASE" new a b

row() { # what, query
  local three base
  base=$(sql -d "$one" -c "CALL milliseconds(\$\$$2\$\$, NULL)")
  three=$(sql -c "CALL milliseconds(\$\$$2\$\$, NULL)")
  awk -v three="$three" -v base="$base" -v what="$1" -v target="${3:-<= 1.3}" \
    'BEGIN { printf "%s, three stores, 10 ms (%.0f ms)|one store|%s|%.2f\n", what, three, target, three / base }'
}
row 'check_split()' 'SELECT * FROM run_ops.check_split()'
row 'stat_stores' 'SELECT * FROM run_ops.stat_stores'
row "next_step('off')" "SELECT run_ops.next_step('off')"
row 'locate() of an id that names no store' "SELECT run_ops.locate('run_ops.tag', '?')"
row 'count of a table of routing store' 'SELECT count(*) FROM run_ops.tag'
row 'a page of a table of routing store' 'SELECT * FROM run_ops.tag ORDER BY n LIMIT 20'
row 'verify_repatriation()' 'SELECT * FROM run_ops.verify_repatriation()'
row 'in_doubt()' 'SELECT * FROM run_ops.in_doubt()'
