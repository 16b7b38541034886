# A store that answers wrongly, too much, too slowly, half, or not at all: each
# statement that needs it ends with an error or its rows, the session goes on,
# LEGACY ids are served all the while, and no process dies.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use FakeServer;
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
my ($cuid, $ksuid, $other) = (cuid(1), ksuid(7), ksuid(8));
$control_plane->safe_psql('postgres', qq(
	SELECT run_ops.enable_split();
	INSERT INTO run_ops.run (id, n) VALUES ('$cuid', 1)));
my $started = $control_plane->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $fake = FakeServer->start($dir, 7777);
point_store($control_plane, $dir, 7777);
$control_plane->safe_psql('postgres', 'ALTER SERVER new OPTIONS (ADD connect_timeout \'3\')');

my @statements = (
	"SELECT n FROM run_ops.run WHERE id = '$ksuid'",
	'SELECT count(*), max(length(id)) FROM run_ops.run',
	'SELECT count(run_ops.owner_engine(id)) FROM run_ops_new.run',
	'SELECT run_ops.try_owner_engine(id), run_ops.classify_kind(id), run_ops.resolve_shard(id), run_ops.id_timestamp(id), length(run_ops.id_body(id)) FROM run_ops_new.run LIMIT 3',
	"INSERT INTO run_ops.run (id, n) VALUES ('$other', 8)",
	"INSERT INTO run_ops.run (id, n) SELECT 'run_' || lpad(g::text, 27, '0'), g FROM generate_series(1, 2500) AS g",
	"UPDATE run_ops.run SET n = 9 WHERE id = '$ksuid'",
	"DELETE FROM run_ops.run WHERE id = '$ksuid'",
	"INSERT INTO run_ops.tag VALUES ('t', 1)",
	"SELECT run_ops.locate('run_ops.run', '$ksuid'), run_ops.lock_row('run_ops.run', '$ksuid')",
	"INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 5) ON CONFLICT (id) DO UPDATE SET n = 5 RETURNING n",
	'SELECT state, count(*) FROM run_ops.run GROUP BY state',
	'SELECT count(*) FROM run_ops.find_strays(\'run_ops.run\')',
	'SELECT run_ops.repatriate()',
	'SELECT run_ops.refresh_table(\'run_ops.run\')',
	'IMPORT FOREIGN SCHEMA public FROM SERVER new INTO run_ops_new',
	'SELECT run_ops.disable_split()',
	'SELECT count(*) FROM run_ops.check_split()');

foreach my $behaviour (FakeServer::behaviours())
{
	$fake->behave($behaviour);
	# no behaviour is an answer of no rows
	my ($asked, undef, $complaint) = $control_plane->psql('postgres', q(SELECT * FROM run_ops.ask_store('new', 'SELECT 1', '250ms')));
	isnt($asked, 0, "$behaviour: ask_store() has an error") or diag $complaint;
	# a rollback: what a hostile store accepts must not change the test's ground
	my $patience = $behaviour =~ /^(silence|trickle)$/ ? '250ms' : '20s';
	my $script = join '', "SET run_ops_split.store_retry_pause = 0;\n", map { "BEGIN; SET LOCAL statement_timeout = '$patience';\n$_;\nROLLBACK;\nSELECT 'usable', n FROM run_ops.run WHERE id = '$cuid';\n" } @statements;
	my ($ret, $out, $err) = $control_plane->psql('postgres', $script, on_error_stop => 0);
	my $usable = () = $out =~ /^usable\|1$/mg;
	is($ret, 0, "$behaviour: the connection holds") or diag $err;
	is($usable, scalar @statements, "$behaviour: the session goes on after every statement") or diag $err;
	if ($behaviour !~ /^(good|more_than_asked|nulls|huge_row|invalid_utf8|encoding_changes|no_rows_at_all)$/)
	{
		like($err, qr/ERROR/, "$behaviour: an error");
	}
}

is($control_plane->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'the server was not restarted');
unlike(slurp_file($control_plane->logfile), qr/terminated by signal|PANIC|TRAP:/, 'no process died');

# A server that accepts connections and never says a word.
$fake->behave('mute');
my $unreachable = qr/ERROR:  08001: store "new" cannot be reached/;

# what psql says about a statement that waits
sub waiting
{
	my ($sql, %options) = @_;
	my ($ret, $out, $err) = $control_plane->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 0, %options);
	return ($out, $err);
}

$control_plane->safe_psql('postgres', "ALTER SERVER new OPTIONS (SET connect_timeout '2')");
foreach my $statement (
	"SELECT n FROM run_ops.run WHERE id = '$ksuid'",
	"BEGIN; DECLARE c CURSOR FOR SELECT n FROM run_ops.run WHERE id = '$ksuid'; FETCH c; ROLLBACK",
	"INSERT INTO run_ops.run (id, n) VALUES ('$other', 8)",
	"INSERT INTO run_ops_new.run (id, n) VALUES ('$other', 8)",
	"UPDATE run_ops_new.run SET n = 9 WHERE id = '$ksuid'",
	"UPDATE run_ops_new.run SET n = 9 WHERE id = '$ksuid' AND random() >= 0",
	"DELETE FROM run_ops.run WHERE id = '$ksuid'",
	'ANALYZE run_ops_new.run')
{
	my ($out, $err) = waiting("$statement;\nSELECT 'usable', n FROM run_ops.run WHERE id = '$cuid';");
	like($err, $unreachable, "mute: $statement");
	like($out, qr/^usable\|1$/m, 'mute: the session goes on') or diag $err;
}
my ($out, $err);
{
	(undef, $err) = waiting("SELECT n FROM run_ops.run WHERE id = '$ksuid';");
	like($err, qr/DETAIL:  It has not accepted a connection for 2000 ms\./, 'it says how long it has waited');
	$control_plane->safe_psql('postgres', 'ALTER SERVER new OPTIONS (DROP connect_timeout)');
	(undef, $err) = waiting("SET run_ops_split.store_timeout = 300;\nSELECT n FROM run_ops.run WHERE id = '$ksuid';");
	like($err, qr/DETAIL:  It has not accepted a connection for 300 ms\./, 'without the option, store_timeout counts');
	(undef, $err) = waiting("SET run_ops_split.store_timeout = '60s'; SET statement_timeout = 300;\nSELECT n FROM run_ops.run WHERE id = '$ksuid';");
	like($err, qr/57014: canceling statement due to statement timeout/, 'a statement timeout stays one');
	(undef, $err) = waiting("SET run_ops_split.store_timeout = 300; SET statement_timeout = '60s';\nSELECT n FROM run_ops.run WHERE id = '$ksuid';");
	like($err, $unreachable, 'unless the store was to answer before');

	my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/asked/, "SET run_ops_split.store_timeout = 0;\n\\echo asked\nSELECT n FROM run_ops.run WHERE id = '$ksuid';\n");
	$control_plane->poll_query_until('postgres', "SELECT pg_cancel_backend($pid) FROM pg_stat_activity WHERE pid = $pid AND state = 'active' AND query LIKE 'SELECT n %' AND wait_event IS NOT NULL")
	  or die 'the session does not wait';
	ok(pump_until($session->{run}, $session->{timeout}, \$session->{stderr}, qr/canceling statement due to user request/),
		'a cancel stays one, and 0 waits without limit');
	$session->quit;
}
# no cancel comes later
($out, $err) = waiting(qq(SET run_ops_split.store_timeout = 1000;
	DO \$\$ BEGIN PERFORM n FROM run_ops.run WHERE id = '$ksuid';
	EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection THEN PERFORM pg_sleep(1.5); END \$\$;
	SELECT 'usable', n FROM run_ops.run WHERE id = '$cuid';));
like($out, qr/^usable\|1$/m, 'nothing is left of the time limit after an error');
is($err, '', 'which was caught');

# The real store again, and nothing has changed in it.
$fake->stop;
point_store($control_plane, $store->host, $store->port);
is($control_plane->safe_psql('postgres', "INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 7); SELECT sum(n) FROM run_ops.run"), '8',
	'the real store is used as before');
is($store->safe_psql('postgres', 'SELECT count(*) FROM run'), '1', 'and holds what was committed');
($out, $err) = waiting("SET run_ops_split.store_timeout = 1000;\nSELECT n, pg_sleep(1.5) FROM run_ops.run WHERE id = '$ksuid';");
is("$out$err", '7|', 'the limit ends when the connection is open');

# A store that freezes, with connections open.
my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
$session->query_safe("SELECT n FROM run_ops.run WHERE id = '$ksuid'");
my $connected = $control_plane->background_psql('postgres', on_error_stop => 0);
$connected->query_safe("SELECT n FROM run_ops.run WHERE id = '$ksuid'");
my ($postmaster) = slurp_file($store->data_dir . '/postmaster.pid') =~ /^(\d+)/;
my @processes = ($postmaster, $store->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()') =~ /\d+/g);
kill 'STOP', @processes;
END { kill 'CONT', @processes if @processes }

$session->query("SET statement_timeout = 300; SELECT n FROM run_ops.run WHERE id = '$ksuid'");
like($session->{stderr}, qr/canceling statement due to statement timeout/, 'frozen: statement_timeout ends a read');
$session->{stderr} = '';
$connected->query("SET run_ops_split.store_timeout = 300; SELECT n FROM run_ops.run WHERE id = '$ksuid'");
like($connected->{stderr}, qr/store "new" does not answer/, 'frozen: a read has a limit');
$connected->quit;
my $waits = $control_plane->background_psql('postgres', on_error_stop => 0);
my $waits_pid = $waits->query_safe('SELECT pg_backend_pid()');
$waits->query_until(qr/asked/, "SET run_ops_split.store_timeout = '600s';\n\\echo asked\nBEGIN; UPDATE run_ops.run SET n = 9 WHERE id = '$ksuid';\n");
$control_plane->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $waits_pid AND query LIKE 'UPDATE%' AND state = 'active'")
  or die 'nobody waits for the store';

# all that needs no store, while others wait for it
foreach my $statement (
	"SELECT n FROM run_ops.run WHERE id = '$cuid'",
	"UPDATE run_ops.run SET n = n WHERE id = '$cuid' RETURNING n",
	"INSERT INTO run_ops.run (id, n) VALUES ('" . cuid(2) . "', 1) RETURNING n",
	"DELETE FROM run_ops.run WHERE id = '" . cuid(2) . "' RETURNING n",
	'SELECT run_ops.split_enabled()::int',
	"SELECT (run_ops.owner_engine('$ksuid') = 'NEW')::int",
	"SELECT length(run_ops.generate_ksuid()) - 26",
	'SELECT 1 FROM run_ops.store WHERE name = \'new\'',
	'SELECT count(*) FROM run_ops.stat_stores WHERE store = \'new\' AND NOT up')
{
	is($session->query("SET lock_timeout = 2000; SET run_ops_split.store_timeout = 1000; SET statement_timeout = '30s'; $statement") . $session->{stderr},
		'1', "frozen: $statement");
	$session->{stderr} = '';
}
kill 'CONT', @processes;
@processes = ();
$control_plane->safe_psql('postgres', "SELECT pg_terminate_backend($waits_pid)");
is($control_plane->safe_psql('postgres', "SELECT n FROM run_ops.run WHERE id = '$ksuid'"), '7', 'the store goes on');
done_testing();
