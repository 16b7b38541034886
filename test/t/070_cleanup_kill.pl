# A cleanup that is killed at any point, again and again, goes on where it was:
# in the end nothing of the environment is left in any store, and nothing else
# is touched.  Two sessions work at it at once.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;
use Time::HiRes qw(usleep);

my $seed = $ENV{RUN_OPS_SEED} // int(rand(1e6));
srand($seed);
note "RUN_OPS_SEED=$seed";

my $control_plane = PostgreSQL::Test::Cluster->new('control_plane');
my $store = PostgreSQL::Test::Cluster->new('store');
foreach my $node ($control_plane, $store)
{
	$node->init;
	$node->append_conf('postgresql.conf', "restart_after_crash = on\nfsync = off");
	$node->start;
}
$ENV{RUN_OPS_STORE_HOST} = $store->host;
$ENV{RUN_OPS_STORE_PORT} = $store->port;
$control_plane->safe_psql('postgres',
	"\\set name kill\n\\i test/fixtures/two_stores.sql\n"
	  . "\\set side legacy\n\\set orgs 1\n\\set runs 8000\n\\i test/fixtures/generate.sql\n"
	  . "\\connect regress_kill_store - :store_host :store_port\n\\set side new\n\\i test/fixtures/generate.sql\n");
$control_plane->safe_psql('regress_kill',
	q(SET client_min_messages = error;
	  SELECT run_ops.attach_store('new', 'new');
	  SELECT run_ops.attach_all_tables();
	  SELECT run_ops.attach_cleanup();
	  SELECT run_ops.swap_views(true)));

# The rows of each table in each store.
my $total = q(
	SELECT c.store, c.relation,
	       (xpath('//n/text()', query_to_xml(format('SELECT count(*) AS n FROM %s', c.relation), true, true, '')))[1]
	  FROM run_ops.routed_table AS t, run_ops.copies(t) AS c ORDER BY 1, 2);
my ($left, $expected);
sub delete_environment
{
	my $env = $control_plane->safe_psql('regress_kill',
		q(SELECT "runtimeEnvironmentId" FROM "TaskRun" WHERE "runtimeEnvironmentId" NOT IN (SELECT "parentEnvironmentId" FROM "RuntimeEnvironment" WHERE "parentEnvironmentId" IS NOT NULL)
		   GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1));
	# what is to remain: what one undisturbed cleanup leaves, undone
	$expected = $control_plane->safe_psql('regress_kill',
		qq(SET run_ops_split.cross_store_writes = allow; BEGIN;
		   DO \$\$ BEGIN PERFORM run_ops.cleanup_environment('$env'); END \$\$; $total; ROLLBACK));
	$left = qq(SELECT count(*) FROM run_ops."TaskRun" WHERE "runtimeEnvironmentId" = '$env');
	cmp_ok($control_plane->safe_psql('regress_kill', $left), '>', 500, 'there is something to delete');
	$control_plane->safe_psql('regress_kill', qq(DELETE FROM "RuntimeEnvironment" WHERE id = '$env'));
	return;
}
sub is_clean
{
	is($control_plane->safe_psql('regress_kill', $left), 0, 'nothing is left');
	is($control_plane->safe_psql('regress_kill', $total), $expected, 'nothing else is touched');
	return;
}

my $queued = 'SELECT count(*) FROM run_ops.cleanup_queue';
my $killed = 0;
delete_environment();
for my $round (1 .. 400)
{
	my @sessions = map {
		IPC::Run::start(
			[ 'psql', '-XAtqd', $control_plane->connstr('regress_kill'), '-c', 'CALL run_ops.cleanup(2)' ],
			'>', \my $out, '2>', \my $err)
	} 1 .. 2;
	usleep(20_000 + int(rand(80_000)));
	my $pid = $control_plane->safe_psql('postgres',
		q(SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL%' AND datname = 'regress_kill' ORDER BY random() LIMIT 1));
	kill 'KILL', $pid if $pid;
	$_->finish foreach @sessions;
	await_recovery($control_plane, 'regress_kill');
	if ($control_plane->safe_psql('regress_kill', $queued) eq '0')
	{
		# a machine that is slow to kill has let it come to its end
		is_clean();
		delete_environment();
	}
	elsif ($pid)
	{
		$killed++;
	}
	last if $killed == 50;
}
is($killed, 50, 'killed at work');
$control_plane->safe_psql('regress_kill', 'CALL run_ops.cleanup()');
is($control_plane->safe_psql('regress_kill', $queued), 0, 'the queue is empty');
is_clean();

done_testing();
