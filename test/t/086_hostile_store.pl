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
	"SELECT run_ops.upsert('run_ops.run', '{\"id\": \"$ksuid\", \"n\": 5}')",
	"SELECT run_ops.store_counts('run_ops.run', 'state')",
	'SELECT count(*) FROM run_ops.find_strays(\'run_ops.run\')',
	'SELECT run_ops.repatriate()',
	'SELECT run_ops.refresh_table(\'run_ops.run\')',
	'SELECT run_ops.disable_split()',
	'SELECT count(*) FROM run_ops.check_split()');

foreach my $behaviour (FakeServer::behaviours())
{
	$fake->behave($behaviour);
	# a rollback: what a hostile store accepts must not change the test's ground
	my $patience = $behaviour =~ /^(silence|trickle)$/ ? '250ms' : '20s';
	my $script = join '', map { "BEGIN; SET LOCAL statement_timeout = '$patience';\n$_;\nROLLBACK;\nSELECT 'usable', n FROM run_ops.run WHERE id = '$cuid';\n" } @statements;
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

# The real store again, and nothing has changed in it.
$fake->stop;
point_store($control_plane, $store->host, $store->port);
is($control_plane->safe_psql('postgres', "INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 7); SELECT sum(n) FROM run_ops.run"), '8',
	'the real store is used as before');
is($store->safe_psql('postgres', 'SELECT count(*) FROM run'), '1', 'and holds what was committed');
done_testing();
