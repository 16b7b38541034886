# Whatever is waited for from a store that has stopped answering, the wait ends
# after run_ops_split.store_timeout, or at once when it is cancelled, and the
# session goes on with what does not need the store.  A store that failed is
# asked again only after a pause.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'time';

use FindBin;
use lib $FindBin::RealBin;
use RoundTrips;
use SplitServers;

my ($control_plane, $store) = split_servers();
sub here { return $control_plane->safe_psql('postgres', shift) }
my $postmaster = (split /\n/, slurp_file($store->data_dir . '/postmaster.pid'))[0];
here('SELECT run_ops.enable_split()');
# The rows of this view take their time, and each is more than the store keeps
# back before it sends.
$store->safe_psql('postgres', q(CREATE VIEW slow AS SELECT i, repeat('x', 20000) AS t FROM generate_series(1, 100000) AS i WHERE pg_sleep(0.1) IS NOT NULL));
here(q(CREATE FOREIGN TABLE slow (i int, t text) SERVER new OPTIONS (table_name 'slow', fetch_size '2')));
here(sprintf q(INSERT INTO run_ops.run VALUES ('%s', 'open', 0); INSERT INTO run_ops.run VALUES ('%s', 'open', 7)), cuid(1), ksuid(1));

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $proxy = RoundTrips->start($dir, 7777, $store->host, $store->port);
my $limit = 1;

# --- ways in which a store stops answering ------------------------------------------------------

my @stopped;

# the processes of the store that serve us
sub backends
{
	return split /\n/, $store->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()));
}
sub stop_processes
{
	push @stopped, @_;
	kill 'STOP', @_;
	return;
}
sub thaw
{
	kill 'CONT', @stopped;
	@stopped = ();
	$proxy->flow if $proxy;
	return;
}
END
{
	local $?;
	thaw();
}
my %freeze = (
	'the process stopped' => sub { stop_processes(backends()) },
	'the process and the postmaster stopped' => sub { stop_processes(backends(), $postmaster) },
	'a network that swallows' => sub { $proxy->swallow });

# --- what waits for it --------------------------------------------------------------------------

my $new = ksuid(1);
my $insert = sprintf q(INSERT INTO run_ops.run VALUES ('%s', 'open', 1)), ksuid(2);
my $read = "SELECT n FROM run_ops.run WHERE id = '$new'";
# what comes before, what waits, and its SQLSTATE when the limit is over: 08007
# where nobody knows whether the store has committed
my @points = (
	[ 'connect', '', $read, qr/^08001$/ ],
	[ 'a query', $read, $read, qr/^0800[136]$/ ],
	[ 'a query in a block', "BEGIN; $read", $read, qr/^0800[136]$/ ],
	[ 'a query after a write', "BEGIN; $insert", $read, qr/^0800[136]$/ ],
	[ 'rows of a running scan', $read, 'SELECT length(t) FROM slow WHERE random() >= 0', qr/^0800[136]$/ ],
	[ 'INSERT', $read, $insert, qr/^0800[1367]$/ ],
	[ 'UPDATE', $read, "UPDATE run_ops.run SET n = 8 WHERE id = '$new'", qr/^0800[1367]$/ ],
	[ 'ROLLBACK TO', "BEGIN; $insert; SAVEPOINT s; UPDATE run_ops.run SET n = 8 WHERE id = '$new'", "ROLLBACK TO s; $read", qr/^0800[136]$/ ],
	[ 'COMMIT', "BEGIN; $insert", 'COMMIT', qr/^08007$/ ],);

my $done = qr/outcome: (\w+)\n/;
sub send_to
{
	my ($session, $sql) = @_;
	@$session{ 'stdout', 'stderr' } = ('', '');
	$session->{stdin} .= "$sql\n;\\echo outcome: :SQLSTATE\n";
	$session->{run}->pump_nb;
	return;
}
# the SQLSTATE, or undef if there is none within these seconds
sub outcome_within
{
	my ($session, $seconds) = @_;
	my $end = time + $seconds;
	while (1)
	{
		eval { $session->{run}->pump_nb; 1 } or last;
		return $1 if $session->{stdout} =~ $done;
		last if time > $end;
		select undef, undef, undef, 0.01;
	}
	return;
}
# what a statement that ends must have been told
sub ends
{
	my ($session, $seconds, $expected, $name) = @_;
	my $outcome = outcome_within($session, $seconds);
	return like($outcome // "none within $seconds s", $expected, $name);
}

# A session that has done something and whose next statement will wait.  It must
# not wait for the pause after what failed before.
sub prepared_session
{
	my ($before, $timeout) = @_;
	my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query('SELECT pg_backend_pid()');
	$session->query("SET run_ops_split.store_timeout = '$timeout'; SET run_ops_split.store_query_timeout = '$timeout'; SET run_ops_split.store_retry_pause = 0");
	$session->query($before) if $before;
	return ($session, $pid);
}

# Sends the statement to the session and freezes the store: before, or while
# rows come.
sub send_frozen
{
	my ($session, $point, $sql, $frozen) = @_;
	$freeze{$frozen}->() if $point !~ /^rows/;
	send_to($session, $sql);
	return if $point !~ /^rows/;
	$store->poll_query_until('postgres', q(SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'));
	$freeze{$frozen}->();
	return;
}

# The store answers again, and has nothing of ours left.
sub clear_store
{
	thaw();
	my $ours = q(FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid());
	$store->safe_psql('postgres', "SELECT pg_terminate_backend(pid) $ours");
	$store->poll_query_until('postgres', "SELECT count(*) = 0 $ours");
	my $rows = $store->safe_psql('postgres', sprintf q(WITH gone AS (DELETE FROM run WHERE id = '%s' RETURNING id) SELECT count(*) FROM gone), ksuid(2));
	$store->safe_psql('postgres', 'UPDATE run SET n = 7');
	return $rows;
}

# A session whose statement did not end is of no use any more.
sub abandon
{
	my ($session, $pid) = @_;
	clear_store();
	here("SELECT pg_terminate_backend($pid)");
	$control_plane->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
	$session->{run}->kill_kill;
	return;
}

sub goes_on
{
	my ($session, $pid, $name) = @_;
	my $id = cuid(1);
	send_to($session, "ROLLBACK; SELECT n FROM run_ops.run WHERE id = '$id'; UPDATE run_ops.run SET n = n + 1 WHERE id = '$id'");
	my $ok = ends($session, 2, qr/^00000$/, "$name: the session goes on with LEGACY ids, while the store is frozen");
	thaw();
	if ($ok)
	{
		send_to($session, $read);
		$ok = ends($session, 10, qr/^00000$/, "$name: and with NEW ones, once the store answers");
	}
	$ok ? $session->quit : abandon($session, $pid);
	return;
}

foreach my $frozen (sort keys %freeze)
{
	point_store($control_plane, $frozen =~ /network/ ? ($dir, 7777) : ($store->host, $store->port));
	foreach my $point (@points)
	{
		my ($name, $before, $sql, $state) = @$point;
		# a session that has no connection yet has no process to be stopped
		next if $name eq 'connect' && $frozen eq 'the process stopped';
		foreach my $by ('the limit', 'a cancel')
		{
			my $as = "$frozen, $name: $by";
			my ($session, $pid) = prepared_session($before, $by eq 'a cancel' ? '600s' : "${limit}s");
			send_frozen($session, $name, $sql, $frozen);
			if ($by eq 'a cancel')
			{
				foreach (1 .. 500)
				{
					last if defined outcome_within($session, 0)
					  || here("SELECT state = 'active' AND wait_event IS NOT NULL FROM pg_stat_activity WHERE pid = $pid") eq 't';
				}
				# a cancel that comes between two statements ends none
				foreach (1 .. 3)
				{
					here("SELECT pg_cancel_backend($pid)");
					last if defined outcome_within($session, 2);
				}
			}
			my @expected = $by eq 'a cancel' ? (0, qr/^(57014|08007)$/) : ($limit + 2, $state);
			ends($session, @expected, "$as ends the wait");
			defined outcome_within($session, 0) ? goes_on($session, $pid, $as) : abandon($session, $pid);
			# what was sent together with its COMMIT may have happened
			my $rows = clear_store();
			is($rows, 0, "$as leaves no row") if $name !~ /^(COMMIT|INSERT)$/;
		}
	}
}
point_store($control_plane, $store->host, $store->port);

# --- the pause ------------------------------------------------------------------------------------

# what an error says, and after how many ms
here(q(
	CREATE FUNCTION attempt(wanted text, OUT state text, OUT detail text, OUT ms int) LANGUAGE plpgsql AS $$
	DECLARE
	  start timestamptz := clock_timestamp();
	BEGIN
	  PERFORM n FROM run_ops.run WHERE id = wanted;
	  state := '00000';
	  detail := '';
	  ms := extract(epoch FROM clock_timestamp() - start) * 1000;
	EXCEPTION WHEN OTHERS THEN
	  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
	  ms := extract(epoch FROM clock_timestamp() - start) * 1000;
	END $$));
my $again = qr/asked again in (\d+) ms/;
sub attempt
{
	my ($session) = @_;
	return split /\|/, $session->query("SELECT state, replace(replace(detail, chr(10), ' '), '|', ' '), ms FROM attempt('$new')");
}

# frozen: the first statement waits, the second is told at once
my ($session) = prepared_session('', '1s');
is((attempt($session))[0], '00000', 'a store is asked');
$session->query('RESET run_ops_split.store_retry_pause');
is($session->query('SHOW run_ops_split.store_retry_pause'), '1s', 'the pause after a first failure is one second');
stop_processes(backends());
my ($state, $detail, $ms) = attempt($session);
like($state, qr/^08/, 'it is frozen: the first statement fails');
unlike($detail, $again, 'for it has been asked');
cmp_ok($ms, '>=', 900, 'and waited for');
($state, $detail, $ms) = attempt($session);
is($state, '08001', 'the second one fails as well');
like($detail, $again, 'and says when the store is asked again');
cmp_ok($ms, '<', 900, 'without waiting');
my ($left) = ($detail // '') =~ $again;
cmp_ok($left // 0, '>', 0, 'which is some time from now');
cmp_ok($left // 9999, '<=', 1000, 'within a second');
$session->{stderr} = '';
$session->query(sprintf q(SELECT n FROM run_ops.run WHERE id = '%s'), cuid(1));
is($session->{stderr}, '', 'LEGACY ids do not wait for that');
is((attempt(my $another = (prepared_session('', '1s'))[0]))[0], '00000', 'another session, with a process of its own, asks the store');
$another->quit;
thaw();
my $answered;
foreach (1 .. 100)
{
	last if $answered = (attempt($session))[0] eq '00000';
	select undef, undef, undef, 0.1;
}
ok($answered, 'after the pause the store is asked again, and answers');
$session->quit;

# down: the pause doubles, up to 30 times the first one
($session) = prepared_session('', '1s');
$session->query('SET run_ops_split.store_retry_pause = 200');
is((attempt($session))[0], '00000', 'a store is asked');
$store->stop('immediate');
# Asks until the store has been asked, then what the next attempt is told.
sub next_pause
{
	foreach (1 .. 1200)
	{
		my @pair = split /\n/, $session->query("SELECT replace(detail, chr(10), ' ') FROM attempt('$new') UNION ALL SELECT replace(detail, chr(10), ' ') FROM attempt('$new')");
		return $pair[1] =~ $again ? $1 : -1 if $pair[0] !~ $again;
		select undef, undef, undef, 0.01;
	}
	return -1;
}
my @pauses = map { next_pause() } 1 .. 6;
my @longest = (200, 400, 800, 1600, 3200, 6000);
foreach my $i (0 .. 5)
{
	cmp_ok($pauses[$i], '<=', $longest[$i], 'the pause after failure ' . ($i + 1) . " is at most $longest[$i] ms");
	cmp_ok($pauses[$i], '>', $i < 5 ? $longest[$i] / 2 : 3200, 'and longer than the one before');
}
$session->query('SET run_ops_split.store_retry_pause = 0');
foreach (1 .. 2)
{
	($state, $detail) = attempt($session);
	like($state, qr/^08/, 'without a pause: the store is down');
	unlike($detail, $again, 'without a pause: it is asked each time');
}
$store->start;
is((attempt($session))[0], '00000', 'the store is up, and asked');
$session->query('SET run_ops_split.store_retry_pause = 200');
$store->stop('immediate');
cmp_ok(next_pause(), '<=', 200, 'after an answer the first pause is a short one again');
$store->start;
$session->quit;
done_testing();
