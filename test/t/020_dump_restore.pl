# A dump of the control-plane database carries what an operator configured:
# the stores, the routed tables and their views.  It does not carry that split
# was on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $control_plane = PostgreSQL::Test::Cluster->new('control_plane');
my $store = PostgreSQL::Test::Cluster->new('store');
$_->init, $_->start foreach ($control_plane, $store);

$ENV{RUN_OPS_STORE_HOST} = $store->host;
$ENV{RUN_OPS_STORE_PORT} = $store->port;
$control_plane->safe_psql('postgres',
	"\\set name dump\n\\i test/fixtures/two_stores.sql\n"
	  . q(SELECT run_ops.attach_store('new', 'new');
		  SELECT run_ops.attach_all_tables();
		  ALTER TABLE "TaskRun" RENAME TO "Task Run";));

my $registry = q(
	SELECT 'store', name, server, NULL, NULL, NULL, NULL FROM run_ops.store
	UNION ALL
	SELECT 'table', view::text, legacy::text, routing::text, route_column, key_columns::text, store_table
	  FROM run_ops.routed_table
	UNION ALL
	SELECT 'copy', view::text, store, foreign_table::text, NULL, NULL, NULL FROM run_ops.routed_store
	ORDER BY 1, 2, 3);
my $views = q(
	SELECT c.oid::regclass, pg_get_viewdef(c.oid), obj_description(c.oid)
	  FROM pg_class c JOIN run_ops.routed_table r ON c.oid = r.view ORDER BY c.oid::regclass::text COLLATE "C");

# Dumps one database, restores it into a fresh one, and compares.
sub same_after_restore
{
	my ($name) = @_;
	my $dump = $control_plane->backup_dir . "/$name.dump";

	$control_plane->command_ok(
		[ 'pg_dump', '-Fc', '-f', $dump, $control_plane->connstr('regress_dump') ],
		"$name: dump");
	$control_plane->safe_psql('postgres', "CREATE DATABASE $name");
	$control_plane->command_ok(
		[ 'pg_restore', '--exit-on-error', '-d', $control_plane->connstr($name), $dump ],
		"$name: restore");
	foreach my $query ($registry, $views)
	{
		my $before = $control_plane->safe_psql('regress_dump', $query);
		cmp_ok(length $before, '>', 1000, "$name: there is something to compare");
		is($control_plane->safe_psql($name, $query), $before, "$name: the same");
	}
	is($control_plane->safe_psql($name, 'SELECT run_ops.split_enabled()'), 'f', "$name: split is off");
	return;
}

mkdir $control_plane->backup_dir;
same_after_restore('split_off');
is($control_plane->safe_psql('split_off', 'SELECT count(*) FROM run_ops."TaskRun"'), '0', 'the restored view works');
$control_plane->safe_psql('split_off', q(SELECT run_ops.detach_table('"Task Run"')));

$control_plane->safe_psql('regress_dump', 'SELECT run_ops.swap_views(true)');
same_after_restore('split_on');
# what fires with session_replication_role = replica is in no dump, and comes
# back with the switch
my $replica_triggers = q(SELECT count(*) FROM pg_trigger WHERE tgenabled = 'R');
is($control_plane->safe_psql('regress_dump', $replica_triggers), '48', 'triggers for the replica role');
is($control_plane->safe_psql('split_on', $replica_triggers), '0', 'they are not restored');
is($control_plane->safe_psql('split_on', "SELECT run_ops.swap_views(true); $replica_triggers"), "\n48", 'and made again');

done_testing();
