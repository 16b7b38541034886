# A dump of the control-plane database carries what an operator configured:
# the stores, the routed tables and their views.  It does not carry that split
# was on.  That is so for every format of a dump, restored by one process or by
# several, and at any time: while rows that moved are still here, and while rows
# are copied back.  A dump of a part leaves a database that is usable, or says
# what to do.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
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
		  SELECT dblink_exec('new', command) FROM run_ops.same_shape_commands('"TaskRun"') WHERE store = 'new';
		  SELECT command FROM run_ops.same_shape_commands('"TaskRun"') \gexec
		  SELECT run_ops.declare_same_shape('"TaskRun"');
		  INSERT INTO run_ops.mint_shards (active, previous) VALUES ('{a}', '{b}');
		  ALTER TABLE "TaskRun" RENAME TO "Task Run";));

my $registry = q(
	SELECT 'store', name, server, NULL, NULL, NULL, NULL FROM run_ops.store
	UNION ALL
	SELECT 'table', view::text, legacy::text, routing::text, concat_ws(',', route_column, same_shape), key_columns::text, store_table
	  FROM run_ops.routed_table
	UNION ALL
	SELECT 'mint shards', active::text, previous::text, changed_at::text, NULL, NULL, NULL FROM run_ops.mint_shards
	UNION ALL
	SELECT 'copy', view::text, store, foreign_table::text, NULL, NULL, NULL FROM run_ops.routed_store
	ORDER BY 1, 2, 3);
my $views = q(
	SELECT c.oid::regclass, pg_get_viewdef(c.oid), obj_description(c.oid)
	  FROM pg_class c JOIN run_ops.routed_table r ON c.oid = r.view ORDER BY c.oid::regclass::text COLLATE "C");

# Restores a dump into a fresh database; format p is restored by psql, and a
# number is that of the processes.
sub restore
{
	my ($name, $dump, $format, $jobs) = @_;
	$control_plane->safe_psql('postgres', "CREATE DATABASE $name");
	$control_plane->command_ok(
		$format eq 'p' ? [ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $control_plane->connstr($name), '-f', $dump ]
		: [ 'pg_restore', $jobs ? ('-j', $jobs) : (), '--exit-on-error', '-d', $control_plane->connstr($name), $dump ],
		"$name: restore");
	return;
}

# Dumps one database, restores it into a fresh one, and compares.
sub same_after_restore
{
	my ($name, $format, $jobs) = @_;
	$format //= 'c';
	my $dump = $control_plane->backup_dir . "/$name.dump";

	$control_plane->command_ok(
		[ 'pg_dump', "-F$format", '-f', $dump, $control_plane->connstr('regress_dump') ],
		"$name: dump");
	restore($name, $dump, $format, $jobs);
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
same_after_restore("split_off_$_->[0]_" . ($_->[1] // 0), @$_) foreach ([ 'p' ], [ 't' ], [ 'c', 2 ], [ 'd' ], [ 'd', 4 ]);
is($control_plane->safe_psql('split_off', 'SELECT count(*) FROM run_ops."TaskRun"'), '0', 'the restored view works');
$control_plane->safe_psql('split_off', q(SELECT run_ops.detach_table('"Task Run"')));

$control_plane->safe_psql('regress_dump', 'SELECT run_ops.swap_views(true)');
same_after_restore('split_on');
same_after_restore('split_on_parallel', 'd', 2);
# what fires with session_replication_role = replica is in no dump, and comes
# back with the switch
my $replica_triggers = q(SELECT count(*) FROM pg_trigger WHERE tgenabled = 'R');
is($control_plane->safe_psql('regress_dump', $replica_triggers), '48', 'triggers for the replica role');
is($control_plane->safe_psql('split_on', $replica_triggers), '0', 'they are not restored');
is($control_plane->safe_psql('split_on', "SELECT run_ops.swap_views(true); $replica_triggers"), "\n48", 'and made again');
is($control_plane->safe_psql('split_on', q(SELECT * FROM run_ops.same_shape_commands('"Task Run"'))), '', 'the constraint is restored');

# --- small tables, with rows -----------------------------------------------------------

# The copy is bound to the stores of its original here, which then is not in use.
my ($original, $rows_store) = split_servers(prefix => 'rows_');
my ($cuid, $ksuid) = (cuid(1), ksuid(1));
$original->safe_psql('postgres', qq(
	SELECT run_ops.enable_split();
	INSERT INTO run_ops.run (id, n) VALUES ('$cuid', 1); INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 2);
	INSERT INTO run_ops.step VALUES ('s1', '$cuid', 1); INSERT INTO run_ops.step VALUES ('s2', '$ksuid', 2); INSERT INTO run_ops.tag VALUES ('t1', 1);
	INSERT INTO run_ops_new.tag VALUES ('t2', 2)));
my $shown = 'SELECT (SELECT sum(n) FROM run_ops.run), (SELECT sum(n) FROM run_ops.step), (SELECT sum(n) FROM run_ops.tag)';
my $legacy_rows = "SELECT (SELECT sum(n) FROM run_ops.run WHERE run_ops.resides(id, 'legacy'))";
mkdir $original->backup_dir;

# A copy that shall use the stores: its hints say how.
sub usable
{
	my ($db, $what, $expected) = @_;
	is($original->safe_psql($db, 'SELECT split FROM run_ops.split_status'), 'suspended', "$what: suspended");
	my ($ret, $out, $err) = $original->psql($db, $shown);
	my ($use) = $err =~ /HINT: .*use the stores: (SELECT run_ops\.enable_split\(\);)/;
	ok($use, "$what: says what to do") or diag($err);
	$original->safe_psql($db, 'SELECT run_ops.configure_split(opted_in => true, native_realtime => true)');
	($ret, $out, $err) = $original->psql($db, $use);
	if ($ret != 0)
	{
		# the copies that repatriate() has made
		my ($bind, $repeat) = $original->safe_psql($db, q(SELECT hint FROM run_ops.check_split() WHERE gate = 'strays' AND ok IS NOT TRUE LIMIT 1))
		  =~ /: (SELECT run_ops\.trust_standby\(.*\)); .*repeat until done: SELECT \* (FROM run_ops\.\w+\(\))/;
		ok($repeat, "$what: a gate says what is in the way") or diag($err);
		$original->safe_psql($db, $bind);
		$original->safe_psql($db, "DO \$\$ DECLARE complete boolean; BEGIN
			LOOP SELECT done INTO complete $repeat; COMMIT; EXIT WHEN complete; END LOOP; END \$\$");
		$original->safe_psql($db, $use);
	}
	is($original->safe_psql($db, $shown), $expected, "$what: every row is shown");
	$original->safe_psql($db, "INSERT INTO run_ops.run (id, n) VALUES ('" . ksuid(7) . "', 7); DELETE FROM run_ops.run WHERE n = 7");
	is($original->safe_psql($db, q(SELECT count(*) FROM run_ops.check_split() WHERE ok IS NOT TRUE)), '0', "$what: every gate holds");
	is($original->safe_psql($db, q(SELECT count(*) FROM pg_trigger WHERE tgname IN ('run_ops_changes'))), '0', "$what: no row is tracked");
	return;
}

sub copies
{
	my ($what, $expected, $alone) = @_;
	foreach my $case ([ 'c', 0 ], [ 'd', 3 ], [ 'p', 0 ])
	{
		my ($format, $jobs) = @$case;
		my $db = "${what}_$format";
		my $dump = $original->backup_dir . "/$db";
		$original->command_ok([ 'pg_dump', "-F$format", '-f', $dump, $original->connstr('postgres') ], "$db: dump");
		$original->safe_psql('postgres', "CREATE DATABASE $db; CREATE DATABASE ${db}_alone");
		foreach my $to ($db, "${db}_alone")
		{
			$original->command_ok($format eq 'p' ? [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $original->connstr($to), '-f', $dump ]
				: [ 'pg_restore', '--exit-on-error', $jobs ? ('-j', $jobs) : (), '-d', $original->connstr($to), $dump ], "$to: restore");
		}
		usable($db, $db, $expected);
		$original->safe_psql("${db}_alone", 'SET client_min_messages = error; SELECT run_ops.disable_split(force => true)');
		is($original->safe_psql("${db}_alone", $shown), $alone, "$db: or only the rows of this database");
		$original->safe_psql("${db}_alone", "INSERT INTO run_ops.run (id, n) VALUES ('" . ksuid(7) . "', 7)");
		is($original->safe_psql("${db}_alone", q(SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%run\_ops%')), '0', "$db: without triggers");
	}
	return;
}

copies('plain', '3|3|3', '1|1|1');
# while rows are copied back
$original->safe_psql('postgres', 'DO $$ BEGIN PERFORM run_ops.repatriate() FROM generate_series(1, 3); END $$') foreach (1 .. 2);
cmp_ok($original->safe_psql('postgres', 'SELECT count(*) FROM run'), '>', 1, 'there are copies');
copies('copying', '3|3|3', '3|3|1');
# with rows that have moved and are still here
$original->safe_psql('postgres', q(SET client_min_messages = error; SELECT run_ops.disable_split(repatriated => true)));
$original->safe_psql('postgres', q(SET client_min_messages = error; SELECT run_ops.enable_split()));
cmp_ok($original->safe_psql('postgres', 'SELECT count(*) FROM run_ops.leftover'), '>', 0, 'there are leftovers');
copies('leftovers', '3|3|3', '1|1|1');

# --- parts ---------------------------------------------------------------------------

# The schema alone has the views, but no registry: attaching takes them over.
sub dump_restore
{
	my ($db, @options) = @_;
	my $dump = $original->backup_dir . '/part';
	$original->command_ok([ 'pg_dump', @options, '-Fc', '-f', $dump, $original->connstr('postgres') ], "pg_dump @options");
	return run_log([ 'pg_restore', '-d', $original->connstr($db), $dump ]);
}

$original->safe_psql('postgres', 'CREATE DATABASE part; CREATE DATABASE base');
ok(dump_restore('part', '--schema-only'), 'the schema alone is restored');
foreach my $query ('SELECT count(*) FROM run_ops.run', "INSERT INTO run_ops.run (id) VALUES ('$cuid')", 'SELECT FROM run_ops_new.run', 'DELETE FROM run_ops_new.run')
{
	my ($ret, $out, $err) = $original->psql('part', $query);
	like($err, qr/HINT: .*attach_table/, "nothing in the store is touched, and it is said what to do: $query");
}
$original->safe_psql('part', q(SET client_min_messages = error; SELECT run_ops.attach_store('new', 'new');
	SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'), run_ops.attach_table('tag', 'store');
	SELECT run_ops.configure_split(opted_in => true, native_realtime => true)));
is($original->safe_psql('part', 'SELECT count(*) FROM run_ops.routed_table'), '3', 'the tables are attached again, with the views that exist');
$original->safe_psql('part', 'SELECT run_ops.enable_split()');
is($original->safe_psql('part', $shown), '2|2|2', 'and show what the store has');

# Then the data, with rows that moved and are still here.
$original->safe_psql('postgres', 'CREATE DATABASE two_steps');
ok(dump_restore('two_steps', '--schema-only'), 'the schema alone once more');
ok(dump_restore('two_steps', '--data-only'), 'and the data alone after it');
usable('two_steps', 'schema, then data', '3|3|3');

# Without the extension, only what names its functions is missing.
ok(!dump_restore('base', '-n', 'public'), 'schema public alone misses what needs the extension');
is($original->safe_psql('base', q(SELECT (SELECT sum(n) FROM run), (SELECT sum(n) FROM step), (SELECT count(*) FROM pg_trigger))), '3|3|0',
	'but its tables are there, with every row that they had');

done_testing();
