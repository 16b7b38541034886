# A hot standby of the control plane reads through the views what the primary
# reads and follows every change of mode; promoted, it goes on with all rows
# and both stores.  The store itself fails over to its replica; a replica in
# the place of a store is refused, and its writes fail clearly.
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
	INSERT INTO "Organization" (id, slug, title, "updatedAt", "featureFlags") VALUES ('org', 'o', 'o', now(), '{"runOpsMintKind": "ksuid"}');
	INSERT INTO "Project" (id, name, "organizationId", "updatedAt", slug, "externalRef") VALUES ('project', 'p', 'org', now(), 'p', 'p');
	INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode)
	  VALUES ('env', 'e', 'e', 'org', now(), 'project', 'e', 'e');
	ALTER DATABASE postgres SET run_ops_split.mint_enabled = on;
	SET client_min_messages = warning;
	SELECT run_ops.attach_control_plane('public');
	DO $$ BEGIN PERFORM run_ops.acknowledge(gate, object, 'other tables of the fixture')
	  FROM run_ops.check_split() WHERE NOT ok AND gate = 'attached'; END $$));
$control_plane->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($control_plane, 'base', has_streaming => 1);
$standby->start;
my $identity = $standby->safe_psql('postgres', 'SELECT run_ops.server_identity()');
$control_plane->safe_psql('postgres', "SELECT run_ops.trust_standby('$identity')");

# What every session reads, on the primary and on the standby: one store, the
# other, both, all of a table without a shape, a function of each kind.
my @reads = (
	"SELECT n FROM run_ops.run WHERE id = '$cuid'", "SELECT n FROM run_ops.run WHERE id = '$ksuid'",
	'SELECT id, n FROM run_ops.run ORDER BY n DESC, id LIMIT 3', 'SELECT r.id, s.n FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id ORDER BY 1',
	'SELECT * FROM run_ops.tag ORDER BY id', 'SELECT run_ops.split_enabled(), split, reason FROM run_ops.split_status',
	"SELECT run_ops.locate('run_ops.run', '$cuid'), run_ops.locate('run_ops.run', '$ksuid')",
	q(SELECT maximum_concurrency_limit, (project).name FROM run_ops.resolve_authenticated_env('env')), q(SELECT run_ops.resolve_mint_kind('env')));

# one session each, whose caches and plans live on
my $following = $standby->background_psql('postgres');
my $leading = $control_plane->background_psql('postgres');
$_->query_safe('SET plan_cache_mode = force_generic_plan') foreach ($leading, $following);
sub follows
{
	my ($what) = @_;
	$control_plane->wait_for_catchup($standby);
	is(join("\n", map { $following->query_safe($_) } @reads), join("\n", map { $leading->query_safe($_) } @reads), "standby: $what");
	return;
}

follows('split off');
my @changes = (
	"INSERT INTO run_ops.run (id, n) VALUES ('$cuid', 1); INSERT INTO run_ops.step VALUES ('s1', '$cuid', 1); INSERT INTO run_ops.tag VALUES ('t', 1)",
	'SELECT run_ops.enable_split()',
	"INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 2); INSERT INTO run_ops.step VALUES ('s2', '$ksuid', 2)",
	q(UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 77), q(UPDATE "Project" SET name = 'renamed'),
	q(UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "cuid"}'),
	"UPDATE run_ops.run SET n = 3 WHERE id = '$ksuid'; DELETE FROM run_ops.step WHERE id = 's1'",
	'DO $$ BEGIN PERFORM run_ops.repatriate() FROM generate_series(1, 4); END $$',
	'SELECT run_ops.disable_split(repatriated => true)', "UPDATE run_ops.run SET n = 4 WHERE id = '$ksuid'",
	'SELECT run_ops.enable_split()');
foreach my $change (@changes)
{
	$control_plane->safe_psql('postgres', $change);
	follows($change);
}
is($following->query_safe($reads[1]), '4', 'with the row of the store');

# a standby writes nothing, into no store
foreach my $write ("INSERT INTO run_ops.run (id) VALUES ('" . ksuid(9) . "')", "UPDATE run_ops.run SET n = 9 WHERE id = '$ksuid'",
	'DELETE FROM run_ops_new.run', "INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 9) ON CONFLICT (id) DO UPDATE SET n = 9", 'SELECT run_ops.repatriate()',
	'SELECT run_ops.disable_split()')
{
	my ($ret, $out, $err) = $standby->psql('postgres', $write);
	isnt($ret, 0, "refused on the standby: $write");
	like($err, qr/in a read-only transaction|during recovery/, 'for that reason');
}
is($store->safe_psql('postgres', 'SELECT string_agg(concat(id, n), \' \') FROM run'), $ksuid . '4', 'the store is as it was');
like(failing_gates($standby), qr/^server: it is a standby/m, 'check_split() says what it is');

# --- a standby that nobody has trusted ------------------------------------------------

$control_plane->backup('later');
my $untrusted = PostgreSQL::Test::Cluster->new('untrusted');
$untrusted->init_from_backup($control_plane, 'later', has_streaming => 1);
$untrusted->start;
my $read = "SELECT n FROM run_ops.run WHERE id = '$ksuid'";
my ($ret, $out, $err) = $untrusted->psql('postgres', $read);
my ($hint) = $err =~ /HINT: .*run on its primary: (SELECT run_ops\.trust_standby\('.*'\));/;
ok($hint, 'an untrusted standby says what its primary must do') or diag($err);
is($untrusted->safe_psql('postgres', q{SELECT hint LIKE '%run on its primary: SELECT run\_ops.trust\_standby(%' FROM run_ops.check_split() WHERE gate = 'server'}),
	't', 'and so does the gate');
$control_plane->safe_psql('postgres', $hint);
$control_plane->wait_for_catchup($untrusted);
is($untrusted->safe_psql('postgres', $read), '4', 'the call in the hint makes it read the stores');
# promoted while it was not trusted
$control_plane->safe_psql('postgres', 'UPDATE run_ops.split_state SET identities = identities[1:2]');
$control_plane->wait_for_catchup($untrusted);
$untrusted->promote;
my $write = "UPDATE run_ops.run SET n = n WHERE id = '$cuid'";
($ret, $out, $err) = $untrusted->psql('postgres', $write);
($hint) = $err =~ /HINT: .*should use the stores: (SELECT run_ops\.enable_split\(\));/;
ok($hint, 'promoted, it names another call') or diag($err);
is($untrusted->safe_psql('postgres', q{SELECT hint LIKE '%SELECT run\_ops.enable\_split();' FROM run_ops.check_split() WHERE gate = 'server'}), 't', 'and so does the gate');
$untrusted->safe_psql('postgres', $hint);
is($untrusted->safe_psql('postgres', "$write; $read"), '4', 'which makes it write and read');
$untrusted->stop('immediate');

# --- failover of the control plane ---------------------------------------------------

$control_plane->wait_for_catchup($standby);
my @before = map { $leading->query_safe($_) } @reads;
$control_plane->stop('immediate');
$standby->promote;
is(join("\n", map { $following->query_safe($_) } @reads), join("\n", @before), 'promoted: a session goes on, reading the same');
$standby->safe_psql('postgres', "UPDATE run_ops.run SET n = 5 WHERE id = '$ksuid'; INSERT INTO run_ops.run (id, n) SELECT (run_ops.mint_run_id('env', '$ksuid')).friendly_id, 6");
is($standby->safe_psql('postgres', 'SELECT n FROM run_ops_new.run ORDER BY n'), "5\n6", 'promoted: it writes to the store');
is(failing_gates($standby), '', 'promoted: every gate holds');
$standby->safe_psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
is($standby->safe_psql('postgres', 'SELECT n FROM run ORDER BY n'), "1\n5\n6", 'promoted: every row comes home');
$standby->safe_psql('postgres', 'SELECT run_ops.enable_split()');
$_->quit foreach ($following);
eval { $leading->quit };

# --- a replica of the store -----------------------------------------------------------

$store->append_conf('postgresql.conf', "wal_level = replica\nmax_wal_senders = 5\nhot_standby = on\n");
$store->restart;
$store->backup('base');
my $replica = PostgreSQL::Test::Cluster->new('replica');
$replica->init_from_backup($store, 'base', has_streaming => 1);
$replica->start;

# in the store's place: it can be read, and is as far behind as it is
point_store($standby, $replica->host, $replica->port);
like(failing_gates($standby), qr/^writable new: it is a standby$/m, 'a replica in the place of the store is reported');
is($standby->safe_psql('postgres', "SELECT n FROM run_ops.run WHERE id = '$ksuid'"), '5', 'it is read');
($ret, $out, $err) = $standby->psql('postgres', "UPDATE run_ops.run SET n = 7 WHERE id = '$ksuid'");
like($err, qr/cannot execute UPDATE in a read-only transaction/, 'a write fails clearly');
($ret, $out, $err) = $standby->psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
is($ret, 0, 'the way home does not write to the store') or diag($err);
($ret, $out, $err) = $standby->psql('postgres', 'SELECT run_ops.enable_split()');
like($err, qr/cannot enable split mode.*writable new: it is a standby/s, 'and split does not go on with it');

# both named, the writable one meant: the server follows a failover
my ($hosts, $ports) = (join(',', $store->host, $replica->host), join(',', $store->port, $replica->port));
$standby->safe_psql('postgres', qq(ALTER SERVER new OPTIONS (SET host '$hosts', SET port '$ports', ADD target_session_attrs 'read-write');
	SELECT run_ops.enable_split(); UPDATE run_ops.run SET n = 7 WHERE id = '$ksuid'));
$store->wait_for_catchup($replica);
my $session = $standby->background_psql('postgres', on_error_stop => 0);
is($session->query("SELECT n FROM run_ops.run WHERE id = '$ksuid'"), '7', 'before the failover of the store');
$store->stop('immediate');
$replica->promote;
is($session->query("SELECT n FROM run_ops.run WHERE id = '$ksuid'"), '7', 'after it, in the same session');
$session->query("UPDATE run_ops.run SET n = 8 WHERE id = '$ksuid'");
is($replica->safe_psql('postgres', "SELECT n FROM run WHERE id = '$ksuid'"), '8', 'and it writes there');
is(failing_gates($standby), '', 'every gate holds');
$session->quit;

done_testing();
