# pg_upgrade takes a control plane and a store over, with split on.  What comes
# out is a new server: it is suspended until split is enabled there again.
# The server is upgraded to itself, which dumps and restores as any upgrade.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
my ($cuid, $ksuid) = (cuid(1), ksuid(1));
$control_plane->safe_psql('postgres', q(
	\i test/fixtures/control_plane.sql
	SET client_min_messages = warning;
	SELECT run_ops.attach_control_plane('public'), run_ops.attach_cleanup();
	DO $$ BEGIN PERFORM run_ops.acknowledge(gate, object, 'other tables of the fixture')
	  FROM run_ops.check_split() WHERE NOT ok AND gate = 'attached'; END $$;
	SELECT run_ops.enable_split();));
$control_plane->safe_psql('postgres', $_) foreach (
	"INSERT INTO run_ops.run (id, n) VALUES ('$cuid', 1); INSERT INTO run_ops.tag VALUES ('t', 1)",
	"INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 2); INSERT INTO run_ops.step VALUES ('s', '$ksuid', 3)",
	'DO $$ BEGIN PERFORM run_ops.repatriate() FROM generate_series(1, 3); END $$');

my @queries = ('SELECT id, n FROM run_ops.run ORDER BY n', 'SELECT * FROM run_ops.step', 'SELECT * FROM run_ops.tag');
sub answers { my ($node) = @_; return join "\n", map { $node->safe_psql('postgres', $_) } @queries }
# the extension, and what it made on the tables
sub catalog
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q(
		SELECT c.oid::regclass::text, pg_get_viewdef(c.oid), obj_description(c.oid, 'pg_class') FROM pg_class AS c JOIN run_ops.routed_table AS t ON t.view = c.oid
		UNION ALL SELECT tgrelid::regclass::text, pg_get_triggerdef(oid), tgenabled::text FROM pg_trigger
		           WHERE tgname LIKE 'run\_ops%' AND tgname NOT LIKE 'run\_ops\_replica%'
		UNION ALL SELECT ev_class::regclass::text, pg_get_ruledef(oid), '' FROM pg_rewrite WHERE rulename = 'refuse_on_conflict'
		UNION ALL SELECT ftrelid::regclass::text, (SELECT string_agg(o, ' ' ORDER BY o) FROM unnest(ftoptions) AS o), '' FROM pg_foreign_table
		UNION ALL SELECT attrelid::regclass::text, attname, attfdwoptions::text FROM pg_attribute WHERE attfdwoptions IS NOT NULL
		ORDER BY 1, 2))
	  . "\n" . $node->safe_psql('postgres', '\i test/fixtures/extension_catalog.sql');
}
# pg_dump leaves out triggers for the replica role on views; switching makes them again
my $replica_triggers = q(SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'run\_ops\_replica%' AND tgenabled = 'R');
is($control_plane->safe_psql('postgres', $replica_triggers), '9', 'three triggers of each view are for the replica role');
my ($rows, $catalog) = (answers($control_plane), catalog($control_plane));

sub upgraded
{
	my ($old) = @_;
	my $new = PostgreSQL::Test::Cluster->new('new_' . $old->name);
	$new->init;
	my $bindir = $new->config_data('--bindir');
	$old->stop;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $here = `pwd`;
	chomp $here;
	chdir $dir;
	command_ok([ 'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
		'-s', $new->host, '-p', $old->port, '-P', $new->port ], 'pg_upgrade of ' . $old->name);
	chdir $here;
	$new->start;
	return $new;
}

# the store: split goes on as soon as its address is known
my $new_store = upgraded($store);
point_store($control_plane, $new_store->host, $new_store->port);
is(answers($control_plane), $rows, 'the upgraded store has its rows');
is(failing_gates($control_plane), '', 'and every gate holds');

# the control plane
my $new = upgraded($control_plane);
my %facts;
$facts{$_}-- foreach split /\n/, $catalog;
$facts{$_}++ foreach split /\n/, catalog($new);
is_deeply([ grep { $facts{$_} } sort keys %facts ], [], 'the extension, views, triggers and foreign tables are as they were')
  or diag(join "\n", map { "$facts{$_} $_" } grep { $facts{$_} } sort keys %facts);
is($new->safe_psql('postgres', 'SELECT split FROM run_ops.split_status'), 'suspended', 'a new server: split is suspended');
is($new->safe_psql('postgres', "SELECT n FROM run_ops.run WHERE id = '$cuid'"), '1', 'LEGACY ids are read');
my ($ret, $out, $err) = $new->psql('postgres', $queries[0]);
like($err, qr/split mode is suspended.*run_ops\.enable_split\(\) binds/s, 'others are not, and the hint says what to do');
($ret, $out, $err) = $new->psql('postgres', 'SELECT run_ops.enable_split()');
is($ret, 0, 'enabled') or diag($err);
is($new->safe_psql('postgres', $replica_triggers), '9', 'and so are the triggers for the replica role');
is(answers($new), $rows, 'every row is there');
$new->safe_psql('postgres', "UPDATE run_ops.run SET n = 5 WHERE id = '$ksuid'");
$new->safe_psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
is($new->safe_psql('postgres', $queries[0]), "$cuid|1\n$ksuid|5", 'and comes home');

done_testing();
