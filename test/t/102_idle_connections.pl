# A connection to a store that is not used is closed: by
# run_ops_split.store_idle_timeout, also while the session sleeps, or by the store
# itself.  The next use opens another one, and nobody notices.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my ($control_plane, $store) = split_servers();
$control_plane->safe_psql('postgres', 'SELECT run_ops.enable_split()');
$store->safe_psql('postgres', sprintf q(INSERT INTO run VALUES ('%s', 'open', 7)), ksuid(1));
my $read = sprintf q(SELECT n FROM run_ops.run WHERE id = '%s'), ksuid(1);
my $insert = sub { sprintf q(INSERT INTO run_ops.run VALUES ('%s', 'open', 1)), ksuid(shift) };

my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
sub connected { return $store->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'run_ops_split%')) }
sub is_left
{
	my ($name) = @_;
	ok($store->poll_query_until('postgres', q(SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'run_ops_split%'))), $name);
	return;
}
sub answers
{
	my ($sql, $rows, $name) = @_;
	$session->{stderr} = '';
	is($session->query($sql), $rows, $name);
	is($session->{stderr}, '', "$name: no error");
	return;
}

# what is used within the time is kept
answers($read, 7, 'a read');
answers($read, 7, 'another');
is(connected(), 1, 'one connection');
is($session->query('SELECT count(*) FROM run_ops.store_connections()'), 1, 'which the session knows');

# the session does nothing
$session->query(q(SET run_ops_split.store_idle_timeout = '200ms'));
answers($read, 7, 'with a short time-out');
is_left('a session that sleeps leaves the store');
is($session->query('SELECT count(*) FROM run_ops.store_connections()'), 0, 'and says so');
answers($read, 7, 'a read opens another connection');
is_left('and leaves the store again');
answers("BEGIN; SELECT 1; $read; COMMIT", "1\n7", 'in a transaction');
is_left('after a transaction');
answers('BEGIN ISOLATION LEVEL REPEATABLE READ; ' . "$read; " . $insert->(2) . '; COMMIT', 7, 'in a transaction that writes');
is_left('after a write');

# the session does something else
$session->{stdin} .= "$read;\nSELECT pg_sleep(1000), 'not cancelled';\n";
$session->{run}->pump_nb;
ok($control_plane->poll_query_until('postgres', q(SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'))), 'a long statement here');
is_left('does not keep the connection');
$control_plane->safe_psql('postgres', q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'));
$session->query('');
answers($read, 7, 'a read after it');

# a transaction is not left
answers("BEGIN; " . $insert->(3), '', 'a write in a transaction');
answers('SELECT pg_sleep(1) IS NULL', 'f', 'which then does something else for long');
is(connected(), 1, 'keeps its connection');
answers('COMMIT', '', 'until it ends');
is_left('and then leaves it');
is($store->safe_psql('postgres', 'SELECT count(*) FROM run'), 3, 'nothing was lost');

# functions of the extension, which have a connection of their own
answers(q(SELECT count(*) FROM run_ops.check_split() WHERE ok IS NOT TRUE), 0, 'check_split');
is_left('after check_split');

# the store closes what is idle
$session->query('SET run_ops_split.store_idle_timeout = 0');
$control_plane->safe_psql('postgres', q(ALTER SERVER new OPTIONS (ADD options '-c idle_session_timeout=200')));
answers($read, 7, 'a read, of a store that closes what is idle');
is_left('the store closes it');
answers($read, 7, 'the next read opens another connection');
is_left('which is closed as well');
answers('BEGIN; ' . $insert->(4) . '; COMMIT', '', 'and so does a transaction');

unlike(slurp_file($store->logfile), qr/unexpected EOF|reset by peer|Broken pipe/, 'the store has nothing to complain of');
$session->quit;
done_testing();
