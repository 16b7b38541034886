# The application of examples/typescript, as it is: its tests with split off, on
# and off again, beneath one service that is not restarted.  scripts/test has
# put the packages there, or says in a file why it could not.
use strict;
use warnings;
use Cwd qw(getcwd);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my $example = getcwd() . '/examples/typescript';
plan skip_all => 'examples/typescript IS NOT TESTED: ' . slurp_file("$example/not_tested") =~ s/\n//gr
  if -e "$example/not_tested";
die "npm ci failed in examples/typescript\n" . slurp_file("$example/npm_failed") if -e "$example/npm_failed";
plan skip_all => 'examples/typescript IS NOT TESTED: run npm ci in it' if !-d "$example/node_modules";

my %app_env;    # for the application, not for the psql of the tests
sub run_in_example
{
	my (@command) = @_;
	local %ENV = (%ENV, %app_env);
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err, init => sub { chdir $example },
		IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
	diag("@command\n$out$err") if !$ok;
	return ($ok, $out);
}

unlike(slurp_file("$example/package-lock.json"), qr/"resolved"/, 'the lock file names no host');

# its checks for news are none of the test's business
$ENV{CHECKPOINT_DISABLE} = 1;
ok((run_in_example('npm', 'run', 'build'))[0], 'the client is generated, types are right')
  or die 'examples/typescript cannot be built';

# The servers.  The store starts empty, like a new one.
my $control_plane = new_server('control_plane');
my $store = new_server('store');
$store->safe_psql('postgres', "\\i test/fixtures/store.sql\n\\i test/fixtures/run_and_step.sql");
# the schema has no CHECK, and errors of one are tested too
my $check = 'ALTER TABLE "TaskRun" ADD CONSTRAINT "TaskRun_depth_check" CHECK (depth >= 0);';
$store->safe_psql('postgres', $check);
$control_plane->safe_psql('postgres', q(
	SET client_min_messages = warning;
	\set side legacy
	\set runs 40
	\i test/fixtures/control_plane.sql
	\i test/fixtures/generate.sql
	\i test/fixtures/run_and_step.sql
	) . $check . q(
	CREATE EXTENSION run_ops_split CASCADE;
	CREATE ROLE app LOGIN;
	GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app;
	ALTER ROLE app SET run_ops_split.mint_enabled = on;
	ALTER ROLE app SET run_ops_split.mint_flip_grace = 0;)
	  . sprintf(q(CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');),
		$store->host, $store->port) . q(
	CREATE USER MAPPING FOR CURRENT_USER SERVER new;
	SELECT run_ops.attach_store('new', 'new');
	CREATE SCHEMA routed;
	SELECT view FROM run_ops.attach_all_tables(view_schema => 'routed');
	SELECT run_ops.attach_table('run', 'shape', view_schema => 'routed');
	SELECT run_ops.attach_table('step', 'anchor', 'runId', view_schema => 'routed');
	SELECT run_ops.attach_control_plane('public');
	\i examples/typescript/grants.sql
	SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
	SELECT run_ops.acknowledge(gate, object, 'the schemas differ so') FROM run_ops.check_split() WHERE NOT ok;
	UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "runOpsId"}' WHERE slug = 'org-1';));

# the first or the last environment of an organization
sub environment_of
{
	my ($organization, $which) = @_;
	return $control_plane->safe_psql('postgres', qq(
		SELECT $which(e.id) FROM "RuntimeEnvironment" AS e JOIN "Organization" AS o ON o.id = e."organizationId"
		 WHERE o.slug = '$organization'));
}
%app_env = (
	PGHOST => $control_plane->host,
	PGPORT => $control_plane->port,
	PGDATABASE => 'postgres',
	PGUSER => 'app',
	PORT => 0,
	LEGACY_ENV => environment_of('org-0', 'min'),
	NEW_ENV => environment_of('org-1', 'min'),
	LIST_ENV => environment_of('org-1', 'max'),
	SEEN => $control_plane->basedir . '/seen.json');

my ($out, $err) = ('', '');
my $limit = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
my $service = do
{
	local %ENV = (%ENV, %app_env);
	IPC::Run::start([ 'node', 'dist/src/server.js' ], '<', \undef, '>', \$out, '2>', \$err,
		init => sub { chdir $example }, $limit);
};
END { $service->kill_kill if $service }
$service->pump until $out =~ /\n/ || !$service->pumpable;
($app_env{APP_URL}) = $out =~ m{listening on (http://\S+)} or die "the service does not start: $out$err";
$limit->reset;

my $passed;
sub test_with_split
{
	my ($split, $title) = @_;
	$app_env{EXPECT_SPLIT} = $split;
	my ($ok, $tap) = run_in_example('node', '--test', '--test-reporter=tap', glob("$example/dist/test/*.test.js"));
	ok($ok, "the tests of the example, $title");
	my %count = $tap =~ /^# (tests|pass|fail|skipped|todo|cancelled) (\d+)$/mg;
	$passed //= $count{pass};
	cmp_ok($passed, '>', 100, 'there are many');
	is_deeply(\%count, { tests => $passed, pass => $passed, fail => 0, skipped => 0, todo => 0, cancelled => 0 },
		'all of them have passed');
	return;
}

test_with_split('off', 'split off');
is($store->safe_psql('postgres', 'SELECT count(*) FROM "TaskRun"'), '0', 'no run is in the store');
$control_plane->safe_psql('postgres', 'SELECT run_ops.enable_split()');
test_with_split('on', 'split on');
cmp_ok($store->safe_psql('postgres', 'SELECT count(*) FROM "TaskRun"'), '>', 10, 'runs are in the store');
$control_plane->poll_query_until('postgres', 'SELECT done FROM run_ops.repatriate(1000)');
$control_plane->safe_psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
test_with_split('off', 'split off again');

$limit->start;
$service->signal('TERM');
$service->finish;
is($service->result(0), 0, 'the service ends when told to') or diag($err);
undef $service;
# each round of the tests has cut its listener once
is_deeply([ grep { !/^listener: terminating connection due to administrator command$/ } split /\n/, $err ],
	[], 'it has nothing else to complain of');

done_testing();
