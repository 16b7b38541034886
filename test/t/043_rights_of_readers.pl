# What a role that may look at the stores, and has no user mapping for them,
# can reach of the connections that are opened for it.
use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my ($control_plane, $store) = split_servers();
$control_plane->safe_psql('postgres', q(
	CREATE ROLE viewer LOGIN IN ROLE pg_monitor, pg_signal_backend;
	CREATE FUNCTION slow(query text) RETURNS SETOF jsonb LANGUAGE sql SECURITY DEFINER
	  AS $$ SELECT * FROM run_ops.ask_store('new', query, '20s') $$;
	CREATE FUNCTION slow_command() RETURNS void LANGUAGE sql SECURITY DEFINER
	  AS $$ SELECT run_ops.tell_place('new', 'SELECT pg_catalog.pg_sleep(1); SELECT 1 / 0') $$;
	CREATE FUNCTION shake() RETURNS jsonb LANGUAGE sql SECURITY DEFINER
	  AS $$ SELECT result FROM run_ops.handshakes('{new}') $$;));
my $viewer = $control_plane->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'viewer' ]);
# What runs in the store.  It may take it a moment to notice an end.
sub connections
{
	return $store->poll_query_until('postgres',
		q(SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name LIKE 'run_ops_split%' AND state <> 'idle')))
	  ? 'none' : 'some';
}

# Cancels what viewer runs, again and again until it has ended.
sub cancelled
{
	my ($query) = @_;
	my $canceller = IPC::Run::start([ 'psql', '-XAtq', '-d', $control_plane->connstr('postgres'), '-c', q(
		DO $$
		DECLARE
		  until timestamptz := clock_timestamp() + '60s';
		  seen boolean := false;
		  runs boolean;
		BEGIN
		  LOOP
		    PERFORM pg_stat_clear_snapshot();
		    runs := EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'viewer' AND state = 'active' AND wait_event = 'Extension');
		    EXIT WHEN seen OR clock_timestamp() > until;
		    seen := runs;
		  END LOOP;
		  FOR i IN 1 .. 3000 LOOP
		    PERFORM pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'viewer' AND state = 'active';
		    PERFORM pg_stat_clear_snapshot();
		    EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'viewer' AND state = 'active');
		  END LOOP;
		END $$) ]);
	$viewer->query($query);
	$canceller->finish;
	my $errors = $viewer->{stderr};
	$viewer->{stderr} = '';
	return $errors;
}

like(cancelled(q(SELECT slow('SELECT pg_sleep(15)'))), qr/canceling statement/, 'a question is cancelled');
is(connections(), 'none', 'and its connection is closed');
like(cancelled(q(BEGIN; SAVEPOINT s; SELECT slow('SELECT pg_sleep(15)'))), qr/canceling statement/, 'in a subtransaction');
$viewer->query('ROLLBACK TO s');
is(connections(), 'none', 'too');
$viewer->query('ROLLBACK');
$viewer->query('BEGIN');
like(cancelled(q(DO $$ BEGIN PERFORM slow('SELECT pg_sleep(15)'); EXCEPTION WHEN query_canceled THEN RAISE NOTICE 'canceling statement, caught'; END $$)),
	qr/canceling statement/, 'a cancel that is caught');
is(connections(), 'none', 'leaves none, although the transaction goes on');
$viewer->query('ROLLBACK');

# every other way out
foreach my $query (q(SELECT slow('SELECT 1')), q(SELECT slow('SELECT 1 / 0')), q(SELECT slow('no SQL')), q(SELECT slow_command()), q(SELECT shake()),
	q(SET statement_timeout = 300; SELECT slow('SELECT pg_sleep(15)')),
	q(SELECT slow('SELECT pg_terminate_backend(pg_backend_pid())')), q(SELECT slow('SELECT 1') LIMIT 0), q(SELECT count(*) FROM run_ops.stat_stores),
	q(DO $$ BEGIN PERFORM slow('SELECT 1 / 0'); EXCEPTION WHEN OTHERS THEN NULL; END $$))
{
	$viewer->query("$query; RESET statement_timeout");
	$viewer->{stderr} = '';
	is(connections(), 'none', "none is left of: $query");
}
$viewer->quit;

done_testing();
