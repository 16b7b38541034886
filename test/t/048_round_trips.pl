# How many round trips to the store a statement through a view takes.  They are
# counted by a proxy before the store, after a first statement of the session,
# so without the connection.  The proxy delays what it forwards: what is sent
# without waiting for its answer, such as the COMMIT after a read, is then on its
# way together with the next statement and no round trip of its own.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use RoundTrips;
use SplitServers;

my ($control_plane, $store) = split_servers();
sub here { return $control_plane->safe_psql('postgres', shift) }
$store->append_conf('postgresql.conf', 'max_prepared_transactions = 20');
$store->restart;
here('SELECT run_ops.enable_split()');
# 1,000 rows of the store, 10 of this database; of the tags 2,000 each, 100 of them in both
$store->safe_psql('postgres', q(
	INSERT INTO run SELECT 'run_' || lpad(i::text, 27, '0'), 'open', i FROM generate_series(1, 1000) AS i;
	INSERT INTO tag SELECT 'tag ' || i, i FROM generate_series(1901, 3900) AS i;
	ANALYZE run));
here(q(
	INSERT INTO run SELECT 'run_c' || lpad(i::text, 24, '0'), 'open', 0 FROM generate_series(1, 10) AS i;
	INSERT INTO tag SELECT 'tag ' || i, i FROM generate_series(1, 2000) AS i;
	CREATE TABLE wanted AS SELECT 'run_' || lpad(i::text, 27, '0') AS id FROM generate_series(1, 100) AS i;
	CREATE TABLE note (id int PRIMARY KEY);
	ANALYZE run, wanted, tag));

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $proxy = RoundTrips->start($dir, 7777, $store->host, $store->port, delay => 10);
point_store($control_plane, $dir, 7777);
my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
my $warm_up = sprintf q(SELECT n FROM run_ops.run WHERE id = '%s'), ksuid(1);

# Its rows, and how many round trips a statement, or several, took.  The read
# before it has waited for all that was sent before.
sub taken
{
	my ($sql) = @_;
	$session->query($warm_up);
	$proxy->taken;
	$session->{stderr} = '';
	my $rows = $session->query($sql);
	my $n = $proxy->taken;
	diag $session->{stderr} if $session->{stderr} ne '';
	return ($rows, $n);
}

sub takes
{
	my ($sql, $rows, $n, $name) = @_;
	my ($got, $taken) = taken($sql);
	is($got, $rows, "$name: its result");
	is($taken, $n, "$name: its round trips");
	return;
}

sub takes_at_most
{
	my ($sql, $rows, $n, $name) = @_;
	my ($got, $taken) = taken($sql);
	is($got, $rows, "$name: its result");
	cmp_ok($taken, '>', 0, "$name: it asks the store");
	cmp_ok($taken, '<=', $n, "$name: its round trips");
	return;
}

sub new_read { return sprintf q(SELECT n FROM run_ops.run WHERE id = '%s'; ), ksuid(shift) }

# --- reads ------------------------------------------------------------------------------------

takes(new_read(7), 7, 1, 'a row by its NEW id');
takes(sprintf(q(PREPARE by_id (text) AS SELECT n FROM run_ops.run WHERE id = $1; SET plan_cache_mode = force_generic_plan; EXECUTE by_id ('%s'); RESET plan_cache_mode), ksuid(8)),
	8, 1, 'a row by its NEW id, with a generic plan');
takes(new_read(2000), '', 1, 'a NEW id without a row');
takes('BEGIN; ' . join('', map { new_read($_) } 1 .. 10) . 'COMMIT', join("\n", 1 .. 10), 10, 'ten reads in a block');
takes('BEGIN; ' . join('', map { new_read($_) . "SAVEPOINT s$_; " } 1 .. 5) . 'RELEASE s3; COMMIT', join("\n", 1 .. 5), 5, 'five reads with savepoints between them');
takes(join('', map { 'BEGIN; SAVEPOINT s; ' . new_read($_) . 'ROLLBACK TO s; COMMIT; ' } 1 .. 5), join("\n", 1 .. 5), 5, 'five reads that are rolled back to savepoints');
my $ids = join ',', map { ksuid($_) } 1 .. 100;
takes_at_most("SELECT sum(n) FROM run_ops.run WHERE id = ANY ('{$ids}')", 5050, 2, '100 NEW ids in an array');
takes_at_most("PREPARE by_ids (text[]) AS SELECT sum(n) FROM run_ops.run WHERE id = ANY (\$1); SET plan_cache_mode = force_generic_plan; EXECUTE by_ids ('{$ids}'); RESET plan_cache_mode",
	5050, 2, '100 NEW ids in an array, with a generic plan');
takes_at_most('SELECT sum(r.n) FROM wanted AS w, LATERAL (SELECT n FROM run_ops.run WHERE id = w.id OFFSET 0) AS r', 5050, 101, '100 LATERAL lookups');
takes_at_most('SET enable_hashjoin = off; SET enable_mergejoin = off; SELECT sum(r.n) FROM wanted AS w JOIN run_ops.run AS r ON r.id = w.id; RESET enable_hashjoin; RESET enable_mergejoin',
	5050, 101, 'a nested loop with 100 ids');
takes_at_most('SELECT sum(n), count(DISTINCT id) FROM run_ops.run', '500500|1010', 2, 'all of 1,000 rows');

# --- rows that do not say in which store they are ------------------------------------------------

my $page = join "\n", map { "tag $_" } 1 .. 20;
takes_at_most('SELECT id FROM run_ops.tag ORDER BY n, id LIMIT 20', $page, 5, 'a page of a table with 2,000 rows on either side');
takes_at_most('SELECT count(*), count(DISTINCT id), sum(n) FROM run_ops.tag', '3900|3900|7606950', 6, 'all of its rows');
takes_at_most('SELECT count(*) FROM run_ops.tag WHERE n BETWEEN 1001 AND 1950', 950, 4, 'some of its rows');
takes_at_most(q(SELECT n FROM run_ops.tag WHERE id = 'tag 1'), 1, 2, 'a row of this database by its key');
takes_at_most(q(SELECT n FROM run_ops.tag WHERE id = 'tag 1950'), 1950, 2, 'a row of both by its key');
takes_at_most(q(SELECT n FROM run_ops.tag WHERE id = 'tag 3000'), 3000, 1, 'a row of the store by its key');

# --- writes -----------------------------------------------------------------------------------

my $insert = sub { sprintf q(INSERT INTO run_ops.run VALUES ('%s', 'open', 1)), ksuid(shift) };
takes($insert->(5001), '', 2, 'one row inserted');
takes($insert->(5002) . ' RETURNING n', 1, 2, 'one row inserted, RETURNING');
takes('BEGIN; ' . $insert->(5003) . '; ' . $insert->(5004) . '; COMMIT', '', 3, 'two INSERTs in one transaction');
takes('BEGIN; ' . $insert->(5005) . '; SAVEPOINT s; ' . new_read(1) . 'SAVEPOINT t; ' . new_read(2) . 'COMMIT', "1\n2", 4, 'reads after savepoints in a transaction that has written');
my $one = ksuid(5001);
takes("UPDATE run_ops.run SET n = 2 WHERE id = '$one'", '', 2, 'one row updated by its id');
takes("UPDATE run_ops.run SET n = n + 1, state = 'done' WHERE id = '$one' AND state = 'open' RETURNING n, state", '3|done', 2, 'one row updated under a condition on an enum, RETURNING');
takes("PREPARE up AS UPDATE run_ops.run SET n = n + 1, state = \$2 WHERE id = \$1 RETURNING n, state; SET plan_cache_mode = force_generic_plan; EXECUTE up ('$one', 'open'); RESET plan_cache_mode",
	'4|open', 2, 'one row updated by its id, with a generic plan');
takes("PREPARE up_if AS UPDATE run_ops.run SET n = 2 WHERE id = \$1 AND state = \$2; " . "EXECUTE up_if ('$one', 'open'); " x 8, '', 16, 'one row updated eight times, with the plan that the plan cache chooses');
takes("UPDATE run_ops.run SET n = n + 1, state = 'open' WHERE n BETWEEN 501 AND 600 AND state = 'open'", '', 2, '100 rows updated by a condition');
takes("UPDATE run_ops.run SET n = n - 1 WHERE n BETWEEN 502 AND 601", '', 2, 'and again');
my $value = q(sign(extract(epoch FROM now()))::int);
takes("UPDATE run_ops.run SET n = 1 + $value WHERE id = '$one'", '', 2, 'one row updated with a value that is computed here');
takes("UPDATE run_ops.run SET n = n - $value WHERE (n, id) > ($value + 600, 'a') AND (n, id) <= ($value + 600, 'z')", '', 2, 'rows updated by a comparison of rows, and a value that is computed here');
takes_at_most("UPDATE run_ops.run SET n = 2 WHERE id = '" . ksuid(9999) . q('), '', 2, 'no row updated by its id');
takes("DELETE FROM run_ops.run WHERE id = '$one'", '', 2, 'one row deleted by its id');
is(here("SELECT count(*) FROM run_ops.run WHERE id = '$one'"), 0, 'and it is gone');

# rows that do not say in which store they are: 2,000 here, of which the store has 100
my $changed = sub { "SET run_ops_split.cross_store_writes = allow; BEGIN; WITH c AS (" . shift . ') SELECT count(*), sum(n) FROM c; ROLLBACK' };
takes_at_most($changed->('UPDATE run_ops.tag SET n = n + 1 WHERE n <= 1950 RETURNING n'), '1950|1904175', 7, 'rows of a table with 2,000 rows on either side updated');
takes_at_most($changed->(q(UPDATE run_ops.tag SET n = n + 1 WHERE id LIKE '%7' AND n <= 1900 RETURNING n)), '190|181070', 5, 'some of its rows updated, all of this database');
takes_at_most($changed->('UPDATE run_ops.tag AS t SET n = t.n + w.n FROM (VALUES (1), (2)) AS w (n) WHERE t.n = w.n * 900 RETURNING t.n'), '2|2703', 4, 'rows of a join updated');
takes_at_most($changed->('DELETE FROM run_ops.tag WHERE n <= 1900 RETURNING n'), '1900|1805950', 7, 'rows of it deleted');
takes_at_most($changed->(q(UPDATE run_ops.tag SET n = 0 WHERE id = 'tag 1' RETURNING n)), '1|0', 4, 'one of its rows updated by its key, of this database');
takes_at_most($changed->(q(UPDATE run_ops.tag SET n = 0 WHERE id = 'tag 1950' RETURNING n)), '1|0', 4, 'one of its rows updated by its key, of both');

# 5,000 rows in batches of 100
here(q(ALTER FOREIGN TABLE run_ops_new.run OPTIONS (SET batch_size '100')));
foreach my $table ('run_ops_new.run', 'run_ops.run')
{
	takes_at_most("INSERT INTO $table SELECT 'run_8' || lpad(i::text, 26, '0'), 'open', i FROM generate_series(1, 5000) AS i", '', 60, "5,000 rows inserted into $table");
	is($store->safe_psql('postgres', q(WITH gone AS (DELETE FROM run WHERE id LIKE 'run_8%' RETURNING n) SELECT count(*), sum(n) FROM gone)), '5000|12502500', 'all of them are there');
}

here(q(
	CREATE FUNCTION ten_inserts(start int) RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
	  done int := 0;
	BEGIN
	  FOR i IN start + 1 .. start + 10 LOOP
	    BEGIN
	      INSERT INTO run_ops.run VALUES ('run_' || lpad(i::text, 27, '0'), 'open', i);
	      done := done + 1;
	    EXCEPTION WHEN unique_violation THEN NULL;
	    END;
	  END LOOP;
	  RETURN done;
	END $$));
takes_at_most('DO $$ BEGIN PERFORM ten_inserts(6000); END $$', '', 12, 'ten INSERTs in EXCEPTION blocks of one DO');
is(here('SELECT count(*) FROM run_ops.run WHERE n BETWEEN 6001 AND 6010'), 10, 'all ten are there');

# --- LEGACY ids, and both databases -------------------------------------------------------------

my ($legacy, $other) = map { cuid($_) } 1, 77;
takes(qq(SELECT n FROM run_ops.run WHERE id = '$legacy'; INSERT INTO run_ops.run VALUES ('$other', 'open', 1);
	UPDATE run_ops.run SET n = n + 1 WHERE id = '$other' RETURNING n; SELECT run_ops.lock_row('run_ops.run', '$other');
	SELECT sum(r.n) FROM (VALUES ('$legacy'), ('$other')) AS w (id) JOIN run_ops.run AS r USING (id);
	DELETE FROM run_ops.run WHERE id IN ('$other') RETURNING n), "0\n2\nt\n2\n2", 0, 'statements on LEGACY ids');
takes(qq(BEGIN; SELECT n FROM run_ops.run WHERE id = '$legacy'; UPDATE run_ops.run SET n = 0 WHERE id = '$legacy'; SAVEPOINT s;
	UPDATE run_ops.run SET n = 0 WHERE id = '$legacy'; ROLLBACK TO s; COMMIT), 0, 0, 'a transaction on LEGACY ids');
takes(qq(SELECT n FROM run_ops.run WHERE id = '$legacy' FOR UPDATE), 0, 0, 'a LEGACY row locked');
takes(qq(BEGIN; SELECT n FROM run_ops.run WHERE id = '@{[ ksuid(2) ]}' FOR UPDATE; COMMIT), 2, 2, 'a NEW row locked');
takes(qq(BEGIN; SELECT count(*) FROM (SELECT FROM run_ops.run WHERE n >= 0 ORDER BY n LIMIT 5 FOR UPDATE SKIP LOCKED) AS q; COMMIT), 5, 2,
	'rows of both stores locked');
takes('SET run_ops_split.cross_store_writes = allow; BEGIN; INSERT INTO note VALUES (1); ' . $insert->(5011) . '; COMMIT', '', 2,
	'a row of a table of this database and one of the store in one transaction');
takes('BEGIN; ' . $insert->(5012) . qq(; INSERT INTO run_ops.run VALUES ('$other', 'open', 1); COMMIT), '', 2, 'a LEGACY row and a NEW one in one transaction');

# --- atomic commit --------------------------------------------------------------------------------

# PREPARE TRANSACTION, and COMMIT PREPARED, which others must see when the client
# has its answer; with a pooler the same
foreach my $pooled (0, 1)
{
	my ($n, $name) = $pooled ? (5300, ', pooled') : (5200, '');
	here(q(ALTER SERVER new OPTIONS (ADD pooled 'true'))) if $pooled;
	$session->query('SET run_ops_split.cross_store_writes = atomic');
	takes("BEGIN; INSERT INTO note VALUES ($n); " . $insert->($n + 1) . '; COMMIT', '', 3, "atomic$name: a row of each database in one transaction");
	takes('BEGIN; ' . $insert->($n + 2) . '; SAVEPOINT s; ' . $insert->($n + 3) . "; RELEASE s; INSERT INTO note VALUES ($n + 1); COMMIT", '', 4,
		"atomic$name: two rows of the store, a savepoint between them");
	takes("BEGIN; INSERT INTO note VALUES ($n + 2); " . $insert->($n + 4) . '; ROLLBACK', '', 1, "atomic$name: rolled back");
	takes($insert->($n + 5), '', 2, "atomic$name: a row of the store only");
	takes('BEGIN; ' . new_read(7) . "INSERT INTO note VALUES ($n + 3); COMMIT", 7, 1, "atomic$name: a row of the store read");
}
here('ALTER SERVER new OPTIONS (DROP pooled)');
$session->query('RESET run_ops_split.cross_store_writes');

# --- what stays open in the store between statements ---------------------------------------------

# How many transactions of ours are open in the store; what is on its way may
# end one yet.
my $open = q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle');
sub open_transactions
{
	my ($expected) = @_;
	my $n;
	foreach (1 .. 50)
	{
		$n = $store->safe_psql('postgres', $open);
		last if $n == $expected;
		select undef, undef, undef, 0.1;
	}
	return $n;
}
my $join = 'SELECT count(*) FROM run_ops.run AS r LEFT JOIN run_ops.step AS s ON s."runId" = r.id';
foreach my $read ([ 'a row by its id', new_read(1) ], [ 'all rows', 'SELECT sum(n) FROM run_ops.run;' ], [ 'a join of two tables', "$join;" ],
	[ 'a row after a savepoint', 'SAVEPOINT s; ' . new_read(1) ], [ 'the first of many rows', 'SELECT n FROM run_ops.run WHERE n > 500 LIMIT 1;' ])
{
	my ($name, $sql) = @$read;
	$session->query("BEGIN; $sql");
	is(open_transactions(0), 0, "READ COMMITTED: no transaction is open in the store after a read of $name");
	$session->query('COMMIT');
}
foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	my $all = 'SELECT sum(n) FROM run_ops.run WHERE n < 1000';
	$session->query("BEGIN ISOLATION LEVEL $level; " . new_read(1));
	is(open_transactions(1), 1, "$level: one transaction is open in the store after a read");
	my $before = $session->query($all);
	$store->safe_psql('postgres', q(UPDATE run SET n = n + 1 WHERE n < 500; INSERT INTO step VALUES ('s', 'r', 1)));
	is($session->query($all), $before, "$level: it sees one snapshot");
	is($session->query('SELECT count(*) FROM run_ops.step'), 0, "$level: of all tables");
	$session->query('COMMIT');
	isnt($session->query($all), $before, "$level: and the next transaction sees another one");
	is(open_transactions(0), 0, "$level: none is open in the store after COMMIT");
	$store->safe_psql('postgres', 'DELETE FROM step');
}

# --- what the operator asks --------------------------------------------------------------------

# 2,000 local rows, one of which has the unique value of a row of the store
$_->safe_psql('postgres', 'ALTER TABLE run ADD u int UNIQUE') foreach ($control_plane, $store);
here(q(INSERT INTO run SELECT 'run_c' || lpad(i::text, 24, '0'), 'open', 0, i FROM generate_series(101, 2100) AS i; ANALYZE run;
	SELECT run_ops.refresh_table('run_ops.run')));
$store->safe_psql('postgres', q(UPDATE run SET u = 1000 WHERE id LIKE '%01000'; ANALYZE run));
takes_at_most(q(SELECT legacy_key ->> 'id', store_key ->> 'id' FROM run_ops.repatriation_conflicts()), cuid(1000) . '|' . ksuid(1000), 5, 'conflicts in a unique index');
$session->quit;
done_testing();
