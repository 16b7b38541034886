# ALTER EXTENSION UPDATE from every released version gives what CREATE EXTENSION
# gives: the same objects, definitions, comments and privileges.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# a release that was not frozen could not be upgraded from
my ($version) = slurp_file('run_ops_split.control') =~ /^default_version = '(.*)'$/m;
my @released = grep { $_ ne $version } slurp_file('CHANGELOG.md') =~ /^## (\d+\.\d+\.\d+) \((?!unreleased)/mg;
my @frozen = map { m{--([\d.]+)\.sql$} } grep { !/--.*--/ } glob 'upgrade/run_ops_split--*.sql';
is_deeply([ sort @frozen ], [ sort @released ], 'every release before this version is frozen in upgrade/');

my $node = PostgreSQL::Test::Cluster->new('control_plane');
$node->init;
$node->start;

# What an extension consists of, line by line, without what numbers objects.
my $contents = q(
	SET search_path = pg_catalog;
	CREATE TEMP VIEW member AS
	  SELECT d.classid, d.objid FROM pg_depend AS d JOIN pg_extension AS e ON d.refobjid = e.oid AND e.extname = 'run_ops_split'
	   WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass;
	SELECT line FROM (
	  SELECT concat_ws(' | ', pg_describe_object(classid, objid, 0), obj_description(objid, classid::regclass::name)) FROM pg_temp.member
	  UNION ALL
	  SELECT concat_ws(' | ', p.oid::regprocedure, p.proacl,
	           CASE WHEN p.prokind = 'a' THEN '' ELSE pg_get_functiondef(p.oid) END)
	    FROM pg_temp.member JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND p.oid = objid
	  UNION ALL
	  SELECT concat_ws(' | ', c.oid::regclass, c.relkind, c.relacl, c.oid = ANY (e.extconfig), pg_get_viewdef(c.oid))
	    FROM pg_temp.member JOIN pg_class AS c ON classid = 'pg_class'::regclass AND c.oid = objid,
	         pg_extension AS e WHERE e.extname = 'run_ops_split'
	  UNION ALL
	  SELECT concat_ws(' | ', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
	           pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))
	    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	    LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
	   WHERE c.relnamespace = 'run_ops'::regnamespace AND c.relkind IN ('r', 'v', 'c')
	  UNION ALL
	  SELECT concat_ws(' | ', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
	    FROM pg_constraint AS k WHERE k.connamespace = 'run_ops'::regnamespace
	  UNION ALL
	  SELECT concat_ws(' | ', t.oid::regtype, e.enumlabel)
	    FROM pg_type AS t JOIN pg_enum AS e ON e.enumtypid = t.oid WHERE t.typnamespace = 'run_ops'::regnamespace
	) AS described (line) ORDER BY line COLLATE "C");

sub contents
{
	my ($database, @statements) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, join ';', 'SET client_min_messages = warning', @statements);
	return $node->safe_psql($database, $contents);
}

my $fresh = contents('fresh', 'CREATE EXTENSION run_ops_split CASCADE');
cmp_ok($fresh =~ tr/\n//, '>', 500, 'there is something to compare');
foreach my $from (@frozen)
{
	my $database = "from_$from" =~ tr/./_/r;
	my $upgraded = contents($database, "CREATE EXTENSION run_ops_split VERSION '$from' CASCADE",
		'ALTER EXTENSION run_ops_split UPDATE');
	my %count;
	$count{$_}++ foreach split /\n/, $fresh;
	$count{$_}-- foreach split /\n/, $upgraded;
	is_deeply({ map { $_ => $count{$_} } grep { $count{$_} } keys %count }, {},
		"from $from: nothing is missing (1) or too much (-1)");
}

done_testing();
