# What the resolver needs two servers or listeners for: a dump carries what was
# attached, an applied change is seen, and listeners hear little.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('control_plane');
$node->init(allows_streaming => 'logical');
$node->start;
$node->safe_psql('postgres', q(
\set side legacy
\set orgs 15
\set runs 40
\i test/fixtures/control_plane.sql
\i test/fixtures/generate.sql
CREATE EXTENSION run_ops_split CASCADE;
SELECT run_ops.attach_control_plane('public');
));
my ($env) = split /\n/, $node->safe_psql('postgres', 'SELECT id FROM "RuntimeEnvironment" ORDER BY id LIMIT 1');
my $answer = "SELECT (run_ops.resolve_authenticated_env('$env')).maximum_concurrency_limit";

# A dump carries where the control plane is, and its triggers; no epochs.
$node->safe_psql('postgres', 'UPDATE "Organization" SET title = \'one\' WHERE slug = \'org-1\'');
my $dump = $node->basedir . '/control_plane.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'restore');
is($node->safe_psql('restored', $answer), $node->safe_psql('postgres', $answer), 'the restored resolver answers');
is($node->safe_psql('restored', 'SELECT count(*) FROM run_ops.cache_epoch'), '0', 'epochs are not dumped');
$node->safe_psql('restored', 'UPDATE "Organization" SET title = \'two\' WHERE slug = \'org-1\'');
is($node->safe_psql('restored', 'SELECT scope FROM run_ops.cache_epoch'), 'organization', 'the restored triggers bump');
$node->safe_psql('restored', 'SELECT run_ops.detach_control_plane()');
is($node->safe_psql('restored', q(SELECT count(*) FROM pg_trigger WHERE tgname ~ 'run_ops_epoch')), '0', 'and can be removed');

# A session that has the answer cached sees what an apply worker changes.
my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init(allows_streaming => 'logical');
$subscriber->start;
$subscriber->safe_psql('postgres', q(
\i test/fixtures/control_plane.sql
CREATE EXTENSION run_ops_split CASCADE;
SELECT run_ops.attach_control_plane('public');
DO $$ DECLARE c record; BEGIN
  FOR c IN SELECT conname, conrelid::regclass FROM pg_constraint WHERE contype = 'f' LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid, c.conname);
  END LOOP; END $$;
));
$node->safe_psql('postgres', 'CREATE PUBLICATION p FOR TABLE "Organization", "Project", "RuntimeEnvironment", "OrgMember", "User"');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION \$c\$" . $node->connstr('postgres') . "\$c\$ PUBLICATION p");
$subscriber->wait_for_subscription_sync($node, 's');
my ($in, $out) = ('', '');
my $session = IPC::Run::start([ 'psql', '-XAtq', '-d', $subscriber->connstr('postgres') ], '<', \$in, '>', \$out,
	IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

# Asks the one session, so that its cache is what answers.
sub ask_session
{
	my ($query) = @_;
	$out = '';
	$in .= "$query;\n\\echo done\n";
	$session->pump until $out =~ /done\n/ || !$session->pumpable;
	return $out =~ s/\n?done\n//r;
}
my $before = ask_session($answer);
is(ask_session($answer), $before, 'the subscriber has the answer cached');
$node->safe_psql('postgres', qq(UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 4711 WHERE id = '$env'));
$node->wait_for_catchup('s');
is(ask_session($answer), '4711', 'it sees the applied change');
$node->safe_psql('postgres', qq(DELETE FROM "RuntimeEnvironment" WHERE id = '$env'));
$node->wait_for_catchup('s');
is(ask_session($answer), '', 'and the applied deletion');
$in .= "\\q\n";
$session->finish;

# What listeners hear of one transaction.
sub heard
{
	my ($sql) = @_;
	my ($stdout) = $node->safe_psql('postgres', "LISTEN run_ops_cache;\n$sql;\nSELECT 1");
	return [ $stdout =~ /with payload "([^"]*)"/g ];
}
is_deeply(heard(q(UPDATE "Organization" SET title = 'three' WHERE slug = 'org-1')),
	[ 'organization:' . $node->safe_psql('postgres', q(SELECT id FROM "Organization" WHERE slug = 'org-1')) ],
	'scope and key are named');
is_deeply(heard('UPDATE "RuntimeEnvironment" SET paused = NOT paused'), ['environment:*'], 'one word for a bulk update');
is_deeply(heard('UPDATE "RuntimeEnvironment" SET "pkApiKey" = \'other\' || id'), [], 'none for what no answer contains');
my $many = heard(q(DO $$ DECLARE e text; BEGIN
  FOR e IN SELECT id FROM "RuntimeEnvironment" LOOP
    UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = e;
  END LOOP; END $$));
cmp_ok(scalar(@$many), '<=', 101, 'a bounded number for many statements of one transaction');
is($many->[-1], 'environment:*', 'the last one stands for the rest');
is_deeply(heard('BEGIN; UPDATE "RuntimeEnvironment" SET paused = NOT paused; ROLLBACK'), [], 'none for a rollback');
is_deeply(heard('SET run_ops_split.cache_notify = off; UPDATE "RuntimeEnvironment" SET paused = NOT paused'), [], 'none when off');

done_testing();
