# Single statements as a client sends them, through a view of two stores:
# against the local table, against stock postgres_fdw, and against a direct
# connection to the store, on one host and over a network of 1 ms a round trip.
set -euo pipefail
shopt -s inherit_errexit
dir=$(mktemp -d)
host=$RUN_OPS_STORE_HOST
slow_port=5434
gcc -O2 -o "$dir/delay_proxy" test/bench/delay_proxy.c
"$dir/delay_proxy" "$host/.s.PGSQL.$slow_port" "$host/.s.PGSQL.$RUN_OPS_STORE_PORT" 500 &
trap 'kill $!; rm -rf "$dir"' EXIT

sql() { psql -XAtqv ON_ERROR_STOP=1 "$@"; }
in_store() { PGHOST=$host PGPORT=$port PGDATABASE=${PGDATABASE}_store "$@"; }

# The servers "new", which is attached, and "stock" lead to the same table. The
# rows of this database have no batch, those of the store have batches of 1,000.
port=$RUN_OPS_STORE_PORT
PGHOST=$host PGPORT=$port createdb "${PGDATABASE}_store"
table() { # digits of an id, batch
  echo "CREATE TYPE status AS ENUM ('PENDING', 'DONE');
    CREATE TABLE run (id text PRIMARY KEY, batch int, status status NOT NULL, n int NOT NULL, payload text NOT NULL);
    INSERT INTO run SELECT 'run_' || lpad(i::text, $1, '0'), $2, 'PENDING', 0, repeat(md5(i::text), 8) FROM generate_series(0, 99999) AS i;
    CREATE INDEX ON run (batch);
    ANALYZE run;"
}
table 27 'i / 1000' | in_store sql
table 25 NULL | sql
sql >/dev/null <<SQL
SET client_min_messages = warning;
CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname '${PGDATABASE}_store', batch_size '100');
CREATE SERVER stock FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname '${PGDATABASE}_store', batch_size '100');
CREATE USER MAPPING FOR CURRENT_USER SERVER new;
CREATE USER MAPPING FOR CURRENT_USER SERVER stock;
CREATE SCHEMA stock;
IMPORT FOREIGN SCHEMA public LIMIT TO (run) FROM SERVER stock INTO stock;
SELECT run_ops.attach_store('new', 'new'), run_ops.attach_table('run', 'shape'), run_ops.swap_views(true);
CREATE TABLE wanted AS SELECT id FROM stock.run WHERE batch = 7 ORDER BY md5(id) LIMIT 100;
ANALYZE wanted, stock.run, run_ops_new.run;
SQL
reach_store_at() { # port
  port=$1
  sql -c "ALTER SERVER new OPTIONS (SET port '$port')" -c "ALTER SERVER stock OPTIONS (SET port '$port')"
}

median() { sort -g | awk '{ at[NR] = $1 } END { if (NR) print at[int((NR + 1) / 2)] }'; }
latency() { # times script: the median of the executions, in microseconds
  echo "$2" >"$dir/script"
  pgbench -n -M "${protocol:-prepared}" -D "id=$id" -t "$1" -f "$dir/script" -l --log-prefix="$dir/log" >/dev/null
  cut -d ' ' -f 3 "$dir"/log.* | median
  rm "$dir"/log.*
}
# The median of the ratios of some rounds; in each, both scripts run in turn.
row() { # what base target times script base_script [in_store: the base is a direct connection]
  for _ in 1 2 3 4 5 6 7; do
    work=$(latency "$4" "$5")
    base=$(${7:-} latency "$4" "$6")
    echo "$work $base"
  done | awk '{ print $1 / $2 }' | median | awk -v row="$1|$2|$3" '{ printf "%s|%.2f\n", row, $1 }'
}

legacy=run_$(printf '%025d' 4242) new=run_$(printf '%027d' 4242)
point() { echo "SELECT * FROM $1 WHERE id = :id;"; }
change() { echo "UPDATE $1 SET n = n + 1 WHERE id = :id;"; }

# --- without a store -----------------------------------------------------------
export PGOPTIONS="-c jit=off"
id=$legacy
for plan in custom generic; do
  PGOPTIONS="-c jit=off -c plan_cache_mode=force_${plan}_plan" \
    row "LEGACY point read, prepared, $plan plan" 'the table' '<= 1.15' 2000 "$(point run_ops.run)" "$(point run)"
done
id="'$legacy'" protocol=simple row 'LEGACY point read, not prepared' 'the table' told 2000 "$(point run_ops.run)" "$(point run)"
row 'LEGACY UPDATE by id, prepared' 'the table' '<= 1.15' 2000 "$(change run_ops.run)" "$(change run)"
id=run_$(printf '%025d' 424242)
insert_in_block() { echo "BEGIN; INSERT INTO $1 (id, status, n, payload) VALUES (:id, 'PENDING', 0, 'p'); ROLLBACK;"; }
row 'LEGACY INSERT in a block that is rolled back, prepared' 'the table' '<= 1.15' 2000 "$(insert_in_block run_ops.run)" "$(insert_in_block run)"

# --- one host ------------------------------------------------------------------
id=$new
scan() { echo "SELECT count(r) FROM (SELECT * FROM $1 WHERE $2 OFFSET 0) AS r;"; }
row 'NEW point read' 'stock foreign table' '<= 0.5' 500 "$(point run_ops.run)" "$(point stock.run)"
row 'scan of 100,000 NEW rows' 'stock foreign table' '<= 0.8' 3 "$(scan run_ops.run 'batch >= 0')" "$(scan stock.run 'batch >= 0')"
for change in 'n = n + 1' "status = 'DONE'"; do
  row "UPDATE of 5,000 NEW rows by a condition, SET $change" 'the same in the store' '<= 1.5' 3 \
    "UPDATE run_ops.run SET $change WHERE batch < 5;" "UPDATE run SET $change WHERE batch < 5;" in_store
done

# a row here and one in the store; nobody waits for a disk
both="BEGIN; UPDATE run_ops.run SET n = n + 1 WHERE id = '$legacy'; UPDATE run_ops.run SET n = n + 1 WHERE id = '$new'; COMMIT;"
cross_store_writes() { # value command ...
  PGOPTIONS="$PGOPTIONS -c client_min_messages=error -c run_ops_split.cross_store_writes=$1" "${@:2}"
}
atomic() { # distance
  cross_store_writes atomic row "a row here and one in the store, atomic commit$1" 'with warn' told 200 "$both" "$both" 'cross_store_writes warn'
}
atomic ''

# counts made directly: in the local table, and by a client of the store
counts() { # what target query
  for _ in 1 2 3 4 5 6 7; do
    echo "$(latency 5 "${3//TABLE/run_ops.run}") $(latency 5 "${3//TABLE/run}") $(in_store latency 5 "${3//TABLE/run}")"
  done | awk '{ print $1 / ($2 + $3) }' | median | awk -v row="$1|both made directly|$2" '{ printf "%s|%.2f\n", row, $1 }'
}
count='SELECT count(*) FROM TABLE;' by_status='SELECT status, count(*) FROM TABLE GROUP BY status;'
counts 'count(*) over both stores, each id tested' told "$count"
counts 'count by status over both stores, each id tested' told "$by_status"
sql -c "ALTER FOREIGN TABLE run_ops_new.run ADD CONSTRAINT proof CHECK (run_ops.resides(id, 'new'))"
counts 'count(*) over both stores, proven by a CHECK' '<= 1.5' "$count"
counts 'count by status over both stores, proven by a CHECK' '<= 1.5' "$by_status"
sql -c 'ALTER FOREIGN TABLE run_ops_new.run DROP CONSTRAINT proof'

# --- 1 ms a round trip ---------------------------------------------------------
reach_store_at $slow_port
against_stock() { # what target times script; TABLE in it stands for the table
  row "$1, 1 ms" 'stock foreign table' "$2" "$3" "${4//TABLE/run_ops.run}" "${4//TABLE/stock.run}"
}
row 'NEW point read, 1 ms' 'a direct connection' '<= 1.3' 50 "$(point run_ops.run)" "$(point run)" in_store
against_stock 'NEW point read' '<= 0.3' 50 "$(point TABLE)"
against_stock 'ten NEW point reads in a block' told 10 "BEGIN;$(for _ in {1..10}; do point TABLE; done)COMMIT;"
against_stock 'scan of 1,000 NEW rows' told 10 "$(scan TABLE 'batch = 42')"
here="to_number('42', '99')::int" # no function that a store may compute
against_stock 'scan of 1,000 NEW rows, by a value that is computed here' told 3 "$(scan TABLE "batch = $here")"
against_stock 'a page by a comparison of rows' told 3 "SELECT * FROM TABLE WHERE (batch, id) > (42, :id) ORDER BY batch, id LIMIT 20;"
against_stock '100 NEW rows by id = ANY' told 20 "SELECT * FROM TABLE WHERE id = ANY ('$(sql -c 'SELECT array_agg(id) FROM wanted')');"
against_stock '100 inner lookups of NEW ids' told 3 \
  'SELECT count(r) FROM wanted AS w, LATERAL (SELECT * FROM TABLE AS t WHERE t.id = w.id OFFSET 0) AS r;'
against_stock 'join of 100 NEW ids' told 1 'SELECT count(payload) FROM wanted JOIN TABLE USING (id);'
against_stock 'UPDATE by id in the store' told 50 "$(change TABLE)"
against_stock 'UPDATE by id in the store, with a value that is computed here' told 50 "UPDATE TABLE SET n = $here WHERE id = :id;"
insert='INSERT INTO TABLE (id, status, n, payload)'
new_row="'run_' || substr(md5(random()::text) || md5(random()::text), 1, 27), 'PENDING', 0, 'p'"
against_stock 'INSERT of one row in the store' told 50 "$insert VALUES ($new_row);"
against_stock 'INSERT of 5,000 rows in the store, batches of 100' told 3 "$insert SELECT $new_row FROM generate_series(1, 5000);"
atomic ', 1 ms'

# Three servers that lead to the table, each with a connection of its own.
sql <<SQL
CREATE SCHEMA three;
$(for n in 1 2 3; do
  echo "CREATE SERVER three_$n FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$slow_port', dbname '${PGDATABASE}_store');
    CREATE USER MAPPING FOR CURRENT_USER SERVER three_$n;
    CREATE FOREIGN TABLE three.run_$n (id text, batch int, n int) SERVER three_$n OPTIONS (schema_name 'public', table_name 'run');
    ANALYZE three.run_$n;"
done)
SQL
of_each() { # select
  local queries=''
  for n in 1 2 3; do queries+="${queries:+ UNION ALL }$1 FROM three.run_$n WHERE batch = 42"; done
  echo "$queries"
}
row 'count of 1,000 rows in each of three stores, 1 ms' 'in one' '<= 1.3' 50 "$(of_each 'SELECT count(*)');" 'SELECT count(*) FROM three.run_1 WHERE batch = 42;'
row 'a page of three stores, 1 ms' 'of one' told 50 \
  "SELECT * FROM ($(of_each 'SELECT id, n')) AS r ORDER BY id LIMIT 20;" 'SELECT id, n FROM three.run_1 WHERE batch = 42 ORDER BY id LIMIT 20;'

# --- several clients; each locks a row of twenty and changes it -----------------
contended=run_$(printf '%025d' 0):n
contention() { # table, lock: the share of failed transactions, and the rate of the others
  printf '%s\n' '\set n random(10, 29)' 'BEGIN;' "$2" "UPDATE $1 SET n = n + 1 WHERE id = '$contended';" 'COMMIT;' >"$dir/script"
  pgbench -n -c 6 -T 2 -f "$dir/script" |
    awk '/^number of failed transactions/ { share = $6 } /^tps/ { tps = $3 } END { gsub(/[(%)]/, "", share); print share, tps }'
}
for _ in 1 2 3 4 5; do
  work=$(contention run_ops.run "SELECT run_ops.lock_row('run_ops.run', '$contended');")
  base=$(contention stock.run "SELECT FROM stock.run WHERE id = '$contended' FOR UPDATE;")
  echo "$work $base"
done >"$dir/contention"
column() { awk "{ print $1 }" "$dir/contention" | median; }
what='6 clients lock a row of 20 and change it, 1 ms'
printf "$what: failed|stock foreign table, of which %.0f %% fail|0 %%|%.0f %%\n" "$(column '$3')" "$(column '$1')"
printf "$what: rate|stock foreign table|told|%.2f\n" "$(column '$2 / $4')"
