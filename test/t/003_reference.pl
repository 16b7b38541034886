# docs/reference.md is what the catalog gives, nothing is undocumented, and no
# link leads nowhere.
# That every object has a comment is tested in sql/catalog.sql.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('control_plane');
$node->init;
$node->start;
$node->safe_psql('postgres', 'SET client_min_messages = warning; CREATE EXTENSION run_ops_split CASCADE');

my $made = PostgreSQL::Test::Utils::tempdir . '/reference.md';
my $difference;
ok(IPC::Run::run(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', 'scripts/reference.sql' ], '>', $made),
	'the reference is made');
IPC::Run::run([ 'diff', '-u', 'docs/reference.md', $made ], '>', \$difference);
is($difference, '', 'docs/reference.md is what the catalog gives; make reference makes it anew');

is($node->safe_psql('postgres', q(
	SELECT format('%s.%s', c.relname, a.attname)
	  FROM pg_depend AS d JOIN pg_extension AS e ON d.refobjid = e.oid AND e.extname = 'run_ops_split'
	  JOIN pg_class AS c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass AND c.relkind = 'r'
	  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	 WHERE d.deptype = 'e' AND col_description(c.oid, a.attnum) IS NULL
	 ORDER BY 1)), '', 'every column of a table has a comment');
is($node->safe_psql('postgres', q(
	LOAD 'run_ops_split';
	SELECT name FROM pg_settings WHERE name LIKE 'run\_ops\_split.%' AND coalesce(short_desc, '') = '')),
	'', 'every setting has a description');

# the SQLSTATEs that the sources raise, against those that are explained
my %raised;
foreach my $source (glob('src/*/*.sql src/*/*.h'))
{
	foreach my $line (split /\n/, slurp_file($source))
	{
		$raised{"RO$1"} = 1 if $line =~ /ERRCODE = 'RO(\d{3})'/;
		$raised{"RO$1$2$3"} = 1 if $line =~ /MAKE_SQLSTATE\('R', 'O', '(\d)', '(\d)', '(\d)'\)/;
	}
}
foreach my $page ('docs/reference.md', 'docs/operating.md')
{
	my %explained = map { $_ => 1 } slurp_file($page) =~ /^\| `(RO\d{3})` \|/mg;
	is_deeply([ sort keys %explained ], [ sort keys %raised ], "$page explains every SQLSTATE");
}

# links of the pages lead somewhere: files are there, and so are headings
sub headings
{
	my ($page) = @_;
	return map { s/[^\w\- ]//gr =~ s/ /-/gr } map { lc } slurp_file($page) =~ /^#+ (.*)$/mg;
}
foreach my $page (glob('*.md docs/*.md examples/*/README.md'))
{
	my ($folder) = $page =~ m{^(.*/)?};
	my @broken;
	foreach my $link (slurp_file($page) =~ /\]\(([^)\s]+)\)/g)
	{
		next if $link =~ /^https?:/;
		my ($file, $heading) = split /#/, $link, 2;
		my $target = length $file ? ($folder // '') . $file : $page;
		# a heading is asked for in pages only
		push @broken, $link
		  if !-e $target || defined $heading && !grep { $_ eq $heading } headings(-d $target ? "$target/README.md" : $target);
	}
	is_deeply(\@broken, [], "links of $page");
}

done_testing();
