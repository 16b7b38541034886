# docs/cut-over.md, done: every sql block of the page in its order, on two
# servers; each line of a text block must be among what the sql block before it
# has printed, whatever the width of the columns.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers 'known_gates';
use Test::More;

my $control_plane = PostgreSQL::Test::Cluster->new('control_plane');
my $store = PostgreSQL::Test::Cluster->new('store');
$_->init(allows_streaming => 'logical'), $_->start foreach ($control_plane, $store);
$control_plane->safe_psql('postgres', 'CREATE DATABASE control_plane');
$store->safe_psql('postgres', 'CREATE DATABASE run_ops');
$control_plane->safe_psql('control_plane', "\\i test/fixtures/control_plane.sql\n");
$control_plane->safe_psql('control_plane', "\\set side legacy\n\\set runs 100\n\\i test/fixtures/generate.sql\n");
$store->safe_psql('run_ops', "\\i test/fixtures/store.sql\n");

# The page, as [place, text] and what is expected of it.  :run_id and its like
# live in one psql session, so each server has one background session.
my $page = slurp_file('docs/cut-over.md');
my $address = "host '" . $store->host . "', port '" . $store->port . "'";
my $replaced = $page =~ s/host 'run-ops.example', port '5432'/$address/;
ok($replaced, 'the address of the store');
my @blocks;
push @blocks, [ $1, $2 ] while $page =~ /^```(sql[^\n]*|text)\n(.*?)^```$/msg;
cmp_ok(scalar @blocks, '>', 30, 'the page has blocks');

# What a setting of the whole cluster is to sessions that are open arrives with
# the reload; a new session for each block needs the variables once more.
my %variable;
my $printed = '';
my $write_locks = '';
foreach my $block (@blocks)
{
	my ($place, $text) = @$block;
	my ($first) = $text =~ /^(.*)$/m;
	if ($place eq 'text')
	{
		my %printed = map { squeeze($_) => 1 } split /\n/, $printed;
		my @missing = grep { !matches($_, \%printed) } map { squeeze($_) } split /\n/, $text;
		is_deeply(\@missing, [], "its output: $first") or diag("printed was:\n$printed");
		next;
	}
	my $node = $place =~ /store/ ? $store : $control_plane;
	if ($place =~ /write-locks/)
	{
		my ($example) = $text =~ /^(ALTER .*)$/m;
		like($write_locks, qr/\Q$example\E/, 'the write lock that the page shows');
		$text = $write_locks;
	}
	# privileges on parameters are new in 15
	next if $text =~ /GRANT SET ON PARAMETER/ && $node->pg_version < 15;
	$text = "SET run_ops_split.mint_flip_grace = 0;\n$text" if $place =~ /after-grace/;
	my $gset = "\n" . join('', map { "\\echo variable $_ :$_\n" } qw(run_id));
	my $set = join '', map { "\\set $_ '$variable{$_}'\n" } keys %variable;
	my ($status, $out, $err) = (undef, '', '');
	my @tuples = $place eq 'sql' && $text =~ /store_write_lock/ ? ('-At') : ();
	$status = IPC::Run::run(
		[ 'psql', '-X', @tuples, '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($place =~ /store/ ? 'run_ops' : 'control_plane'), '-f', '-' ],
		'<', \"$set$text$gset", '>', \$out, '2>', \$err);
	ok($status, "runs: $first") or diag($err);
	$variable{$1} = $2 while $out =~ /^variable (\w+) ([^:\s]\S*)$/mg;
	$write_locks = $out =~ s/^variable.*$//mgr if @tuples;
	$printed = $out;
}

# Every gate there is has its line in the table of gates.
my %explained = map { $_ => 1 } $page =~ /^\| `([^`]+)` \|/mg;
my @gates = known_gates($control_plane, 'control_plane');
cmp_ok(scalar @gates, '>=', 30, 'there are gates');
is(join(', ', grep { !$explained{$_} } @gates), '', 'the page explains every gate');

# columns are as wide as their widest value, which a page may leave out
sub squeeze
{
	my ($line) = @_;
	$line =~ s/-+/-/g if $line =~ /^[-+ ]+$/;
	$line =~ s/\s+/ /g;
	$line =~ s/^ | $//g;
	return $line;
}

# a line that ends with "|" goes on in the real output
sub matches
{
	my ($line, $printed) = @_;
	return 1 if $printed->{$line};
	return $line =~ /\|$/ && grep { index($_, $line) == 0 } keys %$printed;
}

done_testing();
