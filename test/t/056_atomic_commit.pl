# run_ops_split.cross_store_writes = atomic: a transaction over several databases
# commits in all of them or in none, wherever a session, a server or a connection
# is killed in between.
#
# A transaction is stopped between two of its steps by what each of them waits
# for: PREPARE TRANSACTION for a lock that a deferred trigger in the store wants;
# the time between it and the local commit for the lock that NOTIFY takes; the
# time between the local commit and COMMIT PREPARED for a synchronous standby that
# does not exist; COMMIT PREPARED for a process of the store that is frozen.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use HeldCommits;
use SplitServers;
use Test::More;

# what is written to WAL is on disk only when a commit needs it
my ($control_plane, $store) = split_servers(conf => q(
	autovacuum = off
	wal_writer_delay = 10s
	run_ops_split.cross_store_writes = atomic
	run_ops_split.store_timeout = 120s
	run_ops_split.store_retry_pause = 0));

my $commits = HeldCommits->new($control_plane);
sub here { return $control_plane->safe_psql('postgres', shift) }
sub there { return $store->safe_psql('postgres', shift) }

sub start_psql
{
	my ($sql, $out, $err) = @_;
	return IPC::Run::start([ 'psql', '-XAtqd', $control_plane->connstr('postgres'), '-v', 'ON_ERROR_STOP=1', '-c', $sql ],
		'>', $out, '2>', $err);
}

# one row for each of two databases
sub insert
{
	my ($n) = @_;
	return "INSERT INTO run_ops.run (id, n) VALUES ('@{[cuid($n)]}', $n), ('@{[ksuid($n)]}', $n)";
}

# the rows in each database, whatever the views say
sub stored
{
	my ($n, $node) = @_;
	return join ' ', map { $_->safe_psql('postgres', "SELECT count(*) FROM run WHERE n = $n") } ($node // $control_plane, $store);
}
sub left { return there('SELECT count(*) FROM pg_prepared_xacts') }

# A client may know of its end before its session has ended.  What is left keeps
# its locks, for which the rest of this test would wait.
sub nothing_left
{
	my ($what) = @_;
	ok($store->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_prepared_xacts'), $what) or die 'something is left: ' . the_name();
	return;
}
sub the_name { return there('SELECT gid FROM pg_prepared_xacts') }

sub resolved
{
	my ($node) = @_;
	return ($node // $control_plane)->safe_psql('postgres', q(SELECT string_agg(concat(store, ' ', outcome), ', ') FROM run_ops.resolve_in_doubt()));
}

sub restart_after_crash
{
	my ($node, $meanwhile) = @_;
	$node->stop('immediate');
	$meanwhile->() if $meanwhile;
	$node->start;
	return;
}

# --- what the store lacks -----------------------------------------------------

my ($ret, $out, $err) = $control_plane->psql('postgres', qq(
	CREATE SERVER other FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '@{[$store->host]}', port '@{[$store->port]}', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER other;
	SELECT run_ops.attach_store('a', 'other');
	SELECT run_ops.detach_store('a');
	SET run_ops_split.cross_store_writes = warn;
	SELECT run_ops.attach_store('b', 'other');
	SELECT run_ops.detach_store('b')));
like($err, qr/NOTICE:  store "a" cannot prepare transactions\nDETAIL.*\nHINT.*max_prepared_transactions/, 'attach_store() says that the store cannot prepare');
unlike($err, qr/store "b"/, '... with atomic only');
like(failing_gates($control_plane), qr/^atomic commit new: max_prepared_transactions is 0, and 0 transactions are prepared$/m, 'so does check_split()');
is(failing_gates($control_plane, 'run_ops_split.cross_store_writes = warn'), '', '... with atomic only');
here('SET run_ops_split.cross_store_writes = warn; SELECT run_ops.enable_split()');
($ret, $out, $err) = $control_plane->psql('postgres', insert(1));
like($err, qr/ERROR:  prepared transactions are disabled\nHINT:  Set "?max_prepared_transactions"?.*\nCONTEXT:  statement in store "new": PREPARE TRANSACTION/, 'a transaction fails');
is(stored(1), '0 0', '... in both databases');

$store->append_conf('postgresql.conf', 'max_prepared_transactions = 20');
$store->restart;
is(failing_gates($control_plane), '', 'every gate holds');

# --- the normal case ------------------------------------------------------------

# what the store was asked for transactions since then
my $seen = 0;
sub commands
{
	my $log = slurp_file($store->logfile, $seen);
	$seen = -s $store->logfile;
	return join ', ', map { s/ ISOLATION.*| $//r } $log =~ /execute <unnamed>: ((?:BEGIN|PREPARE|COMMIT|ROLLBACK)[A-Z ]*)/g;
}
commands();
here(insert(2));
is(stored(2), '1 1', 'both databases commit');
is(commands(), 'BEGIN, PREPARE TRANSACTION, COMMIT PREPARED', '... in two phases');
here("INSERT INTO run_ops.run (id) VALUES ('@{[ksuid(3)]}')");
is(commands(), 'BEGIN, COMMIT', 'a write to one store only is committed as before');
here("BEGIN; SELECT FROM run_ops.run WHERE id = '@{[ksuid(3)]}'; INSERT INTO run_ops.run (id) VALUES ('@{[cuid(3)]}'); COMMIT");
is(commands(), '', 'nor are reads prepared');
here('BEGIN; ' . insert(4) . '; SAVEPOINT s; ' . insert(5) . '; ROLLBACK TO s; ' . insert(6) . '; COMMIT');
is(join(', ', map { stored($_) } 4 .. 6), '1 1, 0 0, 1 1', 'with savepoints');
here('BEGIN; ' . insert(7) . '; ROLLBACK');
is(stored(7), '0 0', 'a transaction that is rolled back');
here('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM run_ops.run; ' . insert(8) . '; COMMIT');
is(stored(8), '1 1', 'a serializable transaction');
($ret, $out, $err) = $control_plane->psql('postgres', 'BEGIN; ' . insert(9) . q(; PREPARE TRANSACTION 'x'));
like($err, qr/cannot PREPARE a transaction that has written or locked rows in store "new"/, 'a local PREPARE TRANSACTION is refused');
is(stored(9), '0 0', '... in both');
is(left(), '0', 'nothing is left');
is(here('SELECT count(*) FROM run_ops.resolve_in_doubt()'), '0', '... to resolve');
like(here('SELECT pg_sleep(0); ' . q(SELECT run_ops.prepared_outcome('x'))), qr/^\n?undecided: it was prepared for another database$/, 'a name of nobody');

# --- errors in the first phase -------------------------------------------------

there(q(
	CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	  IF new.n = 10 THEN RAISE 'not this one'; END IF;
	  PERFORM pg_advisory_xact_lock_shared(CASE WHEN new.n = 81 THEN 2 ELSE 1 END);
	  RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON run DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
	CREATE DATABASE second));
my $in_second = q(
	CREATE TABLE note (n int);
	CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
	  'BEGIN IF new.n = 11 THEN RAISE ''nor this one''; END IF; PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
	CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait());
$store->safe_psql('second', $in_second);
here(qq(
	CREATE SERVER second FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '@{[$store->host]}', port '@{[$store->port]}', dbname 'second');
	CREATE USER MAPPING FOR CURRENT_USER SERVER second;
	CREATE FOREIGN TABLE note (n int) SERVER second));
sub three { my ($n) = @_; return 'BEGIN; ' . insert($n) . "; INSERT INTO note VALUES ($n); COMMIT" }
sub stored3 { my ($n) = @_; return stored($n) . ' ' . $store->safe_psql('second', "SELECT count(*) FROM note WHERE n = $n") }

here(three(12));
is(stored3(12), '1 1 1', 'three databases commit');
foreach my $n (10, 11)
{
	($ret, $out, $err) = $control_plane->psql('postgres', three($n));
	like($err, qr/ERROR:  no[tr] this one/, 'one of them cannot prepare');
	is(stored3($n), '0 0 0', '... so all roll back');
	nothing_left('... and nothing is left');
	unlike($err, qr/WARNING/, '... as nobody has to be told');
}

# --- killed while a store prepares ------------------------------------------------

my $waits = q(SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory');
my $writer;

sub hold_prepare
{
	my ($database, $lock) = @_;
	my $holder = $store->background_psql($database // 'postgres');
	# what an earlier transaction has left would keep it
	$holder->query_safe(q(SET lock_timeout = '20s'));
	$holder->query_safe('SELECT pg_advisory_lock(' . ($lock // 1) . ')');
	return $holder;
}

sub pid_of_writer { return here(q(SELECT pid FROM pg_stat_activity WHERE query LIKE '%INSERT%' AND pid <> pg_backend_pid() AND backend_type = 'client backend')) }

my $holder = hold_prepare();
$writer = start_psql(insert(20), \$out, \$err);
ok($store->poll_query_until('postgres', $waits), 'a store prepares');
is($control_plane->safe_psql('postgres', "SELECT pg_terminate_backend(@{[pid_of_writer()]})"), 't', 'the session is terminated');
$writer->finish;
ok($store->poll_query_until('postgres', q(SELECT count(*) = 0 FROM pg_locks WHERE relation = 'run'::regclass AND pid <> pg_backend_pid())), 'the store is left alone');
$holder->quit;
is(stored(20), '0 0', '... with no row');
nothing_left('... and nothing prepared');

# The server crashes.  What it had not on disk it never knew: the IDs that it
# gives from then on must not be taken for that of the transaction.
$holder = hold_prepare();
here('CHECKPOINT; SELECT pg_switch_wal()');
$writer = start_psql(insert(21), \$out, \$err);
ok($store->poll_query_until('postgres', $waits), 'a store prepares');
restart_after_crash($control_plane, sub {
	$holder->quit;
	$writer->finish;
	ok($store->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_prepared_xacts'), 'the server crashes; the store has prepared');
});
my ($xid) = the_name() =~ /:(\d+):\d+:\d+$/ or die;
here("INSERT INTO tag VALUES ('t$_')") foreach 1 .. 5;
here(q(SELECT pg_logical_emit_message(true, 'x', repeat('x', 100000))));
cmp_ok(here('SELECT pg_current_xact_id()'), '>', $xid, 'other transactions follow');
is(resolved(), 'new rolled back', 'what the crash has left is rolled back');
is(stored(21), '0 0', '... in both databases');
is(left(), '0', '... and nothing is left') or die 'something is left: ' . the_name();

# --- killed when one store has prepared, and another one has not -------------------

foreach my $crash (0, 1)
{
	my $n = 30 + $crash;
	$holder = hold_prepare('second');
	$writer = start_psql(three($n), \$out, \$err);
	ok($store->poll_query_until('postgres', $waits), 'one store prepares');
	ok($store->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_prepared_xacts'), 'another one has prepared');
	if ($crash)
	{
		restart_after_crash($control_plane, sub {
			$holder->quit;
			ok($store->poll_query_until('postgres', 'SELECT count(*) = 2 FROM pg_prepared_xacts'), 'the server crashes; both have prepared');
		});
		is(resolved(), 'new rolled back', 'the part of a store is rolled back');
		# this server is no store, but whoever connects to it helps
		is(here('SET run_ops_split.cross_store_writes = warn; SELECT count(*) FROM note'), '1', 'a session that is not atomic');
		is(left(), '1', '... resolves nothing');
		is(here('SELECT count(*) FROM note'), '1', 'one that is');
	}
	else
	{
		here("SELECT pg_terminate_backend(@{[pid_of_writer()]})");
	}
	$writer->finish;
	$holder->quit unless $crash;
	ok($store->poll_query_until('second', q(SELECT count(*) = 0 FROM pg_locks WHERE relation = 'note'::regclass AND pid <> pg_backend_pid())), 'the store is left alone');
	nothing_left('nothing is left');
	is(stored3($n), '0 0 0', '... in any database');
}

# --- killed between the phases ---------------------------------------------------

sub commit_waits { return $control_plane->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%INSERT%' AND wait_event = '$_[0]'") }

foreach my $crash (0, 1)
{
	my $n = 40 + $crash;
	$commits->hold;
	$writer = start_psql('BEGIN; ' . insert($n) . '; NOTIFY somebody; COMMIT', \$out, \$err);
	ok($control_plane->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND locktype = 'object' AND database = 0)),
		'a transaction is about to commit here');
	is(left(), '1', '... and has prepared there');
	if ($crash)
	{
		restart_after_crash($control_plane, sub { $writer->finish; $commits->forget });
		is(resolved(), 'new rolled back', 'the server crashes: it is rolled back');
	}
	else
	{
		here("SELECT pg_terminate_backend(@{[pid_of_writer()]})");
		$writer->finish;
		$commits->release;
	}
	nothing_left('... nothing is left');
	is(stored($n), '0 0', '... in both databases');
}

# Stops a transaction when it has committed here, but not there.
sub stop_between
{
	my ($n, $settings) = @_;
	$commits->hold;
	($out, $err) = ('', '');
	$writer = start_psql(($settings // '') . insert($n), \$out, \$err);
	ok(commit_waits('SyncRep'), 'a transaction has committed here');
	is(left(), '1', '... and has prepared there');
	return;
}

stop_between(50);
is(resolved(), 'new in progress', 'while it is on its way nobody else finishes it');
is(left(), '1', '... really');
here("SELECT pg_terminate_backend(@{[pid_of_writer()]})");
$writer->finish;
$commits->release;
nothing_left('the session is terminated: nothing is left');
is(stored(50), '1 1', '... both have committed');

stop_between(51);
restart_after_crash($control_plane, sub { $writer->finish; $commits->forget });
is(stored(51), '1 0', 'the server crashes: one has committed');
is(here('SET run_ops_split.cross_store_writes = warn; SELECT store, prepared, oldest_prepared BETWEEN \'0\' AND interval \'1 h\' FROM run_ops.stat_stores ORDER BY store'),
	"legacy|0|\nnew|1|t", 'stat_stores shows what is left');
is(failing_gates($control_plane, 'run_ops_split.cross_store_writes = warn'), '', 'it can be decided, so no gate fails');
is(resolved(), 'new committed', 'it is committed there');
is(stored(51), '1 1', '... both have committed');

# --- the store fails between the phases -------------------------------------------

my $warning = qr/^WARNING:  transaction is committed, but store "new" may not have committed its part yet\nDETAIL.*\nHINT:  Prepared transaction "run_ops_split:[^"]*" may be left/;
my $connection = q(SELECT pid FROM pg_stat_activity WHERE application_name = 'run_ops_split' AND query LIKE 'PREPARE TRANSACTION%');

stop_between(60);
restart_after_crash($store);
$commits->release;
$writer->finish;
like($err, $warning, 'the store crashes: a warning');
is(left(), '1', '... one is left');
is(here("SELECT n FROM run_ops.run WHERE id = '@{[ksuid(60)]}'"), '60', 'a session that connects to the store finishes it, before its own statement');
is(stored(60), '1 1', '... both have committed');
is(left(), '0', '... nothing is left');

# in one session: what it has written is seen by its next statement
$commits->hold;
my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
$session->{stdin} .= insert(61) . ";\n\\echo == done\n";
$session->{run}->pump_nb;
ok(commit_waits('SyncRep'), 'a session has committed here');
is(there("SELECT pg_terminate_backend(($connection))"), 't', 'its connection is lost');
$commits->release;
is($session->query("SELECT n FROM run_ops.run WHERE id = '@{[ksuid(61)]}'") =~ s/.*== done\n//sr, '61', 'it goes on, and sees what it has written');
like($session->{stderr}, qr/WARNING:  transaction is committed, but/, '... after a warning');
$session->quit;
is(stored(61), '1 1', '... both have committed');
is(left(), '0', '... nothing is left');

# a store that is frozen, for a session that waits for it a second
stop_between(62, q(SET run_ops_split.store_timeout = '1s'; ));
my $frozen = there($connection);
kill 'STOP', $frozen;
$commits->release;
$writer->finish;
like($err, $warning, 'the store does not answer: a warning');
kill 'CONT', $frozen;
ok($store->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $frozen"), 'it goes on, and ends');
resolved();
is(stored(62), '1 1', '... both have committed');
is(left(), '0', '... nothing is left');

# the server crashes while it waits for COMMIT PREPARED
stop_between(63);
$frozen = there($connection);
kill 'STOP', $frozen;
$commits->release;
ok(commit_waits('Extension'), 'a session waits for COMMIT PREPARED');
restart_after_crash($control_plane, sub { $writer->finish; kill 'CONT', $frozen });
ok($store->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $frozen"), 'the server crashes, the store goes on');
resolved();
is(stored(63), '1 1', '... both have committed');
is(left(), '0', '... nothing is left');

# --- synchronous_commit = off -------------------------------------------------------

here('SET synchronous_commit = off; ' . insert(70));
restart_after_crash($control_plane);
is(stored(70), '1 1', 'with synchronous_commit = off, what was committed there is not lost here');
is(left(), '0', '... nothing is left');

# --- names that cannot be decided -----------------------------------------------

my ($system, $database) = split /\|/, here('SELECT system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()) FROM pg_control_system()');
there(qq(BEGIN; INSERT INTO tag VALUES ('x$_'); PREPARE TRANSACTION 'run_ops_split:$_')) foreach (qq(1:2:1:0/28:3:4:5), q('' OR x), "$system:$database:7:0/28:3:4:5");
is(resolved(), join(', ', 'new undecided: it was prepared for another database', 'new undecided: it was prepared for another database',
	'new undecided: it is from a timeline that is not in the history of this server'), 'names of others are left alone');
is(left(), '3', '... really');
my $in_doubt = failing_gates($control_plane);
is(scalar(() = $in_doubt =~ /^in doubt run_ops_split:.* in store "new": prepared at .* by role ".*"; undecided: /mg), 3, '... but reported') or diag($in_doubt);
there(qq(ROLLBACK PREPARED 'run_ops_split:$_')) foreach (qq(1:2:1:0/28:3:4:5), q('' OR x), "$system:$database:7:0/28:3:4:5");
is(here("SELECT run_ops.prepared_outcome('run_ops_split:$system:$database:1:0/28:500:4:5')"), 'undecided: this server does not know any more what became of it', 'an old name');
is(here("SELECT run_ops.prepared_outcome('run_ops_split:$system:$database:1:0/28:999999:4:5')"), 'undecided: its ID is in the future of this server', 'a new one');
like(here("SELECT run_ops.prepared_outcome('run_ops_split:$system:$database:1:FFFFFF/28:500:4:5')"), qr/^undecided: it is from another history/, 'one of WAL that is not there yet');

# --- copies and standbys ----------------------------------------------------------

# two standbys, of which one stays behind, and a copy
$control_plane->backup('base');
my ($standby, $behind, $copy) = map { PostgreSQL::Test::Cluster->new($_) } qw(standby behind copy);
$_->init_from_backup($control_plane, 'base', has_streaming => 1) foreach ($standby, $behind);
$copy->init_from_backup($control_plane, 'base');
$_->start foreach ($standby, $behind);
here("SELECT run_ops.trust_standby('@{[$_->safe_psql('postgres', 'SELECT run_ops.server_identity()')]}')") foreach ($standby, $behind);
$control_plane->wait_for_catchup($_) foreach ($standby, $behind);
$behind->stop;

# One transaction has committed here, another one not; neither has there.
stop_between(80);
my $committed = the_name();
my $committer = $writer;
# what is prepared keeps its locks
$holder = hold_prepare('postgres', 2);
$writer = start_psql(insert(81), \$out, \$err);
ok($store->poll_query_until('postgres', $waits), 'another one prepares');
$control_plane->wait_for_catchup($standby, 'replay', here('SELECT pg_current_wal_flush_lsn()'));
$control_plane->stop('immediate');
$holder->quit;
$_->finish foreach ($writer, $committer);
$commits->forget;
ok($store->poll_query_until('postgres', 'SELECT count(*) = 2 FROM pg_prepared_xacts'), 'the control plane is gone, both are prepared');
my ($other) = grep { $_ ne $committed } split /\n/, the_name();

# a copy of an earlier time: it is suspended
$copy->start;
($ret, $out, $err) = $copy->psql('postgres', 'SELECT * FROM run_ops.resolve_in_doubt()');
like($err, qr/split mode is suspended in this copy/, 'a copy resolves nothing');
$copy->safe_psql('postgres', q(SELECT run_ops.check_split(); SELECT run_ops.ask_store('new', 'SELECT')));
is(left(), '2', '... nor when it connects to the store');
my $undecided = 'undecided: it is from another history than that of this server';
is($copy->safe_psql('postgres', "SELECT run_ops.prepared_outcome('$_')"), $undecided, 'it could not') foreach ($committed, $other);
# not even when its own WAL has grown beyond, and its IDs
my ($lsn) = $committed =~ m{:([0-9A-F]+/[0-9A-F]+):};
$copy->safe_psql('postgres', q(SELECT pg_logical_emit_message(true, 'x', 'x'), pg_switch_wal()))
  while $copy->safe_psql('postgres', "SELECT pg_current_wal_flush_lsn() <= '$lsn'") eq 't';
$copy->safe_psql('postgres', "DO \$\$ BEGIN FOR i IN 1..100 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END \$\$");
is($copy->safe_psql('postgres', "SELECT run_ops.prepared_outcome('$_')"), $undecided, '... nor later') foreach ($committed, $other);
($ret, $out, $err) = $copy->psql('postgres', 'SELECT run_ops.enable_split()');
like($err, qr/cannot enable split mode.*in doubt \Q$committed\E in store "new"/s, 'so it does not take the store over');
is(left(), '2', '... nothing has happened there');
$copy->stop;

# a standby that has not heard of them
is($standby->safe_psql('postgres', "SELECT run_ops.prepared_outcome('$committed')"), 'undecided: this server is a standby', 'a standby decides nothing');
$behind->start;
$behind->promote;
$behind->safe_psql('postgres', "DO \$\$ BEGIN FOR i IN 1..100 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END \$\$");
is($behind->safe_psql('postgres', "SELECT run_ops.prepared_outcome('$_')"), 'rolled back', 'promoted, one that was behind would roll back') foreach ($committed, $other);
$behind->stop;

# and one that has
$standby->promote;
is($standby->safe_psql('postgres', "SELECT run_ops.prepared_outcome('$committed'), run_ops.prepared_outcome('$other')"), 'committed|rolled back',
	'promoted, one that was not knows what became of them');
is(resolved($standby), 'new committed, new rolled back', '... and decides for its primary');
is(left(), '0', '... so nothing is left');
is(stored(80, $standby), '1 1', '... both have committed one');
is(stored(81, $standby), '0 0', '... and none the other');
$standby->safe_psql('postgres', insert(82));
is(stored(82, $standby), '1 1', 'it goes on');

done_testing();
