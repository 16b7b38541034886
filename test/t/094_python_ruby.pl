# What Django, SQLAlchemy and psycopg2 do, as examples/python/orms.py has it, and
# ActiveRecord, as examples/ruby/active_record.rb has it, with split off, on and
# off again.  scripts/test has looked for the packages.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my $ruby = $ENV{RUN_OPS_RUBY} // 'ruby';
my %examples = (
	'examples/python/orms.py' => [ 'python3', '-c', 'import django, sqlalchemy, psycopg2' ],
	'examples/ruby/active_record.rb' => [ $ruby, '-e', 'gem "pg"; require "active_record"' ]);
my (@tested, @missing);
foreach my $example (sort keys %examples)
{
	my $found = eval { IPC::Run::run($examples{$example}, '>', \my $out, '2>', \my $err) };
	push @{ $found ? \@tested : \@missing }, $example;
}
plan skip_all => "@missing ARE NOT TESTED: packages are missing" if !@tested;
note "$_ IS NOT TESTED: packages are missing" foreach @missing;

my ($control_plane, $store) = (new_server('control_plane'), new_server('store'));
$_->safe_psql('postgres', '\i test/fixtures/run_and_step.sql') foreach ($control_plane, $store);
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
	foreach my $example (@tested)
	{
		my ($out, $err) = ('', '');
		my $ok = IPC::Run::run([ $examples{$example}->[0], $example, $split, $first += 1000 ], '<', \undef, '>', \$out, '2>', \$err,
			IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
		ok($ok, "$example, $title: all is tried") or diag($err);
		my @works = $out =~ /^ok - /mg;
		is(join("\n", $out =~ /^(not ok.*)/mg), '', "$example, $title: each as expected");
		cmp_ok(scalar @works, '>=', 18, "$example, $title: there are many");
	}
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
