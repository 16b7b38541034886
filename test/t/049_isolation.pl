# Statements of several sessions on rows of a store wait for each other, see
# each other's changes and fail as they do on one table, at every isolation
# level.  Each case runs with LEGACY ids, which are that one table, and with NEW
# ids, whose rows are in the store.

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my ($control_plane, $store) = split_servers();
$_->safe_psql('postgres', q(
	CREATE TABLE job (id text PRIMARY KEY, n int NOT NULL DEFAULT 0, status text NOT NULL DEFAULT 'PENDING', state status NOT NULL DEFAULT 'open')))
  foreach ($control_plane, $store);
sub here { return $control_plane->safe_psql('postgres', shift) }
here(q(SELECT run_ops.attach_table('job', 'shape'); SELECT run_ops.enable_split()));

my %id = (LEGACY => \&cuid, NEW => \&ksuid);
my %server = (LEGACY => $control_plane, NEW => $store);
# the three rows of a residency, as they are before each case
sub reset_rows
{
	my ($residency) = @_;
	here(join ';', 'DELETE FROM run_ops.job', map { sprintf q(INSERT INTO run_ops.job (id) VALUES ('%s')), $id{$residency}->($_) } 1 .. 3);
	return;
}

# --- eight sessions, three rows, 320 increments ----------------------------------------------

here(q(
	CREATE FUNCTION bump(wanted text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	  BEGIN
	    UPDATE run_ops.job SET n = n + 1 WHERE id = wanted;
	    PERFORM 1 / 0;
	  EXCEPTION WHEN division_by_zero THEN
	    UPDATE run_ops.job SET n = n + 1 WHERE id = wanted;
	  END;
	  BEGIN
	    UPDATE run_ops.job SET n = n + 0 WHERE id = wanted;
	  EXCEPTION WHEN division_by_zero THEN NULL;
	  END;
	END $$));
my $script = "$PostgreSQL::Test::Utils::tmp_check/increments.sql";
my @increments = (
	[ 'one UPDATE', q(UPDATE run_ops.job SET n = n + 1 WHERE id = :id;) ],
	[ 'lock_row() first', q(BEGIN;
SELECT run_ops.lock_row('run_ops.job', :id);
UPDATE run_ops.job SET n = n + 1 WHERE id = :id;
COMMIT;) ],
	[ 'a read first', q(BEGIN;
SELECT n FROM run_ops.job WHERE id = :id;
UPDATE run_ops.job SET n = n + 1 WHERE id = :id;
COMMIT;) ],
	# the second row of VALUES keeps it a join
	[ 'a join with VALUES', q(UPDATE run_ops.job SET n = job.n + v.d FROM (VALUES (:id, 1), ('nowhere', 7)) AS v (id, d) WHERE job.id = v.id;) ],
	[ 'an enum in the condition', q(UPDATE run_ops.job SET n = n + 1 WHERE id = :id AND state = 'open';) ],
	[ 'EXCEPTION blocks', q(SELECT bump(:id);) ],);
foreach my $residency ('LEGACY', 'NEW')
{
	foreach my $case (map { ([ @$_, 'simple' ], [ @$_, 'prepared' ]) } @increments)
	{
		my ($name, $sql, $mode) = @$case;
		next if $mode eq 'prepared' && $name ne 'one UPDATE';
		my ($start, $digits) = $residency eq 'LEGACY' ? ('run_c', 24) : ('run_', 27);
		reset_rows($residency);
		$sql =~ s/:id/('$start' || lpad(:i::text, $digits, '0'))/g;
		unlink $script;
		append_to_file($script, "\\set i random(1, 3)\n$sql\n");
		IPC::Run::run([ 'pgbench', '-n', '-M', $mode, '-c', 8, '-j', 2, '-t', 40, '-f', $script, $control_plane->connstr('postgres') ],
			'>', \my $out, '2>', \my $err);
		my ($processed) = $out =~ /transactions actually processed: (\S+)/;
		is($processed, '320/320', "$residency, $name, $mode: no transaction fails") or diag((split /\n/, $err)[0]);
		is(here('SELECT sum(n) FROM run_ops.job'), 320, "$residency, $name, $mode: every increment counts");
	}
}

# --- two sessions -----------------------------------------------------------------------------

my @sessions = map { $control_plane->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
my ($one, $two) = @sessions;

# Runs a statement; how many rows it had, and its SQLSTATE where it failed.
my $tell = "\n;\\echo outcome: :ROW_COUNT :SQLSTATE";
sub outcome
{
	my ($out) = @_;
	$out =~ /outcome: (\d+) (\w+)\n?$/ or return "no outcome: $out";
	return $2 eq '00000' ? $1 : $2;
}
sub tried
{
	my ($session, $sql) = @_;
	my $outcome = outcome(scalar $session->query("$sql$tell"));
	$session->{stderr} = '';
	return $outcome;
}

# Sends a statement, waits until it waits for a row on its server, lets the
# other session do what ends that, and returns what became of the statement.
sub outcome_after_wait
{
	my ($session, $sql, $server, $then) = @_;
	my $done = qr/outcome: .*\n/;
	$session->{stdin} .= "$sql$tell\n";
	foreach (1 .. 1800)
	{
		$session->{run}->pump_nb;
		last if $session->{stdout} =~ $done
		  || $server->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock')) eq '1';
	}
	fail("it waits for the other session: $sql") if $session->{stdout} =~ $done;
	$then->();
	pump_until($session->{run}, $session->{timeout}, \$session->{stdout}, $done);
	my $outcome = outcome($session->{stdout});
	@$session{ 'stdout', 'stderr' } = ('', '');
	return $outcome;
}
sub done { $_->query('ROLLBACK') foreach @sessions; $_->{stderr} = '' foreach @sessions; return }

foreach my $residency ('LEGACY', 'NEW')
{
	my $server = $server{$residency};
	my ($a, $b, $c) = map { $id{$residency}->($_) } 1 .. 3;
	my $commit = sub { $one->query('COMMIT') };

	foreach my $column ([ 'text', 'status', 'PENDING', 'DONE' ], [ 'an enum', 'state', 'open', 'done' ])
	{
		my ($type, $name, $before, $after) = @$column;
		my $as = "$residency, a condition on $type";
		my $finish = "UPDATE run_ops.job SET $name = '$after' WHERE id = '$a' AND $name = '$before'";
		my $delete = "DELETE FROM run_ops.job WHERE id = '$a' AND $name = '$before'";

		reset_rows($residency);
		$one->query('BEGIN');
		is(tried($one, $finish), 1, "$as: the first session changes the row");
		is(outcome_after_wait($two, $finish, $server, $commit), 0, "$as: the second waits, and finds none");

		reset_rows($residency);
		$_->query('BEGIN') foreach @sessions;
		is(tried($two, "SELECT FROM run_ops.job WHERE id = '$a' AND $name = '$before'"), 1, "$as: the row is there");
		is(tried($one, $finish), 1, "$as: it is changed by another session");
		is(outcome_after_wait($two, $finish, $server, $commit), 0, "$as: a transaction that has read the row finds none");
		is(tried($two, "UPDATE run_ops.job SET n = 5 WHERE id = '$a' AND $name = '$after'"), 1, "$as: and goes on");
		is(tried($two, 'COMMIT'), 0, "$as: and commits");

		reset_rows($residency);
		$one->query('BEGIN');
		is(tried($one, $delete), 1, "$as: the first session deletes the row");
		is(outcome_after_wait($two, $delete, $server, $commit), 0, "$as: the second waits, and deletes none");

		reset_rows($residency);
		$one->query('BEGIN');
		is(tried($one, $finish), 1, "$as: the row is changed");
		is(outcome_after_wait($two, $delete, $server, $commit), 0, "$as: and not deleted, for the condition does not hold any more");

		reset_rows($residency);
		$one->query("BEGIN; DELETE FROM run_ops.job WHERE id = '$a'");
		is(outcome_after_wait($two, $finish, $server, $commit), 0, "$as: a row that was deleted meanwhile is not changed");

		reset_rows($residency);
		$one->query("BEGIN; $finish");
		is(outcome_after_wait($two, $finish, $server, sub { $one->query('ROLLBACK') }), 1, "$as: a change that was undone does not count");

		reset_rows($residency);
		$one->query("BEGIN; UPDATE run_ops.job SET n = 40 WHERE id = '$a'");
		is(outcome_after_wait($two, "UPDATE run_ops.job SET n = n + 2 WHERE id = '$a' AND $name = '$before'", $server, $commit), 1,
			"$as: a row of which something else has changed is changed");
		is(here("SELECT n FROM run_ops.job WHERE id = '$a'"), 42, "$as: from its new values");
	}

	# SELECT ... FOR UPDATE and the like, for one row and for a set
	my $of_a = "FROM run_ops.job WHERE id = '$a' AND status = 'PENDING'";
	foreach my $rows ([ 'a row', $of_a, 1 ], [ 'a set', "FROM run_ops.job WHERE status = 'PENDING' ORDER BY id", 3 ])
	{
		my ($of, $from, $count) = @$rows;
		my $as = "$residency, FOR UPDATE of $of";
		my $others = $count - 1;
		my $change = sub { reset_rows($residency); $one->query("BEGIN; UPDATE run_ops.job SET $_[0] WHERE id = '$a'") };
		$change->('n = 7');
		$two->query('BEGIN');
		is(outcome_after_wait($two, "SELECT FROM (SELECT n $from OFFSET 0 FOR UPDATE) AS q WHERE n = 7", $server, $commit), 1, "$as waits, and returns the new version");
		is(tried($one, "SELECT $from FOR UPDATE NOWAIT"), '55P03', "$as, NOWAIT: fails");
		is(tried($one, "SELECT $from FOR KEY SHARE SKIP LOCKED"), 0, "$as, SKIP LOCKED: skips");
		is(tried($one, "SELECT FROM run_ops.job WHERE id = '$b' FOR UPDATE SKIP LOCKED"), $others ? 0 : 1, "$as locks no other row");
		done();
		$change->(q(status = 'DONE'));
		is(outcome_after_wait($two, "SELECT $from FOR UPDATE", $server, $commit), $others, "$as leaves out a row that does not meet the condition any more");
		$one->query("BEGIN; SELECT $from FOR SHARE");
		is(tried($two, "SELECT $from FOR SHARE NOWAIT"), $others, "$as: FOR SHARE is shared");
		done();
		$change->('n = 8');
		is(tried($two, "SELECT $from FOR KEY SHARE NOWAIT"), $count, "$as: FOR KEY SHARE does not wait for an UPDATE");
		is(tried($two, "SELECT $from LIMIT 1 FOR UPDATE SKIP LOCKED"), $others ? 1 : 0, "$as, SKIP LOCKED: takes what is free");
		done();
		reset_rows($residency);
		$two->query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM run_ops.job");
		here("UPDATE run_ops.job SET n = 9 WHERE id = '$a'");
		is(tried($two, "SELECT $from FOR UPDATE"), '40001', "$as, REPEATABLE READ: a row that has changed since is an error");
		done();
	}

	# READ COMMITTED: each statement has a snapshot of its own
	my $n = "SELECT n FROM run_ops.job WHERE id = '$a'";
	my $set = sub { here("UPDATE run_ops.job SET n = $_[0] WHERE id = '$a'") };
	reset_rows($residency);
	$one->query('BEGIN');
	is($one->query($n), 0, "$residency, READ COMMITTED: a read");
	$set->(1);
	is($one->query($n), 1, "$residency, READ COMMITTED: the next read sees what was committed since");
	$set->(2);
	is($one->query('SELECT sum(n) FROM run_ops.job'), 2, "$residency, READ COMMITTED: so does the read of another kind");
	$set->(3);
	is(tried($one, "UPDATE run_ops.job SET n = n + 10 WHERE id = '$b' AND EXISTS (SELECT FROM run_ops.job AS o WHERE o.id = '$a' AND o.n = 3)"),
		1, "$residency, READ COMMITTED: and a write");
	$set->(4);
	is($one->query($n), 4, "$residency, READ COMMITTED: and a read after a write");
	$one->query("SAVEPOINT s");
	$set->(5);
	is($one->query($n), 5, "$residency, READ COMMITTED: and a read after a savepoint");
	is($one->query('SELECT string_agg(n::text, \',\' ORDER BY id) FROM run_ops.job'), '5,10,0', "$residency, READ COMMITTED: which sees its own changes, too");
	done();

	# the higher levels: one snapshot, no lost update
	foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
	{
		my $as = "$residency, $level";
		reset_rows($residency);
		here(q(DELETE FROM run_ops.step));
		$one->query("BEGIN ISOLATION LEVEL $level");
		is($one->query($n), 0, "$as: a read");
		$set->(1);
		here("INSERT INTO run_ops.step VALUES ('s1', '$a', 1); DELETE FROM run_ops.job WHERE id = '$c'");
		is($one->query($n), 0, "$as: the next read sees the same");
		is($one->query('SELECT count(*), sum(n) FROM run_ops.job'), '3|0', "$as: so does one of all rows");
		is($one->query("SELECT count(*) FROM run_ops.step WHERE \"runId\" = '$a'"), 0, "$as: and the first read of another table");
		is($one->query("SAVEPOINT s; $n"), 0, "$as: and one after a savepoint");
		is(tried($one, "UPDATE run_ops.job SET n = n + 1 WHERE id = '$a'"), '40001', "$as: no update is lost");
		is(tried($one, "ROLLBACK TO s; DELETE FROM run_ops.job WHERE id = '$a'"), '40001', "$as: and no row deleted that has changed");
		is(tried($one, "ROLLBACK TO s; UPDATE run_ops.job SET n = n + 1 WHERE id = '$c'"), '40001', "$as: nor one changed that was deleted");
		is(tried($one, "ROLLBACK TO s; UPDATE run_ops.job SET n = n + 1 WHERE id = '$b'"), 1, "$as: any other row can be changed");
		is(tried($one, 'COMMIT'), 0, "$as: and the transaction committed");

		reset_rows($residency);
		foreach my $session (@sessions)
		{
			$session->query("BEGIN ISOLATION LEVEL $level; $n");
		}
		is(tried($one, "UPDATE run_ops.job SET n = n + 1 WHERE id = '$a'"), 1, "$as: the first of two increments");
		is(outcome_after_wait($two, "UPDATE run_ops.job SET n = n + 1 WHERE id = '$a'", $server, $commit), '40001', "$as: the second one waits and fails");
		done();
		is(here($n), 1, "$as: one increment is there");
	}

	# write skew: each session reads both rows and changes another one
	foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
	{
		my $as = "$residency, $level";
		reset_rows($residency);
		my $both = "SELECT sum(n) FROM run_ops.job WHERE id IN ('$a', '$b')";
		$_->query("BEGIN ISOLATION LEVEL $level; $both") foreach @sessions;
		is(tried($one, "UPDATE run_ops.job SET n = 1 WHERE id = '$a'"), 1, "$as: one session changes a row");
		my @outcomes = tried($two, "UPDATE run_ops.job SET n = 1 WHERE id = '$b'");
		is(tried($one, 'COMMIT'), 0, "$as: and commits");
		push @outcomes, tried($two, 'COMMIT');
		if ($level eq 'SERIALIZABLE')
		{
			ok((grep { $_ eq '40001' } @outcomes), "$as: write skew is refused") or diag "@outcomes";
			is(here($both), 1, "$as: and leaves nothing");
		}
		else
		{
			is("@outcomes", '1 0', "$as: write skew is allowed");
			is(here($both), 2, "$as: and both changes are there");
		}
		done();
	}

	# a cursor shows the rows as they were when it was declared
	foreach my $level ('READ COMMITTED', 'REPEATABLE READ')
	{
		my $as = "$residency, $level, a cursor";
		my $declare = 'DECLARE c CURSOR FOR SELECT n FROM run_ops.job ORDER BY id';
		my $change = 'UPDATE run_ops.job SET n = n + 100';
		my $begin = sub { reset_rows($residency); $one->query("BEGIN ISOLATION LEVEL $level"); return };

		$begin->();
		$one->query($declare);
		here("$change; DELETE FROM run_ops.job WHERE id = '$b'");
		is($one->query('FETCH ALL FROM c'), "0\n0\n0", "$as does not see what another session has committed since");
		done();

		$begin->();
		$one->query("$declare; $change; DELETE FROM run_ops.job WHERE id = '$b'");
		is($one->query('FETCH ALL FROM c'), "0\n0\n0", "$as does not see what its own transaction has changed since");
		is($one->query('SELECT n FROM run_ops.job ORDER BY id'), "100\n100", "$as does not hide that from other statements");
		done();

		$begin->();
		$one->query("$declare; FETCH 1 FROM c; $change; SELECT count(*) FROM run_ops.job");
		is($one->query('FETCH ALL FROM c'), "0\n0", "$as that has been read in part does not either");
		done();

		$begin->();
		$one->query("UPDATE run_ops.job SET n = 1; $declare; $change");
		is($one->query('FETCH ALL FROM c'), "1\n1\n1", "$as sees what its own transaction had changed before");
		done();
	}
}

# two workers take jobs of both stores from a queue: none twice, none is lost
here('CREATE TABLE claim (id text, worker int)');
my $next = q(SELECT id FROM run_ops.job WHERE status = 'PENDING' ORDER BY n LIMIT 5 FOR UPDATE SKIP LOCKED);
foreach my $case (
	[ 'one statement', qq(
WITH claimed AS (UPDATE run_ops.job SET status = 'DONE' WHERE id IN ($next) RETURNING id)
INSERT INTO claim SELECT id, :client_id FROM claimed;
) ],
	[ 'two statements', qq(
BEGIN;
SELECT coalesce(array_agg(id), '{}') AS ids FROM ($next) AS q \\gset
UPDATE run_ops.job SET status = 'DONE' WHERE id = ANY (':ids');
INSERT INTO claim SELECT unnest(':ids'::text[]), :client_id;
COMMIT;
) ])
{
	my ($name, $sql) = @$case;
	# the first statement of a session needs the library
	local $ENV{PGOPTIONS} = '-c session_preload_libraries=run_ops_split -c run_ops_split.cross_store_writes=allow';
	here('DELETE FROM run_ops.job; TRUNCATE claim');
	here(q(INSERT INTO run_ops.job (id, n) SELECT CASE i % 2 WHEN 0 THEN 'run_c' || lpad(i::text, 24, '0') ELSE 'run_' || lpad(i::text, 27, '0') END, i
		FROM generate_series(1, 2500) AS i));
	unlink $script;
	append_to_file($script, $sql);
	IPC::Run::run([ 'pgbench', '-n', '-c', 2, '-j', 2, '-t', 300, '-f', $script, $control_plane->connstr('postgres') ], '>', \my $out, '2>', \my $err);
	my ($processed) = $out =~ /transactions actually processed: (\S+)/;
	is($processed, '600/600', "workers, $name: no transaction fails") or diag((split /\n/, $err)[0]);
	is(here('SELECT count(*), count(DISTINCT id) FROM claim'), '2500|2500', "workers, $name: every job is taken once");
	is(here(q(SELECT count(*) FROM run_ops.job WHERE status = 'DONE')), 2500, "workers, $name: every job is done");
	is(here('SELECT count(DISTINCT worker) FROM claim'), 2, "workers, $name: both have worked");
}

# a loop over rows of both stores, of which the second store's are not read yet
# when the first row is inserted
here('DELETE FROM run_ops.job');
here(join ';', map { sprintf q(INSERT INTO run_ops.job (id) VALUES ('%s')), ($_ % 2 ? cuid($_) : ksuid($_)) } 101 .. 140);
foreach my $residency ('LEGACY', 'NEW')
{
	$one->query(q(SET test.loops = 'none'; SET test.prefix = ') . substr($id{$residency}->(0), 0, -3) =~ s/0000/9999/r . q(';
		DO $$
		DECLARE
		  r record;
		  prefix text := current_setting('test.prefix');
		  loops int := 0;
		BEGIN
		  FOR r IN SELECT id FROM run_ops.job WHERE id LIKE 'run_c%' UNION ALL SELECT id FROM run_ops.job WHERE id NOT LIKE 'run_c%' LOOP
		    loops := loops + 1;
		    CONTINUE WHEN r.id LIKE prefix || '%';
		    INSERT INTO run_ops.job VALUES (prefix || right(r.id, 3), 0);
		  END LOOP;
		  DELETE FROM run_ops.job WHERE id ~ '^run_c?9999';
		  PERFORM set_config('test.loops', loops::text, false);
		END $$));
	is($one->query('SHOW test.loops'), 40, "a loop over both stores does not see the $residency rows that it inserts");
	$one->{stderr} = '';
}

# --- cursors and savepoints ----------------------------------------------------------------------

foreach my $async (0, 1)
{
	if ($async)
	{
		# refusing it is as good
		my ($rc) = $control_plane->psql('postgres', q(ALTER SERVER new OPTIONS (ADD async_capable 'true')));
		last if $rc != 0;
	}
	here('DELETE FROM run_ops.job');
	here(join ';', map { sprintf q(INSERT INTO run_ops.job VALUES ('%s', %d)), ($_ % 2 ? cuid($_) : ksuid($_)), $_ } 1 .. 10);
	foreach my $level ('READ COMMITTED', 'REPEATABLE READ')
	{
		foreach my $rows ([ 'NEW rows', q(SELECT n FROM run_ops.job WHERE n % 2 = 0 ORDER BY n), 2, 4, 6, 8, 10 ],
			[ 'rows of both stores', 'SELECT n FROM run_ops.job ORDER BY n', 1 .. 5 ])
		{
			my ($of, $sql, @n) = @$rows;
			my $as = ($async ? 'async_capable, ' : '') . "$level, a cursor of $of";
			my $declare = "BEGIN ISOLATION LEVEL $level; DECLARE c CURSOR FOR $sql; ";
			is($one->query("$declare SAVEPOINT s; FETCH 1 FROM c; ROLLBACK TO s; FETCH 1 FROM c; RELEASE s; FETCH 1 FROM c"), join("\n", @n[0 .. 2]),
				"$as goes on after ROLLBACK TO");
			done();
			is($one->query("$declare FETCH 1 FROM c; SAVEPOINT s; FETCH 1 FROM c; UPDATE run_ops.job SET n = 0; ROLLBACK TO s; FETCH 2 FROM c"),
				join("\n", @n[0 .. 3]), "$as goes on after a write was undone");
			done();
			is($one->query("$declare SAVEPOINT s; FETCH 1 FROM c; SELECT 1/0; ROLLBACK TO s; FETCH 1 FROM c"), join("\n", @n[0 .. 1]),
				"$as goes on after an error");
			done();
			is($one->query("$declare FETCH 1 FROM c; SAVEPOINT s; SELECT run_ops.tell_store('new', 'SELECT 1/0'); ROLLBACK TO s; FETCH 1 FROM c"),
				join("\n", @n[0 .. 1]), "$as goes on after an error of the store");
			done();
			is($one->query("$declare FETCH 1 FROM c; SAVEPOINT s; INSERT INTO run_ops.job VALUES ('" . ksuid(2) . "'); ROLLBACK TO s; FETCH 1 FROM c"),
				join("\n", @n[0 .. 1]), "$as goes on after a duplicate key in the store");
			done();
		}
	}
}
$_->quit foreach @sessions;

# A first statement that loads the library while it is planned, also behind a
# security barrier.
here('ALTER VIEW run_ops.job SET (security_barrier)');
foreach my $id (cuid(1), ksuid(2))
{
	local $ENV{PGOPTIONS} = '-c session_preload_libraries=';
	my $update = "UPDATE run_ops.job SET n = n + 1 WHERE id = '$id'";
	my ($ret, $out, $err) = $control_plane->psql('postgres', "\\set VERBOSITY verbose\n$update;\n$update RETURNING 'changed';", on_error_stop => 0);
	is("$err$out", 'changed', "a first UPDATE of $id, and a second one");
}
done_testing();
