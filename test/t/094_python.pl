# The statements of Django, SQLAlchemy and psycopg2, as examples/python/orms.py
# makes them, with split off, on and off again.  scripts/test has looked for the
# packages.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

plan skip_all => 'examples/python IS NOT TESTED: Django, SQLAlchemy or psycopg2 is missing'
  if !IPC::Run::run([ 'python3', '-c', 'import django, sqlalchemy, psycopg2' ], '>', \my $version, '2>', \my $missing);

my ($control_plane, $store) = (new_server('control_plane'), new_server('store'));
my $tables = q(
	CREATE TABLE run (id text PRIMARY KEY, note text, n int NOT NULL DEFAULT 0, at timestamptz DEFAULT now());
	CREATE TABLE step (id text PRIMARY KEY, "runId" text REFERENCES run ON DELETE CASCADE, n int););
$_->safe_psql('postgres', $tables) foreach ($control_plane, $store);
$control_plane->safe_psql('postgres', sprintf(q(
	SET client_min_messages = warning;
	CREATE EXTENSION run_ops_split CASCADE;
	CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');), $store->host, $store->port) . q(
	CREATE USER MAPPING FOR CURRENT_USER SERVER new;
	CREATE SCHEMA routed;
	SELECT run_ops.attach_store('new', 'new'), run_ops.attach_table('run', 'shape', view_schema => 'routed'),
	       run_ops.attach_table('step', 'anchor', 'runId', view_schema => 'routed');
	SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
	CREATE ROLE app LOGIN;
	GRANT USAGE ON SCHEMA routed TO app;
	GRANT SELECT, INSERT, UPDATE, DELETE ON routed.run, routed.step TO app));

my $first = 0;
sub try_with_split
{
	my ($split, $title) = @_;
	local %ENV = (%ENV, PGHOST => $control_plane->host, PGPORT => $control_plane->port, PGDATABASE => 'postgres',
		PGUSER => 'app', PYTHONDONTWRITEBYTECODE => 1);
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'python3', 'examples/python/orms.py', $split, $first += 1000 ], '<', \undef, '>', \$out, '2>', \$err,
		IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
	ok($ok, "$title: all is tried") or diag($err);
	my @works = $out =~ /^ok - /mg;
	is(join("\n", $out =~ /^(not ok.*)/mg), '', "$title: each as expected");
	cmp_ok(scalar @works, '>', 30, "$title: there are many");
	return;
}

try_with_split('off', 'split off');
$control_plane->safe_psql('postgres', 'SELECT run_ops.enable_split()');
try_with_split('on', 'split on');
cmp_ok($store->safe_psql('postgres', 'SELECT count(*) FROM run'), '>', 10, 'rows are in the store');
$control_plane->poll_query_until('postgres', 'SELECT done FROM run_ops.repatriate(1000)');
$control_plane->safe_psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
try_with_split('off', 'split off again');

done_testing();
