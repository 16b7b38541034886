# pg_upgrade takes a control plane and a store over, with split on.  What comes
# out is a new server: it is suspended until split is enabled there again.
# A second database has the first released version of the extension, which is
# updated afterwards.
#
# RUN_OPS_OLD_INSTALL is an older installation that has the extension;
# scripts/test brings it.  Without it the server is upgraded to itself, which
# dumps and restores as any upgrade.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my $old_install = $ENV{RUN_OPS_OLD_INSTALL};
my ($cuid, $ksuid) = (cuid(1), ksuid(1));

# a control plane and its store, all attached, split on
sub prepare
{
	my ($control_plane, $database) = @_;
	$control_plane->safe_psql($database, q(
	\set side legacy
	\set orgs 1
	\set runs 20
	\i test/fixtures/control_plane.sql
	\i test/fixtures/generate.sql
	SET client_min_messages = warning;
	SELECT run_ops.attach_control_plane('public'), run_ops.attach_cleanup();
	DO $$ BEGIN PERFORM run_ops.acknowledge(gate, object, 'other tables of the fixture')
	  FROM run_ops.check_split() WHERE NOT ok AND gate = 'attached'; END $$;
	SELECT run_ops.enable_split();));
	$control_plane->safe_psql($database, $_) foreach (
		"INSERT INTO run_ops.run (id, n) VALUES ('$cuid', 1); INSERT INTO run_ops.tag VALUES ('t', 1)",
		"INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 2); INSERT INTO run_ops.step VALUES ('s', '$ksuid', 3)",
		'DO $$ BEGIN PERFORM run_ops.repatriate() FROM generate_series(1, 3); END $$',
		'UPDATE "Organization" SET title = \'before\'');
	return;
}
sub prepared
{
	my @servers = split_servers(allows_streaming => 0, @_);
	prepare($servers[0], 'postgres');
	return @servers;
}
my ($control_plane, $store) = prepared($old_install ? (install_path => $old_install) : ());
diag('pg_upgrade is TESTED FROM THE SAME VERSION ONLY: RUN_OPS_OLD_INSTALL names no older installation') if !$old_install;

my @queries = ('SELECT id, n FROM run_ops.run ORDER BY n', 'SELECT * FROM run_ops.step', 'SELECT * FROM run_ops.tag');
sub answers { my ($node, $database) = @_; return join "\n", map { $node->safe_psql($database // 'postgres', $_) } @queries }
my $environments = 'SELECT id, run_ops.resolve_env(id), run_ops.resolve_authenticated_env(id) FROM "RuntimeEnvironment" ORDER BY id';
my $epoch = q(SELECT epoch FROM run_ops.cache_epoch WHERE scope = 'organization' AND key <> '*');
# the extension, and what it made on the tables: definitions, and rows that it keeps
sub catalog
{
	my ($node, $database) = @_;
	$database //= 'postgres';
	my @facts = split /\n/, $node->safe_psql($database, q(
		SELECT c.oid::regclass::text, replace(pg_get_viewdef(c.oid), E'\n', ' '), obj_description(c.oid, 'pg_class') FROM pg_class AS c JOIN run_ops.routed_table AS t ON t.view = c.oid
		UNION ALL SELECT tgrelid::regclass::text, replace(pg_get_triggerdef(oid), 'note_' || coalesce((SELECT view::oid FROM run_ops.routed_table WHERE legacy = tgrelid), 0), 'note_OID'), tgenabled::text FROM pg_trigger
		           WHERE tgname LIKE 'run\_ops%' AND tgname NOT LIKE 'run\_ops\_replica%'
		UNION ALL SELECT ev_class::regclass::text, pg_get_ruledef(oid), '' FROM pg_rewrite WHERE rulename = 'refuse_on_conflict'
		UNION ALL SELECT ftrelid::regclass::text, (SELECT string_agg(o, ' ' ORDER BY o) FROM unnest(ftoptions) AS o), '' FROM pg_foreign_table
		UNION ALL SELECT attrelid::regclass::text, attname, attfdwoptions::text FROM pg_attribute WHERE attfdwoptions IS NOT NULL
		ORDER BY 1, 2))
	  . "\n" . $node->safe_psql($database, '\i test/fixtures/extension_catalog.sql');
	my @rows = grep { / \| row \| / } @facts;
	return ([ grep { !/ \| row \| / } @facts ], \@rows);
}
sub same_facts
{
	my ($got, $expected, $name) = @_;
	my %facts;
	$facts{$_}-- foreach @$expected;
	$facts{$_}++ foreach @$got;
	cmp_ok(scalar @$expected, '>', 10, "$name: there are some");
	is_deeply([ map { "$facts{$_} $_" } grep { $facts{$_} } sort keys %facts ], [], $name);
	return;
}
# pg_dump leaves out triggers for the replica role on views; switching makes them again
my $replica_triggers = q(SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'run\_ops\_replica%' AND tgenabled = 'R');
is($control_plane->safe_psql('postgres', $replica_triggers), '9', 'three triggers of each view are for the replica role');
my ($released) = released($control_plane);
split_database($control_plane, $store, 'released', $released);
prepare($control_plane, 'released');
is($control_plane->safe_psql('released', "SELECT count(*) FROM ($epoch) AS e"), '1', "$released: a change has its epoch");
my $rows = answers($control_plane);
my $resolved = $control_plane->safe_psql('postgres', $environments);
my $old_epoch = $control_plane->safe_psql('postgres', $epoch);
my (undef, $kept) = catalog($control_plane);

sub upgraded
{
	my ($old) = @_;
	my $new = PostgreSQL::Test::Cluster->new('new_' . $old->name);
	# both have checksums, or none
	my $checksums = $old->safe_psql('postgres', 'SHOW data_checksums');
	$new->init(no_data_checksums => $checksums eq 'off');
	note(sprintf 'from %s to %s', $old->pg_version, $new->pg_version);
	ok($old->pg_version < $new->pg_version, $old->name . ' is of an older version') if $old_install;
	$old->stop;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $here = `pwd`;
	chomp $here;
	chdir $dir;
	command_ok([ 'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir,
		'-b', $old->config_data('--bindir'), '-B', $new->config_data('--bindir'),
		'-s', $new->host, '-p', $old->port, '-P', $new->port ], 'pg_upgrade of ' . $old->name);
	chdir $here;
	$new->start;
	return $new;
}

my $doubt = 'SELECT run_ops.tracking_gap(false)';
is($control_plane->safe_psql('postgres', $doubt), '', 'what is noted of changed rows is believed');

# the store: split goes on as soon as its address is known
my $new_store = upgraded($store);
point_store($control_plane, $new_store->host, $new_store->port);
point_store($control_plane, $new_store->host, $new_store->port, 'released', 'released');
is(answers($control_plane), $rows, 'the upgraded store has its rows');
is(failing_gates($control_plane), '', 'and every gate holds');
is(answers($control_plane, 'released'), $rows, "also under $released");
like($control_plane->safe_psql('postgres', $doubt), qr/store "new"/, 'its notes of changed rows are believed no more');

# the control plane
my $new = upgraded($control_plane);
my ($definitions, $rows_kept) = catalog($new);
same_facts($rows_kept, $kept, 'what the extension keeps is as it was: stores, routed tables, acknowledgements, state, epochs');
# Versions spell definitions differently.  So they are compared with those of
# servers that were made by this version.
my ($reference) = prepared(prefix => 'reference_');
my ($made) = catalog($reference);
$reference->stop;
same_facts($definitions, $made, 'the extension, views, triggers and foreign tables are as this version makes them');
is($new->safe_psql('postgres', $environments), $resolved, 'environments are resolved as before');
is($new->safe_psql('postgres', "SELECT count(*) FROM ($environments) AS cached; UPDATE \"Organization\" SET title = 'after'; $environments"),
	"10\n" . $resolved =~ s/before/after/gr, 'a change is seen by the session that has the answers cached');
isnt($new->safe_psql('postgres', $epoch), $old_epoch, 'and by those who follow epochs');
is($new->safe_psql('postgres', 'SELECT split FROM run_ops.split_status'), 'suspended', 'a new server: split is suspended');
is($new->safe_psql('postgres', "SELECT n FROM run_ops.run WHERE id = '$cuid'"), '1', 'LEGACY ids are read');
my ($ret, $out, $err) = $new->psql('postgres', $queries[0]);
like($err, qr/split mode is suspended.*should use the stores: SELECT run_ops\.enable_split\(\)/s, 'others are not, and the hint says what to do');
($ret, $out, $err) = $new->psql('postgres', 'SELECT run_ops.enable_split()');
is($ret, 0, 'enabled') or diag($err);
is($new->safe_psql('postgres', $replica_triggers), '9', 'and so are the triggers for the replica role');
is(answers($new), $rows, 'every row is there');

# the other database: what it was in the old server, updated
my $version = q(SELECT extversion FROM pg_extension WHERE extname = 'run_ops_split');
is($new->safe_psql('released', "SELECT split FROM run_ops.split_status; $version"), "suspended\n$released", "$released is suspended too");
$new->safe_psql('released', 'ALTER EXTENSION run_ops_split UPDATE');
same_facts((catalog($new, 'released'))[0], $made, 'updated, everything is as this version makes it');
is($new->safe_psql('released', $environments), $resolved, 'environments are resolved as before');
($ret, $out, $err) = $new->psql('released', $queries[0]);
my ($use) = $err =~ /HINT: .*should use the stores: (SELECT run_ops\.enable_split\(\);)/;
ok($use, 'it is still suspended, and the hint says what to do') or diag($err);
$new->safe_psql('released', $use);
is(answers($new, 'released'), $rows, 'every row is there');
is($new->safe_psql('released', q(SELECT count(*) FROM run_ops.check_split() WHERE ok IS NOT TRUE)), '0', 'and every gate holds');

# both databases come home
foreach my $database ('postgres', 'released')
{
	$new->safe_psql($database, "UPDATE run_ops.run SET n = 5 WHERE id = '$ksuid'");
	$new->safe_psql($database, 'SELECT run_ops.disable_split(repatriated => true)');
	is($new->safe_psql($database, $queries[0]), "$cuid|1\n$ksuid|5", "$database: every row comes home");
}

done_testing();
