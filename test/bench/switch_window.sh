# How long writes are closed when all rows have come home, and when they go to
# the store again: ten times the rows, all but a few copied before.
set -euo pipefail
sizes=${SWITCH_WINDOW_SIZES:-10000 100000}
database=$PGDATABASE
host=$RUN_OPS_STORE_HOST port=$RUN_OPS_STORE_PORT

sql() { psql -XAtqv ON_ERROR_STOP=1 "$@"; }
here() { PGDATABASE=$1 sql; }
there() { PGHOST=$host PGPORT=$port PGDATABASE=$1 sql; }

declare -A closed
for n in $sizes; do
  name=${database}_$n
  createdb "$name"
  PGHOST=$host PGPORT=$port createdb "${name}_store"
  tables='CREATE TABLE run (id text PRIMARY KEY, n int);
    CREATE TABLE step (id text PRIMARY KEY, "runId" text REFERENCES run, n int);
    CREATE INDEX ON step ("runId");'
  there "${name}_store" <<<"$tables
    INSERT INTO run SELECT 'run_' || lpad(i::text, 27, '0'), i FROM generate_series(1, $n) AS i;
    INSERT INTO step SELECT 'step_' || i, 'run_' || lpad(i::text, 27, '0'), i FROM generate_series(1, $n) AS i;
    ANALYZE;"
  PGDATABASE=$name sql >/dev/null <<SQL
SET client_min_messages = warning;
$tables
CREATE EXTENSION run_ops_split CASCADE;
CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname '${name}_store');
CREATE USER MAPPING FOR CURRENT_USER SERVER new;
SELECT run_ops.attach_store('new', 'new'), run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId');
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
SELECT run_ops.enable_split();
CREATE PROCEDURE all_batches(call text) LANGUAGE plpgsql AS \$\$
DECLARE complete boolean;
BEGIN
  LOOP
    EXECUTE format('SELECT done FROM run_ops.%I(5000)', call) INTO complete;
    COMMIT;
    EXIT WHEN complete;
  END LOOP;
END \$\$;
CREATE PROCEDURE some_writes() LANGUAGE sql AS \$\$
  UPDATE run_ops.run SET n = n + 1 WHERE id IN (SELECT 'run_' || lpad(i::text, 27, '0') FROM generate_series(1, 100) AS i);
\$\$;
CALL all_batches('repatriate');
CALL some_writes();
SELECT run_ops.disable_split(repatriated => true);
VACUUM ANALYZE run, step;
CALL all_batches('move_strays');
CALL some_writes();
SELECT run_ops.enable_split();
SQL
  for action in 'disable split' 'enable split'; do
    closed[$action $n]=$(here "$name" <<<"SELECT detail ->> 'locked_ms' FROM run_ops.audit_log WHERE action = '$action' ORDER BY id DESC LIMIT 1")
    echo "$action, $n rows: ${closed[$action $n]} ms" >&2
  done
done

first=${sizes%% *} last=${sizes##* }
for action in 'disable split' 'enable split'; do
  awk -v work="writes blocked by $action, $last rows copied before" -v base="$first rows" \
    -v a="${closed[$action $last]}" -v b="${closed[$action $first]}" \
    'BEGIN { printf "%s|%s|<= 2|%.2f\n", work, base, a / b }'
done
